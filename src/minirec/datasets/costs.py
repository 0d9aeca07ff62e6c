"""What the nodes took, for the node that tells it."""

import pandas as pd

from minirec.datasets.files import CSVDataset


class CostsDataset(CSVDataset):
    """The table ``costs``, which is there before anything has run: it is empty then.

    How long something took is no part of what a table is made from, so that a node
    which reads it is not made anew for that. `minirec.hooks.CostHook` gives such a
    node what the present run has taken so far.

    Parameters
    ----------
    filepath : str
        The file.
    load_args, save_args : dict, optional
        Of pandas' reader and writer.
    version : Version, optional
        Set by Kedro where the entry is ``versioned``.
    metadata : dict, optional
        For plugins.
    """

    def load(self) -> pd.DataFrame:
        """Return the table, without a row if nothing has run."""
        if not self._exists():
            from minirec.schemas import Costs

            return Costs.empty()
        return super().load()

    def identity(self) -> dict[str, str]:
        """Say nothing, so that other costs are no other source."""
        return {}

"""The parameters as the project comes with them."""

import json
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.io import AbstractDataset, DatasetError


class BaseParametersDataset(AbstractDataset[Any, dict[str, Any]]):
    """All parameters of one folder of the configuration, whatever a run has; read only.

    Parameters
    ----------
    folder : str
        The folder, such as ``conf/base``; relative to the project.
    metadata : dict, optional
        For plugins.
    """

    def __init__(self, *, folder: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(folder)
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """Return the parameters as plain values, alike however they were written.

        Returns
        -------
        dict
            As `minirec.parameters.plain_parameters` has them; empty without the folder,
            as where the configuration lies elsewhere.
        """
        from minirec.parameters import plain_parameters

        written = self._written()
        return plain_parameters(written) if written else {}

    def identity(self) -> dict[str, str]:
        """Say what the parameters are: comments and the order of files are nothing."""
        from minirec.lineage.code import digest

        return {"content": digest(json.dumps(self._written(), sort_keys=True))}

    def save(self, data: Any) -> None:
        """Raise: the files are written by hand."""
        raise DatasetError(f"{self._folder} is read only: it is written by hand.")

    def _written(self) -> dict[str, Any]:
        if not self._folder.is_dir():
            return {}
        name = self._folder.name
        loader = OmegaConfigLoader(str(self._folder.parent), env=name, base_env=name)
        return loader["parameters"]

    def _exists(self) -> bool:
        # No run makes it, so none should wait for it.
        return True

    def _describe(self) -> dict[str, Any]:
        return {"folder": str(self._folder)}

"""Go over a table in batches, with a progress bar that shows a rate and an estimate."""

from collections.abc import Iterator

import pandas as pd

from minirec.progress import Progress


def batches(
    table: pd.DataFrame, size: int, label: str, unit: str = "prompts"
) -> Iterator[pd.DataFrame]:
    """Yield ``size`` rows at a time; the last batch may be smaller."""
    with Progress(total=len(table), desc=label, unit=f" {unit}", leave=True) as bar:
        for start in range(0, len(table), size):
            batch = table.iloc[start : start + size]
            yield batch
            bar.update(len(batch))

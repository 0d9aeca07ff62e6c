"""Measure what keeping finished batches costs, without a model.

``python benchmarks/map_batches.py`` sends invented prompts of MovieLens' size through
`map_batches` with workers that return at once: four rollouts with their rewards, or a
gradient. It does each twice, as a first run and as one that finds all finished, in
processes of their own. What it prints is what the process that hands out batches needs
beside the workers: prompts a second, bytes on disk and peak memory. The last line is
JSON.
"""

import json
import multiprocessing
import resource
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa

from minirec.execution.map_batches import Work, map_batches
from minirec.execution.params import ExecutionParams
from minirec.execution.parts import in_order
from minirec.policy.workers import matrix_of

ROLLOUTS, TOKENS = 4, 6
LOCAL = ExecutionParams(engine="local", workers=1, gpus_per_worker=0, address=None)


def invented(n: int) -> pd.DataFrame:
    """Return n prompts of some 350 characters, each with 50 items seen before."""
    rng = np.random.default_rng(0)
    words = np.array(["silent", "harbour", "amber", "hollow", "velvet", "winter"])
    text = [" ".join(words[row]) for row in rng.integers(len(words), size=(n, 60))]
    seen = rng.integers(20_000, size=(n, 50)).astype(str)
    return pd.DataFrame(
        {
            "sample_id": np.arange(n),
            "prompt": text,
            "target_item_id": seen[:, 0],
            "seen_item_id": list(seen),
        }
    )


def answering(dimensions: int) -> Work:
    """Return a worker that writes four rollouts, or a gradient of some dimensions."""
    rng = np.random.default_rng(0)

    def answer(batch: pd.DataFrame) -> pa.Table:
        n, ids = len(batch), batch["sample_id"].to_numpy()
        if dimensions:
            flat = rng.standard_normal(n * dimensions, np.float32)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(flat), dimensions)
            return pa.table({"sample_id": ids, "gradient": lists})
        m = n * ROLLOUTS
        return pa.table(
            {
                "sample_id": ids.repeat(ROLLOUTS),
                "rollout": np.tile(np.arange(ROLLOUTS), n),
                "completion": pa.array(["The Silent Harbour of Winter"] * m),
                "token_id": list(rng.integers(49_152, size=(m, TOKENS))),
                "rank": rng.integers(1_000, size=m),
                "reward": rng.random(m),
                "failure": pa.array([None] * m, pa.string()),
            }
        )

    return answer


def measured(n: int, size: int, dimensions: int, folder: Path) -> dict[str, float]:
    """Go over n prompts in batches; return seconds, bytes on disk and peak memory."""
    table = invented(n)
    start = perf_counter()
    tables = map_batches(
        answering,
        {"dimensions": dimensions},
        table,
        batch_size=size,
        key="0" * 16,
        folder=folder,
        label=f"{dimensions} dimensions",
        execution=LOCAL,
    )
    if dimensions:
        rows = len(matrix_of(tables, table["sample_id"])["matrix"])
    else:
        rows = len(in_order(tables)) // ROLLOUTS
    seconds = perf_counter() - start
    if rows != n:
        raise click.ClickException(f"{n - rows} prompts are missing")
    files = [path.stat().st_size for path in folder.rglob("*.parquet")]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "bytes": sum(files) / n, "peak_gb": peak / 1e9}


@click.command()
@click.option("--prompts", "n", default=100_000, show_default=True)
@click.option("--batch-size", "size", default=64, show_default=True)
@click.option("--dimensions", default=4096, show_default=True)
def main(n: int, size: int, dimensions: int) -> None:
    """Print prompts a second, bytes a prompt and peak memory."""
    lines = [
        "| kept | run | prompts/s | bytes a prompt | peak memory, GB |",
        "|---|---|---:|---:|---:|",
    ]
    last: dict[str, Any] = {}
    for kept, width in (("rollouts", 0), ("gradients", dimensions)):
        with tempfile.TemporaryDirectory() as folder:
            for run in ("first", "again"):
                with multiprocessing.get_context("spawn").Pool(1) as process:
                    given = (n, size, width, Path(folder))
                    found = process.apply(measured, given)
                rate = n / found["seconds"]
                lines.append(
                    f"| {kept} | {run} | {rate:,.0f} | {found['bytes']:,.0f} | "
                    f"{found['peak_gb']:.2f} |"
                )
                last[f"{kept}_{run}_per_second"] = round(rate)
                last[f"{kept}_bytes"] = round(found["bytes"])
                last[f"{kept}_{run}_peak_gb"] = round(found["peak_gb"], 2)
    click.echo("\n".join(lines))
    click.echo(json.dumps(last))


if __name__ == "__main__":
    main()

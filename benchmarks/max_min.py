"""Measure max-min selection, beside a plain implementation and on a memory map.

``python benchmarks/select.py`` runs this. It first chooses 1,024 of 10,748 samples with
embeddings of 2,304 numbers, the size of the published selection, by `select_diverse` and
by a plain implementation: unit rows in float32, and for each pick one product of the
matrix with a vector and a minimum in place. The picks must be those of the same in
float64. Then it chooses 10,000 of 1,000,000 rows of 384 numbers from a read-only memory
map, a file of 1.5 GB in a temporary folder. A process of its own does that, of which it
reads RssAnon in /proc/self/status (so on Linux alone) every 5 ms: all memory but pages of
files, which are the map's. Seconds of the plain way are those of its first 20 steps,
times the number of steps.

Neither embeddings nor representativeness were published, so they are drawn: see
`sentence_like` and `published_values`. Beside them, and with the same values, stand
directions drawn uniformly; and the same with equal values, which is the worst case, as
every row is about as good as any other and has to be held against many picks.

It prints medians of three runs (of one run at a million), how many of all N x k cosines
were computed, and as its last line JSON: `speedup` (at the published size), `peak_gb`
(the most of the runs on the map), and `seconds` and `share` of cosines of sentence-like
embeddings on the map.
"""

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from minirec.selection import diversity
from minirec.selection.diversity import select_diverse
from minirec.selection.learnability import gaussian_learnability
from minirec.selection.scaling import min_max

N, K, WIDTH = 10_748, 1_024, 2_304
BLOCK = 10_000  # rows drawn at once
STEPS = 20

# Mean rewards of the published samples: 55% of them never hit the first 1,000.
QUANTILES = {0: 6e-6, 0.55: 6.2e-6, 0.75: 0.0866, 0.9: 0.1409, 0.99: 0.5558, 1: 0.9592}

Blocks = Iterator[NDArray[np.float32]]


def published_values(n: int) -> NDArray[np.float64]:
    """Return learnability + representativeness of n samples.

    Rewards follow the published quantiles, on straight lines between them, and mu is the
    published 0.5. Representativeness is a cosine of many numbers with their mean, by
    min-max: a normal distribution's.
    """
    rng = np.random.default_rng(0)
    rewards = np.interp(rng.random(n), list(QUANTILES), list(QUANTILES.values()))
    return gaussian_learnability(rewards, mu=0.5) + min_max(rng.normal(size=n))


def equal_values(n: int) -> NDArray[np.float64]:
    """Return n ones."""
    return np.ones(n)


def sentence_like(n: int, width: int) -> Blocks:
    """Draw unit rows that lie as a sentence encoder's do.

    A row is a mean common to all, its topic's direction and one of its own, whose squared
    lengths are 0.32, 0.34 and 0.34. The r-th topic has a share of about r**-0.7, and there
    are a hundred rows to a topic. The variance of a direction falls from axis to axis as
    rank**-0.85. So do, roughly, the prompts and items of the default: cosines of 0.32 to
    0.44 on average with a standard deviation of 0.11 to 0.13, and 0.7 to the nearest of a
    thousand.
    """
    rng = np.random.default_rng(1)
    scale = (np.arange(width, dtype=np.float32) + 2) ** -0.425
    scale /= np.linalg.norm(scale)
    mean = rng.standard_normal(width, np.float32) * scale
    mean /= np.linalg.norm(mean)
    topics = rng.standard_normal((max(1, n // 100), width), np.float32) * scale
    share = np.cumsum(np.arange(1, len(topics) + 1) ** -0.7)
    for first in range(0, n, BLOCK):
        m = min(BLOCK, n - first)
        topic = np.searchsorted(share, rng.random(m) * share[-1])
        rows = rng.standard_normal((m, width), np.float32) * scale
        rows += topics[topic]
        rows *= np.float32(0.34**0.5)
        rows += np.float32(0.32**0.5) * mean
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def uniform(n: int, width: int) -> Blocks:
    """Draw directions uniformly."""
    rng = np.random.default_rng(1)
    for first in range(0, n, BLOCK):
        rows = rng.standard_normal((min(BLOCK, n - first), width), np.float32)
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


CASES: dict[str, tuple[Callable[[int, int], Blocks], Callable[[int], NDArray]]] = {
    "like sentences": (sentence_like, published_values),
    "uniform": (uniform, published_values),
    "uniform, equal values": (uniform, equal_values),
}


def plain(embeddings: NDArray, values: NDArray, k: int, dtype: type) -> NDArray:
    """Choose k rows by every cosine."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = (embeddings / length).astype(dtype, copy=False)
    values = values.astype(dtype)
    picks = np.empty(k, np.int64)
    picks[0] = values.argmax()
    distance = np.full(len(values), np.inf, dtype)
    for step in range(1, k):
        np.minimum(distance, 1 - unit @ unit[picks[step - 1]], out=distance)
        key = values * distance
        key[picks[:step]] = -np.inf
        picks[step] = key.argmax()
    return picks


def timed(function: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Call a function; return its seconds and its result."""
    start = perf_counter()
    result = function(*given)
    return perf_counter() - start, result


def counted(function: Callable[..., Any], *given: Any) -> tuple[int, Any]:
    """Call a function; return how many cosines `select_diverse` took, and its result."""
    cosines, count = diversity._cosines, 0

    def count_cosines(rows: NDArray, centres: NDArray, size: int) -> NDArray:
        nonlocal count
        count += len(rows) * len(centres)
        return cosines(rows, centres, size)

    diversity._cosines = count_cosines
    try:
        result = function(*given)
        return count, result
    finally:
        diversity._cosines = cosines


def at_published_size(case: str, repeats: int) -> tuple[float, float, float]:
    """Return seconds of both ways and the share of cosines that ours takes."""
    draw, worth = CASES[case]
    embeddings, values = np.concatenate(list(draw(N, WIDTH))), worth(N)
    right = plain(embeddings.astype(np.float64), values, K, np.float64)
    both: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        both[0].append(timed(plain, embeddings, values, K, np.float32)[0])
        seconds, picks = timed(select_diverse, embeddings, values, K)
        both[1].append(seconds)
        if not np.array_equal(picks, right):
            raise click.ClickException(f"{case}: not the picks of float64")
    count, _ = counted(select_diverse, embeddings, values, K)
    return median(both[0]), median(both[1]), count / N / K


def anonymous() -> int:
    """Return this process' bytes of memory, without pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def on_a_map(path: Path, values: NDArray, k: int) -> tuple[float, float, float]:
    """Choose k rows of the file; return seconds, share of cosines and peak memory."""
    embeddings = np.load(path, mmap_mode="r")
    peak, done = anonymous(), Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous())

    watcher = Thread(target=watch)
    watcher.start()
    count, (seconds, _) = counted(timed, select_diverse, embeddings, values, k)
    done.set()
    watcher.join()
    return seconds, count / len(values) / k, peak / 1e9


def plain_on_a_map(path: Path, values: NDArray, k: int) -> float:
    """Return the seconds that k steps of the plain way would take."""
    unit = np.load(path, mmap_mode="r")
    start, distance = perf_counter(), np.full(len(values), np.inf, np.float32)
    values, row = values.astype(np.float32), int(values.argmax())
    for _ in range(STEPS):
        np.minimum(distance, 1 - unit @ unit[row], out=distance)
        row = int((values * distance).argmax())
    return (perf_counter() - start) / STEPS * k


def written(draw: Callable[[int, int], Blocks], n: int, width: int, path: Path) -> None:
    """Write drawn rows to a file, block by block."""
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, width))
    for number, block in enumerate(draw(n, width)):
        rows[number * BLOCK : number * BLOCK + len(block)] = block


def apart(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, given)


@click.command()
@click.option("--rows", "n", default=1_000_000, show_default=True)
@click.option("--picks", "k", default=10_000, show_default=True)
@click.option("--width", default=384, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(n: int, k: int, width: int, repeats: int) -> None:
    """Print seconds, share of cosines and peak memory."""
    lines = [
        "| N | k | d | embeddings | plain, s | ours, s | ratio | cosines | peak, GB |",
        "|---:|---:|---:|:---|---:|---:|---:|---:|---:|",
    ]
    last: dict[str, float] = {}
    peaks = []
    for case in CASES:
        slow, fast, share = at_published_size(case, repeats)
        last.setdefault("speedup", round(slow / fast, 2))
        lines.append(
            f"| {N:,} | {K:,} | {WIDTH:,} | {case} | {slow:.2f} | {fast:.2f} | "
            f"{slow / fast:.1f} | {share:.1%} | |"
        )
    for case, (draw, worth) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "embeddings.npy"
            written(draw, n, width, path)
            fast, share, peak = apart(on_a_map, path, worth(n), k)
            slow = apart(plain_on_a_map, path, worth(n), k)
        peaks.append(peak)
        last.setdefault("seconds", round(fast, 1))
        last.setdefault("share", round(share, 4))
        lines.append(
            f"| {n:,} | {k:,} | {width:,} | {case} | {slow:,.0f} | {fast:.1f} | "
            f"{slow / fast:.1f} | {share:.1%} | {peak:.2f} |"
        )
    click.echo("\n".join(lines))
    click.echo(json.dumps({**last, "peak_gb": round(max(peaks), 2)}))


if __name__ == "__main__":
    main()

"""Show what mu and pruning change on the rewards that MiniRec's authors published.

``python benchmarks/learnability.py FILE`` reads ``train_diff/all_merged_sorted.jsonl``
of the public repository WANGLin0126/MiniRec, gzipped or not: a line a sample,
``{"sample_id", "reward": [4 rollouts], "ndcg": [4 rollouts]}``, in ascending ids. Of a
folder it takes ``released_rewards.jsonl.gz``. ``released_selection_256.json`` beside
it, if there is one, holds their first 256 picks.

For mu 0.5, as published, and mu ``auto`` it prints what follows from the rewards alone:
Spearman's rank correlation of learnability with the mean reward and with the standard
deviation of a sample's rewards, over all samples and over those that ever hit the first
1,000 items. Then it chooses by value and `select_diverse`, as the pipeline does, with
and without pruning, and prints how many of the picks never hit, and what they earn.

The choice needs representativeness and embeddings too, which are drawn, independent of
the reward: representativeness from a normal distribution of mean 0.5 and standard
deviation 0.16, cut off at 0 and 1 (as the first 100 of the published ones are:
``scores/sample_scores.jsonl``, whose rank correlation with the mean reward is -0.01),
embeddings from an isotropic normal distribution of few dimensions. Each figure is the
mean of the draws, with the least and the largest of them. How near the drawn come to
the published picks, the row of mu 0.5 without pruning says beside those.

The last line is JSON.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd

from minirec.columns import KEPT
from minirec.selection.diversity import select_diverse
from minirec.selection.learnability import auto_mu, gaussian_learnability
from minirec.selection.pruning import prune_by_reward

SIZES = (256, 512, 1024)
PRUNINGS = {
    "none": {},
    "too_hard: 0.01": {"too_hard": 0.01},
    "min_spread: 0.005": {"min_spread": 0.005},
}


def loaded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards (N, 4) and whether a sample ever hit (N,)."""
    unpacked = gzip.open if path.suffix == ".gz" else open
    with unpacked(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rewards, gains = (np.array([row[x] for row in rows]) for x in ("reward", "ndcg"))
    return rewards, (gains > 0).any(axis=1)


def correlations(
    score: np.ndarray, rewards: np.ndarray, hit: np.ndarray
) -> dict[str, float]:
    """Return how learnability goes with mean and spread, over all and over hits."""
    table = pd.DataFrame(
        {"score": score, "mean": rewards.mean(axis=1), "spread": rewards.std(axis=1)}
    )
    of_all, of_hits = (
        part.corr(method="spearman")["score"] for part in (table, table[hit])
    )
    return {
        "std": score.std(),
        "mean_reward": of_all["mean"],
        "mean_reward_hits": of_hits["mean"],
        "spread": of_all["spread"],
        "spread_hits": of_hits["spread"],
    }


def drawn_picks(
    score: np.ndarray, kept: np.ndarray, draws: int, dimensions: int
) -> Iterator[np.ndarray]:
    """Yield the picks of each draw of representativeness and embeddings."""
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        alike = rng.normal(0.5, 0.16, size=len(score)).clip(0, 1)
        embeddings = rng.normal(size=(len(score), dimensions)).astype(np.float32)
        rows = np.flatnonzero(kept)
        value = (score + alike)[rows]
        yield rows[select_diverse(embeddings[rows], value, max(SIZES))]


def measured(
    picks: list[np.ndarray], rewards: np.ndarray, hit: np.ndarray
) -> dict[str, list[float]]:
    """Return mean, least and largest of what each draw's picks are like."""
    mean, spread = rewards.mean(axis=1), rewards.std(axis=1)
    found = {
        **{f"never_{k}": [1 - hit[rows[:k]].mean() for rows in picks] for k in SIZES},
        "mean_reward": [mean[rows].mean() for rows in picks],
        "spread": [spread[rows].mean() for rows in picks],
    }
    return {
        name: [float(np.mean(each)), float(min(each)), float(max(each))]
        for name, each in found.items()
    }


def told(figures: list[float], percent: bool) -> str:
    """Write a mean and its range."""
    mean, low, high = (f"{x:.1%}" if percent else f"{x:.3f}" for x in figures)
    return mean if low == high else f"{mean} [{low}, {high}]"


@click.command()
@click.argument(
    "path", type=click.Path(exists=True, path_type=Path), envvar="MINIREC_REFERENCE"
)
@click.option("--draws", default=50, show_default=True)
@click.option("--dimensions", default=3, show_default=True, help="Of the embeddings.")
def main(path: Path, draws: int, dimensions: int) -> None:
    """Print what mu and pruning change, given PATH (by default what MINIREC_REFERENCE names)."""
    if path.is_dir():
        path = path / "released_rewards.jsonl.gz"
    rewards, hit = loaded(path)
    mean, spread = rewards.mean(axis=1), rewards.std(axis=1)
    scores = {
        "0.5": gaussian_learnability(mean),
        "auto": gaussian_learnability(mean, mu="auto"),
    }
    summary = {
        "samples": len(mean),
        "never": round(1 - hit.mean(), 3),
        "auto": round(auto_mu(mean), 3),
        "draws": draws,
        "dimensions": dimensions,
    }
    click.echo(
        f"{len(mean):,} samples, of which {1 - hit.mean():.1%} never hit; mu auto is "
        f"{auto_mu(mean):.4f}\n"
    )
    columns = ["std", "mean reward", "of hits", "spread", "of hits"]
    click.echo(f"| mu | {' | '.join(columns)} |\n|:---|" + "---:|" * len(columns))
    for mu, score in scores.items():
        figures = correlations(score, rewards, hit)
        click.echo(f"| {mu} | {' | '.join(f'{x:.3f}' for x in figures.values())} |")
        summary |= {f"{mu} {name}": round(x, 3) for name, x in figures.items()}

    columns = [*(f"never hit of {k:,}" for k in SIZES), "mean reward", "spread"]
    head = f"| mu | pruning | left | {' | '.join(columns)} |"
    click.echo(f"\n{head}\n|:---|:---|" + "---:|" * (1 + len(columns)))
    published = path.with_name("released_selection_256.json")
    if published.exists():
        rows = json.loads(published.read_text())["selected_256"]
        share = 1 - hit[rows].mean()
        summary["published never_256"] = round(share, 3)
        cells = f"{share:.1%} |" + " |" * (len(columns) - 1)
        click.echo(f"| 0.5 | none, the published picks | {len(mean):,} | {cells}")
    for pruning, limits in PRUNINGS.items():
        kept = prune_by_reward(mean, spread, **limits) == KEPT
        for mu, score in scores.items():
            picks = list(drawn_picks(score, kept, draws, dimensions))
            found = measured(picks, rewards, hit)
            cells = [told(x, name.startswith("never")) for name, x in found.items()]
            click.echo(f"| {mu} | {pruning} | {kept.sum():,} | {' | '.join(cells)} |")
            summary |= {
                f"{mu} {pruning} {name}": round(x[0], 3) for name, x in found.items()
            }
    click.echo(json.dumps(summary))


if __name__ == "__main__":
    main()

"""Measure what adaptive probing saves, and what of the scores it keeps.

``python benchmarks/adaptive_probing.py``, after ``kedro run --to-nodes probe_rewards
--params score.probe.rollouts=16`` (or 32), takes the rewards of a project that was
probed in full. It replays `score.probe.adaptive` on them, round by round, as a sample's
adaptive rollouts are the first of its full ones. Beside each setting stands fixed
probing, of the same number of rollouts on every prompt: the mean that adaptive probing
took, rounded up.

It prints, for the setting given and for some around it, the share of rollouts saved and
how far the outcome is that of full probing: Spearman's rank correlation of the mean
rewards and of learnability, and the share of samples on which pruning decides alike.
Full probing shares its rollouts with both, and wholly with a sample that is never
settled. With ``--most`` below the rollouts of the table, the columns ``others`` have the
rank correlation with the mean of those beyond, which nobody has seen.

The last line is JSON: the figures of the setting given.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from minirec.columns import KEPT, REWARD, ROLLOUT, SAMPLE_ID, SPLIT, TRAIN
from minirec.policy.adaptive import AdaptiveParams, rounds
from minirec.selection.learnability import gaussian_learnability
from minirec.selection.pruning import prune_by_reward

PROJECT = Path(__file__).parents[1]


def loaded(env: str | None) -> tuple[np.ndarray, Any]:
    """Return the pool's rewards (prompts, rollouts) and the checked parameters."""
    bootstrap_project(PROJECT)
    with KedroSession.create(project_path=PROJECT, env=env) as session:
        context = session.load_context()
        prompts, table = map(context.catalog.load, ("prompts", "rewards"))
        from minirec.parameters import check_parameters

        params = check_parameters(context.config_loader["parameters"])
    pool = prompts.loc[prompts[SPLIT] == TRAIN, SAMPLE_ID]
    rewards = table[table[SAMPLE_ID].isin(pool)].pivot_table(
        index=SAMPLE_ID, columns=ROLLOUT, values=REWARD
    )
    if rewards.isna().any(axis=None):
        raise click.ClickException(
            "the table rewards has fewer rollouts of some samples: probe in full, with "
            "score.probe.adaptive null"
        )
    return rewards.to_numpy(), params


def replay(rewards: np.ndarray, adaptive: AdaptiveParams) -> np.ndarray:
    """Return how many of its rollouts each prompt would be given, (N,)."""
    counts = np.zeros(len(rewards), dtype=int)
    rows = np.arange(len(rewards))
    for numbers in rounds(rewards.shape[1], adaptive):
        counts[rows] = numbers.stop
        rows = rows[~adaptive.settled(rewards[rows, : numbers.stop])]
    return counts


def outcome(rewards: np.ndarray, counts: np.ndarray, params: Any) -> pd.DataFrame:
    """Return mean reward, learnability and whether it is kept, by the first rollouts."""
    taken = np.arange(rewards.shape[1]) < counts[:, None]
    mean = rewards.mean(axis=1, where=taken)
    std = rewards.std(axis=1, where=taken)
    reasons = prune_by_reward(mean, std, **dict(params.select.prune))
    return pd.DataFrame(
        {
            "mean_reward": mean,
            "learnability": gaussian_learnability(
                mean, **params.score.learnability.model_dump()
            ),
            "kept": reasons == KEPT,
        }
    )


def agreement(
    found: pd.DataFrame, full: pd.DataFrame, others: np.ndarray | None
) -> dict[str, float]:
    """Compare an outcome with that of full probing, and with rollouts of nobody."""
    figures = {
        name: found[name].corr(full[name], method="spearman")
        for name in ("mean_reward", "learnability")
    }
    figures["pruning"] = (found["kept"] == full["kept"]).mean()
    if others is not None:
        mean = pd.Series(others.mean(axis=1))
        figures["others"] = found["mean_reward"].corr(mean, method="spearman")
    return figures


def measure(
    rewards: np.ndarray, most: int, adaptive: AdaptiveParams, params: Any
) -> dict[str, float]:
    """Return the figures of adaptive probing, and of fixed probing of the same mean."""
    others = rewards[:, most:] if rewards.shape[1] > most else None
    rewards = rewards[:, :most]
    full = outcome(rewards, np.full(len(rewards), most), params)
    counts = replay(rewards, adaptive)
    fixed = int(np.ceil(counts.mean()))
    fixed_outcome = outcome(rewards, np.full(len(rewards), fixed), params)
    return {
        "prompts": len(rewards),
        "most": most,
        "rollouts": int(counts.sum()),
        "saved": 1 - counts.mean() / most,
        **agreement(outcome(rewards, counts, params), full, others),
        "fixed_rollouts": fixed * len(rewards),
        "fixed_saved": 1 - fixed / most,
        **{
            f"fixed_{name}": figure
            for name, figure in agreement(fixed_outcome, full, others).items()
        },
    }


@click.command()
@click.option("--env", help="An environment of the project.")
@click.option(
    "--most", type=int, help="Rollouts of a prompt; by default all there are."
)
@click.option("--first", default=4, show_default=True)
@click.option("--step", default=4, show_default=True)
@click.option("--too-easy", default=0.5, show_default=True)
@click.option("--too-hard", default=0.1, show_default=True)
@click.option("--width", default=0.05, show_default=True)
@click.option("--confidence", default=0.9, show_default=True)
@click.option("--prior-std", default=0.05, show_default=True)
def main(env: str | None, most: int | None, **given: Any) -> None:
    """Print what adaptive probing saves and keeps, in a few settings."""
    rewards, params = loaded(env)
    most = most or rewards.shape[1]
    if not given["first"] <= most <= rewards.shape[1]:
        raise click.ClickException(
            f"--most is {most}: give a number from --first ({given['first']}) to the "
            f"{rewards.shape[1]} rollouts that the table rewards has of each prompt"
        )
    changes: list[dict[str, Any]] = [
        {},
        {"first": 8},
        {"step": 2},
        {"width": 2 * given["width"]},
        {"width": given["width"] / 2},
        {"confidence": 0.8},
        {"confidence": 0.95},
        {"prior_std": given["prior_std"] / 2},
        {"too_easy": None, "too_hard": None},
    ]
    found = [
        (change, measure(rewards, most, AdaptiveParams(**given | change), params))
        for change in changes
    ]
    names = ["saved", "mean_reward", "learnability", "pruning"]
    names += ["others"] if "others" in found[0][1] else []
    columns = [*names, *(f"fixed_{name}" for name in names)]
    lines = [
        f"| setting | {' | '.join(name.replace('_', ' ') for name in columns)} |",
        "|:---|" + "---:|" * len(columns),
    ]
    for change, figures in found:
        setting = ", ".join(f"{name} {value}" for name, value in change.items())
        cells = " | ".join(f"{figures[name]:.3f}" for name in columns)
        lines.append(f"| {setting or 'as given'} | {cells} |")
    click.echo("\n".join(lines))
    figures = found[0][1]
    click.echo(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()

"""MiniRec's reward for completions that another trainer's policy wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path

import pandas as pd

from minirec.columns import SAMPLE_ID, SEEN_ITEM_ID, TARGET_ITEM_ID
from minirec.errors import InputError
from minirec.policy.params import PolicyParams, RankingParams
from minirec.ranking.rewards import weighted_sum
from minirec.types import Matrix, Model

# completions, the target of each, and the items seen before each -> the rewards
Reward = Callable[[Sequence[str], Sequence[str], Sequence[Sequence[str]]], list[float]]


def make_reward(
    items: pd.DataFrame,
    item_embeddings: Matrix,
    encoder_model: Model,
    policy: PolicyParams,
    ranking: RankingParams,
) -> Reward:
    """Return a function that rewards completions as the training of MiniRec does.

    Parameters
    ----------
    items, item_embeddings, encoder_model
        The catalogue, as the datasets of these names hold it.
    policy, ranking
        Parameters: how an answer is read, and what a rank earns.

    Returns
    -------
    callable
        ``f(completions, target_item_id, seen_item_id)`` for N completions, the ids of
        their targets, and N lists of ids of the items seen before, as the columns of
        an export hold them. It returns N floats; higher is better, and 0 is earned by
        what holds no answer. It raises an `InputError` on ids that ``items`` lacks.
    """
    if policy.kind != "text":
        raise InputError(
            f"policy.kind is {policy.kind}, whose answers are not in the texts of its "
            "completions, so that nothing can reward them elsewhere: export with the "
            "kind text, or train with MiniRec"
        )
    from minirec.policy.rewards import Tasks, Written, reward_completions
    from minirec.policy.text import TextReader, load_catalogue

    catalogue = load_catalogue(encoder_model, items, item_embeddings, ranking)
    reader = TextReader(catalogue, policy)
    reward = weighted_sum(ranking.rewards, items)

    def earned(
        completions: Sequence[str],
        target_item_id: Sequence[str],
        seen_item_id: Sequence[Sequence[str]],
    ) -> list[float]:
        rows = range(len(completions))
        tasks = pd.DataFrame(
            {
                SAMPLE_ID: rows,
                TARGET_ITEM_ID: list(target_item_id),
                SEEN_ITEM_ID: list(seen_item_id),
            }
        )
        outcome = reward_completions(
            reader, Tasks(tasks, items), reward, rows, Written(completions)
        )
        return outcome.reward.tolist()

    return earned


def load_reward(project: str | Path, env: str | None = None) -> Reward:
    """Return `make_reward` of a project's tables and parameters.

    Parameters
    ----------
    project
        The project's folder, on the machine where the other trainer runs.
    env
        The configuration environment, as of ``kedro run``.

    Raises
    ------
    InputError
        If the project's catalogue is not what its pipelines would make now.
    """
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    from minirec.commands import kedro_run
    from minirec.lineage.project import graph_of

    with chdir(project):  # where paths of parameters and models begin
        bootstrap_project(Path.cwd())
        catalog = KedroSession.create(Path.cwd(), env=env).load_context().catalog
        for doubt, names in (
            graph_of(catalog).doubts(["items", "item_embeddings"]).items()
        ):
            run = {"env": env, "runtime_params": None}
            command = kedro_run(["all"], run, "--only-missing-outputs")
            raise InputError(f"{doubt.sentence(*names)}: run `{command}` in {project}")
        return make_reward(
            catalog.load("items"),
            catalog.load("item_embeddings"),
            catalog.load("encoder_model"),
            PolicyParams.model_validate(catalog.load("params:policy")),
            RankingParams.model_validate(catalog.load("params:ranking")),
        )

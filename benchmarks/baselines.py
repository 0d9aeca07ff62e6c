"""Measure on validation what the settings of item-kNN and SASRec are worth.

``python benchmarks/baselines.py``, after ``kedro run --env item_tokens --pipelines
preprocess``, prints for each setting NDCG@10 of the validation windows that SASRec is
stopped by (``train_eval.evaluation.sasrec.validation_windows``), with what a user has
seen masked. item-kNN is ranked by every pair of ``neighbours`` and ``last``, SASRec
trained with each of ``--dropout``; all else is as the parameters say. No target of the
test split is read. Equal tables give equal numbers on the same machine.

The last line is JSON: NDCG@10 by setting, once for each of the two.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from minirec.columns import (
    ITEM_ID,
    ITEM_KNN,
    POPULARITY,
    POSITION,
    PRETRAIN,
    SASREC,
    SPLIT,
    TRAIN,
    USER_ID,
    VALID,
)
from minirec.pipelines.train_eval.params import EvaluationParams
from minirec.ranking.baselines import item_knn_scores, item_similarity
from minirec.ranking.grounding import popularity_prior
from minirec.training.item_pretraining import histories, mean_ndcg
from minirec.training.sasrec import train_sasrec

PROJECT = Path(__file__).parents[1]
LEARNED = (PRETRAIN, TRAIN)


def _knn_scores(
    similarity: Any, prior: np.ndarray, last: int, past: list[np.ndarray]
) -> np.ndarray:
    return item_knn_scores([own[-last:] for own in past], similarity, prior)


@click.command()
@click.option("--env", default="item_tokens", show_default=True, help="Of the tables.")
@click.option("--neighbours", multiple=True, default=(20, 50, 100, 200))
@click.option("--last", multiple=True, default=(1, 5, 10, 50))
@click.option("--dropout", multiple=True, default=(0.2, 0.5))
def main(
    env: str,
    neighbours: tuple[int, ...],
    last: tuple[int, ...],
    dropout: tuple[float, ...],
) -> None:
    """Print NDCG@10 of each setting."""
    bootstrap_project(PROJECT)
    with KedroSession.create(project_path=PROJECT, env=env) as session:
        load = session.load_context().catalog.load
        items, table = load("items"), load("interactions")
        known = table.filter(table[SPLIT].isin([*LEARNED, VALID]))
        known = known[[USER_ID, ITEM_ID, POSITION, SPLIT]].execute()
        window, seed = load("params:preprocess.window"), load("params:seed")
        params = EvaluationParams.model_validate(load("params:train_eval.evaluation"))
    known = known.sort_values([USER_ID, POSITION], ignore_index=True)
    data = histories(known, items, params.sasrec.validation_windows, seed, LEARNED)
    learned = known[known[SPLIT] != VALID]
    user = learned.groupby(USER_ID).ngroup()
    column = items.reset_index().set_index(ITEM_ID)["index"][learned[ITEM_ID]]
    prior = popularity_prior(items[POPULARITY].to_numpy())
    found: dict[str, dict[str, float]] = {ITEM_KNN: {}, SASREC: {}}

    def keep(method: str, setting: str, ndcg: float) -> None:
        found[method][setting] = round(ndcg, 4)
        click.echo(f"{method}  {setting}  {ndcg:.4f}")

    for k in neighbours:
        near = item_similarity(user, column, len(items), k)
        for n in last:
            scores = partial(_knn_scores, near, prior, min(n, window))
            keep(ITEM_KNN, f"neighbours={k},last={n}", mean_ndcg(scores, data))
    for rate in dropout:
        rates = {"hidden_dropout_prob": rate, "attn_dropout_prob": rate}
        own = params.sasrec.model_copy(update=rates)
        log = train_sasrec(known, items, own, window, seed, f"dropout {rate:g}").log
        keep(SASREC, f"dropout={rate:g}", float(log["ndcg@10"].max()))
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()

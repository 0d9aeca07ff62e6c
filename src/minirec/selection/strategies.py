"""Strategies: which k samples to train on.

A strategy is a plain function ``f(tables, k, seed) -> sample ids``, named by dotted
path in ``select.strategy``. ``tables`` holds ``candidates``, the kept samples in the
columns of `minirec.schemas.Candidates`, and ``embeddings``, a mapping of ``sample_id``
(M,) to ``matrix`` (M, d) that holds the candidates among others. It returns k ids of
candidates, each once, in the order of choice.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minirec.columns import SAMPLE_ID, VALUE
from minirec.errors import InputError
from minirec.selection.diversity import check_k, select_diverse


def diverse(tables: Mapping[str, Any], k: int, seed: int) -> NDArray[np.int64]:
    """Choose valuable samples, each unlike those already chosen (`select_diverse`).

    Nothing here is left to chance: ``seed`` makes no difference.

    Raises
    ------
    InputError
        If a candidate has no embedding, or k is not from 1 to the number of candidates.
    """
    candidates = tables["candidates"]
    ids = candidates[SAMPLE_ID].to_numpy()
    rows = pd.Index(tables["embeddings"]["sample_id"]).get_indexer(ids)
    if (rows < 0).any():
        raise InputError(
            f"embeddings lacks {(rows < 0).sum()} of {len(ids)} candidates, sample "
            f"{ids[np.argmin(rows)]} among them: run `kedro run --pipelines score` again"
        )
    picks = select_diverse(
        tables["embeddings"]["matrix"][rows], candidates[VALUE].to_numpy(), k
    )
    return ids[picks]


def random(tables: Mapping[str, Any], k: int, seed: int) -> NDArray[np.int64]:
    """Choose samples at random, all alike; a larger k only adds to a smaller one.

    Raises
    ------
    InputError
        If k is not from 1 to the number of candidates.
    """
    ids = np.sort(tables["candidates"][SAMPLE_ID].to_numpy())
    check_k(k, len(ids))
    return np.random.default_rng(seed).permutation(ids)[:k]

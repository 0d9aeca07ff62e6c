"""What the published release of MiniRec (arXiv 2602.04278) computed, reproduced."""

import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from minirec.ranking.metrics import hit_ratio, ndcg
from minirec.ranking.rewards import NDCG_WEIGHT, PROBABILITY_WEIGHT
from minirec.selection.curriculum import order_in_groups
from minirec.selection.learnability import auto_mu, gaussian_learnability
from minirec.selection.pruning import Quantile, limits, prune_by_reward

REFERENCE = Path(os.environ.get("MINIREC_REFERENCE", "where MINIREC_REFERENCE says"))

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        not (REFERENCE / "released_rewards.jsonl.gz").exists(),
        reason=f"no published tables in {REFERENCE}: set MINIREC_REFERENCE",
    ),
]


@pytest.fixture(scope="module")
def rollouts():
    with gzip.open(REFERENCE / "released_rewards.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def mean_reward(rollouts):
    return np.mean([row["reward"] for row in rollouts], axis=1)


@pytest.fixture(scope="module")
def published():
    return json.loads((REFERENCE / "released_selection_256.json").read_text())


def test_mean_rewards_spread_as_published(mean_reward):
    assert len(mean_reward) == 10_748
    assert mean_reward.std() == 0.1037043740256833
    assert mean_reward.mean() == pytest.approx(0.05509, abs=5e-6)
    assert np.quantile(mean_reward, [0.75, 0.9, 0.99, 1]) == pytest.approx(
        [0.0866, 0.1409, 0.5558, 0.9592], abs=5e-5
    )
    assert (mean_reward > 0.5).sum() == 137


def test_learnability_of_every_sample(mean_reward):
    sigma = 0.1037043740256833
    gauss = [math.exp(-((r - 0.5) ** 2) / (2 * sigma**2)) for r in mean_reward]
    low, high = min(gauss), max(gauss)
    expected = [(g - low) / (high - low + 1e-12) for g in gauss]
    learnability = gaussian_learnability(mean_reward)
    # Each of exp, square, quotient and min-max may round the last bit its own way.
    assert learnability == pytest.approx(expected, rel=0, abs=8 * np.finfo(float).eps)
    assert learnability.min() == 0
    assert 1 - 2e-12 < learnability.max() < 1
    nearest = np.abs(mean_reward - 0.5).argmin()
    assert learnability.argmax() == nearest


@pytest.fixture(scope="module")
def ever_hit(rollouts):
    return np.array([max(row["hit_ratio"]) > 0 for row in rollouts])


def rank_correlation(one, other):
    # too few are equal to matter
    return np.corrcoef([np.argsort(np.argsort(x)) for x in (one, other)])[0, 1]


def test_mu_of_the_published_pool(mean_reward):
    assert auto_mu(mean_reward) == pytest.approx(0.250306, abs=5e-7)
    # 1.88 standard deviations above the mean, where 0.5 lies 4.29 above
    sigma, mean = mean_reward.std(), mean_reward.mean()
    assert (auto_mu(mean_reward) - mean) / sigma == pytest.approx(1.882, abs=5e-4)
    assert (0.5 - mean) / sigma == pytest.approx(4.290, abs=5e-4)


@pytest.mark.parametrize(
    ("mu", "of_all", "of_hits", "std"),
    [(0.5, 0.998, 0.982, 0.093), ("auto", 0.921, 0.796, 0.224)],
)
def test_how_nearly_learnability_is_reward(
    mean_reward, ever_hit, mu, of_all, of_hits, std
):
    score = gaussian_learnability(mean_reward, mu=mu)
    hits = score[ever_hit], mean_reward[ever_hit]
    assert rank_correlation(score, mean_reward) == pytest.approx(of_all, abs=5e-4)
    assert rank_correlation(*hits) == pytest.approx(of_hits, abs=5e-4)
    assert score.std() == pytest.approx(std, abs=5e-4)


def test_pruning_what_never_hit(rollouts, mean_reward, ever_hit):
    spread = np.std([row["reward"] for row in rollouts], axis=1)
    kept = prune_by_reward(mean_reward, spread, too_hard=0.01) == "kept"
    np.testing.assert_array_equal(kept, ever_hit)
    # half of the pool never hit, so its median is next to nothing
    assert limits(mean_reward, None, Quantile(0.5))[1] == pytest.approx(
        6.1e-6, abs=5e-8
    )
    # a floor takes those whose rewards are alike besides
    kept = prune_by_reward(mean_reward, spread, min_spread=0.005) == "kept"
    assert (kept & ~ever_hit).sum() == 0
    assert (~kept & ever_hit).sum() == 564
    # without one, only equal rewards would go, and there are none
    assert (prune_by_reward(mean_reward, spread, min_spread=0) == "kept").all()


def test_more_than_a_third_of_the_published_picks_never_hit(ever_hit, published):
    assert (~ever_hit[published["selected_256"]]).sum() == 93


def test_curriculum_of_256(mean_reward, published):
    chosen = published["selected_256"]
    # in any order, the samples give the published one
    for ids in (np.array(chosen), np.sort(chosen)):
        ordered = order_in_groups(ids, mean_reward[ids], n_groups=4, seed=42)
        assert ordered.tolist() == published["curriculum_256_groups_4_seed_42"]


def test_ndcg_of_every_rollout(rollouts):
    published = np.array([row["ndcg"] for row in rollouts])
    hits = published > 0
    ranks = np.where(hits, np.round(2 ** (1 / np.where(hits, published, 1)) - 2), 1000)
    # they were computed in float32
    np.testing.assert_allclose(ndcg(ranks, 1000), published, rtol=2**-23)
    hit = [row["hit_ratio"] for row in rollouts]
    np.testing.assert_array_equal(hit_ratio(ranks, 1000), hit)
    assert (~hits).all(axis=1).sum() == 5_915


def test_rewards_are_ndcg_and_a_probability(rollouts):
    reward, gain = (np.array([row[x] for row in rollouts]) for x in ("reward", "ndcg"))
    rest = reward - NDCG_WEIGHT * gain
    assert rest.min() > 0
    assert rest.max() < PROBABILITY_WEIGHT
    assert reward.std(axis=1).min() > 0  # no group is tied

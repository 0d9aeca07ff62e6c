import numpy as np
import pandas as pd
import pytest

from minirec import schemas
from minirec.errors import InputError
from minirec.reporting import picks
from minirec.reporting.picks import explain_picks, say_what_decided, why_not_chosen
from minirec.selection import strategies

MU, SIGMA = 0.3, 0.1


def make_tables(representativeness=(0.1, 0.9, 0.5, 0.5, 0.2)):
    """Five samples of the pool, three of them chosen: 4, then 1, then 2."""
    candidates = pd.DataFrame(
        {
            "sample_id": [1, 2, 3, 4, 5],
            "mean_reward": [0.26, 0.36, 0.5, 0.1, 0.9],
            "std_reward": 0.1,
            "learnability": [0.9, 0.8, 0.3, 0.3, 0.0],
            "representativeness": representativeness,
            "value": [1.0, 1.7, 0.8, 2.0, 3.0],
            "reason": ["kept", "kept", "kept", "kept", "too_easy"],
        }
    )
    return {
        "candidates": candidates,
        "selection": pd.DataFrame(
            {"position": [0, 1, 2], "sample_id": [4, 1, 2], "value": [2.0, 1.0, 1.7]}
        ),
        "curriculum": pd.DataFrame(
            {
                "position": [2, 0, 1],
                "sample_id": [4, 2, 1],
                "stage": [1, 0, 0],
                "mean_reward": [0.1, 0.36, 0.26],
            }
        ),
        "prompts": pd.DataFrame(
            {
                "sample_id": [1, 2, 3, 4, 5],
                "user_id": ["ann", "bob", "cy", "dee", "eve"],
                "target_item_id": ["a", "b", "c", "d", "a"],
                "history_item_id": [["b"], list("abcd"), ["a"], list("ab"), ["c"]],
            }
        ),
        "items": pd.DataFrame(
            {"item_id": list("abcd"), "title": ["Alpha", "Beta", "Gamma", "Delta"]}
        ),
        # the first pick is sample 4; 1 - cos with it is 1 of sample 1, 0.4 of sample 2
        "embeddings": {
            "sample_id": np.array([5, 4, 3, 2, 1]),
            "matrix": np.array([[9, 9], [1, 0], [9, 9], [3, 4], [0, 2]], np.float32),
        },
    }


def explained(direction="mean", **tables):
    return explain_picks(
        **{**make_tables(), **tables}, mu=MU, sigma=SIGMA, direction=direction
    )


def test_each_chosen_sample_has_its_row_in_the_order_of_training():
    found = schemas.Explanations.validate(explained(), lazy=True)
    assert found.drop(columns=["why", "distance"]).to_dict("list") == {
        "position": [0, 1, 2],
        "stage": [0, 0, 1],
        "pick": [2, 1, 0],
        "sample_id": [2, 1, 4],
        "user_id": ["bob", "ann", "dee"],
        "target": ["Beta", "Alpha", "Delta"],
        "last_titles": [["Beta", "Gamma", "Delta"], ["Beta"], ["Alpha", "Beta"]],
        "mean_reward": [0.36, 0.26, 0.1],
        "learnability": [0.8, 0.9, 0.3],
        "representativeness": [0.9, 0.1, 0.5],
        "value": [1.7, 1.0, 2.0],
    }
    # sample 2 lies nearer to sample 1, at 1 - 0.8
    np.testing.assert_allclose(found["distance"], [0.2, 1, np.nan], rtol=1e-6)


def test_each_is_explained_by_its_numbers():
    assert explained()["why"].tolist() == [
        "chosen as pick 3 of 3, with a value of 1.70 (rank 2 of 4 kept): mean reward "
        "0.36, above the mu of 0.3 at which samples teach most; its gradient agrees "
        "with the pool's mean more than all others; its history is 0.20 from the "
        "nearest chosen before",
        "chosen as pick 2 of 3, with a value of 1.00 (rank 3 of 4 kept): mean reward "
        "0.26, near the mu of 0.3 at which samples teach most; its gradient agrees with "
        "the pool's mean less than all others; its history is 1.00 from the nearest "
        "chosen before",
        # two of the four others have a lower representativeness, one a higher
        "chosen as pick 1 of 3, with a value of 2.00 (rank 1 of 4 kept): mean reward "
        "0.1, below the mu of 0.3 at which samples teach most; its gradient agrees with "
        "the pool's mean more than 50% of the others; nothing was chosen before "
        "it",
    ]


@pytest.mark.parametrize(
    ("strategy", "decided"),
    [
        (
            strategies.diverse,
            [
                "value x distance is 0.34, the largest of those left",  # 1.7 * 0.2
                "value x distance is 1.00, the largest of those left",
                "it has the highest value of all kept",
            ],
        ),
        (
            strategies.without_learnability,
            [
                "representativeness x distance is 0.18, the largest of those left",
                "representativeness x distance is 0.10, the largest of those left",
                "it has the highest representativeness of all kept",
            ],
        ),
        (
            strategies.without_representativeness,
            [
                "learnability x distance is 0.16, the largest of those left",
                "learnability x distance is 0.90, the largest of those left",
                "it has the highest learnability of all kept",
            ],
        ),
    ],
)
def test_the_number_that_decided_ends_the_reason(strategy, decided):
    found = explained()
    said = say_what_decided(found, strategy)
    assert said["why"].tolist() == [
        f"{why}; {number}" for why, number in zip(found["why"], decided, strict=True)
    ]


@pytest.mark.parametrize(
    "strategy",
    [strategies.without_diversity, strategies.k_center, strategies.random, max],
)
def test_of_what_chooses_by_something_else_no_number_is_said(strategy):
    found = explained()
    pd.testing.assert_frame_equal(say_what_decided(found, strategy), found)


@pytest.mark.parametrize("direction", ["proxy", "validation"])
def test_the_direction_is_named(direction):
    said = {"proxy": "the way that the proxy moved", "validation": "the mean of valid"}
    assert f"agrees with {said[direction]}" in explained(direction)["why"][0]


@pytest.mark.parametrize(
    ("direction", "representativeness"), [(None, [0.1, 0.9, 0, 0, 0]), ("mean", 0.0)]
)
def test_of_gradients_that_do_not_count_nothing_is_said(direction, representativeness):
    tables = make_tables(representativeness)
    found = explained(direction, candidates=tables["candidates"])
    assert not found["why"].str.contains("gradient").any()


def test_most_of_the_pool_is_never_written_as_all_of_it():
    ordered = np.array([0.0, *np.linspace(0.1, 0.8, 997), 0.9, 1.0])
    # 998 of 999 others are lower
    assert picks._among(0.9, ordered) == "more than 99% of the others"


def test_distances_are_worked_out_for_the_first_picks(monkeypatch):
    monkeypatch.setattr(picks, "MEASURED", 2)
    found = explained()
    assert found["distance"].notna().tolist() == [False, True, False]
    assert "nearest" not in found["why"][0]
    said = say_what_decided(found, strategies.diverse)["why"].str.contains(
        " x distance"
    )
    assert said.tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["selection", "candidates", "prompts"])
def test_tables_of_different_pools_are_refused(name):
    table = make_tables()[name].iloc[1:2]
    with pytest.raises(InputError, match=f"samples that {name} does not"):
        explained(**{name: table})


def left(sample_id, strategy=strategies.diverse):
    tables = make_tables()
    known = (tables[name] for name in ("candidates", "selection", "embeddings"))
    return why_not_chosen(sample_id, *known, strategy)


def test_what_was_not_chosen_is_held_against_the_last_pick():
    # 1 - 0.7071 from either of the first two picks, and a value of 0.8; of the last
    # pick, sample 2, it was 1.7 x 0.2
    assert left(3) == (
        "its history lies 0.29 from that of pick 1 (sample 4), so that value x distance "
        "is 0.234; the last pick had 0.34"
    )


def test_of_others_than_the_kept_that_were_not_chosen_nothing_is_said():
    assert left(5) == ""  # pruned
    assert left(2) == ""  # chosen
    assert left(6) == ""  # of another split
    assert left(3, strategies.highest_reward) == ""

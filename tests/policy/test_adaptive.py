from copy import deepcopy

import pytest
from pydantic import ValidationError

from minirec.errors import InputError
from minirec.parameters import check_parameters
from minirec.policy.adaptive import AdaptiveParams, rounds

GIVEN = {
    "first": 4,
    "step": 3,
    "too_easy": 0.5,
    "too_hard": 0.1,
    "width": 0.05,
    "confidence": 0.9,
    "prior_std": 0.05,
}


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (4, [range(4)]),
        (5, [range(4), range(4, 5)]),
        (10, [range(4), range(4, 7), range(7, 10)]),
    ],
)
def test_rounds_go_on_where_the_last_ended(most, expected):
    assert list(rounds(most, AdaptiveParams(**GIVEN))) == expected


def test_without_it_there_is_one_round():
    assert list(rounds(5, None)) == [range(5)]


def test_what_is_too_easy_too_hard_or_known_is_settled():
    rewards = [[0.9] * 4, [0.0] * 4, [0.1, 0.2, 0.1, 0.2], [0.1, 0.4, 0.1, 0.4]]
    found = AdaptiveParams(**GIVEN | {"width": 0.1}).settled(rewards)
    assert found.tolist() == [True, True, False, False]
    found = AdaptiveParams(**GIVEN | {"width": 0.13}).settled(rewards)
    assert found.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"first": 1}, "greater than or equal to 2"),
        ({"step": 0}, "greater than or equal to 1"),
        ({"confidence": 1.0}, "less than 1"),
        ({"width": 0.0}, "greater than 0"),
        ({"prior_std": 0.0}, "greater than 0"),
        ({"narrow": 0.1}, "Extra inputs"),
        ({"too_easy": 0.05}, r"too_easy \(0\.05\) is below .*too_hard \(0\.1\)"),
    ],
)
def test_what_is_refused(changed, said):
    with pytest.raises((InputError, ValidationError), match=said):
        AdaptiveParams(**GIVEN | changed)


def test_a_first_round_of_all_rollouts_is_refused(parameters):
    given = deepcopy(parameters)
    given["score"]["probe"] |= {"adaptive": GIVEN, "rollouts": 5}
    assert check_parameters(given).score.probe.adaptive == AdaptiveParams(**GIVEN)
    given["score"]["probe"]["rollouts"] = 4
    with pytest.raises(InputError) as raised:
        check_parameters(given)
    assert str(raised.value) == (
        "score.probe.adaptive.first is 4, and score.probe.rollouts, which is the most "
        "of a sample, 4, so that nothing could be spared: raise score.probe.rollouts, "
        "such as to 16, or lower the other"
    )

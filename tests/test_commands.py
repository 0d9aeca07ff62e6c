import shlex

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kedro.framework.cli.utils import _split_params

from minirec.commands import kedro_run


@pytest.mark.parametrize(
    ("pipelines", "env", "params", "command"),
    [
        (["score"], "local", {}, "kedro run --pipelines score"),
        (
            ["select", "preprocess"],  # told in the order of a run
            "test",
            {},
            "kedro run --pipelines preprocess,select --env test",
        ),
        (["export", "select"], "local", {}, "kedro run --pipelines select,export"),
        (
            ["score"],
            None,
            {"score": {"probe": {"rollouts": 8}}, "seed": 7},
            "kedro run --pipelines score --params score.probe.rollouts=8,seed=7",
        ),
        (["mine"], "local", {"a": "b c"}, "kedro run --params 'a=b c'"),
        (
            ["mine"],
            "local",
            {"a": "{title}. {year}", "b": "007", "c": [1, "x"], "d": None},
            """kedro run --params 'a="{title}. {year}",b="007",c=1 x,d=null'""",
        ),
    ],
)
def test_a_command_keeps_the_settings_of_the_run(pipelines, env, params, command):
    assert kedro_run(pipelines, {"env": env, "runtime_params": params}) == command


def read_back(params):
    """What ``--params`` makes of the command that is told."""
    told = kedro_run(["score"], {"env": None, "runtime_params": params})
    words = shlex.split(told, comments=True)
    if "--params" not in words:
        return {}
    return _split_params(click.Context(click.Command("run")), None, words[-1])


# YAML has no control characters, however quoted
text = st.text(st.characters(exclude_categories=["C"]))
plain = st.none() | st.booleans() | st.integers() | text


@given(plain | st.lists(plain, max_size=1) | st.just({}))
@example("{title}: {year}")
@example("007")
@example("${x}")
@example("${")
@example("???")
@example("a\xa0")  # which Kedro strips
@example(["{a}"])
def test_what_is_told_is_read_back_or_named(value):
    params = {"a": {"b": value}}
    told = kedro_run(["score"], {"env": None, "runtime_params": params})
    if told != "kedro run --pipelines score # and with a.b as it was given":
        assert read_back(params) == params


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ([21, 22], "21 22"),
        (["a.b", "c"], "a.b c"),
        ([21], [21]),  # 21 would be so many
        ([], []),
        ([0.5, 1], "0.5 1"),
    ],
)
def test_several_words_are_told_with_blanks(value, read):
    assert read_back({"a": value}) == {"a": read}


@pytest.mark.parametrize(
    "value",
    [
        *(["a b", "c"], [None, True], [{"function": "f", "weight": 1.0}, "x"]),
        *("a,b", ["a,b"], "${"),
    ],
)
def test_what_a_command_cannot_take_is_named_beside_it(value):
    params = {"a": value, "b": 1}
    told = kedro_run(["score"], {"env": None, "runtime_params": params})
    assert told == (
        "kedro run --pipelines score --params b=1 # and with a as it was given"
    )

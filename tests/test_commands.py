import shlex

import click
import pytest
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


def test_texts_are_read_back_as_they_were():
    given = {"a": {"b": "{title}: {year}"}, "c": "1e3", "d": "yes", "e": "no: 1"}
    told = kedro_run(["score"], {"env": None, "runtime_params": given})
    *_, params = shlex.split(told)
    assert _split_params(click.Context(click.Command("run")), None, params) == given

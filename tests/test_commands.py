import pytest

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
    ],
)
def test_a_command_keeps_the_settings_of_the_run(pipelines, env, params, command):
    assert kedro_run(pipelines, {"env": env, "runtime_params": params}) == command

import pytest
from pydantic import ValidationError

from minirec.execution.params import ExecutionParams


def params(**changes):
    local = {"engine": "local", "workers": 1, "gpus_per_worker": 0, "address": None}
    return ExecutionParams(**{**local, **changes})


@pytest.mark.parametrize(
    "change", [{"workers": 2}, {"gpus_per_worker": 1}, {"address": "auto"}]
)
def test_one_process_takes_no_settings_of_ray(change):
    with pytest.raises(ValidationError, match=r"execution.engine is local"):
        params(**change)
    assert params(engine="ray", **change).engine == "ray"


@pytest.mark.parametrize("gpus", [0, 0.25, 1, 2])
def test_a_gpu_may_be_shared(gpus):
    assert params(engine="ray", gpus_per_worker=gpus).gpus_per_worker == gpus


def test_one_and_a_half_gpus_are_refused():
    with pytest.raises(ValidationError, match=r"gpus_per_worker is 1.5"):
        params(engine="ray", gpus_per_worker=1.5)


def test_curves_ask_for_tensorboard_before_anything_runs(monkeypatch):
    monkeypatch.setattr("minirec.execution.params.find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r'pip install "tensorboard~=2.21"'):
        params(tensorboard="data/curves")
    assert params(tensorboard=None).tensorboard is None


@pytest.mark.parametrize("change", [{"engine": "dask"}, {"workers": 0}])
def test_what_is_out_of_range_is_refused(change):
    with pytest.raises(ValidationError):
        params(**change)

import logging
import os

import pytest
from batch_workers import times, waits

from minirec import costs
from minirec.errors import InputError
from minirec.execution import processes as side_by_side
from minirec.execution.processes import run_jobs
from minirec.progress import Progress


@pytest.mark.parametrize("processes", [1, 2])
def test_results_and_costs_are_those_of_all_jobs(processes):
    with costs.counting() as spent:
        found = run_jobs(times, 10, [3, 1, 2], processes, "test")
    assert [result for result, _, _ in found] == [30, 10, 20]
    assert spent.tokens_read == 6
    here = {pid == os.getpid() for _, pid, _ in found}
    assert here == {processes == 1}


def test_a_job_is_counted_when_it_ends_and_not_behind_a_longer_one(
    tmp_path, monkeypatch
):
    counted = tmp_path / "counted"

    class Bar(Progress):
        def update(self, n=1):
            counted.touch()
            return super().update(n)

    monkeypatch.setattr(side_by_side, "Progress", Bar)
    # the slow one ends when another was counted
    run_jobs(waits, counted, ["slow", "fast"], 2, "test")
    assert counted.exists()


@pytest.mark.parametrize(
    ("job", "message"),
    [(-1, "job is -1"), (99, "a process died .* lower execution.processes")],
)
def test_what_ends_a_process_is_told(job, message):
    with pytest.raises(InputError, match=message):
        run_jobs(times, 10, [1, job, 2], 2, "test")
    assert "TQDM_DISABLE" not in os.environ


def test_a_failure_is_told_before_others_end_and_the_rest_is_left(
    tmp_path, caplog, monkeypatch
):
    told = tmp_path / "told"

    class Touch(logging.Handler):
        def emit(self, record):
            told.touch()

    monkeypatch.setattr(side_by_side.logger, "handlers", [Touch()])
    # the slow one ends when it was told
    with pytest.raises(ValueError, match="no such job"):
        run_jobs(waits, told, ["slow", "failing", "a", "b", "c"], 2, "test")
    assert "test: a job failed: ValueError('no such job')" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slow", "told"]

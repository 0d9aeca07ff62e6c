import os

import pytest
from batch_workers import times

from minirec import costs
from minirec.errors import InputError
from minirec.execution.processes import run_jobs


@pytest.mark.parametrize("processes", [1, 2])
def test_results_and_costs_are_those_of_all_jobs(processes):
    with costs.counting() as spent:
        found = run_jobs(times, 10, [3, 1, 2], processes, "test")
    assert [result for result, _, _ in found] == [30, 10, 20]
    assert spent.tokens_read == 6
    here = {pid == os.getpid() for _, pid, _ in found}
    assert here == {processes == 1}


@pytest.mark.parametrize(
    ("job", "message"),
    [(-1, "job is -1"), (99, "a process died .* lower execution.processes")],
)
def test_what_ends_a_process_is_told(job, message):
    with pytest.raises(InputError, match=message):
        run_jobs(times, 10, [1, job, 2], 2, "test")
    assert "TQDM_DISABLE" not in os.environ

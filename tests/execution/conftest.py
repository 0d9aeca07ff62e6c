import sys
from pathlib import Path

import pandas as pd
import pytest

from minirec.execution.params import ExecutionParams

# Ray's processes import the workers by their module's name.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def notes(tmp_path):
    """A folder for what workers note."""
    path = tmp_path / "notes"
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def local():
    return ExecutionParams(engine="local", workers=1, gpus_per_worker=0, address=None)


@pytest.fixture(scope="session")
def samples():
    """Return a function that makes a table of samples, the last id first."""

    def make(ids):
        ids = sorted(ids, reverse=True)
        return pd.DataFrame(
            {
                "sample_id": ids,
                "text": [f"prompt {each}" for each in ids],
                "token_id": [list(range(each % 3)) for each in ids],
            }
        )

    return make

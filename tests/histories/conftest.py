from collections.abc import Iterator

import ibis
import pytest


@pytest.fixture(autouse=True, scope="session")
def release_the_default_engine() -> Iterator[None]:
    """Let go of the engine of tables in memory; DuckDB complains at exit if kept."""
    yield
    ibis.options.default_backend = None

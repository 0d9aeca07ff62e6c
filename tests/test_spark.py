"""The environment ``spark``: the same tables from another engine."""

import shutil

import pandas as pd
import pytest
import yaml

TABLES = (
    "02_intermediate/interactions.parquet",
    "02_intermediate/items.parquet",
    "03_primary/samples.parquet",
    "03_primary/prompts.parquet",
)

pytestmark = pytest.mark.skipif(
    shutil.which("java") is None, reason="Spark needs Java 17 or later"
)


@pytest.fixture(scope="module")
def on_spark(copy_project, kedro):
    """The tiny run, but in the environment ``spark``."""
    path = copy_project()
    test, spark = path / "conf" / "test", path / "conf" / "spark"
    for name in ("catalog.yml", "parameters.yml"):
        shutil.copy(test / name, spark)
    settings = yaml.safe_load((spark / "globals.yml").read_text())
    assert settings.keys() == {"connection"}
    settings["connection"]["spark.sql.shuffle.partitions"] = 1  # few rows
    both = {**yaml.safe_load((test / "globals.yml").read_text()), **settings}
    (spark / "globals.yml").write_text(yaml.safe_dump(both))
    done = kedro(path, "run", "--env", "spark", "--pipelines", "preprocess")
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.mark.parametrize("table", TABLES)
def test_spark_makes_the_same_rows(test_run, on_spark, table):
    expected, found = (
        pd.read_parquet(path / "data" / "test" / table)
        for path in (test_run.path, on_spark)
    )
    pd.testing.assert_frame_equal(found, expected)


def test_what_spark_made_is_read_by_the_default_engine(on_spark, kedro):
    part = ("--only-missing-outputs", "--pipelines", "preprocess")
    done = kedro(on_spark, "run", "--env", "test", *part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything was up to date" in done.stdout
    done = kedro(on_spark, "run", "--env", "test", "--nodes", "build_samples")
    assert done.returncode == 0, done.stdout + done.stderr

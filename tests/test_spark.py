"""The environment ``spark``: the same tables from another engine."""

import shutil

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

TABLES = (
    "02_intermediate/interactions.parquet",
    "02_intermediate/items.parquet",
    "03_primary/samples.parquet",
    "03_primary/prompts.parquet",
    "08_reporting/leakage.csv",
)
PARAMS = {
    "preprocess": {
        "filter": {"untitled": "drop", "min_rating": 2},
        "split": {"method": "time", "ties": "random"},
        "item_text": "{title} ({year})",
    }
}

pytestmark = pytest.mark.skipif(
    shutil.which("java") is None, reason="Spark needs Java 17 or later"
)


def odd(fixtures):
    """Turn the fixtures into Parquet with what engines are apt to read differently."""
    interactions = pd.read_csv(fixtures / "interactions.csv", dtype={"item_id": str})
    moment = pd.to_datetime(interactions["timestamp"] + 0.25, unit="s")
    rating = [float(row % 5 + 1) for row in range(len(interactions))]
    rating[::7] = [float("nan")] * len(rating[::7])
    interactions = interactions.assign(
        timestamp=moment.astype("datetime64[us]"), rating=rating
    )
    interactions.to_parquet(fixtures / "interactions.parquet")
    items = pd.read_csv(fixtures / "items.csv", dtype=str)
    title = "f " + items["title"] + "\t<i>of</i>\f love v"
    items = items.assign(title=title.where(items.index > 0), year=1990 + items.index)
    items.to_parquet(fixtures / "items.parquet")


def prepared(path, kedro, env, **settings):
    """Prepare the odd fixtures in an environment."""
    odd(path / "tests" / "fixtures")
    test, used = path / "conf" / "test", path / "conf" / env
    catalog = yaml.safe_load((test / "catalog.yml").read_text())
    for entry in catalog.values():
        entry["filepath"] = entry["filepath"].replace(".csv", ".parquet")
        del entry["connection"]
    (used / "catalog.yml").write_text(yaml.safe_dump(catalog))
    parameters = OmegaConf.merge(OmegaConf.load(test / "parameters.yml"), PARAMS)
    OmegaConf.save(parameters, used / "parameters.yml")
    both = {**yaml.safe_load((test / "globals.yml").read_text()), **settings}
    (used / "globals.yml").write_text(yaml.safe_dump(both))
    done = kedro(path, "run", "--env", env, "--pipelines", "preprocess")
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.fixture(scope="module")
def on_duckdb(copy_project, kedro):
    return prepared(copy_project(), kedro, "test")


@pytest.fixture(scope="module")
def on_spark(copy_project, kedro):
    path = copy_project()
    settings = yaml.safe_load((path / "conf" / "spark" / "globals.yml").read_text())
    assert settings.keys() == {"connection"}
    settings["connection"]["spark.sql.shuffle.partitions"] = 1  # few rows
    return prepared(path, kedro, "spark", **settings)


@pytest.mark.parametrize("table", TABLES)
def test_spark_makes_the_same_rows(on_duckdb, on_spark, table):
    read = pd.read_csv if table.endswith(".csv") else pd.read_parquet
    expected, found = (
        read(path / "data" / "test" / table) for path in (on_duckdb, on_spark)
    )
    assert len(expected) > 1
    pd.testing.assert_frame_equal(found, expected)


def test_what_spark_made_is_read_by_the_default_engine(on_spark, kedro):
    for name in ("catalog.yml", "parameters.yml"):
        shutil.copy(on_spark / "conf" / "spark" / name, on_spark / "conf" / "test")
    part = ("--only-missing-outputs", "--pipelines", "preprocess")
    done = kedro(on_spark, "run", "--env", "test", *part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything was up to date" in done.stdout
    done = kedro(on_spark, "run", "--env", "test", "--nodes", "build_samples")
    assert done.returncode == 0, done.stdout + done.stderr

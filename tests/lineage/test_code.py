import functools
import importlib
import sys

import numpy as np
import pytest

from minirec.lineage.code import Code
from minirec.pipelines.select import nodes as select

FILES = {
    "__init__.py": "from shop.prices import price\n",
    "prices.py": '''
"""Prices."""
import numpy as np
from shop import rates
from shop.rates import Rate as R

UNUSED = 1


def price(item, base: R = R.LOW):
    """Return the price."""
    return np.round(item * rates.tax(item)) + base


def lazy(item):
    from shop import stock

    return stock.left[item]


def whole(item):
    return rates


def other(item):
    return UNUSED


def made():
    return lambda item: rates.tax(item) * 2


double = made()
''',
    "rates.py": """
FIRST, SECOND = 1, 2
FIRST += 1


class Rate:
    LOW = FIRST


def tax(item):
    return _share(item)


def _share(item):
    return SECOND
""",
    "stock.py": """
import os

try:
    import nothing
except ImportError:
    nothing = None

left = {}
left["a"] = 1
""",
}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Return a function that writes a package, edited, and returns a module of it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)

    def write(*edits):
        for name, text in FILES.items():
            for old, new in edits:
                text = text.replace(old, new)
            path = tmp_path / "shop" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for name in [name for name in sys.modules if name.startswith("shop")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module("shop.prices")

    yield write
    for name in [name for name in sys.modules if name.startswith("shop")]:
        del sys.modules[name]


def test_a_function_leads_to_what_it_names_and_no_further(shop):
    assert list(Code().of(shop().price)) == [
        "shop.prices.price",
        "shop.rates.FIRST",
        "shop.rates.Rate",
        "shop.rates.SECOND",
        "shop.rates._share",
        "shop.rates.tax",
    ]


def test_an_import_inside_a_function_counts_and_what_it_sets_up(shop):
    assert list(Code().of(shop().lazy)) == [
        "shop.prices.lazy",
        "shop.stock",
        "shop.stock.left",
    ]


def test_a_module_handed_on_counts_whole(shop):
    assert {"shop.rates.tax", "shop.rates.Rate"} < set(Code().of(shop().whole))


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ('"""Return the price."""', '"""Return what to pay."""', set()),
        ('"""Prices."""', "# nothing", set()),
        ("LOW = FIRST", 'LOW = FIRST\n    """The lowest."""', set()),
        ("UNUSED = 1", 'UNUSED = 1\n"""Of nobody."""', set()),
        ("np.round(item", "np.round(  # up or down\n        item", set()),
        ("UNUSED = 1", "UNUSED = 2", set()),
        ("FIRST += 1", "FIRST += 2", {"shop.rates.FIRST"}),
        ("return SECOND", "return -SECOND", {"shop.rates._share"}),
        ("LOW = FIRST", "LOW = 5", {"shop.rates.Rate"}),
    ],
)
def test_what_a_change_changes(shop, old, new, changed):
    before, after = Code().of(shop().price), Code().of(shop((old, new)).price)

    assert {k for k in before | after if before.get(k) != after.get(k)} == changed


def test_a_name_leads_through_the_package_that_hands_it_on(shop):
    shop()
    assert "shop.prices.price" in Code().at("shop.price")
    assert Code().at("shop.rates.Rate.LOW") == Code().at("shop.rates.Rate")


@pytest.mark.parametrize("path", ["0.5", "embedded", "os.path.join", "numpy.max"])
def test_what_is_no_code_of_the_project_has_none(path):
    assert Code().at(path) == {}


def test_an_installed_function_has_none():
    assert Code().of(np.linalg.norm) == {}


def test_arguments_of_a_partial_count(shop):
    price = shop().price
    one, two = (Code().of(functools.partial(price, base=base)) for base in (1, 2))

    assert one != two
    assert {k: one[k] for k in Code().of(price)} == Code().of(price)


def test_a_lambda_counts_by_its_module(shop):
    assert "shop.rates.tax" in Code().of(shop().double)


FURTHER = {
    "kinds.py": """
import functools
from shop.ways import *
from shop import plain
import shop.plain.deep as deeper

try:
    from shop.fast import go
except ImportError:
    from shop.slow import go

KEPT = {}


def keep(function):
    KEPT[function.__name__] = function
    return function


@keep
def kept(item):
    return item + 1


def by_name(item):
    return KEPT["kept"](item)


def bare(function):
    def inner(*args):
        return function(*args)

    return inner


@bare
def wrapped(item):
    return item * 5


def adder(by):
    def add(item):
        return item + by

    return add


class Scaler:
    def __init__(self, by):
        self.by = by

    def __call__(self, item):
        return self.scale(item)

    def scale(self, item):
        return item * self.by


def starred(item):
    return way(item)


def deep(item):
    return deeper.dive(item)


def went(item):
    return go(item)
""",
    "ways.py": "def way(item):\n    return item\n",
    "plain/deep.py": "def dive(item):\n    return item\n",
    "fast.py": "def go(item):\n    return 1\n",
    "slow.py": "def go(item):\n    return 2\n",
}


@pytest.fixture
def kinds(shop, monkeypatch):
    """Return a function that writes further modules, edited, and returns one."""

    def write(*edits):
        monkeypatch.setattr(sys.modules[__name__], "FILES", FILES | FURTHER)
        shop(*edits)
        return importlib.import_module("shop.kinds")

    return write


@pytest.mark.parametrize(
    ("of", "edit"),
    [
        (lambda kinds: kinds.by_name, ("item + 1", "item + 2")),
        (lambda kinds: kinds.wrapped, ("item * 5", "item * 6")),
        (lambda kinds: kinds.adder(1), ("item + by", "item - by")),
        (lambda kinds: kinds.Scaler(1), ("item * self.by", "item - self.by")),
        (lambda kinds: kinds.Scaler(1).scale, ("item * self.by", "item - self.by")),
        (lambda kinds: kinds.starred, ("way(item):\n    return item", "way(item): 1")),
        (lambda kinds: kinds.deep, ("dive(item):\n    return item", "dive(item): 1")),
        (lambda kinds: kinds.went, ("return 1", "return 3")),
        (lambda kinds: kinds.went, ("return 2", "return 4")),
    ],
)
def test_code_is_found_in_every_way_that_it_is_reached(kinds, of, edit):
    before, after = Code().of(of(kinds())), Code().of(of(kinds(edit)))

    assert before != after
    assert Code().of(of(kinds())) == before


@pytest.mark.parametrize(
    "of", [lambda kinds, by: kinds.adder(by), lambda kinds, by: kinds.Scaler(by)]
)
def test_what_a_function_holds_counts(kinds, of):
    module = kinds()
    one, same, other = (Code().of(of(module, by)) for by in (1, 1, 2))

    assert one == same
    assert one != other


def test_a_path_may_have_a_colon(shop):
    shop()
    assert Code().at("shop.prices:price") == Code().at("shop.prices.price") != {}


def test_what_is_said_of_progress_touches_no_table():
    found = Code().of(select.compare_strategies)
    assert "minirec.pipelines.select.nodes.compare_strategies" in found
    assert not [path for path in found if path.startswith("minirec.progress")]

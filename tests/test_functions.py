import math
import random

import pytest

from minirec.errors import InputError
from minirec.functions import call, function_at


def test_a_dotted_path_leads_to_its_function():
    assert function_at("math.sqrt", "select.strategy") is math.sqrt


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.f", "No module named 'no_such_package'"),
        ("math.no_such_function", "no_such_function"),
        ("", "cannot be imported"),
        ("math.pi", "which is a float and no function"),
    ],
)
def test_a_wrong_path_is_named_with_its_parameter(path, message):
    with pytest.raises(InputError, match=f"^select.strategy is '{path}'.*{message}"):
        function_at(path, "select.strategy")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("k_center", "k_center"),
        ("minirec.selection.strategies.divers", "diverse"),
        ("random", "random"),  # a module of Python's
    ],
)
def test_a_strategy_of_our_own_is_meant(path, meant):
    meant = f"did you mean minirec.selection.strategies.{meant}\\? Or give the dotted"
    with pytest.raises(InputError, match=meant):
        function_at(path, "select.strategy")


def test_of_what_is_no_name_of_ours_nothing_is_meant():
    with pytest.raises(InputError) as refused:
        function_at("no_such_module.diverse", "select.strategy")
    assert "did you mean" not in refused.value.message


def broken(tables, size):
    return tables["nothing"]


def test_what_fails_is_told_with_its_line():
    assert call(math.sqrt, "mine.root", 4) == 2
    line = broken.__code__.co_firstlineno + 1
    said = rf"^mine\.broken failed: KeyError: 'nothing' \(test_functions.py, line {line}\)$"
    with pytest.raises(InputError, match=said):
        call(broken, "mine.broken", {}, 1)
    with pytest.raises(InputError, match=r"^math\.sqrt failed: ValueError: [^(]*$"):
        call(math.sqrt, "math.sqrt", -1)
    # a method of an instance has no module
    with pytest.raises(InputError, match=r"^random\.random failed: TypeError: "):
        call(random.random, "random.random", 1)

import math

import pytest

from minirec.errors import InputError
from minirec.functions import function_at


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

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.execution.fingerprint import fingerprint, of_model

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(PLAIN, PLAIN)
def test_equal_values_alone_are_alike(one, other):
    same = repr(one) == repr(other)
    assert (fingerprint(value=one) == fingerprint(value=other)) == same


def test_the_order_of_names_does_not_count():
    assert fingerprint(a=1, b={"c": 2, "d": 3}) == fingerprint(b={"d": 3, "c": 2}, a=1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        ([["a"], "b"], [["a", "b"]]),
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(2, np.float32), np.zeros(1, np.float64)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [2, 1]})),
        (pd.DataFrame({"a": [["x"], []]}), pd.DataFrame({"a": [[], ["x"]]})),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    ],
)
def test_what_differs_is_told_apart(one, other):
    assert fingerprint(value=one) != fingerprint(value=other)
    assert fingerprint(value=one) == fingerprint(value=one)


def test_the_layout_of_an_array_does_not_count():
    array = np.arange(6.0).reshape(2, 3)
    assert fingerprint(a=array.T) == fingerprint(a=np.ascontiguousarray(array.T))
    assert fingerprint(a=torch.ones(3, 2).T) == fingerprint(a=torch.ones(2, 3))


def test_a_frame_counts_by_its_rows_however_it_was_put_together():
    whole = pd.DataFrame({"a": ["x", "y"], "b": [[1], [2, 3]]})
    parts = pd.concat([whole.iloc[:1], whole.iloc[1:]])
    assert fingerprint(table=parts) == fingerprint(table=whole)


def test_a_model_in_a_folder_counts_by_its_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    model = {"pretrained_model_name_or_path": str(tmp_path), "revision": "main"}
    before = fingerprint(model=of_model(model))
    assert fingerprint(model=of_model(model)) == before
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert fingerprint(model=of_model(model)) != before
    assert of_model({**model, "pretrained_model_name_or_path": "a/b"}) == {
        "model": "a/b",
        "revision": "main",
    }


def test_what_has_no_fingerprint_is_refused():
    with pytest.raises(TypeError, match="a function has no fingerprint"):
        fingerprint(value=lambda: None)

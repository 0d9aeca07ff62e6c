import json
import struct

import numpy as np
import pytest
from kedro.io import DatasetError

from minirec.datasets.matrix import MatrixDataset

ARRAYS = {
    "sample_id": np.array([3, 5]),
    "matrix": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32),
}


@pytest.fixture
def dataset(tmp_path):
    return MatrixDataset(filepath=str(tmp_path / "new" / "matrix.safetensors"))


def test_arrays_come_back_as_read_only_maps(dataset):
    assert not dataset.exists()
    dataset.save(ARRAYS)
    assert dataset.exists()
    loaded = dataset.load()
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert isinstance(loaded[name], np.memmap)
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
        with pytest.raises(ValueError, match="read-only"):
            loaded[name][0] = 0


def test_arrays_in_any_order_of_memory_and_without_rows(dataset):
    arrays = {"turned": ARRAYS["matrix"].T, "empty": np.empty((0, 4), np.float64)}
    dataset.save(arrays)
    loaded = dataset.load()
    np.testing.assert_array_equal(loaded["turned"], arrays["turned"])
    assert loaded["empty"].shape == (0, 4)
    assert loaded["empty"].dtype == np.float64


def test_saving_anew_leaves_what_was_loaded(dataset):
    dataset.save(ARRAYS)
    before = dataset.load()["matrix"]
    dataset.save({"matrix": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(before, ARRAYS["matrix"])
    np.testing.assert_array_equal(dataset.load()["matrix"], 0)


def test_text_is_refused_and_nothing_is_left(dataset, tmp_path):
    with pytest.raises(DatasetError, match="cannot hold item_id of type <U1"):
        dataset.save({"item_id": np.array(["x", "y"])})
    assert not list(tmp_path.rglob("*safetensors*"))


def test_a_missing_file_says_the_way_out(dataset):
    with pytest.raises(DatasetError, match="does not exist: run the pipeline"):
        dataset.load()


def file_of(**entry):
    """Write a file of 8 bytes of data whose header says something about them."""
    whole = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": {**whole, **entry}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def test_the_file_that_the_wrong_ones_differ_from_is_right(dataset):
    dataset._filepath.parent.mkdir()
    dataset._filepath.write_bytes(file_of())
    assert dataset.load()["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "unpack requires a buffer of 8 bytes"),
        (struct.pack("<Q", 2**40) + b"{}", "its header goes beyond its end"),
        (struct.pack("<Q", 2) + b"[]", "is no whole safetensors file"),
        (struct.pack("<Q", 2) + b"{x", "is no whole safetensors file"),
        (file_of()[:-1], "a goes beyond its end"),
        (file_of(data_offsets=[-8, 0]), "a goes beyond its end"),
        (file_of(data_offsets=[8, 16]), "a goes beyond its end"),
        (file_of(data_offsets=[0.0, 8.0]), "is no whole safetensors file"),
        (file_of(shape=[3]), "a has another size than its shape"),
        (file_of(shape=[-2]), "a has the shape"),
        (file_of(shape=[2.0]), "a has the shape"),
        (file_of(dtype="F64"), "a has another size than its shape"),
        (file_of(dtype="BF16"), "a has the type BF16"),
        (file_of(more=1), "is no whole safetensors file"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(dataset, content, message):
    dataset._filepath.parent.mkdir()
    dataset._filepath.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        dataset.load()


def test_the_preview_names_type_and_shape(dataset):
    dataset.save(ARRAYS)
    preview = dataset.preview()
    assert preview["columns"] == ["name", "dtype", "shape"]
    assert sorted(preview["data"]) == [
        ["matrix", "float32", "2 x 3"],
        ["sample_id", "int64", "2"],
    ]

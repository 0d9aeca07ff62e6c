import json
import pickle
import struct

import numpy as np
import pytest
from kedro.io import DataCatalog, DatasetError

from minirec.datasets.matrix import MatrixDataset

ARRAYS = {
    "sample_id": np.array([3, 5]),
    "matrix": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "matrix.safetensors"


@pytest.fixture
def dataset(path):
    return MatrixDataset(filepath=str(path))


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


def test_the_file_that_the_wrong_ones_differ_from_is_right(dataset, path):
    path.parent.mkdir()
    path.write_bytes(file_of())
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
def test_a_file_that_is_not_whole_is_refused(dataset, path, content, message):
    path.parent.mkdir()
    path.write_bytes(content)
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


@pytest.fixture
def versioned(path):
    """Return a function that makes the catalog of one run."""
    entry = {
        "type": "minirec.datasets.matrix.MatrixDataset",
        "filepath": path.as_posix(),
        "versioned": True,
    }

    def catalog(**versions):
        return DataCatalog.from_config({"matrix": entry}, **versions)

    return catalog


def save_two_versions(versioned):
    for version, number in (("2026-01-01", 1), ("2026-01-02", 2)):
        catalog = versioned(save_version=version)
        catalog.save("matrix", {"a": np.array([number])})


def test_versions_lie_side_by_side(versioned, path):
    assert not versioned().exists("matrix")
    save_two_versions(versioned)
    for version in ("2026-01-01", "2026-01-02"):
        assert [p.name for p in (path / version).iterdir()] == [path.name]
    assert versioned().exists("matrix")
    newest = versioned().load("matrix")["a"]
    assert isinstance(newest, np.memmap)
    assert newest.tolist() == [2]
    old = versioned(load_versions={"matrix": "2026-01-01"})
    assert old.load("matrix")["a"].tolist() == [1]
    none = versioned(load_versions={"matrix": "2026-01-03"})
    assert not none.exists("matrix")
    with pytest.raises(DatasetError, match=r"2026-01-03/matrix.safetensors does not e"):
        none.load("matrix")


def test_a_version_is_saved_once(versioned):
    catalog = versioned(save_version="2026-01-01")
    catalog.save("matrix", {"a": np.array([1])})
    with pytest.raises(DatasetError, match="must not exist if versioning is enabled"):
        catalog.save("matrix", {"a": np.array([2])})
    assert catalog.load("matrix")["a"].tolist() == [1]


def test_a_matrix_does_not_replace_its_versions(versioned, dataset):
    save_two_versions(versioned)
    with pytest.raises(DatasetError, match="Is a directory"):
        dataset.save(ARRAYS)
    assert versioned().load("matrix")["a"].tolist() == [2]


def test_versions_do_not_replace_the_matrix(versioned, dataset):
    dataset.save(ARRAYS)
    with pytest.raises(DatasetError, match="Cannot save versioned dataset"):
        versioned().save("matrix", {"a": np.array([1])})
    assert dataset.load().keys() == ARRAYS.keys()


def test_a_versioned_matrix_goes_to_another_process(versioned):
    catalog = versioned(save_version="2026-01-01")
    pickle.loads(pickle.dumps(catalog["matrix"])).save({"a": np.array([1])})
    loaded = pickle.loads(pickle.dumps(catalog["matrix"])).load()
    assert loaded["a"].tolist() == [1]


def test_the_catalog_tells_where_the_matrix_lies(versioned, path):
    catalog = versioned()
    for _ in range(2):  # before and after the dataset was made of its entry
        config, *_ = catalog.to_config()
        assert config["matrix"]["filepath"] == path.as_posix()
        assert config["matrix"]["versioned"]
        assert catalog["matrix"]

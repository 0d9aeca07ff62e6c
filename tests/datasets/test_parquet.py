import pandas as pd
import pytest

from minirec.datasets.parquet import ParquetDataset

TABLE = pd.DataFrame({"sample_id": [1, 2], "seen_item_id": [["a", "b"], []]})


def test_a_table_comes_back_with_its_lists(tmp_path):
    dataset = ParquetDataset(filepath=str(tmp_path / "new" / "table.parquet"))
    dataset.save(TABLE)
    loaded = dataset.load()
    assert loaded["sample_id"].tolist() == [1, 2]
    assert [list(ids) for ids in loaded["seen_item_id"]] == [["a", "b"], []]


def test_a_failed_save_leaves_the_old_table_and_nothing_else(tmp_path):
    dataset = ParquetDataset(filepath=str(tmp_path / "table.parquet"))
    dataset.save(TABLE)
    before = (tmp_path / "table.parquet").read_bytes()
    mixed = pd.DataFrame({"sample_id": [1, "one", object()]})
    with pytest.raises(Exception, match="Could not convert|Conversion failed"):
        dataset.save(mixed)
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]
    assert (tmp_path / "table.parquet").read_bytes() == before


def test_the_preview_holds_plain_values(tmp_path):
    dataset = ParquetDataset(filepath=str(tmp_path / "table.parquet"))
    dataset.save(TABLE)
    assert dataset.preview(nrows=1) == {
        "index": [0],
        "columns": ["sample_id", "seen_item_id"],
        "data": [[1, ["a", "b"]]],
    }

import ibis
import pytest
from kedro.io import DatasetError
from kedro_viz.api.rest.responses.utils import EnhancedORJSONResponse

from minirec.datasets.table import TableDataset


def write(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_suffix_says_the_format(tmp_path, suffix):
    rows = {"user_id": ["a", "b"], "rating": [1.5, 2.0]}
    dataset = TableDataset(filepath=str(tmp_path / "new" / f"table.{suffix}"))
    assert not dataset.exists()
    dataset.save(ibis.memtable(rows))
    assert dataset.exists()
    assert dataset.load().execute().to_dict("list") == rows


def test_columns_are_selected_under_our_names(tmp_path):
    path = write(tmp_path / "orders.tsv", "who\twhat:id\twhere\nann\t7\there\n")
    dataset = TableDataset(
        filepath=path,
        file_format="csv",
        load_args={"delim": "\t"},
        columns={"item_id": "what:id", "user_id": "who"},
    )
    assert dataset.load().execute().to_dict("list") == {
        "item_id": [7],
        "user_id": ["ann"],
    }


def test_types_are_those_of_the_whole_csv_file(tmp_path):
    # DuckDB guesses from 20,480 rows unless told otherwise.
    numbers = "\n".join(map(str, range(30_000)))
    path = write(tmp_path / "ids.csv", f"user_id\n{numbers}\n007x\n")
    ids = TableDataset(filepath=path).load().user_id.execute()
    assert ids.tolist()[-2:] == ["29999", "007x"]


def test_datasets_with_one_connection_can_be_joined(tmp_path):
    left = TableDataset(filepath=write(tmp_path / "left.csv", "k,a\n1,2\n"))
    right = TableDataset(filepath=write(tmp_path / "right.csv", "k,b\n1,3\n"))
    joined = left.load().inner_join(right.load(), "k").execute()
    assert joined.to_dict("list") == {"k": [1], "a": [2], "b": [3]}


def test_a_missing_file_says_the_way_out(tmp_path):
    dataset = TableDataset(filepath=str(tmp_path / "none.parquet"))
    with pytest.raises(DatasetError, match=r"^\S+none.parquet does not exist: run"):
        dataset.load()


def test_a_missing_column_is_named_with_those_there(tmp_path):
    dataset = TableDataset(
        filepath=write(tmp_path / "orders.csv", "who,what\nann,7\n"),
        columns={"user_id": "who", "timestamp": "when"},
    )
    message = r"^\S+orders.csv has no column when \(it has who, what\): .*`columns`"
    with pytest.raises(DatasetError, match=message):
        dataset.load()


def test_an_unknown_suffix_asks_for_the_format(tmp_path):
    with pytest.raises(DatasetError, match="`file_format` in the catalog"):
        TableDataset(filepath=str(tmp_path / "table.inter"))


def test_a_failed_save_leaves_the_old_table_and_nothing_else(tmp_path):
    dataset = TableDataset(filepath=str(tmp_path / "table.parquet"))
    dataset.save(ibis.memtable({"a": ["1"]}))
    broken = dataset.load().union(ibis.memtable({"a": ["x"]}))
    with pytest.raises(DatasetError):
        dataset.save(broken.mutate(a=broken.a.cast("int64")))
    assert dataset.load().a.execute().tolist() == ["1"]
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]


def test_the_preview_is_what_kedro_viz_can_send(tmp_path):
    dataset = TableDataset(filepath=str(tmp_path / "table.parquet"))
    table = ibis.memtable({"sample_id": [0, 1], "history": [["x", "y"], ["z"]]})
    dataset.save(table.mutate(when=ibis.timestamp("2024-01-02 03:04:05")))
    preview = dataset.preview(nrows=1)
    assert preview["index"] == [0]
    assert preview["columns"] == ["sample_id", "history", "when"]
    assert preview["data"][0][:2] == [0, ["x", "y"]]
    assert b"2024-01-02" in EnhancedORJSONResponse(preview).body

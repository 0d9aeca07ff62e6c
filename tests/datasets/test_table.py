import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ibis
import pandas as pd
import pytest
from kedro.io import DatasetError
from kedro_viz.api.rest.responses.utils import EnhancedORJSONResponse

from minirec.datasets import table
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
        "item_id": ["7"],
        "user_id": ["ann"],
    }


def test_datasets_with_one_connection_can_be_joined(tmp_path):
    left = TableDataset(filepath=write(tmp_path / "left.csv", "k,a\n1,2\n"))
    right = TableDataset(filepath=write(tmp_path / "right.csv", "k,b\n1,3\n"))
    joined = left.load().inner_join(right.load(), "k").execute()
    assert joined.to_dict("list") == {"k": ["1"], "a": ["2"], "b": ["3"]}


def test_each_thread_has_a_connection_of_its_own(tmp_path):
    first = TableDataset(filepath=write(tmp_path / "first.csv", "k\n1\n"))
    second = TableDataset(filepath=write(tmp_path / "second.csv", "k\n2\n"))
    assert first.connection is second.connection
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(lambda: (first.connection, second.connection))
        assert other.result()[0] is other.result()[1]
        assert other.result()[0] is not first.connection


def test_threads_that_read_at_once_do_not_mix_up_their_results(tmp_path):
    datasets = []
    for start in range(4):
        rows = "\n".join(str(start + number) for number in range(2000))
        path = write(tmp_path / f"{start}.csv", f"rating\n{rows}\n")
        datasets.append(TableDataset(filepath=path))

    def smallest_read(dataset):
        return [dataset.load().rating.min().execute() for _ in range(10)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(smallest_read, datasets))
    assert found == [[start] * 10 for start in range(4)]


@pytest.mark.parametrize(
    ("text", "load_args"),
    [
        ("a,b\nx;y,2\n", {}),
        ("a;b\nx;2\n", {"delim": ";"}),
        ("a|b\nx|2\n", {"sep": "|"}),
        ("x,2\n", {"header": False, "names": ["a", "b"]}),
    ],
)
def test_a_csv_file_has_commas_and_a_header_unless_told_otherwise(
    tmp_path, text, load_args
):
    path = write(tmp_path / "table.csv", text)
    table = TableDataset(filepath=path, load_args=load_args).load()
    assert table.columns == ("a", "b")
    assert table.b.execute().tolist() == ["2"]


def test_half_a_parquet_file_is_an_error(tmp_path):
    path = tmp_path / "table.parquet"
    dataset = TableDataset(filepath=str(path))
    dataset.save(ibis.memtable({"a": list(range(100))}))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError) as error:
        dataset.load()
    assert str(error.value) == (
        f"{path} cannot be read (Invalid Input Error: No magic bytes found at end of "
        f"file '{path}'): put a whole file in its place; if a pipeline makes it, run "
        f"that."
    )


def test_a_missing_file_says_the_way_out(tmp_path):
    # it may be one's own, which no pipeline makes
    path = tmp_path / "visits.csv"
    with pytest.raises(DatasetError) as error:
        TableDataset(filepath=str(path)).load()
    assert str(error.value) == (
        f"{path} does not exist: put it there or correct `filepath` in the catalog; if "
        "a pipeline makes it, run that."
    )


def test_a_missing_file_says_where_it_comes_from(tmp_path):
    way_out = "put u.data of ml-100k.zip there"
    dataset = TableDataset(filepath=str(tmp_path / "none.csv"), if_missing=way_out)
    with pytest.raises(DatasetError, match=rf"none\.csv does not exist: {way_out}\.$"):
        dataset.load()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_missing_column_is_named_with_those_there(tmp_path, suffix):
    path = tmp_path / f"orders.{suffix}"
    TableDataset(filepath=str(path)).save(ibis.memtable({"who": ["ann"], "what": [7]}))
    columns = {"user_id": "who", "timestamp": "when"}
    dataset = TableDataset(filepath=str(path), columns=columns)
    message = r"^\S+orders.\w+ has no column when \(it has who, what\): .*`columns`"
    with pytest.raises(DatasetError, match=message):
        dataset.load()


def test_what_to_do_with_bad_rows_is_one_of_two(tmp_path):
    with pytest.raises(DatasetError, match="on_bad_rows is 'skip': write `fail` or"):
        TableDataset(filepath=str(tmp_path / "a.csv"), on_bad_rows="skip")


def test_a_parquet_file_has_no_bad_rows_to_drop(tmp_path):
    with pytest.raises(DatasetError, match="on_bad_rows is for text files"):
        TableDataset(filepath=str(tmp_path / "a.parquet"), on_bad_rows="drop")


def test_lists_units_and_nested_columns_of_parquet_become_plain(tmp_path):
    path = str(tmp_path / "table.parquet")
    rows = [{"n": {"who": "ann"}, "tags": ["a", "b"], "t": 1500}]
    types = {"n": "struct<who: string>", "tags": "array<string>", "t": "int64"}
    TableDataset(filepath=path).save(ibis.memtable(rows, schema=types))
    columns = {
        "user_id": "n.who",
        "description": "tags",
        "timestamp": {"from": "t", "unit": "ms"},
    }
    assert TableDataset(filepath=path, columns=columns).load().execute().to_dict(
        "list"
    ) == {"user_id": ["ann"], "description": ["a, b"], "timestamp": [1.5]}


def test_a_text_file_is_read_again_only_when_it_changed(tmp_path):
    path = tmp_path / "ids.csv"
    dataset = TableDataset(filepath=write(path, "item_id\na\n"))
    before = dataset.load()
    write(path, "item_id\na\nb\n")
    assert dataset.load().item_id.execute().tolist() == ["a", "b"]
    assert before.item_id.execute().tolist() == ["a"]


def test_what_text_files_became_goes_with_the_process(tmp_path):
    path = write(tmp_path / "ids.csv", "item_id\na\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import glob; from minirec.datasets.table import TableDataset as T; "
        f"print(T(filepath={path!r}).load().count().execute(), glob.glob('{scratch}/*/*'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"1 ['{scratch}/minirec-")
    assert list(scratch.iterdir()) == []


def test_a_temporary_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_scratch", lambda: tmp_path / "gone")
    dataset = TableDataset(filepath=write(tmp_path / "ids.csv", "item_id\na\n"))
    message = r"ids.csv cannot be written as Parquet \(IO Error: .*gone.*TMPDIR\.$"
    with pytest.raises(DatasetError, match=message):
        dataset.load()


def test_an_unknown_suffix_asks_for_the_format(tmp_path):
    with pytest.raises(DatasetError, match="by `file_format` in the catalog whether"):
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


def test_what_spark_wrote_is_read_and_replaced(tmp_path):
    path = tmp_path / "table.parquet"
    path.mkdir()
    for part, ids in enumerate(([1, 2], [3])):
        pd.DataFrame({"x": ids}).to_parquet(path / f"part-{part:05}.parquet")
    (path / "_SUCCESS").touch()
    dataset = TableDataset(filepath=str(path))
    assert dataset.load().x.execute().tolist() == [1, 2, 3]
    dataset.save(ibis.memtable({"x": [4]}))
    assert path.is_file()
    assert dataset.load().x.execute().tolist() == [4]


def test_a_folder_of_anything_else_is_not_replaced(tmp_path):
    (tmp_path / "table.parquet").mkdir()
    dataset = TableDataset(filepath=str(tmp_path / "table.parquet"))
    with pytest.raises(DatasetError, match="Is a directory"):
        dataset.save(ibis.memtable({"x": [4]}))


def test_each_connection_spills_to_a_folder_of_its_own(tmp_path):
    def spills_to(**connection):
        dataset = TableDataset(
            filepath=str(tmp_path / "t.parquet"),
            connection={"backend": "duckdb", **connection},
        )
        settings = dataset.connection.raw_sql(
            "SELECT current_setting('temp_directory')"
        )
        return settings.fetchone()[0]

    first, second = spills_to(), spills_to(memory_limit="1GB")
    assert Path(first).parent == Path(second).parent
    assert first != second
    assert spills_to(temp_directory=str(tmp_path / "own")) == str(tmp_path / "own")

from concurrent.futures import ThreadPoolExecutor

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
        path = write(tmp_path / f"{start}.csv", f"number\n{rows}\n")
        datasets.append(TableDataset(filepath=path))

    def smallest_read(dataset):
        return [dataset.load().number.min().execute() for _ in range(10)]

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
    assert table.b.execute().tolist() == [2]


def test_a_file_in_latin_1_is_read_when_told_so(tmp_path):
    path = tmp_path / "items.csv"
    path.write_bytes("item_id,title\n1,Amélie\n".encode("latin-1"))
    dataset = TableDataset(filepath=str(path))
    with pytest.raises(DatasetError) as error:
        dataset.load()
    assert str(error.value) == (
        f"{path} cannot be read (line 2: Invalid unicode (byte sequence mismatch) "
        f"detected. This file is not utf-8 encoded): mend the file, or say how it is "
        f"written by `load_args` in the catalog, such as `encoding: latin-1` or "
        f"`delim: ';'`."
    )
    dataset = TableDataset(filepath=str(path), load_args={"encoding": "latin-1"})
    assert dataset.load().title.execute().tolist() == ["Amélie"]


@pytest.mark.parametrize(
    ("row", "found"), [("2,Good, Bad, Ugly", "4"), ("2", "1"), ("2,Good, Bad", "3")]
)
@pytest.mark.parametrize("rows_before", [1, 30_000])
def test_a_row_of_another_length_is_named(tmp_path, row, found, rows_before):
    rows = "1,Up\n" * rows_before
    path = write(tmp_path / "items.csv", f"item_id,title\n{rows}{row}\n3,Big\n")
    message = (
        rf"^\S+items.csv cannot be read \(line {rows_before + 2}: Expected Number of "
        rf"Columns: 2 Found: {found}\): mend the file"
    )
    with pytest.raises(DatasetError, match=message):
        TableDataset(filepath=path).load()


def test_an_argument_that_the_reader_does_not_know_is_named(tmp_path):
    path = write(tmp_path / "items.csv", "item_id\n1\n")
    message = (
        r"\(Binder Error: Invalid named parameter \"delimit\" .*\): mend .*load_args"
    )
    with pytest.raises(DatasetError, match=message):
        TableDataset(filepath=path, load_args={"delimit": ";"}).load()


def test_half_a_parquet_file_is_an_error(tmp_path):
    path = tmp_path / "table.parquet"
    dataset = TableDataset(filepath=str(path))
    dataset.save(ibis.memtable({"a": list(range(100))}))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError) as error:
        dataset.load()
    assert str(error.value) == (
        f"{path} cannot be read (Invalid Input Error: No magic bytes found at end of "
        f"file '{path}'): put a whole file in its place, or run the pipeline that "
        f"makes it."
    )


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

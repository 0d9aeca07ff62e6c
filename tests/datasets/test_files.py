import json
import re

import pandas as pd
import plotly.graph_objects as go
import pytest
from kedro.io import DataCatalog

from minirec.datasets.files import (
    CSVDataset,
    FigureDataset,
    HTMLDataset,
    JSONLinesDataset,
    ParquetDataset,
    TextDataset,
)

TABLE = pd.DataFrame({"sample_id": [1, 2], "seen_item_id": [["a", "b"], []]})
METRICS = pd.DataFrame({"method": ["trained", "nearest"], "mean": [0.5, 0.25]})
FIGURE = go.Figure(go.Bar(x=["a", "b"], y=[1.0, 2.0]))


PAGE = "<body><p>Überblick</p><section>eins</section><section>zwei</section></body>\n"
# what Kedro-Viz 12.5 takes for Markdown in a preview
MARKDOWN = [
    r"\|(.+)\|\n\|[-s|:]+\|\n((?:\|.+\|\n?)*)",
    r"^#{1,3} (.*$)",
    r"\*(.*?)\*",
    r"_(.*?)_",
    r"`([^`]+)`",
    r"\[([^\]]+)\]\(([^)]+)\)",
    r"^\d+\.\s(.+)$",
    r"^[*-]\s(.+)$",
    r"\n",
]


class Unwritable:
    def __str__(self):
        raise ValueError("cannot be written")


def test_a_table_comes_back_with_its_lists(tmp_path):
    dataset = ParquetDataset(filepath=str(tmp_path / "new" / "table.parquet"))
    dataset.save(TABLE)
    loaded = dataset.load()
    assert loaded["sample_id"].tolist() == [1, 2]
    assert [list(ids) for ids in loaded["seen_item_id"]] == [["a", "b"], []]


def test_a_csv_table_comes_back(tmp_path):
    dataset = CSVDataset(filepath=str(tmp_path / "new" / "table.csv"))
    dataset.save(METRICS)
    pd.testing.assert_frame_equal(dataset.load(), METRICS)
    text = (tmp_path / "new" / "table.csv").read_text()
    assert text == "method,mean\ntrained,0.5\nnearest,0.25\n"


def test_an_object_a_line_comes_back(tmp_path):
    dataset = JSONLinesDataset(filepath=str(tmp_path / "new" / "table.jsonl"))
    table = pd.DataFrame(
        {
            "text": ["2026-11-23", "Été\n"],
            "date": ["007", "1e3"],  # a name and values that pandas would convert
            "chat": [[{"role": "user", "content": "a"}], []],
            "reward": [0.1 + 0.2, 1.0],  # 17 digits,
        }
    )
    dataset.save(table)
    first, second = (tmp_path / "new" / "table.jsonl").read_text("utf-8").splitlines()
    assert json.loads(first) == table.iloc[0].to_dict()
    assert "Été" in second
    pd.testing.assert_frame_equal(
        dataset.load(), table, check_dtype=False, check_exact=True
    )


def test_a_text_comes_back(tmp_path):
    dataset = TextDataset(filepath=str(tmp_path / "new" / "text.jinja"))
    dataset.save("{{ é }}\n\n")
    assert dataset.load() == "{{ é }}\n\n"


def test_a_figure_comes_back(tmp_path):
    dataset = FigureDataset(filepath=str(tmp_path / "new" / "figure.json"))
    dataset.save(FIGURE)
    assert dataset.load() == FIGURE


def test_a_page_comes_back(tmp_path):
    dataset = HTMLDataset(filepath=str(tmp_path / "new" / "page.html"))
    dataset.save(PAGE)
    assert dataset.load() == PAGE
    assert (tmp_path / "new" / "page.html").read_bytes() == PAGE.encode()


@pytest.mark.parametrize(
    ("dataset", "good", "bad"),
    [
        (ParquetDataset, TABLE, pd.DataFrame({"sample_id": [1, "one", object()]})),
        # The first row can be written, so half a file would lie there.
        (CSVDataset, METRICS, pd.DataFrame({"method": ["trained", Unwritable()]})),
        (JSONLinesDataset, METRICS, pd.DataFrame({"method": [{1: "\udcff"}]})),
        (FigureDataset, FIGURE, go.Figure(layout={"meta": {1, 2}})),
        (HTMLDataset, PAGE, "no character: \udcff"),
        (TextDataset, PAGE, "no character: \udcff"),
    ],
)
def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path, dataset, good, bad
):
    saved = dataset(filepath=str(tmp_path / "file"))
    saved.save(good)
    before = (tmp_path / "file").read_bytes()
    message = "not convert|Conversion failed|cannot be written|not JSON|can't encode"
    with pytest.raises(Exception, match=message):
        saved.save(bad)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == before


@pytest.mark.parametrize(
    "dataset",
    [
        *(ParquetDataset, CSVDataset, JSONLinesDataset),
        *(FigureDataset, TextDataset, HTMLDataset),
    ],
)
def test_the_catalog_tells_where_the_file_lies(tmp_path, dataset):
    entry = {
        "type": f"{dataset.__module__}.{dataset.__qualname__}",
        "filepath": (tmp_path / "file").as_posix(),
        "metadata": {"kedro-viz": {"layer": "08_reporting"}},
    }
    config, *_ = DataCatalog.from_config({"file": entry}).to_config()
    assert {key: config["file"][key] for key in entry} == entry


def test_the_previews_hold_plain_values(tmp_path):
    table = ParquetDataset(filepath=str(tmp_path / "table.parquet"))
    table.save(TABLE)
    assert table.preview(nrows=1) == {
        "index": [0],
        "columns": ["sample_id", "seen_item_id"],
        "data": [[1, ["a", "b"]]],
    }
    metrics = CSVDataset(filepath=str(tmp_path / "table.csv"))
    metrics.save(METRICS)
    assert metrics.preview(nrows=1) == {
        "index": [0],
        "columns": ["method", "mean"],
        "data": [["trained", 0.5]],
    }
    figure = FigureDataset(filepath=str(tmp_path / "figure.json"))
    figure.save(FIGURE)
    assert figure.preview() == json.loads(FIGURE.to_json())


def test_the_preview_of_a_page_is_its_first_section(tmp_path):
    page = HTMLDataset(filepath=str(tmp_path / "page.html"))
    page.save(PAGE)
    assert page.preview() == "<section>eins</section>"


@pytest.mark.parametrize(
    "text",
    [
        "*one* **two** _three_ __four__ `five` ```\nsix\n```",
        "[seven](javascript:alert)",
        "# eight\n1. nine\n- ten\n* eleven\n\n|a|\n|-|\n|b|\n",
    ],
)
def test_no_text_of_a_preview_is_markdown(tmp_path, text):
    page = HTMLDataset(filepath=str(tmp_path / "page.html"))
    page.save(f"<body><section><pre>{text}</pre></section></body>")
    assert any(re.search(pattern, text, re.M) for pattern in MARKDOWN)
    for pattern in MARKDOWN:
        assert not re.search(pattern, page.preview(), re.M)

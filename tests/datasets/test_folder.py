import pytest
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Node, Pipeline

from minirec.datasets.folder import FolderDataset
from minirec.lineage.content import Hashes
from minirec.lineage.graph import Graph, makers_of


def write_note(folder):
    (folder / "note").write_text("as far as this")
    return 1


def test_a_folder_is_made_and_given_as_a_path(tmp_path):
    dataset = FolderDataset(folder=str(tmp_path / "some" / "batches"))
    assert dataset.exists()
    assert dataset.load() == tmp_path / "some" / "batches"
    assert dataset.load().is_dir()


def test_a_folder_is_not_saved(tmp_path):
    with pytest.raises(DatasetError, match="takes no data"):
        FolderDataset(folder=str(tmp_path)).save({})


def test_what_lies_in_it_makes_no_table_stale(tmp_path):
    folder = FolderDataset(folder=str(tmp_path / "batches"))
    node = Node(write_note, "batches", "table")
    graph = [
        Graph(
            DataCatalog({"batches": folder}),
            makers_of([Pipeline([node])]),
            {},
            Hashes(),
        )
        for _ in range(2)
    ]
    before = graph[0].origin("table")
    contents = graph[0].input_contents(node)
    write_note(folder.load())
    assert graph[1].origin("table").key == before.key
    assert graph[1].input_contents(node) == contents

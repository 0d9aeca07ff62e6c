import shutil

import pytest
from kedro.io import DatasetError

from minirec.datasets.base_parameters import BaseParametersDataset

FILE = "base/parameters_select.yml"


@pytest.fixture
def conf(copy_project, monkeypatch):
    path = copy_project()
    monkeypatch.chdir(path)
    return path / "conf"


def test_they_are_those_of_the_folder_whatever_others_say(conf):
    (conf / "local" / "parameters.yml").write_text("select:\n  size: 7\n")
    found = BaseParametersDataset(folder="conf/base").load()
    assert found["select"]["size"] == 64
    assert found["score"]["learnability"] == {"mu": "auto", "sigma": None}


def test_a_value_is_another_source_and_a_comment_is_none(conf):
    dataset = BaseParametersDataset(folder="conf/base")
    before = dataset.identity()
    text = (conf / FILE).read_text()
    (conf / FILE).write_text(f"# a comment\n{text}")
    assert dataset.identity() == before
    (conf / FILE).write_text(text.replace("size: 64", "size: 65"))
    assert dataset.identity() != before


def test_without_the_folder_nothing_is_known(conf):
    shutil.rmtree(conf / "base")
    assert BaseParametersDataset(folder="conf/base").load() == {}


def test_they_are_read_only(conf):
    with pytest.raises(DatasetError, match="read only"):
        BaseParametersDataset(folder="conf/base").save({})

import logging
import os
import shutil
import sys
import time
from functools import partial
from typing import ClassVar

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kedro.io import AbstractDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import ThreadRunner

from minirec.errors import InputError
from minirec.lineage import record as record_module
from minirec.lineage.hook import LineageHook
from minirec.lineage.record import SUFFIX, Location, read, versions

NODES = ["clean", "shift", "embed", "train", "end"]


def sentence(project, *names, **options):
    """Run some nodes, which is refused, and return what was said."""
    with pytest.raises(InputError) as refused:
        project.run(*names, **options)
    return refused.value.message


def test_what_has_run_does_not_run_again(project):
    assert project.run() == []


@pytest.mark.parametrize(
    ("name", "value", "ran"),
    [
        ("minimum", 1, NODES),
        ("by", 1.0, ["shift", "end"]),
        ("seed", 2, ["embed", "train", "end"]),
        ("rate", 0.2, ["train", "end"]),
        ("weights", {"a": 1.0, "b": 3.0}, ["end"]),
    ],
)
def test_a_parameter_touches_what_is_made_from_it(project, name, value, ran):
    project.parameters[name] = value

    assert sorted(project.run()) == sorted(ran)
    assert project.run() == []


@pytest.mark.parametrize(
    ("old", "new", "ran"),
    [
        ("def shift", "# why not\ndef shift", []),
        ('"""Scale."""', '"""Scale each."""', []),
        ("    return table + by", "    return (\n        table + by\n    )", []),
        ("table + by", "by + table", ["shift", "end"]),
        ("FACTOR = 3.0", "FACTOR = 4.0", NODES),
        ("table * FACTOR", "FACTOR * table", NODES),
    ],
)
def test_code_touches_what_it_makes_but_comments_do_not(project, old, new, ran):
    assert old in project.source
    project.source = project.source.replace(old, new)

    assert sorted(project.run()) == sorted(ran)


def test_raw_data_touches_everything_but_its_date_does_not(project):
    raw = project.path("raw")
    os.utime(raw, (0, 0))
    assert project.run() == []

    raw.write_text(raw.read_text() + "4.0\n")
    assert sorted(project.run()) == sorted(NODES)


def test_a_source_that_was_deleted_has_not_changed(project):
    project.path("raw").unlink()

    assert project.run() == []
    assert project.run("end", only_missing=False) == ["end"]


def test_how_a_table_is_read_touches_what_is_made_from_it(project):
    project.entries["raw"]["load_args"] = {"skiprows": [1]}

    said = sentence(project, "shift", only_missing=False)

    assert "`table` is stale: raw.load_args was not there" in said
    assert sorted(project.run()) == sorted(NODES)


def test_another_source_is_named_and_not_told_setting_by_setting(
    make_project, monkeypatch
):
    project = make_project()
    monkeypatch.chdir(project.folder)  # paths are told as seen from there
    project.run()
    project.path("raw").with_name("visits.csv").write_text("y;z\n7;8\n")
    # read by another dataset, and so by other code, with settings of its own
    project.entries["raw"] = {
        **project.entry("minirec.datasets.table.TableDataset", "visits.csv"),
        "columns": {"x": "y"},
        "load_args": {"sep": ";"},
    }

    assert sentence(project, "shift", only_missing=False) == (
        "`table` is stale: raw was raw.csv, is another source now, visits.csv. Run "
        "`kedro run --pipelines score --only-missing-outputs`."
    )

    project.parameters["minimum"] = 1
    assert "visits.csv; params:minimum was 2, is 1." in sentence(
        project, "shift", only_missing=False
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def edit(path):
    pd.DataFrame({"x": [0.0]}).to_parquet(path)


def lose_record(path):
    path.with_name(path.name + SUFFIX).unlink()


def cut_record(path):
    cut(path.with_name(path.name + SUFFIX))


def lose_part(path):
    (path / "adapter_model.safetensors").unlink()


def delete(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "damage", "maker", "said"),
    [
        ("table", edit, "clean", "`table` was changed after clean wrote it"),
        ("table", cut, "clean", "`table` was changed after clean wrote it"),
        ("table", lose_record, "clean", "`table` has no record of how it was made"),
        ("table", cut_record, "clean", "`table` has no record of how it was made"),
        ("table", delete, "clean", "`table` is missing"),
        ("matrix", cut, "embed", "`matrix` was changed after embed wrote it"),
        ("adapter", lose_part, "train", "`adapter` was changed after train wrote it"),
        ("adapter", delete, "train", "`adapter` is missing"),
    ],
)
def test_a_damaged_dataset_is_refused_and_made_anew(
    project, caplog, name, damage, maker, said
):
    before = project.contents()
    readers = {"table": "shift", "matrix": "train", "adapter": "end"}
    damage(project.path(name))

    assert sentence(project, readers[name], only_missing=False).startswith(said)
    with caplog.at_level(logging.INFO, "minirec"):
        assert project.run() == [maker]  # what was made from it stays as it was
    assert f"`{name}` is made anew: it {said.partition('` ')[2]}" in caplog.text
    assert "4 of 5 datasets are up to date" in caplog.text
    assert project.contents() == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (delete, "they are missing"),
        (lose_record, "they have no record of how they were made"),
    ],
)
def test_what_is_wrong_with_several_datasets_is_said_of_all(
    project, caplog, damage, said
):
    damage(project.path("table"))
    damage(project.path("left"))

    with caplog.at_level(logging.INFO, "minirec"):
        project.run()
    assert f"`table` and `left` are made anew: {said}" in caplog.text


def test_a_table_is_refused_where_one_far_upstream_was_edited(project):
    edit(project.path("table"))

    assert sentence(project, "end", only_missing=False).startswith(
        "`adapter` and `left` are stale: table was changed after clean wrote it."
    )


def test_what_was_deleted_upstream_does_not_matter(project):
    project.path("table").unlink()
    project.path("matrix").unlink()

    assert project.run("end", only_missing=False) == ["end"]


def test_a_refusal_says_what_changed_and_what_to_run(project):
    project.parameters["weights"] = {"a": 1.0, "b": 2.5}
    project.parameters["rate"] = 0.3

    said = sentence(
        project, "end", env="test", runtime_params={"rate": 0.3, "weights": {"b": 2.5}}
    )

    assert said == (
        "`adapter` is stale: params:rate was 0.1, is 0.3. Run `kedro run --pipelines "
        "score --only-missing-outputs --env test --params rate=0.3,weights.b=2.5`."
    )


def test_a_refusal_names_the_code_that_changed(project):
    project.source = project.source.replace("matrix[", "0 + matrix[")

    said = sentence(project, "end")

    assert said.startswith(f"`adapter` is stale: {project.module}.train changed. Run")


def test_only_what_the_run_reads_is_refused(project):
    project.parameters["rate"] = 0.3

    assert project.run("shift", only_missing=False) == ["shift"]


def test_a_table_that_came_out_otherwise_is_news_for_those_after_it(project):
    # The same key, another content: as if its node were not deterministic.
    edit(project.path("table"))
    where = Location(*project_location(project, "table"))
    record = read(where)
    content = project_hash(project, "table")
    path = project.path("table")
    path.with_name(path.name + SUFFIX).write_text(
        record.model_copy(update={"content": content}).model_dump_json()
    )

    assert sentence(project, "shift", "end", only_missing=False)
    assert sorted(project.run()) == ["embed", "end", "shift", "train"]


def project_location(project, name):
    from minirec.lineage.record import location

    return location(project.catalog()[name])


def project_hash(project, name):
    from minirec.lineage.content import Hashes

    return Hashes().of(*project_location(project, name))


def test_records_chain_by_their_keys(project):
    records = {
        name: read(project_location(project, name))
        for name in ("table", "left", "matrix", "adapter", "end")
    }

    assert records["end"].inputs == {
        "left": records["left"].key,
        "adapter": records["adapter"].key,
    }
    assert records["left"].inputs == {"table": records["table"].key}
    assert records["end"].upstream.params["params:minimum"] == 2
    assert records["end"].upstream.sources["raw"]["content"] == project_hash(
        project, "raw"
    )
    assert records["end"].models == {"adapter": records["adapter"].content[:12]}
    assert records["end"].run_id == "a-run"
    assert records["end"].versions["torch"]


def test_a_table_in_memory_is_made_only_for_what_needs_it(make_project):
    project = make_project()
    del project.entries["left"]

    assert sorted(project.run()) == sorted(NODES)
    assert project.run() == []
    project.parameters["weights"] = {"a": 2.0, "b": 2.0}
    assert project.run() == ["shift", "end"]
    project.parameters["by"] = 1.0
    assert project.run() == ["shift", "end"]


def test_versions_are_recorded_each_by_itself(make_project):
    project = make_project()
    project.entries["left"]["versioned"] = True
    project.entries["adapter"]["versioned"] = True
    project.run()
    (first,) = project.path("left").iterdir()
    assert project.run() == []

    time.sleep(0.01)  # a version is a time in milliseconds
    project.parameters["by"] = 1.0
    assert project.run() == ["shift", "end"]
    assert len(list(project.path("left").glob(f"*/left.parquet{SUFFIX}"))) == 2

    # An older version is read where the user asks for it, and the others know.
    pinned = {"left": first.name}
    assert project.run("end", only_missing=False, load_versions=pinned) == ["end"]
    assert project.run(load_versions=pinned) == []
    assert project.run() == ["end"]


def test_a_version_that_was_damaged_is_refused_though_asked_for(make_project):
    project = make_project()
    project.entries["left"]["versioned"] = True
    project.run()
    (version,) = project.path("left").iterdir()
    cut(version / "left.parquet")

    said = sentence(
        project, "end", only_missing=False, load_versions={"left": version.name}
    )

    assert said.startswith("`left` was changed after shift wrote it.")


def parts(table):
    for x in table["x"]:
        yield pd.DataFrame({"x": [x]})


def total(pieces):
    return pieces.sum().to_frame("x")


def test_what_is_saved_in_parts_is_recorded_when_all_are_there(project):
    project.entries["pieces"] = project.entry("pandas.CSVDataset", "pieces.csv")
    project.entries["pieces"]["save_args"] = {"mode": "a", "index": False}
    project.entries["total"] = project.entry("pandas.CSVDataset", "total.csv")
    pipeline = project.pipeline + Pipeline(
        [
            node(parts, "table", "pieces", name="parts"),
            node(total, "pieces", "total", name="total"),
        ]
    )

    assert project.run(pipeline=pipeline) == ["parts", "total"]
    assert project.run(pipeline=pipeline) == []


def test_what_a_process_without_hooks_saved_is_recorded_in_the_end(project):
    project.parameters["by"] = 1.0

    project.run(node_hooks=False, run_id="another-run")

    records = {n: read(project_location(project, n)) for n in ("table", "left", "end")}
    assert {name: record.run_id for name, record in records.items()} == {
        "table": "a-run",
        "left": "another-run",
        "end": "another-run",
    }
    assert records["end"].inputs["left"] == records["left"].key
    assert project.run() == []


def test_an_input_changed_while_a_node_ran_leaves_no_record(project):
    def meddle(table, path):
        edit(path)
        return table

    project.entries["copy"] = project.entry("pandas.CSVDataset", "copy.csv")
    meddler = partial(meddle, path=project.path("table"))
    pipeline = project.pipeline + Pipeline(
        [node(meddler, "table", "copy", name="meddle")]
    )

    with pytest.raises(InputError, match="`table` was changed while meddle read it"):
        project.run(pipeline=pipeline)

    assert read(project_location(project, "copy")) is None


def test_arguments_of_a_partial_function_are_code(project):
    def both(by):
        twice = partial(pd.DataFrame.add, other=by)
        return project.pipeline + Pipeline([node(twice, "table", "more", name="more")])

    project.entries["more"] = project.entry("pandas.CSVDataset", "more.csv")
    assert project.run(pipeline=both(1)) == ["more"]
    assert project.run(pipeline=both(1)) == []
    assert project.run(pipeline=both(2)) == ["more"]


def test_threads_record_as_one_does(make_project):
    project = make_project()

    assert sorted(project.run(runner=ThreadRunner())) == sorted(NODES)
    assert project.run() == []
    project.parameters["by"] = 1.0
    assert sorted(project.run(runner=ThreadRunner())) == ["end", "shift"]


def test_a_failed_run_keeps_the_records_of_what_had_finished(make_project):
    project = make_project()
    good = project.source
    project.source = good.replace("import torch", "import torch; 1 / 0")

    with pytest.raises(ZeroDivisionError):
        project.run()
    project.source = good
    assert sorted(project.run()) == ["end", "train"]


def test_a_kept_table_that_someone_else_wrote_is_not_signed(project, caplog):
    project.parameters["rate"] = 0.3
    meddle = {"train": lambda: edit(project.path("left"))}

    assert project.run(during=meddle) == ["train", "end"]

    assert "`left` was changed after shift wrote it" in caplog.text
    assert project.run() == ["shift", "end"]


def test_code_counts_as_it_was_when_the_run_began(make_project):
    project = make_project()
    edited = project.source.replace("table + by", "table - by")
    file = project.folder / f"{project.module}.py"

    project.run(during={"clean": lambda: file.write_text(edited)})

    project.source = edited
    assert sorted(project.run()) == ["end", "shift"]


def test_code_that_was_not_loaded_again_does_not_run(project):
    loaded = project.pipeline
    assert project.run(pipeline=loaded) == []
    file = project.folder / f"{project.module}.py"
    file.write_text(project.source.replace("table + by", "table - by"))

    with pytest.raises(InputError, match=f"{project.module} was edited after"):
        project.run(pipeline=loaded)


def test_a_source_elsewhere_that_is_not_there_has_changed(project):
    project.entries["raw"]["filepath"] = (project.folder / "none.csv").as_posix()

    assert sentence(project, "shift", only_missing=False).startswith(
        "`table` is stale: raw was "
    )


def test_how_a_table_is_written_counts(project):
    project.entries["left"]["save_args"] = {"compression": "gzip"}

    assert sentence(project, "end").startswith(
        "`left` is stale: left.save_args was not there"
    )
    assert project.run() == ["shift", "end"]


class Shelf(AbstractDataset):
    """A table that lies in no file, as in a database."""

    held: ClassVar[dict] = {}

    def __init__(self, name):
        self._name = name

    def load(self):
        return self.held[self._name]

    def save(self, data):
        self.held[self._name] = data

    def _exists(self):
        return self._name in self.held

    def _describe(self):
        return {"name": self._name}


def test_a_table_without_a_file_is_known_by_its_record(make_project):
    project = make_project()
    shelf = {"type": f"{__name__}.Shelf", "name": project.module}
    project.entries["left"] = shelf
    sys.modules[__name__] = sys.modules.get(__name__) or sys.modules["__main__"]

    assert sorted(project.run()) == sorted(NODES)
    assert project.run() == []
    project.parameters["by"] = 100.0
    assert "`left` is stale: params:by was 0.5" in sentence(
        project, "end", only_missing=False
    )
    assert project.run() == ["shift", "end"]


def test_a_table_read_in_two_ways_is_one_table(project):
    way = project.entries.pop("left")
    project.entries |= {"left@one": way, "left@other": dict(way)}
    one, other = project.pipeline, project.pipeline
    code = sys.modules[project.module]
    pipeline = Pipeline(
        [each for each in other.nodes if each.name not in ("shift", "end")]
        + [
            node(code.shift, ["table", "params:by"], "left@one", name="shift"),
            node(
                code.end,
                ["left@other", "adapter", "params:weights"],
                "end",
                name="end",
            ),
        ]
    )
    assert one is not other
    project.run(pipeline=pipeline)

    edit(project.folder / "left.parquet")
    said = sentence(project, "end", pipeline=pipeline, only_missing=False)
    assert said.startswith("`left@other` was changed after shift wrote it")
    assert project.run(pipeline=pipeline) == ["shift"]


def test_a_node_that_takes_other_tables_makes_another(project):
    whole = project.pipeline
    code = sys.modules[project.module]
    rewired = Pipeline(
        [each for each in whole.nodes if each.name != "shift"]
        + [node(code.shift, ["raw", "params:by"], "left", name="shift")]
    )

    assert project.run(pipeline=rewired) == ["shift", "end"]


def test_two_runs_do_not_write_the_same_tables(project):
    said = []

    def another():
        said.append(sentence(project, only_missing=False))

    project.parameters["rate"] = 0.3
    project.run(during={"train": another})

    assert said[0].startswith(f"another run writes the tables in {project.folder}")
    assert project.run() == []


def test_a_run_that_was_stopped_does_not_stand_in_the_way(project):
    def stop():
        raise KeyboardInterrupt

    session = LineageHook()  # as of a notebook, whose lock its next run must not meet
    project.parameters["rate"] = 0.3
    with pytest.raises(KeyboardInterrupt):
        project.run(during={"train": stop}, session=session)
    assert "train" in project.run(session=session)


def test_other_versions_of_packages_are_warned_of(project, caplog, monkeypatch):
    now = versions()
    monkeypatch.setattr(record_module, "versions", lambda: now | {"torch": "9.9"})

    assert project.run() == []
    assert f"made with torch {now['torch']} and are read all the same" in caplog.text


def test_a_disk_that_cannot_be_written_stops_no_run_without_need(project, caplog):
    hashes = project.folder / "hashes.json"
    hashes.unlink(missing_ok=True)
    hashes.mkdir()
    project.path("raw").touch()
    time.sleep(0.2)  # after the tick in which it was touched

    assert project.run() == []
    assert "hashes.json cannot be written" in caplog.text


EDITS = st.one_of(
    st.tuples(st.just("minimum"), st.integers(0, 3)),
    st.tuples(st.just("by"), st.sampled_from([0.5, 1.0, 2.0])),
    st.tuples(st.just("seed"), st.integers(0, 2)),
    st.tuples(st.just("rate"), st.sampled_from([0.1, 0.2])),
    st.tuples(
        st.just("weights"),
        st.fixed_dictionaries(
            {"a": st.sampled_from([1.0, 2.0]), "b": st.sampled_from([1.0, 2.0])}
        ),
    ),
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.lists(EDITS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_after_any_edits_an_incremental_run_equals_a_clean_one(make_project, rounds):
    incremental = make_project()
    incremental.run()
    for edits in rounds:
        incremental.parameters |= dict(edits)
        incremental.run()

    clean = make_project()
    clean.parameters = incremental.parameters
    clean.run()

    assert incremental.contents() == clean.contents()
    assert incremental.run() == []

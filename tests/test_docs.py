"""The reference names every parameter and every table, and links lead to pages."""

import importlib
import pkgutil
from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]


class Told(BaseModel):
    """A group."""

    one: int
    """Said."""


class Untold(BaseModel):
    """A group."""

    told: Told | None
    silent: int


@pytest.fixture(scope="module")
def script():
    """Return a function that imports a module of scripts/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module


@pytest.fixture
def reference(script):
    return script("docs_reference")


@pytest.fixture(scope="module")
def base():
    return OmegaConfigLoader(str(ROOT / "conf"), env="base", base_env="base")


def leaves(group, above=""):
    for name, value in group.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def test_every_parameter_is_there(reference, base):
    page = reference.parameters_page()
    given = base["parameters"]
    # an arm's own names are paths of parameters that are there
    given["experiment"]["arms"] = None
    for path in leaves(given):
        # a group that is null has a heading
        assert f'id="{path}"' in page or f"\n## {path}\n" in page


def test_every_table_is_there_with_its_columns(reference, base):
    sections = reference.tables_page().split("\n### ")
    tables = {section.split("\n")[0]: section for section in sections}
    for name, entry in base["catalog"].items():
        if "validator" in entry:
            schema = pkgutil.resolve_name(entry["validator"]).to_schema()
            assert entry["filepath"] in tables[name]
            assert all(f"| `{column}` |" in tables[name] for column in schema.columns)


def test_a_parameter_without_a_text_is_refused(reference, monkeypatch):
    monkeypatch.setattr(reference, "Parameters", Untold)
    with pytest.raises(ValueError, match=r"without a text below the field: silent$"):
        reference.parameters_page()


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("``auto``; None: any", "`auto`; `null`: any"),
        ("as `None` is", "as `None` is"),
        ("<file>.json", "&lt;file>.json"),
    ],
)
def test_docstrings_become_markdown(reference, docstring, text):
    assert reference.markdown(docstring) == text


@pytest.mark.parametrize(
    ("page", "link", "leads_to"),
    [
        ("readme.md", "docs/data.md#columns", "data.md#columns"),
        ("readme.md", "docs/dag.png", "dag.png"),
        ("data.md", "../README.md#run-it", "readme.md#run-it"),
        ("data.md", "model.md", "model.md"),
        ("data.md", "../conf/base/catalog.yml", "source/conf/base/catalog.yml.md"),
        ("reference/tables.md", "../../Makefile", "../source/Makefile"),
        ("data.md", "https://arxiv.org", "https://arxiv.org"),
        ("data.md", "../no/such.py", "../no/such.py"),
    ],
)
def test_links_lead_to_pages(script, page, link, leads_to):
    assert script("docs_site").led(f"[a]({link})", page, set()) == f"[a]({leads_to})"

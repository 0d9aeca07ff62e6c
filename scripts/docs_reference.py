"""Write the reference of parameters and of tables, from what checks them.

Parameters come from the pydantic models, with the text below each field; tables from
the catalog, the pipelines and the pandera schemas.
"""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pandera.ibis as pai
from kedro.config import OmegaConfigLoader
from kedro.pipeline.node import Node
from pydantic import BaseModel

from minirec.parameters import Parameters
from minirec.pipeline_registry import APART, ORDER
from minirec.selection.pruning import Quantile

ROOT = Path(__file__).parents[1]

# a value of more signs than this is shown by a link to where it stands
SHORT = 60

TYPES: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    date: "day",
    Quantile: "`{quantile: …}`",
    NoneType: "`null`",
}
LIMITS = {
    "ge": "≥\u00a0{}",
    "gt": ">\u00a0{}",
    "lt": "<\u00a0{}",
    "min_length": "{} or more",
}

DTYPES = {
    "string": "text",
    "string[pyarrow]": "text",
    "int64": "whole number",
    "float64": "number",
    "bool": "true or false",
    "object": "nested",
}
CHECKS = {
    "greater_than_or_equal_to": "≥ {min_value}",
    "greater_than": "> {min_value}",
    "less_than_or_equal_to": "≤ {max_value}",
    "equal_to": "`{value}`",
    "str_length": "not empty",
}

PARAMETERS = """# Parameters

Every parameter by its group, made from the models that check them before anything runs. Values are those of `conf/base`: an environment, or your own `conf/local`, names only what differs, and `--params select.size=16` changes one for a run. A name that is not here is refused, but for groups of your own and, below `grpo`, whatever TRL's `GRPOConfig` knows.

## globals.yml

Models, the folder of the tables and the engine are no parameters. Those of the models can be given by `--params` all the same.

```yaml
{globals}
```
"""

TABLES = """# Tables

Everything that a run reads and writes, by the pipeline that makes it. Where it lies is said by [conf/base/catalog.yml](../../conf/base/catalog.yml), which columns a table has by [schemas.py](../../src/minirec/schemas.py); a table that breaks them is not saved. An environment has a folder of its own below `data`. In a notebook, `catalog.load("scores")` reads one.
"""


def parameters_page() -> str:
    """Return the page of all parameters.

    Raises
    ------
    ValueError
        Naming those that have no description.
    """
    values: Any = _conf()["parameters"]
    known = (ROOT / "conf/base/globals.yml").read_text().strip()
    page, lacking = [PARAMETERS.format(globals=known)], []
    for path, model, told in groups(Parameters):
        given = values
        for name in filter(None, path.split(".")):
            given = given.get(name) if isinstance(given, Mapping) else None
        rows = []
        for name, text in descriptions(model).items():
            whole = f"{path}.{name}".lstrip(".")
            lacking += [] if text else [whole]
            rows.append(
                [
                    f'<code id="{whole}">{name}</code>',
                    _value(whole, given),
                    _takes(model, name),
                    markdown(text),
                ]
            )
        if not rows:
            continue
        page += [
            f"## {path or 'Of all pipelines'}",
            markdown(inspect.cleandoc(model.__doc__ or "")),
            markdown(told),
            "`null` in `conf/base`." if path and given is None else "",
            _table(["parameter", "conf/base", "takes", "meaning"], rows),
        ]
    if lacking:
        raise ValueError(f"without a text below the field: {', '.join(lacking)}")
    return "\n\n".join(filter(None, page)) + "\n"


def tables_page() -> str:
    """Return the page of all entries of the catalog."""
    catalog = _conf()["catalog"]
    nodes = {
        name: importlib.import_module(f"minirec.pipelines.{name}").create_pipeline()
        for name in (*ORDER, *APART)
    }
    makers = {
        output: (name, node)
        for name, pipeline in nodes.items()
        for node in pipeline.nodes
        for output in node.outputs
    }
    page = [TABLES]
    for pipeline in (*nodes, ""):
        own = [n for n in catalog if makers.get(n, ("",))[0] == pipeline]
        page.append(f"## {pipeline or 'Before and around them'}")
        others = []
        for name in own:
            node = makers[name][1] if name in makers else None
            if "validator" in catalog[name]:
                page += _one_table(name, catalog[name], node)
            else:
                made = f"{_first(node)} (`{node.name}`)" if node else _comment(name)
                place = _place(catalog[name])
                others.append(
                    [f'<code id="{name}">{name}</code>', markdown(made), place]
                )
        page.append(_table(["without a schema", "what it is", "lies in"], others))
    return "\n\n".join(filter(None, page)) + "\n"


def groups(
    model: type[BaseModel], path: str = "", told: str = ""
) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield a model and all in its fields: dotted path, model, text below the field."""
    yield path, model, told
    texts = _texts(model)
    for name, field in model.model_fields.items():
        own = texts.get(name, "") if _is_group(field.annotation) else ""
        for inner in _models(field.annotation):
            yield from groups(inner, f"{path}.{name}".lstrip("."), own)


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field that is no group itself; "" where there is none."""
    texts = _texts(model)
    return {
        name: texts.get(name, "")
        for name in {**model.__annotations__, **texts}
        if name != "model_config" and not _is_group(_annotation(model, name))
    }


def markdown(text: str) -> str:
    """Return a docstring's text as Markdown, with YAML's word for None."""
    parts = re.split(r"`+([^`]+)`+", text)
    plain = (re.sub(r"\bNone\b", "`null`", part) for part in parts[::2])
    parts[::2] = [part.replace("<", "&lt;") for part in plain]
    parts[1::2] = [f"`{part}`" for part in parts[1::2]]
    return "".join(parts)


def _conf() -> OmegaConfigLoader:
    return OmegaConfigLoader(str(ROOT / "conf"), env="base", base_env="base")


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """Read the texts below a model's fields in its source."""
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(told))):
                found[name] = " ".join(told.split())
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _is_group(annotation: Any) -> bool:
    parts = (
        get_args(annotation) if get_origin(annotation) is UnionType else [annotation]
    )
    return any(inspect.isclass(p) and issubclass(p, BaseModel) for p in parts)


def _annotation(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields.get(name)
    # else it is a ClassVar, as the template of a prompt, in whose place fields come
    return field.annotation if field else get_args(model.__annotations__[name])[0]


def _takes(model: type[BaseModel], name: str) -> str:
    said = [_type(_annotation(model, name))]
    field = model.model_fields.get(name)
    for limit in field.metadata if field else ():
        said += [
            f.format(getattr(limit, k)) for k, f in LIMITS.items() if hasattr(limit, k)
        ]
    if field and not field.is_required():
        said.append(f"`{_plain(field.default)}` if left out")
    return ", ".join(said)


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return _either(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return _either(map(_type, parts))
    if origin is list:
        return f"list ({_type(parts[0])})"
    return TYPES.get(annotation, "names and values")


def _value(path: str, group: Any) -> str:
    name = path.rpartition(".")[2]
    if not isinstance(group, Mapping) or name not in group:
        return ""
    shown = _plain(group[name])
    if len(shown) <= SHORT and "\n" not in shown:
        return f"`{shown}`"
    file = f"conf/base/parameters_{path.partition('.')[0]}.yml"
    file = file if (ROOT / file).exists() else "conf/base/parameters.yml"
    return f"see [{Path(file).name}](../../{file})"


def _either(choices: Iterable[str]) -> str:
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _one_table(name: str, entry: dict[str, Any], node: Node | None) -> list[str]:
    """Return a table's place and maker, what its schema says, and its columns."""
    schema = pkgutil.resolve_name(entry["validator"])
    made = f"made by `{node.name}`" if node else "kept by every run"
    whole = schema.to_schema()
    # of what an engine holds, types alone are checked
    lazy = issubclass(schema, pai.DataFrameModel)
    rows = []
    for column, checked in whole.columns.items():
        limits = [_check(check) for check in checked.checks]
        limits += ["each once"] * checked.unique
        limits += ["or null"] * (checked.nullable and not lazy)
        dtype = DTYPES.get(str(checked.dtype), str(checked.dtype))
        described = markdown(checked.description or "")
        rows.append([f"`{column}`", dtype, ", ".join(limits), described])
    key = ", ".join(f"`{column}`" for column in whole.unique or ())
    return [
        f"### {name}",
        f"{_place(entry)}, {made}.",
        markdown(inspect.cleandoc(schema.__doc__)),
        _table(["column", "type", "values", "meaning"], rows),
        f"Each {key} once." if key else "",
        *(f"Also checked: {c.name.replace('_', ' ')}." for c in whole.checks),
    ]


def _check(check: Any) -> str:
    if check.name == "isin":
        return _either(f"`{v}`" for v in check.statistics["allowed_values"])
    return CHECKS[check.name].format(**check.statistics)


def _place(entry: dict[str, Any]) -> str:
    place = entry.get("filepath") or entry.get("folder")
    return f"`{place}`" if place else ""


def _first(node: Node) -> str:
    return inspect.cleandoc(node.func.__doc__ or "").splitlines()[0]


def _comment(name: str) -> str:
    """Return what the comment above an entry of the catalog says of it."""
    catalog = (ROOT / "conf/base/catalog.yml").read_text()
    found = re.search(rf"((?:^#.*\n)*)^{name}:", catalog, re.MULTILINE)
    lines = found[1].partition("#\n")[0].splitlines() if found else []
    text = " ".join(line[2:] for line in lines if not line.startswith("# --"))
    return text.partition(" To use your own")[0]


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table, without the columns that are empty in every row."""
    if not rows:
        return ""
    full = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [[head[i] for i in full], ["---"] * len(full)]
    lines += [[row[i].replace("|", "\\|") for i in full] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

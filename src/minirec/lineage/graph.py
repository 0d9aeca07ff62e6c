"""What each dataset is made from now, what it was made from, and whether that agrees."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem
from kedro.io import AbstractDataset, CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from minirec.datasets.adapter import AdapterDataset
from minirec.datasets.model import ModelDataset
from minirec.lineage.code import Code, path_of
from minirec.lineage.content import Hashes
from minirec.lineage.record import (
    WHERE,
    Location,
    Origin,
    Part,
    Record,
    key_of,
    location,
    read,
)

# Arguments of catalog entries that change neither what is read nor how.
_APART = {
    "cache",
    "filepath",
    "if_missing",
    "metadata",
    "path",
    "version",
    "versioned",
}

# Which engine reads a file does not change what it reads.
_OF_ENGINES = {"connection", "credentials"}

# Where work is carried out, and how much of it at once, changes nothing but rounding.
_OF_EXECUTION = {"params:execution", "params:score.memory_gb"}

# What is said of the content of a dataset that has no file.
NO_FILE = "no file"

# What is known of a source only while it is there.
_OF_FILES = ("content", "commit")

# What a source is, apart from how it is read; see the method `identity` of datasets.
_WHAT = {"package", "name", "revision", "member", "sha256", "commit", "content"}

# What a source is called: one that is called otherwise is another source.
_CALLED = ("package", "name", "folder", "place")

_VERBS = {"is": "are", "has": "have", "was": "were"}

_DOTTED = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)+")


def is_parameter(name: str) -> bool:
    """Tell whether a node's input is a parameter."""
    return name.startswith("params:") or name == "parameters"


def makers_of(pipelines: Iterable[Pipeline]) -> dict[str, Node]:
    """Return the node that makes each dataset; of several, the first pipeline's."""
    makers: dict[str, Node] = {}
    for pipeline in pipelines:
        for node in pipeline.nodes:
            for name in node.outputs:
                makers.setdefault(_plain(name), node)
    return makers


def listed(*names: str) -> str:
    """Return datasets with their verb, such as ```a` and `b` are``."""
    return f"{', '.join(_quoted(names))} {'is' if len(names) == 1 else 'are'}"


def _quoted(names: tuple[str, ...]) -> list[str]:
    """Quote names; the last two are one part, with an ``and``."""
    quoted = [f"`{name}`" for name in names]
    return [*quoted[:-2], " and ".join(quoted[-2:])]


class Doubt(NamedTuple):
    """Why a dataset is not to be read as it is."""

    state: str
    """Such as ``is stale``."""
    why: tuple[str, ...] = ()
    """What has changed; empty if only the file is missing or damaged."""

    @property
    def reason(self) -> str:
        """Return what has changed, at most three things of it, or what is wrong."""
        more = [f"and {len(self.why) - 3} more"] if len(self.why) > 3 else []
        return "; ".join([*self.why[:3], *more]) or f"it {self.state}"

    def reason_of(self, *names: str) -> str:
        """Return the reason as it is said of the datasets."""
        if self.why or len(names) == 1:
            return self.reason
        return f"they {self._state_of(*names)}"

    @property
    def all(self) -> str:
        """Return the state and the reason, such as ``is stale: params:seed was ...``."""
        return f"{self.state}: {self.reason}" if self.why else self.state

    def sentence(self, *names: str) -> str:
        """Return the doubt about the datasets as a sentence without its full stop."""
        said = f"{', '.join(_quoted(names))} {self._state_of(*names)}"
        return said + (f": {self.reason}" if self.why else "")

    def _state_of(self, *names: str) -> str:
        """Return the state as it is said of one or of several datasets."""
        if len(names) == 1:
            return self.state
        verb, _, rest = self.state.partition(" ")
        rest = rest.replace("how it was", "how they were")
        return f"{_VERBS[verb]} {rest.replace('wrote it', 'wrote them')}"


@dataclass(frozen=True)
class Graph:
    """The project's datasets and the nodes that make them.

    Parameters
    ----------
    catalog
        Of the run.
    makers
        The node that makes each dataset, see `makers_of`.
    parameters
        As plain values.
    hashes
        Of files.
    pinned
        Datasets of which the user asked for a certain version: these are taken as
        they are.
    """

    catalog: CatalogProtocol
    makers: Mapping[str, Node]
    parameters: Mapping[str, Any]
    hashes: Hashes
    pinned: frozenset[str] = frozenset()
    _source: Code = field(default_factory=Code)
    _code: dict[str, dict[str, str]] = field(default_factory=dict)
    _origins: dict[str, Origin] = field(default_factory=dict)

    def on(self, catalog: CatalogProtocol) -> "Graph":
        """Return the same graph on a copy of the catalog, in another process."""
        return self if catalog is self.catalog else replace(self, catalog=catalog)

    def is_made(self, name: str) -> bool:
        """Tell whether a node makes a dataset."""
        return _plain(name) in self.makers

    def maker(self, name: str) -> Node:
        """Return the node that makes a dataset."""
        return self.makers[_plain(name)]

    def location(self, name: str, *, saved: bool = False) -> Location | None:
        """Return where a dataset lies, or its record alone; None if it is not kept.

        A table of a database has no file: its record lies beside the hashes.
        """
        dataset = self._dataset(name)
        if dataset is None or getattr(dataset, "_EPHEMERAL", False):
            return None
        found = location(dataset, saved=saved)
        if found is None and self.hashes.path is not None:
            folder = self.hashes.path.parent / "records"
            return Location(LocalFileSystem(), str(folder / _plain(name)))
        return found

    def content(self, name: str, *, saved: bool = False) -> str | None:
        """Return the hash of a dataset's file or folder; None if it is not there.

        Of a dataset without a file nothing is known but whether it is there.
        """
        dataset = self._dataset(name)
        if dataset is not None and location(dataset) is None:
            return NO_FILE if dataset.exists() else None
        where = self.location(name, saved=saved)
        return where and self.hashes.of(*where)

    def _dataset(self, name: str) -> AbstractDataset | None:
        """Return a dataset of the catalog, by any name that it is read as."""
        if name in self.catalog or _plain(name) not in self.makers:
            return self.catalog.get(name)
        outputs = self.makers[_plain(name)].outputs
        (saved,) = [each for each in outputs if _plain(each) == _plain(name)]
        return self.catalog.get(saved)

    def record(self, name: str) -> Record | None:
        """Return a dataset's record; None if it has none that can be read."""
        where = self.location(name)
        return where and read(where)

    def origin(self, name: str) -> Origin:
        """Return what a dataset would be made from now, from raw data on."""
        plain = _plain(name)
        if plain not in self._origins:
            record = self.record(name) if self.location(name) else None
            if plain in self.pinned and record is not None:
                self._origins[plain] = record
            else:
                self._origins[plain] = self._origin(plain, record, self.origin)
        return self._origins[plain]

    def origin_at_save(self, name: str) -> Origin:
        """Return what a dataset was just made from: tables by their own records."""

        def of_input(each: str) -> Origin:
            known = self.record(each)
            if known is None or known.content != self.content(each):
                return self.origin(each)  # saved in parts, not recorded yet
            return known

        return self._origin(_plain(name), None, of_input)

    def upstream(self, name: str) -> Iterator[str]:
        """Yield every dataset that lies upstream, parameters aside, each once."""
        seen, queue = {_plain(name)}, [_plain(name)]
        while queue:
            each = queue.pop()
            if each not in self.makers:
                continue
            for source in self.makers[each].inputs:
                if not is_parameter(source) and _plain(source) not in seen:
                    seen.add(_plain(source))
                    queue.append(_plain(source))
                    yield source

    def models(self, name: str) -> dict[str, str]:
        """Return which models and adapters lie upstream, and what each is."""
        found = {}
        for each in self.upstream(name):
            dataset = self._dataset(each)
            if isinstance(dataset, ModelDataset):
                found[each] = describe(self._read_from(dataset))
            elif isinstance(dataset, AdapterDataset):
                found[each] = (self.content(each) or "missing")[:12]
        return dict(sorted(found.items()))

    def input_contents(self, node: Node) -> dict[str, str]:
        """Return the hash of each input of a node that has a file."""
        found = {
            name: self.content(name) for name in node.inputs if not is_parameter(name)
        }
        return {name: content for name, content in found.items() if content}

    def doubt(self, name: str) -> Doubt | None:
        """Say why a saved dataset is not what its node would make now, if it is not."""
        content = self.content(name)
        if content is None:
            return Doubt("is missing")
        record = self.record(name)
        if record is None:
            return Doubt("has no record of how it was made")
        if content != record.content:
            return Doubt(f"was changed after {record.node} wrote it")
        origin = self.origin(name)
        if record.key != origin.key:
            return Doubt("is stale", tuple(differences(record, origin)))
        anew = [
            each
            for each, before in record.input_contents.items()
            if (now := self.record(each)) and before != now.content
        ]
        if anew:
            return Doubt("is stale", tuple(f"{each} was made anew" for each in anew))
        return None

    def doubt_whole_way(self, name: str) -> Doubt | None:
        """Say why a dataset is not to be read, if so.

        Unlike `doubt`, finds also a table upstream that was changed by hand. What was
        deleted upstream does not matter: what came of it is known. A version that the
        user asked for is read, if it is as it was saved.
        """
        found = self.doubt(name)
        if _plain(name) in self.pinned and found and found.why:
            return None
        if found or _plain(name) in self.pinned:
            return found
        for each in self.upstream(name):
            made = _plain(each) in self.makers
            if made and self.content(each) and (found := self.doubt(each)):
                return Doubt("is stale", found.why or (f"{each} {found.state}",))
        return None

    def doubts(self, names: Iterable[str]) -> dict[Doubt, list[str]]:
        """Return which of the datasets are not to be read, by the doubt about them."""
        found: dict[Doubt, list[str]] = {}
        for name in names:
            if self.location(name) and (doubt := self.doubt_whole_way(name)):
                found.setdefault(doubt, []).append(name)
        return found

    def to_rebuild(self, nodes: Iterable[Node]) -> dict[str, Doubt]:
        """Say which saved outputs of the nodes are to be made anew, and why.

        Parameters
        ----------
        nodes
            In the order of a run.

        Returns
        -------
        dict of str to Doubt
            By dataset, in the order of the nodes.
        """
        found: dict[str, Doubt] = {}
        for node in nodes:
            # A table that is only missing or damaged will be what it was: what was
            # made from it stays.
            anew = [each for each in node.inputs if each in found and found[each].why]
            for name in node.outputs:
                if self.location(name) is None:
                    continue
                if doubt := self.doubt(name):
                    found[name] = doubt
                elif anew:
                    why = tuple(f"{each} is made anew" for each in anew)
                    found[name] = Doubt("is stale", why)
        return found

    def way_to(self, names: Iterable[str]) -> list[Node]:
        """Return every node on the way to the datasets, in the order of a run."""
        nodes = {node.name: node for node in self.makers.values()}
        saved = [
            each
            for name in names
            for each in self.maker(name).outputs
            if _plain(each) == _plain(name)
        ]
        return Pipeline(list(nodes.values())).to_outputs(*saved).nodes

    def _origin(
        self, name: str, record: Record | None, of_input: Callable[[str], Origin]
    ) -> Origin:
        node = self.makers[name]
        params = {
            each: self._parameter(each)
            for each in node.inputs
            if is_parameter(each) and each not in _OF_EXECUTION
        }
        tables = [each for each in node.inputs if not is_parameter(each)]
        known = {} if record is None else record.own.sources
        own = Part(
            code=self._code_of(node, params),
            params=params,
            sources={
                each: source
                for each in [*tables, name]
                if (source := self._identity(each, known.get(each, {})))
            },
        )
        made = {each: of_input(each) for each in tables if _plain(each) in self.makers}
        upstream = Part()
        for origin in made.values():
            upstream = upstream | origin.upstream | origin.own
        function = path_of(node.func)
        inputs = {each: origin.key for each, origin in made.items()}
        place = [node.inputs, [_plain(each) for each in node.outputs].index(name)]
        return Origin(
            node=node.name,
            function=function,
            inputs=inputs,
            own=own,
            upstream=upstream,
            key=key_of(function, place, inputs, own),
        )

    def _code_of(self, node: Node, params: Mapping[str, Any]) -> dict[str, str]:
        if node.name not in self._code:
            named = [
                path
                for value in params.values()
                for path in _strings(value)
                if _DOTTED.fullmatch(path)
            ]
            code = self._source.of(node.func)
            for path in named:
                code |= self._source.at(path)
            for each in [*node.inputs, *node.outputs]:
                if not is_parameter(each) and (dataset := self._dataset(each)):
                    code |= self._source.of(type(dataset))
                    inner = _entry(dataset).get("dataset", {})
                    code |= self._source.at(inner.get("type", ""))
            self._code[node.name] = dict(sorted(code.items()))
        return self._code[node.name]

    def _parameter(self, name: str) -> Any:
        value: Any = self.parameters
        if name != "parameters":
            for part in name.removeprefix("params:").split("."):
                # One that is missing is Kedro's to complain of, if it is needed.
                value = value.get(part) if isinstance(value, dict) else None
        return value

    def edited(self) -> list[str]:
        """Return which modules were edited after this process had loaded them."""
        return self._source.edited()

    def _identity(self, name: str, known: Mapping[str, Any]) -> dict[str, Any]:
        """Say how a table is kept; of one that no node makes, also what it is."""
        dataset = self._dataset(name)
        if dataset is None:
            return {}
        if _plain(name) in self.makers:
            apart = _OF_ENGINES | {"type"}
            return {k: v for k, v in _entry(dataset).items() if k not in apart}
        found = self._read_from(dataset)
        if not any(part in found for part in _OF_FILES) and found == {
            part: value for part, value in known.items() if part not in _OF_FILES
        }:
            return dict(known)  # what is not there any more has not changed
        return found

    def _read_from(self, dataset: AbstractDataset) -> dict[str, Any]:
        where, entry = location(dataset), _entry(dataset)
        identity = getattr(dataset, "identity", None)
        if identity is not None:
            inner = entry.get("dataset", {})
            inner = {k: v for k, v in inner.items() if k not in _OF_ENGINES}
            found = {**identity(), **({"dataset": inner} if inner else {})}
            folder = found.get("folder")
            where = Location(LocalFileSystem(), folder) if folder else None
        elif where is not None:
            found = {k: v for k, v in entry.items() if k not in _OF_ENGINES}
            found["place"] = _place(where.path)
        else:  # a database: which one is all that is known
            found = entry
        content = self.hashes.of(*where) if where else None
        return {**found, "content": content} if content else found


def differences(was: Origin, now: Origin) -> list[str]:
    """Say in what two origins differ, the causes before what they led to.

    Returns
    -------
    list of str
        Such as ``params:score.probe.rollouts was 4, is 8``; never empty.
    """
    old, new = was.everything, now.everything
    found: list[str] = []
    others = False
    for name in sorted(old.sources.keys() | new.sources.keys()):
        before, after = old.sources.get(name, {}), new.sources.get(name, {})
        # What came or went as a whole says nothing by itself.
        both = name in old.sources and name in new.sources
        if both and _is_another(before, after):
            others = True
            called = f"was {_called(before)}, is another source now, {_called(after)}"
            found.append(f"{name} {called}")
        elif both or not _WHAT & (before.keys() | after.keys()):
            found += _source_differences(name, before, after)
    found += list(_leaf_differences(old.params, new.params))
    changed = [
        path for path, code in new.code.items() if old.code.get(path, code) != code
    ]
    found += [f"{path} changed" for path in changed]
    # Another source is read by other code, and a parameter may name other code.
    if not found and not others:
        found += [f"{path} is new" for path in new.code.keys() - old.code.keys()]
        found += [f"{path} is gone" for path in old.code.keys() - new.code.keys()]
    found = list(dict.fromkeys(found))
    return found or ["its node, or one before it, takes other tables or gives others"]


def describe(source: Mapping[str, Any]) -> str:
    """Name a source in a few words."""
    parts = ("revision", "commit")
    named = [str(source[part])[:60] for part in parts if source.get(part)]
    content = source.get("content") or source.get("sha256") or ""
    return " ".join([_called(source), *named, content[:12]]).strip()


def _called(source: Mapping[str, Any]) -> str:
    """Return what a source is called; nothing for a table of a database."""
    return " ".join(str(source[part])[:60] for part in _CALLED if source.get(part))


def _is_another(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether a source took the place of another, not only another content."""
    was, now = ([side.get(part) for part in _CALLED] for side in (before, after))
    # what was only moved is the same
    other = any(before.get(part) != after.get(part) for part in _WHAT)
    return other and any(was) and any(now) and was != now


def _source_differences(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[str]:
    if any(before.get(part) != after.get(part) for part in _WHAT):
        was, now = describe(before), describe(after)
        yield f"{name} has changed" if was == now else f"{name} was {was}, is {now}"
    rest = [
        {k: v for k, v in side.items() if k not in {*_WHAT, *WHERE}}
        for side in (before, after)
    ]
    yield from _leaf_differences(rest[0], rest[1], name)


def _leaf_differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield what differs between two trees of plain values, leaf by leaf."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield f"{path} was {_short(old)}, is {_short(new)}"
        return
    for key in [*old, *(key for key in new if key not in old)]:
        inner = f"{path}.{key}" if path else str(key)
        if key in old and key in new:
            yield from _leaf_differences(old[key], new[key], inner)
        elif path:  # a whole parameter that came with a node says nothing by itself
            yield (
                f"{inner} was {_short(old[key])}, is not there"
                if key in old
                else f"{inner} was not there, is {_short(new[key])}"
            )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(name: str) -> str:
    """Return a dataset's name without the way that it is read, after an ``@``."""
    return name.partition("@")[0]


def _place(path: str) -> str:
    """Return a path as seen from the project's folder, where it lies below it."""
    found = Path(path)
    here = Path.cwd()
    return str(found.relative_to(here) if found.is_relative_to(here) else found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _entry(dataset: AbstractDataset) -> dict[str, Any]:
    """Return the arguments of a catalog entry that say how its data is kept."""
    if getattr(dataset, "_EPHEMERAL", False):
        return {}
    entry = {
        key: value
        for key, value in dataset._init_config().items()
        if key not in _APART and value not in (None, {})
    }
    return json.loads(json.dumps(entry, default=str))

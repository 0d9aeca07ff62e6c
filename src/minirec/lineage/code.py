"""The project's own code that a function runs: a hash of each definition.

Found by reading the source, not by running it: a definition is a function, class or
constant at the top of a module, and leads to every definition that it names, also by
an import inside a function. What is installed (the standard library, packages) counts
by its version elsewhere. Comments, docstrings and layout do not count.

What a function finds only while it runs is not seen: ``globals()[name]``,
``importlib.import_module``, files that it reads by itself.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import pickle
import sys
import sysconfig
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# A definition by module and name; without a name it is what importing the module does.
Place = tuple[str, str | None]

OWN_PACKAGE = __name__.partition(".")[0]
_INSTALLED = {"site-packages", "dist-packages"}
# what is said while others work, and changes nothing that they make
_SAID = f"{OWN_PACKAGE}.progress"
_STANDARD = Path(sysconfig.get_paths()["stdlib"])


# Each module as this process first saw it: itself, if it was loaded, and its source.
_SEEN: dict[str, tuple[weakref.ref | None, str]] = {}


def digest(data: str | bytes) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of a text or of bytes."""
    data = data.encode() if isinstance(data, str) else data
    return hashlib.sha256(data).hexdigest()[:16]


class _Module(NamedTuple):
    package: bool
    source: str
    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, set[Place]]
    """What each imported name may stand for; ``*`` for all of a module."""
    effects: list[ast.stmt]
    """What importing it does beyond defining."""


class Code:
    """The project's source, each file of it read once."""

    def __init__(self) -> None:
        self._roots: dict[str, list[Path]] = {}
        self._modules: dict[str, _Module | None] = {}
        self._definitions: dict[Place, tuple[str, frozenset[Place]]] = {}

    def of(self, function: Callable[..., Any]) -> dict[str, str]:
        """Hash a function and all project definitions that it leads to.

        Parameters
        ----------
        function
            Also a method, a ``functools.partial``, a function made by another one, or
            an object that can be called: what these hold counts too.

        Returns
        -------
        dict of str to str
            Hash of each definition by its dotted path, in ascending order; empty for
            a function of an installed package.
        """
        found: dict[str, str] = {}
        held: list[Any] = [function]
        for each in held:  # grows on the way
            if isinstance(each, functools.partial):
                held += [each.func, *each.args, *each.keywords.values()]
            elif inspect.ismethod(each):
                held += [each.__func__, each.__self__]
            elif inspect.isfunction(each):
                name = each.__qualname__.partition(".")[0]
                found |= self._hashes(self._resolve(each.__module__, name, ()))
                held += [getattr(each, "__wrapped__", None)]
                held += [cell.cell_contents for cell in each.__closure__ or ()]
            elif inspect.isclass(each):
                name = each.__qualname__.partition(".")[0]
                found |= self._hashes(self._resolve(each.__module__, name, ()))
            elif inspect.ismodule(each):
                found |= self._hashes(self._resolve(each.__name__, None, ()))
            elif each is not None and not hasattr(each, "__qualname__"):
                held.append(type(each))
                path = f"{path_of(function)} holds {type(each).__qualname__}"
                found[path] = digest(found.get(path, "") + digest(_frozen(each)))
        return dict(sorted(found.items()))

    def at(self, path: str) -> dict[str, str]:
        """Hash what a dotted path leads to, as `of`; empty if it is no project's."""
        parts = path.replace(":", ".").split(".")
        if all(part.isidentifier() for part in parts):
            for end in range(len(parts) - 1, 0, -1):
                if self._module(module := ".".join(parts[:end])):
                    start = self._resolve(module, parts[end], tuple(parts[end + 1 :]))
                    return dict(sorted(self._hashes(start).items()))
        return {}

    def edited(self) -> list[str]:
        """Return which modules were edited after this process had loaded them.

        What runs is then another code than what lies there.
        """
        found = []
        for name, module in self._modules.items():
            if module is None:
                continue
            loaded = sys.modules.get(name)
            first, source = _SEEN.get(name, (None, module.source))
            same = first is None or first() is loaded
            if name in _SEEN and loaded and same and source != module.source:
                found.append(name)
            else:
                _SEEN[name] = (weakref.ref(loaded) if loaded else None, module.source)
        return found

    def _hashes(self, start: set[Place]) -> dict[str, str]:
        found, queue = set(start), list(start)
        hashes = {}
        while queue:
            place = queue.pop()
            if place not in self._definitions:
                self._definitions[place] = self._definition(*place)
            text, leads_to = self._definitions[place]
            if text:
                hashes[".".join(filter(None, place))] = digest(text)
            queue.extend(leads_to - found)
            found |= leads_to
        return hashes

    def _definition(
        self, module: str, name: str | None
    ) -> tuple[str, frozenset[Place]]:
        """Return a definition's text without docs and layout, and where it leads."""
        parsed = self._module(module)
        if parsed is None or module == _SAID:
            return "", frozenset()
        statements = (
            [*parsed.effects, *self._registered(parsed)]
            if name is None
            else parsed.definitions[name]
        )
        # Importing a module runs its packages first.
        packages = {module.rsplit(".", n)[0] for n in range(module.count(".") + 1)}
        leads_to: set[Place] = {(package, None) for package in packages}
        for statement in statements:
            scope = dict(parsed.imports)
            for local, places in _imports(statement, module, parsed.package).items():
                scope[local] = places
            for root, *attributes in _names(statement):
                if root in scope:
                    for place in scope[root]:
                        leads_to |= self._resolve(*place, tuple(attributes))
                elif root in parsed.definitions:
                    leads_to.add((module, root))
        for place in parsed.imports.get("*", ()):
            leads_to |= self._resolve(place[0], None, ())
        return "\n".join(map(ast.unparse, statements)), frozenset(leads_to)

    def _registered(self, parsed: _Module) -> list[ast.stmt]:
        """Return definitions under the project's own decorators, which may keep them."""

        def is_own(decorator: ast.expr) -> bool:
            return any(
                root in parsed.definitions
                or any(self._resolve(*p, ()) for p in parsed.imports.get(root, ()))
                for root, *_ in _names(decorator)
            )

        return [
            statement
            for statements in parsed.definitions.values()
            for statement in statements
            if any(map(is_own, getattr(statement, "decorator_list", ())))
        ]

    def _resolve(
        self,
        module: str,
        name: str | None,
        attributes: tuple[str, ...],
        seen: frozenset[Place] = frozenset(),
    ) -> set[Place]:
        """Return the definitions that a name and its attributes stand for."""
        parsed = self._module(module)
        if parsed is None or (module, name) in seen:
            return set()
        seen |= {(module, name)}
        if name is None:
            if attributes:
                return self._resolve(module, attributes[0], attributes[1:], seen)
            # The module itself is handed on: anything in it may be used.
            return {(module, None), *((module, each) for each in parsed.definitions)}
        if name in parsed.definitions:
            return {(module, name)}
        found: set[Place] = set()
        for place in parsed.imports.get(name, ()):
            found |= {(module, None)} | self._resolve(*place, attributes, seen)
        if not found and self._module(f"{module}.{name}"):
            return self._resolve(f"{module}.{name}", None, attributes, seen)
        for star, _ in parsed.imports.get("*", ()) if not found else ():
            found |= {(module, None)} | self._resolve(star, name, attributes, seen)
        # Else bound by a statement that is neither: a lambda, a loop, a `try`.
        return found or self._resolve(module, None, (), seen)

    def _module(self, name: str) -> "_Module | None":
        """Return a module of the project; None for what is installed."""
        if name not in self._modules:
            file = self._file(name)
            if file is not None and file.is_dir():  # a package without __init__.py
                self._modules[name] = _Module(True, "", {}, {}, [])
            else:
                self._modules[name] = _parsed(name, file) if file else None
        return self._modules[name]

    def _file(self, module: str) -> Path | None:
        top, *rest = module.split(".")
        if top not in self._roots:
            self._roots[top] = _roots(top)
        for folder in self._roots[top]:
            path = folder.joinpath(*rest)
            for file in (path / "__init__.py", path.with_suffix(".py"), path):
                if file.exists():
                    return file
        return None


def path_of(function: Callable[..., Any]) -> str:
    """Return the dotted path of a function, also of one that is partly applied."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _frozen(value: Any) -> bytes:
    """Return what a value is, as bytes to be hashed and never read."""
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError):
        return repr(value).encode()


def _roots(top: str) -> list[Path]:
    """Return where a top-level module lies, less its suffix, if it is the project's."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # such as __main__, which has no file
        return []
    if spec is None:
        return []
    origins = spec.submodule_search_locations or (
        [spec.origin.removesuffix(".py")] if spec.origin else []
    )
    return [
        path
        for path in map(Path, origins)
        if top == OWN_PACKAGE
        or not (_INSTALLED & set(path.parts) or path.is_relative_to(_STANDARD))
    ]


def _parsed(module: str, file: Path) -> _Module:
    tree = ast.parse(source := file.read_text("utf-8"), str(file))
    _drop_docstrings(tree)
    parsed = _Module(file.name == "__init__.py", source, {}, {}, [])
    for statement in tree.body:
        if bound := _bound(statement):
            for name in bound:
                parsed.definitions.setdefault(name, []).append(statement)
        elif not isinstance(
            statement, ast.Import | ast.ImportFrom
        ) and not _for_types_alone(statement):
            parsed.effects.append(statement)
    for statement in tree.body:
        # imports inside functions belong to these
        if not isinstance(
            statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ):
            for name, places in _imports(statement, module, parsed.package).items():
                # Of `try: import a except ImportError: import b as a` both count.
                parsed.imports.setdefault(name, set()).update(places)
    return parsed


def _bound(statement: ast.stmt) -> list[str]:
    """Return the names that a definition or an assignment of plain names binds."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            targets = [target]
        case _:
            return []
    parts = [
        part
        for target in targets
        for part in (target.elts if isinstance(target, ast.Tuple) else [target])
    ]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if len(names) == len(parts) else []


def _for_types_alone(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def _imports(tree: ast.AST, module: str, package: bool) -> dict[str, set[Place]]:
    """Return what each imported name may stand for."""
    found: dict[str, set[Place]] = {}
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            for alias in part.names:
                top = alias.name.partition(".")[0]
                place = (alias.name if alias.asname else top, None)
                found.setdefault(alias.asname or top, set()).add(place)
        elif isinstance(part, ast.ImportFrom):
            base = part.module or ""
            if part.level:
                up = part.level - package
                parent = module.rsplit(".", up)[0] if up else module
                base = f"{parent}.{base}" if base else parent
            for alias in part.names:
                found.setdefault(alias.asname or alias.name, set()).add(
                    (base, alias.name)
                )
    return found


def _names(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Yield each name with its attributes, such as ``("np", "linalg", "norm")``."""
    stack: list[ast.AST] = [tree]
    while stack:
        part = stack.pop()
        attributes: list[str] = []
        inner = part
        while isinstance(inner, ast.Attribute):
            attributes.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield (inner.id, *reversed(attributes))
        elif attributes:
            stack.append(inner)
        else:
            stack.extend(ast.iter_child_nodes(part))


def _drop_docstrings(tree: ast.Module) -> None:
    """Drop texts that stand alone, also those below a field: they do nothing."""
    for part in ast.walk(tree):
        if isinstance(
            part, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            rest = [statement for statement in part.body if not _is_text(statement)]
            # The body of a module alone may be empty.
            part.body = rest or ([] if isinstance(part, ast.Module) else [ast.Pass()])


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )

"""What a driver declares, read from its source: its module is not imported for that.

So that a driver that is not switched on is not run, its mode flag and its suffix must be known before. They are found
where the class's body gives them as literals, or a class that it derives from does; what is found by no such reading
is not known before the import.
"""

import ast
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

import attrs

from sipdump_core.cache import Cache
from sipdump_core.drivers.guard import Guard

__all__ = ["Declared", "declared"]

_DEPTH = 8
"""How many imports and base classes are followed."""
_LONGEST = 1 << 20
"""Characters of a module that is read for this."""
_BASE = "sipdump_core"
_SET = re.compile(r"\.(\w+)(?:\s*:[^=\n]*)?\s*=[^=]")
_DEFAULTS: dict[str, Any] = {"flag": 0, "suffix": "", "transformed": False, "kind": "backend"}
_KINDS = {"Filter": "filter", "Transform": "transform"}
_UNKNOWN: dict[str, Any] = dict.fromkeys(_DEFAULTS)


@attrs.frozen
class Declared:
    """What is known of a driver; None for what only its import would show."""

    flag: int | None = None
    suffix: str | None = None
    transformed: bool | None = None
    kind: str | None = None
    """``backend``, ``filter`` or ``transform``, by the class that it derives from."""
    may_filter: bool = attrs.field(default=False, eq=False)
    """Whether it is a filter, or may be one: where the class cannot be read, but its module has that word in it, or
    cannot be read either."""


@attrs.frozen
class _Source:
    """A module that was read."""

    tree: ast.Module
    set_elsewhere: frozenset[str]
    """Attributes that some object gets by an assignment, as ``self.suffix = ...``."""


def declared(module: str, attribute: str) -> Declared:
    """Return what the class of an entry point declares.

    Args:
        module: the module that would be imported.
        attribute: the class in it.
    """
    values = _UNKNOWN
    with Guard():  # a source may be damaged in any way
        values = _values(module, attribute, _DEPTH)
    known = {name: value if type(value) is type(_DEFAULTS[name]) else None for name, value in values.items()}
    return Declared(**known, may_filter=known["kind"] == "filter" or (not known["kind"] and _may_filter(module)))


def _may_filter(module: str) -> bool:
    """Return whether a module may define a filter, as far as its text tells."""
    with Guard():
        spec = _spec(module)
        return "Filter" in (spec.loader.get_source(module) if spec else "Filter")  # type: ignore[union-attr]  # guarded
    return True


def _values(module: str, cls: str, depth: int) -> dict[str, Any]:
    """Return the values of a class's attributes, None for what is not known."""
    if module.partition(".")[0] == _BASE:
        return {**_DEFAULTS, "kind": _KINDS.get(cls, _DEFAULTS["kind"])}
    source = _source(module)
    if source is None or not depth:
        return _UNKNOWN
    bound = _binding(source.tree.body, cls)
    if isinstance(bound, ast.ImportFrom):
        original = next(each.name for each in bound.names if (each.asname or each.name) == cls)
        return _values(_absolute(module, bound), original, depth - 1)
    if not isinstance(bound, ast.ClassDef) or not bound.bases:
        return _UNKNOWN
    bases = [_values(module, b.id, depth - 1) if isinstance(b, ast.Name) else _UNKNOWN for b in bound.bases]
    values: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        own = _binding(bound.body, name)
        if name in source.set_elsewhere:
            values[name] = None
        elif own is not None:
            values[name] = _literal(source.tree, own, name)
        else:  # the first base that says something else than the default
            values[name] = next((base[name] for base in bases if base[name] != default), default)
    return values


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _binding(body: Iterable[ast.stmt], name: str) -> ast.stmt | None:
    """Return the last statement that binds a name."""
    found = None
    for statement in body:
        if name in _names_of(statement):
            found = statement
    return found


def _names_of(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield statement.name
    elif isinstance(statement, ast.ImportFrom | ast.Import):
        yield from (each.asname or each.name for each in statement.names)
    else:  # an assignment, also one below an "if", whose value is no literal then
        yield from (n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _literal(tree: ast.Module, statement: ast.stmt | None, name: str) -> Any:
    """Return what an assignment assigns, None if it is no literal."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and _is_name(statement.targets[0], name):
        return _evaluated(tree, statement.value)
    if isinstance(statement, ast.AnnAssign) and _is_name(statement.target, name) and statement.value:
        return _evaluated(tree, statement.value)
    return None


def _evaluated(tree: ast.Module, value: ast.expr, depth: int = 4) -> Any:
    """Evaluate a literal, a constant of the module, or a shifted number."""
    if isinstance(value, ast.Constant):
        return value.value
    if not depth:
        return None
    if isinstance(value, ast.Name):
        return _literal_of(tree, value.id, depth - 1)
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.LShift | ast.Pow):
        left, right = (_evaluated(tree, side, depth - 1) for side in (value.left, value.right))
        if type(left) is int and type(right) is int and 0 <= right < 64 and 0 <= left < 1 << 16:
            return left << right if isinstance(value.op, ast.LShift) else left**right
    return None


def _literal_of(tree: ast.Module, name: str, depth: int) -> Any:
    statement = _binding(tree.body, name)
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        return _evaluated(tree, statement.value, depth) if _is_name(target, name) else None
    return None


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    package = module if _is_package(module) else module.rpartition(".")[0]
    return importlib.util.resolve_name(f"{'.' * statement.level}{statement.module or ''}", package)


def _is_package(module: str) -> bool:
    spec = _spec(module)
    return spec is not None and spec.submodule_search_locations is not None


_read: Cache[str, tuple[tuple[int, int], _Source | None]] = Cache(100)
"""What was read, by its path, with time and size of the file then."""


def _source(module: str) -> _Source | None:
    """Read a module, None if it is not source."""
    spec = _spec(module)
    get_source = getattr(spec.loader, "get_source", None) if spec else None
    if spec is None or get_source is None or not spec.origin:
        return None
    status = os.stat(spec.origin) if os.path.exists(spec.origin) else None  # it may be within a zip
    stamp = (status.st_mtime_ns, status.st_size) if status else (0, 0)
    known = _read.get(spec.origin)
    if known and status and known[0] == stamp:
        return known[1]
    text = get_source(module)
    source = None
    if text and len(text) <= _LONGEST:
        source = _Source(ast.parse(text), frozenset(_SET.findall(text)))
    return _read.keep(spec.origin, (stamp, source))[1]


def _spec(module: str) -> ModuleSpec | None:
    """Find a module; other than find_spec(), this imports no package that it is in."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec

"""What a driver declares, read from its source: its module is not imported for that.

So that a driver that is not switched on is not run, its mode flag and its suffix must be known before. They are found
where the class's body gives them as literals, or a class that it derives from does; what is found by no such reading
is not known before the import.
"""

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

import attrs

from sipdump_core.drivers.guard import Guard

__all__ = ["Declared", "Sources"]

_DEPTH = 8
"""How many imports and base classes are followed."""
_LONGEST = 1 << 20
"""Characters of a module that is read for this."""
_BASE = "sipdump_core"
_DEFAULTS: dict[str, Any] = {"flag": 0, "suffix": "", "transformed": False, "is_transform": False}


@attrs.frozen
class Declared:
    """What is known of a driver; None for what only its import would show."""

    flag: int | None = None
    suffix: str | None = None
    transformed: bool | None = None
    is_transform: bool | None = None
    """Whether it derives from :class:`~sipdump_core.Transform`."""


class Sources:
    """Reads the sources of drivers, each module once."""

    def __init__(self) -> None:
        self._trees: dict[str, ast.Module | None] = {}

    def declared(self, module: str, attribute: str) -> Declared:
        """Return what the class of an entry point declares.

        Args:
            module: the module that would be imported.
            attribute: the class in it.
        """
        found: dict[str, Any] = {}
        for name, default in _DEFAULTS.items():
            with Guard():  # a source may be damaged in any way
                value = self._value(module, attribute, name, _DEPTH)
                found[name] = value if type(value) is type(default) else None
        return Declared(**found)

    def _value(self, module: str, cls: str, name: str, depth: int) -> Any:
        """Return the value of a class's attribute, None if it is not known."""
        if module.partition(".")[0] == _BASE:
            return cls == "Transform" if name == "is_transform" else _DEFAULTS[name]
        tree = self._tree(module)
        if tree is None or not depth:
            return None
        bound = _binding(tree.body, cls)
        if isinstance(bound, ast.ImportFrom):
            original = next(each.name for each in bound.names if (each.asname or each.name) == cls)
            return self._value(_absolute(module, bound), original, name, depth - 1)
        if not isinstance(bound, ast.ClassDef) or _is_set_elsewhere(tree, bound, name):
            return None
        own = _binding(bound.body, name)
        if own is not None:
            return _literal(tree, own, name)
        for base in bound.bases:
            value = self._value(module, base.id, name, depth - 1) if isinstance(base, ast.Name) else None
            if value is None or value != _DEFAULTS[name]:
                return value
        return _DEFAULTS[name] if bound.bases else None

    def _tree(self, module: str) -> ast.Module | None:
        """Return the syntax tree of a module that is source, None for any other."""
        if module not in self._trees:
            self._trees[module] = None  # also where what follows raises
            spec = _spec(module)
            get_source = getattr(spec.loader, "get_source", None) if spec else None
            source = get_source(module) if get_source else None
            if source and len(source) <= _LONGEST:
                self._trees[module] = ast.parse(source)
        return self._trees[module]


def _is_set_elsewhere(tree: ast.Module, cls: ast.ClassDef, name: str) -> bool:
    """Return whether an instance or the class gets the attribute by an assignment, as ``self.suffix = ...``."""
    within = [each for each in ast.walk(cls) if isinstance(each, ast.Attribute)]
    after = [each for each in ast.walk(tree) if isinstance(each, ast.Attribute) and _is_name(each.value, cls.name)]
    return any(each.attr == name and isinstance(each.ctx, ast.Store) for each in (*within, *after))


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

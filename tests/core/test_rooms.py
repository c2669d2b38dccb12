"""Imports run one way: each room of sipdump_core imports only what stands below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "sipdump_core"

ORDER = (
    ("daemon", "__init__"),
    ("sources", "admin"),
    ("viewing",),
    ("control",),
    ("reading",),
    ("sipdump",),
    ("workshop", "checkup"),
    ("plan",),
    ("testing", "scaffold"),
    ("pipeline",),
    ("routes",),
    ("lifecycle",),
    ("config",),
    ("drivers",),
    ("settings",),
    ("flows",),
    ("net",),
    ("masking",),
    ("calls",),
    (
        "posix_regex",
        "process_table",
        "ownership",
        "threads",
        "locks",
        "segment",
        "record",
        "sip",
        "log",
        "cache",
        "clock",
        "errors",
        "redaction",
        "subcommands",
        "program",
        "version",
    ),
)
"""The rooms from the top down, those of one line side by side; the last line is the ground, itself ordered."""


def rank(room: str) -> int:
    return next(place for place, rooms in enumerate(ORDER) if room in rooms)


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(CORE.rglob("*.py")):
        yield ".".join(path.relative_to(CORE).with_suffix("").parts), path


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each module of the core that a file imports, wherever the import stands, with its line."""
    names = {name for name, _ in modules()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            if name.partition(".")[0] != "sipdump_core":
                continue
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in names:
                parts.pop()
            yield ".".join(parts) or "__init__", node.lineno


def room_of(module: str) -> str:
    return module.partition(".")[0]


IMPORTS = [
    (module, target, f"sipdump_core/{path.relative_to(CORE)}:{line}")
    for module, path in modules()
    for target, line in imported(path)
]


def test_every_room_has_its_place_in_the_order() -> None:
    placed = [room for rooms in ORDER for room in rooms]
    assert len(placed) == len(set(placed))
    assert {room_of(module) for module, _ in modules()} == set(placed)


def test_no_room_imports_one_above_or_beside_it() -> None:
    upward = [
        f"{place}: {module} imports {target}"
        for module, target, place in IMPORTS
        if room_of(module) != room_of(target)
        and module != "__init__"
        and rank(room_of(module)) >= rank(room_of(target))
        and rank(room_of(module)) != len(ORDER) - 1
    ]
    assert upward == []


def test_no_circle_of_modules() -> None:
    below: dict[str, set[str]] = {}
    for module, target, _ in IMPORTS:
        if module != "__init__":
            below.setdefault(module, set()).add(target)
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            pytest.fail("a circle: " + " -> ".join((*way[way.index(module) :], module)))
        if module not in done:
            for target in sorted(below.get(module, ())):
                walk(target, (*way, module))
            done.add(module)

    for module in sorted(below):
        walk(module, ())

"""``sipdump-admin new-backend``: writes a small distribution with a working backend, as a start for its author."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Literal

from sipdump_core.drivers.discovery import take_stock
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.settings.modules import MODULES
from sipdump_core.version import VERSION

__all__ = ["KINDS", "Kind", "write"]

Kind = Literal["file", "stream", "filter"]
KINDS: tuple[Kind, ...] = ("file", "stream", "filter")

_NAME = re.compile(r"[a-z](?:_?[a-z0-9])*", re.ASCII)
_LONGEST = 24
"""Longer names would make lines longer than the templates' style allows."""
_TAKEN = ("sipdump_core", *MODULES)
_TEMPLATES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "readme_{kind}.md",
    ".gitignore": "gitignore",
    ".github/workflows/test.yml": "workflow.yml",
    "sipdump_@name@/__init__.py": "driver_{kind}.py",
    "sipdump_@name@/py.typed": "py.typed",
    "tests/test_@name@.py": "test_{kind}.py",
}


def write(name: str, kind: Kind, folder: Path) -> list[Path]:
    """Write the distribution ``sipdump-<name>``.

    Args:
        name: the backend's name, as ``kafka``.
        kind: ``file`` for segment files in a folder, ``stream`` for a store that is reached over a connection,
            ``filter`` for what stands before all backends.
        folder: where the files go; it is created if it does not exist.

    Returns:
        The files, relative to the folder.

    Raises:
        ConfigError: the name is invalid or taken, or the folder is not empty.
        StorageError: a file cannot be written.
    """
    _check_name(name, {driver.name: driver.distribution for driver in take_stock().drivers})
    role = "filter" if kind == "filter" else "backend"
    values = {
        "name": name,
        "Name": "".join(part.capitalize() for part in name.split("_")),
        "role": role,
        "Role": role.capitalize(),
        "version": ".".join(VERSION.split(".")[:2]),
    }
    written = []
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists already and is not an empty folder; name another with --dir")
        for target, template in _TEMPLATES.items():
            path = Path(_fill(target, values))
            text = files(__package__).joinpath("templates", f"{template.format(kind=kind)}.in").read_text("utf-8")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(_fill(text, values), "utf-8")
            written.append(path)
    except OSError as error:
        raise StorageError.from_os("write", error.filename or str(folder), error) from error
    return written


def _check_name(name: str, installed: dict[str, str]) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ConfigError(
            f"{name!r} cannot be a backend's name: it must be lower-case letters, digits and single underscores "
            f"between them, begin with a letter, and have at most {_LONGEST} characters"
        )
    if name in installed:
        raise ConfigError(
            f"there is a backend {name} already, of the distribution {installed[name]}; take another name"
        )
    if f"sipdump_{name}" in _TAKEN:
        raise ConfigError(f"sipdump_{name} is a module of sipdump itself; choose another name")


def _fill(text: str, values: dict[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], text)

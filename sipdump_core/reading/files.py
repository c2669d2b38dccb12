"""Files that commands write: whole or not at all, and never over another one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from sipdump_core.errors import ConfigError, StorageError

__all__ = ["new_file", "refuse_old", "replaced_file", "write_new"]


def refuse_old(path: str, option: str = "-o") -> None:
    """Refuse a file that is there already, before anything is read for it.

    Raises:
        ConfigError: it is there.
    """
    if os.path.lexists(path):
        raise ConfigError(f"{path} is there already: name another file, or move it away", option)


@contextlib.contextmanager
def new_file(path: str) -> Iterator[str]:
    """Lend a path to write to; when the block ends, the file gets its name.

    Raises:
        StorageError: there is a file of that name already, or the folder refuses.
    """
    if os.path.lexists(path):
        raise StorageError("write", path, "there is such a file already", "name another one, or move it away")
    folder, name = os.path.split(os.path.abspath(path))
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as draft:
            inside = os.path.join(draft, name)
            yield inside
            os.link(inside, path)  # unlike a rename, it overwrites nothing that came meanwhile
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error


@contextlib.contextmanager
def replaced_file(path: str) -> Iterator[str]:
    """Lend a path to write to; when the block ends, the file takes the place of the one that has its name.

    Raises:
        StorageError: the folder refuses, or it is no file that has the name.
    """
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.lexists(path) and not os.path.isfile(path):
        raise StorageError("write", path, "this is not a regular file", "name another one")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as draft:
            inside = os.path.join(draft, name)
            yield inside
            if os.path.lexists(inside):
                os.replace(inside, path)
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error


def write_new(path: str, data: bytes) -> None:
    """Write a file that must not be there yet.

    Raises:
        StorageError: as :func:`new_file`.
    """
    with new_file(path) as draft, open(draft, "wb") as file:
        file.write(data)

"""The names in a folder, looked at once for all backends that a command asks: a folder may hold 100,000."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["forget_names", "names_in", "one_look"]

_looks: ContextVar[dict[str, Sequence[str]] | None] = ContextVar("looks", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """Within the block, names are as they were when they were first asked for. Other threads look for themselves."""
    looks = _looks.get()
    before = _looks.set({} if looks is None else looks)
    try:
        yield
    finally:
        _looks.reset(before)


def names_in(folder: str) -> Sequence[str]:
    """Return the names in a folder, sorted.

    Raises:
        OSError: it cannot be listed.
    """
    looks = _looks.get()
    if looks is None:
        return sorted(os.listdir(folder))
    if folder not in looks:
        looks[folder] = sorted(os.listdir(folder))
    return looks[folder]


def forget_names(folder: str) -> None:
    """Have a folder looked at again, also within :func:`one_look`."""
    looks = _looks.get()
    if looks is not None:
        looks.pop(folder, None)

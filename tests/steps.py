"""The order in which files are written, synced, named and removed: what a crash of the machine depends on."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

__all__ = ["Step", "steps_of"]

Step = tuple[str, str, int]
"""A function of ``os``, the last part of the path that it is given, and the bytes in that file before the call."""

_CALLS = ("fsync", "fdatasync", "link", "unlink", "rename", "replace")


def steps_of(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Note from now on what is done to files, and return the list that it is noted in."""
    steps: list[Step] = []

    def call(name: str, real: Callable[..., Any], what: int | str, *args: Any, **kwargs: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)
        if os.path.lexists(path):
            steps.append((name, os.path.basename(path), os.lstat(path).st_size if os.path.isfile(path) else 0))
        return real(what, *args, **kwargs)

    for name in _CALLS:
        monkeypatch.setattr(os, name, partial(call, name, getattr(os, name)))
    return steps

"""Another user on the same machine: processes and files of his. Only root can be him."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["NOBODY", "needs_root", "open_to_all", "stranger_locks"]

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def open_to_all(folder: Path) -> Path:
    """Make a folder like /tmp: everybody may write there, and delete what is his own."""
    folder.chmod(0o1777)
    return folder


@contextmanager
def stranger_locks(path: Path, kind: int = fcntl.LOCK_EX, *, orphaned: bool = False) -> Iterator[None]:
    """Have another user hold an flock on a file or folder.

    Args:
        path: what he can read.
        kind: of the lock.
        orphaned: the process that took it has ended, and a child of it still holds it.
    """
    ready, told = os.pipe()
    end, ended = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ended)
            # from within, because pytest closes the folders above to others
            folder, name = (path, ".") if path.is_dir() else (path.parent, path.name)
            os.chdir(folder)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            fd = os.open(name, os.O_RDONLY)
            fcntl.flock(fd, kind)
            if not orphaned or os.fork() == 0:
                os.write(told, b"x")
                os.read(end, 1)  # until the test ends it
        finally:
            os._exit(0)
    os.close(told)
    try:
        if orphaned:
            os.waitpid(pid, 0)
        assert os.read(ready, 1) == b"x", "the stranger could not take the lock"
        yield
    finally:
        os.close(ended)
        os.close(ready)
        os.close(end)
        if not orphaned:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

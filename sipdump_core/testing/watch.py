"""Looks at what a call does: what it touches outside of Python, and what may happen in the midst of it."""

import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import attrs

__all__ = [
    "Decoys",
    "Touch",
    "at_step",
    "called",
    "closed_once",
    "left_after",
    "possessions",
    "resident",
    "steps",
    "touching",
]

T = TypeVar("T")
_WATCHED = (
    "open", "socket.", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink",
    "os.rmdir", "os.truncate", "os.chmod", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
    "sqlite3.connect", "tempfile.", "shutil.", "mmap.__new__", "pickle.find_class", "marshal.loads",
)  # fmt: skip
_IMPORTS = ("importlib", "<frozen importlib", "zipimport")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@attrs.frozen
class Touch:
    """Something outside of Python that was touched: an audit event (docs.python.org, "Audit events table")."""

    event: str
    what: str
    writes: bool
    """Whether it may change something, or reaches another machine; what only reads a file does not."""

    def __str__(self) -> str:
        return f"{self.event} {self.what}"


_recorders: list[tuple[int, list[Touch]]] = []
_hooked = threading.Lock()


@contextlib.contextmanager
def touching() -> Iterator[list[Touch]]:
    """Record what this thread touches meanwhile, except what the import of a module does."""
    if _hooked.acquire(blocking=False):  # once in a process: a hook cannot be removed
        sys.addaudithook(_audit)
    recorder: tuple[int, list[Touch]] = threading.get_ident(), []
    _recorders.append(recorder)
    try:
        yield recorder[1]
    finally:
        _recorders.remove(recorder)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _recorders or not event.startswith(_WATCHED):
        return
    own = [found for thread, found in _recorders if thread == threading.get_ident()]
    if not own or _importing(sys._getframe(1)):
        return
    writes = event != "open" or bool(len(args) > 2 and isinstance(args[2], int) and args[2] & _WRITES)
    writes = writes and event not in ("os.listdir", "os.scandir")
    for found in own:
        found.append(Touch(event, " ".join(str(arg) for arg in args[:2] if arg is not None), writes))


def _importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename.startswith(_IMPORTS) or "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def steps(call: Callable[[], Any]) -> int:
    """Count the calls of C code that a call makes in this thread; whatever it raises is passed on."""
    count = 0

    def count_it(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("c_return", "c_exception")

    with _profiled(count_it):
        call()
    return count


def at_step(number: int, call: Callable[[], T], act: Callable[[], None]) -> T:
    """Do something in the midst of a call, as another thread or process might.

    Args:
        number: after which of the calls of C code, from 1.
        call: whatever it raises is passed on.
        act: is called once; not at all, if there are fewer calls.
    """
    count = 0

    def look(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("c_return", "c_exception")
        if count == number and event in ("c_return", "c_exception"):
            sys.setprofile(None)
            act()
            sys.setprofile(look)

    with _profiled(look):
        return call()


@contextlib.contextmanager
def called(*names: tuple[str, str]) -> Iterator[list[str]]:
    """Record the calls of C functions that have one of the names.

    Args:
        names: the function's module, or the module of the class that it is a method of, and its own name.
    """
    found: list[str] = []

    def look(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and (_module(function), function.__name__) in names and not _importing(frame):
            found.append(f"{_module(function).lstrip('_')}.{function.__name__}")

    with _profiled(look):
        yield found


@contextlib.contextmanager
def closed_once(decoy: Callable[[], int]) -> Iterator[None]:
    """Give the number of each descriptor to another file as soon as it is closed.

    Args:
        decoy: opens a file.
    """

    def look(_: FrameType, event: str, function: Any) -> None:
        if event == "c_return" and function.__name__ == "close":
            sys.setprofile(None)
            decoy()
            sys.setprofile(look)

    with _profiled(look):
        yield


class Decoys:
    """Files that take the numbers of descriptors as they become free, to see whether somebody closes those.

    Args:
        path: a file to make.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: set[int] = set()
        self._gone = 0
        self.count = 0
        """How many files were opened."""

    def __enter__(self) -> Self:
        self._path.touch()
        self._status = os.stat(self._path)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        while self.open() < highest:  # so that the next number to become free is the next to be given
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for fd in self._open:
            if self._is_there(fd):
                os.close(fd)

    def open(self) -> int:
        """Open one more."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._gone += fd in self._open  # it has a number that another one should have
        self._open.add(fd)
        self.count += 1
        return fd

    def gone(self) -> int:
        """Count those that are closed, though not by this."""
        return self._gone + sum(not self._is_there(fd) for fd in self._open)

    def _is_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._status)
        except OSError:
            return False


def possessions() -> dict[str, int]:
    """Count what this process has that has to be given back."""
    tasks = "/proc/self/task"
    children = 0
    for task in os.listdir(tasks):
        with contextlib.suppress(OSError), open(f"{tasks}/{task}/children") as file:  # a thread may end meanwhile
            children += len(file.read().split())
    return {
        "threads": threading.active_count(),
        "file descriptors": len(os.listdir("/proc/self/fd")),
        "child processes": children,
    }


def resident() -> int:
    """Return the bytes of memory that this process has, when what is garbage is given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def left_after(before: dict[str, int], patience: float, spare: int = 0) -> dict[str, int]:
    """Return what there is more than before, when it has had time to end.

    Args:
        before: what ``possessions`` returned.
        patience: seconds to wait.
        spare: how many more of each kind do not count.
    """
    end = time.monotonic() + patience
    while True:
        gc.collect()
        more = {kind: now - before[kind] for kind, now in possessions().items() if now > before[kind] + spare}
        if not more or time.monotonic() > end:
            return more
        time.sleep(0.02)  # a thread or a peer's connection may be about to end


@contextlib.contextmanager
def _profiled(look: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)


def _module(function: Any) -> str:
    owner = getattr(function, "__self__", None)
    return str(function.__module__ or type(owner).__module__)

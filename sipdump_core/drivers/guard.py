"""What stands between sipdump and a driver: a driver may raise anything, and must fail alone."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import FunctionType, TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

from sipdump_core.drivers.base import Backend
from sipdump_core.errors import DriverError, SipDumpError, kind_and_text

__all__ = ["Guard", "blaming", "each_of", "labelled", "timely"]

P = ParamSpec("P")
T = TypeVar("T")


class Guard:
    """Catches whatever the ``with`` block raises, and keeps it.

    ::

        with Guard() as guard:
            backend.flush()
        if guard.error:
            ...

    That includes ``SystemExit`` and asyncio's ``CancelledError``, which are no ``Exception``. Only Ctrl-C passes, which
    Python raises in the main thread.
    """

    error: BaseException | None = None
    """What was raised, if anything was."""

    @property
    def text(self) -> str:
        """What was raised, with its kind, in one line; empty if nothing was."""
        return kind_and_text(self.error) if self.error is not None else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            return False
        self.error = error
        return True


def labelled(driver: str, operation: str, call: Callable[P, T]) -> Callable[P, T]:
    """Return a call that stands in every traceback as ``in backend DRIVER, OPERATION``.

    A report of ``faulthandler``, after a driver has crashed the process, has nothing but the names of functions: so it
    says which driver was running.
    """
    return partial(_named(_run, driver, operation), call)


_METHODS = {"list": "segments", "delete": "delete_many"}
"""What is called for an operation, where that has another name."""


def _run(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return call(*args, **more)


def _iterate(call: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    yield from call()


@lru_cache(512)
def _named(function: FunctionType, driver: str, operation: str) -> Callable[..., Any]:
    """Return a function of the same code under another name."""
    code = function.__code__.replace(co_filename="sipdump", co_name=f"backend {driver}, {operation}")
    return FunctionType(code, {})


@contextmanager
def blaming(backend: Backend, operation: str) -> Iterator[None]:
    """Make a :class:`DriverError` that names the driver of whatever the block raises, but for errors of sipdump.

    Raises:
        SipDumpError: as it was raised.
        DriverError: the driver raised anything else.
    """
    with Guard() as guard:
        yield
    _blame(backend, operation, guard)


def each_of(backend: Backend, operation: str, call: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yield what a driver's call yields.

    Raises:
        SipDumpError: as it was raised.
        DriverError: the driver raised anything else.
    """
    lent = False
    with Guard() as guard:  # one for all items: records come by the million
        for item in _named(_iterate, backend.name, f"{_METHODS.get(operation, operation)}()")(call):
            lent = True
            yield item
            lent = False
    if lent and guard.error is not None:  # the caller's: it wants no more
        raise guard.error
    _blame(backend, operation, guard)


def timely(backend: Backend, operation: str, call: Callable[[], Iterable[T]], seconds: float) -> Iterator[T]:
    """Yield what a driver's call yields, as :func:`each_of` does, but wait no longer than so long for the next item.

    The call runs in a thread of its own, which is left behind if it hangs. As long as it does, it is not begun again.

    Raises:
        SipDumpError: as it was raised.
        DriverError: the driver raised anything else, or nothing came in time.
    """
    key = (backend.name, backend.site.folder, backend.site.prefix, operation)
    silent = f"{_of(backend, operation)} has answered nothing for {seconds:g} s, and is given up"
    if key in _hanging and _hanging[key].is_alive():
        raise DriverError(silent)
    ahead = _Ahead(each_of(backend, operation, call))
    thread = threading.Thread(target=ahead.run, name=f"sipdump-{backend.name}-{operation}", daemon=True)
    thread.start()
    try:
        last = time.monotonic()
        while True:
            ended = ahead.ended  # before the last look
            if ahead.items:
                while ahead.items:
                    yield ahead.items.popleft()
                last = time.monotonic()
            elif ended:
                break
            elif time.monotonic() - last >= seconds:
                _hanging[key] = thread
                raise DriverError(silent)
            else:
                ahead.ready.wait(_LOOK)
                ahead.ready.clear()
        if ahead.error is not None:
            raise ahead.error
    finally:
        ahead.stopped = True


_hanging: dict[tuple[str, ...], threading.Thread] = {}
"""Calls that were given up, and may not have returned yet."""
_LOOK = 0.05
"""Seconds between two looks at what another thread has found."""
_HANDFUL = 256
_MOST = 16 * _HANDFUL
"""How many items a driver may be ahead of who takes them."""


class _Ahead(Generic[T]):
    """Takes items from an iterator, in a thread that may be left behind."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source
        self.items: deque[T] = deque()
        self.ready = threading.Event()
        self.ended = self.stopped = False
        self.error: BaseException | None = None

    def run(self) -> None:
        with Guard() as guard:
            for item in self._source:
                self.items.append(item)
                if len(self.items) % _HANDFUL == 0:  # for each one it would cost more than to find it
                    self.ready.set()
                while len(self.items) >= _MOST and not self.stopped:
                    time.sleep(_LOOK)
                if self.stopped:
                    break
        self.error = guard.error
        self.ended = True
        self.ready.set()


def _of(backend: Backend, operation: str) -> str:
    origin = f" of {backend.site.distribution}" if backend.site.distribution else ""
    return f"{operation}: the backend {backend.name}{origin}"


def _blame(backend: Backend, operation: str, guard: Guard) -> None:
    if isinstance(guard.error, SipDumpError):
        raise guard.error
    if guard.error is not None:
        raise DriverError(f"{_of(backend, operation)} raised {guard.text}") from guard.error

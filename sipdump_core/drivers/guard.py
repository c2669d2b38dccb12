"""What stands between sipdump and a driver: a driver may raise anything, and must fail alone."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

from sipdump_core.drivers.base import Backend
from sipdump_core.errors import DriverError, SipDumpError, kind_and_text

__all__ = ["Guard", "each_of", "blaming"]

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


@contextmanager
def blaming(backend: Backend, operation: str) -> Iterator[None]:
    """Make a :class:`DriverError` that names the driver of whatever the block raises, but for errors of sipdump.

    Raises:
        SipDumpError: as it was raised.
        DriverError: the driver raised anything else.
    """
    with Guard() as guard:
        yield
    if isinstance(guard.error, SipDumpError):
        raise guard.error
    if guard.error is not None:
        origin = f" of {backend.site.distribution}" if backend.site.distribution else ""
        raise DriverError(f"{operation}: the backend {backend.name}{origin} raised {guard.text}") from guard.error


def each_of(backend: Backend, operation: str, call: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yield what a driver's call yields.

    Raises:
        SipDumpError: as it was raised.
        DriverError: the driver raised anything else.
    """
    with blaming(backend, operation):
        items = iter(call())
    while True:
        found: list[T] = []
        with blaming(backend, operation):
            found += islice(items, 1)
        if not found:
            return
        yield found[0]

"""What stands between sipdump and a driver: a driver may raise anything, and must fail alone."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    _blame(backend, operation, guard)


def each_of(backend: Backend, operation: str, call: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yield what a driver's call yields.

    Raises:
        SipDumpError: as it was raised.
        DriverError: the driver raised anything else.
    """
    lent = False
    with Guard() as guard:  # one for all items: records come by the million
        for item in call():
            lent = True
            yield item
            lent = False
    if lent and guard.error is not None:  # the caller's: it wants no more
        raise guard.error
    _blame(backend, operation, guard)


def _blame(backend: Backend, operation: str, guard: Guard) -> None:
    if isinstance(guard.error, SipDumpError):
        raise guard.error
    if guard.error is not None:
        origin = f" of {backend.site.distribution}" if backend.site.distribution else ""
        raise DriverError(f"{operation}: the backend {backend.name}{origin} raised {guard.text}") from guard.error

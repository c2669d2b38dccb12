"""The desk: what all views work with: the store, the pages, the keys, and searches that are bounded."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeVar

import attrs
from anyio import to_thread
from starlette.requests import Request

from sipdump_core.calls.legs import LegRules
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import Shelf
from sipdump_core.reading.store import Store
from sipdump_core.viewing.web.gate import Keys
from sipdump_core.viewing.web.hub import Hub
from sipdump_core.viewing.web.limits import BusyError, Limits
from sipdump_core.viewing.web.pages import Pages

__all__ = ["Desk", "Scan", "desk_of"]

T = TypeVar("T")


class Scan:
    """One search: a store of its own to ask, and when to end.

    Args:
        store: what is asked.
        problems: what could not be opened.
    """

    def __init__(self, store: Store, problems: Sequence[str] = ()) -> None:
        self.store = store
        self.searched = Searched(problems=[*problems])
        self.ended = ""
        """Why it was ended before its end; empty while it was not."""
        self._began = time.monotonic()

    def spent(self) -> float:
        """Return how long it has been going on: seconds."""
        return time.monotonic() - self._began

    def end(self, why: str) -> None:
        """End it, with what it has found so far; from any thread."""
        self.ended = self.ended or why
        self.store.interrupted = True  # interrupt() is for signal handlers: it raises where it is called


@attrs.define
class Desk:
    """What all views work with."""

    shelves: Sequence[Shelf]
    rules: LegRules
    pages: Pages
    keys: Keys
    limits: Limits = attrs.field(factory=Limits)
    problems: Sequence[str] = ()
    """What could not be opened, one line each."""
    configs: Sequence[str] = ()
    """The configurations of daemons that were named."""
    defines: Sequence[str] = ()
    """Names for their preprocessor."""
    base: str = ""
    """The address before all paths, where a proxy is; else that of the request."""
    hub: Hub = attrs.field(init=False, repr=False)
    """What follows the store for all viewers."""
    _scans: set[Scan] = attrs.field(factory=set, init=False, repr=False)
    """Those that run."""
    _running: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    @hub.default
    def _make_hub(self) -> Hub:
        return Hub(lambda: Store(self.shelves, rules=self.rules))

    def close(self) -> None:
        """End what is open, so that the server need not wait for it."""
        self.hub.close()
        for scan in list(self._scans):
            scan.end("the server ends")

    def scan(self) -> Scan:
        """Return a search that has not begun; for what is asked within :meth:`slot`."""
        return Scan(Store(self.shelves, rules=self.rules), self.problems)

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Take the place of one search.

        Raises:
            BusyError: as many as may run are running.
        """
        with self._lock:
            if self._running >= self.limits.searches:
                raise BusyError(f"{self._running} searches are running, and no more may at once: try again in a moment")
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    @contextlib.asynccontextmanager
    async def bounded(self, scan: Scan) -> AsyncIterator[None]:
        """End a search when its time is up."""
        seconds = self.limits.seconds
        timer = asyncio.get_running_loop().call_later(
            seconds, scan.end, f"it took longer than {seconds:g} s: this is what was found by then"
        )
        self._scans.add(scan)
        try:
            yield
        finally:
            timer.cancel()
            self._scans.discard(scan)

    async def asked(self, ask: Callable[[Scan], T]) -> T:
        """Ask the store something, in a thread of its own, and return the answer.

        Args:
            ask: asks; it returns soon after :meth:`Scan.end`.

        Raises:
            BusyError: as many searches as may run are running.
        """
        scan = self.scan()
        with self.slot():
            async with self.bounded(scan):
                return await to_thread.run_sync(ask, scan)


def desk_of(request: Request) -> Desk:
    """Return the desk of the app that a request came to."""
    desk = request.app.state.desk
    assert isinstance(desk, Desk)  # noqa: S101 - state has no types
    return desk

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

from sipdump_core.calls.call import Call
from sipdump_core.calls.legs import LegRules
from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError
from sipdump_core.masking.users import Users
from sipdump_core.reading.finder import Found
from sipdump_core.reading.redacting import Redactor
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import Shelf, Shelved
from sipdump_core.reading.store import Store
from sipdump_core.reading.units import Unit
from sipdump_core.record import Record
from sipdump_core.viewing.recent import Recent
from sipdump_core.viewing.web.gate import Keys
from sipdump_core.viewing.web.hub import Hub, masked
from sipdump_core.viewing.web.limits import BusyError, Limits
from sipdump_core.viewing.web.pages import Pages

__all__ = ["Desk", "Scan", "desk_of"]

T = TypeVar("T")

_FEW = 100
"""Call-IDs; so many may belong to one call that is shown, with its legs."""
_MOST = 10_000
"""Messages of such a call that are read."""


class _Bounded(Store):
    """A store that reads calls only up to a number of messages: somebody may have sent a million with one Call-ID."""

    def unsorted(
        self, query: Query, searched: Searched | None = None, chosen: Sequence[Unit[Shelved]] | None = None
    ) -> Iterator[Record]:
        """Yield what :meth:`Store.unsorted` does, as far as it goes."""
        records = super().unsorted(query, searched, chosen)
        if len(query.call_ids | query.correlations) > _FEW or not (query.call_ids or query.correlations):
            yield from records
            return
        for number, record in enumerate(records):
            if number >= _MOST:
                if searched is not None:
                    searched.note(
                        f"there are more than {_MOST:,} messages, and no more are shown: see sipdump-read export"
                    )
                return
            yield record


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
    stand_ins: Sequence[Users] = ()
    """What stands in the store for users."""
    redactor: Redactor | None = None
    """What masks all that is shown."""
    hub: Hub = attrs.field(init=False, repr=False)
    """What follows the store for all viewers."""
    _scans: set[Scan] = attrs.field(factory=set, init=False, repr=False)
    """Those that run."""
    _running: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    @hub.default
    def _make_hub(self) -> Hub:
        return Hub(lambda: Store(self.shelves, rules=self.rules), self.redactor)

    def close(self) -> None:
        """End what is open, so that the server need not wait for it."""
        self.hub.close()
        for scan in list(self._scans):
            scan.end("the server ends")

    def shown(self, call: Call) -> Call:
        """Return a call as it is shown."""
        return masked(call.call_id, call.records, self.redactor) if self.redactor else call

    def found(self, call_id: str, scan: Scan, *, legs: bool = True) -> list[Found]:
        """Return a call and its other legs as they are shown; see :meth:`Store.call`."""
        found = scan.store.call(call_id, scan.searched, legs=legs)
        return list(self.redactor.found(found, scan.store.now_us)) if self.redactor else found

    def scan(self) -> Scan:
        """Return a search that has not begun; for what is asked within :meth:`slot`."""
        return Scan(_Bounded(self.shelves, rules=self.rules), self.problems)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Take the place of one search, as soon as one is free.

        Raises:
            BusyError: as many as may run have been running for some time.
        """
        end = time.monotonic() + self.limits.patience
        while not self._take_slot():
            if time.monotonic() >= end:
                most = self.limits.searches
                raise BusyError(f"{most} searches are running, and no more may at once: try again in a moment")
            await asyncio.sleep(0.05)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _take_slot(self) -> bool:
        with self._lock:
            free = self._running < self.limits.searches
            self._running += free
        return free

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
        async with self.slot(), self.bounded(scan):
            return await to_thread.run_sync(ask, scan)

    async def warm(self) -> None:
        """Look at the store once, so that what takes long the first time is done before anybody asks."""
        scan = self.scan()

        def look() -> None:
            with contextlib.suppress(SipDumpError):
                for _ in Recent(scan.store, Query(), limit=1).steps():
                    pass

        async with self.bounded(scan):
            await to_thread.run_sync(look)


def desk_of(request: Request) -> Desk:
    """Return the desk of the app that a request came to."""
    desk = request.app.state.desk
    assert isinstance(desk, Desk)  # noqa: S101 - state has no types
    return desk

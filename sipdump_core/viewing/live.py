"""Live: follows a store for any number of viewers, and keeps its calls up to date as messages come.

One thread reads what is new, a few times a second. Memory is bounded everywhere: of the calls, those that are over go
first, the longest idle before others; they are still in the store. What a viewer has not taken is bounded for each
viewer alone, so that a slow one loses its own events, with a count, and nobody else's.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import attrs

from sipdump_core.calls.call import Call
from sipdump_core.calls.story import PATIENCE_US
from sipdump_core.calls.tracker import CallTracker
from sipdump_core.clock import Clock
from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError
from sipdump_core.reading.finder import Judge
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.store import Store
from sipdump_core.reading.tail import Follower
from sipdump_core.record import Record
from sipdump_core.threads import lasting
from sipdump_core.viewing.listing import Row, row_of

__all__ = ["Counts", "Live", "Taken", "Viewer"]

_TICK = 0.2
"""Seconds between two looks at the store."""
_HELD = 48 << 20
"""Bytes of messages that are held, with what Python adds to each."""
_OVERHEAD = 1500
"""Bytes of a held message beside its text, measured on CPython 3.11."""
_WAITING = 5000
"""Calls, and messages, that may wait for one viewer."""
_CHUNK = 100
"""Messages that are taken in at once: so long others wait for the lock."""
_US = 1_000_000
_OPEN = ("calling", "ringing")
_GOES_ON = (*_OPEN, "answered")


@attrs.frozen
class Counts:
    """What was seen since the start."""

    messages: int
    """Messages that came."""
    calls: int
    """Calls that are held."""
    held: int
    """Bytes of these, about."""
    dropped: int
    """Calls that were held and are no more; they are in the store."""


@attrs.frozen
class Taken:
    """What happened since a viewer took something last."""

    rows: Sequence[Row]
    """The calls that are new or changed and match, each once, as they are now."""
    gone: Sequence[str]
    """Call-IDs of calls that matched before and do not any more."""
    messages: Sequence[Record]
    """The messages that came and match, where the viewer wants them."""
    lost_calls: int
    """Changes that this viewer was too slow for."""
    lost_messages: int


class Viewer:
    """One viewer's events, until it takes them.

    Args:
        query: which calls, and which messages.
        messages: whether it wants messages too.
        waiting: how many calls, and how many messages, may wait.
        wake: is called in the thread of :class:`Live` when something waits; it must return at once.
    """

    def __init__(
        self,
        query: Query | None = None,
        *,
        messages: bool = False,
        waiting: int = _WAITING,
        wake: Callable[[], object] = lambda: None,
    ) -> None:
        self._query = query or Query()
        self._judge = Judge(self._query)
        self._wants_messages = messages
        self._limit = waiting
        self._wake = wake
        self._changed = threading.Condition()
        self._rows: dict[str, Row | None] = {}
        """By Call-ID; None: it does not match any more."""
        self._shown: dict[str, None] = {}
        """The calls that matched, the oldest first; as many as may wait, ten times."""
        self._messages: deque[Record] = deque()
        self._lost = [0, 0]

    def take(self, timeout: float | None = 0) -> Taken:
        """Take what waits.

        Args:
            timeout: seconds to wait for something; None: for ever.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._messages or any(self._lost), timeout)
            rows = [row for row in self._rows.values() if row is not None]
            gone = [call_id for call_id, row in self._rows.items() if row is None]
            taken = Taken(rows, gone, list(self._messages), *self._lost)
            self._rows.clear()
            self._messages.clear()
            self._lost = [0, 0]
        return taken

    def put(
        self,
        changes: Iterable[tuple[Call, Row]],
        records: Iterable[Record],
        shown: Callable[[Record], Record] | None = None,
    ) -> None:
        """Add what happened; for :class:`Live`."""
        with self._changed:
            for call, row in changes:
                self._put_row(call, row)
            if self._wants_messages:
                for record in filter(self._query.matches, records):
                    if len(self._messages) >= self._limit:
                        self._messages.popleft()
                        self._lost[1] += 1
                    self._messages.append(record if shown is None else shown(record))
            if not (self._rows or self._messages):
                return
            self._changed.notify_all()
        self._wake()

    def _put_row(self, call: Call, row: Row) -> None:
        call_id = row.call_id
        matches = self._judge.takes_outcome(row.summary) and self._judge.takes(call)
        if not (matches or call_id in self._shown):
            return
        self._rows.pop(call_id, None)
        if len(self._rows) >= self._limit:
            self._rows.pop(next(iter(self._rows)))
            self._lost[0] += 1
        self._rows[call_id] = row if matches else None
        self._shown.pop(call_id, None)
        if matches:
            self._shown[call_id] = None
            if len(self._shown) > 10 * self._limit:
                self._shown.pop(next(iter(self._shown)))


class Live:
    """Follows a store.

    Args:
        store: what is followed; no other thread may read with it meanwhile.
        clock: the time.
        held: bytes of messages that are held.
        shown: masks a message for viewers, after it was judged as it is.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        held: int = _HELD,
        shown: Callable[[Record], Record] | None = None,
    ) -> None:
        self.ready = threading.Event()
        """Set when all that is stored from now on will be seen."""
        self._store = store
        self._clock = clock or Clock()
        self._limit = held
        self._shown = shown
        self._lock = threading.RLock()
        self._tracker = CallTracker()
        self._sizes: dict[str, int] = {}
        """Bytes of the calls that are held."""
        self._over: dict[str, None] = {}
        """The calls that are over, the longest idle first."""
        self._open: set[str] = set()
        """Those without an answer: they time out in silence."""
        self._held = 0
        self._messages = 0
        self._dropped = 0
        self._viewers: list[Viewer] = []
        self._problems: list[str] = []
        self._paused = threading.Event()
        self._stopped = threading.Event()
        self._follower: Follower | None = None
        self._thread = lasting(self._run, "sipdump-live")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for the thread as long as a read may take."""
        self._stopped.set()
        self._thread.join(5)

    def join(self, viewer: Viewer, *, with_held: bool = False) -> Viewer:
        """Add a viewer, and return it.

        Args:
            viewer: the viewer.
            with_held: whether it gets the calls that are held already.
        """
        with self._lock:
            if with_held:
                viewer.put(self._rows(list(self._tracker.calls.values())), ())
            self._viewers = [*self._viewers, viewer]
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        with self._lock:
            self._viewers = [each for each in self._viewers if each is not viewer]

    def feed(self, records: Iterable[Record], judge: Judge | None = None) -> tuple[list[Row], list[str]]:
        """Take in records that were read elsewhere, as older ones of calls that go on. No viewer is told.

        Args:
            records: in any order.
            judge: which calls to return.

        Returns:
            The rows of their calls that match, and the Call-IDs of those that do not.
        """
        changed: dict[str, Call] = {}
        chunk: list[Record] = []
        for record in records:
            chunk.append(record)
            if len(chunk) == _CHUNK:
                self._feed(chunk, changed)
                chunk = []
        self._feed(chunk, changed)
        rows, others = [], []
        ids = list(changed)
        for first in range(0, len(ids), _CHUNK):
            with self._lock:
                for call, row in self._rows([changed[one] for one in ids[first : first + _CHUNK]]):
                    if judge is None or (judge.takes_outcome(row.summary) and judge.takes(call)):
                        rows.append(row)
                    else:
                        others.append(row.call_id)
                self._drop()
        return rows, others

    def records(self, call_id: str) -> list[Record]:
        """Return the messages of a call that are held; the store may have more."""
        with self._lock:
            call = self._tracker.calls.get(call_id)
            records = [] if call is None else call.records
        return records if self._shown is None else list(map(self._shown, records))

    def problems(self) -> list[str]:
        """Return what could not be read since the last call, one line each."""
        with self._lock:
            found, self._problems = self._problems, []
        return found

    @property
    def counts(self) -> Counts:
        """What was seen since the start."""
        with self._lock:
            return Counts(self._messages, len(self._tracker.calls), self._held, self._dropped)

    def look(self) -> int:
        """Read what is new, tell the viewers, and return how many messages that were; for tests and the thread."""
        if self._follower is None:
            self._follower = Follower(self._store, Query(), Searched())
            self.ready.set()
        count = 0
        chunk: list[Record] = []
        for record in self._follower.fresh():
            chunk.append(record)
            if len(chunk) == _CHUNK:
                count += self._publish(chunk)
                chunk = []
        count += self._publish(chunk)
        found = self._follower.problems()
        if found:
            with self._lock:
                self._problems = [*self._problems, *found][-_CHUNK:]
        return count

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except SipDumpError as error:
                with self._lock:
                    self._problems = [*self._problems, str(error)][-_CHUNK:]
            self._stopped.wait(_TICK)

    def _publish(self, records: Sequence[Record]) -> int:
        """Take in what is new, and tell the viewers of it."""
        changed: dict[str, Call] = {}
        self._feed(records, changed)
        with self._lock:
            self._messages += len(records)
            for call in self._timed_out():
                changed[call.call_id] = call
            changes = [(call, row) for call, row in self._rows(changed.values()) if not _is_stray(call)]
            viewers = self._viewers
            for viewer in viewers if changes or records else ():
                viewer.put(changes, records, self._shown)
            self._drop()
        return len(records)

    def _feed(self, records: Sequence[Record], changed: dict[str, Call]) -> None:
        with self._lock:
            for record in records:
                call = self._tracker.feed(record)
                if call is not None:
                    changed[call.call_id] = call
                    size = len(record.buf) + _OVERHEAD
                    self._sizes[call.call_id] = self._sizes.get(call.call_id, 0) + size
                    self._held += size

    def _rows(self, calls: Iterable[Call]) -> list[tuple[Call, Row]]:
        """Return the rows of calls, and take down which of them are over."""
        now_us = self._now_us()
        found = []
        for call in calls:
            row = row_of(self._as_shown(call), now_us)
            call.forget()
            found.append((call, row))
            call_id, state = call.call_id, row.summary.state
            self._over.pop(call_id, None)
            self._open.discard(call_id)
            if call_id not in self._sizes:
                continue  # it was dropped meanwhile
            if state not in _GOES_ON:
                self._over[call_id] = None
            elif state in _OPEN:
                self._open.add(call_id)
        return found

    def _as_shown(self, call: Call) -> Call:
        """Return a call as viewers get to see it."""
        if self._shown is None:
            return call
        masked = Call(call.call_id)
        for record in call.records:
            masked.add(self._shown(record))
        return masked

    def _now_us(self) -> int:
        """Return the time that ages of calls count to: now while anything can come, else that of the newest message."""
        grows = self._follower is None or self._follower.grows
        return int(self._clock.time() * _US) if grows else self._tracker.newest_us

    def _timed_out(self) -> list[Call]:
        """Return the unanswered calls that have timed out."""
        before_us = self._now_us() - PATIENCE_US
        calls = self._tracker.calls
        return [calls[one] for one in self._open if one in calls and calls[one].newest_us < before_us]

    def _drop(self) -> None:
        """Forget calls until what is held is within the bound."""
        while self._held > self._limit and self._sizes:
            one = next(iter(self._over), None) or next(iter(self._tracker.calls))
            self._over.pop(one, None)
            self._open.discard(one)
            self._tracker.drop(one)
            self._held -= self._sizes.pop(one)
            self._dropped += 1


def _is_stray(call: Call) -> bool:
    """Return whether it is only the ACK to an answer whose call was dropped."""
    return all(message.method == "ACK" for _, message in call.sightings)

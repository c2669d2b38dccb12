"""Calls newest first, while the search still goes on: time is walked backwards in slices, which grow.

``find`` sorts all that matches and then prints it. Somebody who looks wants the latest calls at once. So the latest
slice of time is searched first, then a longer one before it, and so on; what a slice has found is shown before the next
one is read. A call is in the list once, at the time it began, as it is in :meth:`~sipdump_core.reading.store.Store.find`.
"""

from collections.abc import Callable, Iterable, Iterator

import attrs

from sipdump_core.calls.call import Call
from sipdump_core.drivers.query import Query
from sipdump_core.reading.finder import Judge
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.sorting import RecordSorter
from sipdump_core.reading.store import Store
from sipdump_core.reading.when import AROUND
from sipdump_core.record import Record
from sipdump_core.viewing.listing import Row, row_of

__all__ = ["Recent", "Step"]

_US = 1_000_000
_FIRST_US = {True: 60 * _US, False: _US // 2}
"""The first slice, with a filter of messages and without: with one, less is found, and each slice costs more."""
_GROWTH = {True: 8, False: 4}
_LAST_US = 30 * 86400 * _US
"""A slice longer than this is all the time that is left."""
_SMALL = 1 << 20
"""Bytes; so much is searched at once."""
_MANY = 10_000
"""Calls of one slice that are read at once; where there are more, the slice is halved."""
_HELD = 64 << 20
"""Bytes of messages that are held for calls whose beginning was not read yet."""
_OVERHEAD = 1500
"""Bytes of a held message beside its text, measured on CPython 3.11."""
_QUIET_US = _US
"""If there is nothing of a call for so long before an INVITE without a To-tag, it began with this INVITE."""

Slice = tuple[int | None, int | None]
"""Where it begins and ends; None: where the store does."""


@attrs.frozen
class Step:
    """What a slice has found."""

    rows: list[Row]
    """The next calls, the newest first."""
    back_to_us: int | None
    """How far back was searched, in microseconds since the epoch; None: as far as there is something."""


class Recent:
    """One search.

    Args:
        store: what is searched; :attr:`Store.interrupted` ends it.
        query: the question.
        searched: takes down what was read, and what could not be.
        limit: how many calls are wanted.
        around: seconds before and after the span in which the other messages of its calls are looked for.
    """

    def __init__(self, store: Store, query: Query, searched: Searched, *, limit: int, around: float = AROUND) -> None:
        self.more = False
        """Whether there are more calls than were wanted."""
        self._store = store
        self._query = query
        self._judge = Judge(query)
        self._searched = searched
        self._limit = limit
        self._around_us = int(around * _US)
        self._pending: list[_Found] = []
        """Calls that began before the slice in which they were found."""
        self._passed: set[int] = set()
        """Call-IDs that were judged."""
        self._held: dict[str, Call] = {}
        """Calls that may have begun before the slice that was read last."""
        self._held_bytes = 0

    def steps(self) -> Iterator[Step]:
        """Search, and yield what was found, slice by slice."""
        room = self._limit
        for begin, end in self._slices():
            for found in self._by_filter(begin, end) if self._judge.parts else self._by_time(begin, end):
                self._pending.append(found)
                if len(self._pending) > 2 * self._limit + 100:
                    self._trim(room)
            self._trim(room)
            ended = self._store.interrupted or begin is None or begin == self._query.since_us
            ready = [each for each in self._pending if ended or begin is None or each.began_us >= begin][:room]
            room -= len(ready)
            self._pending = self._pending[len(ready) :]
            self.more = not room and (bool(self._pending) or not ended)
            rows = [each.row(self._store.now_us) for each in ready]
            yield Step(sorted(rows, key=lambda row: (-row.summary.began, row.call_id)), begin)
            if self._store.interrupted or not room:
                return

    def _trim(self, room: int) -> None:
        """Keep the newest calls, one more than there is room for."""
        self._pending.sort(key=lambda found: (-found.began_us, found.call.call_id))
        del self._pending[room + 1 :]

    def _slices(self) -> Iterator[Slice]:
        """Yield the slices of the span, the latest first."""
        since_us, until_us = self._query.since_us, self._query.until_us
        units = self._store.chosen(self._query, Searched())
        size = sum(holding.stored.size for unit in units for holding in unit.holdings)
        newest_us = None if self._query.call_ids or size <= _SMALL else self._store.newest_us()
        if newest_us is None:
            yield since_us, until_us
            return
        end = until_us
        filtered = bool(self._judge.parts)
        width = _FIRST_US[filtered]
        top = newest_us + 1 if until_us is None else min(until_us, newest_us + 1)
        while width <= _LAST_US and (since_us is None or top - width > since_us):
            top -= width
            yield top, end
            end, width = top, width * _GROWTH[filtered]
        yield since_us, end

    def _by_filter(self, begin: int | None, end: int | None) -> "Iterator[_Found]":
        """Yield the calls that have a message in a slice which meets the filter that leaves fewest."""
        driving = attrs.evolve(self._judge.parts[0], since_us=begin, until_us=end)
        ids: set[str] = set()
        for record in self._store.unsorted(driving, self._searched):
            call_id = record.call_id
            if call_id is None or hash(call_id) in self._passed:
                continue
            ids.add(call_id)
            if len(ids) > _MANY and begin is not None and end is not None and end - begin > 2:
                middle = (begin + end) // 2
                yield from self._by_filter(middle, end)
                yield from self._by_filter(begin, middle)
                return
        self._passed |= set(map(hash, ids))
        parted = set[str]()
        for call in self._whole(ids, begin, end):
            found = self._judged(call)
            if found is not None and not self._is_all(begin, end) and _is_parted(found.row(self._store.now_us)):
                parted.add(call.call_id)
            elif found is not None:
                yield found
        for call in self._whole(parted, self._query.since_us, self._query.until_us):
            found = self._judged(call)
            if found is not None:
                yield found

    def _whole(self, ids: set[str], begin: int | None, end: int | None) -> Iterator[Call]:
        """Yield calls with all their messages of a slice and of the time around it."""
        if not ids:
            return
        with RecordSorter(by_call=True) as sorter:
            for record in self._store.unsorted(self._span(begin, end, ids), self._searched):
                sorter.add(record)
            yield from map(Call.of, sorter.calls())

    def _by_time(self, begin: int | None, end: int | None) -> "Iterator[_Found]":
        """Yield the calls that have begun in a slice, where there is no filter of messages."""
        query = self._query
        first = end == query.until_us
        last = begin == query.since_us
        # around the whole span the rest of its calls is read, and between slices nothing is read twice
        edges = self._span(begin if last else None, end if first else None)
        span = Query(
            since_us=edges.since_us if last else begin,
            until_us=edges.until_us if first else end,
        )
        for record in self._store.unsorted(span, self._searched):
            self._hold(record)
            if self._held_bytes > _HELD:
                self._searched.note("these are many calls that go on: some may be shown without their beginning")
                yield from self._released(None)
        yield from self._released(None if last or self._store.interrupted else begin)

    def _hold(self, record: Record) -> None:
        call_id = record.call_id
        if call_id is None or hash(call_id) in self._passed:
            return
        call = self._held.get(call_id)
        if call is None:
            call = self._held[call_id] = Call(call_id)
        call.add(record)
        self._held_bytes += len(record.buf) + _OVERHEAD

    def _released(self, edge: int | None) -> "Iterator[_Found]":
        """Yield, of the calls that are held, those that match and began behind an edge; None: all."""
        for call_id, call in list(self._held.items()):
            if edge is not None and not self._has_begun(call, edge):
                continue
            del self._held[call_id]
            self._held_bytes -= sum(len(record.buf) + _OVERHEAD for record in call.records)
            self._passed.add(hash(call_id))
            found = self._judged(call)
            if found is not None:
                yield found

    def _has_begun(self, call: Call, edge: int) -> bool:
        """Return whether nothing of a call is expected before an edge."""
        if call.oldest_us - self._around_us >= edge:
            return True
        if call.oldest_us - _QUIET_US < edge:
            return False
        return any(
            record.time_us == call.oldest_us and message.method == "INVITE" and message.to.tag is None
            for record, message in call.sightings
        )

    def _judged(self, call: Call) -> "_Found | None":
        if not self._judge.takes(call):
            return None
        found = _Found(call)
        if self._query.states or self._query.statuses:
            return found if self._judge.takes_outcome(found.row(self._store.now_us).summary) else None
        return found

    def _is_all(self, begin: int | None, end: int | None) -> bool:
        return begin == self._query.since_us and end == self._query.until_us

    def _span(self, begin: int | None, end: int | None, call_ids: Iterable[str] = ()) -> Query:
        return Query(
            since_us=None if begin is None else begin - self._around_us,
            until_us=None if end is None else end + self._around_us,
            call_ids=call_ids,
        )


@attrs.define
class _Found:
    """A call that matches; its row is made when it is needed, because of many only some are shown."""

    call: Call
    _row: Row | None = None

    @property
    def began_us(self) -> int:
        """The time of its first message, by the clock of whoever saw that."""
        return self.call.oldest_us

    def row(self, now_us: Callable[[], int]) -> Row:
        """Return its row."""
        if self._row is None:
            self._row = row_of(self.call, now_us())
            self.call.forget()
        return self._row


def _is_parted(row: Row) -> bool:
    """Return whether a call seems to have more messages, further away than was read."""
    gaps = row.summary.gaps
    return any(gap in gaps for gap in ("no INVITE seen", "no BYE seen", "no final answer to INVITE seen"))

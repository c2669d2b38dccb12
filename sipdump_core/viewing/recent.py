"""Calls newest first, each once and as a whole, while the scan still goes on: for what is printed and never changed.

:class:`~sipdump_core.viewing.scan.Scan` walks back from the newest message. A call is let out once its beginning was
read, and all calls that began later are out: the list is in the order in which the calls began.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from sipdump_core.calls.call import Call
from sipdump_core.drivers.query import Query
from sipdump_core.reading.finder import Judge
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.store import Store
from sipdump_core.reading.when import AROUND
from sipdump_core.record import Record
from sipdump_core.viewing.listing import Row, row_of
from sipdump_core.viewing.scan import Piece, Scan

__all__ = ["Recent", "Step"]

_US = 1_000_000
_HELD = 32 << 20
"""Bytes of messages that are held for calls whose beginning was not read yet."""
_AIM = 5000
"""Messages of a window: those of calls that began before it have to fit beside them."""
_OVERHEAD = 1500
"""Bytes of a held message beside its text, measured on CPython 3.11."""
_MANY = 5000
"""Calls that are read again at the end."""
_LARGE = 100
"""Messages; of a call with more, only the row is kept."""
_SAMPLE = 1000
"""Messages that are read before a filter names the calls that are read."""
_PLAIN = 16_000
"""The most that are read so, if it looks as if these had the calls that are wanted."""
_EXACT = 10_000
"""Messages that are read before what is no call may be shown without what its Call-ID was used for earlier."""
_OVER = frozenset({"ended", "failed", "refused", "cancelled"})
"""States of a call after which no message is expected for long."""
_QUIET_US = _US
"""If there is nothing of a call for so long before its first request without a To-tag, it began with that."""


@attrs.frozen
class Step:
    """What was found next."""

    rows: Sequence[Row]
    """Calls, the newest first; they began before all that came earlier."""
    back_us: int
    """How far back everything is read, in microseconds since the epoch."""


class Recent:
    """One search.

    Args:
        store: what is searched; :attr:`Store.interrupted` ends it. No other thread may read with it meanwhile.
        query: the question.
        limit: how many calls are wanted.
        around: seconds before and after the span in which the other messages of its calls are looked for.
        shown: returns a call as it is shown; the question is asked of what is stored.
    """

    def __init__(
        self,
        store: Store,
        query: Query,
        *,
        limit: int,
        around: float = AROUND,
        shown: Callable[[Call], Call] = lambda call: call,
    ) -> None:
        self.more = False
        """Whether there are more calls than were wanted."""
        self._store = store
        self._query = query
        self._judge = Judge(query)
        self._shown = shown
        self._around_us = int(around * _US)
        # a backend that loses what is asked for is no place to read all messages
        self._by_filter = bool(query.call_ids or query.asked)
        """Whether a filter names the calls that are read; else all are."""
        self._needs_whole = bool(query.states or query.statuses or self._judge.of_attempts)
        """Whether a call is judged by what came after the span, too."""
        self._scan = Scan(store, query if self._by_filter else self._span(), self._feed, around=around, aim=_AIM)
        self._read = 0
        """Messages that were read."""
        self._matched = 0
        """Calls that match."""
        self._limit = limit
        self._held: dict[str, Call] = {}
        """Calls that may have begun before what was read."""
        self._held_bytes = 0
        self._passed: set[int] = set()
        """Hashes of the Call-IDs of all others."""
        self._pending: list[_Found] = []
        """Calls that match, and are not out yet."""

    @property
    def searched(self) -> Searched:
        """What was read, and what could not be."""
        return self._scan.searched

    def steps(self) -> Iterator[Step]:
        """Search, and yield what was found, as far as it is in its final place.

        A filter that many calls meet is met soon if all messages are read; where it is not, the messages that meet it
        are looked for, which is dear for each call and cheap for all others.
        """
        room = self._limit
        back_us = 0
        for piece in self._pieces():
            back_us = piece.back_us
            # a window comes in no order, so that within it every call may still be in pieces
            if self._held_bytes > (_HELD if piece.whole else 2 * _HELD):
                self.searched.note("these are many calls that go on: some may be shown without their beginning")
                self._judge_held(None)
            if not piece.whole:
                continue
            self._judge_held(back_us)
            step = Step(self._released(room, back_us), back_us)
            room -= len(step.rows)
            yield step
            if not room:
                self.more = True
                return
        self._read_whole()
        self._judge_held(None)
        step = Step(self._released(room, None), back_us)
        self.more = bool(self._pending)
        yield step

    def _pieces(self) -> Iterator[Piece]:
        for piece in self._scan.pieces():
            yield piece
            if self._judge.parts and not self._by_filter and piece.whole and not self._is_met_soon():
                break
        else:
            return
        self._by_filter = True
        self._held.clear()
        self._held_bytes = 0
        scan = Scan(self._store, self._query, self._feed, around=self._around_us / _US, aim=_AIM)
        scan.searched = self.searched
        self._scan = scan
        yield from scan.pieces()

    def _is_met_soon(self) -> bool:
        """Return whether the filters seem to be met by as many calls as are wanted before too much is read."""
        return self._read < _SAMPLE or (self._read < _PLAIN and self._matched * _PLAIN / self._read >= self._limit)

    def _span(self) -> Query:
        """Return what is read where no filter names calls; around it, only what belongs to these is read."""
        return Query(since_us=self._query.since_us, until_us=self._query.until_us)

    def _feed(self, records: Iterable[Record], _judge: Judge) -> tuple[list[Row], list[str]]:
        """Hold messages; the rows are made later, and only of the calls that are shown."""
        for record in records:
            self._read += 1
            call_id = record.call_id
            if call_id is None or hash(call_id) in self._passed:
                continue
            call = self._held.get(call_id)
            if call is None:
                call = self._held[call_id] = Call(call_id)
            call.add(record)
            self._held_bytes += len(record.buf) + _OVERHEAD
        return [], []

    def _read_whole(self) -> None:
        """Read all messages of the calls of which only a later part met the filter, and the rest is far away."""
        if not self._by_filter:
            self._read_earlier()
            return
        ids = [call_id for call_id, call in self._held.items() if _is_later(call)][:_MANY]
        if not ids or self._store.interrupted:
            return
        for call_id in ids:
            self._drop(call_id)
        query = self._query
        span = Query(
            since_us=None if query.since_us is None else query.since_us - self._around_us,
            until_us=None if query.until_us is None else query.until_us + self._around_us,
            call_ids=ids,
        )
        self._feed(self._store.unsorted(span, self.searched), self._judge)

    def _read_earlier(self) -> None:
        """Read what came before the span of the calls that may have begun then."""
        since = self._query.since_us
        ids = list(self._held)[:_MANY]
        if since is None or not ids or self._store.interrupted:
            return
        before = Query(since_us=since - self._around_us, until_us=since, call_ids=ids)
        self._feed(self._store.unsorted(before, self.searched), self._judge)

    def _add_later(self, calls: Iterable[Call]) -> None:
        """Add to calls what came after the span."""
        until = self._query.until_us
        if self._by_filter or until is None or self._store.interrupted:
            return
        late = until - self._around_us
        going_on = {call.call_id: call for call in calls if call.newest_us >= late or not _is_over(call)}
        if not going_on:
            return
        after = Query(since_us=until, until_us=until + self._around_us, call_ids=going_on)
        for record in self._store.unsorted(after, self.searched):
            if record.call_id in going_on:
                going_on[record.call_id].add(record)

    def _drop(self, call_id: str) -> Call:
        call = self._held.pop(call_id)
        self._held_bytes -= sum(len(record.buf) + _OVERHEAD for record in call.records)
        return call

    def _judge_held(self, back_us: int | None) -> None:
        """Judge the calls whose beginning was read; None: all."""
        begun = [
            self._drop(call_id)
            for call_id, call in list(self._held.items())
            if back_us is None or self._has_begun(call, back_us)
        ]
        if self._needs_whole:
            self._add_later(begun)
        for call in begun:
            self._passed.add(hash(call.call_id))
            if self._judge.takes(call):
                found = _Found(call.call_id, call.oldest_us, call)
                if len(call.sightings) > _LARGE:
                    if not self._needs_whole:
                        self._add_later([call])
                    self._row(found)
                if not (self._query.states or self._query.statuses) or self._judge.takes_outcome(
                    self._row(found).summary
                ):
                    self._pending.append(found)
                    self._matched += 1
        self._pending.sort(key=lambda found: (-found.began_us, found.call_id))
        del self._pending[self._limit + 1 :]

    def _released(self, room: int, back_us: int | None) -> list[Row]:
        """Return the rows of the calls that began before all that came earlier, and after all that may come."""
        edge = back_us
        if edge is not None and not self._by_filter:
            open_ = [call.oldest_us for call in self._held.values() if call.oldest_us >= edge and not _is_later(call)]
            edge = max([edge, *open_])
        ready = [each for each in self._pending if edge is None or each.began_us >= edge][:room]
        self._pending = self._pending[len(ready) :]
        if not self._needs_whole:
            self._add_later(each.call for each in ready if each.call is not None)
        # the clocks of nodes may differ, and then a call began at another time than its first message says
        return sorted(map(self._row, ready), key=lambda row: (-row.summary.began, row.call_id))

    def _row(self, found: "_Found") -> Row:
        """Return a call's row; it is made when it is needed, because of many only some are shown."""
        if found.row is None:
            assert found.call is not None  # noqa: S101 - it goes only when the row comes
            found.row = row_of(self._shown(found.call), self._store.now_us())
            found.call = None
        return found.row

    def _has_begun(self, call: Call, back_us: int) -> bool:
        """Return whether nothing of a call is expected before a time back to which everything was read."""
        if call.oldest_us < back_us or _is_later(call):
            return False
        if self._by_filter or call.oldest_us - self._around_us >= back_us:
            return True  # where a filter names it, the time around it was read too
        # of what is no call the same Call-ID may come again and again, as a registration's does
        quiet = self._read >= _EXACT or any(
            record.time_us == call.oldest_us and message.method == "INVITE" for record, message in call.sightings
        )
        return quiet and call.oldest_us - _QUIET_US >= back_us


def _is_later(call: Call) -> bool:
    """Return whether only later requests of a dialog were seen, which have a To-tag (RFC 3261, section 12.2.1.1)."""
    requests = [message for _, message in call.sightings if message.method]
    return bool(requests) and all(message.to.tag is not None for message in requests)


def _is_over(call: Call) -> bool:
    return call.kind == "call" and call.state() in _OVER


@attrs.define
class _Found:
    """A call that matches."""

    call_id: str
    began_us: int
    """The time of its first message, by the clock of whoever saw that."""
    call: Call | None
    """None: there is its row instead."""
    row: Row | None = None

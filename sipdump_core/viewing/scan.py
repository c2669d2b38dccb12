"""A scan from the newest call back, so that a list fills from its top at once, however much is stored.

It reads one window of time after the other, a narrow one first, and then each so wide that it has some thousand
messages. With filters, the messages that meet
the one that leaves fewest name the calls of a window, and the rest of these is read as ``find`` does: as far around
the window as the search says.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from sipdump_core.drivers.capabilities import Searches, can
from sipdump_core.drivers.query import Query
from sipdump_core.reading.finder import Judge
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import Shelved
from sipdump_core.reading.store import ZONES, Store, may_hold
from sipdump_core.reading.units import Unit
from sipdump_core.record import Record
from sipdump_core.viewing.listing import Row

__all__ = ["Feed", "Piece", "Scan"]

Feed = Callable[[Iterable[Record], Judge], tuple[list[Row], list[str]]]
"""Takes records in, and returns the rows of their calls that match, and the Call-IDs of the others: Live.feed."""

_US = 1_000_000
_FIRST_US = _US // 4
"""The first window: it is to be on the screen before anybody waits."""
_NEVER_US = 1 << 62
"""Later than any time."""
_AIM = 20_000
"""Messages that a window should have, by default: each costs a search of all segments that may have some."""
_WIDER = 8
_POLITE = 50
"""Messages between two looks whether something else is more urgent."""
_PIECES = (100, 2000)
"""Messages that are fed at once: first, and at most; what is first on the screen is not to wait for the rest."""


@attrs.frozen
class Piece:
    """What a scan has found next."""

    rows: Sequence[Row]
    """Calls that match. One that was found before is here again, with what is known of it by now."""
    gone: Sequence[str]
    """Call-IDs of calls that were found before, perhaps, and do not match."""
    back_us: int
    """Everything from here on is read, once the window is whole: microseconds since the epoch."""
    whole: bool = True
    """Whether this is the last piece of its window."""


class Scan:
    """One scan.

    Args:
        store: what is read; no other thread may read with it meanwhile.
        query: the question.
        feed: keeps the calls.
        around: seconds around a window in which the rest of its calls is read.
        give_way: is called now and then, and returns when the scan may go on.
        aim: messages that a window should have, about.
    """

    def __init__(
        self,
        store: Store,
        query: Query,
        feed: Feed,
        *,
        around: float,
        give_way: Callable[[], object] = lambda: None,
        aim: int = _AIM,
    ) -> None:
        self.searched = Searched()
        """What was read, and what could not be."""
        self._store = store
        self._query = query
        self._judge = Judge(query)
        self._feed = feed
        self._reach_us = int(around * _US)
        self._give_way = give_way
        self._aim = aim
        self._units: Sequence[Unit[Shelved]] = ()
        self._read_from: dict[str, int] = {}
        """How far back each call that was found was read, with filters."""
        self._piece = _PIECES[0]
        self._read = 0
        """Messages of the window."""

    def pieces(self) -> Iterator[Piece]:
        """Yield what is found, the newest first, and at least once a window."""
        self._units = self._store.chosen(self._query, self.searched)[::-1]
        oldest = self._oldest_us()
        until: int | None = None
        since, width = self._newest_us(oldest) - _FIRST_US, _FIRST_US
        while self._units and not self._store.interrupted:
            since = max(since, oldest)
            yield from self._pieces_of(self._window(since, until), since)
            if since <= oldest:
                yield from self._strays(oldest)
                return
            width = _next_width(width, self._read, self._aim)
            until, since = since, since - width

    def _strays(self, back_us: int) -> Iterator[Piece]:
        """Yield what has times far from those that its segment's name and file have: windows have passed it over.

        With a span, it would not be found either way.
        """
        if self._query.since_us is not None or self._query.until_us is not None:
            return
        if not self._judge.parts:
            yield from self._fed(self._far_off(Query()), back_us)
            return
        ids = {record.call_id for record in self._far_off(self._judge.parts[0])} - {None}
        if ids:
            query = Query(call_ids=[one for one in ids if one is not None])
            yield from self._fed(self._store.unsorted(query, self.searched, self._units), back_us)

    def _far_off(self, query: Query) -> Iterator[Record]:
        for unit in self._units:
            for since_us, until_us in _outside(unit):
                far = attrs.evolve(query, since_us=since_us, until_us=until_us)
                yield from self._store.unsorted(far, self.searched, [unit])

    def _window(self, since_us: int, until_us: int | None) -> Query:
        """Return the question of a window: what is asked for, within it."""
        wanted = self._query
        ends = [each for each in (until_us, wanted.until_us) if each is not None]
        return attrs.evolve(
            wanted,
            since_us=since_us if wanted.since_us is None else max(since_us, wanted.since_us),
            until_us=min(ends, default=None),
        )

    def _pieces_of(self, window: Query, since: int) -> Iterator[Piece]:
        self._read = 0
        if not self._judge.parts:
            yield from self._fed(self._records(window), since)
            return
        driving = attrs.evolve(self._judge.parts[0], since_us=window.since_us, until_us=window.until_us)
        ids = {record.call_id for record in self._records(driving)} - {None}
        yield from self._fed(self._rest(ids, window), since)

    def _rest(self, ids: "set[str | None]", window: Query) -> Iterator[Record]:
        """Yield the messages of calls around a window that were not read yet."""
        since = (window.since_us or 0) - self._reach_us
        until = None if window.until_us is None else window.until_us + self._reach_us
        groups: dict[int | None, set[str]] = {}
        for one in ids:
            if one is not None:
                groups.setdefault(self._read_from.get(one, until), set()).add(one)
                self._read_from[one] = since
        for end, some in groups.items():
            if end is None or since < end:
                yield from self._records(Query(since_us=since, until_us=end, call_ids=some))

    def _records(self, query: Query) -> Iterator[Record]:
        units = [unit for unit in self._units if may_hold(unit, query)]
        for record in self._store.unsorted(query, self.searched, units):
            self._read += 1
            if not self._read % _POLITE:
                self._give_way()
            yield record

    def _fed(self, records: Iterable[Record], since: int) -> Iterator[Piece]:
        some: list[Record] = []
        for record in records:
            some.append(record)
            if len(some) == self._piece:
                self._piece = min(2 * self._piece, _PIECES[1])
                yield Piece(*self._feed(some, self._judge), since, whole=False)
                some = []
        yield Piece(*self._feed(some, self._judge), since)

    def _newest_us(self, oldest: int) -> int:
        """Return where to begin: the oldest time, where a backend cannot search and would read everything each time."""
        backends = [shelved.backend for unit in self._units for shelved in unit.holdings]
        if not all(can(backend, Searches) for backend in backends):
            return oldest
        until = self._query.until_us
        newest = self._store.newest_us() if self._units else None
        return min((each for each in (newest, until) if each is not None), default=oldest)

    def _oldest_us(self) -> int:
        """Return a time before which nothing is asked for, or can be stored."""
        if self._query.since_us is not None:
            return self._query.since_us
        oldest = _NEVER_US
        for unit in self._units:
            for shelved in unit.holdings:
                if shelved.slack is None or shelved.start is None:
                    return 0
                oldest = min(oldest, int((shelved.start - shelved.slack - ZONES) * _US))
        return oldest


def _outside(unit: Unit[Shelved]) -> list[tuple[int | None, int | None]]:
    """Return the spans before and after that of :func:`~sipdump_core.reading.store.may_hold`; none if it is endless."""
    spans = []
    for shelved in unit.holdings:
        if shelved.slack is None or shelved.start is None:
            return []
        spans.append((shelved.start - shelved.slack - ZONES, shelved.stored.modified + shelved.slack))
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    return [(None, int(first * _US)), (int(last * _US) + 1, None)]


def _next_width(width: int, count: int, aim: int) -> int:
    """Return how wide the next window is to be, after one that had some messages."""
    return max(_FIRST_US, int(width * max(min(aim / max(count, 1), _WIDER), 1 / _WIDER)))

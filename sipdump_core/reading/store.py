"""The store: all segments of all backends that were named, asked as one."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from sipdump_core.calls.legs import LegRules
from sipdump_core.clock import Clock
from sipdump_core.drivers.capabilities import Searches, can
from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError
from sipdump_core.reading.finder import AROUND, Finder, Found
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import Shelf, Shelved
from sipdump_core.reading.sorting import RecordSorter
from sipdump_core.reading.units import Unit, units
from sipdump_core.record import Record

__all__ = ["Store"]

_ZONES = 26 * 3600
"""Seconds between the names that one moment has in different zones, at most: a name's zone may not be ours."""
_PROBES = (5, 60, 3600, 86400)
"""Seconds before a segment's last write in which its newest record is looked for first."""
_CLOSE_US = 60_000_000
"""Microseconds of a segment that are read to the end for its newest record."""
_NEWEST_OF = 8
"""How many segments, those last written, are asked for the newest record."""
_US = 1_000_000


class Store:
    """All that is stored, whatever backends it is in.

    Args:
        shelves: where it is; see :func:`~sipdump_core.reading.shelves.open_shelves`.
        rules: what links the legs of a call.
        clock: the time.
        progress: called with (segments read, segments to read) as reading goes on.
    """

    def __init__(
        self,
        shelves: Sequence[Shelf],
        *,
        rules: LegRules | None = None,
        clock: Clock | None = None,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        self.shelves = shelves
        self.rules = rules or LegRules()
        self.interrupted = False
        """Set it to end the scan that is under way; later ones read only what was read before."""
        self._clock = clock or Clock()
        self._progress = progress
        self._reached: set[str] = set()
        self._now: int | None = None
        self._newest: int | None = None
        """Time of the newest record that was read."""

    def records(self, query: Query, searched: Searched | None = None) -> Iterator[Record]:
        """Yield the messages that are an answer, in order of time; those of one time in the order of their arrival.

        Args:
            query: the question; states of calls are passed over.
            searched: takes down what was read, and what could not be.

        Raises:
            OSError: the temporary folder has no room for what does not fit into memory.
        """
        with RecordSorter(by_call=False) as sorter:
            for record in self.unsorted(query, searched):
                sorter.add(record)
            yield from sorter.sorted()

    def unsorted(self, query: Query, searched: Searched | None = None) -> Iterator[Record]:
        """Yield the messages that are an answer, one segment after the other, and in any order within it."""
        searched = Searched() if searched is None else searched
        wanted = [unit for unit in units(self.shelved(searched), query.asked) if _may_hold(unit, query)]
        count = sum(len(unit.holdings) for unit in wanted)
        done = 0
        seen: set[int] = set()
        newest = self._newest or 0
        before = frozenset(self._reached) if self.interrupted else None
        for unit in wanted:
            for shelved in unit.holdings:
                if before is not None and shelved.stored.location not in before:
                    continue
                self._reached.add(shelved.stored.location)
                for record in self._read(shelved, unit, query, searched, seen):
                    if record.time_us > newest:
                        newest = self._newest = record.time_us
                    yield record
                    if self.interrupted and before is None:
                        return
                done += 1
                self._progress(done, count)

    def find(
        self,
        query: Query,
        searched: Searched | None = None,
        *,
        around: float = AROUND,
        legs: bool = True,
        with_legs: bool = False,
    ) -> Iterator[Found]:
        """Yield the calls that match, each with all its messages, in the order of their Call-IDs.

        A call matches when each filter is met by one of its messages within the span, the same or another, and its
        state and its deciding status are among those that are asked for.

        Args:
            query: the question.
            searched: takes down what was read, and what could not be.
            around: seconds before and after the span in which the other messages of its calls are looked for.
            legs: whether other legs are looked for.
            with_legs: whether the legs are yielded, too, after the calls that match.
        """
        finder = self._finder(query, searched, around, legs=legs)
        found = []
        for one in finder.found():
            found += [one] if with_legs and one.legs else []
            yield one
        yield from finder.others(found)

    def call(self, call_id: str, searched: Searched | None = None, *, legs: bool = True) -> list[Found]:
        """Return a call with all its messages, and after it its other legs; an empty list where there is none."""
        finder = self._finder(Query(call_ids=[call_id]), searched, AROUND, legs=legs)
        found = list(finder.found())
        return found + finder.others(found)

    def shelved(self, searched: Searched) -> list[Shelved]:
        """List all segments; a store that cannot be listed is a problem, and hides no other."""
        found: list[Shelved] = []
        for shelf in self.shelves:
            try:
                found += shelf.segments()
            except SipDumpError as error:
                searched.problem(str(error))
        return found

    def now_us(self) -> int:
        """Return the time to which the age of an unanswered call counts: microseconds since the epoch.

        It is now while a segment is open, else the time of the newest record. It is found out once.
        """
        if self._now is None:
            self._now = self._find_now()
        return self._now

    def _find_now(self) -> int:
        nowhere = Searched()
        there = self.shelved(nowhere)
        now = int(self._clock.time() * _US)
        if any(shelved.open for shelved in there):
            return now
        chosen = [shelved for unit in units(there) for shelved in unit.holdings]
        chosen.sort(key=lambda shelved: shelved.stored.modified, reverse=True)
        newest: int | None = self._newest
        for shelved in chosen[:_NEWEST_OF]:
            if newest is not None and shelved.stored.modified * _US < newest:
                break
            newest = max(filter(None, (newest, _newest(shelved, newest))), default=None)
        return now if newest is None else newest

    def _finder(self, query: Query, searched: Searched | None, around: float, *, legs: bool) -> Finder:
        searched = Searched() if searched is None else searched
        return Finder(
            lambda query: self.unsorted(query, searched),
            query,
            self.rules,
            searched,
            self.now_us,
            around=around,
            legs=legs,
        )

    def _read(
        self, shelved: Shelved, unit: Unit[Shelved], query: Query, searched: Searched, seen: set[int]
    ) -> Iterator[Record]:
        records = self._read_one(shelved, unit.spare, query, searched)
        return _distinct(records, seen) if unit.overlapping else records

    def _read_one(
        self, shelved: Shelved, spare: Iterable[Shelved], query: Query, searched: Searched
    ) -> Iterator[Record]:
        """Read a segment, or, where nothing of it can be read, what holds the same records."""
        yielded = False
        try:
            for record in shelved.search(query):
                yielded = True
                yield record
        except SipDumpError as error:
            instead = [] if yielded else [other for other in spare if other.covers >= shelved.covers]
            moved = [] if yielded or instead else self._moved(shelved)
            if not (instead or moved):
                if yielded or not shelved.gone:  # what is gone was pruned meanwhile
                    searched.problem(str(error))
                return
            if instead:
                searched.problem(f"{error}; read from {instead[0].backend.name} instead")
            for other in instead[:1] or moved:
                yield from self._read_one(other, instead[1:], query, searched)
            return
        searched.count(shelved)

    def _moved(self, shelved: Shelved) -> list[Shelved]:
        """Find what a segment that is gone has become: it was uploaded, or merged with others."""
        if not shelved.gone:
            return []
        found = [other for other in self.shelved(Searched()) if other.covers & shelved.covers]
        chosen = [other for unit in units(found) for other in unit.holdings]
        return [other for other in chosen if other.stored.location != shelved.stored.location]


def _distinct(records: Iterable[Record], seen: set[int]) -> Iterator[Record]:
    """Yield the records that were not seen before, told by their content."""
    for record in records:
        mark = hash((record.time_us, record.src_ip, record.src_port, record.dst_port, record.buf))
        if mark not in seen:
            seen.add(mark)
            yield record


def _may_hold(unit: Unit[Shelved], query: Query) -> bool:
    """Return whether a unit may hold messages of the question's span, by its names and times."""
    for shelved in unit.holdings:
        start, slack = shelved.start, shelved.slack
        if slack is None or start is None:
            return True
        since_us, until_us = (start - slack - _ZONES) * _US, (shelved.stored.modified + slack) * _US
        if query.within(int(since_us), int(until_us)):
            return True
    return False


def _newest(shelved: Shelved, known: int | None) -> int | None:
    """Return the time of a segment's newest record; None where there is none newer than what is known.

    It is looked for shortly before the last write; where it is older, as in a file that was copied, by halving the time
    up to there, if the backend need not read everything for each try.
    """
    high = int(shelved.stored.modified * _US)
    low = -1 if known is None else known
    try:
        for seconds in _PROBES:
            since_us = int((shelved.stored.modified - seconds) * _US)
            if since_us <= low:
                break
            newest = max(_times(shelved, since_us), default=None)
            if newest is not None:
                return newest
            high = since_us
        while can(shelved.backend, Searches) and high - low > _CLOSE_US:
            middle = (low + high) // 2
            found = next(_times(shelved, middle), None)
            low, high = (low, middle) if found is None else (found, high)
        return max(_times(shelved, low), default=None)
    except SipDumpError:
        return None


def _times(shelved: Shelved, since_us: int) -> Iterator[int]:
    return (record.time_us for record in shelved.search(Query(since_us=since_us)))

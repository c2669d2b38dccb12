"""The store: all segments of all backends that were named, asked as one."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Self

from sipdump_core.calls.legs import LegRules
from sipdump_core.clock import Clock
from sipdump_core.drivers.capabilities import Searches, Unites, can
from sipdump_core.drivers.names import one_look
from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError
from sipdump_core.reading.finder import Finder, Found
from sipdump_core.reading.moving import Moves
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import Shelf, Shelved, open_shelves
from sipdump_core.reading.sorting import RecordSorter
from sipdump_core.reading.units import Unit, family, units
from sipdump_core.reading.when import AROUND
from sipdump_core.record import Record
from sipdump_core.segment import STAMP_FORMAT

__all__ = ["ZONES", "Interrupted", "Store", "may_hold"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

ZONES = 26 * 3600
"""Seconds between the names that one moment has in different zones, at most: a name's zone may not be ours."""
_PROBES = (5, 60, 3600, 86400)
"""Seconds before a segment's last write in which its newest record is looked for first."""
_CLOSE_US = 60_000_000
"""Microseconds of a segment that are read to the end for its newest record."""
_NEWEST_OF = 8
"""How many segments, those last written, are asked for the newest record."""
_US = 1_000_000
_NEVER = 253_402_300_799
"""The last second that the name of a segment can have, 9999-12-31 23:59:59."""


class Interrupted(KeyboardInterrupt):
    """Raised by :meth:`Store.interrupt` out of a backend's search; the scan that it ends catches it."""


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
        """Whether :meth:`interrupt` was called."""
        self._clock = clock or Clock()
        self._progress = progress
        self._searching = False
        """Whether a backend is at work, so that :meth:`interrupt` may raise."""
        self._hits: set[str] = set()
        """Locations of the segments that had an answer."""
        self._now: int | None = None
        self._newest: int | None = None
        """Time of the newest record that was read."""
        self._newest_is_known = False
        """Everything was read, so that there is no newer one."""
        self._problems: Sequence[str] = ()
        self.searched = Searched()
        """What the last question was asked of, unless the caller kept track of it."""

    @classmethod
    def open(
        cls,
        *,
        configs: Paths = (),
        defines: str | Sequence[str] = (),
        folders: Paths = (),
        fprefix: str | None = None,
        files: Paths = (),
        urls: str | Sequence[str] = (),
        rules: LegRules | None = None,
    ) -> Self:
        """Open what is named; with nothing named, the store of ``/etc/sipdump/sipdumpd.cfg``.

        Args:
            configs: configurations of daemons: all backends of their folder and prefix.
            defines: names for the preprocessor of ``configs``, as ``NAME`` or ``NAME=VALUE``.
            folders: folders of segments.
            fprefix: how the names of segments in ``folders`` begin; None: in any way.
            files: files by themselves: segments, and captures of a network.
            urls: ``s3://BUCKET/PREFIX``: what all collectors stored below it; how to reach it is as ``configs`` say.
            rules: what links the legs of a call beside what is known.

        Raises:
            ConfigError: what is named is not there, or a configuration is wrong.
            StorageError: a folder cannot be listed.
        """
        shelves, problems = open_shelves(
            configs=_listed(configs),
            defines=_listed(defines),
            folders=_listed(folders),
            fprefix=fprefix,
            files=_listed(files),
            urls=_listed(urls),
        )
        store = cls(shelves, rules=rules)
        store._problems = problems
        store.searched = Searched(problems=problems)
        return store

    def interrupt(self) -> None:
        """End the scan that is under way; what it has found so far is its result. For a signal handler.

        Later scans read only the segments that had an answer: a call that was found is still read as a whole.

        Raises:
            Interrupted: in the main thread, where a backend is at work; the scan catches it.
        """
        self.interrupted = True
        if self._searching:
            self._searching = False
            raise Interrupted

    def records(self, query: Query, searched: Searched | None = None) -> Iterator[Record]:
        """Yield the messages that are an answer, in order of time; those of one time in the order of their arrival.

        Args:
            query: the question; states of calls are passed over.
            searched: takes down what was read, and what could not be.

        Raises:
            StorageError: the temporary folder has no room for what does not fit into memory.
        """
        with RecordSorter(by_call=False) as sorter:
            for record in self.unsorted(query, self._tracked(searched)):
                sorter.add(record)
            yield from sorter.sorted()

    def chosen(self, query: Query, searched: Searched, asked: Collection[str] = ()) -> list[Unit[Shelved]]:
        """Return what must be read so that each record that may be an answer comes once.

        Args:
            query: the question; its span counts.
            searched: takes down what cannot be listed.
            asked: fields of a record that are needed beside those of the question.
        """
        found = units(_near(self.shelved(searched), query), {*query.asked, *asked})
        wanted = [unit for unit in found if may_hold(unit, query)]
        lost = {(one.backend.name, field) for unit in wanted for one in unit.holdings for field in one.backend.loses}
        for name, field in sorted(lost):
            if field in query.asked:
                searched.note(f"{name} may not keep the {field}: messages that only it has may be missing")
        return wanted

    def unsorted(
        self, query: Query, searched: Searched | None = None, chosen: Sequence[Unit[Shelved]] | None = None
    ) -> Iterator[Record]:
        """Yield the messages that are an answer, one segment after the other, and in any order within it.

        Args:
            query: the question.
            searched: takes down what was read, and what could not be.
            chosen: what to read instead of all that :meth:`chosen` returns.
        """
        searched = self._tracked(searched)
        again = self.interrupted  # an earlier scan was ended
        wanted = [] if chosen is None else [*chosen]
        if chosen is None:
            with self._interruptible():
                wanted = self.chosen(query, searched)
        count = sum(len(unit.holdings) for unit in wanted)
        done = 0
        seen: set[int] = set()
        newest = self._newest or 0
        moves = Moves(searched)
        try:
            for unit in wanted:
                for shelved in unit.holdings:
                    self._progress(done, count)
                    done += 1
                    location = shelved.stored.location
                    if (again and location not in self._hits) or moves.has(shelved):
                        continue
                    for record in self._until_interrupted(self._read(shelved, unit, query, searched, seen, moves)):
                        if record.time_us > newest:
                            newest = self._newest = record.time_us
                        self._hits.add(location)
                        yield record
                    if self.interrupted and not again:
                        return
        finally:
            self._progress(count, count)
        self._newest_is_known |= chosen is None and not again and query == Query()

    def find(
        self,
        query: Query,
        searched: Searched | None = None,
        *,
        around: float = AROUND,
        legs: bool = True,
        with_legs: bool = False,
        most: int = 0,
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
            most: messages after which reading ends; 0: any number.
        """
        finder = self._finder(query, searched, around, legs=legs, most=most)
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
        """List all segments, each once; a store that cannot be listed is a problem, and hides no other."""
        found: list[Shelved] = []
        known: set[str] = set()
        for shelf in self.shelves:
            here: list[Shelved] = []
            try:
                # a bucket may be named twice: by a configuration, and by its address
                with one_look():
                    here += (shelved for shelved in shelf.segments() if shelved.stored.location not in known)
            except SipDumpError as error:
                searched.problem(str(error))
            found += here
            known |= {shelved.stored.location for shelved in here if shelved.stored.location}
        return found

    def now_us(self) -> int:
        """Return the time to which the age of an unanswered call counts: microseconds since the epoch.

        It is now while a segment is open, else the time of the newest record. It is found out once.
        """
        if self._now is None:
            self._now = self._find_now()
        return self._now

    def newest_us(self) -> int | None:
        """Return the time of the newest record, microseconds since the epoch; None where there is no record.

        Of each collector the last segment is asked, so that a record which came late, or with a clock that was ahead,
        may be passed over.
        """
        return self._newest_of(self.shelved(Searched()))

    def _tracked(self, searched: Searched | None) -> Searched:
        if searched is None:
            self._now, self._newest_is_known = None, False  # a program may keep a store for days
            searched = self.searched = Searched(problems=[*self._problems])
        return searched

    def _find_now(self) -> int:
        there = self.shelved(Searched())
        now = int(self._clock.time() * _US)
        if any(shelved.open for shelved in there):
            return now
        newest = self._newest_of(there)
        return now if newest is None else newest

    def _newest_of(self, there: Sequence[Shelved]) -> int | None:
        newest = self._newest
        if self._newest_is_known or self.interrupted:
            return newest
        for shelved in _last_of_each(units(there)):
            if newest is not None and shelved.stored.modified * _US < newest:
                break
            newest = max((each for each in (newest, _newest(shelved, newest)) if each is not None), default=None)
        return newest

    def _finder(self, query: Query, searched: Searched | None, around: float, *, legs: bool, most: int = 0) -> Finder:
        searched = self._tracked(searched)

        def read(query: Query) -> Iterator[Record]:
            records = self.unsorted(query, searched)
            return _first(records, most, searched) if most else records

        return Finder(
            read,
            query,
            self.rules,
            searched,
            self.now_us,
            around=around,
            legs=legs,
        )

    def _until_interrupted(self, records: Iterator[Record]) -> Iterator[Record]:
        if self.interrupted:
            yield from records
            return
        try:
            while not self.interrupted:
                self._searching = True
                record = next(records, None)
                self._searching = False
                if record is None:
                    return
                yield record
        except Interrupted:
            return
        finally:
            self._searching = False

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let :meth:`interrupt` end the block at any moment."""
        self._searching = not self.interrupted
        try:
            yield
        except Interrupted:
            pass
        finally:
            self._searching = False

    def _read(
        self, shelved: Shelved, unit: Unit[Shelved], query: Query, searched: Searched, seen: set[int], moves: Moves
    ) -> Iterator[Record]:
        records = self._read_one(shelved, unit.spare, query, searched, moves)
        records = _distinct(records, seen) if unit.overlapping else records
        return moves.noted(records) if can(shelved.backend, Unites) else records

    def _read_one(
        self, shelved: Shelved, spare: Iterable[Shelved], query: Query, searched: Searched, moves: Moves
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
                if yielded or not shelved.is_gone(error):  # what is gone was pruned meanwhile
                    searched.problem(str(error))
                return
            if instead:
                searched.problem(f"{error}; read from {instead[0].backend.name} instead")
            for other in instead[:1] or moved:
                records = self._read_one(other, instead[1:], query, searched, moves)
                yield from records if instead else moves.rest(other, records)
            return
        searched.count(shelved)

    def _moved(self, shelved: Shelved) -> list[Shelved]:
        """Find what a segment that is gone has become: it was uploaded, or merged with others."""
        if not shelved.gone:
            return []
        found = [other for other in self.shelved(Searched()) if other.covers & shelved.covers]
        chosen = [other for unit in units(found) for other in unit.holdings]
        return [other for other in chosen if other.stored.location != shelved.stored.location]


def may_hold(unit: Unit[Shelved], query: Query) -> bool:
    """Return whether a unit may hold messages of the question's span, by its names and times."""
    for shelved in unit.holdings:
        start, slack = shelved.start, shelved.slack
        if slack is None or start is None:
            return True
        since_us, until_us = (start - slack - ZONES) * _US, (shelved.stored.modified + slack) * _US
        if query.within(int(since_us), int(until_us)):
            return True
    return False


def _listed(values: Paths) -> list[str]:
    """Return paths as a list; one alone may be given as it is."""
    return [os.fspath(each) for each in ([values] if isinstance(values, str | os.PathLike) else values)]


def _first(records: Iterator[Record], most: int, searched: Searched) -> Iterator[Record]:
    """Yield the first records, and say so where there are more."""
    yield from islice(records, most)
    if next(records, None) is not None:
        searched.note(f"reading ended after {most} messages: narrow the span")


def _distinct(records: Iterable[Record], seen: set[int]) -> Iterator[Record]:
    """Yield the records that were not seen before, told by their content."""
    for record in records:
        mark = hash((record.time_us, record.src_ip, record.src_port, record.dst_port, record.buf))
        if mark not in seen:
            seen.add(mark)
            yield record


def _near(there: Sequence[Shelved], query: Query) -> Sequence[Shelved]:
    """Leave out the families of which nothing is near the question's span, before the others are made units of.

    That is a rough look, and quick, because there may be 100,000: :func:`may_hold` is exact.
    """
    if query.since_us is None and query.until_us is None:
        return there
    is_near = _nearness(query)
    near = {covered for shelved in there if is_near(shelved) for covered in shelved.covers}
    return [
        shelved
        for shelved in there
        if family(shelved.node, shelved.stored) in near
        or (shelved.prefix_stamps and not near.isdisjoint(shelved.covers))
    ]


def _nearness(query: Query) -> Callable[[Shelved], bool]:
    """Return what tells whether a segment is near a question's span, by its last write and its name as it is."""
    since_us = -math.inf if query.since_us is None else query.since_us

    @cache
    def latest(slack: float) -> str:
        # twice, because the name is taken as UTC here, and as local time by may_hold
        end = _NEVER if query.until_us is None else min(query.until_us / _US + slack + 2 * ZONES, _NEVER)
        return time.strftime(STAMP_FORMAT, time.gmtime(end))

    def is_near(shelved: Shelved) -> bool:
        slack = shelved.slack
        return slack is None or (
            (shelved.stored.modified + slack) * _US >= since_us and shelved.stored.segment.stamp <= latest(slack)
        )

    return is_near


def _last_of_each(there: Iterable[Unit[Shelved]]) -> list[Shelved]:
    """Return the last segment of each collector in each backend, the last written first; only a few."""
    last: dict[tuple[int, str, str], Shelved] = {}
    for unit in there:
        for shelved in unit.holdings:
            last[id(shelved.backend), shelved.node, shelved.stored.segment.prefix] = shelved
    return sorted(last.values(), key=lambda shelved: shelved.stored.modified, reverse=True)[:_NEWEST_OF]


def _newest(shelved: Shelved, known: int | None) -> int | None:
    """Return the time of a segment's newest record; None where there is none newer than what is known.

    Where the backend does not know it, it is looked for shortly before the last write; where it is older, as in a file
    that was copied, by halving the time up to there, if the backend need not read everything for each try.
    """
    newest = shelved.newest_us
    if newest is not None:
        return newest
    high = int(shelved.stored.modified * _US)
    low = -1 if known is None else known
    cheap = can(shelved.backend, Searches)  # else each question would read all of it
    try:
        for seconds in _PROBES if cheap else ():
            since_us = int((shelved.stored.modified - seconds) * _US)
            if since_us <= low:
                break
            newest = max(_times(shelved, since_us), default=None)
            if newest is not None:
                return newest
            high = since_us
        while cheap and high - low > _CLOSE_US:
            middle = (low + high) // 2
            found = next(_times(shelved, middle), None)
            low, high = (low, middle) if found is None else (found, high)
        return max(_times(shelved, low), default=None)
    except SipDumpError:
        return None


def _times(shelved: Shelved, since_us: int) -> Iterator[int]:
    return (record.time_us for record in shelved.search(Query(since_us=since_us)))

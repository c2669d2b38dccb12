"""``sipdump-read tail``: messages as they come, a line each."""

import argparse
import contextlib
import select
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import attrs

from sipdump_core.drivers.capabilities import Follows, Reads, can
from sipdump_core.drivers.guard import blaming, each_of
from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError
from sipdump_core.log import escaped
from sipdump_core.reading.arguments import add_filters, add_store, query_of, whole_number
from sipdump_core.reading.lines import message_line, message_text
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.session import Session
from sipdump_core.reading.shelves import Shelved
from sipdump_core.reading.store import Store
from sipdump_core.reading.units import Family, family, units
from sipdump_core.reading.when import zone
from sipdump_core.record import Record

__all__ = ["Follower", "add_tail", "tail"]

_POLL = 0.2
_LISTING_SHARE = 0.1
"""How much of the time may go into listing the store, where new segments are found."""
_LAST = (60, 3600, 86400, None)
"""Seconds before the newest message in which the last ones are looked for, until there are enough."""


def add_tail(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``tail``."""
    add_store(parser)
    add_filters(parser)
    parser.usage = "%(prog)s [STORE] [FILTERS] [-n N] [--raw] [--once]"
    help_count = "start with the last N messages (default: 20)"
    parser.add_argument("-n", dest="count", type=whole_number, default=20, metavar="N", help=help_count)
    parser.add_argument("--raw", action="store_true", help="also print each message in full")
    parser.add_argument("--once", action="store_true", help="print the last messages and exit")
    parser.set_defaults(run=tail)


def tail(args: argparse.Namespace) -> int:
    """Print the last messages, and then those that come, until Ctrl-C."""
    with Session(args) as session:
        query = attrs.evolve(query_of(args, session.now), states=())
        follower = Follower(session.store, query, session.searched)
        print(f"sipdump-read: times are {zone(session.now)}", file=sys.stderr)
        found = False
        shown = session.redactor.record if session.redactor else _as_it_is
        for record in follower.last(args.count):
            found = True
            _print(shown(record), raw=args.raw)
        sys.stdout.flush()
        if args.once:
            return session.report(found)
        while not session.store.interrupted and not _nobody_reads(_POLL):
            for problem in follower.problems():
                print(f"sipdump-read: {escaped(str(problem))}", file=sys.stderr)
            for record in follower.fresh():
                _print(shown(record), raw=args.raw)
                if session.store.interrupted:
                    break
            sys.stdout.flush()
        return 0


def _as_it_is(record: Record) -> Record:
    return record


def _nobody_reads(wait: float) -> bool:
    """Wait, and return whether the reader of the pipe that standard output is went away meanwhile, as head(1) does."""
    poll = select.poll()
    with contextlib.suppress(OSError, ValueError):  # a test's own stream has no file
        poll.register(sys.stdout.fileno(), 0)  # of errors it tells in any case
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(wait * 1000))


def _print(record: Record, *, raw: bool) -> None:
    print(message_line(record))
    if not raw:
        return
    if sys.stdout.isatty():
        print(message_text(record.buf), end="\n\n")
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(record.buf.rstrip(b"\r\n") + b"\n\n")
    sys.stdout.buffer.flush()


_Key = tuple[int, str, str]


class Follower:
    """Finds what is stored from now on: each message once, from one of the backends that have it.

    Args:
        store: where.
        query: which messages.
        searched: takes down what cannot be read.
    """

    def __init__(self, store: Store, query: Query, searched: Searched | None = None) -> None:
        self._store = store
        self._query = query
        self._searched = Searched() if searched is None else searched
        self._told = 0
        self._backends: dict[Family, int] = {}
        """Which backend's segments are followed, of each family; it stays the same while they grow."""
        self._seen: set[Family] = set()
        """The families that were there at the last look."""
        self._known: set[_Key] = set()
        self._open: dict[_Key, Shelved] = {}
        """Segments that may grow."""
        self._places: dict[_Key, int] = {}
        """How far each of them was read."""
        self._read: dict[_Key, tuple[int, float]] = {}
        """Size and time of a segment that its backend cannot follow, when it was read last."""
        self._printed: Counter[int] = Counter()
        """Marks of the last messages, which may have come after the places were taken."""
        self._next_look = 0.0
        self._look(-1)

    def last(self, count: int) -> list[Record]:
        """Return the last messages that there are, in order of time."""
        if count < 1:
            return []
        newest_us = self._store.newest_us()
        found: deque[Record] = deque(maxlen=count)
        for seconds in _LAST if newest_us is not None else ():
            since = None if seconds is None else (newest_us or 0) - seconds * 1_000_000
            since_us = max((each for each in (since, self._query.since_us) if each is not None), default=None)
            query = attrs.evolve(self._query, since_us=since_us)
            found = deque(self._store.records(query, self._searched), maxlen=count)
            if len(found) == count or self._store.interrupted:
                break
        self.seen(found)
        return list(found)

    def fresh(self) -> Iterator[Record]:
        """Yield what was stored since the last call, of a segment in the order of its arrival."""
        if time.monotonic() >= self._next_look or self._printed:
            self._look(0)
        for key, shelved in list(self._open.items()):
            try:
                for record in self._grown(key, shelved):
                    if self._query.matches(record) and not self._was_printed(record):
                        yield record
            except SipDumpError as error:
                if not shelved.gone:
                    self._searched.problem(str(error))
                self._next_look = 0.0
            else:
                if not shelved.open:
                    del self._open[key]
        self._printed.clear()

    def seen(self, records: Iterable[Record]) -> None:
        """Leave out of the next :meth:`fresh` what was read elsewhere since the follower was made."""
        self._printed.update(map(_mark, records))

    @property
    def grows(self) -> bool:
        """Whether there is a segment that may still grow."""
        return any(shelved.open for shelved in self._open.values())

    def problems(self) -> Sequence[str]:
        """Return what could not be read since the last call, one line each."""
        found = self._searched.problems[self._told :]
        self._told += len(found)
        return found

    def _grown(self, key: _Key, shelved: Shelved) -> Iterator[Record]:
        """Yield what a segment has got since it was read last."""
        backend, stored = shelved.backend, shelved.stored
        if can(backend, Follows):
            while True:
                with blaming(shelved.backend, "follow"):
                    records, self._places[key] = backend.follow(stored, self._places[key])
                if not records:
                    return
                yield from records
        grown = (stored.size, stored.modified)
        if can(backend, Reads) and self._read.get(key) != grown:  # all of it, because it cannot do better
            for record in islice(
                each_of(shelved.backend, "read", lambda: backend.read(stored)), self._places[key], None
            ):
                self._places[key] += 1
                yield record
            self._read[key] = grown

    def _was_printed(self, record: Record) -> bool:
        mark = _mark(record)
        if not self._printed[mark]:
            return False
        self._printed[mark] -= 1
        return True

    def _look(self, place: int) -> None:
        """Find segments that are new, that are sealed by now, and that are gone.

        Args:
            place: where to begin with those that are new: 0, or -1 for their end.
        """
        began = time.monotonic()
        there = self._store.shelved(self._searched)
        self._choose(there, at_once=place != 0)
        present = {_key(one): one for one in there if self._backends.get(_family(one)) == id(one.backend)}
        for key, shelved in present.items():
            if key in self._open:
                self._open[key] = shelved
            elif key not in self._known and not shelved.sources and (shelved.open or place == 0):
                self._begin(key, shelved, place)
        for key in self._open.keys() - present.keys():
            del self._open[key]
        self._known = set(present)
        now = time.monotonic()
        self._next_look = now + max(2 * _POLL, (now - began) / _LISTING_SHARE)

    def _choose(self, there: Sequence[Shelved], *, at_once: bool) -> None:
        """Choose the backend of each family that is new.

        One that loses what is asked for is chosen at the second look: a better one may begin its segment a little
        later.
        """
        families = {family for shelved in there for family in shelved.covers}
        self._backends = {one: backend for one, backend in self._backends.items() if one in families}
        for unit in units(there, self._query.asked):
            for shelved in unit.holdings:
                if at_once or shelved.covers <= self._seen or self._query.asked.isdisjoint(shelved.backend.loses):
                    for one in shelved.covers:
                        self._backends.setdefault(one, id(shelved.backend))
        self._seen = families

    def _begin(self, key: _Key, shelved: Shelved, place: int) -> None:
        backend = shelved.backend
        self._open[key] = shelved
        self._places[key] = 0
        if place == 0:
            return
        try:
            if can(backend, Follows):
                with blaming(shelved.backend, "follow"):
                    _, self._places[key] = backend.follow(shelved.stored, place)
            else:
                for _ in self._grown(key, shelved):
                    pass
        except SipDumpError as error:
            self._searched.problem(str(error))


def _key(shelved: Shelved) -> _Key:
    """Return what stays the same of a segment when it is sealed, whatever its file is called then."""
    return id(shelved.backend), shelved.node, shelved.stored.segment.stem


def _family(shelved: Shelved) -> Family:
    return family(shelved.node, shelved.stored)


def _mark(record: Record) -> int:
    return hash((record.time_us, record.src_ip, record.src_port, record.dst_ip, record.dst_port, record.buf))

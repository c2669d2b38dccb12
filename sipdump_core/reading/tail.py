"""``sipdump-read tail``: messages as they come, a line each."""

import argparse
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import attrs

from sipdump_core.drivers.capabilities import Follows, can
from sipdump_core.drivers.guard import blaming
from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError
from sipdump_core.reading.arguments import add_filters, add_store, query_of
from sipdump_core.reading.lines import message_line
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.session import Session
from sipdump_core.reading.shelves import Shelved
from sipdump_core.reading.store import Store
from sipdump_core.reading.units import units
from sipdump_core.record import Record

__all__ = ["Follower", "add_tail", "tail"]

_POLL = 0.2
_LIST_EVERY = 5
"""Polls between two listings of the store, where new segments are found."""
_LAST = (60, 3600, 86400, None)
"""Seconds before the newest message in which the last ones are looked for, until there are enough."""
_MARKS = 100_000
"""Messages that are remembered so that none is printed twice where a segment cannot be followed by its place."""
_OVERLAP_US = 2_000_000


def add_tail(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``tail``."""
    add_store(parser)
    add_filters(parser)
    parser.add_argument(
        "-n", dest="count", type=int, default=20, metavar="N", help="begin with the last N (default: 20)"
    )
    parser.add_argument("--raw", action="store_true", help="print each message as it was, too")
    parser.add_argument("--once", action="store_true", help="print the last messages, and end")
    parser.set_defaults(run=tail)


def tail(args: argparse.Namespace) -> int:
    """Print the last messages, and then those that come, until Ctrl-C."""
    with Session(args) as session:
        query = attrs.evolve(query_of(args, session.now), states=())
        follower = Follower(session.store, query)
        found = False
        for record in follower.last(args.count):
            found = True
            _print(record, raw=args.raw)
        sys.stdout.flush()
        if args.once:
            return session.report(found)
        for problem in session.searched.problems:
            print(f"sipdump-read: {problem}", file=sys.stderr)
        pause = threading.Event()
        while not session.store.interrupted:
            for record in follower.fresh():
                _print(record, raw=args.raw)
            sys.stdout.flush()
            for problem in follower.problems():
                print(f"sipdump-read: {problem}", file=sys.stderr)
            pause.wait(_POLL)
        return 0


def _print(record: Record, *, raw: bool) -> None:
    print(message_line(record))
    if raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(record.buf.rstrip(b"\r\n") + b"\n\n")
        sys.stdout.buffer.flush()


_Key = tuple[str, str, str]


class Follower:
    """Finds what is stored from now on.

    Args:
        store: where.
        query: which messages; its span's end is passed over by what comes.
    """

    def __init__(self, store: Store, query: Query) -> None:
        self._store = store
        self._query = query
        self._known: set[_Key] = set()
        self._open: dict[_Key, Shelved] = {}
        """Segments that may grow."""
        self._places: dict[_Key, int] = {}
        """How far each of them was read."""
        self._marks: deque[int] = deque(maxlen=_MARKS)
        self._seen: set[int] = set()
        self._newest_us = 0
        self._round = 0
        self._searched = Searched()
        self._told = 0
        for key, shelved in self._listed().items():
            self._known.add(key)
            if shelved.open:
                self._begin(key, shelved, -1)

    def last(self, count: int) -> list[Record]:
        """Return the last messages that there are, in order of time."""
        if count < 1:
            return []
        now_us = self._store.now_us()
        found: deque[Record] = deque(maxlen=count)
        for seconds in _LAST:
            since = None if seconds is None else now_us - seconds * 1_000_000
            since_us = max(filter(None, (since, self._query.since_us)), default=None)
            query = attrs.evolve(self._query, since_us=since_us)
            found = deque(self._store.records(query, self._searched), maxlen=count)
            if len(found) == count:
                break
        for record in found:
            self._is_new(record)
        return list(found)

    def fresh(self) -> Iterator[Record]:
        """Yield what was stored since the last call, of a segment in the order of its arrival."""
        self._round += 1
        if self._round % _LIST_EVERY == 0:
            self._look()
        for key, shelved in list(self._open.items()):
            try:
                yield from self._grown(key, shelved)
            except SipDumpError as error:
                if not shelved.gone:
                    self._searched.problem(str(error))
                self._look()
            else:
                if not shelved.open:
                    del self._open[key]

    def problems(self) -> Sequence[str]:
        """Return what could not be read since the last call, one line each."""
        found = self._searched.problems[self._told :]
        self._told += len(found)
        return found

    def _grown(self, key: _Key, shelved: Shelved) -> Iterator[Record]:
        """Yield what a segment has got since it was read last."""
        backend = shelved.backend
        if not can(backend, Follows):
            since = max(self._newest_us - _OVERLAP_US, 0)
            yield from self._matching(shelved.search(Query(since_us=since)))
            return
        while True:
            with blaming(shelved.backend, "follow"):
                records, self._places[key] = backend.follow(shelved.stored, self._places[key])
            if not records:
                return
            yield from self._matching(records)

    def _matching(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if self._query.matches(record) and self._is_new(record):
                yield record

    def _is_new(self, record: Record) -> bool:
        """Return whether a message was not printed before, and remember it."""
        self._newest_us = max(self._newest_us, record.time_us)
        mark = hash((record.time_us, record.flow, record.buf))
        if mark in self._seen:
            return False
        if len(self._marks) == _MARKS:
            self._seen.discard(self._marks[0])
        self._marks.append(mark)
        self._seen.add(mark)
        return True

    def _begin(self, key: _Key, shelved: Shelved, place: int) -> None:
        backend = shelved.backend
        self._open[key] = shelved
        self._places[key] = 0
        if place and can(backend, Follows):
            try:
                with blaming(shelved.backend, "follow"):
                    _, self._places[key] = backend.follow(shelved.stored, place)
            except SipDumpError as error:
                self._searched.problem(str(error))

    def _look(self) -> None:
        """Find segments that are new, that are sealed by now, and that are gone."""
        there = self._listed()
        for key, shelved in there.items():
            if key in self._open:
                self._open[key] = shelved
            elif key not in self._known:
                self._begin(key, shelved, 0)
        for key in self._open.keys() - there.keys():
            del self._open[key]
        self._known = set(there)

    def _listed(self) -> dict[_Key, Shelved]:
        chosen = units(self._store.shelved(self._searched), self._query.asked)
        return {_key(shelved): shelved for unit in chosen for shelved in unit.holdings}


def _key(shelved: Shelved) -> _Key:
    """Return what stays the same of a segment when it is sealed, whatever its file is called then."""
    return shelved.backend.name, shelved.node, shelved.stored.segment.stem

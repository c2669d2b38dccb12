"""Holds: what must stay whatever retention says, as for a court. They are in a small file in the store's folder.

A hold names calls: by Call-ID, by user, or by a span of time in which they have a message. Of a segment that is due,
what is held stays, whole calls, and the rest goes.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import attrs

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import Marks, Reads, Searches, can
from sipdump_core.drivers.guard import blaming, each_of
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.rewriting import Change
from sipdump_core.drivers.syncing import sync_folder
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.locks import own_lock
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment

__all__ = ["FILE", "Held", "Hold", "add", "held_in", "listed_holds", "mark", "matching", "release", "unmark"]

FILE = "sipdump-holds.json"
_NAME = re.compile(r"[\w][\w.@+-]{0,99}")
_LOCK_WAIT = 10.0


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


@attrs.frozen
class Hold:
    """What is held under one name."""

    name: str
    call_ids: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    users: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    since_us: int | None = None
    """With ``until_us``: calls with a message within this span, microseconds since the epoch."""
    until_us: int | None = None
    created: float = 0.0
    """Seconds since the epoch."""
    reason: str = ""

    @property
    def query(self) -> Query:
        """The question whose answers are messages of the calls."""
        return Query(since_us=self.since_us, until_us=self.until_us, call_ids=self.call_ids, users=self.users)


class Held:
    """What the holds of a folder keep in the segments of one backend.

    Which calls those are is found out when the first segment asks for it: all of the backend's segments are searched,
    so that a call over several of them is kept whole.

    Args:
        holds: the holds.
        backend: whose segments.
    """

    def __init__(self, holds: Sequence[Hold], backend: Backend) -> None:
        self._holds = holds
        self._backend = backend
        self._ids: dict[str, frozenset[str]] | None = None

    def __bool__(self) -> bool:
        return bool(self._holds)

    @property
    def ids(self) -> frozenset[str]:
        """The Call-IDs of the calls.

        Raises:
            StorageError: a segment cannot be searched: nothing may be deleted then.
        """
        return frozenset().union(*self._by_hold().values())

    def names(self, call_ids: Collection[str]) -> list[str]:
        """Return the holds that keep one of some calls."""
        return [name for name, ids in self._by_hold().items() if not ids.isdisjoint(call_ids)]

    def of(self, stored: StoredSegment) -> list[str]:
        """Return the names of the holds that keep something in a segment.

        Raises:
            StorageError: it cannot be searched.
        """
        key = (stored.location, stored.size, stored.modified, tuple(self._holds), self.ids)
        known = _SEEN.get(key)
        if known is None:
            found = [
                hold.name
                for hold in self._holds
                if self._any(stored, Query(call_ids=self._by_hold()[hold.name])) or self._any_bare(stored, hold)
            ]
            known = _SEEN.keep(key, found)
        return known

    def change(self) -> Change:
        """Return the change that takes out all that is not held."""
        return Change(self.ids, others=True, also=self.keeps)

    def keeps(self, record: Record) -> bool:
        """Return whether a message without a Call-ID is held."""
        return any(hold.query.matches(record) for hold in self._holds)

    def _any(self, stored: StoredSegment, query: Query) -> bool:
        return bool(query.call_ids) and any(True for _ in matching(self._backend, stored, query))

    def _any_bare(self, stored: StoredSegment, hold: Hold) -> bool:
        if hold.call_ids:
            return False
        return any(record.call_id is None for record in matching(self._backend, stored, hold.query))

    def _matching(self, stored: StoredSegment, hold: Hold) -> frozenset[str]:
        """Return the Call-IDs of a hold in a segment; a sealed one is searched once."""
        if hold.since_us is not None and stored.modified * 1_000_000 < hold.since_us - _SLACK_US:
            return frozenset()
        key = (stored.location, stored.size, stored.modified, hold)
        known = _FOUND.get(key) if stored.sealed else None
        if known is None:
            found = {record.call_id or "" for record in matching(self._backend, stored, hold.query)}
            known = _FOUND.keep(key, frozenset(found - {""}))
        return known

    def _by_hold(self) -> dict[str, frozenset[str]]:
        if self._ids is None:
            found = {hold.name: set(hold.call_ids) for hold in self._holds}
            wide = [hold for hold in self._holds if not hold.call_ids]
            for stored in self._backend.segments() if wide else ():
                for hold in wide:
                    found[hold.name].update(self._matching(stored, hold))
            self._ids = {name: frozenset(ids) for name, ids in found.items()}
        return self._ids


_FOUND: Cache[Any, frozenset[str]] = Cache(100_000)
_SEEN: Cache[Any, list[str]] = Cache(10_000)
_MARKED: Cache[Any, bool] = Cache(100_000)
_SLACK_US = 86_400_000_000
"""By how much a message's time may be off its segment's."""


def matching(backend: Backend, stored: StoredSegment, query: Query) -> Iterator[Record]:
    """Yield the messages of a segment that are an answer.

    Raises:
        StorageError: it cannot be read.
        DriverError: its driver raises anything else.
    """
    able: object = backend
    if can(able, Searches):
        return each_of(backend, "search", lambda: able.search(stored, query))
    if not can(backend, Reads):
        raise StorageError("search", stored.location, f"the backend {backend.name} cannot read its segments back")
    return filter(query.matches, each_of(backend, "read", lambda: backend.read(stored)))


def held_in(backend: Backend) -> Held:
    """Return what is held in a backend's segments.

    Raises:
        ConfigError: the holds cannot be read: nothing may be deleted then.
    """
    return Held(listed_holds(backend.site.folder), backend)


def mark(backend: Backend) -> int:
    """Have the store mark what is held, where it can; return how many segments were not marked before.

    Raises:
        ConfigError: the holds cannot be read.
        StorageError: a segment cannot be searched, or the store knows no marks.
    """
    able: object = backend
    held = held_in(backend)
    if not (held and can(able, Marks)):
        return 0
    count = 0
    for stored in backend.segments():
        key = (stored.location, stored.size, stored.modified)
        if stored.sealed and key not in _MARKED and held.of(stored):
            with blaming(backend, "mark_held"):
                count += able.mark_held(stored, held=True)
            _MARKED.keep(key, True)
    return count


def unmark(backend: Backend, released: Hold) -> int:
    """Have the store take the mark from what only a hold that was released has held; return from how many segments.

    Raises:
        ConfigError: the holds cannot be read.
        StorageError: a segment cannot be searched, or the store knows no marks.
    """
    able: object = backend
    if not can(able, Marks):
        return 0
    left, before = held_in(backend), Held([released], backend)
    count = 0
    for stored in backend.segments():
        if stored.sealed and before.of(stored) and not (left and left.of(stored)):
            with blaming(backend, "mark_held"):
                count += able.mark_held(stored, held=False)
            _MARKED.pop((stored.location, stored.size, stored.modified), None)
    return count


def listed_holds(folder: str) -> list[Hold]:
    """Return the holds of a folder.

    Raises:
        ConfigError: the file is there, and cannot be read.
    """
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return [Hold(**each) for each in json.load(file)["holds"]]
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = "nothing is deleted or erased before it can be: mend it, or restore it from a backup"
        raise ConfigError(f"the holds cannot be read: {error}; {hint}", path) from None


def add(folder: str, hold: Hold) -> None:
    """Add a hold.

    Raises:
        ConfigError: its name is taken, or is none, or the holds cannot be read.
        StorageError: it cannot be written.
    """
    if not _NAME.fullmatch(hold.name):
        raise ConfigError("a hold's name has letters, digits and . _ - + @, at most 100", hold.name)
    with _alone(folder):
        there = listed_holds(folder)
        if any(each.name == hold.name for each in there):
            raise ConfigError("there is a hold of this name; choose another, or release it first", hold.name)
        _write(folder, [*there, attrs.evolve(hold, created=hold.created or time.time())])


def release(folder: str, name: str) -> Hold:
    """Remove a hold, and return it.

    Raises:
        ConfigError: there is none of this name, or the holds cannot be read.
        StorageError: it cannot be written.
    """
    with _alone(folder):
        there = listed_holds(folder)
        found = [each for each in there if each.name == name]
        if not found:
            names = ", ".join(each.name for each in there) or "none"
            raise ConfigError(f"there is no hold of this name; there are: {names}", name)
        _write(folder, [each for each in there if each.name != name])
        return found[0]


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    with own_lock(os.path.join(folder, f".{FILE}.lock"), _LOCK_WAIT) as alone:
        if not alone:
            raise StorageError("change the holds in", folder, "another process does so")
        yield


def _write(folder: str, holds: Sequence[Hold]) -> None:
    path = os.path.join(folder, FILE)
    draft = os.path.join(folder, f".{FILE}.{os.getpid()}")
    text = json.dumps({"holds": [attrs.asdict(hold) for hold in holds]}, indent=1, ensure_ascii=False)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(fd)
        with contextlib.suppress(OSError):  # the daemon's user must be able to read it
            os.chown(draft, os.stat(folder).st_uid, os.stat(folder).st_gid)
        os.replace(draft, path)
        sync_folder(folder)
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error

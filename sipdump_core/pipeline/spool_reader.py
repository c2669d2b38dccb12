"""Reading a spool's journal: cuts it into batches whose borders and names do not change, over a restart either."""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import takewhile
from typing import BinaryIO, Self

import attrs

from sipdump_core.drivers.batch import Batch
from sipdump_core.pipeline.journal import NOTE, Damage, Frame, scan
from sipdump_core.record import Record

__all__ = ["GONE", "PLACE_SUFFIX", "Entry", "Place", "PlaceFile", "entries", "is_gone", "key_of"]

PLACE_SUFFIX = ".place"
GONE = -(1 << 63)
"""The time of a mark that stands, with an empty message, where a record was taken out of a journal."""
_NUMBER = struct.Struct("<Q")
_AT_ONCE = 1 << 16  # no place is so long


@attrs.frozen
class Place:
    """How far a journal was delivered."""

    offset: int = 0
    """Of a frame in the file."""
    skip: int = 0
    """How many records of that frame were delivered."""
    begun: Sequence[int] = ()
    """How many records each of the next batches has, as far as they were tried already."""


class PlaceFile:
    """Keeps a place in a small file beside the journal: what lies before it was flushed by the store.

    The file has numbers of 8 bytes, the lowest byte first: offset, skip, and the sizes of the batches that were tried
    from there on, up to a 0 or the end.

    Args:
        journal: the journal's path.
    """

    def __init__(self, journal: str) -> None:
        self.passed = 0
        """How many batches lie between the place that the file has and the one that was reached."""
        self._fd = os.open(journal + PLACE_SUFFIX, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._begun: list[int] = []
        self._reached = Place()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self) -> Place:
        """Return the place; the start if none was noted."""
        noted = os.pread(self._fd, _AT_ONCE, 0)
        numbers = [number for (number,) in _NUMBER.iter_unpack(noted[: len(noted) // _NUMBER.size * _NUMBER.size])]
        offset, skip, *sizes = numbers + [0] * (2 - len(numbers))
        self._begun = list(takewhile(bool, sizes))
        self._reached = Place(offset, skip, tuple(self._begun))
        self.passed = 0
        return self._reached

    def begin(self, size: int) -> None:
        """Note that a batch is tried, so that it comes again as it is: the one behind those that were passed."""
        if self.passed == len(self._begun):
            os.pwrite(self._fd, _numbers([size, 0]), (2 + self.passed) * _NUMBER.size)
            self._begun.append(size)

    def move(self, place: Place, batches: int = 1) -> None:
        """Pass a batch, or none but a note; the file does not say so before ``write``."""
        self._reached = place
        self.passed += batches

    def write(self) -> None:
        """Note the place that was reached."""
        begun = self._begun[self.passed :]
        os.pwrite(self._fd, _numbers([self._reached.offset, self._reached.skip, *begun, 0]), 0)
        self._begun = begun
        self.passed = 0


@attrs.frozen
class Entry:
    """A batch of a journal."""

    batch: Batch
    """Without the records that were taken out; what is left keeps its indexes."""
    count: int
    """How many records it has in the journal, with those that were taken out."""
    end: Place
    """Where the next one begins."""
    final: bool = True
    """False if it is shorter than it should be, and the journal may still grow."""


def key_of(file: BinaryIO, name: str) -> str:
    """Return what the names of a journal's batches begin with.

    Args:
        file: the journal, whose header has a random salt.
        name: its name.
    """
    return blake2b(os.pread(file.fileno(), 16, 0) + name.encode(), digest_size=8).hexdigest()


def entries(
    file: BinaryIO, key: str, place: Place, wanted: int, known: Callable[[str], int]
) -> Iterator[Entry | Frame | Damage]:
    """Yield what a journal holds from a place on: batches, notes (as frames) and damage.

    Args:
        file: the journal.
        key: see :func:`key_of`.
        place: where to begin.
        wanted: how many records a batch should have; 0: as many as a frame has.
        known: returns, given its name, how many records a batch has if that is settled; else 0.
    """
    skip, begun = place.skip, iter(place.begun)
    records: list[Record] = []
    begin = end = place
    size = 0
    for item in scan(file, place.offset):
        found = _records(item)
        if isinstance(found, Damage) or (isinstance(item, Frame) and item.kind == NOTE):
            if records:
                torn = isinstance(found, Damage) and found.torn
                yield _entry(key, records, begin, end, final=not torn)
                records = []
            yield found if isinstance(found, Damage) else item
            continue
        at, skip = skip, 0
        while at < len(found):
            if not records:
                begin = Place(item.offset, at)
                size = next(begun, 0) or known(_name(key, begin)) or wanted
            count = min(size - len(records) if size else len(found), len(found) - at)
            records += found[at : at + count]
            at += count
            end = Place(item.offset, at) if at < len(found) else Place(item.end)
            if not size or len(records) == size:
                yield _entry(key, records, begin, end)
                records = []
    if records:
        yield _entry(key, records, begin, end, final=False)


def _records(item: Frame | Damage) -> list[Record] | Damage:
    """Return a frame's records; none of a note."""
    if isinstance(item, Damage):
        return item
    try:
        return [] if item.kind == NOTE else list(item.columns().records())
    except ValueError:  # its sum is right, but it is not of its form
        return Damage(item.offset, item.end, torn=False)


def _entry(key: str, records: list[Record], begin: Place, end: Place, *, final: bool = True) -> Entry:
    name = _name(key, begin)
    places = [place for place, record in enumerate(records) if not is_gone(record)]
    if len(places) == len(records):
        return Entry(Batch(records, name), len(records), end, final)
    # a store that has the whole batch already must know it again
    return Entry(Batch([records[place] for place in places], name, name, places), len(records), end, final)


def is_gone(record: Record) -> bool:
    """Return whether this is the mark of a record that was taken out."""
    return record.time_us == GONE and not record.buf


def _numbers(numbers: Sequence[int]) -> bytes:
    return b"".join(map(_NUMBER.pack, numbers))


def _name(key: str, place: Place) -> str:
    return f"{key}-{place.offset}" + (f"-{place.skip}" if place.skip else "")

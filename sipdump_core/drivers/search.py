"""Searching and following segment files whose records lie one behind the other: literals first, decoding only there.

What a backend adds is a :class:`FileSearch` of its format, with which a place in the middle of a file can be read. It
must be certain of every such place: a message may hold what looks like a record, and what comes out has to be exactly
what a reader from the file's start finds.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.folder import FolderBackend, disorder
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.rewriting import Change, Rewritten, new_file
from sipdump_core.drivers.scan import FEW, FileScan, Literals
from sipdump_core.errors import StorageError
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment

__all__ = ["FileSearch", "SearchedFolderBackend"]

_NEAR = 1 << 21
"""Bytes; within this much, a time is not looked for by halving."""
_CLOSE = 1 << 14
"""Bytes; a literal within this much is read on to."""
_STEP_AROUND_HIT = 1 << 16
_STEP = 1 << 20
_FOLLOWED = 1 << 22
"""Bytes of records that one call of ``follow`` returns, about."""

_EVERYTHING = Query()


class FileSearch(ABC):
    """One file that is looked through.

    A *place* is an offset at which a reader that began at the file's start comes to a record, or to its end.

    Args:
        scan: the file.
    """

    first = 0
    """The first place."""

    def __init__(self, scan: FileScan) -> None:
        self.scan = scan

    @abstractmethod
    def place(self, low: int, at: int) -> int:
        """Return a place, as near before an offset as can cheaply be found.

        Args:
            low: a place not behind ``at``; it is the answer where nothing nearer is certain.
            at: the offset.
        """

    @abstractmethod
    def records(self, start: int, end: int, step: int) -> Iterator[tuple[Record, int]]:
        """Yield the records between two places, each with the place behind it.

        Args:
            start: a place.
            end: a place, or the file's end.
            step: bytes to read at once.
        """

    @abstractmethod
    def measure(self) -> int:
        """Return by how many microseconds a record may be older than one before it, by looking at all of them."""

    def literals(self, query: Query) -> Sequence[bytes]:
        """Return what is in the file, byte for byte, with every answer; empty: nothing is known."""
        return query.needles

    def is_place(self, at: int) -> bool:
        """Return whether an offset that was a place may still be one: the file may have been cut, and have grown."""
        return at <= self.scan.size

    def is_record(self, start: int, end: int) -> bool:
        """Return whether nothing but a record is between the place behind one record and that behind the next."""
        del start, end
        return True

    def is_torn(self, at: int) -> bool:
        """Return whether what is behind the last record is one that a crash has cut off."""
        del at
        return True

    def search(self, query: Query, disorder_us: int | None) -> Iterator[Record]:
        """Yield the records that are an answer, in order.

        Args:
            query: the question.
            disorder_us: by how much a record may be older than one before it; None: not known, nothing is skipped by
                its time.
        """
        low, high = self.first, self.scan.size
        if disorder_us is not None:
            low, high = self._span(query, disorder_us)
        literals = self.literals(query)
        if not 0 < len(literals) <= FEW:
            for record, _ in self.records(low, high, _STEP):
                if query.matches(record):
                    yield record
            return
        finder = Literals(self.scan, literals, high)
        hit = finder.next(low)
        while hit >= 0:
            for record, behind in self.records(self.place(low, hit), high, _STEP_AROUND_HIT):
                low = behind
                if low <= hit:
                    continue  # it has none of the literals
                if query.matches(record):
                    yield record
                hit = finder.next(low)
                if hit < 0 or hit - low > _CLOSE:
                    break
            else:
                return

    def follow(self, place: int) -> tuple[Sequence[Record], int]:
        """Return records behind a place, and the place behind them; see :class:`~sipdump_core.drivers.capabilities`."""
        start = self.first if place == 0 else place
        if place < 0 or not self.is_place(place):
            start = self.place(self.first, min(place, self.scan.size) if place >= 0 else self.scan.size)
        found: list[Record] = []
        at = start
        for record, behind in self.records(start, self.scan.size, _STEP):
            at = behind
            if 0 <= place < behind:
                found.append(record)
                if behind - start >= _FOLLOWED:
                    break
        return found, at

    def _span(self, query: Query, disorder_us: int) -> tuple[int, int]:
        """Return two places between which all records of a question's span are."""
        low, high = self.first, self.scan.size
        if query.since_us is not None:
            newest = query.since_us - disorder_us  # all records before an older one than this are too old
            end = high
            while end - low > _NEAR:
                middle = (low + end) // 2
                place = self.place(low, middle)
                time_us = self._time(place)
                if low < place and time_us is not None and time_us < newest:
                    low = place
                else:
                    end = middle
        if query.until_us is not None:
            oldest = query.until_us + disorder_us  # all records behind one of this age are too young
            start, end = low, high
            while end - start > _NEAR:
                middle = (start + end) // 2
                place = self.place(start, middle)
                time_us = self._time(place)
                if time_us is not None and time_us >= oldest:
                    high = end = place
                elif start < place:
                    start = place
                else:
                    end = middle
        return low, high

    def _time(self, place: int) -> int | None:
        """Return the time of the first record behind a place."""
        return next((record.time_us for record, _ in self.records(place, self.scan.size, _STEP_AROUND_HIT)), None)


class SearchedFolderBackend(FolderBackend):
    """A backend of files that can be searched and followed. A subclass writes ``look`` beside the rest."""

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._measured: Cache[tuple[str, int], int] = Cache()

    def look(self, scan: FileScan) -> FileSearch:
        """Return what looks through a file."""
        raise NotImplementedError(f"{type(self).__name__} has no look()")

    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        """Yield the records that are an answer, in order.

        A span of time is found by halving, exactly: the file says how far it is out of order
        (:data:`~sipdump_core.drivers.folder.DISORDER_XATTR`), or that is found out once.
        """
        if query == _EVERYTHING:  # who reads all of a file reports what of it is damaged
            yield from self.read(stored)
            return
        path = self._path_of(stored)
        try:
            with FileScan(path) as scan:
                looked = self.look(scan)
                yield from looked.search(query, self._disorder_of(looked, query))
        except OSError as error:
            raise StorageError.from_os("read", path, error) from error

    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        """Return the records behind a place; see :class:`~sipdump_core.drivers.capabilities.Follows`."""
        path = self._path_of(stored)
        try:
            with FileScan(path) as scan:
                return self.look(scan).follow(place)
        except OSError as error:
            raise StorageError.from_os("read", path, error) from error

    def rewrite_file(self, file: BinaryIO, draft: str, change: Change) -> Rewritten:
        """Write what a change makes of an open file into a new one; what stays is copied byte for byte.

        Raises:
            StorageError: there are bytes in it that are no record: nobody can say whose they are.
        """
        kept = removed = masked = 0
        with FileScan(f"/proc/self/fd/{file.fileno()}") as scan, new_file(draft) as made:
            looked = self.look(scan)
            at = copied = looked.first  # what is from ``copied`` to ``at`` is still to be copied
            made.write(scan.read(0, looked.first))
            for record, behind in looked.records(looked.first, scan.size, _STEP):
                if not looked.is_record(at, behind):
                    raise _damaged(file.name, at)
                after = change.apply(record)
                if after is record:
                    kept += 1
                    if behind - copied >= _STEP:
                        made.write(scan.read(copied, behind))
                        copied = behind
                else:
                    made.write(scan.read(copied, at))
                    if after is None:
                        removed += 1
                    else:
                        masked += 1
                        made.write(self.encode_like(after, scan.read(at, behind)))
                    copied = behind
                at = behind
            if at < scan.size and not looked.is_torn(at):
                raise _damaged(file.name, at)
            made.write(scan.read(copied, at))
        return Rewritten(kept, removed, masked)

    def encode_like(self, record: Record, before: bytes) -> bytes:
        """Return the bytes of a record that takes the place of another one, given the bytes of that."""
        del before
        return self.encode([record])

    def _path_of(self, stored: StoredSegment) -> str:
        return os.path.join(self.site.folder, stored.segment.name)

    def _disorder_of(self, looked: FileSearch, query: Query) -> int | None:
        if query.since_us is None and query.until_us is None:
            return None
        scan = looked.scan
        known = disorder(scan.fileno())
        if known is None and scan.size > _NEAR and not 0 < len(looked.literals(query)) <= FEW:
            key = (scan.name, scan.size)
            known = self._measured.get(key)
            if known is None:
                known = self._measured.keep(key, looked.measure())
        return known


def _damaged(path: str, at: int) -> StorageError:
    hint = "look at them, and mend or delete the file"
    return StorageError("rewrite", path, f"it is damaged: from {at} on are bytes that are no record", hint)

"""Write-ahead files: where they are, what is asked of them frame by frame, and what they have got since."""

import contextlib
import itertools
import json
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO

import attrs

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.query import Query
from sipdump_core.log import Event, log
from sipdump_core.pipeline.journal import RECORDS, Columns, Damage, scan
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet.options import WAL_SUFFIX

__all__ = ["Mark", "follow", "hidden_path", "keep_aside", "search", "wal_path"]

_FEW = 16
"""Literals; for more, every record is looked at."""


def wal_path(segment: Segment, site: Site) -> str:
    """Return the path of a segment's write-ahead file."""
    return os.path.join(site.folder, segment.stem + WAL_SUFFIX)


def hidden_path(segment: Segment, site: Site, suffix: str) -> str:
    """Return the path of a file that is there only while a segment is sealed: a draft (``tmp``) or a ``lock``."""
    return os.path.join(site.folder, f".{segment.stem}.parquet.{suffix}")


def keep_aside(path: str) -> str:
    """Link a file to a free name that no program looks at again, and return that name."""
    for number in itertools.count():
        aside = f"{path}.damaged" + (f"-{number}" if number else "")
        with contextlib.suppress(FileExistsError):
            os.link(path, aside)
            return aside
        if os.path.samestat(os.lstat(path), os.lstat(aside)):  # an earlier attempt got this far
            return aside
    raise AssertionError  # count() does not end


def search(file: BinaryIO, query: Query) -> Iterator[Record]:
    """Yield the records that are an answer, in the order of their arrival.

    Frames in which no literal of the question is, or whose times are all outside its span, are passed over.
    """
    literals = _literals(query)
    for frame in scan(file, wanted=_wanted(query, literals)):
        if isinstance(frame, Damage) or frame.kind != RECORDS:
            continue
        columns = _columns(frame.columns, file, frame.offset)
        if columns is None:
            continue
        records = _with_literals(columns, literals) if literals and not query.correlations else columns.records()
        yield from filter(query.matches, records)


@attrs.frozen
class Mark:
    """How far a write-ahead file was read."""

    count: int = 0
    """Records before it."""
    offset: int = 0
    """The end of a frame."""


def follow(file: BinaryIO, mark: Mark, place: int, most: int) -> tuple[list[Record], Mark]:
    """Read on from a place: the number of records before it; -1 for the end.

    Args:
        file: the open file.
        mark: the end of a frame that is not behind the place.
        place: where to begin.
        most: end with the frame that makes it so many records.

    Returns:
        The records behind the place, and the end of the last frame that was read.
    """
    found: list[Record] = []
    count = mark.count
    for frame in scan(file, mark.offset):
        if isinstance(frame, Damage):
            if frame.torn:
                break  # it is being written
            continue
        columns = _columns(frame.columns, file, frame.offset) if frame.kind == RECORDS else None
        if columns is not None:
            if 0 <= place < count + frame.count:
                found += list(columns.records())[max(0, place - count) :]
            count += frame.count
        mark = Mark(count, frame.end)
        if len(found) >= most:
            break
    return found, mark


def _columns(read: Callable[[], Columns], file: BinaryIO, offset: int) -> Columns | None:
    try:
        return read()
    except ValueError as error:  # its sum is right, but not its form
        log.warning(Event("journal has a frame of no form", path=file.name, offset=offset, error=error))
        return None


def _literals(query: Query) -> Sequence[bytes]:
    """Return what is in every frame that has an answer, one of them at least; none where that is not known."""
    if len(query.needles) > _FEW:
        return ()
    if not query.correlations:
        return query.needles
    escaped = (json.dumps(each.decode("utf-8", "replace"))[1:-1].encode() for each in query.needles)
    return tuple(dict.fromkeys([*query.needles, *escaped]))  # correlation ids are JSON in a frame


def _wanted(query: Query, literals: Sequence[bytes]) -> Callable[[int, bytes], bool] | None:
    timed = query.since_us is not None or query.until_us is not None
    if not (literals or timed):
        return None

    def wanted(count: int, payload: bytes) -> bool:
        if literals and not any(literal in payload for literal in literals):
            return False
        times = _times(count, payload) if timed else None
        return not times or query.within(min(times), max(times))

    return wanted


def _times(count: int, payload: bytes) -> "array[int]":
    """Return the times of a frame's records; none where it is not of its form."""
    times = array("q")
    if len(payload) >= 4:
        at = 4 + struct.unpack_from("<I", payload)[0]
        size = times.itemsize * count
        if len(payload) >= at + size:
            times.frombytes(payload[at : at + size])
            if struct.pack("=H", 1) != struct.pack("<H", 1):
                times.byteswap()
    return times


def _with_literals(columns: Columns, literals: Sequence[bytes]) -> Iterator[Record]:
    """Yield the records in whose messages one of some literals is."""
    payload, base = columns.payload, columns.base
    ends = list(accumulate(columns.lengths, initial=base))
    found = set()
    for literal in literals:
        at = payload.find(literal, base)
        while at >= 0:
            row = bisect_right(ends, at) - 1
            found.add(row)
            # the rest of this message can add nothing; a hit that reaches into the next one counts for neither
            at = payload.find(literal, ends[row + 1])
    ids = columns.correlation_ids
    for row in sorted(found):
        flow = columns.flows[columns.indexes[row]]
        yield Record(columns.times[row], flow, payload[ends[row] : ends[row + 1]], ids[row] if ids else "")

"""What the tests of the Parquet backend share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sipdump_core.drivers.base import Site
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import WAL_SUFFIX, ParquetOptions
from tests.support import OPTIONS, record

STAMP = "2026-11-22--23-31-00"
SEGMENT = Segment("t-", STAMP, 0, ".parquet")
SMALL = 1 << 16
"""The least memory that can be set."""


def make(folder: Path, **options: Any) -> ParquetBackend:
    return ParquetBackend(ParquetOptions(**options), Site(str(folder), "t-", 0o640, lambda: "v: 1.0\nmeta ☎\n"))


def write(folder: Path, *batches: Sequence[Record], segment: Segment = SEGMENT, **options: Any) -> Path:
    """Write a segment and seal it; give the path of its file."""
    backend = make(folder, **options)
    backend.start()
    backend.open(segment)
    for batch in batches:
        backend.write(batch)
    backend.close()
    backend.stop()
    return folder / segment.name


def leave(folder: Path, *batches: Sequence[Record], segment: Segment = SEGMENT) -> Path:
    """Write a segment as a process does that is killed then; give the path of its write-ahead file."""
    backend = make(folder)
    backend.open(segment)
    for batch in batches:
        backend.write(batch)
    backend.forget()
    return folder / (segment.stem + WAL_SUFFIX)


def read(folder: Path, segment: Segment = SEGMENT, **options: Any) -> list[Record]:
    backend = make(folder, **options)
    (stored,) = [stored for stored in backend.segments() if stored.segment == segment]
    return list(backend.read(stored))


def sealed(folder: Path) -> list[str]:
    return [stored.segment.name for stored in make(folder).segments() if stored.sealed]


def calls(count: int, each: int = 6, size: int = 0) -> list[Record]:
    """Records of calls that overlap, in the order of their arrival."""
    made = []
    for number in range(count * each):
        call, step = number * 7 % count, number // count
        buf = OPTIONS.replace(b"c1@", b"call%d@" % call).replace(b"CSeq: 1 ", b"CSeq: %d " % step)
        made.append(record(buf + b"x" * size, time_us=1_795_386_431_000_000 + 1000 * number, src_port=5000 + call % 5))
    return made

"""Folders with calls, for tests of what takes records out of them."""

import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment
from tests.core.reading.stores import PREFIX, fill, workshop
from tests.core.reading.traffic import at, call

START = at("10:00:00") / 1_000_000
KINDS = ("text", "pcap", "parquet", "jsonl")


def make(folder: Path, kind: str, **more: Any) -> Backend:
    """Make a backend of a folder; pcap has the P-KSR-SIPDump header."""
    if kind == "jsonl":
        return cast("Backend", jsonl().JsonlBackend(jsonl().JsonlOptions(), Site(str(folder), PREFIX)))
    shop = workshop(folder, 13, **more)
    return shop.backend(kind, shop.site())


@cache
def jsonl() -> Any:
    """Return the example of a third party."""
    sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "sipdump-jsonl"))
    try:
        return import_module("sipdump_jsonl")
    finally:
        sys.path.pop(0)


def store(backend: Backend, records: Sequence[Record], start: float = START) -> StoredSegment:
    """Store a sealed segment, written when its last record came."""
    segment = fill(backend, records, start)
    path = Path(backend.site.folder) / segment.name
    newest = max(record.time_us for record in records) / 1_000_000
    os.utime(path, (newest, newest))
    return next(stored for stored in backend.segments() if stored.segment == segment)


def calls(*names: str, begin: str = "10:32:00", **more: Any) -> list[Record]:
    """Return calls, one a second, the messages of all in order of time."""
    found = [record for n, name in enumerate(names) for record in call(name, at(begin) + n * 1_000_000, **more)]
    return sorted(found, key=lambda record: record.time_us)


def ids(backend: Backend) -> list[str]:
    """Return the Call-IDs of all that is stored, message by message."""
    return [record.call_id or "" for stored in backend.segments() for record in backend.read(stored)]

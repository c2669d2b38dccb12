"""Stores of every kind, filled with records."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.plan import make_plan
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.options import Setting
from sipdump_core.workshop import Workshop

PREFIX = "kamailio-sipdump-"


def workshop(folder: Path, mode: int = 13, **more: Any) -> Workshop:
    settings = [Setting("sipdump", "folder", str(folder)), Setting("sipdump", "mode", mode)]
    settings += [Setting("sipdump", name, value) for name, value in more.items()]
    return Workshop(make_plan(settings))


def fill(backend: Backend, records: Sequence[Record], at: float, *, close: bool = True, batch: int = 7) -> Segment:
    """Store records in one segment; without ``close`` it stays open, and the backend is to be closed by the caller."""
    segment = attrs.evolve(Segment.starting(backend.site.prefix, at), suffix=backend.suffix)
    backend.start()
    backend.open(segment)
    for first in range(0, len(records), batch):
        backend.write(Batch(records[first : first + batch]))
    backend.flush()
    if close:
        backend.close()
        backend.stop()
    return segment


def by_time(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.time_us)

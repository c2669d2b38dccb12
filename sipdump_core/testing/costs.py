"""What a backend may cost: the size of what it writes, memory, and time."""

import json
import os
import time
from collections.abc import Sequence

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.record import Record
from sipdump_core.testing.child import Child, grow
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promise import promise
from sipdump_core.testing.samples import FIELDS, MESSAGES, numbered, record
from sipdump_core.testing.watch import touching

__all__ = ["CostChecks"]

_QUICK = 100e-6
GROWS_OPEN, GROWS_CLOSED = 400.0, 40.0
"""Bytes of memory for each record: an index in an open segment is fine, a copy of the message is not."""


class CostChecks(Kit):
    """The checks of sizes and costs."""

    @promise
    def test_record_size_covers_what_is_written(self, backend: Backend) -> None:
        """record_size() is at least what a record adds to its segment, so that rotate_size holds."""
        fresh = self.reader(backend)
        sizes = [fresh.record_size(record(message)) for message in MESSAGES.values()]
        sizes += [fresh.record_size(record(b"", **fields)) for group in FIELDS.values() for fields in group]
        strange = [size for size in sizes if type(size) is not int or size < 0]
        assert not strange, f"record_size() returns {strange}"
        self.needs_segments(backend)
        for n, one in enumerate((record(), record(os.urandom(3000)), record(b""))):
            few, many = (self.store(backend, [one] * count, second=10 * n + count) for count in (1, 5))
            most = 4 * backend.record_size(one)
            assert many.size - few.size <= most, (
                f"4 records of {len(one.buf)} bytes add {many.size - few.size}, their record_size() is {most}"
            )

    @promise
    def test_record_size_is_not_far_off(self, backend: Backend) -> None:
        """record_size() is at most four times what a record adds, so that segments are not rotated long before time."""
        one = record(os.urandom(3000))  # no compression shrinks this
        size = backend.record_size(one)
        self.needs_segments(backend)
        few, many = (self.store(backend, [one] * count, second=count) for count in (1, 21))
        takes = (many.size - few.size) / 20
        assert size <= 4 * max(takes, len(one.buf)) + 1024, (
            f"a record that takes {takes:.0f} bytes is said to take {size}"
        )

    @promise
    def test_record_size_is_quick(self, backend: Backend) -> None:
        """record_size() is called for each record: it computes, in less than 100 microseconds, and asks nobody."""
        records = numbered(20)
        with touching() as touched:
            for one in records:
                backend.record_size(one)
        assert not touched, f"it touches {touched[0]}"
        took = min(_seconds(backend, records) for _ in range(25))
        assert took < _QUICK, f"it takes {took * 1e6:.0f} microseconds a record"

    @promise
    def test_memory_does_not_grow_with_records(self, site: Site) -> None:
        """A backend keeps no memory for each record: neither while a segment is open nor afterwards."""
        maker = self.make_backend(site)
        with Child(grow, maker, self.segment(maker)) as child:
            opened, closed = json.loads(child.line())
        assert opened < GROWS_OPEN, f"while a segment is open it keeps {opened:.0f} bytes for each record of 1,000"
        assert closed < GROWS_CLOSED, f"when segments are closed it still keeps {closed:.0f} bytes for each record"


def _seconds(backend: Backend, records: Sequence[Record]) -> float:
    began = time.perf_counter()
    for one in records:
        backend.record_size(one)
    return (time.perf_counter() - began) / len(records)

"""What a backend may cost: the size of what it writes, memory, and time."""

import os

from sipdump_core.drivers.base import Backend
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promise import promise
from sipdump_core.testing.samples import FIELDS, MESSAGES, record

__all__ = ["CostChecks"]


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

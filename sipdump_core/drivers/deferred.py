"""A stand-in for a backend whose driver cannot be used yet: it keeps trying, while the other backends store."""

from collections.abc import Callable, Mapping
from typing import Any

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch, batching
from sipdump_core.record import Record
from sipdump_core.segment import Segment

__all__ = ["DeferredBackend"]


class DeferredBackend(Backend):
    """Makes the backend in ``start``, and passes every call on to it from then on.

    Args:
        name: the driver's name.
        options: its options, as far as they are known.
        site: where the backend will store.
        make: returns the backend, or raises why it cannot be made.
    """

    def __init__(self, name: str, options: Any, site: Site, make: Callable[[], Backend]) -> None:
        super().__init__(options, site)
        self.name = name  # type: ignore[misc]  # of the instance: it stands in for any driver
        self._make = make
        self._made: Backend | None = None

    @property
    def backend(self) -> Backend:
        """The backend, made when first asked for.

        Raises:
            SipDumpError: it still cannot be made.
        """
        if self._made is None:
            self._made = self._make()
            self.suffix = self._made.suffix  # known only now
            self.batch_records, self.batch_seconds = batching(self._made)
        return self._made

    def start(self) -> None:
        """Make the backend, and start it."""
        self.backend.start()

    def stop(self) -> None:
        """Stop the backend."""
        self.backend.stop()

    def health(self) -> str:
        """Return the backend's health, if it is made."""
        return self._made.health() if self._made else ""

    def open(self, segment: Segment) -> None:
        """Begin a segment in the backend."""
        self.backend.open(segment)

    def write(self, batch: Batch) -> None:
        """Write to the backend."""
        self.backend.write(batch)

    def flush(self) -> None:
        """Flush the backend."""
        self.backend.flush()

    def check(self) -> None:
        """Let the backend check its segment."""
        self.backend.check()

    def close(self) -> None:
        """Close the backend's segment."""
        self.backend.close()

    def record_size(self, record: Record) -> int:
        """Return what the backend says, or the size of the message until it is made."""
        return self._made.record_size(record) if self._made else len(record.buf)

    def forget(self) -> None:
        """Let go of what the backend has open."""
        if self._made:
            self._made.forget()

    def stats(self) -> Mapping[str, int]:
        """Return the backend's counters, if it is made."""
        return self._made.stats() if self._made else {}

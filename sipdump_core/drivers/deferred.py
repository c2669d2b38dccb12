"""What stands in for a backend whose driver cannot be used yet: it tries again, while the others store."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.record import Record
from sipdump_core.segment import Segment

__all__ = ["DeferredBackend"]


class DeferredBackend(Backend):
    """Makes the backend in ``start``, and is that backend from then on.

    Args:
        name: the driver's name.
        options: its options, as far as they are known.
        site: where it is to store.
        make: makes it, or raises why it cannot.
    """

    def __init__(self, name: str, options: Any, site: Site, make: Callable[[], Backend]) -> None:
        super().__init__(options, site)
        self.name = name  # type: ignore[misc]  # it goes by the name of what it stands for
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
        return self._made

    def start(self) -> None:
        """Make the backend and start it."""
        self.backend.start()

    def stop(self) -> None:
        """Stop it."""
        self.backend.stop()

    def health(self) -> str:
        """Say what it says."""
        return self._made.health() if self._made else ""

    def open(self, segment: Segment) -> None:
        """Open it."""
        self.backend.open(segment)

    def write(self, batch: Sequence[Record]) -> None:
        """Have it write."""
        self.backend.write(batch)

    def flush(self) -> None:
        """Flush it."""
        self.backend.flush()

    def close(self) -> None:
        """Close it."""
        self.backend.close()

    def record_size(self, record: Record) -> int:
        """Ask it, if it is there."""
        return self._made.record_size(record) if self._made else len(record.buf)

    def forget(self) -> None:
        """Have it forget."""
        if self._made:
            self._made.forget()

    def stats(self) -> Mapping[str, int]:
        """Give its counters."""
        return self._made.stats() if self._made else {}

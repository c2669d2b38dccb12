"""What a delivery writes to."""

from collections.abc import Mapping
from typing import Protocol

from sipdump_core.drivers.batch import Batch
from sipdump_core.segment import Segment

__all__ = ["Writer"]


class Writer(Protocol):
    """What a delivery writes to: a backend, or the spool before it. Its methods are those of ``Backend``."""

    @property
    def suffix(self) -> str:
        """What names of its segments end with."""

    def start(self) -> None:
        """Get ready."""

    def stop(self) -> None:
        """End what ``start`` began."""

    def open(self, segment: Segment) -> None:
        """Begin a segment."""

    def write(self, batch: Batch) -> None:
        """Store a batch."""

    def flush(self) -> None:
        """Make what was written visible."""

    def check(self) -> None:
        """Raise if the open segment is no longer good."""

    def close(self) -> None:
        """Seal the open segment."""

    def health(self) -> str:
        """Return what is wrong in the background."""

    def stats(self) -> Mapping[str, int]:
        """Return counters."""

    def forget(self) -> None:
        """Let go of what is open, in a forked child."""

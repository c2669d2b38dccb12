"""Rotation: when the open segment is full or stale, for all backends together."""

from collections.abc import Callable, Sequence

from sipdump_core.record import Record

__all__ = ["Rotation"]


class Rotation:
    """Decides when a segment is full or stale; it holds the numbers of the open segment, and no clock.

    Args:
        rotate: seconds that a segment may be open.
        size: bytes that the largest file of it may have, 0 for no limit.
        records: how many records it may hold, 0 for no limit.
        sizes: for each backend, a function that returns how many bytes a record takes in its file.
        preambles: for each backend, how many bytes its file begins with.
    """

    def __init__(
        self,
        rotate: float,
        size: int = 0,
        records: int = 0,
        sizes: Sequence[Callable[[Record], int]] = (),
        preambles: Sequence[int] = (),
    ) -> None:
        self._rotate = rotate
        self._size = size
        self._records = records
        self._sizes = sizes
        self._preambles = preambles or [0] * len(sizes)
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Start counting for a segment that opens ``now`` (monotonic seconds)."""
        self.deadline = now + self._rotate
        self._count = 0
        self._totals = list(self._preambles)

    def take(self, records: Sequence[Record]) -> int:
        """Return how many of these records, from the first, still go into the open segment, and count them.

        The first record of a segment always goes in, however large it is.
        """
        limit = len(records)
        if self._records:
            limit = min(limit, self._records - self._count)
        if self._size:
            limit = next((n for n in range(limit) if not self._fits(records[n], self._count + n == 0)), limit)
        self._count += limit
        return limit

    def _fits(self, record: Record, first: bool) -> bool:
        totals = [total + size(record) for total, size in zip(self._totals, self._sizes, strict=True)]
        if not first and max(totals, default=0) > self._size:
            return False
        self._totals = totals
        return True

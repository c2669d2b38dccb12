"""Rotation: when the open segment is full or stale, for all backends together."""

import time
from collections.abc import Callable, Sequence

from sipdump_core.record import Record

__all__ = ["LONGEST_SHIFT", "Rotation", "next_on_the_clock"]

LONGEST_SHIFT = 3600
"""Seconds that a day may be longer than usual, when daylight saving time ends."""


class Rotation:
    """Decides when a segment is full or stale; it holds the numbers of the open segment, and no clock.

    Args:
        rotate: seconds that a segment may be open.
        size: bytes that the largest file of it may have, 0 for no limit.
        records: how many records it may hold, 0 for no limit.
        sizes: for each backend, a function that returns how many bytes each of some records takes in its file.
        preambles: for each backend, a function that returns how many bytes its file begins with.
        align: whether segments end on the clock, see :func:`next_on_the_clock`.
    """

    def __init__(
        self,
        rotate: int,
        size: int = 0,
        records: int = 0,
        sizes: Sequence[Callable[[Sequence[Record]], Sequence[int]]] = (),
        preambles: Sequence[Callable[[], int]] = (),
        *,
        align: bool = False,
    ) -> None:
        self._rotate = rotate
        self._size = size
        self._records = records
        self._sizes = sizes
        self._preambles = preambles or [lambda: 0] * len(sizes)
        self._align = align
        self.begin(0.0, 0.0)

    def begin(self, now: float, time_s: float) -> None:
        """Start counting for a segment that opens now.

        Args:
            now: monotonic seconds.
            time_s: the wall clock, seconds since the epoch.
        """
        self._deadline = now + self._rotate + (LONGEST_SHIFT if self._align else 0)
        self._end = next_on_the_clock(time_s, self._rotate) if self._align else 0.0
        self._count = 0
        self._totals = [preamble() for preamble in self._preambles] if self._size else []

    def due(self, now: float, time_s: float) -> float:
        """Return the seconds until the segment is stale, 0 or less if it is.

        Args:
            now: monotonic seconds: they limit the age of a segment, however the wall clock is set.
            time_s: the wall clock, seconds since the epoch.
        """
        due = self._deadline - now
        return min(due, self._end - time_s) if self._align else due

    def weigh(self, records: Sequence[Record]) -> Sequence[tuple[int, ...]]:
        """Return how many bytes each record takes in the file of each backend; nothing where that limits nothing."""
        return list(zip(*[sizes(records) for sizes in self._sizes], strict=True)) if self._size else ()

    def take(self, count: int, weights: Sequence[tuple[int, ...]] = ()) -> int:
        """Return how many of the next records still go into the open segment, and count them.

        The first record of a segment always goes in, however large it is.

        Args:
            count: how many there are.
            weights: what ``weigh`` returned for them.
        """
        limit = min(count, self._records - self._count) if self._records else count
        if weights:
            limit = self._fitting(weights[:limit])
        self._count += limit
        return limit

    def _fitting(self, weights: Sequence[tuple[int, ...]]) -> int:
        for at, sizes in enumerate(weights):
            totals = [total + size for total, size in zip(self._totals, sizes, strict=True)]
            if self._count + at and max(totals) > self._size:
                return at
            self._totals = totals
        return len(weights)


def next_on_the_clock(time_s: float, interval: int) -> int:
    """Return the first time after ``time_s`` at which the local clock shows a multiple of an interval.

    Multiples are counted from the start of 1970 by the local clock, so that those of an interval which divides the day
    are the same every day: an hour ends on the hour, 24 hours end at midnight. When daylight saving time begins, the
    clock may jump over a multiple of an interval that does not divide the day; then the next one counts, and
    :class:`Rotation` ends the segment an hour late, at most.

    Args:
        time_s: seconds since the epoch.
        interval: seconds.
    """
    now = int(time_s)
    offset = _offset(now)
    end = now + interval - (now + offset) % interval
    if _offset(end) != offset:
        change = _change(now, end)
        end = change + -(change + _offset(change)) % interval
    return end


def _offset(time_s: int) -> int:
    """Return the seconds that the local clock is ahead of UTC."""
    return time.localtime(time_s).tm_gmtoff


def _change(low: int, high: int) -> int:
    """Return the first time at which the offset is no longer that of ``low``; at ``high`` it is another one."""
    before = _offset(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(middle) == before else (low, middle)
    return high

"""Rotation and retention, once for all backends, over the backend interface alone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from sipdump_core import meta
from sipdump_core.backend import Backend
from sipdump_core.errors import SipDumpError
from sipdump_core.folder import FolderBackend
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment

__all__ = ["PRUNE_INTERVAL", "Pruned", "Rotation", "prune"]

PRUNE_INTERVAL = 600.0
"""Seconds between two prunes, as in Kamailio."""


class Rotation:
    """Says when a segment is full or stale; it holds the numbers of the open segment and no clock.

    Args:
        rotate: seconds that a segment may be open.
        size: bytes that the largest file of it may have, 0 for no limit.
        records: how many records it may hold, 0 for no limit.
        sizes: for each backend what gives the bytes that a record takes in its file.
        preambles: for each backend the bytes that its file begins with.
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
        """Give how many of these records, from the first, still go into the open segment, and count them.

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


@attrs.frozen
class Pruned:
    """What became of one segment that was due."""

    backend: str
    stored: StoredSegment
    error: SipDumpError | None = None
    """Why it is still there."""


def prune(
    backends: Iterable[Backend],
    fage: float,
    *,
    now: float | None = None,
    dry_run: bool = False,
) -> Iterator[Pruned]:
    """Delete the sealed segments whose last write is more than ``fage`` seconds ago, and yield each when it is gone.

    As in Kamailio, age is not taken from the name: that is the start, in local time of a zone that may not be ours.

    Args:
        backends: whose segments.
        fage: seconds.
        now: the time to count from, seconds since the epoch.
        dry_run: yield what is due, and delete nothing.

    Raises:
        StorageError: a store cannot be listed.
    """
    now = time.time() if now is None else now
    for backend in backends:
        deleted = set()
        for stored in backend.segments():
            if not stored.sealed or now - stored.modified <= fage:
                continue
            error = None
            if not dry_run:
                try:
                    backend.delete(stored)
                except SipDumpError as refusal:
                    error = refusal
            if error is None:
                deleted.add(stored.segment.stem)
            yield Pruned(backend.name, stored, error)
        if isinstance(backend, FolderBackend) and not dry_run:
            meta.sweep(backend.site.folder, backend.site.prefix, deleted, now - fage)

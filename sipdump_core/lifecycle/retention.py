"""Rotation and retention, once for all backends, over the backend interface alone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import DriverError, SipDumpError, kind_and_text
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.log import Event, log
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment

__all__ = [
    "PRUNE_INTERVAL",
    "Compacted",
    "PruneSummary",
    "Pruned",
    "Recovered",
    "Rotation",
    "Shipped",
    "Ships",
    "counted",
    "listed",
    "prune",
    "prune_all",
    "tell_pruned",
]

PRUNE_INTERVAL = 600.0
"""Seconds between two prunes, as in Kamailio."""
_CHUNK = 1000  # how many are deleted in one request where a store can do that; S3's limit


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


@attrs.frozen
class Shipped:
    """What became of one segment that waited in a spool."""

    stored: StoredSegment
    location: str = ""
    """Where it is now."""
    error: SipDumpError | None = None
    """Why it waits still."""


@runtime_checkable
class Ships(Protocol):
    """A backend whose segments wait in a spool for a store far away."""

    def unshipped(self) -> int:
        """Give the bytes that wait.

        Raises:
            StorageError: the spool cannot be listed.
        """

    def ship(self, progress: Callable[[int], None]) -> Iterator[Shipped]:
        """Try each segment once.

        Args:
            progress: is told how many bytes are done, again and again.

        Raises:
            StorageError: another process ships already, or the spool cannot be listed.
        """


@attrs.define
class PruneSummary:
    """What became of one backend's segments that were due."""

    backend: str
    segments: int = 0
    """How many are gone, or would be."""
    bytes: int = 0
    """How much they took."""
    errors: list[str] = attrs.field(factory=list)
    lifecycle: bool = True
    """False where the backend has no segments to prune: what it stores is kept by rules of its own."""


def listed(backend: Backend) -> Iterator[StoredSegment]:
    """List a backend's segments.

    Raises:
        StorageError: the store cannot be listed.
        DriverError: the driver raises anything else, or gives what is no segment.
    """
    try:
        for stored in backend.segments():
            _look_at(stored)
            yield stored
    except SipDumpError:
        raise
    except (Exception, SystemExit) as error:
        raise _fault(backend, "list", error) from error


def counted(backend: Backend, stored: StoredSegment) -> int:
    """Count a segment's records by reading them.

    Raises:
        StorageError: it cannot be read.
        DriverError: the driver raises anything else.
    """
    try:
        return sum(1 for _ in backend.read(stored))
    except SipDumpError:
        raise
    except (Exception, SystemExit) as error:
        raise _fault(backend, "read", error) from error


@attrs.frozen
class Recovered:
    """What became of one file that a crash left."""

    backend: str
    source: str
    """The file."""
    location: str = ""
    """Where its records are now; empty where it held none, or nothing was done."""
    records: int = 0
    damages: int = 0
    """At how many places it was damaged; a torn end is no damage."""
    lost: int = 0
    """Bytes at these places."""
    kept: str = ""
    """Where a damaged file is kept."""
    in_use: bool = False
    """Somebody holds it open, so that nothing was done."""
    error: SipDumpError | None = None
    """Why it is still there."""


@attrs.frozen
class Compacted:
    """What became of some segments that were merged into one."""

    backend: str
    partition: str
    """The hour of their starts in UTC, as ``date=2026-11-22/hour=23``."""
    sources: Sequence[StoredSegment]
    location: str = ""
    """Path or key of what they were merged into; empty in a dry run, and where it failed."""
    size_before: int = 0
    """Bytes of the sources."""
    size_after: int = 0
    """Bytes of the result, 0 in a dry run."""
    records: int | None = None
    error: SipDumpError | None = None
    """What failed: the merge (then ``location`` is empty), or the deletion of a source."""


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
        DriverError: a driver raises anything else.
    """
    now = time.time() if now is None else now
    for backend in backends:
        deleted = set()
        due = (stored for stored in listed(backend) if stored.sealed and now - stored.modified > fage)
        while chunk := list(islice(due, _CHUNK)):
            for stored, error in ((stored, None) for stored in chunk) if dry_run else _delete(backend, chunk):
                if error is None:
                    deleted.add(stored.segment.stem)
                yield Pruned(backend.name, stored, error)
        if isinstance(backend, FolderBackend) and not dry_run:
            meta.sweep(backend.site.folder, backend.site.prefix, deleted, now - fage)


def prune_all(
    backends: Iterable[Backend],
    fage: float,
    each: Callable[[Pruned], None],
    *,
    now: float | None = None,
    dry_run: bool = False,
) -> Iterator[PruneSummary]:
    """Prune backend after backend, whatever one of them raises, and yield a summary of each when it is done.

    Args:
        backends: whose segments.
        fage: seconds, see :func:`prune`.
        each: is called for each segment that was due.
        now: the time to count from, seconds since the epoch.
        dry_run: delete nothing.
    """
    for backend in backends:
        summary = PruneSummary(backend.name, lifecycle=backend.has_lifecycle())
        try:
            for pruned in prune([backend], fage, now=now, dry_run=dry_run):
                each(pruned)
                if pruned.error:
                    summary.errors.append(str(pruned.error))
                else:
                    summary.segments += 1
                    summary.bytes += pruned.stored.size
        except SipDumpError as error:
            summary.errors.append(str(error))
        yield summary


def tell_pruned(pruned: Pruned) -> None:
    """Log a segment that was pruned; what could not be stands in the summary."""
    if not pruned.error:
        stored = pruned.stored
        log.info(Event("segment pruned", backend=pruned.backend, name=stored.segment.name, bytes=stored.size))


def _delete(backend: Backend, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
    try:
        for stored, error in backend.delete_many(chunk):
            if not (isinstance(stored, StoredSegment) and (error is None or isinstance(error, SipDumpError))):
                raise TypeError(f"delete_many() gave {stored!r}, {error!r}")  # noqa: TRY301 - told as what else it raises
            yield stored, error
    except SipDumpError:
        raise
    except (Exception, SystemExit) as error:
        raise _fault(backend, "delete", error) from error


def _fault(backend: Backend, operation: str, error: BaseException) -> DriverError:
    origin = f" of {backend.site.distribution}" if backend.site.distribution else ""
    return DriverError(f"{operation}: the backend {backend.name}{origin} raised {kind_and_text(error)}")


def _look_at(stored: Any) -> None:
    """See whether what a driver lists is a segment.

    Raises:
        TypeError: it, or a field of it, is of another type.
        ValueError: its name has no time.
    """
    if not (
        isinstance(stored, StoredSegment)
        and isinstance(stored.segment, Segment)
        and isinstance(stored.size, int)
        and isinstance(stored.modified, (int, float))
        and isinstance(stored.records, (int, type(None)))
        and isinstance(stored.location, str)
    ):
        raise TypeError(f"segments() gave {stored!r}")
    _ = stored.segment.start

"""Retention, once for all backends, over the backend interface alone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import blaming, each_of, timely
from sipdump_core.drivers.metadata import OURS
from sipdump_core.errors import SipDumpError
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.log import Event, log
from sipdump_core.segment import Segment, StoredSegment, check_stamp

__all__ = ["PATIENCE", "PruneSummary", "Pruned", "answers", "counted", "listed", "log_pruned", "prune", "prune_all"]

T = TypeVar("T")

_OURS = f"{OURS} "
"""How the distribution of backends begins that end by time-outs of their own."""

PATIENCE = 15.0
"""Seconds without an answer after which a command goes on without a driver, unless its ``--timeout`` says otherwise."""

_CHUNK = 1000  # how many a store may delete in one request: S3's limit


@attrs.frozen
class Pruned:
    """What became of one segment that was due."""

    backend: str
    stored: StoredSegment
    error: SipDumpError | None = None
    """Why it is still there."""


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
    """False if the backend lists no segments: what it stores is kept by rules of its own."""


def listed(backend: Backend, patience: float | None = None) -> Iterator[StoredSegment]:
    """List a backend's segments.

    Args:
        backend: the backend.
        patience: seconds without an answer after which it is given up; None: never.

    Raises:
        StorageError: the store cannot be listed.
        DriverError: the driver raises anything else, yields what is no segment, or does not answer.
    """
    if _is_ours(backend):  # its tests check it, and folders may hold 100,000 files
        return each_of(backend, "list", backend.segments)
    return answers(backend, "list", lambda: map(_checked, backend.segments()), patience)


def counted(backend: Backend, stored: StoredSegment, patience: float | None = None) -> int:
    """Count a segment's records by reading them.

    Args:
        backend: the backend.
        stored: the segment.
        patience: seconds without an answer after which it is given up; None: never.

    Raises:
        StorageError: it cannot be read.
        DriverError: the driver raises anything else, or does not answer.
    """
    return sum(1 for _ in answers(backend, "read", lambda: backend.read(stored), patience))


def prune(
    backends: Iterable[Backend],
    fage: float,
    *,
    now: float | None = None,
    dry_run: bool = False,
    patience: float | None = None,
) -> Iterator[Pruned]:
    """Delete the sealed segments whose last write is more than ``fage`` seconds ago, and yield each when it is gone.

    As in Kamailio, age is not taken from the name: that is the start, in local time of a zone that may not be ours.

    Args:
        backends: whose segments.
        fage: seconds.
        now: the time to count from, seconds since the epoch.
        dry_run: yield what is due, and delete nothing.
        patience: seconds without an answer after which a driver is given up; None: never.

    Raises:
        StorageError: a store cannot be listed.
        DriverError: a driver raises anything else, or does not answer.
    """
    now = time.time() if now is None else now
    for backend in backends:
        deleted = set()
        due = (stored for stored in listed(backend, patience) if stored.sealed and now - stored.modified > fage)
        if dry_run:
            yield from (Pruned(backend.name, stored) for stored in due)
            continue
        while chunk := list(islice(due, _CHUNK)):
            for stored, error in _delete(backend, chunk, patience):
                if error is None:
                    deleted.add(stored.segment.stem)
                yield Pruned(backend.name, stored, error)
        if isinstance(backend, FolderBackend):
            meta.sweep(backend.site.folder, backend.site.prefix, deleted, now - fage)


def prune_all(
    backends: Iterable[Backend],
    fage: float,
    each: Callable[[Pruned], None],
    *,
    now: float | None = None,
    dry_run: bool = False,
    patience: float | None = None,
) -> Iterator[PruneSummary]:
    """Prune backend after backend, whatever one of them raises, and yield a summary of each when it is done.

    Args:
        backends: whose segments.
        fage: seconds, see :func:`prune`.
        each: is called for each segment that was due.
        now: the time to count from, seconds since the epoch.
        dry_run: delete nothing.
        patience: seconds without an answer after which a driver is given up; None: never.
    """
    for backend in backends:
        summary = PruneSummary(backend.name, lifecycle=backend.has_lifecycle())
        try:
            for pruned in prune([backend], fage, now=now, dry_run=dry_run, patience=patience):
                each(pruned)
                if pruned.error:
                    summary.errors.append(str(pruned.error))
                else:
                    summary.segments += 1
                    summary.bytes += pruned.stored.size
        except SipDumpError as error:
            summary.errors.append(str(error))
        yield summary


def log_pruned(pruned: Pruned) -> None:
    """Log a segment that was pruned; what could not be is in the summary."""
    if not pruned.error:
        stored = pruned.stored
        log.info(Event("segment pruned", backend=pruned.backend, name=stored.segment.name, bytes=stored.size))


def answers(backend: Backend, operation: str, call: Callable[[], Iterable[T]], patience: float | None) -> Iterator[T]:
    """Yield what a driver's call yields, but do not wait for ever for one of a third party.

    Args:
        backend: the backend.
        operation: what is done, for errors.
        call: does it.
        patience: seconds without an answer after which it is given up; None: never.

    Raises:
        SipDumpError: as it was raised.
        DriverError: the driver raises anything else, or does not answer.
    """
    if patience is None or _is_ours(backend):
        return each_of(backend, operation, call)
    return timely(backend, operation, call, patience)


def _is_ours(backend: Backend) -> bool:
    return backend.site.distribution.startswith(_OURS)


def _delete(
    backend: Backend, chunk: Sequence[StoredSegment], patience: float | None
) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
    for answer in answers(backend, "delete", lambda: backend.delete_many(chunk), patience):
        with blaming(backend, "delete"):
            stored, error = answer
            if not (isinstance(stored, StoredSegment) and (error is None or isinstance(error, SipDumpError))):
                raise TypeError(f"delete_many() yielded {stored!r}, {error!r}")
        yield stored, error


def _checked(stored: Any) -> StoredSegment:
    """Return what a driver lists, if it is a segment.

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
        and isinstance(stored.pending, str)
    ):
        raise TypeError(f"segments() yielded {stored!r}")
    check_stamp(stored.segment.stamp)
    return stored

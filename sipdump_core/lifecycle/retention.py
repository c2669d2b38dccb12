"""Retention, once for all backends, over the backend interface alone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import attrs

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import Rewrites, can
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import blaming, each_of, timely
from sipdump_core.drivers.metadata import OURS
from sipdump_core.drivers.rewriting import remove_drafts
from sipdump_core.errors import SipDumpError
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.lifecycle.holds import Held, held_in
from sipdump_core.lifecycle.rewriting import rewrite
from sipdump_core.log import Event, log
from sipdump_core.segment import Segment, StoredSegment, check_stamp

__all__ = [
    "PATIENCE", "PruneSummary", "Pruned", "age_text", "answers", "counted", "delete", "listed", "log_pruned", "prune",
    "prune_all",
]  # fmt: skip

T = TypeVar("T")

_OURS = f"{OURS} "
"""How the distribution of backends begins that end by time-outs of their own."""

PATIENCE = 15.0
"""Seconds without an answer after which a command goes on without a driver, unless its ``--timeout`` says otherwise."""

_THINNED: Cache[Any, bool] = Cache()
"""Segments of which nothing is left but what is held."""
_CHUNK = 1000  # how many a store may delete in one request: S3's limit


@attrs.frozen
class Pruned:
    """What became of one segment that was due."""

    backend: str
    stored: StoredSegment
    error: SipDumpError | None = None
    """Why it is still there."""
    why: str = ""
    """The rule and the age by which it was due."""
    holds: Sequence[str] = ()
    """The holds that keep something of it; what they do not keep is taken out."""
    removed: int | None = None
    """Of a segment that stays, how many records were taken out; None where it went as a whole."""

    @property
    def is_whole(self) -> bool:
        """Whether the whole segment goes."""
        return not self.holds


@attrs.define
class PruneSummary:
    """What became of one backend's segments that were due."""

    backend: str
    segments: int = 0
    """How many are gone, or would be."""
    bytes: int = 0
    """How much they took."""
    held: int = 0
    """How many stay, with what a hold keeps of them."""
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
        due = (stored for stored in listed(backend, patience) if stored.sealed and now - stored.modified > fage)
        deleted = set()
        for pruned in delete(backend, due, held_in(backend), dry_run=dry_run, patience=patience):
            age = age_text(now - pruned.stored.modified)
            if pruned.is_whole and not pruned.error:
                deleted.add(pruned.stored.segment.stem)
            yield attrs.evolve(pruned, why=f"fage {age_text(fage)}: written {age} ago")
        if isinstance(backend, FolderBackend) and not dry_run:
            remove_drafts(backend.site.folder, backend.site.prefix)
            meta.sweep(backend.site.folder, backend.site.prefix, deleted, now - fage)


def delete(
    backend: Backend,
    due: Iterable[StoredSegment],
    held: Held,
    *,
    dry_run: bool = False,
    patience: float | None = None,
) -> Iterator[Pruned]:
    """Delete segments, and yield each when it is gone; of what a hold keeps, only the rest goes.

    Args:
        backend: whose segments.
        due: they are sealed.
        held: what is held of the backend's segments.
        dry_run: yield what would be done, and do nothing.
        patience: seconds without an answer after which the driver is given up; None: never.

    Raises:
        StorageError: a segment cannot be searched for what is held.
        DriverError: the driver raises anything else, or does not answer.
    """
    due = iter(due)
    while chunk := list(islice(due, _CHUNK)):
        whole = []
        for stored in chunk:
            names = held.of(stored) if held else ()
            if names:
                yield from _thin(backend, stored, held, names, dry_run=dry_run)
            else:
                whole.append(stored)
        if dry_run:
            yield from (Pruned(backend.name, stored) for stored in whole)
        elif whole:
            yield from (Pruned(backend.name, stored, error) for stored, error in _delete(backend, whole, patience))


def _thin(
    backend: Backend, stored: StoredSegment, held: Held, names: Sequence[str], *, dry_run: bool
) -> Iterator[Pruned]:
    """Take out of a segment that is due what no hold keeps; nothing is yielded where that was done before."""
    pruned = Pruned(backend.name, stored, holds=names, removed=0)
    if dry_run or not can(type(backend), Rewrites):
        if dry_run:
            yield pruned
        return
    key = (stored.location, stored.size, stored.modified, held.ids)
    if key in _THINNED:
        return
    try:
        done = rewrite(backend, stored, held.change())
    except SipDumpError as error:
        yield attrs.evolve(pruned, error=error)
        return
    if done.removed:
        yield attrs.evolve(pruned, removed=done.removed)
    else:
        _THINNED.keep(key, True)


def age_text(seconds: float) -> str:
    """Return a span of time as people say it: ``3d4h``, ``12m``."""
    left, parts = int(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


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
                elif not pruned.is_whole:
                    summary.held += 1
                else:
                    summary.segments += 1
                    summary.bytes += pruned.stored.size
        except SipDumpError as error:
            summary.errors.append(str(error))
        yield summary


def log_pruned(pruned: Pruned) -> None:
    """Log a segment that was pruned; what could not be is in the summary."""
    stored = pruned.stored
    if pruned.error:
        return
    if pruned.is_whole:
        log.info(Event("segment pruned", backend=pruned.backend, name=stored.segment.name, bytes=stored.size))
    else:
        what = {"backend": pruned.backend, "name": stored.segment.name, "records": pruned.removed}
        log.info(Event("segment pruned but for what is held", **what, holds=", ".join(pruned.holds)))


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

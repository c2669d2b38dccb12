"""Erasing calls from all that a store holds: which they are, and the replace step for each segment that has them."""

import os
from collections.abc import Iterator, Sequence, Set
from typing import Any

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.rewriting import Change, remove_drafts
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.lifecycle.holds import held_in, matching
from sipdump_core.lifecycle.retention import listed
from sipdump_core.lifecycle.rewriting import rewrite
from sipdump_core.record import Record
from sipdump_core.segment import UNREADABLE, StoredSegment

__all__ = ["Erased", "erase", "found_in", "leavings"]


@attrs.frozen
class Erased:
    """What became of one segment that has calls to be erased."""

    backend: str
    stored: StoredSegment
    messages: int = 0
    """How many were taken out or masked, or would be."""
    deleted: bool = False
    """Nothing of it is left."""
    error: SipDumpError | None = None
    """Why they are still there."""


def found_in(backend: Backend, query: Query, patience: float) -> tuple[set[str], list[SipDumpError]]:
    """Return the Call-IDs of the calls with a message that is an answer, in all of a backend's segments.

    Args:
        backend: the backend.
        query: the question.
        patience: seconds without an answer after which a driver is given up.

    Returns:
        The Call-IDs, and why some segments cannot be searched.
    """
    found: set[str] = set()
    errors: list[SipDumpError] = []
    try:
        for stored in listed(backend, patience):
            if stored.pending == UNREADABLE:
                errors.append(StorageError("search", stored.location, "it cannot be read"))
                continue
            try:
                found.update(record.call_id or "" for record in matching(backend, stored, query))
            except SipDumpError as error:
                if not _is_gone(error):
                    errors.append(error)
    except SipDumpError as error:
        errors.append(error)
    return found - {""}, errors


def erase(
    backend: Backend, call_ids: Set[str], loose: Query | None, mask: Any, *, dry_run: bool, patience: float
) -> Iterator[Erased]:
    """Take calls out of all of a backend's segments, or mask them, and yield each that has them.

    Args:
        backend: the backend.
        call_ids: whose messages go.
        loose: messages without a Call-ID go where they are an answer to this.
        mask: see :class:`~sipdump_core.drivers.rewriting.Change`.
        dry_run: yield what would be done, and do nothing.
        patience: seconds without an answer after which a driver is given up.

    Raises:
        StorageError: the store cannot be listed.
        DriverError: a driver raises anything else, or does not answer.
    """
    held = held_in(backend)

    def goes(record: Record) -> bool:
        return loose is not None and loose.matches(record) and not held.keeps(record)

    change = Change(call_ids, also=goes if loose else None, mask=mask)
    deleted = set()
    if not dry_run:
        remove_drafts(backend.site.folder, backend.site.prefix)
    for stored in listed(backend, patience):
        try:
            count = sum(change.takes(record) for record in _suspects(backend, stored, call_ids, loose))
            if not count:
                continue
            if dry_run:
                yield Erased(backend.name, stored, count)
                continue
            done = rewrite(backend, stored, change)
        except SipDumpError as error:
            if not _is_gone(error):
                yield Erased(backend.name, stored, error=error)
            continue
        gone = not done.kept + done.masked
        if gone:
            deleted.add(stored.segment.stem)
        yield Erased(backend.name, stored, done.removed + done.masked, gone)
    if deleted and isinstance(backend, FolderBackend):
        meta.sweep(backend.site.folder, backend.site.prefix, deleted, 0.0)


def leavings(folders: Sequence[str], query: Query, call_ids: Set[str]) -> Iterator[str]:
    """Yield files that no backend reads, and that have something of what is erased: damaged and unfinished ones.

    Args:
        folders: where to look.
        query: what was asked for; the literals of it are looked for, byte for byte.
        call_ids: the calls.
    """
    needles = [*query.needles, *(call_id.encode("utf-8", "surrogateescape") for call_id in call_ids)]
    for folder in folders:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            aside = ".damaged" in name or name.endswith(".spool") or os.path.basename(folder) == "quarantine"
            if aside and os.path.isfile(path) and _has_any(path, needles):
                yield path


def _has_any(path: str, needles: Sequence[bytes]) -> bool:
    longest = max(map(len, needles), default=0)
    try:
        with open(path, "rb") as file:
            before = b""
            while chunk := file.read(1 << 20):
                data = before + chunk
                if any(needle in data for needle in needles):
                    return True
                before = data[-longest:]
    except OSError:
        return True  # nobody can say
    return False


def _suspects(backend: Backend, stored: StoredSegment, call_ids: Set[str], loose: Query | None) -> Iterator[Record]:
    """Yield the messages of a segment that a change may take, each once."""
    if call_ids:
        yield from matching(backend, stored, Query(call_ids=call_ids))
    if loose:
        yield from (record for record in matching(backend, stored, loose) if record.call_id is None)


def _is_gone(error: SipDumpError) -> bool:
    return isinstance(error, StorageError) and (error.of_absence or isinstance(error.__cause__, FileNotFoundError))

"""Compaction, once for all stores whose segments can be merged: what is merged, and in which order of steps.

The order makes a crash at any moment harmless::

    delete the sources that an earlier compaction left    it says in each result which those are
    merge small segments of one hour into a draft         a crash leaves a draft that the next run removes;
                                                          a draft larger than its sources is dropped
    publish the draft under a free name                   readers see rows twice from here on
    delete the sources                                    a crash here: the next run deletes them

A store supplies the single steps, as :class:`Compaction` names them.
"""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Generic, TypeVar

import attrs

from sipdump_core.drivers.capabilities import Compacted
from sipdump_core.drivers.rewriting import alone
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.log import Event, log
from sipdump_core.segment import StoredSegment

__all__ = ["Candidate", "Compaction", "Contents", "Draft", "is_within", "packs"]

T = TypeVar("T")


@attrs.frozen
class Candidate:
    """A sealed segment that may be merged with others of its hour."""

    stored: StoredSegment
    hour: str
    """The hour of its start in UTC, as ``date=2026-11-22/hour=23``."""
    name: str
    """What a result calls it among its sources; no two of an hour have the same."""
    busy: bool = False
    """It is not to be merged now."""


C = TypeVar("C", bound=Candidate)


@attrs.frozen
class Contents:
    """What a segment says about itself."""

    kind: Hashable = None
    """Only segments of equal kind are merged."""
    merged: Mapping[str, str] = attrs.field(factory=dict)
    """The names of what it was merged from, each with a digest of its content."""
    error: SipDumpError | None = None
    """It is broken, and left alone."""


@attrs.frozen
class Draft:
    """What a merge made, before it has its name."""

    path: str
    records: int
    publish: Callable[[], str]
    """Stores it durably under a free name that follows the last source's, and returns its location."""


class Compaction(ABC, Generic[C]):
    """Merges small segments. A subclass supplies the steps in which stores differ.

    Args:
        backend: the backend's name.
        folder: whose lock keeps two compactions apart.
    """

    most = 0
    """How many segments may be merged into one; 0 for any number."""

    def __init__(self, backend: str, folder: str) -> None:
        self.backend = backend
        self.folder = folder

    @abstractmethod
    def candidates(self) -> Iterable[C]:
        """List the sealed segments, oldest first."""

    @abstractmethod
    def contents(self, candidate: C) -> Contents:
        """Look into a segment.

        Raises:
            SipDumpError: it cannot be read now. As it may be the result of an earlier compaction, whose sources would
                be merged twice, its whole hour is left alone.
        """

    @abstractmethod
    def holds(self, candidate: C, digest: str) -> bool:
        """Return whether a segment has this content: another may have taken a source's name later."""

    @abstractmethod
    def draft(self, pack: Sequence[C]) -> contextlib.AbstractContextManager[Draft]:
        """Merge segments into a file that is removed at the end of the context."""

    @abstractmethod
    def delete(self, sources: Sequence[C]) -> Iterator[tuple[C, SipDumpError | None]]:
        """Delete segments, and yield each with why it is still there, if it is."""

    @abstractmethod
    def remove_drafts(self) -> None:
        """Remove what a crash left of a merge. Nobody else compacts meanwhile."""

    def run(
        self, *, target_size: int, min_age: float, partition: str, dry_run: bool, now: float
    ) -> Iterator[Compacted]:
        """Merge, and yield what became of each group.

        Args:
            target_size: bytes; larger segments are left alone, and no more is put together than this.
            min_age: seconds since a segment's last write, or it is left alone.
            partition: only this one, as ``date=2026-11-22/hour=23`` or ``date=2026-11-22``; empty: all.
            dry_run: yield what would be done, and do nothing.
            now: the time to count from, seconds since the epoch.

        Raises:
            StorageError: the store cannot be listed, or another compaction is under way there.
        """
        with alone(self.folder, "compact"):
            if not dry_run:
                self.remove_drafts()
            listed = sorted(self.candidates(), key=lambda each: each.hour)
            for hour, group in groupby(listed, lambda each: each.hour):
                there = list(group)
                if not is_within(hour, partition) or len(there) < 2:
                    continue
                try:
                    contents = {each.name: self.contents(each) for each in there}
                    left, refusals = self._finish_earlier(there, contents, dry_run=dry_run)
                except SipDumpError as error:
                    yield self._failed(there, error)
                    continue
                yield from refusals
                small = [
                    each
                    for each in left
                    if each.stored.size < target_size and now - each.stored.modified >= min_age and not each.busy
                ]
                for alike in _by_kind(small, contents):
                    for pack in packs(alike, target_size, lambda each: each.stored.size, most=self.most):
                        yield from self._compact_whole(pack, dry_run=dry_run)

    def _finish_earlier(
        self, there: Sequence[C], contents: Mapping[str, Contents], *, dry_run: bool
    ) -> tuple[list[C], list[Compacted]]:
        """Delete the sources of earlier compactions that are still there.

        Returns:
            The segments without them and without broken ones, and what failed. A result with a source that stays is
            left out, too: merged again, it would no longer tell what the source belongs to.
        """
        left = {each.name: each for each in there}
        failed = []
        for each in there:
            found = contents[each.name]
            if found.error:
                failed.append(self._failed([each], found.error))
                left.pop(each.name, None)
            sources = [left[name] for name, digest in found.merged.items() if self._is(left.get(name), digest)]
            for source in sources:
                del left[source.name]
                for _, refusal in () if dry_run else self.delete([source]):
                    if refusal:
                        failed.append(self._failed([source], refusal))
                        left.pop(each.name, None)
                    else:
                        log.info(Event("source of an earlier compaction deleted", location=source.stored.location))
        return list(left.values()), failed

    def _is(self, candidate: C | None, digest: str) -> bool:
        return candidate is not None and self.holds(candidate, digest)

    def _compact_whole(self, pack: Sequence[C], *, dry_run: bool) -> Iterator[Compacted]:
        """Merge segments but for those that turn out to be broken meanwhile: these hold up no others."""
        while True:
            done = self._compact(pack, dry_run=dry_run)
            if done is None:
                return
            broken = [each for each in pack if not done.location and _is_about(done.error, each)]
            if not broken or len(pack) - len(broken) < 2:
                yield done
                return
            yield attrs.evolve(done, sources=[each.stored for each in broken], size_before=broken[0].stored.size)
            pack = [each for each in pack if each not in broken]

    def _compact(self, pack: Sequence[C], *, dry_run: bool) -> Compacted | None:
        """Merge segments; None if the result would be larger, and they are left as they are."""
        sources = [each.stored for each in pack]
        result = Compacted(self.backend, pack[0].hour, sources, size_before=sum(stored.size for stored in sources))
        if dry_run:
            return result
        try:
            with self.draft(pack) as draft:
                size = os.stat(draft.path).st_size
                if size > result.size_before:
                    event = "segments are not merged: the result would be larger"
                    log.warning(Event(event, names=[each.name for each in pack], before=result.size_before, after=size))
                    return None
                location = draft.publish()
        except SipDumpError as error:
            return attrs.evolve(result, error=error)
        except OSError as error:
            return attrs.evolve(result, error=StorageError.from_os("compact", self.folder, error))
        result = attrs.evolve(result, location=location, size_after=size, records=draft.records)
        for _, refusal in self.delete(pack):
            if refusal:  # the next compaction tries again
                result = attrs.evolve(result, error=refusal)
        return result

    def _failed(self, there: Sequence[C], error: SipDumpError) -> Compacted:
        sources = [each.stored for each in there]
        size = sum(stored.size for stored in sources)
        return Compacted(self.backend, there[0].hour, sources, size_before=size, error=error)


def _is_about(error: SipDumpError | None, candidate: Candidate) -> bool:
    return isinstance(error, StorageError) and error.target == candidate.stored.location


def is_within(hour: str, partition: str) -> bool:
    """Return whether an hour's partition is the one to work on, or is below it; with an empty one, every hour is."""
    return not partition or f"{hour}/".startswith(f"{partition.strip('/')}/")


def packs(items: Iterable[T], limit: int, size: Callable[[T], int], most: int = 0) -> Iterator[list[T]]:
    """Put neighbors together for a compaction, at least two each.

    Args:
        items: in their order.
        limit: bytes that a pack may have.
        size: returns the bytes of an item.
        most: how many items a pack may have; 0 for any number.
    """
    pack: list[T] = []
    for item in items:
        if pack and (sum(map(size, pack)) + size(item) > limit or len(pack) == most):
            if len(pack) > 1:
                yield pack
            pack = []
        pack.append(item)
    if len(pack) > 1:
        yield pack


def _by_kind(candidates: Iterable[C], contents: Mapping[str, Contents]) -> Iterable[list[C]]:
    kinds: dict[Hashable, list[C]] = {}
    for each in candidates:
        kinds.setdefault(contents[each.name].kind, []).append(each)
    return kinds.values()

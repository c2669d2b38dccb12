"""What a backend can do beyond writing: one protocol for each ability, and :func:`can`, the one way to ask for it.

A backend has an ability when it has the methods that the protocol names, of its own: what :class:`Backend` and
:class:`FolderBackend` have in their place, marked by :func:`needs`, does not count.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, ClassVar, Protocol, TypeGuard, TypeVar

import attrs

from sipdump_core.drivers.query import Query
from sipdump_core.drivers.rewriting import Change, Rewritten
from sipdump_core.errors import SipDumpError
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment

__all__ = [
    "Ability",
    "Capped",
    "Compacted",
    "Compacts",
    "Dates",
    "Deletes",
    "DescribesFiles",
    "Follows",
    "Lists",
    "Located",
    "Marks",
    "Merges",
    "Opens",
    "Reads",
    "Recovered",
    "Recovers",
    "Rewrites",
    "Searches",
    "SearchesFiles",
    "Shipped",
    "Ships",
    "Spans",
    "Unites",
    "can",
    "needs",
]

A = TypeVar("A", bound="Ability")
F = TypeVar("F", bound=Callable[..., object])


class Ability(Protocol):
    """What every backend has, whatever else it can do."""

    name: ClassVar[str]


class Opens(Ability, Protocol):
    """It stores in segments, which begin and end."""

    def open(self, segment: Segment) -> None:
        """See :meth:`sipdump_core.Backend.open`."""

    def close(self) -> None:
        """See :meth:`sipdump_core.Backend.close`."""


class Lists(Ability, Protocol):
    """Its segments can be listed, and so pruned: it has a lifecycle."""

    def segments(self) -> Iterable[StoredSegment]:
        """See :meth:`sipdump_core.Backend.segments`."""


class Located(Ability, Protocol):
    """Its segments are elsewhere than in the configured folder."""

    def where(self) -> str:
        """Return where, in a line for people: an address, and how the names there begin."""


class Capped(Ability, Protocol):
    """Its store, which is elsewhere, may hold only so much; the oldest segments go first."""

    @property
    def cap(self) -> int:
        """How many bytes its sealed segments may take; 0: no limit."""


class Deletes(Ability, Protocol):
    """Its sealed segments can be deleted."""

    def delete(self, stored: StoredSegment) -> None:
        """See :meth:`sipdump_core.Backend.delete`."""


class Reads(Ability, Protocol):
    """Its segments can be read again."""

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """See :meth:`sipdump_core.Backend.read`."""


class Rewrites(Ability, Protocol):
    """Its sealed segments can be replaced by ones without some of their records, see :mod:`.rewriting`."""

    def rewrite(self, stored: StoredSegment, change: Change) -> Rewritten:
        """Take records out of a sealed segment, or mask them, at once for all readers; delete it where none is left.

        Its name, and the time that retention counts from, stay. If it fails, or is killed, the segment is as it was.

        Raises:
            StorageError: it cannot be rewritten, or is in use.
        """


class Marks(Ability, Protocol):
    """Its segments can bear a mark that they are held, for rules of the store itself."""

    def mark_held(self, stored: StoredSegment, *, held: bool) -> bool:
        """Set the mark of a segment, or take it away; return whether it was changed.

        Raises:
            StorageError: the store knows no marks, or refuses.
        """


class Searches(Ability, Protocol):
    """It finds the answer to a question more cheaply than by reading all of a segment."""

    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        """Yield the records of a segment for which ``query.matches`` is true: neither more nor less.

        They may come in any order, but those of one Call-ID come as :meth:`sipdump_core.Backend.read` yields them.

        Raises:
            StorageError: it cannot be read.
        """


class SearchesFiles(Ability, Protocol):
    """It finds the answer to a question in an open file, wherever that is, by reading only what it needs."""

    def search_file(self, file: BinaryIO, query: Query) -> Iterator[Record]:
        """Yield a segment file's records, as :meth:`Searches.search` does.

        Args:
            file: can seek. One that lies elsewhere has ``remote``, which is true, and ``identity``, which another file
                or another content does not have.
            query: the question.

        Raises:
            StorageError: it cannot be read.
        """


class Follows(Ability, Protocol):
    """A segment that still grows can be read on from where an earlier call ended, also when it is sealed meanwhile."""

    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        """Return the records that are whole by now, behind a place, and the place behind them.

        Args:
            stored: the segment.
            place: what an earlier call returned; 0 for the start, -1 for the end as it is now.

        Returns:
            Some of the records, in order, and where to go on. There are none where the segment has not grown, and for
            the place -1.

        Raises:
            StorageError: it cannot be read, or is gone.
        """


class Unites(Ability, Protocol):
    """Its segments may be results of a compaction, and say of which others."""

    def united(self, stored: StoredSegment) -> Sequence[Segment]:
        """Return the segments whose records a segment holds, down to the first ones; none, where it was not merged.

        Raises:
            StorageError: it cannot be read.
        """


class Dates(Ability, Protocol):
    """It knows the times of a segment's records without reading them."""

    def newest(self, stored: StoredSegment) -> int | None:
        """Return the time of the newest record, microseconds since the epoch; None where it would have to be read.

        Raises:
            StorageError: it cannot be read.
        """


class DescribesFiles(Ability, Protocol):
    """Its files say what they hold, wherever they are.

    Args of all methods: an open file, see :class:`SearchesFiles`. They raise StorageError if it cannot be read.
    """

    def united_in(self, file: BinaryIO) -> Sequence[str]:
        """Return the names of the segments that a file holds, down to the first ones, as :class:`Unites` says."""

    def newest_in(self, file: BinaryIO) -> int | None:
        """Return the time of a file's newest record, as :class:`Dates` says."""


class Spans(Ability, Protocol):
    """Its store holds what other collectors stored, too."""

    def segments_of_all(self) -> Iterator[tuple[str, StoredSegment]]:
        """Yield the collector's name and the segment of all that is stored below the store's root.

        ``read`` and what else the backend can do takes them, whatever their prefix and suffix.

        Raises:
            StorageError: the store cannot be listed.
        """


class Merges(Ability, Protocol):
    """A backend of files that makes one sealed file of several."""

    def merge(self, paths: Sequence[str], target: str) -> int:
        """See :meth:`sipdump_core.FolderBackend.merge`."""


@attrs.frozen
class Shipped:
    """What became of one segment that waited in a spool."""

    stored: StoredSegment
    location: str = ""
    """Where it is now."""
    error: SipDumpError | None = None
    """Why it still waits."""


class Ships(Ability, Protocol):
    """Its segments wait in a spool until a remote store has them."""

    def unshipped(self) -> int:
        """Return how many bytes wait.

        Raises:
            StorageError: the spool cannot be listed.
        """

    def ship(self, progress: Callable[[int], None]) -> Iterator[Shipped]:
        """Try each segment once.

        Args:
            progress: is called with the number of bytes done since its last call.

        Raises:
            StorageError: another process is shipping already, or the spool cannot be listed.
        """


@attrs.frozen
class Recovered:
    """What became of one file that a crash left."""

    backend: str
    source: str
    """The file."""
    location: str = ""
    """Where its records are now; empty if it held none, or nothing was done."""
    records: int = 0
    damages: int = 0
    """How many places in it were damaged; a torn end is no damage."""
    lost: int = 0
    """Bytes lost at these places."""
    kept: str = ""
    """Where a damaged file is kept."""
    in_use: bool = False
    """A process has it open, so nothing was done."""
    error: SipDumpError | None = None
    """Why it is still there."""


class Recovers(Ability, Protocol):
    """It finishes what a crash left unfinished."""

    def recover(self) -> Iterator[Recovered]:
        """Yield what became of each file that a crash left.

        Raises:
            StorageError: the store cannot be listed.
        """


@attrs.frozen
class Compacted:
    """What became of some segments that were merged into one."""

    backend: str
    partition: str
    """The hour of their starts in UTC, as ``date=2026-11-22/hour=23``."""
    sources: Sequence[StoredSegment]
    location: str = ""
    """Path or key of the merged segment; empty in a dry run, and if the merge failed."""
    size_before: int = 0
    """Bytes of the sources."""
    size_after: int = 0
    """Bytes of the result, 0 in a dry run."""
    records: int | None = None
    error: SipDumpError | None = None
    """What failed: the merge (then ``location`` is empty), or the deletion of a source."""


class Compacts(Ability, Protocol):
    """It merges small sealed segments of one hour."""

    def compact(
        self,
        *,
        target_size: int = ...,
        min_age: float | None = None,
        partition: str = "",
        dry_run: bool = False,
        now: float | None = None,
    ) -> Iterator[Compacted]:
        """Merge, and yield what became of each group.

        Args:
            target_size: bytes; larger segments are left alone, and no result is planned larger than this.
            min_age: seconds since a segment's last write, or it is left alone; by default twice ``rotate``.
            partition: only this one, as ``date=2026-11-22/hour=23`` or ``date=2026-11-22``, in UTC; empty: all.
            dry_run: yield what would be done, and do nothing.
            now: the time to count from, seconds since the epoch.

        Raises:
            StorageError: the store cannot be listed, or another compaction is running there.
        """


def can(backend: object, ability: type[A]) -> TypeGuard[A]:
    """Return whether a backend, or a class of backends, has an ability.

    Args:
        backend: the backend or its class.
        ability: a protocol of this module, or another one of the same form.
    """
    methods = [name for protocol in ability.__mro__ for name in vars(protocol) if not name.startswith("_")]
    return all(_has(backend, name) for name in methods)


def needs(*names: str) -> Callable[[F], F]:
    """Mark a method of a base class as usable only in a class that overrides the methods named, itself included."""

    def mark(method: F) -> F:
        method.needs = names  # type: ignore[attr-defined]  # functions take attributes
        return method

    return mark


def _has(backend: object, name: str) -> bool:
    method = getattr(backend, name, None)
    wanted: Sequence[str] = getattr(method, "needs", ())
    return method is not None and all(other != name and _has(backend, other) for other in wanted)

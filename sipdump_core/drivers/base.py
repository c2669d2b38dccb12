"""What a driver is: a backend that stores records, a filter before all of them, or a transform of their bytes.

A driver is a class named by an entry point of the group ``sipdump.backends``. It declares its name, its mode flag,
its suffix and an attrs class of options. A backend is two small roles in one object, a writer of segments
(``open``, ``write``, ``flush``, ``close``) and a store of them (``segments``, ``read``, ``delete``). Rotation and
retention are the core's: a backend never looks at the clock for them. A connection, or work in the background,
begins in ``start`` and ends in ``stop``. What else a backend can do is in :mod:`sipdump_core.drivers.capabilities`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.capabilities import Lists, can, needs
from sipdump_core.errors import ConfigError, SipDumpError, StorageError
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment

__all__ = ["API_VERSION", "Backend", "Filter", "NoOptions", "Site", "Transform"]

API_VERSION = 2
"""Version of this interface; a driver names the one that it was made for in ``api``. All versions up to it run."""


@attrs.frozen
class NoOptions:
    """The options of a driver that has none."""


def _make_nothing(name: str, _: "Site") -> "Backend":
    raise ConfigError(f"no backend {name!r} can be made here")


@attrs.frozen
class Site:
    """Where a backend stores, from the core's parameters."""

    folder: str
    prefix: str
    """What names of segments begin with (``fprefix``)."""
    file_mode: int = 0o640
    """Permission bits of new files."""
    meta: Callable[[], str] = str
    """Returns the process table as the text of a ``.meta`` file, as far as it is known now."""
    transforms: Sequence["Transform"] = ()
    """They rewrite the records' bytes, for backends that are ``transformed``."""
    rotate: float = 7200.0
    """Seconds that a segment may be open; no segment ends later than this after its start."""
    distribution: str = ""
    """The distribution, with its version, that the driver came from; for logs."""
    make: "Callable[[str, Site], Backend]" = _make_nothing
    """Makes the backend of another driver, given its name and a site, for one that stores through it.

    It raises :class:`~sipdump_core.errors.ConfigError` if there is none of that name.
    """
    sync: float = 0.0
    """Seconds between two syncs of an open file to the disk; 0: left to the kernel."""
    node: str = ""
    """The name of this collector, for stores that several share: the parameter ``node``, or the host's name."""


class Backend:
    """Base of all backends. Only ``write`` must be written; the other methods have defaults. docs/backends.md has all.

    The constructor keeps what it is given and touches no store: instances are made also to list, to prune and to check
    a configuration. One thread at a time calls ``start``, then ``open``, ``write``, ``flush`` and ``close``, segment
    after segment, then ``stop``. Meanwhile another thread or process may call ``segments``, ``read`` and ``delete`` on
    an instance that was never started.

    Whatever ``write`` raises, the same batch comes again, for as long as the backlog lasts. If only some records of it
    cannot be stored, they go to the dead letter: at once where :class:`~sipdump_core.errors.RecordError` names them,
    else when they were tried one by one, and failed while others were stored.

    Args:
        options: an instance of the class's ``options``.
        site: folder, prefix and file mode.

    Raises:
        ConfigError: from the constructor, if options contradict each other or one is missing.
    """

    name: ClassVar[str] = ""
    """Short name; options are ``modparam("sipdump_<name>", ...)``."""
    flag: ClassVar[int] = 0
    """Mode flag, a power of two; third parties take 256 or more, or 0 to be switched on by name only."""
    suffix: str = ""
    """What names of its segments end with, with the dot; the constructor may set another one for an instance."""
    options: ClassVar[type[Any]] = NoOptions
    api: ClassVar[int] = 1
    """Version of this interface that it was made for."""
    transformed: ClassVar[bool] = False
    """Whether it stores what ``bufs`` returns, with the transforms (the P-KSR-SIPDump header) applied."""
    loses: ClassVar[Sequence[str]] = ()
    """Fields of a record that it cannot store, as ``"node"``; ``read`` returns any value for them."""
    longest: ClassVar[int] = 0
    """Bytes of the longest message that it keeps whole; longer ones are cut. 0: no limit."""
    forgeable: ClassVar[bool] = False
    """Whether a message may hold what is read back as a record; then another backend is read where there is one."""
    remote: ClassVar[bool] = False
    """Whether its segments are elsewhere, so that reading them costs more than reading files."""
    stop_seconds: float = 5.0
    """Seconds that ``close`` or ``stop`` may take when all ends; who takes longer is left behind."""
    requires: ClassVar[Sequence[str]] = ()
    """Modules that it imports only when it works; they are looked for when it is switched on."""
    batch_records: int = 0
    """How many records a batch may have, and with ``batch_seconds`` should have; 0: as they come.

    The constructor may set another number for an instance, as from an option.
    """
    batch_seconds: float = 0.0
    """How many seconds the first record of a batch waits for others; 0: it does not wait."""

    def __init__(self, options: Any, site: Site) -> None:
        self.opts = options
        self.site = site

    def bufs(self, batch: Sequence[Record]) -> Sequence[bytes]:
        """Return the bytes to store of each record, with the site's transforms applied."""
        bufs: Sequence[bytes] = [record.buf for record in batch]
        for transform in self.site.transforms:
            bufs = transform.apply(batch, bufs)
        return bufs

    def start(self) -> None:
        """Connect, begin threads, take up what a crash left; called again after it raised."""

    def stop(self) -> None:
        """End what ``start`` began."""

    def health(self) -> str:
        """Return what is wrong with the work in the background, in one line, or ""; called from any thread."""
        return ""

    @needs("open")
    def open(self, segment: Segment) -> None:
        """Begin a segment; raise SegmentExistsError if the name is taken, and the next one is tried."""

    def write(self, batch: Batch) -> None:
        """Store a batch of at least one record: all of it, or nothing and raise.

        Raises:
            RecordError: the records that it names will never be stored; they go to the dead letter.
            PartialWriteError: the records that it names are not stored; they come again.
            StorageError: nothing of the batch is stored; it comes again.
        """
        raise NotImplementedError(f"{type(self).__name__} has no write()")

    def flush(self) -> None:
        """Make what was written visible to readers. A spool keeps what was written until this has returned."""

    def check(self) -> None:
        """Look whether the open segment is still good; called twice a second while one is open, between other calls.

        Raises:
            SegmentLostError: it is gone; what it held no longer counts as stored.
            StorageError: what follows must go into another segment.
        """

    @needs("close")
    def close(self) -> None:
        """Seal the open segment, if there is one: it never changes again."""

    def record_size(self, record: Record) -> int:
        """Return how many bytes a record takes in a segment, at most; ``rotate_size`` counts them. From any thread."""
        return len(record.buf) + 256

    @needs("segments")
    def segments(self) -> Iterable[StoredSegment]:
        """List the segments of this site's prefix, open ones too; without it, a backend has no lifecycle."""
        return ()

    @classmethod
    def has_lifecycle(cls) -> bool:
        """Return whether its segments can be listed, and so pruned; not to be overridden."""
        return can(cls, Lists)

    @needs("read")
    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """Yield a segment's records again, in order, up to a torn tail."""
        raise StorageError("read", stored.location, f"the backend {self.name} cannot read its segments back")

    @needs("delete")
    def delete(self, stored: StoredSegment) -> None:
        """Delete a sealed segment; one that is gone is no error, one that is open is a StorageError."""
        raise StorageError("delete", stored.location, f"the backend {self.name} deletes nothing")

    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        """Delete up to 1,000 sealed segments; yield each with None, or with the error that kept it."""
        for stored in chunk:
            error = None
            try:
                self.delete(stored)
            except SipDumpError as refusal:
                error = refusal
            yield stored, error

    def forget(self) -> None:
        """In a forked child: let go of what is open without closing it; it belongs to the parent."""

    def stats(self) -> Mapping[str, int]:
        """Return counters of its own; called from any thread."""
        return {}


class Transform:
    """Turns the bytes of records into other bytes, for the backends that ask for it (``transformed``).

    Its methods may be called from several threads at once.

    Args:
        options: an instance of the class's ``options``.
    """

    name: ClassVar[str] = ""
    flag: ClassVar[int] = 0
    options: ClassVar[type[Any]] = NoOptions
    api: ClassVar[int] = 1

    def __init__(self, options: Any) -> None:
        self.opts = options

    def apply(self, batch: Sequence[Record], bufs: Sequence[bytes]) -> Sequence[bytes]:
        """Return the bytes to store instead of ``bufs``, one for each record of ``batch``."""
        raise NotImplementedError(f"{type(self).__name__} has no apply()")


class Filter:
    """Rewrites or drops records before anything else sees them: no backend, write-ahead file, spool or live view.

    It fails closed. A start without it is refused, and where ``apply`` raises, takes too long, or returns what it must
    not, the records of that call are dropped and counted. None is ever stored as it came.

    Its methods may be called from several threads at once. The constructor may read what its options name, a key for
    instance, but changes nothing.

    Args:
        options: an instance of the class's ``options``.

    Raises:
        ConfigError: from the constructor, if options contradict each other, or what they name cannot be read.
    """

    name: ClassVar[str] = ""
    """Short name; options are ``modparam("sipdump_<name>", ...)``."""
    flag: ClassVar[int] = 0
    """Mode flag, a power of two; third parties take 256 or more, or 0 to be switched on by name only."""
    options: ClassVar[type[Any]] = NoOptions
    api: ClassVar[int] = 1
    """Version of this interface that it was made for."""
    before_route: bool = True
    """Whether the event route sees what it returns; else the route sees the records as they came."""
    prompt: ClassVar[bool] = False
    """Whether ``apply`` never waits, for a network, a disk or a lock, and takes time in proportion to the records.

    Then it runs in the thread that brings the records. Otherwise it has a thread of its own, and is given up on after
    ``seconds``."""
    seconds: float = 5.0
    """How long ``apply`` may take for a batch; then its records are dropped."""

    def __init__(self, options: Any) -> None:
        self.opts = options

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return what is to be stored instead of ``records``: each as it is or rewritten, without those to be dropped.

        The result depends on nothing but the records, keeps their order, and is the same when it is filtered again: an
        event route may store a record that went through once more.

        Args:
            records: one or more; neither the sequence nor a record may be changed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no apply()")

    def stats(self) -> Mapping[str, int]:
        """Return counters of its own; called from any thread."""
        return {}

"""What a driver is: a backend that stores records, or a transform that rewrites them on their way there.

A driver is a class named by an entry point of the group ``sipdump.backends``. It declares its name, its mode flag,
its suffix and an attrs class of options. A backend is two small roles in one object, a writer of segments
(``open``, ``write``, ``flush``, ``close``) and a store of them (``segments``, ``read``, ``delete``). Rotation and
retention are the core's: a backend never looks at the clock for them. What needs a connection, or works in the
background, begins it in ``start`` and ends it in ``stop``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from sipdump_core.errors import ConfigError, SipDumpError, StorageError
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment

__all__ = ["API_VERSION", "Backend", "NoOptions", "Site", "Transform"]

API_VERSION = 1
"""Version of this interface; a driver states the one that it was made for in ``api``."""


@attrs.frozen
class NoOptions:
    """The options of a driver that has none."""


def _make_nothing(name: str, site: "Site") -> "Backend":  # noqa: ARG001 - the form of Site.make
    raise ConfigError(f"no backend {name!r} can be made here")


@attrs.frozen
class Site:
    """Where a backend stores, as the core's parameters say it."""

    folder: str
    prefix: str
    """What names of segments begin with (``fprefix``)."""
    file_mode: int = 0o640
    """Permission bits of new files."""
    meta: Callable[[], str] = str
    """Gives the process table in the format of ``.meta`` files, as far as it is known now."""
    transforms: Sequence["Transform"] = ()
    """What rewrites the records' bytes; only for backends that are ``transformed``."""
    rotate: float = 7200.0
    """Seconds that a segment may be open; no segment ends later than this after its start."""
    distribution: str = ""
    """The distribution, with its version, that the driver came from; for logs."""
    make: "Callable[[str, Site], Backend]" = _make_nothing
    """Makes the backend of another driver, given its name and a site, for one that stores through it.

    It raises :class:`~sipdump_core.errors.ConfigError` where there is none of that name.
    """


class Backend:
    """Base of all backends. Only ``write`` must be written; the rest has defaults that do nothing.

    The constructor keeps what it is given and touches no store: instances are made also to list and to prune, and to
    check a configuration. One thread at a time calls ``start``, then ``open``, ``write``, ``flush`` and ``close``, in
    that order, for segment after segment, then ``stop``. ``segments``, ``read`` and ``delete`` may be called from
    another thread or process meanwhile, on an instance that was never started.

    A call may take its time and may raise: the other backends go on. What raises
    :class:`~sipdump_core.errors.StorageError` (or ``OSError``) is tried again, with the same batch, for as long as the
    backlog lasts; any other exception of ``write`` a few times, then record by record, and what raises still is
    dropped.

    Args:
        options: an instance of the class's ``options``.
        site: folder, prefix and file mode.

    Raises:
        ConfigError: from the constructor, where options contradict each other or one is missing.
    """

    name: ClassVar[str] = ""
    """Short name; options are ``modparam("sipdump_<name>", ...)``."""
    flag: ClassVar[int] = 0
    """Mode flag, a power of two; third parties take 256 or more, or 0 to be switched on by name only."""
    suffix: str = ""
    """What names of its segments end with, with the dot; the constructor may give an instance another one."""
    options: ClassVar[type[Any]] = NoOptions
    api: ClassVar[int] = 1
    """Version of this interface that it was made for; one that states none was made for the first."""
    transformed: ClassVar[bool] = False
    """Whether it asks for the transforms (the P-KSR-SIPDump header), and stores what ``bufs`` gives."""
    loses: ClassVar[Sequence[str]] = ()
    """Fields of a record that it has no place for, as ``"node"``; ``read`` gives any value in their place."""
    longest: ClassVar[int] = 0
    """Bytes of the longest message that it keeps whole; longer ones are cut. 0: it keeps any."""
    requires: ClassVar[Sequence[str]] = ()
    """Modules that it imports when it works, and not before; they are looked for when it is switched on."""

    def __init__(self, options: Any, site: Site) -> None:
        self.opts = options
        self.site = site

    def bufs(self, batch: Sequence[Record]) -> Sequence[bytes]:
        """Give the bytes to store of each record: what the site's transforms make of its own."""
        bufs: Sequence[bytes] = [record.buf for record in batch]
        for transform in self.site.transforms:
            bufs = transform.apply(batch, bufs)
        return bufs

    def start(self) -> None:
        """Get ready to store: connect, begin what works in the background, take up what a crash left.

        It is called before the first ``open``, whether or not there is traffic, and again after it raised.

        Raises:
            StorageError: the store cannot be reached.
        """

    def stop(self) -> None:
        """End what ``start`` began, after the last ``close``; nothing is called after it but ``start``."""

    def health(self) -> str:
        """Say what is wrong with what works in the background, in one line; an empty text when nothing is.

        Any thread may call it.
        """
        return ""

    def open(self, segment: Segment) -> None:
        """Begin a new segment.

        Raises:
            SegmentExistsError: the name is taken; the caller tries the next.
            StorageError: the store refuses.
        """

    def write(self, batch: Sequence[Record]) -> None:
        """Store a batch of at least one record, all of it or nothing.

        Raises:
            PartialWriteError: some records of it are not stored, those that the error names; they come again.
            StorageError: nothing of the batch is stored; it comes again.
        """
        raise NotImplementedError(f"{type(self).__name__} has no write()")

    def flush(self) -> None:
        """Make what was written visible to readers."""

    def close(self) -> None:
        """Seal the segment: from now on it is immutable. Does nothing where none is open."""

    def record_size(self, record: Record) -> int:
        """Give the bytes that a record will take in a segment, at the most; ``rotate_size`` counts with it.

        The writer's thread calls it while another one may be in ``write``.
        """
        return len(record.buf) + 256

    def segments(self) -> Iterable[StoredSegment]:
        """List the segments of this site's prefix, open ones too; other things in the store are passed over.

        A backend that leaves this out has no lifecycle: it is neither listed nor pruned, and says so.

        Raises:
            StorageError: the store cannot be listed.
        """
        return ()

    @classmethod
    def has_lifecycle(cls) -> bool:
        """Say whether its segments can be listed, and so pruned."""
        return cls.segments is not Backend.segments

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """Read a segment's records again, in order, up to a torn tail.

        Raises:
            StorageError: it cannot be read.
        """
        raise StorageError("read", stored.location, f"the backend {self.name} cannot read its segments back")

    def delete(self, stored: StoredSegment) -> None:
        """Delete a sealed segment; one that is gone already is no error.

        Raises:
            StorageError: it is open, or the store refuses.
        """
        raise StorageError("delete", stored.location, f"the backend {self.name} deletes nothing")

    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        """Delete up to 1,000 sealed segments, and yield each with None, or with why it is still there.

        One by one, unless a backend has a better way.
        """
        for stored in chunk:
            error = None
            try:
                self.delete(stored)
            except SipDumpError as refusal:
                error = refusal
            yield stored, error

    def forget(self) -> None:
        """Let go of an open segment without closing it: it belongs to the process that this one was forked from."""

    def stats(self) -> Mapping[str, int]:
        """Give counters of its own, for stats and the summary."""
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
        """Give the bytes to store in the place of ``bufs``, which stand for the records of ``batch`` one by one."""
        raise NotImplementedError(f"{type(self).__name__} has no apply()")

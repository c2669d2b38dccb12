"""The backend itself: it writes segments into a spool, and has them shipped.

Records go into segments in the spool, a folder on the local disk, through the backend that ``format`` names; a thread
uploads sealed segments, and deletes each here when S3 has confirmed it. So ``write`` never waits for the network.

boto3 is imported by the modules that talk to the server, and not by this one, which every start loads.
"""

import contextlib
import importlib.util
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import attrs

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.capabilities import (
    Compacted,
    Merges,
    Recovered,
    Recovers,
    Searches,
    Shipped,
    can,
)
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.rewriting import Change, Rewritten
from sipdump_core.errors import (
    ConfigError,
    DriverError,
    SegmentExistsError,
    SipDumpError,
    StorageError,
    StorageFullError,
)
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.settings.options import size as size_of
from sipdump_s3.keys import Keys
from sipdump_s3.options import S3Options, check_node
from sipdump_s3.spool import Spool

if TYPE_CHECKING:
    from sipdump_s3.bucket import Bucket
    from sipdump_s3.compaction import Compaction
    from sipdump_s3.objects import Objects
    from sipdump_s3.shipper import Shipper

__all__ = ["S3Backend"]

_NAMES_KEPT = 1000
_HOLD_TAG = "sipdump-hold"


class S3Backend(Backend):
    """Ships sealed segments to a bucket.

    Its segments are the objects and the files in the spool. A file there counts as open: it can be neither pruned nor
    deleted before it is uploaded.

    Raises:
        ConfigError: no bucket is named, ``format`` names no backend of files, or an option does not fit the others.
        DriverError: the backend that ``format`` names lacks a module.
    """

    name = "s3"
    flag = 32
    options = S3Options
    requires = ("boto3",)
    stop_seconds = 30.0  # for sealing, and uploads of stop_wait seconds
    remote = True
    """What is stored here is slower to read than a local file."""

    def __init__(self, options: S3Options, site: Site) -> None:
        super().__init__(options, site)
        if not options.bucket:
            raise ConfigError('no bucket is named; set modparam("sipdump_s3", "bucket", ...)')
        if options.sse_kms_key_id and not options.sse.startswith("aws:kms"):
            raise ConfigError('sse_kms_key_id is given; set modparam("sipdump_s3", "sse", "aws:kms") too')
        self.inner = self._make_inner(options, site)
        # it stores what the inner one makes
        self.suffix = self.inner.suffix
        self.loses = self.inner.loses  # type: ignore[misc]  # an instance's own
        self.longest = self.inner.longest  # type: ignore[misc]  # an instance's own
        node = options.node or site.node or socket.gethostname()
        self.keys = Keys(options.prefix, options.key, node, site.prefix, self.suffix)
        refusal = check_node(node)
        if refusal:
            raise ConfigError(f'the host\'s name, {node!r}, {refusal}; set modparam("sipdump_s3", "node", ...)')
        if self.keys.too_long:
            raise ConfigError("prefix, key, node and fprefix together make keys longer than the 1024 bytes of S3")
        self.spool = Spool(
            self.inner, options.spool_max_bytes, drop=options.spool_full == "drop_oldest", patience=options.timeout
        )
        self._shipper: Shipper | None = None
        self._inner_started = False
        # in the spool a name is free again as soon as its segment is uploaded
        self._names: deque[str] = deque(maxlen=_NAMES_KEPT)
        self._segment: Segment | None = None
        self._wrote = 0
        self._following: Segment | None = None
        # a format that makes its segments of a file written before needs room for both
        self._room_to_seal = can(self.inner, Recovers)
        # kept, because making one takes longer than a request
        self._idle: deque[Bucket] = deque(maxlen=1)
        self._address = f"s3://{options.bucket}/"
        self._made_reader: Objects | None = None

    @staticmethod
    def _make_inner(options: S3Options, site: Site) -> FolderBackend:
        spool = options.spool or os.path.join(site.folder, "s3-spool")
        given = f'modparam("sipdump_s3", "format", "{options.format}")'
        refusal = f"{given}: must name a backend of files, as parquet, pcap or text"
        if options.format == S3Backend.name:
            raise ConfigError(refusal)
        try:
            inner = site.make(options.format, attrs.evolve(site, folder=spool))
        except ConfigError as error:
            raise ConfigError(f"{given}: {error}") from error
        if not isinstance(inner, FolderBackend):
            raise ConfigError(refusal)
        for module in inner.requires:
            if importlib.util.find_spec(module) is None:
                hint = f"install it with: pip install {module}; or set another format"
                raise DriverError(f"{given}: it needs the module {module}, which is not installed; {hint}")
        return inner

    def where(self) -> str:
        """Return the address that all keys begin with, and the spool."""
        return f"s3://{self.opts.bucket}/{self.keys.root}*; those that wait are in {self.inner.site.folder}"

    def start(self) -> None:
        """Make the spool, start the backend that writes there, and start shipping."""
        if self._shipper:
            return
        self.spool.prepare()
        if not self._inner_started:
            self.inner.start()
            self._inner_started = True
        self._shipper = self._make_shipper()
        self._shipper.start()

    def stop(self) -> None:
        """Seal closed segments, and upload for up to ``stop_wait`` seconds; the rest stays in the spool."""
        if self._inner_started:
            self.inner.stop()
            self._inner_started = False
        shipper, self._shipper = self._shipper, None
        if shipper:
            shipper.stop(self.opts.stop_wait)

    def health(self) -> str:
        """Return why uploads are stuck, or what is wrong with the backend of the format."""
        shipper = self._shipper
        return (shipper.illness if shipper else "") or self.inner.health()

    def open(self, segment: Segment) -> None:
        """Begin a segment in the spool, where its name is in UTC."""
        self._following = None
        self._begin(self.keys.utc(segment))

    def write(self, batch: Sequence[Record]) -> None:
        """Write a batch into the spool.

        Raises:
            StorageFullError: the spool is full, and ``spool_full`` is ``stop`` or there is nothing to drop; or the disk
                is. The segment is then sealed, so that it can be uploaded and make room; the next batch goes into a
                fresh one.
        """
        size = sum(map(self.inner.record_size, batch))
        try:
            self.spool.reserve(size, self._wrote + size if self._room_to_seal else 0)
            self._follow()
            self.inner.write(batch)
        except StorageFullError:
            if self._segment and self._wrote:
                following = self._segment.next()
                self.close()
                self._following = following
            raise
        if self._segment and not self._wrote:
            self._names.append(self._segment.name)
        self._wrote += size

    def flush(self) -> None:
        """Make what was written visible to readers."""
        self.inner.flush()

    def check(self) -> None:
        """Look whether the open file is where it was made, and could be synced."""
        self.inner.check()

    def close(self) -> None:
        """Seal the segment; it is uploaded as soon as possible."""
        self._segment = self._following = None
        try:
            self.inner.close()
        finally:
            self.spool.writing = ""
        if self._shipper:
            self._shipper.wake()

    def forget(self) -> None:
        """Let go of everything that belongs to the process that this one was forked from."""
        self.inner.forget()
        self.spool.forget()
        self.spool.writing = ""
        self._segment = self._following = None
        self._shipper = None  # its thread is in the parent, as are those of the backend that makes the segments
        self._inner_started = False

    def record_size(self, record: Record) -> int:
        """Return the bytes that a record takes in a segment of the format."""
        return self.inner.record_size(record)

    def segments(self) -> Iterable[StoredSegment]:
        """List the segments that wait in the spool, and this collector's objects.

        An object's last write counts as ``rotate`` seconds after its start, the latest possible, or as its upload,
        whichever is earlier: so an upload that an outage delayed makes no segment younger.
        """
        for stored in self.spool.segments():
            pending = "waiting for upload" if stored.sealed else stored.pending
            yield attrs.evolve(stored, segment=self.keys.local(stored.segment), sealed=False, pending=pending)
        with self.bucket() as bucket:
            for _, stored in self._objects(bucket):
                yield stored

    def segments_of_all(self) -> Iterator[tuple[str, StoredSegment]]:
        """Yield the segments of all collectors below the prefix, each with its collector's name, empty for this one.

        A segment is what has the name of one, with the suffix of an installed backend of files, under whatever key.
        """
        return self._reader().segments()

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """Read a segment's records again; an object is downloaded first, and verified."""
        key = self._object(stored)
        if key:
            return self._reader().read(key)
        return self._waiting(stored, self.inner.read, lambda shipped: self._reader().read(shipped))

    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        """Yield a segment's records that are an answer; of an object, only the parts that are needed are fetched."""
        key = self._object(stored)
        if key:
            return self._reader().search(stored, key, query)
        inner = self.inner

        def look(found: StoredSegment) -> Iterator[Record]:
            return inner.search(found, query) if can(inner, Searches) else filter(query.matches, inner.read(found))

        return self._waiting(stored, look, lambda shipped: self._reader().search(stored, shipped, query))

    def united(self, stored: StoredSegment) -> Sequence[Segment]:
        """Return the segments that compactions made an object of, in local time."""
        key = self._object(stored)
        return self._reader().united(stored, key) if key else ()

    def newest(self, stored: StoredSegment) -> int | None:
        """Return the time of an object's newest record, microseconds since the epoch, where its format says."""
        key = self._object(stored)
        return self._reader().newest(stored, key) if key else None

    def delete(self, stored: StoredSegment) -> None:
        """Delete an object."""
        for _, error in self.delete_many([stored]):
            if error:
                raise error

    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        """Delete objects with one request, and yield each with None, or with why it is still there."""
        by_key = {}
        for stored in chunk:
            key = self._key(stored)
            if key:
                by_key[key] = stored
            else:
                yield stored, StorageError("delete", stored.location, "it is not uploaded yet")
        with self.bucket() as bucket:
            for key, error in bucket.delete(list(by_key)):
                yield by_key[key], error

    def rewrite(self, stored: StoredSegment, change: Change) -> Rewritten:
        """Replace an object, or a file that waits in the spool, by one without some of its records.

        An object keeps its key, metadata and tags. Where the bucket keeps versions, the old one is deleted.

        Raises:
            StorageError: the format cannot rewrite, or it failed; the segment is as it was.
        """
        key = self._key(stored)
        inner = self.inner
        if not key:
            return inner.rewrite(self._spooled(stored), change)
        self.spool.prepare()
        with self.bucket() as bucket:
            return _network().rewrite(bucket, key, inner, self.opts, change)

    def mark_held(self, stored: StoredSegment, *, held: bool) -> bool:
        """Set the tag ``sipdump-hold=yes`` of an object beside its others, or take it away.

        Returns:
            Whether that was new. What waits in the spool has none before it is uploaded.

        Raises:
            StorageError: the server knows no tags, or refuses.
        """
        key = self._key(stored)
        if not key:
            return False
        with self.bucket() as bucket:
            before = bucket.known_tags(key)
            after = {name: value for name, value in before.items() if name != _HOLD_TAG}
            if held:
                after[_HOLD_TAG] = "yes"
            if after != before:
                bucket.tag(key, after)
            return after != before

    @property
    def cap(self) -> int:
        """How many bytes this collector's objects may take; 0: no limit."""
        return size_of(self.opts.max_bytes or "0")

    def unshipped(self) -> int:
        """Return how many bytes wait sealed in the spool."""
        return sum(stored.size for stored in self.spool.segments() if stored.sealed)

    def ship(self, progress: Callable[[int], None] = lambda _: None) -> Iterator[Shipped]:
        """Try once to upload each sealed segment of the spool, without the thread of ``start``.

        Args:
            progress: called with the number of bytes done since its last call.

        Raises:
            StorageError: another process ships already, or the spool cannot be listed.
        """
        if os.path.isdir(self.spool.folder):
            yield from self._make_shipper().ship(progress)

    def recover(self) -> Iterator[Recovered]:
        """Make segments of what a crash left unfinished in the spool, where the format can.

        Raises:
            StorageError: the spool cannot be listed.
        """
        inner: object = self.inner
        return inner.recover() if can(inner, Recovers) and os.path.isdir(self.spool.folder) else iter(())

    def compact(
        self,
        *,
        target_size: int = 128 << 20,
        min_age: float | None = None,
        partition: str = "",
        dry_run: bool = False,
        now: float | None = None,
    ) -> Iterator[Compacted]:
        """Merge small objects of one hour, and yield what became of each group.

        Run it where the collector runs, because it looks into the spool: it leaves alone what is still on its way.

        Args:
            target_size: bytes; larger objects are left alone, and no merged object gets larger.
            min_age: seconds since a segment's last write; younger ones are left alone. By default twice ``rotate``.
            partition: merge this one only, as ``date=2026-11-22/hour=23`` or ``date=2026-11-22``, in UTC; empty: all.
            dry_run: yield what would be done, without doing it.
            now: the time to count from, seconds since the epoch.

        Raises:
            StorageError: the bucket cannot be listed, another compaction is under way, or the format cannot merge.
        """
        if not can(self.inner, Merges):
            where = f"s3://{self.opts.bucket}/{self.keys.root}"
            raise StorageError("compact", where, f"segments of the format {self.inner.name} cannot be merged")
        self.spool.prepare()
        with self.bucket() as bucket:
            waiting = frozenset(self.keys.start(self.keys.key(stored.segment)) for stored in self.spool.segments())
            objects = dict(self._objects(bucket))
            compaction = _network().compaction(bucket, self.keys, self.inner, self.opts, objects, waiting)
            yield from compaction.run(
                target_size=target_size,
                min_age=2 * self.site.rotate if min_age is None else min_age,
                partition=partition,
                dry_run=dry_run,
                now=time.time() if now is None else now,
            )

    def stats(self) -> Mapping[str, int]:
        """Return how much was uploaded, waits, and was lost."""
        return {**attrs.asdict(self.spool.counts), **self.inner.stats()}

    def _begin(self, utc: Segment) -> None:
        if utc.name in self._names:
            raise SegmentExistsError("open", utc.name, "a segment of this name was stored before")
        self.spool.prepare()
        self.spool.writing = utc.name
        try:
            self.inner.open(utc)
        except BaseException:
            self.spool.writing = ""
            raise
        self._segment, self._wrote = utc, 0

    def _follow(self) -> None:
        """Begin the segment that follows one that was sealed for lack of room."""
        while self._following:
            try:
                self._begin(self._following)
            except SegmentExistsError:
                self._following = self._following.next()
            else:
                self._following = None

    def _objects(self, bucket: "Bucket") -> Iterator[tuple[str, StoredSegment]]:
        for key, size, uploaded in bucket.list(self.keys.root):
            segment = self.keys.segment(key)
            if segment:
                start = self.keys.start(key)
                written = max(start, min(uploaded, start + self.site.rotate))  # the server's clock may be wrong
                local = self.keys.local(segment)
                yield key, StoredSegment(local, size, written, sealed=True, location=bucket.address(key))

    def _reader(self) -> "Objects":
        if self._made_reader is None:
            self._made_reader = _network().objects(self._address, self.inner, self.site, self.keys, self.bucket)
        return self._made_reader

    def _spooled(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, segment=self.keys.utc(stored.segment))

    def _waiting(
        self,
        stored: StoredSegment,
        look: Callable[[StoredSegment], Iterator[Record]],
        fetch: Callable[[str], Iterator[Record]],
    ) -> Iterator[Record]:
        """Yield what is asked of a file of the spool or, if that was shipped since it was listed, of its object."""
        try:
            records = look(self._spooled(stored))
            first = next(records, None)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            yield from fetch(self.keys.key(stored.segment))
            return
        if first is not None:
            yield first
            yield from records

    def _make_shipper(self) -> "Shipper":
        return _network().shipper(self.spool, self.inner, self.keys, self.opts, self.bucket)

    @contextlib.contextmanager
    def bucket(self) -> Iterator["Bucket"]:
        """Lend a bucket, to one at a time; between two uses it has no connections."""
        try:
            bucket = self._idle.pop()
        except IndexError:
            bucket = _network().bucket(self.opts)
        try:
            yield bucket
        finally:
            bucket.disconnect()
            self._idle.append(bucket)

    def _object(self, stored: StoredSegment) -> str:
        """Return the key of an object, of any collector; an empty text for a file of the spool."""
        address = stored.location
        return address.removeprefix(self._address) if address.startswith(self._address) else ""

    def _key(self, stored: StoredSegment) -> str:
        """Return the key of an object; an empty text for a file of the spool.

        Raises:
            StorageError: it is an object, but not ours.
        """
        key = self._object(stored)
        if key and not self.keys.segment(key):
            raise StorageError("find", stored.location, "it is not one of this collector's segments")
        return key


class _Network(NamedTuple):
    """What talks to the server."""

    bucket: "type[Bucket]"
    shipper: "type[Shipper]"
    compaction: "type[Compaction]"
    objects: "type[Objects]"
    rewrite: "Callable[[Bucket, str, FolderBackend, S3Options, Change], Rewritten]"


def _network() -> _Network:
    """Import what needs boto3.

    Raises:
        StorageError: boto3 is not installed.
    """
    try:
        from sipdump_s3 import bucket, compaction, objects, rewriting, shipper  # noqa: PLC0415 - see the module's docstring
    except ImportError as error:
        raise StorageError("load", "boto3", str(error), "install it with: pip install 'sipdump[s3]'") from error
    return _Network(bucket.Bucket, shipper.Shipper, compaction.Compaction, objects.Objects, rewriting.rewrite)

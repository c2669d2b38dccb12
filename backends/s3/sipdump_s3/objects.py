"""Objects as segments that are read: those of all collectors, in every format that an installed backend reads."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, cast

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import DescribesFiles, SearchesFiles, can
from sipdump_core.drivers.discovery import Driver, take_stock
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_s3.bucket import Bucket
from sipdump_s3.compaction import sources_of
from sipdump_s3.keys import Keys
from sipdump_s3.remote import RemoteFile, Tail, tail_of

__all__ = ["Objects"]

_TAILS = 256
"""Objects whose ends are remembered, of up to 64 KiB each."""
_ENDINGS = 100
"""Endings of names for which is remembered what reads them."""
_HELD = 8 << 20
"""Bytes of messages that are held to see that an object does not vanish while it is read."""
_HELD_RECORDS = 20_000


class Objects:
    """Reads the objects of a bucket.

    Args:
        address: what an object's address is, before its key.
        inner: the backend of the files that this collector stores.
        site: makes the backends of other files.
        keys: the keys of this collector.
        lend: lends the bucket, for a ``with`` block.
    """

    def __init__(
        self,
        address: str,
        inner: FolderBackend,
        site: Site,
        keys: Keys,
        lend: Callable[[], AbstractContextManager[Bucket]],
    ) -> None:
        self._address = address
        self._inner = inner
        self._site = site
        self._keys = keys
        self._lend = lend
        self._drivers: Sequence[Driver] | None = None
        self._made: dict[str, FolderBackend | None] = {}
        self._readers: Cache[str, FolderBackend | None] = Cache(_ENDINGS)
        self._tails: Cache[tuple[str, int, float], Tail] = Cache(_TAILS)

    def segments(self) -> Iterator[tuple[str, StoredSegment]]:
        """Yield every segment below the prefix, with its collector's name, which is empty for this one."""
        with self._lend() as bucket:
            for key, size, uploaded in bucket.list(self._keys.above):
                inner = self._reader(key)
                utc = inner and self._keys.any_segment(key, inner.suffix)
                if utc:
                    node = self._keys.node_of(key)
                    local = self._keys.local(utc)
                    stored = StoredSegment(local, size, uploaded, sealed=True, location=bucket.address(key))
                    yield "" if node == self._keys.node else node, stored

    def read(self, key: str) -> Iterator[Record]:
        """Yield the records of an object, in order; it is downloaded first, and verified."""
        with self._downloaded(key) as file:
            yield from self._inner_of(key).decode(file)

    def search(self, stored: StoredSegment, key: str, query: Query) -> Iterator[Record]:
        """Yield the records of an object that are an answer; where its format allows, only what is needed is fetched.

        An object that vanishes, or is replaced, while it is read is an error before the first record: an answer of more
        than some MB is that of a copy.
        """
        inner = self._inner_of(key)
        if not can(inner, SearchesFiles):
            yield from filter(query.matches, self.read(key))
            return
        held = self._few(inner, stored, key, query) if query.parts() else None
        if held is not None:
            yield from held
            return
        with self._downloaded(key) as file:
            yield from inner.search_file(file, query)

    def united(self, stored: StoredSegment, key: str) -> Sequence[Segment]:
        """Return the segments that compactions made an object of, down to the first ones where that is known."""
        inner = self._inner_of(key)
        with self._lend() as bucket:
            if can(inner, DescribesFiles):
                names = inner.united_in(self._open(bucket, stored, key))
            else:
                names = sources_of(bucket, key, stored.segment)
        found = (Segment.parse(name, stored.segment.prefix, inner.suffix) for name in names)
        return [self._keys.local(segment) for segment in found if segment]

    def newest(self, stored: StoredSegment, key: str) -> int | None:
        """Return the time of an object's newest record, microseconds since the epoch, if its format says."""
        inner = self._inner_of(key)
        if not can(inner, DescribesFiles):
            return None
        with self._lend() as bucket:
            return inner.newest_in(self._open(bucket, stored, key))

    def _few(self, inner: SearchesFiles, stored: StoredSegment, key: str, query: Query) -> Sequence[Record] | None:
        """Return the records of an object that are an answer; None where they are too many to be held."""
        held = []
        size = 0
        with self._lend() as bucket:
            for record in inner.search_file(self._open(bucket, stored, key), query):
                held.append(record)
                size += len(record.buf)
                if size > _HELD or len(held) > _HELD_RECORDS:
                    return None
        return held

    def _open(self, bucket: Bucket, stored: StoredSegment, key: str) -> BinaryIO:
        """Open an object; its end is remembered, for the next question."""
        listed = key, stored.size, stored.modified
        tail = self._tails.get(listed)
        if tail is None:
            tail = self._tails.keep(listed, tail_of(bucket, key))
        return cast("BinaryIO", RemoteFile(bucket, key, tail))

    @contextlib.contextmanager
    def _downloaded(self, key: str) -> Iterator[BinaryIO]:
        """Lend a copy of an object."""
        suffix = self._inner_of(key).suffix
        try:
            with (
                tempfile.NamedTemporaryFile(prefix="sipdump-", suffix=suffix) as named,
                open(named.name, "r+b") as file,
            ):
                with self._lend() as bucket:
                    bucket.get(key, file)
                file.seek(0)
                yield file
        except OSError as error:
            raise StorageError.from_os("read", self._address + key, error) from error

    def _inner_of(self, key: str) -> FolderBackend:
        """Return the backend that reads an object's file.

        Raises:
            StorageError: none has its suffix.
        """
        inner = self._reader(key)
        if inner is None:
            raise StorageError("read", self._address + key, "no installed backend reads such a file")
        return inner

    def _reader(self, key: str) -> FolderBackend | None:
        """Return the backend with the longest suffix that a key ends with, None if none has such a one."""
        _, _, ending = key.rpartition("/")[2].partition(".")
        if ending in self._readers:
            return self._readers[ending]
        made = [each for each in (self._inner, *self._others(key)) if each and key.endswith(each.suffix)]
        return self._readers.keep(ending, max(made, key=lambda each: len(each.suffix), default=None))

    def _others(self, key: str) -> Iterator[FolderBackend | None]:
        """Yield the backends that may have a key's suffix; what cannot have it is not even imported."""
        if self._drivers is None:
            self._drivers = [driver for driver in take_stock().drivers if driver.kind == "backend"]
        for driver in self._drivers:
            if driver.suffix is None or (driver.suffix and key.endswith(driver.suffix)):
                if driver.name not in self._made:
                    self._made[driver.name] = self._make(driver.name)
                yield self._made[driver.name]

    def _make(self, name: str) -> FolderBackend | None:
        with contextlib.suppress(SipDumpError):  # it cannot be used: only its files are not read
            backend = self._site.make(name, self._inner.site)
            return backend if isinstance(backend, FolderBackend) else None
        return None

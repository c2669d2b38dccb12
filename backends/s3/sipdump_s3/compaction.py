"""Compaction: small objects of one hour become one, which says in its metadata what it was made of.

The sources are deleted only when the new object is confirmed. After a crash in between, the next compaction finds in
``sipdump-merged`` which sources the new object holds already, and deletes them; until then readers see rows twice.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import attrs

from sipdump_core.drivers.capabilities import Compacted
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.lifecycle.retention import is_within, packs
from sipdump_core.log import Event, log
from sipdump_core.segment import StoredSegment
from sipdump_s3.bucket import Bucket
from sipdump_s3.keys import Keys
from sipdump_s3.options import S3Options
from sipdump_s3.shipper import metadata_of
from sipdump_s3.upload import Uploader

__all__ = ["Compaction"]

MERGED = "sipdump-merged"
_AT_ONCE = 50  # sources of one object: each takes up to 30 of the 2,048 bytes that S3 allows for metadata
_DIGITS = 16  # of a source's hash, to tell it from another object that took its key later
_DRAFTS = ".compaction-"


@attrs.frozen
class _Object:
    """An object, by its key."""

    key: str
    stored: StoredSegment


class Compaction:
    """Merges the objects of one collector.

    Args:
        bucket: where they are.
        keys: under which keys.
        inner: the backend that can merge their files.
        options: the backend's options.
        waiting: when segments start that stand in the spool still. Objects of that second are left alone: one of
            them may be the segment's own, from before a crash, under whichever key was free.
    """

    def __init__(
        self, bucket: Bucket, keys: Keys, inner: FolderBackend, options: S3Options, waiting: frozenset[float]
    ) -> None:
        self._bucket = bucket
        self._keys = keys
        self._inner = inner
        self._opts = options
        self._waiting = waiting
        self._folder = inner.site.folder

    def run(
        self, objects: Mapping[str, StoredSegment], *, target_size: int, min_age: float, partition: str, dry_run: bool,
        now: float,
    ) -> Iterator[Compacted]:  # fmt: skip
        """Merge, and yield what became of each group; see ``S3Backend.compact``."""
        found = sorted((_Object(key, stored) for key, stored in objects.items()), key=self._order)
        with _alone(self._folder):
            self._remove_drafts()
            for hour, group in groupby(found, lambda each: self._keys.partition(each.key)):
                if not is_within(hour, partition):
                    continue
                there = list(group)
                if len(there) > 1 and not dry_run:
                    try:
                        there = self._finish_earlier(there)
                    except SipDumpError as error:
                        yield Compacted("s3", hour, [each.stored for each in there], error=error)
                        continue
                small = [
                    each
                    for each in there
                    if each.stored.size < target_size
                    and now - each.stored.modified >= min_age
                    and self._keys.start(each.key) not in self._waiting
                ]
                for pack in packs(small, target_size, lambda each: each.stored.size, most=_AT_ONCE):
                    yield self._compact(hour, pack, dry_run=dry_run)

    def _order(self, each: _Object) -> tuple[str, float, int]:
        return self._keys.partition(each.key), self._keys.start(each.key), each.stored.segment.sequence

    def _compact(self, hour: str, pack: Sequence[_Object], *, dry_run: bool) -> Compacted:
        sources = [each.stored for each in pack]
        result = Compacted("s3", hour, sources, size_before=sum(stored.size for stored in sources))
        if dry_run:
            return result
        last = pack[-1]
        try:
            with tempfile.TemporaryDirectory(prefix=_DRAFTS, dir=self._folder) as folder:
                paths, merged = self._download(pack, folder)
                draft = os.path.join(folder, f"merged{self._inner.suffix}")
                records = self._inner.merge(paths, draft)
                stored = attrs.evolve(last.stored, records=records)
                metadata = {**metadata_of(self._inner, self._keys, last.key, stored), MERGED: " ".join(merged)}
                with open(draft, "rb") as file:
                    key = Uploader(self._bucket, self._keys, self._opts).send(file, self._keys.next(last.key), metadata)
                    size = os.fstat(file.fileno()).st_size
        except SipDumpError as error:
            return attrs.evolve(result, error=error)
        except OSError as error:
            return attrs.evolve(result, error=StorageError.from_os("compact", self._folder, error))
        result = attrs.evolve(result, location=self._bucket.address(key), size_after=size, records=records)
        for _, refusal in self._bucket.delete([each.key for each in pack]):
            if refusal:  # the next compaction tries again
                result = attrs.evolve(result, error=refusal)
        return result

    def _download(self, pack: Sequence[_Object], folder: str) -> tuple[list[str], list[str]]:
        """Download sources; give their paths, and what the metadata will say of them."""
        paths, merged = [], []
        for each in pack:
            path = os.path.join(folder, each.key.rpartition("/")[2])
            with open(path, "x+b") as file:
                found = self._bucket.get(each.key, file)
            os.utime(path, (each.stored.modified,) * 2)
            paths.append(path)
            merged.append(f"{self._keys.short(each.key)}:{found.sha256[:_DIGITS]}")
        return paths, merged

    def _finish_earlier(self, there: Sequence[_Object]) -> list[_Object]:
        """Delete the sources of an earlier compaction that are still there; give the objects without them."""
        left = {self._keys.short(each.key): each for each in there}
        for each in there:
            if not each.stored.segment.sequence:  # what was merged never has the first name of its second
                continue
            found = self._bucket.head(each.key)
            for source in (found.metadata.get(MERGED, "") if found else "").split():
                short, _, digest = source.partition(":")
                known = left.get(short)
                of_it = self._bucket.head(known.key) if known else None
                if known is None or of_it is None or not digest or of_it.sha256[:_DIGITS] != digest:
                    continue  # deleted, or another object that took the key later
                for _, refusal in self._bucket.delete([known.key]):
                    if refusal:
                        raise refusal
                del left[short]
                log.info(Event("source of an earlier compaction deleted", location=self._bucket.address(known.key)))
        return list(left.values())

    def _remove_drafts(self) -> None:
        """Remove what a crash left of a merge; who holds the lock is alone with them."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):
                if name.startswith(_DRAFTS):
                    shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep two compactions at one spool apart."""
    path = os.path.join(folder, ".compaction")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError.from_os("compact", path, error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError("compact", path, "another compaction is under way") from error
        yield
    finally:
        os.close(fd)

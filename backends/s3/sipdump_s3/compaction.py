"""Compaction of objects: small ones of one hour become one, whose metadata name what it was made of."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import attrs

from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import SipDumpError
from sipdump_core.lifecycle import compaction
from sipdump_core.lifecycle.compaction import Candidate, Contents, Draft
from sipdump_core.segment import Segment, StoredSegment
from sipdump_s3.bucket import Bucket
from sipdump_s3.keys import Keys
from sipdump_s3.options import S3Options
from sipdump_s3.shipper import metadata_of
from sipdump_s3.upload import Uploader

__all__ = ["Compaction", "sources_of"]

MERGED = "sipdump-merged"
_DIGITS = 16  # of a source's hash, to tell it from another object that took its key later
_DRAFTS = ".compaction-"


@attrs.frozen
class _Object(Candidate):
    """An object, by its key."""

    key: str = ""


class Compaction(compaction.Compaction[_Object]):
    """Merges the small objects of one collector.

    Args:
        bucket: where they are.
        keys: under which keys.
        inner: the backend that can merge their files.
        options: the backend's options.
        objects: by key.
        waiting: start times of the segments that are still in the spool. Objects of that second are left alone: one of
            them may be the segment's own, from before a crash, under whichever key was free.
    """

    most = 50  # each source takes up to 30 of the 2,048 bytes that S3 allows for metadata

    def __init__(
        self, bucket: Bucket, keys: Keys, inner: FolderBackend, options: S3Options,
        objects: Mapping[str, StoredSegment], waiting: frozenset[float],
    ) -> None:  # fmt: skip
        super().__init__("s3", inner.site.folder)
        self._bucket = bucket
        self._keys = keys
        self._inner = inner
        self._opts = options
        self._objects = objects
        self._waiting = waiting

    def candidates(self) -> Iterator[_Object]:
        """List the objects, oldest first."""
        keys = self._keys
        for key, stored in sorted(
            self._objects.items(), key=lambda item: (keys.start(item[0]), item[1].segment.sequence)
        ):
            busy = keys.start(key) in self._waiting
            yield _Object(stored, keys.partition(key), keys.short(key), busy=busy, key=key)

    def contents(self, candidate: _Object) -> Contents:
        """Ask for an object's metadata, where it can be a merged one: that never has the first name of its second."""
        if not candidate.stored.segment.sequence:
            return Contents()
        return Contents(merged=_merged(self._bucket, candidate.key))

    def holds(self, candidate: _Object, digest: str) -> bool:
        """Compare the begin of the SHA-256 that an object's metadata state."""
        found = self._bucket.head(candidate.key)
        return found is not None and digest != "" and found.sha256[:_DIGITS] == digest

    @contextlib.contextmanager
    def draft(self, pack: Sequence[_Object]) -> Iterator[Draft]:
        """Download objects, and merge them in a temporary folder beside the spool's segments."""
        with tempfile.TemporaryDirectory(prefix=_DRAFTS, dir=self.folder) as folder:
            paths, merged = [], []
            for each in pack:
                path = os.path.join(folder, each.key.rpartition("/")[2])
                with open(path, "x+b") as file:
                    found = self._bucket.get(each.key, file)
                os.utime(path, (each.stored.modified,) * 2)
                paths.append(path)
                merged.append(f"{each.name}:{found.sha256[:_DIGITS]}")
            path = os.path.join(folder, f"merged{self._inner.suffix}")
            records = self._inner.merge(paths, path)
            yield Draft(path, records, partial(self._publish, path, records, pack[-1], " ".join(merged)))

    def delete(self, sources: Sequence[_Object]) -> Iterator[tuple[_Object, SipDumpError | None]]:
        """Delete objects with one request."""
        by_key = {each.key: each for each in sources}
        for key, refusal in self._bucket.delete(list(by_key)):
            yield by_key[key], refusal

    def remove_drafts(self) -> None:
        """Remove the temporary folders."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                if name.startswith(_DRAFTS):
                    shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)

    def _publish(self, path: str, records: int, last: _Object, merged: str) -> str:
        stored = attrs.evolve(last.stored, records=records)
        metadata = {**metadata_of(self._inner, self._keys, last.key, stored), MERGED: merged}
        with open(path, "rb") as file:
            key = Uploader(self._bucket, self._keys, self._opts).send(file, self._keys.next(last.key), metadata)
        return self._bucket.address(key)


def sources_of(bucket: Bucket, key: str, segment: Segment) -> Sequence[str]:
    """Return the names, in UTC, of the segments that an object was merged of.

    Args:
        bucket: where it is.
        key: its key.
        segment: has the prefix and the suffix of all of them.

    Raises:
        S3Error: the server refuses or does not answer.
    """
    hour = key.rpartition("/")[2][: len(segment.prefix) + len("yyyy-mm-dd--hh-")]
    return [f"{hour}{name}{segment.suffix}" for name in _merged(bucket, key)]


def _merged(bucket: Bucket, key: str) -> dict[str, str]:
    """Return what an object was merged of: by short names, the begin of each SHA-256."""
    found = bucket.head(key)
    parts = (source.partition(":") for source in (found.metadata.get(MERGED, "") if found else "").split())
    return {name: digest for name, _, digest in parts}

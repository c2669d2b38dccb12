"""Replacing an object by one without some of its records, under the same key: readers see the old or the new one."""

import os
import tempfile

from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.rewriting import Change, Rewritten, alone
from sipdump_core.errors import StorageError
from sipdump_s3.bucket import Bucket
from sipdump_s3.content import HASH, Content
from sipdump_s3.errors import mismatch
from sipdump_s3.options import S3Options

__all__ = ["rewrite"]

_WAIT = 30.0
_DRAFTS = ".compaction-"  # whoever compacts or rewrites next removes what a crash left


def rewrite(bucket: Bucket, key: str, inner: FolderBackend, options: S3Options, change: Change) -> Rewritten:
    """Replace an object.

    Args:
        bucket: where it is.
        key: its key.
        inner: the backend of its format.
        options: the backend's options.
        change: what becomes of its records.

    Raises:
        StorageError: the object was replaced meanwhile, the server refuses, or the format cannot rewrite.
    """
    folder = inner.site.folder
    with alone(folder, "rewrite", _WAIT):
        try:
            with tempfile.TemporaryDirectory(prefix=_DRAFTS, dir=folder) as drafts:
                return _rewrite(bucket, key, inner, options, change, drafts)
        except OSError as error:
            raise StorageError.from_os("rewrite", bucket.address(key), error) from error


def _rewrite(
    bucket: Bucket, key: str, inner: FolderBackend, options: S3Options, change: Change, drafts: str
) -> Rewritten:
    draft = os.path.join(drafts, "new")
    with open(os.path.join(drafts, key.rpartition("/")[2]), "x+b") as file:
        there = bucket.version(key)
        bucket.get(key, file)
        file.seek(0)
        done = inner.rewrite_file(file, draft, change)
    if not done.changed:
        return done
    if not done.kept + done.masked:
        for _, error in bucket.delete([key]):
            if error:
                raise error
        bucket.forget_version(key, there)
        return done
    with open(draft, "rb") as made:
        found = inner.count_records(made)
        if found != done.kept + done.masked:
            reason = f"what was written has {found} records of {done.kept + done.masked}; it is as it was"
            raise StorageError("rewrite", bucket.address(key), reason)
        made.seek(0)
        content = Content.of(made, options.part_bytes, bucket.checksum)
        metadata = {name: value for name, value in there.metadata.items() if name != HASH}
        if "sipdump-records" in metadata:
            metadata["sipdump-records"] = str(found)
        bucket.replace(key, made, content, metadata, there)
    stored = bucket.head(key)
    if stored is None or not stored.holds(content):
        raise mismatch("rewrite", bucket.address(key), "what is stored is not what was sent")
    bucket.forget_version(key, there)
    return done

"""An object as a file of which only what is read is fetched."""

import io
from typing import NamedTuple

from sipdump_s3.bucket import Bucket

__all__ = ["RemoteFile", "Tail", "tail_of"]

_TAIL = 1 << 16
"""Bytes at the end that are fetched first: a Parquet file's footer, and often all of a small object."""
_AHEAD = 1 << 16
"""Bytes that are fetched at least."""


class Tail(NamedTuple):
    """The end of an object, and what identifies its content."""

    size: int
    """Of the whole object."""
    etag: str
    data: bytes


def tail_of(bucket: Bucket, key: str) -> Tail:
    """Fetch an object's end.

    Raises:
        S3Error: there is no such object, or the server does not answer.
    """
    return Tail(*bucket.tail(key, _TAIL))


class RemoteFile(io.RawIOBase):
    """An object, opened for reading.

    All of it is read from one content: an object that is replaced meanwhile is an error.

    Args:
        bucket: where it is.
        key: its key.
        tail: its end.
    """

    remote = True

    def __init__(self, bucket: Bucket, key: str, tail: Tail) -> None:
        super().__init__()
        self.name = bucket.address(key)
        self.identity = (self.name, tail.size, tail.etag)
        self._bucket = bucket
        self._key = key
        self._tail = tail
        self._at = 0
        self._ahead = (0, b"")
        """What was fetched last, and where it begins."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._tail.size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes, fewer only at the end.

        Raises:
            S3Error: the server does not answer, or the object is gone or was replaced.
        """
        left = max(0, self._tail.size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if not size:
            return b""
        known = (self._tail.size - len(self._tail.data), self._tail.data)
        for begin, data in (known, self._ahead):
            if begin <= self._at and self._at + size <= begin + len(data):
                break
        else:
            length = min(max(size, _AHEAD), left)
            begin, data = self._ahead = self._at, self._bucket.part(self._key, self._at, length, self._tail.etag)
        found = data[self._at - begin : self._at - begin + size]
        self._at += len(found)
        return found

    def readall(self) -> bytes:
        """Read all that is left."""
        return self.read()

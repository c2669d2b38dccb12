"""What a file holds and what an object holds, as sums that can be compared."""

import base64
import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

import attrs

__all__ = ["CHECKSUM_FIELDS", "HASH", "Content", "Found", "Part"]

HASH = "sipdump-sha256"
"""The metadata that keeps an object's SHA-256."""
CHECKSUM_FIELDS = {"sha256": "ChecksumSHA256", "crc32": "ChecksumCRC32", "md5": "ContentMD5"}
"""S3's name for each kind of checksum that the option ``checksum`` has, but ``none``."""
_MAX_PARTS = 10_000
_CHUNK = 1 << 20


class Part(NamedTuple):
    """A piece of a file."""

    offset: int
    length: int
    md5: bytes
    checksum: str
    """The checksum that the server verifies, in base64; empty for none."""


@attrs.frozen
class Content:
    """What a file holds, described by its sums."""

    sha256: str
    size: int
    parts: Sequence[Part]
    checksum: str
    """The kind of the parts' checksums, as in the option ``checksum``."""

    @classmethod
    def of(cls, file: BinaryIO, part_bytes: int, checksum: str) -> "Content":
        """Read a file through, once.

        Raises:
            OSError: it cannot be read.
        """
        size = file.seek(0, io.SEEK_END)
        part_bytes = max(part_bytes, -(-size // _MAX_PARTS))
        whole = hashlib.sha256()
        parts = []
        for offset in range(0, size, part_bytes) or (0,):
            file.seek(offset)
            left = length = min(part_bytes, size - offset)
            sums = _Sums(checksum)
            while left:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    raise OSError(f"the file got shorter than its {size} bytes while it was read")
                whole.update(chunk)
                sums.update(chunk)
                left -= len(chunk)
            parts.append(Part(offset, length, sums.md5.digest(), sums.encoded()))
        return cls(whole.hexdigest(), size, parts, checksum)

    @property
    def etag(self) -> str:
        """The ETag that S3 computes: the MD5, or the MD5 of the parts' MD5s with the number of parts."""
        if len(self.parts) == 1:
            return self.parts[0].md5.hex()
        joined = b"".join(part.md5 for part in self.parts)
        return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(self.parts)}"

    @property
    def composite(self) -> str:
        """The checksum that S3 computes of the whole: the only part's, or that of all parts' with their number."""
        if len(self.parts) == 1:
            return self.parts[0].checksum
        sums = _Sums(self.checksum)
        sums.update(b"".join(base64.b64decode(part.checksum) for part in self.parts))
        return f"{sums.encoded()}-{len(self.parts)}"


@attrs.frozen
class Found:
    """An object as HEAD describes it."""

    size: int
    etag: str
    """Empty where it is not an MD5, as with keys of KMS."""
    checksum: str
    """The server's own checksum, of the kind that is sent; empty where it has none."""
    metadata: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """The content's SHA-256 according to the metadata; empty where they lack it."""
        return self.metadata.get(HASH, "")

    def claims(self, content: Content) -> bool:
        """Return whether this object was meant to hold that content."""
        if self.sha256:
            return self.sha256 == content.sha256
        return self.size == content.size and self.etag == content.etag  # a server that keeps no metadata

    def holds(self, content: Content) -> bool:
        """Return whether it does hold that content, by every sum that the server reports."""
        if self.size != content.size:
            return False
        if content.checksum == "none":
            return True
        # a sum of another form belongs to an upload in other parts
        etags_differ = _same_form(self.etag, content.etag) and self.etag != content.etag
        sums_differ = _same_form(self.checksum, content.composite) and self.checksum != content.composite
        return not (etags_differ or sums_differ)


class _Sums:
    def __init__(self, checksum: str) -> None:
        self._kind = checksum
        self.md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._crc32 = 0

    def update(self, data: bytes) -> None:
        self.md5.update(data)
        if self._kind == "sha256":
            self._sha256.update(data)
        elif self._kind == "crc32":
            self._crc32 = zlib.crc32(data, self._crc32)

    def encoded(self) -> str:
        digests = {"sha256": self._sha256.digest(), "crc32": self._crc32.to_bytes(4), "md5": self.md5.digest()}
        return base64.b64encode(digests.get(self._kind, b"")).decode()


def _same_form(one: str, other: str) -> bool:
    """Return whether two sums can be compared: both are there, and of as many parts."""
    return bool(one and other) and one.partition("-")[2] == other.partition("-")[2]

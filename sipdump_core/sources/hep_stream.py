"""Cutting the frames out of a stream of HEP3, compressed ones among them (heplify's ``payload_zip`` over TCP)."""

import re
import zlib
from collections.abc import Iterator
from typing import Any

from sipdump_core.errors import FormatError
from sipdump_core.sources.compression import COMPRESSED, grown_too_far, is_compressed

__all__ = ["FrameReader"]

_MAGICS = (b"HEP3", b"EEP3")
_START = re.compile(rb"[HE]EP3|" + COMPRESSED.pattern)
_FRAME_MAX = 65535
_PIECE = 4096
"""Bytes of the stream that are inflated at a time: what follows a member in its last piece is copied."""


class FrameReader:
    """Cuts whole frames off a stream; an incomplete one waits for the rest of it.

    After garbage it goes on at the next magic.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._member: Any = None
        """Inflates a member, of gzip or zlib, that is not whole yet, as its bytes come; they stay in the buffer."""
        self._taken = 0
        self._inflated = bytearray()

    @property
    def waiting(self) -> int:
        """How many bytes wait for the rest of their frame."""
        return len(self._buffer)

    def clear(self) -> None:
        """Forget what waits."""
        self._buffer.clear()
        self._end_member()

    def feed(self, data: bytes) -> Iterator[bytes | FormatError]:
        """Take bytes, and yield the frames that are whole now; and one FormatError for all that it passes over."""
        buffer = self._buffer
        buffer += data
        passed = 0
        while self._member or len(buffer) >= 6:
            total = int.from_bytes(buffer[4:6], "big")
            plain = total >= 6 and buffer.startswith(_MAGICS)
            compressed = self._member or (not plain and is_compressed(buffer))
            if not plain and not compressed:
                found = _START.search(buffer, 1)
                start = found.start() if found else len(buffer) - 3  # a magic may begin in the last three bytes
                del buffer[:start]
                passed += start
                continue
            if passed:
                yield _garbage(passed)
                passed = 0
            if compressed:
                yield from self._inflate()
                if self._member:
                    return
            elif len(buffer) < total:
                return
            else:
                frame = bytes(buffer[:total])
                del buffer[:total]
                yield frame
        if passed:
            yield _garbage(passed)

    def _inflate(self) -> Iterator[bytes | FormatError]:
        """Inflate what has come of a member, and yield the frames in it when it is whole."""
        buffer, out = self._buffer, self._inflated
        member = self._member = self._member or zlib.decompressobj(zlib.MAX_WBITS | 32)
        fault = ""
        while not (fault or member.eof) and self._taken < len(buffer):
            piece = buffer[self._taken : self._taken + _PIECE]
            self._taken += len(piece)
            try:
                out += member.decompress(piece, _FRAME_MAX + 1 - len(out))
            except zlib.error as error:
                fault = f"damaged gzip or zlib in the stream: {error}"
            if grown_too_far(self._taken, len(out)):
                fault = f"gzip or zlib in the stream that grows to {len(out)} bytes from {self._taken}"
            elif max(len(out), self._taken // 2) > _FRAME_MAX:
                fault = f"gzip or zlib in the stream that grows past {_FRAME_MAX} bytes"
        self._taken -= len(member.unused_data)
        if fault:
            del buffer[:1]  # from its magic on, it is garbage
            self._end_member()
            yield FormatError(fault)
        elif member.eof:
            del buffer[: self._taken]
            while out:
                total = int.from_bytes(out[4:6], "big")
                size = total if out.startswith(_MAGICS) and 6 <= total <= len(out) else len(out)
                yield bytes(out[:size])
                del out[:size]
            self._end_member()

    def _end_member(self) -> None:
        self._member = None
        self._taken = 0
        self._inflated.clear()


def _garbage(size: int) -> FormatError:
    return FormatError(f"no HEP3 frame: {size} bytes of something else in the stream")

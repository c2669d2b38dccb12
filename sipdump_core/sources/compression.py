"""Compressed HEP: payloads (chunk 0x10), and frames as a whole.

captagent and OpenSIPS compress payloads with zlib, heplify gzips frames (``payload_zip``); others use raw deflate.
"""

import re
import zlib

from sipdump_core.errors import FormatError

__all__ = ["COMPRESSED", "first_bytes", "grown_too_far", "inflate", "is_compressed"]

COMPRESSED = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")
"""How gzip (RFC 1952) and zlib (RFC 1950, with its usual window of 32 KiB) begin; raw deflate has no mark."""
_GZIP = b"\x1f\x8b"
_KINDS = (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS)  # zlib or gzip by their headers; raw deflate has none
_FREE = 4096
_RATIO = 100


def is_compressed(data: bytes | bytearray) -> bool:
    """Return whether data begins as gzip or zlib does."""
    return COMPRESSED.match(data) is not None


def grown_too_far(taken: int, out: int) -> bool:
    """Return whether ``out`` bytes are more than ``taken`` compressed bytes of SIP can be.

    deflate makes a thousand of one; of messages, even long and repetitive ones, it makes thirty.
    """
    return out > _FREE + _RATIO * taken


def inflate(data: bytes, limit: int) -> bytes:
    """Decompress zlib, gzip or raw deflate data, whichever it is, to at most ``limit`` bytes, and a hundred times.

    gzip members that follow one another are one (RFC 1952, section 2.2).

    Raises:
        FormatError: it is none of these, is damaged, or would grow past the limit.
    """
    limit = min(limit, _FREE + _RATIO * len(data))
    for wbits in _KINDS:
        rest, out = data, b""
        while True:
            machine = zlib.decompressobj(wbits)
            try:
                out += machine.decompress(rest, limit + 1 - len(out))
            except zlib.error:
                break
            if len(out) > limit:
                raise FormatError(f"compressed data grows past {limit} bytes, from {len(data)}")
            if not machine.eof:
                break
            rest = machine.unused_data
            if not rest.startswith(_GZIP):
                return out
    raise FormatError("compressed data is neither zlib, gzip nor raw deflate, or is cut")


def first_bytes(data: bytes, size: int) -> bytes:
    """Return at most ``size`` bytes of zlib or gzip data, nothing of what is neither."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, size)
    except zlib.error:
        return b""

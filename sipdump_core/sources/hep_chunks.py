"""The chunks of a HEP3 frame: their numbers, how they are read, and a look at the key before anything else."""

import hmac
import struct

from sipdump_core.errors import FormatError

__all__ = [
    "AGENT",
    "AUTH",
    "COMPRESSED",
    "CORRELATION",
    "DST4",
    "DST6",
    "FAMILY",
    "FRAME_MAX",
    "MAGICS",
    "MICROS",
    "NODE",
    "NUMBERS",
    "PAYLOAD",
    "DPORT",
    "PROTO",
    "SECONDS",
    "SPORT",
    "SRC4",
    "SRC6",
    "TYPE",
    "may_have_key",
    "read_chunks",
]

FRAME_MAX = 65535
"""The longest HEP3 frame, header included: its length is a 16-bit number."""
MAGICS = (b"HEP3", b"EEP3")

# chunk types of the generic vendor, 0
FAMILY, PROTO, SRC4, DST4, SRC6, DST6, SPORT, DPORT, SECONDS, MICROS, TYPE, AGENT = range(1, 13)
_KEEPALIVE, AUTH, PAYLOAD, COMPRESSED, CORRELATION, _VLAN, NODE = range(13, 20)
NUMBERS = {FAMILY: 1, PROTO: 1, SPORT: 2, DPORT: 2, SECONDS: 4, MICROS: 4, TYPE: 1, AGENT: 4}
"""The chunks that hold a number, and of how many bytes."""

_CHUNK = struct.Struct(">HHH")
_KEYS_TRIED = 8


def read_chunks(data: bytes) -> dict[int, bytes]:
    """Return the generic chunks of a HEP3 frame by type; the last of those that come twice. Others are skipped.

    Raises:
        FormatError: it is damaged.
    """
    total = int.from_bytes(data[4:6], "big")
    if not 6 <= total <= len(data):
        raise FormatError(f"HEP3 frame says {total} bytes, {len(data)} came")
    chunks: dict[int, bytes] = {}
    unpack = _CHUNK.unpack_from
    at, last = 6, total - 6
    while at <= last:
        vendor, kind, length = unpack(data, at)
        end = at + length
        if length < 6 or end > total:
            raise FormatError(f"HEP3 chunk {kind:#x} at offset {at} says {length} bytes, {total - at} are left")
        if not vendor:
            size = NUMBERS.get(kind, length - 6)
            # of a number that is too long the first bytes count, as in Kamailio; one that is too short is not there
            chunks[kind] = data[at + 6 : at + 6 + size] if size <= length - 6 else b""
        at = end
    if total == 6:
        raise FormatError("HEP3 frame without chunks")
    if at != total:
        raise FormatError(f"HEP3 frame ends with {total - at} stray bytes")
    return chunks


def may_have_key(data: bytes, key: bytes) -> bool:
    """Return whether the right key stands anywhere in a frame; reading its chunks takes a hundred times as long."""
    size = len(key)
    head = _CHUNK.pack(0, AUTH, size + 6)
    at = data.find(head)
    for _ in range(_KEYS_TRIED):  # other chunks may hold such bytes by chance
        if at < 0:
            return False
        if hmac.compare_digest(data[at + 6 : at + 6 + size], key):
            return True
        at = data.find(head, at + 1)
    return False

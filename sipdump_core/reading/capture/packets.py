"""Packets of pcap and pcapng files, of either byte order and any resolution of time.

Sources: pcap, draft-ietf-opsawg-pcap; pcapng, draft-ietf-opsawg-pcapng.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from sipdump_core.errors import FormatError

__all__ = ["Packet", "is_capture", "packets"]

_PCAP = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
"""Nanoseconds of a unit of time, by the magic number."""
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_ORDER = 0x1A2B3C4D
_COMMENT, _RESOLUTION, _OFFSET = 1, 9, 14
_LIMIT = 16 << 20
"""Bytes of a packet or block; a longer one is damage."""
_LAST_US = (1 << 32) * 1_000_000 - 1
"""The last time that a pcap file can have, in 2106; later ones, and those before 1970, are clamped."""


class Packet(NamedTuple):
    """A captured packet."""

    linktype: int
    """What its first header is: https://www.tcpdump.org/linktypes.html."""
    time_us: int
    """Microseconds since the epoch."""
    data: bytes
    length: int
    """Bytes that it had on the wire; more than ``data`` has, where the capture was cut."""
    comment: str = ""
    """Its comment (pcapng)."""


def is_capture(head: bytes) -> bool:
    """Return whether a file that begins with these four bytes is a pcap or pcapng file."""
    return len(head) >= 4 and (
        int.from_bytes(head[:4], "big") in (*_PCAP, _SECTION) or int.from_bytes(head[:4], "little") in _PCAP
    )


def packets(file: BinaryIO) -> Iterator[Packet]:
    """Yield the packets of a file, up to a torn tail.

    Args:
        file: open at its start, buffered.

    Raises:
        FormatError: it is neither pcap nor pcapng, or it is damaged.
    """
    head = file.read(4)
    if not is_capture(head):
        raise FormatError("it is neither a pcap nor a pcapng file")
    if int.from_bytes(head, "big") == _SECTION:
        return _pcapng(file, head)
    order = "<" if int.from_bytes(head, "little") in _PCAP else ">"
    return _pcap(file, order, _PCAP[struct.unpack(order + "I", head)[0]])


def _pcap(file: BinaryIO, order: str, unit_ns: int) -> Iterator[Packet]:
    rest = file.read(20)
    if len(rest) < 20:
        return
    linktype = struct.unpack(order + "16xI", rest)[0] & 0xFFFF  # above stands how long frame check sequences are
    header = struct.Struct(order + "IIII")
    read, size, unpack = file.read, header.size, header.unpack
    while len(head := read(size)) == size:
        seconds, fraction, captured, length = unpack(head)
        if captured > _LIMIT:
            raise FormatError(f"a packet of {captured} bytes: the file is damaged from here on")
        data = read(captured)
        if len(data) < captured:
            return
        yield Packet(linktype, seconds * 1_000_000 + fraction * unit_ns // 1000, data, length)


class _Interface(NamedTuple):
    linktype: int
    snaplen: int
    units: int
    """Units of time in a second."""
    offset: int
    """Seconds that are added to times."""


def _pcapng(file: BinaryIO, first: bytes) -> Iterator[Packet]:
    order, kind = "<", first
    interfaces: list[_Interface] = []
    while len(kind) == 4:
        size = file.read(4)
        if len(size) < 4:
            return
        if kind == first:  # the same in either byte order; this is what tells it
            body = file.read(4)
            if len(body) < 4:
                return
            order = "<" if body == struct.pack("<I", _ORDER) else ">"
            interfaces = []
        else:
            body = b""
        length = struct.unpack(order + "I", size)[0]
        if not 12 <= length <= _LIMIT or length % 4:
            raise FormatError(f"a block of {length} bytes: the file is damaged from here on")
        body += file.read(length - 8 - len(body))
        if len(body) < length - 8:
            return
        number = struct.unpack(order + "I", kind)[0]
        if number == _INTERFACE:
            interfaces.append(_interface(order, body[:-4]))
        elif number in (_PACKET, _OLD_PACKET, _SIMPLE):
            packet = _packet(order, number, body[:-4], interfaces)
            if packet:
                yield packet
        kind = file.read(4)


def _interface(order: str, body: bytes) -> _Interface:
    if len(body) < 8:
        raise FormatError("an interface without its header: the file is damaged")
    linktype, snaplen = struct.unpack_from(order + "HxxI", body)
    units, offset = 1_000_000, 0
    for code, value in _options(order, body, 8):
        if code == _RESOLUTION and value:
            units = 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == _OFFSET and len(value) >= 8:
            offset = struct.unpack_from(order + "q", value)[0]
    return _Interface(linktype, snaplen, units, offset)


def _packet(order: str, kind: int, body: bytes, interfaces: list[_Interface]) -> Packet | None:
    """Read a packet block; None where its interface is not known, or it is too short."""
    if kind == _SIMPLE:  # it has no time, and lengths of its own
        if not interfaces or len(body) < 4:
            return None
        length = struct.unpack_from(order + "I", body)[0]
        captured = min(length, interfaces[0].snaplen or length, len(body) - 4)
        return Packet(interfaces[0].linktype, 0, body[4 : 4 + captured], length)
    if len(body) < 20:
        return None
    form = order + ("IIIII" if kind == _PACKET else "HxxIIII")
    number, high, low, captured, length = struct.unpack_from(form, body)
    if number >= len(interfaces) or captured > len(body) - 20:
        return None
    interface = interfaces[number]
    time_us = ((high << 32 | low) * 1_000_000 // interface.units) + interface.offset * 1_000_000
    time_us = min(max(time_us, 0), _LAST_US)
    comments = [value for code, value in _options(order, body, 20 + captured + -captured % 4) if code == _COMMENT]
    comment = comments[0].decode("utf-8", "replace") if comments else ""
    return Packet(interface.linktype, time_us, body[20 : 20 + captured], length, comment)


def _options(order: str, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        if code == 0:
            return
        yield code, body[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4

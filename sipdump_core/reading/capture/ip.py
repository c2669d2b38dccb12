"""From a frame to what UDP and TCP carry: link layers, IPv4 and IPv6, tunnels, fragments.

Sources: https://www.tcpdump.org/linktypes.html; RFC 791 (IPv4), RFC 8200 (IPv6), RFC 2003 and 2473 (IP in IP),
RFC 2784 (GRE), RFC 2516 (PPPoE), RFC 3032 (MPLS).
"""

import socket
import struct
from typing import NamedTuple

from sipdump_core.cache import Cache

__all__ = ["TCP", "UDP", "Datagram", "Reassembler", "Segment", "address", "network", "segment"]

TCP, UDP = 6, 17
_IPV4, _IPV6 = 0x0800, 0x86DD
_TAGS = frozenset((0x8100, 0x88A8, 0x9100))
_PPPOE, _PPP = 0x8864, {0x0021: _IPV4, 0x0057: _IPV6}
_MPLS = frozenset((0x8847, 0x8848))
_VERSIONS = {4: _IPV4, 6: _IPV6}
_ETHERNET, _NULL, _RAW, _LOOP, _SLL, _SLL2 = 1, 0, 101, 108, 113, 276
_RAW_TOO = frozenset((12, 14, _RAW))
_LINK_IPV4, _LINK_IPV6 = 228, 229
_FAMILIES = {2: _IPV4, 10: _IPV6, 24: _IPV6, 28: _IPV6, 30: _IPV6}
"""AF_INET and AF_INET6 of the systems that write such captures."""
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION = 0, 43, 44, 51, 60
_IN_IPV4, _IN_IPV6, _GRE = 4, 41, 47
_MAX_NESTED = 8
_MAX_FRAGMENTED = 4096
_MAX_PIECES = 1500
"""Fragments of a packet: no network takes so little that it has to be cut into more (RFC 791: 68 bytes)."""
_MAX_BYTES = 65535 + 40
_FRAGMENT_TIME_US = 60_000_000  # RFC 8200, section 4.5


class Datagram(NamedTuple):
    """What an IP packet carries, whole."""

    proto: int
    """``UDP``, ``TCP`` or another protocol's number."""
    src: bytes
    """The address, 4 or 16 bytes."""
    dst: bytes
    data: bytes
    missing: int
    """How many bytes more it had; they were not captured."""


class Segment(NamedTuple):
    """A UDP datagram, or a TCP segment."""

    src_port: int
    dst_port: int
    data: bytes
    sequence: int = 0
    flags: int = 0


def network(linktype: int, frame: bytes) -> tuple[int, int]:
    """Return EtherType and offset of what a frame carries; EtherType 0 where that is not IP."""
    try:
        return _network(linktype, frame)
    except (IndexError, struct.error):
        return 0, 0


def _network(linktype: int, frame: bytes) -> tuple[int, int]:
    if linktype == _ETHERNET:
        return _within(frame, frame[12] << 8 | frame[13], 14)
    if linktype == _SLL:
        return _within(frame, frame[14] << 8 | frame[15], 16)
    if linktype == _SLL2:
        return _within(frame, frame[0] << 8 | frame[1], 20)
    if linktype == _NULL:  # in the byte order of the machine that captured it
        return _FAMILIES.get(min(int.from_bytes(frame[:4], "big"), int.from_bytes(frame[:4], "little")), 0), 4
    if linktype == _LOOP:
        return _FAMILIES.get(int.from_bytes(frame[:4], "big"), 0), 4
    if linktype in _RAW_TOO or linktype in (_LINK_IPV4, _LINK_IPV6):
        return _VERSIONS.get(frame[0] >> 4, 0), 0
    return 0, 0


def _within(frame: bytes, kind: int, at: int) -> tuple[int, int]:
    """Return EtherType and offset of what VLAN tags, PPPoE and MPLS carry."""
    while kind in _TAGS:
        kind = frame[at + 2] << 8 | frame[at + 3]
        at += 4
    if kind == _PPPOE:
        return _PPP.get(frame[at + 6] << 8 | frame[at + 7], 0), at + 8
    if kind in _MPLS:
        while not frame[at + 2] & 1:  # the bottom of the stack
            at += 4
        return _VERSIONS.get(frame[at + 4] >> 4, 0), at + 4
    return kind, at


class Reassembler:
    """Takes IP packets, and returns what they carry when it is whole."""

    def __init__(self) -> None:
        self._parts: dict[tuple[bytes, bytes, int, int], _Parts] = {}
        self.incomplete = 0
        """Packets of which fragments are missing."""
        self.unreadable = 0
        """Packets that were cut within their headers."""

    def take(self, ethertype: int, packet: bytes, at: int, time_us: int) -> Datagram | None:
        """Read an IP packet.

        Args:
            ethertype: what it is.
            packet: the frame.
            at: where the IP header begins in it.
            time_us: when it was captured.

        Returns:
            What it carries, or what it makes whole; None where more fragments have to come, and for what is not IP.
        """
        try:
            return self._take(ethertype, packet[at:], time_us, 0)
        except (IndexError, struct.error):
            self.unreadable += 1
            return None

    def finish(self) -> None:
        """Count what stays incomplete."""
        self.incomplete += len(self._parts)
        self._parts.clear()

    def _take(self, ethertype: int, packet: bytes, time_us: int, depth: int) -> Datagram | None:
        if depth > _MAX_NESTED:
            return None
        if ethertype == _IPV4:
            found = self._ipv4(packet, time_us)
        elif ethertype == _IPV6:
            found = self._ipv6(packet, time_us)
        else:
            return None
        if found is None:
            return None
        if found.proto == _IN_IPV4:
            return self._take(_IPV4, found.data, time_us, depth + 1)
        if found.proto == _IN_IPV6:
            return self._take(_IPV6, found.data, time_us, depth + 1)
        if found.proto == _GRE:
            flags, kind = struct.unpack_from(">HH", found.data)
            optional = sum(4 for bit in (0x8000, 0x2000, 0x1000) if flags & bit)  # checksum, key, sequence
            return self._take(kind, found.data[4 + optional :], time_us, depth + 1)
        return found

    def _ipv4(self, packet: bytes, time_us: int) -> Datagram | None:
        length, ident, fragment = struct.unpack_from(">2xHHH", packet)
        head = (packet[0] & 15) * 4
        if packet[0] >> 4 != 4 or head < 20:
            return None
        if len(packet) < head:
            raise IndexError("the packet was cut within its headers")
        proto, src, dst = packet[9], packet[12:16], packet[16:20]
        length = length or len(packet)  # 0 where the network card cuts segments (TSO)
        data = packet[head:length]
        missing = max(length - len(packet), 0)
        offset, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
        if offset or more:
            return self._fragment((src, dst, proto, ident), offset, more, data, missing, time_us)
        return Datagram(proto, src, dst, data, missing)

    def _ipv6(self, packet: bytes, time_us: int) -> Datagram | None:
        length, following = struct.unpack_from(">4xHB", packet)
        if packet[0] >> 4 != 6:
            return None
        if len(packet) < 40:
            raise IndexError("the packet was cut within its headers")
        src, dst = packet[8:24], packet[24:40]
        end = 40 + length if length else len(packet)
        at, missing = 40, max(end - len(packet), 0)
        for _ in range(_MAX_NESTED):
            if following in (_HOP_BY_HOP, _ROUTING, _DESTINATION):
                following, at = packet[at], at + (packet[at + 1] + 1) * 8
            elif following == _AH:
                following, at = packet[at], at + (packet[at + 1] + 2) * 4
            elif following == _FRAGMENT:
                proto, fragment, ident = struct.unpack_from(">BxHI", packet, at)
                key = (src, dst, proto, ident)
                data = packet[at + 8 : end]
                return self._fragment(key, fragment & 0xFFF8, bool(fragment & 1), data, missing, time_us)
            else:
                break
        return Datagram(following, src, dst, packet[at:end], missing)

    def _fragment(
        self, key: tuple[bytes, bytes, int, int], offset: int, more: bool, data: bytes, missing: int, time_us: int
    ) -> Datagram | None:
        parts = self._parts.get(key)
        if parts is None or time_us - parts.time_us > _FRAGMENT_TIME_US:
            self.incomplete += parts is not None
            self._parts.pop(key, None)
            if len(self._parts) >= _MAX_FRAGMENTED:
                self._parts.pop(next(iter(self._parts)))
                self.incomplete += 1
            parts = self._parts[key] = _Parts(time_us)
        if offset + len(data) > _MAX_BYTES:
            return None
        parts.add(offset, data, missing, last=not more)
        whole = parts.whole()
        if whole is None:
            return None
        del self._parts[key]
        src, dst, proto, _ = key
        return Datagram(proto, src, dst, whole, parts.missing)


class _Parts:
    """The fragments of one packet."""

    def __init__(self, time_us: int) -> None:
        self.time_us = time_us
        self.missing = 0
        """Bytes of the last fragment that were not captured."""
        self._end = -1
        self._bytes = 0
        self._pieces: dict[int, bytes] = {}

    def add(self, offset: int, data: bytes, missing: int, *, last: bool) -> None:
        if last:
            self._end = offset + len(data)
            self.missing = missing
        known = len(self._pieces.get(offset, b""))
        if known < len(data) and len(self._pieces) < _MAX_PIECES:
            self._pieces[offset] = data
            self._bytes += len(data) - known

    def whole(self) -> bytes | None:
        if self._end < 0 or self._bytes < self._end:
            return None
        data = bytearray()
        for offset in sorted(self._pieces):
            if offset > len(data):
                return None
            data += self._pieces[offset][len(data) - offset :]
        return bytes(data[: self._end]) if len(data) >= self._end else None


_TEXTS: Cache[bytes, str] = Cache()


def address(packed: bytes) -> str:
    """Return an address of 4 or 16 bytes as text."""
    text = _TEXTS.get(packed)
    if text is None:
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        text = _TEXTS.keep(packed, socket.inet_ntop(family, packed))
    return text


def segment(datagram: Datagram) -> Segment | None:
    """Read the header of UDP or TCP; None for other protocols, and where it is not whole."""
    data = datagram.data
    if datagram.proto == UDP and len(data) >= 8:
        src, dst, length = struct.unpack_from(">HHH", data)
        return Segment(src, dst, data[8 : length if length >= 8 else None])
    if datagram.proto == TCP and len(data) >= 20:
        src, dst, sequence, offset, flags = struct.unpack_from(">HHI4xBB", data)
        head = (offset >> 4) * 4
        if head >= 20:
            return Segment(src, dst, data[head:], sequence, flags)
    return None

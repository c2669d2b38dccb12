"""Reading ``.pcap`` files: of any byte order and resolution, ours and Kamailio's.

The P-KSR-SIPDump header is taken out, and believed, only where flag 8 wrote it: anybody can send a message with such a
line. Three things tell:

- The frame. Ours and Kamailio's have MAC addresses, identification and flow label 0, so captures of a network don't
  count; and where :mod:`sipdump_pcap.backend` stores a message that came with such a line, it sets a 1 there.
- The place, behind the start line.
- In files with another snaplen than ours, which are Kamailio's or of an earlier version: all other messages of the
  file. Flag 8 is on or off for a whole file, so one message without the line shows that it was off.
"""

import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import attrs

from sipdump_core.cache import Cache
from sipdump_core.log import Event, log
from sipdump_core.record import AFS, Flow, Record
from sipdump_pcap.frame import (
    FILE_HEADER,
    IPV4_HEADERS,
    IPV4_MIDDLE,
    IPV4_START,
    IPV6_HEADERS,
    IPV6_MIDDLE,
    IPV6_START,
    MAGIC,
    MAGIC_NANOSECONDS,
    SNAPLEN,
)
from sipdump_pcap.header import NAME, split

__all__ = ["PACKET_LIMIT", "Format", "Reader", "Source", "decode"]

_ETHERNET_MINIMUM = 60
PACKET_LIMIT = 1 << 18
"""libpcap's MAXIMUM_SNAPLEN: a longer packet is damage."""
_CHUNK = 1 << 20
_IPV4_TYPE = 0x08  # the first byte of its EtherType

_Packets = Iterator[tuple[int, int, bytes, int, int]]
_Flows = Cache[bytes, Flow]
"""Flows by addresses, ports and the header's line, as they are in the packet."""


def decode(file: BinaryIO) -> Iterator[Record]:
    """Yield a file's records in order, up to a torn tail; skip and log what is not UDP.

    Args:
        file: open for reading, at a file's start; its ``name`` goes into the log.
    """
    kind = Format.of(file.read(FILE_HEADER.size))
    if kind is None:
        log.warning(Event("not a pcap file", path=file.name))
        return
    headed = True
    if not kind.ours and file.seekable():
        headed = kind.is_headed(file)
        file.seek(FILE_HEADER.size)
    reader = Reader(file, kind, headed)
    yield from reader.records()
    if reader.torn or reader.skipped:
        log.warning(
            Event("pcap segment is not whole", path=file.name, torn_bytes=reader.torn, other_packets=reader.skipped)
        )


class Source(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; none at the end."""


@attrs.frozen
class Format:
    """What a file's header says."""

    header: struct.Struct
    """That of a packet: seconds, their fraction, its length in the file, and its own."""
    ticks: int
    """How many of the fraction's units make a microsecond."""
    ours: bool
    """Whether it has our snaplen, so that its frames say which messages flag 8 has changed."""

    @classmethod
    def of(cls, head: bytes) -> "Format | None":
        """Read a file's header; return None where it is none of a pcap file."""
        order = next(
            (o for o in "<>" if head[:4] in (struct.pack(o + "I", m) for m in (MAGIC, MAGIC_NANOSECONDS))),
            "",
        )
        if not order or len(head) < FILE_HEADER.size:
            return None
        magic, _, _, _, _, snaplen, _ = struct.unpack(order + "IHHiIII", head)
        return cls(struct.Struct(order + "IIII"), 1000 if magic == MAGIC_NANOSECONDS else 1, snaplen == SNAPLEN)

    def is_headed(self, source: Source) -> bool:
        """Return whether flag 8 was on for a file, as its messages show.

        Args:
            source: open behind the file's header.
        """
        return _is_headed(Reader(source, self, headed=False).packets())


class Reader:
    """Reads records from a place on where a packet begins.

    Args:
        source: open at that place.
        kind: the file's format.
        headed: whether the P-KSR-SIPDump header is taken out, where the frame allows it.
        place: the offset.
        flows: what is known from before.
    """

    def __init__(
        self, source: Source, kind: Format, headed: bool, place: int = FILE_HEADER.size, flows: "_Flows | None" = None
    ) -> None:
        self._source = source
        self._kind = kind
        self._headed = headed
        self._offset = place  # of the bytes in memory
        self._at = 0  # behind the last packet in them
        self._flows: _Flows = Cache() if flows is None else flows
        self.torn = 0
        """Bytes at the file's end that are not a whole packet."""
        self.skipped = 0
        """Packets that did not become a record."""

    @property
    def place(self) -> int:
        """The offset behind the last packet that was read."""
        return self._offset + self._at

    def records(self) -> Iterator[Record]:
        """Yield the records up to the end."""
        return _records(self, self._kind.ticks, self._headed, self._flows)

    def packets(self) -> _Packets:
        """Yield the packets, as seconds, their fraction, and where the frame is: bytes, start and end."""
        unpack, size = self._kind.header.unpack_from, self._kind.header.size
        data, at = b"", 0
        while True:
            start = at + size
            if start <= len(data):
                seconds, fraction, length, _ = unpack(data, at)
                if length > PACKET_LIMIT:
                    self.torn = size
                    return
                end = start + length
                if end <= len(data):
                    self._at = end
                    yield seconds, fraction, data, start, end
                    at = end
                    continue
            chunk = self._source.read(_CHUNK)
            if not chunk:
                self.torn = len(data) - at
                return
            self._offset += at
            data, at = data[at:] + chunk, 0
            self._at = 0


def _is_headed(packets: _Packets) -> bool:
    """Return whether every message that can have the header's line has it, and there is one."""
    headed = False
    for _, _, data, start, end in packets:
        if not _is_ours(data, start):
            continue
        buf = data[start + (IPV4_HEADERS if data[start + 12] == _IPV4_TYPE else IPV6_HEADERS) : end]
        if b"\n" in buf:
            if split(buf) is None:
                return False
            headed = True
    return headed


def _is_ours(data: bytes, at: int) -> bool:
    """Return whether the frame at an offset has the headers that we, and Kamailio, write."""
    return (data.startswith(IPV4_START, at) and data.startswith(IPV4_MIDDLE, at + 18)) or (
        data.startswith(IPV6_START, at) and data.startswith(IPV6_MIDDLE, at + 20)
    )


def _records(reader: Reader, ticks: int, headed: bool, flows: _Flows) -> Iterator[Record]:
    """Yield the records of packets; those of known flows, plain and in our own frames, by the quick way."""
    for seconds, fraction, data, at, end in reader.packets():
        time_us = seconds * 1_000_000 + fraction // ticks
        if data.startswith(IPV4_START, at) and data.startswith(IPV4_MIDDLE, at + 18):
            start = at + IPV4_HEADERS
            key = data[at + 26 : at + 38]
        elif data.startswith(IPV6_START, at) and data.startswith(IPV6_MIDDLE, at + 20):
            start = at + IPV6_HEADERS
            key = data[at + 22 : at + 58]
        else:
            start = end
            key = b""
        if start < end and end - at > _ETHERNET_MINIMUM and data[start] > 13:
            line = data.find(b"\n", start, end) + 1 if headed else 0
            if line and data.startswith(NAME, line):
                behind = data.find(b"\n", line, end) + 1
                flow = flows.get(key + data[line:behind]) if behind else None
                if flow:
                    yield Record(time_us, flow, data[start:line] + data[behind:end])
                    continue
            else:
                flow = flows.get(key)
                if flow:
                    yield Record(time_us, flow, data[start:end])
                    continue
        record = _parse(time_us, data[at:end], headed, flows)
        if record:
            yield record
        else:
            reader.skipped += 1


def _parse(time_us: int, packet: bytes, headed: bool, flows: _Flows) -> Record | None:
    """Return the record in an Ethernet frame with a UDP datagram; None for any other frame."""
    if packet[12:14] == b"\x08\0" and len(packet) >= IPV4_HEADERS and packet[23] == socket.IPPROTO_UDP:
        at = 14 + (packet[14] & 15) * 4
        af, addresses, middle = "ipv4", packet[26:34], 4
    elif packet[12:14] == b"\x86\xdd" and len(packet) >= IPV6_HEADERS and packet[20] == socket.IPPROTO_UDP:
        at = 54
        af, addresses, middle = "ipv6", packet[22:54], 16
    else:
        return None
    if len(packet) < at + 8:
        return None
    src_port, dst_port, length = struct.unpack_from(">HHH", packet, at)
    # Ethernet pads short frames. On long ones the length is not believed: Kamailio's module lets it wrap.
    buf = packet[at + 8 : at + max(length, 8) if len(packet) <= _ETHERNET_MINIMUM else None]
    proto, pid, procno, line = "udp", 0, 0, b""
    found = split(buf) if headed and _is_ours(packet, 0) else None
    if found:
        proto, pid, procno = found.proto, found.pid, found.procno
        line, buf = buf[found.at : found.end], buf[: found.at] + buf[found.end :]
    key = addresses + packet[at : at + 4] + line
    flow = flows.get(key)
    if flow is None:
        src_ip, dst_ip = (socket.inet_ntop(AFS[af], address) for address in (addresses[:middle], addresses[middle:]))
        try:
            flow = Flow("pcap", pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port)
        except ValueError:
            return None
        flows.keep(key, flow)
    return Record(time_us, flow, buf)

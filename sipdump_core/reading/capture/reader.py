"""Records of a capture: what of it is SIP, over UDP, TCP and WebSocket."""

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import BinaryIO

import attrs

from sipdump_core.cache import Cache
from sipdump_core.reading.capture.framing import starts_message
from sipdump_core.reading.capture.ip import TCP, UDP, Datagram, Reassembler, Segment, address, network, segment
from sipdump_core.reading.capture.packets import Packet, packets
from sipdump_core.reading.capture.streams import Stream
from sipdump_core.record import Flow, Record

__all__ = ["CAPTURED", "CaptureCounts", "read_capture"]

CAPTURED = "cap"
"""The tag of a message that a capture saw: whether a server received or sent it, a capture does not say."""
_MAX_CONNECTIONS = 10_000
_OWN_COMMENT = re.compile(r"tag=(.*?) proto=(\w+) pid=(\d+) procno=(\d+)(?: node=(.*))?")


@attrs.define
class CaptureCounts:
    """What became of a capture's packets."""

    packets: int = 0
    records: int = 0
    other: int = 0
    """Packets that hold no SIP over UDP or TCP, nor a part of it."""
    truncated: int = 0
    """Messages of which the capture has only the beginning."""
    unreadable: int = 0
    """Packets that were cut within their headers."""
    incomplete: int = 0
    """IP packets of which fragments are missing."""
    lost: int = 0
    """Bytes of TCP connections that are missing."""

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return not (self.truncated or self.unreadable or self.incomplete or self.lost)


def read_capture(file: BinaryIO, counts: CaptureCounts | None = None, *, node: str = "") -> Iterator[Record]:
    """Yield the SIP messages of a pcap or pcapng file, in the order in which they were whole.

    A message has the time of the packet that completed it. Of a pcapng file that ``sipdump-read export`` wrote, tag,
    transport, process and node are as they were.

    Args:
        file: open at its start.
        counts: takes down what became of the packets.
        node: the records' node.

    Raises:
        FormatError: it is neither pcap nor pcapng, or it is damaged from some place on.
    """
    return _Reader(CaptureCounts() if counts is None else counts, node).read(file)


_StreamKey = tuple[bytes, int, bytes, int]


@attrs.define
class _Connection:
    """One direction of a TCP connection, with what the last packet said of it."""

    stream: Stream = attrs.field(factory=Stream)
    flow: Flow | None = None


class _Reader:
    def __init__(self, counts: CaptureCounts, node: str) -> None:
        self._counts = counts
        self._node = node
        self._reassembler = Reassembler()
        self._connections: OrderedDict[_StreamKey, _Connection] = OrderedDict()
        self._flows: Cache[tuple[object, ...], Flow] = Cache()

    def read(self, file: BinaryIO) -> Iterator[Record]:
        counts = self._counts
        try:
            for packet in packets(file):
                counts.packets += 1
                for record in self._records(packet):
                    counts.records += 1
                    yield record
        finally:
            self._reassembler.finish()
            counts.incomplete = self._reassembler.incomplete
            counts.unreadable = self._reassembler.unreadable
            left = [record for connection in self._connections.values() for record in self._ended(connection)]
        counts.records += len(left)
        yield from left

    def _records(self, packet: Packet) -> Iterator[Record]:
        kind, at = network(packet.linktype, packet.data)
        datagram = self._reassembler.take(kind, packet.data, at, packet.time_us) if kind else None
        found = segment(datagram) if datagram else None
        if datagram is None or found is None:
            self._counts.other += datagram is not None or not kind
            return
        if datagram.proto == UDP:
            if starts_message(found.data):
                self._counts.truncated += datagram.missing > 0
                yield Record(packet.time_us, self._flow(datagram, found, "udp", packet.comment), found.data)
            else:
                self._counts.other += 1
        elif datagram.proto == TCP:
            key = (datagram.src, found.src_port, datagram.dst, found.dst_port)
            connection = self._connections.get(key)
            if connection is None:
                if len(self._connections) >= _MAX_CONNECTIONS:
                    yield from self._ended(self._connections.popitem(last=False)[1])
                connection = self._connections[key] = _Connection()
            else:
                self._connections.move_to_end(key)
            stream = connection.stream
            proto = stream.proto
            for time_us, message in stream.take(
                found.sequence, found.flags, found.data, datagram.missing, packet.time_us
            ):
                proto = stream.proto
                yield Record(time_us, self._flow(datagram, found, proto, packet.comment), message)
            connection.flow = self._flow(datagram, found, proto, packet.comment)

    def _ended(self, connection: _Connection) -> list[Record]:
        """Return what is left of a connection that does not go on."""
        flow = connection.flow
        found = [Record(time_us, flow, message) for time_us, message in connection.stream.finish() if flow]
        self._counts.lost += connection.stream.lost
        self._counts.truncated += connection.stream.truncated
        return found

    def _flow(self, datagram: Datagram, found: Segment, proto: str, comment: str) -> Flow:
        key = (datagram.src, found.src_port, datagram.dst, found.dst_port, proto, comment)
        return self._flows.get(key) or self._flows.keep(key, self._make_flow(datagram, found, proto, comment))

    def _make_flow(self, datagram: Datagram, found: Segment, proto: str, comment: str) -> Flow:
        own = _OWN_COMMENT.fullmatch(comment)
        tag, pid, procno, node = (
            (own[1], int(own[3]), int(own[4]), own[5] or "") if own else (CAPTURED, 0, 0, self._node)
        )
        af = "ipv4" if len(datagram.src) == 4 else "ipv6"
        ends = (address(datagram.src), found.src_port, address(datagram.dst), found.dst_port)
        try:
            return Flow(tag, pid, procno, own[2] if own else proto, af, *ends, node)
        except ValueError:  # a comment of somebody else that looks like ours
            return Flow(CAPTURED, 0, 0, proto, af, *ends, self._node)

"""Records of a capture: what of it is SIP, over UDP, TCP and WebSocket."""

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import BinaryIO

import attrs

from sipdump_core.cache import Cache
from sipdump_core.reading.capture.ip import TCP, UDP, Datagram, Reassembler, Segment, address, network, segment
from sipdump_core.reading.capture.packets import Packet, packets
from sipdump_core.reading.capture.streams import Stream, starts_message
from sipdump_core.record import Flow, Record

__all__ = ["CAPTURED", "CaptureCounts", "read_capture"]

CAPTURED = "cap"
"""The tag of a message that a capture saw: whether a server received or sent it, a capture does not say."""
_MAX_STREAMS = 10_000
_OWN_COMMENT = re.compile(r"tag=(.*?) proto=(\w+) pid=(\d+) procno=(\d+)(?: node=(.*))?")


@attrs.define
class CaptureCounts:
    """What became of a capture's packets."""

    packets: int = 0
    records: int = 0
    other: int = 0
    """Packets that are no SIP over UDP or TCP, and no part of it."""
    truncated: int = 0
    """Messages of which the capture has only the beginning."""
    incomplete: int = 0
    """IP packets of which fragments are missing."""
    lost: int = 0
    """Bytes of TCP connections that are missing."""


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


class _Reader:
    def __init__(self, counts: CaptureCounts, node: str) -> None:
        self._counts = counts
        self._node = node
        self._reassembler = Reassembler()
        self._streams: OrderedDict[_StreamKey, Stream] = OrderedDict()
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
            counts.lost += sum(stream.lost for stream in self._streams.values())

    def _records(self, packet: Packet) -> Iterator[Record]:
        kind, at = network(packet.linktype, packet.data)
        datagram = self._reassembler.take(kind, packet.data, at, packet.time_us) if kind else None
        found = segment(datagram) if datagram else None
        if datagram is None or found is None:
            self._counts.other += datagram is not None or not kind
            return
        if datagram.proto == UDP:
            if starts_message(found.data):
                self._counts.truncated += datagram.cut
                yield Record(packet.time_us, self._flow(datagram, found, "udp", packet.comment), found.data)
            else:
                self._counts.other += 1
        elif datagram.proto == TCP:
            stream = self._stream((datagram.src, found.src_port, datagram.dst, found.dst_port))
            for message in stream.take(found.sequence, found.flags, found.data):
                yield Record(packet.time_us, self._flow(datagram, found, stream.proto, packet.comment), message)

    def _stream(self, key: _StreamKey) -> Stream:
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= _MAX_STREAMS:
                self._counts.lost += self._streams.popitem(last=False)[1].lost
            stream = self._streams[key] = Stream()
        else:
            self._streams.move_to_end(key)
        return stream

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

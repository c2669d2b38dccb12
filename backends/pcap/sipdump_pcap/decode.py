"""Reading ``.pcap`` files: of any byte order and resolution, ours and Kamailio's."""

import re
import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO

from sipdump_core.cache import Cache
from sipdump_core.log import Event, log
from sipdump_core.record import AFS, Flow, Record
from sipdump_pcap.frame import FILE_HEADER, IPV4_HEADERS, IPV6_HEADERS, MAGIC, MAGIC_NANOSECONDS

__all__ = ["decode"]

_ETHERNET_MINIMUM = 60
_HEADER_LINE = re.compile(rb"P-KSR-SIPDump: (udp|tcp|tls|sctp|wss?|none) pid=(-?\d{1,10}) pno=(-?\d{1,10})\r\n")
_PACKET_LIMIT = 1 << 18  # libpcap's MAXIMUM_SNAPLEN: a longer packet is damage

_Flows = Cache[tuple[str, int, int, bytes, int, bytes, int], Flow]


def decode(file: BinaryIO) -> Iterator[Record]:
    """Yield a file's records in order, up to a torn tail; skip and log what is not UDP.

    Args:
        file: open for reading, at a file's start; its ``name`` goes into the log.
    """
    head = file.read(FILE_HEADER.size)
    order = next(
        (o for o in "<>" if head[:4] in (struct.pack(o + "I", m) for m in (MAGIC, MAGIC_NANOSECONDS))),
        "",
    )
    if not order or len(head) < FILE_HEADER.size:
        log.warning(Event("not a pcap file", path=file.name))
        return
    ticks = 1000 if struct.unpack(order + "I", head[:4])[0] == MAGIC_NANOSECONDS else 1
    packet_header = struct.Struct(order + "IIII")
    flows: _Flows = Cache()
    skipped = 0
    while True:
        raw = file.read(packet_header.size)
        if len(raw) < packet_header.size:
            torn = len(raw)
            break
        seconds, fraction, length, _ = packet_header.unpack(raw)
        packet = file.read(length) if length <= _PACKET_LIMIT else b""
        if len(packet) < length:
            torn = len(raw) + len(packet)
            break
        record = _parse(seconds * 1_000_000 + fraction // ticks, packet, flows)
        if record:
            yield record
        else:
            skipped += 1
    if torn or skipped:
        log.warning(Event("pcap segment is not whole", path=file.name, torn_bytes=torn, other_packets=skipped))


def _parse(time_us: int, packet: bytes, flows: _Flows) -> Record | None:
    """Return the record in an Ethernet frame with a UDP datagram; None for any other frame."""
    ethertype = packet[12:14]
    if ethertype == b"\x08\0" and len(packet) >= IPV4_HEADERS and packet[23] == socket.IPPROTO_UDP:
        at = 14 + (packet[14] & 15) * 4
        af, source, destination = "ipv4", packet[26:30], packet[30:34]
    elif ethertype == b"\x86\xdd" and len(packet) >= IPV6_HEADERS and packet[20] == socket.IPPROTO_UDP:
        at = 54
        af, source, destination = "ipv6", packet[22:38], packet[38:54]
    else:
        return None
    if len(packet) < at + 8:
        return None
    src_port, dst_port, length = struct.unpack_from(">HHH", packet, at)
    # Ethernet pads short frames. On long ones the length is not believed: the C module lets it wrap.
    buf = packet[at + 8 : at + max(length, 8) if len(packet) <= _ETHERNET_MINIMUM else None]
    proto, pid, procno = "udp", 0, 0
    line = buf.find(b"\n") + 1
    header = _HEADER_LINE.match(buf, line) if line else None
    if header:
        proto, pid, procno = header[1].decode(), int(header[2]), int(header[3])
        buf = buf[:line] + buf[header.end() :]
    key = (proto, pid, procno, source, src_port, destination, dst_port)
    flow = flows.get(key)
    if flow is None:
        src_ip, dst_ip = (socket.inet_ntop(AFS[af], address) for address in (source, destination))
        try:
            flow = Flow("pcap", pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port)
        except ValueError:
            return None
        flows.keep(key, flow)
    return Record(time_us, flow, buf)

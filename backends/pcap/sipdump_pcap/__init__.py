"""The pcap backend and the P-KSR-SIPDump header: ``.pcap`` files as Kamailio's sipdump module writes them.

Classic pcap (draft-ietf-opsawg-pcap): magic a1b2c3d4 in host byte order, version 2.4, snaplen 65535, Ethernet. Each
message is one UDP datagram over IPv4 (TTL 128) or IPv6, whatever its transport was, MAC addresses zero (source:
``sipdump_write_pcap`` of Kamailio 5.6.3). Where that leaves checksums 0, the IPv4 header's is right here, and the UDP
checksum on IPv6, where 0 is not legal (RFC 8200, section 8.1).

A message that does not fit into the snaplen is cut; the packet's original length tells its true one.
"""

import re
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import attrs

from sipdump_core.drivers.base import Site, Transform
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.log import Event, Limit, log
from sipdump_core.record import AFS, Flow, Record

__all__ = ["HeaderTransform", "PcapBackend"]

SNAPLEN = 65535
_FILE_HEADER = struct.Struct("=IHHiIII")
_PACKET_HEADER = struct.Struct("=IIII")
_IPV4 = struct.Struct(">16sH6sH12sHH")  # Ethernet, IPv4 and UDP headers, see _Frame
_IPV6 = struct.Struct(">18sH2s36sHH")
_MAGIC = 0xA1B2C3D4
_MAGIC_NANOSECONDS = 0xA1B23C4D
_LINKTYPE_ETHERNET = 1
_MACS = bytes(12)
_IPV4_HEADERS = 14 + 20 + 8
_IPV6_HEADERS = 14 + 40 + 8
_ETHERNET_MINIMUM = 60
_CACHE_LIMIT = 10_000
_HEADER_LINE = re.compile(rb"P-KSR-SIPDump: (udp|tcp|tls|sctp|wss?|none) pid=(-?\d{1,10}) pno=(-?\d{1,10})\r\n")
_PACKET_LIMIT = 1 << 18  # as libpcap's MAXIMUM_SNAPLEN: a longer one is damage


@attrs.frozen
class _Frame:
    """What the frames of a flow have in common."""

    flow: Flow  # kept, so that no other flow can get its id
    before: bytes  # Ethernet header, and IP header up to the length
    between: bytes  # what stands in the IP header between the fields that vary with the length
    after: bytes  # the IP addresses, and the UDP ports
    sum: int  # one's complement sum of what never changes, for the checksum
    headers: int  # length of all headers, bytes


class PcapBackend(FolderBackend):
    """Writes and reads ``.pcap`` files.

    A packet keeps time, addresses, ports and the message; with the P-KSR-SIPDump header also proto, pid and procno.
    Tag and node have no place in it: records read back have the tag ``pcap``.
    """

    name = "pcap"
    flag = 4
    suffix = ".pcap"
    transformed = True
    loses = ("tag", "pid", "procno", "proto", "node")  # the P-KSR-SIPDump header has three of them, where it is on
    longest = SNAPLEN - _IPV6_HEADERS

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._frames: dict[int, _Frame] = {}
        self._cut = 0
        self._limit = Limit()

    def preamble(self) -> bytes:
        """Give the file header."""
        return _FILE_HEADER.pack(_MAGIC, 2, 4, 0, 0, SNAPLEN, _LINKTYPE_ETHERNET)

    def encode(self, batch: Sequence[Record]) -> bytes:
        """Give the records' packets."""
        parts: list[bytes] = []
        extend = parts.extend
        frames, packet, ipv4, ipv6 = self._frames, _PACKET_HEADER.pack, _IPV4.pack, _IPV6.pack
        for record, buf in zip(batch, self.bufs(batch), strict=True):
            frame = frames.get(id(record.flow)) or self._prepare(record.flow)
            seconds, micros = divmod(record.time_us, 1_000_000)
            seconds &= 0xFFFFFFFF
            full = frame.headers + len(buf)
            if full > SNAPLEN:
                extend((packet(seconds, micros, SNAPLEN, full), self._long(frame, buf)))
                continue
            if frame.headers == _IPV4_HEADERS:
                total = full - 14
                check = frame.sum + total
                check = 0xFFFF - (check & 0xFFFF) - (check >> 16)
                head = ipv4(frame.before, total, frame.between, check, frame.after, total - 20, 0)
            else:
                length = full - 54
                head = ipv6(frame.before, length, frame.between, frame.after, length, _checksum(frame, length, buf))
            extend((packet(seconds, micros, full, full), head, buf))
        return b"".join(parts)

    def record_size(self, record: Record) -> int:
        """Give the record's exact size."""
        (buf,) = self.bufs((record,))
        return _PACKET_HEADER.size + min(SNAPLEN, self._prepare(record.flow).headers + len(buf))

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Read packets of either byte order and resolution, up to a torn tail; what is no UDP is passed over."""
        head = file.read(_FILE_HEADER.size)
        order = next(
            (o for o in "<>" if head[:4] in (struct.pack(o + "I", m) for m in (_MAGIC, _MAGIC_NANOSECONDS))),
            "",
        )
        if not order or len(head) < _FILE_HEADER.size:
            log.warning(Event("no pcap file", path=file.name))
            return
        ticks = 1000 if struct.unpack(order + "I", head[:4])[0] == _MAGIC_NANOSECONDS else 1
        packet_header = struct.Struct(order + "IIII")
        flows: dict[tuple[Any, ...], Flow] = {}
        passed = 0
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
                passed += 1
        if torn or passed:
            log.warning(Event("pcap segment is not whole", path=file.name, torn_bytes=torn, other_packets=passed))

    def stats(self) -> Mapping[str, int]:
        """Give how many messages were cut."""
        return {"cut": self._cut}

    def _long(self, frame: _Frame, buf: bytes) -> bytes:
        """Give the frame of a message that is cut, with headers of the longest datagram that there can be."""
        self._cut += 1
        self._limit.warn("cut", "message cut in pcap", bytes=len(buf), kept=SNAPLEN - frame.headers)
        if frame.headers == _IPV4_HEADERS:
            total = min(len(buf) + 28, 65535)
            check = frame.sum + total
            check = 0xFFFF - (check & 0xFFFF) - (check >> 16)
            head = _IPV4.pack(frame.before, total, frame.between, check, frame.after, total - 20, 0)
        else:
            length = min(len(buf) + 8, 65535)
            check = _checksum(frame, length, buf[: length - 8])
            head = _IPV6.pack(frame.before, length, frame.between, frame.after, length, check)
        return head + buf[: SNAPLEN - len(head)]

    def _prepare(self, flow: Flow) -> _Frame:
        known = self._frames.get(id(flow))
        if known:
            return known
        if len(self._frames) >= _CACHE_LIMIT:
            self._frames.clear()
        family = AFS[flow.af]
        addresses = socket.inet_pton(family, flow.src_ip) + socket.inet_pton(family, flow.dst_ip)
        ports = struct.pack(">HH", flow.src_port, flow.dst_port)
        if flow.af == "ipv4":
            before, between, headers = _MACS + b"\x08\0\x45\0", b"\0\0\0\0\x80\x11", _IPV4_HEADERS
            constant = _fold(sum(struct.unpack(">11H", b"\x45\0" + between + addresses + b"\0\0\0\0\0\0")))
        else:
            before, between, headers = _MACS + b"\x86\xdd\x60\0\0\0", b"\x11\0", _IPV6_HEADERS
            constant = sum(struct.unpack(">18H", addresses + ports)) + socket.IPPROTO_UDP
        frame = self._frames[id(flow)] = _Frame(flow, before, between, addresses + ports, constant, headers)
        return frame


class HeaderTransform(Transform):
    """Inserts ``P-KSR-SIPDump: <proto> pid=<pid> pno=<procno>`` after the message's first line.

    A message without a line end is left as it is (Kamailio 5.6 writes an empty packet for it).
    """

    name = "header"
    flag = 8

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._lines: dict[int, tuple[Flow, bytes]] = {}

    def apply(self, batch: Sequence[Record], bufs: Sequence[bytes]) -> list[bytes]:
        """Give the messages with the header in them."""
        lines = self._lines
        out = []
        for record, buf in zip(batch, bufs, strict=True):
            line = lines.get(id(record.flow)) or self._prepare(record.flow)
            out.append(buf.replace(b"\n", line[1], 1))
        return out

    def _prepare(self, flow: Flow) -> tuple[Flow, bytes]:
        if len(self._lines) >= _CACHE_LIMIT:
            self._lines.clear()
        text = f"\nP-KSR-SIPDump: {flow.proto} pid={flow.pid} pno={flow.procno}\r\n"
        known = self._lines[id(flow)] = (flow, text.encode())
        return known


def _fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _checksum(frame: _Frame, length: int, buf: bytes) -> int:
    """Give the UDP checksum over IPv6 (RFC 768, RFC 8200).

    A one's complement sum of 16-bit words is the remainder by 65535, because 65536 leaves 1.
    """
    words = int.from_bytes(buf, "big") << (8 * (len(buf) & 1))
    return 0xFFFF - (words + frame.sum + 2 * length) % 0xFFFF or 0xFFFF


def _parse(time_us: int, packet: bytes, flows: dict[tuple[Any, ...], Flow]) -> Record | None:
    """Read one Ethernet frame with a UDP datagram in it; None for any other."""
    ethertype = packet[12:14]
    if ethertype == b"\x08\0" and len(packet) >= _IPV4_HEADERS and packet[23] == socket.IPPROTO_UDP:
        at = 14 + (packet[14] & 15) * 4
        af, source, destination = "ipv4", packet[26:30], packet[30:34]
    elif ethertype == b"\x86\xdd" and len(packet) >= _IPV6_HEADERS and packet[20] == socket.IPPROTO_UDP:
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
        if len(flows) >= _CACHE_LIMIT:
            flows.clear()
        src_ip, dst_ip = (socket.inet_ntop(AFS[af], address) for address in (source, destination))
        try:
            flow = flows[key] = Flow("pcap", pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port)
        except ValueError:
            return None
    return Record(time_us, flow, buf)

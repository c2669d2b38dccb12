"""Writing ``.pcap`` files, and reading them back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.log import Limit
from sipdump_core.record import Flow, Record
from sipdump_pcap.decode import decode
from sipdump_pcap.frame import (
    FILE_HEADER,
    IPV4,
    IPV4_HEADERS,
    IPV6,
    IPV6_HEADERS,
    LINKTYPE_ETHERNET,
    MAGIC,
    PACKET_HEADER,
    SNAPLEN,
    Frame,
    frame_of,
    udp_checksum,
)

__all__ = ["PcapBackend"]


class PcapBackend(FolderBackend):
    """Writes and reads ``.pcap`` files.

    A packet keeps time, addresses, ports and the message; with the P-KSR-SIPDump header also proto, pid and procno.
    It has no place for tag and node: records read back have the tag ``pcap``.
    """

    name = "pcap"
    flag = 4
    suffix = ".pcap"
    transformed = True
    loses = ("tag", "pid", "procno", "proto", "node")  # the P-KSR-SIPDump header has three of them, where it is on
    longest = SNAPLEN - IPV6_HEADERS

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._frames: Cache[int, Frame] = Cache()
        self._cut = 0
        self._limit = Limit()

    def preamble(self) -> bytes:
        """Return the file header."""
        return FILE_HEADER.pack(MAGIC, 2, 4, 0, 0, SNAPLEN, LINKTYPE_ETHERNET)

    def encode(self, batch: Sequence[Record]) -> bytes:
        """Return the records' packets."""
        parts: list[bytes] = []
        extend = parts.extend
        frames, packet, ipv4, ipv6 = self._frames, PACKET_HEADER.pack, IPV4.pack, IPV6.pack
        for record, buf in zip(batch, self.bufs(batch), strict=True):
            frame = frames.get(id(record.flow)) or self._prepare(record.flow)
            seconds, micros = divmod(record.time_us, 1_000_000)
            seconds &= 0xFFFFFFFF
            full = frame.headers + len(buf)
            if full > SNAPLEN:
                extend((packet(seconds, micros, SNAPLEN, full), self._long(frame, buf)))
                continue
            if frame.headers == IPV4_HEADERS:
                total = full - 14
                check = frame.sum + total
                check = 0xFFFF - (check & 0xFFFF) - (check >> 16)
                head = ipv4(frame.before, total, frame.between, check, frame.after, total - 20, 0)
            else:
                length = full - 54
                head = ipv6(frame.before, length, frame.between, frame.after, length, udp_checksum(frame, length, buf))
            extend((packet(seconds, micros, full, full), head, buf))
        return b"".join(parts)

    def record_size(self, record: Record) -> int:
        """Return the record's exact size in bytes."""
        (buf,) = self.bufs((record,))
        frame = self._frames.get(id(record.flow)) or self._prepare(record.flow)
        return PACKET_HEADER.size + min(SNAPLEN, frame.headers + len(buf))

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Read packets of either byte order and resolution, up to a torn tail; skip what is not UDP."""
        return decode(file)

    def stats(self) -> Mapping[str, int]:
        """Return how many messages were cut."""
        return {"cut": self._cut}

    def _long(self, frame: Frame, buf: bytes) -> bytes:
        """Return the frame of a message that is cut, with headers of the longest datagram that there can be."""
        self._cut += 1
        self._limit.warn("cut", "message cut in pcap", bytes=len(buf), kept=SNAPLEN - frame.headers)
        if frame.headers == IPV4_HEADERS:
            total = min(len(buf) + 28, 65535)
            check = frame.sum + total
            check = 0xFFFF - (check & 0xFFFF) - (check >> 16)
            head = IPV4.pack(frame.before, total, frame.between, check, frame.after, total - 20, 0)
        else:
            length = min(len(buf) + 8, 65535)
            check = udp_checksum(frame, length, buf[: length - 8])
            head = IPV6.pack(frame.before, length, frame.between, frame.after, length, check)
        return head + buf[: SNAPLEN - len(head)]

    def _prepare(self, flow: Flow) -> Frame:
        return self._frames.keep(id(flow), frame_of(flow))

"""Writing ``.pcap`` files, and reading them back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import attrs

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.scan import FileScan
from sipdump_core.drivers.search import SearchedFolderBackend
from sipdump_core.log import Limit
from sipdump_core.record import Flow, Record
from sipdump_pcap.decode import decode
from sipdump_pcap.frame import (
    FILE_HEADER,
    IPV4,
    IPV4_HEADERS,
    IPV4_PAYLOAD,
    LINKTYPE_ETHERNET,
    MAGIC,
    PACKET_HEADER,
    SNAPLEN,
    Frame,
    frame_of,
)
from sipdump_pcap.header import LONGEST_LINE, NAME, HeaderTransform, may_have_line, split
from sipdump_pcap.search import PcapSearch

__all__ = ["PcapBackend"]

_NEVER = 1 << 64  # microseconds: no time is in this second


class PcapBackend(SearchedFolderBackend):
    """Writes and reads ``.pcap`` files.

    A packet keeps time, addresses, ports and the message; with the P-KSR-SIPDump header also proto, pid and procno.
    It has no place for tag and node: records read back have the tag ``pcap``.

    A message longer than IP allows is cut. The lengths in the headers are those of what is left, so that programs can
    read it, and the packet's original length is the true one.
    """

    name = "pcap"
    flag = 4
    suffix = ".pcap"
    transformed = True
    loses = ("tag", "pid", "procno", "proto", "node")  # the P-KSR-SIPDump header has three of them, where it is on
    longest = IPV4_PAYLOAD

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._frames: Cache[int, Frame] = Cache()
        self._headed = any(isinstance(transform, HeaderTransform) for transform in site.transforms)
        if self._headed:
            self.longest = IPV4_PAYLOAD - LONGEST_LINE  # type: ignore[misc]  # an instance's own
        self._cut = 0
        self._limit = Limit()

    def preamble(self) -> bytes:
        """Return the file header."""
        return FILE_HEADER.pack(MAGIC, 2, 4, 0, 0, SNAPLEN, LINKTYPE_ETHERNET)

    def encode(self, batch: Sequence[Record]) -> bytes:
        """Return the records' packets."""
        parts: list[bytes] = []
        second_us, seconds = _NEVER, 0
        frames, packet, ipv4, headed = self._frames, PACKET_HEADER.pack, IPV4.pack, self._headed
        for record, buf in zip(batch, self.bufs(batch), strict=True):
            frame = frames.get(id(record.flow)) or self._prepare(record.flow)
            micros = record.time_us - second_us
            if not 0 <= micros < 1_000_000:
                seconds, micros = divmod(record.time_us, 1_000_000)
                second_us = seconds * 1_000_000
                seconds &= 0xFFFFFFFF
            full = frame.headers + len(buf)
            if full > frame.longest or (not headed and may_have_line(buf)):
                head, kept = self._unusual(frame, buf)
                parts += (packet(seconds, micros, len(head) + len(kept), full), head, kept)
            elif frame.headers == IPV4_HEADERS:
                total = full - 14
                check = frame.sum + total
                check = 0xFFFF - (check & 0xFFFF) - (check >> 16)
                head = ipv4(frame.before, total, frame.between, check, frame.after, total - 20, 0)
                parts += (packet(seconds, micros, full, full), head, buf)
            else:
                parts += (packet(seconds, micros, full, full), frame.headers_of(buf), buf)
        return b"".join(parts)

    def record_size(self, record: Record) -> int:
        """Return the record's exact size in bytes."""
        (buf,) = self.bufs((record,))
        frame = self._frames.get(id(record.flow)) or self._prepare(record.flow)
        return PACKET_HEADER.size + min(frame.longest, frame.headers + len(buf))

    def encode_like(self, record: Record, before: bytes) -> bytes:
        """Return a record's packet, with the P-KSR-SIPDump header where the one in its place had it."""
        if self._headed or NAME not in before:
            return self.encode([record])
        site = attrs.evolve(self.site, transforms=(HeaderTransform(NoOptions()),))
        return PcapBackend(self.opts, site).encode([record])

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Read packets of either byte order and resolution, up to a torn tail; skip what is not UDP."""
        return decode(file)

    def look(self, scan: FileScan) -> PcapSearch:
        """Look through a file."""
        return PcapSearch(scan)

    def stats(self) -> Mapping[str, int]:
        """Return how many messages were cut."""
        return {"cut": self._cut}

    def _unusual(self, frame: Frame, buf: bytes) -> tuple[bytes, bytes]:
        """Return headers and payload for a message that must be cut, or came with a line like flag 8's."""
        if not self._headed and split(buf):
            frame = frame.foreign()
        kept = frame.longest - frame.headers
        if len(buf) > kept:
            self._cut += 1
            self._limit.warn("cut", "message cut in pcap", bytes=len(buf), kept=kept)
            buf = buf[:kept]
        return frame.headers_of(buf), buf

    def _prepare(self, flow: Flow) -> Frame:
        return self._frames.keep(id(flow), frame_of(flow))

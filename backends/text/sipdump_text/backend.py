"""Writing ``.data`` files, and reading them back.

One record (source: ``sipdump_data_print`` of Kamailio 5.6.3)::

    ====================
    tag: rcv
    pid: 2738
    process: 2
    time: 1795386431.765284
    date: Sun Nov 22 22:27:11 2026
    proto: udp ipv4
    srcip: 127.0.0.1
    srcport: 5999
    dstip: 127.0.0.1
    dstport: 5070
    ~~~~~~~~~~~~~~~~~~~~
    <the message, nothing added>||||||||||||||||||||

``date`` is asctime of local time. The C module cuts messages at a NUL and at 64 KiB; here every byte is kept.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.scan import FileScan
from sipdump_core.drivers.search import SearchedFolderBackend
from sipdump_core.record import Flow, Record
from sipdump_text.decode import START, TRAILER, decode
from sipdump_text.search import TextSearch

__all__ = ["TextBackend"]

_DIGITS = [b"%03d" % number for number in range(1000)]
_NEVER = 1 << 64  # microseconds: no time is in this second
_BAR = ord("|")  # as a number it is found by memchr
# The parts of a record whose length never varies: the fraction with its dot, the date's line, the trailer.
_FIXED = len(".000000") + len("\ndate: Sun Nov 22 22:27:11 2026\n") + len(TRAILER)


class TextBackend(SearchedFolderBackend):
    """Writes and reads ``.data`` files. They have a line for every field of a record but the capture node."""

    name = "text"
    flag = 1
    suffix = ".data"
    loses = ("node",)
    forgeable = True  # by a message without Content-Length

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        # by the flow's identity; each entry keeps its flow alive, so that no other flow can get its id
        self._flows: Cache[int, tuple[Flow, bytes, bytes]] = Cache()
        self._second_us = _NEVER
        self._time = self._date = b""

    def encode(self, batch: Sequence[Record]) -> bytes:
        """Return the records' text."""
        parts: list[bytes] = []
        flows, digits = self._flows, _DIGITS
        second_us, seconds, date = self._second_us, self._time, self._date
        for record in batch:
            micros = record.time_us - second_us
            if not 0 <= micros < 1_000_000:
                now, micros = divmod(record.time_us, 1_000_000)
                second_us = now * 1_000_000
                seconds = b"%d." % now
                date = b"\ndate: %b\n" % time.asctime(time.localtime(now)).encode()
            _, head, tail = flows.get(id(record.flow)) or self._prepare(record.flow)
            parts += (head, seconds, digits[micros // 1000], digits[micros % 1000], date, tail, record.buf, TRAILER)
        self._second_us, self._time, self._date = second_us, seconds, date
        return b"".join(parts)

    def _note_times(self, batch: Sequence[Record], data: bytes) -> None:
        """Keep how the times are ordered, unless a message has a trailer in it, and may be read as other records."""
        if any(TRAILER in buf for buf in [record.buf for record in batch if _BAR in record.buf]):
            self._forget_times()
        else:
            super()._note_times(batch, data)

    def record_size(self, record: Record) -> int:
        """Return the record's exact size in bytes."""
        known = self._flows.get(id(record.flow)) or self._prepare(record.flow)
        return len(known[1]) + len(str(record.time_us // 1_000_000)) + _FIXED + len(known[2]) + len(record.buf)

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Read records, also from files that Kamailio wrote; skip and log what is not a whole record."""
        return decode(file)

    def look(self, scan: FileScan) -> TextSearch:
        """Look through a file."""
        return TextSearch(scan)

    def _prepare(self, flow: Flow) -> tuple[Flow, bytes, bytes]:
        head = f"{START.decode()}tag: {flow.tag}\npid: {flow.pid}\nprocess: {flow.procno}\ntime: "
        tail = (
            f"proto: {flow.proto} {flow.af}\nsrcip: {flow.src_ip}\nsrcport: {flow.src_port}\n"
            f"dstip: {flow.dst_ip}\ndstport: {flow.dst_port}\n~~~~~~~~~~~~~~~~~~~~\n"
        )
        return self._flows.keep(id(flow), (flow, head.encode(), tail.encode()))

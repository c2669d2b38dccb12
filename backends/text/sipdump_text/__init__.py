"""The text backend: ``.data`` files as Kamailio's sipdump module writes them.

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

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from sipdump_core import sip
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.log import Event, log
from sipdump_core.record import Flow, Record

__all__ = ["TextBackend"]

_START = b"====================\n"
_TRAILER = b"||||||||||||||||||||\n"
_CACHE_LIMIT = 10_000
_CHUNK = 1 << 20
_HEADER = re.compile(
    rb"={20}\ntag: ([^\n]*)\npid: (-?\d{1,10})\nprocess: (-?\d{1,10})\ntime: (\d{1,12})\.(\d{6})\ndate: [^\n]*\n"
    rb"proto: (\w+) (ipv[46])\nsrcip: ([^\n]*)\nsrcport: (\d{1,5})\ndstip: ([^\n]*)\ndstport: (\d{1,5})\n~{20}\n"
)
# Of a record's bytes those that are always as many: the fraction with its dot, the date's line, the trailer.
_FIXED = len(".000000") + len("\ndate: Sun Nov 22 22:27:11 2026\n") + len(_TRAILER)
# A message that has not ended after this many bytes is taken for damage.
_MESSAGE_LIMIT = 1 << 28
# No header is longer: what is still none after this many bytes never becomes one.
_HEADER_LIMIT = 65536


class TextBackend(FolderBackend):
    """Writes and reads ``.data`` files. It keeps all of a record but the capture node, which has no line there."""

    name = "text"
    flag = 1
    suffix = ".data"
    loses = ("node",)

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        # flows by identity; the flow is kept beside its text so that no other one can get its id
        self._flows: dict[int, tuple[Flow, bytes, bytes]] = {}
        self._second = -1
        self._time = self._date = b""

    def encode(self, batch: Sequence[Record]) -> bytes:
        """Give the records' text."""
        parts: list[bytes] = []
        extend = parts.extend
        flows = self._flows
        second, seconds, date = self._second, self._time, self._date
        for record in batch:
            flow = record.flow
            known = flows.get(id(flow)) or self._prepare(flow)
            now, micros = divmod(record.time_us, 1_000_000)
            if now != second:
                second = now
                seconds = b"%d." % now
                date = b"\ndate: %b\n" % time.asctime(time.localtime(now)).encode()
            extend((known[1], seconds, b"%06d" % micros, date, known[2], record.buf, _TRAILER))
        self._second, self._time, self._date = second, seconds, date
        return b"".join(parts)

    def record_size(self, record: Record) -> int:
        """Give the record's exact size."""
        known = self._flows.get(id(record.flow)) or self._prepare(record.flow)
        return len(known[1]) + len(str(record.time_us // 1_000_000)) + _FIXED + len(known[2]) + len(record.buf)

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Read records, also of files that Kamailio wrote; what is no whole record is passed over and logged."""
        flows: dict[tuple[bytes, ...], Flow] = {}
        window = _Window(file)
        skipped = 0
        while window.more(_HEADER_LIMIT):
            header, end = _find_record(window)
            record = header and _record(header, window.data[header.end() : end], flows)
            if record:
                yield record
                window.at = end + len(_TRAILER)
            else:
                skipped += window.skip_to(_START)
        if skipped:
            log.warning(Event("text segment holds what is no whole record", path=file.name, bytes=skipped))

    def _prepare(self, flow: Flow) -> tuple[Flow, bytes, bytes]:
        if len(self._flows) >= _CACHE_LIMIT:
            self._flows.clear()
        head = f"{_START.decode()}tag: {flow.tag}\npid: {flow.pid}\nprocess: {flow.procno}\ntime: "
        tail = (
            f"proto: {flow.proto} {flow.af}\nsrcip: {flow.src_ip}\nsrcport: {flow.src_port}\n"
            f"dstip: {flow.dst_ip}\ndstport: {flow.dst_port}\n~~~~~~~~~~~~~~~~~~~~\n"
        )
        known = self._flows[id(flow)] = (flow, head.encode(), tail.encode())
        return known


class _Window:
    """The part of a file that is in memory: ``data`` from offset ``at`` on is still to be read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.data = b""
        self.at = 0
        self.ended = False

    def more(self, least: int) -> bool:
        """Have ``least`` bytes from ``at`` on, or all that are left; False at the end of the file."""
        while not self.ended and len(self.data) - self.at < least:
            chunk = self._file.read(max(_CHUNK, least))
            self.data, self.at, self.ended = self.data[self.at :] + chunk, 0, not chunk
        return self.at < len(self.data)

    def skip_to(self, mark: bytes) -> int:
        """Go on to the next mark, at least by one byte; give how many bytes were passed over."""
        before, found = self.at, self.data.find(mark, self.at + 1)
        if found < 0:  # the mark may begin in the last bytes and go on in the next chunk
            found = len(self.data) if self.ended else max(self.at + 1, len(self.data) - len(mark) + 1)
        self.at = found
        return found - before


def _find_record(window: _Window) -> tuple[re.Match[bytes] | None, int]:
    """Find the header at the window's start and the end of its message; reads on as far as the message goes."""
    while True:
        header = _HEADER.match(window.data, window.at)
        if header is None:
            return None, -1
        end = _message_end(window.data, header.end(), window.ended)
        if end >= 0:
            return header, end
        length = len(window.data) - window.at
        if window.ended or length > _MESSAGE_LIMIT:
            return None, -1
        window.more(2 * length)


def _message_end(data: bytes, start: int, ended: bool) -> int:
    """Give the offset of the trailer of the message at ``start``, -1 where it is not (yet) to be found.

    A body may hold separators, so Content-Length is believed first, if a trailer stands where it points; else the
    first trailer ends the message that is followed by another record or by the end of the file.
    """
    found = data.find(_TRAILER, start)
    blank = sip.header_end(data, start, found) if found >= 0 else -1
    if blank >= 0:
        length = sip.content_length(data, start, blank)
        if length:
            verdict = _is_end(data, blank + length, ended)
            if verdict is not False:
                return blank + length if verdict else -1
    while found >= 0:
        verdict = _is_end(data, found, ended)
        if verdict is not False:
            return found if verdict else -1
        found = data.find(_TRAILER, found + 1)
    return -1


def _is_end(data: bytes, at: int, ended: bool) -> bool | None:
    """Whether a trailer stands at ``at`` with a record or the end behind it; None: more data will tell."""
    behind = at + len(_TRAILER)
    if len(data) < behind:
        return False if ended else None
    if data[at:behind] != _TRAILER:
        return False
    if len(data) == behind:
        return ended or None
    if _HEADER.match(data, behind):
        return True
    begin = _START + b"tag: "  # what may follow is a record that was torn before its header was whole
    rest = data[behind : behind + len(begin)]
    if not (rest.startswith(begin) or begin.startswith(rest)):
        return False
    limit = behind + _HEADER_LIMIT
    if len(data) >= limit or data.find(b"\n~~~~~~~~~~~~~~~~~~~~\n", behind, limit) >= 0:
        return False
    return True if ended else None


def _record(header: re.Match[bytes], buf: bytes, flows: dict[tuple[bytes, ...], Flow]) -> Record | None:
    tag, pid, procno, seconds, micros, proto, af, src_ip, src_port, dst_ip, dst_port = header.groups()
    key = (tag, pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port)
    flow = flows.get(key)
    if flow is None:
        try:
            flow = Flow(
                tag.decode(), int(pid), int(procno), proto.decode(), af.decode(),
                src_ip.decode(), int(src_port), dst_ip.decode(), int(dst_port),
            )  # fmt: skip
        except ValueError:
            return None
        if len(flows) >= _CACHE_LIMIT:
            flows.clear()
        flows[key] = flow
    return Record(int(seconds) * 1_000_000 + int(micros), flow, buf)

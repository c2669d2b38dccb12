"""Reading ``.data`` files: exact on whole records, unharmed by torn, damaged and hostile ones.

Two readers share the work. :func:`_quick` takes records whose header lines it has seen before, one after another, for
as long as nothing is odd. :func:`_find_record` takes any record, and decides in every case. Both find the same records.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from sipdump_core import sip
from sipdump_core.cache import Cache
from sipdump_core.log import Event, log
from sipdump_core.record import Flow, Record

__all__ = ["BODY_LIMIT", "HEADER", "HEADER_LIMIT", "START", "TRAILER", "Reader", "Source", "decode"]

START = b"====================\n"
TRAILER = b"||||||||||||||||||||\n"
_CHUNK = 1 << 20
HEADER = re.compile(
    rb"={20}\ntag: ([^\n]*)\npid: (-?\d{1,10})\nprocess: (-?\d{1,10})\ntime: (\d{1,12})\.(\d{6})\ndate: [^\n]*\n"
    rb"proto: (\w+) (ipv[46])\nsrcip: ([^\n]*)\nsrcport: (\d{1,5})\ndstip: ([^\n]*)\ndstport: (\d{1,5})\n~{20}\n"
)
"""A record's header, up to where its message begins."""
BODY_LIMIT = 1 << 20
"""A Content-Length beyond this is not believed: so a reader knows where it is after looking at that much of a file."""
HEADER_LIMIT = 65536
"""No header is longer: bytes that are not a header by then never become one."""
# A message that has not ended after this many bytes counts as damage.
_MESSAGE_LIMIT = 1 << 28

# What varies within a flow, as it mostly is: from the line's end before the time to the one behind the date.
_TIME = b"\ntime: "
_MOMENT = re.compile(rb"\ntime: (\d{10})\.\d{6}\ndate: [^\n]{24}\n")
_MICROS_AT = len("\ntime: 1795386431.")
_DATE_AT = len("\ntime: 1795386431.765284")
_MOMENT_SIZE = len("\ntime: 1795386431.765284\ndate: Sun Nov 22 22:27:11 2026\n")
_HEADER_END = b"\n~~~~~~~~~~~~~~~~~~~~\n"
_QUICK_HEADER = 1024  # bytes of either half of a header, beyond which _quick does not look
_BLANK = re.compile(rb"\n\r?\n")
_CONTENT_LENGTH = b"\nContent-Length: "

_Flows = Cache[tuple[bytes, bytes], Flow]
"""Flows by the lines of a header before the time and those behind the date."""


def decode(file: BinaryIO) -> Iterator[Record]:
    """Yield a file's records in order, skipping and logging what is not a whole record.

    Args:
        file: open for reading, at a file's start; its ``name`` goes into the log.
    """
    reader = Reader(file)
    yield from reader.records()
    if reader.skipped:
        log.warning(Event("text segment holds bytes that are not a whole record", path=file.name, bytes=reader.skipped))


class Source(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; none at the end."""


class Reader:
    """Reads records from a place on where one begins.

    Args:
        source: open at that place.
        place: its offset.
        flows: what is known from before.
    """

    def __init__(self, source: Source, place: int = 0, flows: "_Flows | None" = None) -> None:
        self._window = _Window(source, place)
        self._flows: _Flows = Cache() if flows is None else flows
        self.skipped = 0
        """Bytes so far that are not a whole record."""

    @property
    def place(self) -> int:
        """The offset behind the last record that was read, and what was skipped since."""
        return self._window.offset + self._window.at

    def records(self) -> Iterator[Record]:
        """Yield the records up to the end; it may be called again after it was not used up."""
        window, flows = self._window, self._flows
        while window.more(HEADER_LIMIT):
            yield from _quick(window, flows)
            header, end = _find_record(window)
            record = header and _record(header, window.data[header.end() : end], flows)
            if record:
                window.at = end + len(TRAILER)
                yield record
            else:
                self.skipped += window.skip_to(START)


class _Window:
    """The part of a source that is in memory: ``data`` from offset ``at`` on has yet to be read."""

    def __init__(self, source: Source, offset: int) -> None:
        self._source = source
        self.offset = offset
        """Where ``data`` is in the file."""
        self.data = b""
        self.at = 0
        self.ended = False

    def more(self, least: int) -> bool:
        """Load ``least`` bytes from ``at`` on, or all that are left; return False at the end of the file."""
        while not self.ended and len(self.data) - self.at < least:
            chunk = self._source.read(max(_CHUNK, least))
            self.offset += self.at
            self.data, self.at, self.ended = self.data[self.at :] + chunk, 0, not chunk
        return self.at < len(self.data)

    def skip_to(self, mark: bytes) -> int:
        """Move to the next mark, at least by one byte; return how many bytes were skipped."""
        before, found = self.at, self.data.find(mark, self.at + 1)
        if found < 0:  # the mark may begin in the last bytes and go on in the next chunk
            found = len(self.data) if self.ended else max(self.at + 1, len(self.data) - len(mark) + 1)
        self.at = found
        return found - before


def _quick(window: _Window, flows: _Flows) -> Iterator[Record]:
    """Yield records from the window's start on, up to the first that is not plain.

    Plain is a record of a known flow, whose first trailer is followed by another header of a known flow, and whose
    Content-Length, if it has one, does not reach beyond that trailer.
    """
    data, find, search_blank = window.data, window.data.find, _BLANK.search
    moment = date = b"?"
    base = 0
    waiting: Record | None = None  # it is whole if a header follows
    at = window.at
    while True:
        time_at = find(_TIME, at, at + _QUICK_HEADER)
        date_at, rest = time_at + _DATE_AT, time_at + _MOMENT_SIZE
        header_end = find(_HEADER_END, rest, rest + _QUICK_HEADER)
        if time_at < 0 or header_end < 0:
            return
        start = header_end + len(_HEADER_END)
        flow = flows.get((data[at:time_at], data[rest:start]))
        if flow is None:
            return
        micros = data[time_at + _MICROS_AT : date_at]
        if not (data.startswith(moment, time_at) and data.startswith(date, date_at) and micros.isdigit()):
            found = _MOMENT.fullmatch(data, time_at, rest)
            if found is None:
                return
            moment, date, base = data[time_at : time_at + _MICROS_AT], data[date_at:rest], int(found[1]) * 1_000_000
        if waiting:
            window.at = at
            yield waiting
        end = find(TRAILER, start)
        if end < 0:
            return
        blank = search_blank(data, start, end)
        if blank:
            body = blank.end()
            if _content_length(data, start, body) > end - body:
                return
        waiting = Record(base + int(micros), flow, data[start:end])
        at = end + len(TRAILER)


def _find_record(window: _Window) -> tuple[re.Match[bytes] | None, int]:
    """Return the header at the window's start and the end of its message, loading as much as the message takes."""
    while True:
        header = HEADER.match(window.data, window.at)
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
    """Return the offset of the trailer of the message at ``start``, -1 where it is not found (yet).

    A body may hold separators, so Content-Length is believed first, if it points at a trailer that is not too far away;
    else the first trailer ends the message that is followed by another record or by the end of the file.
    """
    found = data.find(TRAILER, start)
    blank = sip.header_end(data, start, found) if found >= 0 else -1
    length = _content_length(data, start, blank) if blank >= 0 else 0
    if 0 < length <= BODY_LIMIT:
        verdict = _is_end(data, blank + length, ended)
        if verdict is not False:
            return blank + length if verdict else -1
    while found >= 0:
        verdict = _is_end(data, found, ended)
        if verdict is not False:
            return found if verdict else -1
        found = data.find(TRAILER, found + 1)
    return -1


def _content_length(data: bytes, start: int, blank: int) -> int:
    """Return the Content-Length of the message whose headers are ``data[start:blank]``, 0 where it has none.

    The usual spelling goes first, because it is found quickly. It matters only to messages that have several.
    """
    at = data.find(_CONTENT_LENGTH, start, blank)
    if at >= 0:
        at += len(_CONTENT_LENGTH)
        digits, line_end, _ = data[at : at + 11].partition(b"\r\n")
        if line_end and digits.isdigit():
            return int(digits)
    return sip.content_length(data, start, blank) or 0


def _is_end(data: bytes, at: int, ended: bool) -> bool | None:
    """Return whether a trailer is at ``at``, with a record or the end behind it; None where more data will decide."""
    behind = at + len(TRAILER)
    if len(data) < behind:
        return False if ended else None
    if data[at:behind] != TRAILER:
        return False
    if len(data) == behind:
        return ended or None
    if HEADER.match(data, behind):
        return True
    begin = START + b"tag: "  # the next record may be torn within its header
    rest = data[behind : behind + len(begin)]
    if not (rest.startswith(begin) or begin.startswith(rest)):
        return False
    limit = behind + HEADER_LIMIT
    if len(data) >= limit or data.find(_HEADER_END, behind, limit) >= 0:
        return False
    return True if ended else None


def _record(header: re.Match[bytes], buf: bytes, flows: _Flows) -> Record | None:
    tag, pid, procno, seconds, micros, proto, af, src_ip, src_port, dst_ip, dst_port = header.groups()
    data = header.string
    key = (data[header.start() : header.start(4) - len(_TIME)], data[header.start(6) - len("proto: ") : header.end()])
    flow = flows.get(key)
    if flow is None:
        try:
            flow = Flow(
                tag.decode(), int(pid), int(procno), proto.decode(), af.decode(),
                src_ip.decode(), int(src_port), dst_ip.decode(), int(dst_port),
            )  # fmt: skip
        except ValueError:
            return None
        flows.keep(key, flow)
    return Record(int(seconds) * 1_000_000 + int(micros), flow, buf)

"""Reading ``.data`` files: exact on whole records, unharmed by torn, damaged and hostile ones."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from sipdump_core import sip
from sipdump_core.cache import Cache
from sipdump_core.log import Event, log
from sipdump_core.record import Flow, Record

__all__ = ["START", "TRAILER", "decode"]

START = b"====================\n"
TRAILER = b"||||||||||||||||||||\n"
_CHUNK = 1 << 20
_HEADER = re.compile(
    rb"={20}\ntag: ([^\n]*)\npid: (-?\d{1,10})\nprocess: (-?\d{1,10})\ntime: (\d{1,12})\.(\d{6})\ndate: [^\n]*\n"
    rb"proto: (\w+) (ipv[46])\nsrcip: ([^\n]*)\nsrcport: (\d{1,5})\ndstip: ([^\n]*)\ndstport: (\d{1,5})\n~{20}\n"
)
# A message that has not ended after this many bytes counts as damage.
_MESSAGE_LIMIT = 1 << 28
# No header is longer: bytes that are not a header by then never become one.
_HEADER_LIMIT = 65536

_Flows = Cache[tuple[bytes, ...], Flow]


def decode(file: BinaryIO) -> Iterator[Record]:
    """Yield a file's records in order, skipping and logging what is not a whole record.

    Args:
        file: open for reading, at a file's start; its ``name`` goes into the log.
    """
    flows: _Flows = Cache()
    window = _Window(file)
    skipped = 0
    while window.more(_HEADER_LIMIT):
        header, end = _find_record(window)
        record = header and _record(header, window.data[header.end() : end], flows)
        if record:
            yield record
            window.at = end + len(TRAILER)
        else:
            skipped += window.skip_to(START)
    if skipped:
        log.warning(Event("text segment holds bytes that are not a whole record", path=file.name, bytes=skipped))


class _Window:
    """The part of a file that is in memory: ``data`` from offset ``at`` on has yet to be read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.data = b""
        self.at = 0
        self.ended = False

    def more(self, least: int) -> bool:
        """Load ``least`` bytes from ``at`` on, or all that are left; return False at the end of the file."""
        while not self.ended and len(self.data) - self.at < least:
            chunk = self._file.read(max(_CHUNK, least))
            self.data, self.at, self.ended = self.data[self.at :] + chunk, 0, not chunk
        return self.at < len(self.data)

    def skip_to(self, mark: bytes) -> int:
        """Move to the next mark, at least by one byte; return how many bytes were skipped."""
        before, found = self.at, self.data.find(mark, self.at + 1)
        if found < 0:  # the mark may begin in the last bytes and go on in the next chunk
            found = len(self.data) if self.ended else max(self.at + 1, len(self.data) - len(mark) + 1)
        self.at = found
        return found - before


def _find_record(window: _Window) -> tuple[re.Match[bytes] | None, int]:
    """Return the header at the window's start and the end of its message, loading as much as the message takes."""
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
    """Return the offset of the trailer of the message at ``start``, -1 where it is not found (yet).

    A body may hold separators, so Content-Length is believed first, if it points at a trailer; else the first trailer
    ends the message that is followed by another record or by the end of the file.
    """
    found = data.find(TRAILER, start)
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
        found = data.find(TRAILER, found + 1)
    return -1


def _is_end(data: bytes, at: int, ended: bool) -> bool | None:
    """Return whether a trailer is at ``at``, with a record or the end behind it; None where more data will decide."""
    behind = at + len(TRAILER)
    if len(data) < behind:
        return False if ended else None
    if data[at:behind] != TRAILER:
        return False
    if len(data) == behind:
        return ended or None
    if _HEADER.match(data, behind):
        return True
    begin = START + b"tag: "  # the next record may be torn within its header
    rest = data[behind : behind + len(begin)]
    if not (rest.startswith(begin) or begin.startswith(rest)):
        return False
    limit = behind + _HEADER_LIMIT
    if len(data) >= limit or data.find(b"\n~~~~~~~~~~~~~~~~~~~~\n", behind, limit) >= 0:
        return False
    return True if ended else None


def _record(header: re.Match[bytes], buf: bytes, flows: _Flows) -> Record | None:
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
        flows.keep(key, flow)
    return Record(int(seconds) * 1_000_000 + int(micros), flow, buf)

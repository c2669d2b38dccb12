"""Looking through ``.data`` files from any offset on.

Where a record begins in the middle of a file is not plain: a body may hold trailers and whole records. A place is
certain when a trailer is before it and a header behind it, and no message spans it. Only a message whose Content-Length
says so can, because any other ends at the first trailer with a header behind it; and only one that is near, because no
Content-Length beyond :data:`~sipdump_text.decode.BODY_LIMIT` is believed.
"""

import re
from collections.abc import Iterator

from sipdump_core import sip
from sipdump_core.cache import Cache
from sipdump_core.drivers.scan import FileScan, Section
from sipdump_core.drivers.search import FileSearch
from sipdump_core.record import Flow, Record
from sipdump_text.decode import BODY_LIMIT, HEADER, START, TRAILER, Reader

__all__ = ["TextSearch"]

_BETWEEN = TRAILER + START + b"tag: "
"""What is between two records, and what a body that holds records has in it."""
_TIME = re.compile(rb"\ntime: (\d{1,12})\.")
_CHUNK = 1 << 16
_AHEAD = 4096
"""Bytes behind an offset in which a header that begins there has to end; a longer one is passed over."""
_TRIES = 16
"""How often an earlier place is tried, where one is not certain."""


class TextSearch(FileSearch):
    """A ``.data`` file that is looked through."""

    def __init__(self, scan: FileScan) -> None:
        super().__init__(scan)
        self._flows: Cache[tuple[bytes, bytes], Flow] = Cache()

    def place(self, low: int, at: int) -> int:
        """See :meth:`FileSearch.place`."""
        for _ in range(_TRIES):
            place = self._header_before(low, at)
            if place <= low:
                break
            spanning = self._spanning(low, place)
            if spanning < 0:
                return place
            at = spanning
        return low

    def records(self, start: int, end: int, step: int) -> Iterator[tuple[Record, int]]:
        """See :meth:`FileSearch.records`."""
        reader = Reader(Section(self.scan, start, end, step), start, self._flows)
        for record in reader.records():
            yield record, reader.place

    def measure(self) -> int:
        """See :meth:`FileSearch.measure`; what only looks like a header counts, too, which does no harm."""
        source = Section(self.scan, 0, self.scan.size)
        newest = disorder = 0
        data = b""
        while chunk := source.read(1 << 20):
            data = data[-32:] + chunk  # a line that is cut is whole there; one that is found twice changes nothing
            times = [int(seconds) for seconds in _TIME.findall(data)]
            if times != sorted(times):
                for time in times:
                    newest = max(newest, time)
                    disorder = max(disorder, newest - time)
            elif times:
                disorder = max(disorder, newest - times[0])
                newest = max(newest, times[-1])
        return (disorder + 1) * 1_000_000

    def is_record(self, start: int, end: int) -> bool:
        """See :meth:`FileSearch.is_record`: what is skipped lies before a header."""
        return HEADER.match(self.scan.read(start, min(end, start + _AHEAD))) is not None

    def is_torn(self, at: int) -> bool:
        """See :meth:`FileSearch.is_torn`."""
        rest = self.scan.read(at, at + len(START))
        return START.startswith(rest)

    def is_place(self, at: int) -> bool:
        """See :meth:`FileSearch.is_place`."""
        return at == 0 or self.scan.read(at - len(TRAILER), at) == TRAILER

    def _header_before(self, low: int, at: int) -> int:
        """Return the last offset up to ``at`` with a header behind it and a trailer before; ``low`` where none is."""
        end, size = at, _CHUNK
        while end > low:
            start = max(low, end - size)
            data = self.scan.read(start, end + _AHEAD)
            stop = end - start - len(TRAILER) + len(_BETWEEN)
            while (found := data.rfind(_BETWEEN, 0, stop)) >= 0:
                if HEADER.match(data, found + len(TRAILER)):
                    return start + found + len(TRAILER)
                stop = found + len(_BETWEEN) - 1
            if start == low:
                break
            end, size = start + len(TRAILER), 4 * size  # one that begins before this part and ends in it
        return low

    def _spanning(self, low: int, place: int) -> int:
        """Return the offset of a Content-Length by which a message may span a place; -1 where there is none."""
        start = self._message_before(low, max(low, place - BODY_LIMIT))
        data = self.scan.read(start, place)
        for header, body, length in sip.content_lengths(data):
            end = start + body + length
            if length <= BODY_LIMIT and end >= place and self.scan.read(end, end + len(TRAILER)) == TRAILER:
                return start + header
        return -1

    def _message_before(self, low: int, at: int) -> int:
        """Return an offset not behind ``at`` without a trailer between: the headers of a message have none."""
        end, size = at, _CHUNK
        while end > low:
            start = max(low, end - size)
            found = self.scan.read(start, end).rfind(TRAILER)
            if found >= 0:
                return start + found + len(TRAILER)
            if start == low:
                break
            end, size = start + len(TRAILER) - 1, 4 * size
        return low

"""Looking through ``.pcap`` files from any offset on.

Nothing marks where a packet begins, and a message may hold what looks like packets. In a file that a
:class:`PcapBackend` wrote, which its extended attributes say, all frames look alike: so one of those that begin within
the length of the longest packet before an offset is the right one, and leads to the packet at the offset. Where all of
them lead there, the place is certain. Else, and in files of anybody else, packets are stepped over from a place that is
known: each says how long it is. So in a damaged file of ours, packets behind the damage may be found that a reader from
its start does not get to.
"""

import re
from collections.abc import Iterator, Sequence

from sipdump_core.cache import Cache
from sipdump_core.drivers.folder import disorder
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.scan import FileScan, Section
from sipdump_core.drivers.search import FileSearch
from sipdump_core.record import Flow, Record
from sipdump_pcap.decode import PACKET_LIMIT, Format, Reader
from sipdump_pcap.frame import FILE_HEADER, IPV6_HEADERS, IPV6_PAYLOAD, PACKET_HEADER

__all__ = ["PcapSearch"]

_HEAD = PACKET_HEADER.size
_LONGEST = _HEAD + IPV6_HEADERS + IPV6_PAYLOAD
"""Bytes of the longest packet that is ours."""
_FRAME = re.compile(
    rb"\0\0\0\0\0\0\0\0\0\0\0\0(?:\x08\0\x45\0(..)\0[\0\1]\0\0\x80\x11|\x86\xdd\x60\0\0[\0\1](..)\x11\0)", re.DOTALL
)
"""A frame of ours, up to the protocol, with IP's length; see :mod:`sipdump_pcap.decode` for the one that may be a 1."""
_FRAME_SIZE = 24
"""Bytes of what ``_FRAME`` matches, at most."""
_CHUNK = 1 << 20
_TRIES = 4
"""How often an earlier place is tried, where one is not certain."""


class PcapSearch(FileSearch):
    """A ``.pcap`` file that is looked through."""

    first = FILE_HEADER.size

    def __init__(self, scan: FileScan) -> None:
        super().__init__(scan)
        self._kind = Format.of(scan.read(0, self.first))
        self._flows: Cache[bytes, Flow] = Cache()
        self._headed: bool | None = None
        self._ours = self._kind is not None and self._kind.ours and disorder(scan.fileno()) is not None

    def place(self, low: int, at: int) -> int:
        """See :meth:`FileSearch.place`."""
        if self._ours:
            upto = min(at, self.scan.size - 1)
            for _ in range(_TRIES):
                if upto - _LONGEST <= low:
                    break
                owners = self._owners(upto - _LONGEST, upto)
                if len(owners) == 1:
                    low = owners.pop()
                    break
                upto = min(owners, default=low)
        return self._step(low, at)

    def records(self, start: int, end: int, step: int) -> Iterator[tuple[Record, int]]:
        """See :meth:`FileSearch.records`."""
        if self._kind is None:
            return
        source = Section(self.scan, start, end, step)
        reader = Reader(source, self._kind, self._is_headed(), start, self._flows)
        for record in reader.records():
            yield record, reader.place

    def measure(self) -> int:
        """See :meth:`FileSearch.measure`."""
        newest = disorder_us = 0
        if self._kind:
            ticks = self._kind.ticks
            reader = Reader(Section(self.scan, self.first, self.scan.size), self._kind, headed=False)
            for seconds, fraction, _, _, _ in reader.packets():
                time_us = seconds * 1_000_000 + fraction // ticks
                if time_us >= newest:
                    newest = time_us
                elif newest - time_us > disorder_us:
                    disorder_us = newest - time_us
        return disorder_us

    def is_torn(self, at: int) -> bool:
        """See :meth:`FileSearch.is_torn`."""
        data = self.scan.read(at, at + _HEAD)
        if len(data) < _HEAD:
            return True
        length = self._length(data, 0)
        return length <= PACKET_LIMIT and at + _HEAD + length > self.scan.size

    def literals(self, query: Query) -> Sequence[bytes]:
        """See :meth:`FileSearch.literals`: the P-KSR-SIPDump header may be within what has a line end."""
        return () if any(b"\n" in needle for needle in query.needles) else query.needles

    def _is_headed(self) -> bool:
        if self._headed is None:
            kind = self._kind
            whole = Section(self.scan, self.first, self.scan.size)
            self._headed = kind is not None and (kind.ours or kind.is_headed(whole))
        return self._headed

    def _owners(self, start: int, at: int) -> set[int]:
        """Return where, by our frames from an offset on, the packet may begin that is at another offset."""
        data = self.scan.read(start, at + _HEAD + IPV6_HEADERS)
        owners: dict[int, int] = {}
        for found in reversed([*_FRAME.finditer(data)]):
            packet = found.start() - _HEAD
            if packet < 0 or start + packet > at:
                continue
            length = self._length(data, packet)
            if length != int.from_bytes(found[1] or found[2], "big") + (14 if found[1] else 54):
                continue
            behind = packet + _HEAD + length
            if start + behind > at:
                owners[packet] = start + packet
            elif behind in owners:
                owners[packet] = owners[behind]
            elif start + behind > self.scan.size - _HEAD - _FRAME_SIZE:  # what is left at the end shows no frame
                owners[packet] = start + behind
        return {*owners.values()}

    def _step(self, low: int, at: int) -> int:
        """Return the place of the last packet up to an offset, stepping from one that is known."""
        if self._kind is None:
            return low
        unpack = self._kind.header.unpack_from
        place = low
        at = min(at, self.scan.size)  # a packet that is torn is not stepped over
        while True:
            data = self.scan.read(place, min(place + _CHUNK, at + _HEAD))
            start, last = place, place + len(data) - _HEAD
            if last < start:
                return place
            while place <= last:
                length = unpack(data, place - start)[2]
                behind = place + _HEAD + length
                if behind > at or length > PACKET_LIMIT:
                    return place
                place = behind

    def _length(self, data: bytes, packet: int) -> int:
        kind = self._kind
        return int(kind.header.unpack_from(data, packet)[2]) if kind and packet + _HEAD <= len(data) else 0

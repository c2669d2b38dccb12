"""SIP messages in TCP connections: bytes put in order, cut into messages by Content-Length, WebSocket taken off.

Sources: RFC 9293 (TCP), RFC 3261 sections 7.5 and 18.3 (framing), RFC 6455 and 7118 (WebSocket, SIP over it).
"""

from collections.abc import Iterator

from sipdump_core.reading.capture.framing import Framing

__all__ = ["Stream"]

_SYN = 2
_MAX_PENDING = 256
_HALF, _ALL = 1 << 31, (1 << 32) - 1

Message = tuple[int, bytes]
"""The time of the packet that completed it, and the message."""


class Stream:
    """One direction of a TCP connection."""

    def __init__(self) -> None:
        self.lost = 0
        """Bytes that were never captured."""
        self._framing = Framing()
        self._ended = 0
        """Truncated messages of earlier connections between the same ports."""
        self._first: int | None = None
        """The sequence number of the SYN."""
        self._next: int | None = None
        self._time_us = 0
        self._pending: dict[int, tuple[bytes, int, int]] = {}
        """Segments behind a gap, by sequence number: the data, how many more bytes it had, its time."""

    @property
    def proto(self) -> str:
        """``tcp``, or ``ws`` once WebSocket was seen."""
        return self._framing.proto

    @property
    def truncated(self) -> int:
        """Messages of which only the beginning was captured."""
        return self._ended + self._framing.truncated

    def take(self, sequence: int, flags: int, data: bytes, missing: int, time_us: int) -> Iterator[Message]:
        """Take a segment, and yield the messages that are whole with it.

        Args:
            sequence: its sequence number.
            flags: TCP's flags.
            data: what was captured of its data.
            missing: how many bytes more it had.
            time_us: when it was captured.
        """
        if flags & _SYN:
            if sequence != self._first:  # another connection between the same ports
                yield from self.finish()
                self._ended += self._framing.truncated
                self._framing = Framing()
                self._first, self._next = sequence, (sequence + 1) & _ALL
            sequence = (sequence + 1) & _ALL
        if not data and not missing:
            return
        if self._next is None:
            self._next = sequence
        ahead = (sequence - self._next) & _ALL
        if 0 < ahead < _HALF:
            known = self._pending.get(sequence)
            if known is None or len(known[0]) < len(data):
                self._pending[sequence] = data, missing, time_us
            if len(self._pending) > _MAX_PENDING:
                yield from self._skip_gap()
            return
        yield from self._append(sequence, data, missing, time_us)
        yield from self._append_pending()

    def finish(self) -> Iterator[Message]:
        """Yield what is left at the end of the capture, behind bytes that are missing, too."""
        while self._pending:
            yield from self._skip_gap()
        self._framing.end()

    def _append(self, sequence: int, data: bytes, missing: int, time_us: int) -> Iterator[Message]:
        """Append what is new of a segment that begins no later than the next byte."""
        assert self._next is not None  # noqa: S101 - it has begun
        known = (self._next - sequence) & _ALL
        if known >= len(data) + missing:
            return
        self._time_us = max(self._time_us, time_us)
        self._next = (sequence + len(data) + missing) & _ALL
        for message in self._framing.take(data[known:]):
            yield self._time_us, message
        if missing:
            for message in self._framing.cut():
                yield self._time_us, message

    def _append_pending(self) -> Iterator[Message]:
        """Append the segments that a gap has kept waiting, as far as it is closed."""
        while self._pending:
            after = self._next or 0
            nearest = min(self._pending, key=lambda sequence: (sequence - after + _HALF) & _ALL)
            if 0 < (nearest - after) & _ALL < _HALF:
                return
            yield from self._append(nearest, *self._pending.pop(nearest))

    def _skip_gap(self) -> Iterator[Message]:
        """Give up bytes that do not come, and what was begun before them."""
        after = self._next or 0
        nearest = min(self._pending, key=lambda sequence: (sequence - after) & _ALL)
        self.lost += (nearest - after) & _ALL
        self._framing.end()
        self._next = nearest
        yield from self._append_pending()

"""SIP messages in TCP connections: bytes put in order, cut into messages by Content-Length, WebSocket taken off.

Sources: RFC 9293 (TCP), RFC 3261 sections 7.5 and 18.3 (framing), RFC 6455 and 7118 (WebSocket, SIP over it).
"""

import re
from collections.abc import Iterator

from sipdump_core import sip

__all__ = ["Stream", "starts_message"]

_SYN, _FIN, _RST = 2, 1, 4
_MAX_BUFFER = 1 << 20
_MAX_PENDING = 256
_LINE = rb"(?:SIP/\d\.\d[ \t]+\d{3}(?!\d)|[A-Za-z0-9.!%*_+`'~-]{1,64}[ \t]+[^ \t\r\n]+[ \t]+SIP/\d\.\d)"
_STARTS = re.compile(_LINE, re.IGNORECASE)
_START_OF_LINE = re.compile(rb"(?:^|\n)(?=" + _LINE + rb"[^\n]*\n)", re.IGNORECASE)
_UPGRADE = re.compile(
    rb"(?:GET [^\n]*|HTTP/1\.\d 101[^\n]*)\r?\n(?:[^\r\n][^\n]*\n)*?upgrade:[ \t]*websocket", re.IGNORECASE
)
_HTTP = (b"GET ", b"HTTP/1.")
_MASKED, _CONTINUATION, _TEXT, _BINARY = 0x80, 0, 1, 2


def starts_message(data: bytes) -> bool:
    """Return whether bytes begin with a SIP message, line ends before it left out (RFC 3261, section 7.5)."""
    at = 0
    while at < len(data) and data[at] in b"\r\n":
        at += 1
    return _STARTS.match(data, at) is not None


class Stream:
    """One direction of a TCP connection."""

    def __init__(self) -> None:
        self.proto = "tcp"
        """``tcp``, or ``ws`` once WebSocket was seen."""
        self.lost = 0
        """Bytes that were never captured."""
        self._next: int | None = None
        self._pending: dict[int, bytes] = {}
        self._buffer = bytearray()
        self._message = b""

    def take(self, sequence: int, flags: int, data: bytes) -> Iterator[bytes]:
        """Take a segment, and yield the messages that are whole with it.

        Args:
            sequence: its sequence number.
            flags: TCP's flags.
            data: what it carries.
        """
        if flags & _SYN:
            self._begin((sequence + 1) & 0xFFFFFFFF)
            sequence = (sequence + 1) & 0xFFFFFFFF
        if self._next is None:
            if not data:
                return
            self._begin(sequence)
        assert self._next is not None  # noqa: S101 - it has begun
        ahead = (sequence - self._next) & 0xFFFFFFFF
        if ahead >= 1 << 31:  # it begins with bytes that were there before
            known = (1 << 32) - ahead
            if known < len(data):
                self._append(data[known:])
        elif ahead == 0:
            self._append(data)
        elif data:
            if len(self._pending.get(sequence, b"")) < len(data):
                self._pending[sequence] = data
            if len(self._pending) > _MAX_PENDING:
                self._skip_gap()
        self._append_pending()
        yield from self._messages()
        if flags & (_FIN | _RST):
            yield from self.finish()

    def finish(self) -> Iterator[bytes]:
        """Yield what is left at the end of the capture, behind bytes that are missing, too."""
        while self._pending:
            self._skip_gap()
            self._append_pending()
            yield from self._messages()

    def _begin(self, sequence: int) -> None:
        self._next = sequence
        self._pending.clear()
        self._buffer.clear()

    def _append(self, data: bytes) -> None:
        assert self._next is not None  # noqa: S101 - it has begun
        self._buffer += data
        self._next = (self._next + len(data)) & 0xFFFFFFFF

    def _append_pending(self) -> None:
        while self._pending and self._next is not None:
            for sequence in list(self._pending):
                ahead = (sequence - self._next) & 0xFFFFFFFF
                if ahead == 0 or ahead >= 1 << 31:
                    data = self._pending.pop(sequence)
                    known = ((1 << 32) - ahead) & 0xFFFFFFFF
                    if known < len(data):
                        self._append(data[known:])
                    break
            else:
                return

    def _skip_gap(self) -> None:
        """Give up bytes that do not come, and what was begun before them."""
        assert self._next is not None  # noqa: S101 - it has begun
        after = self._next
        nearest = min(self._pending, key=lambda sequence: (sequence - after) & 0xFFFFFFFF)
        self.lost += (nearest - after) & 0xFFFFFFFF
        self._buffer.clear()
        self._next = nearest

    def _messages(self) -> Iterator[bytes]:
        while self._buffer:
            before = len(self._buffer)
            found = self._from_websocket() if self.proto == "ws" else self._from_stream()
            if found:
                yield found
            if len(self._buffer) == before:
                break
        if len(self._buffer) > _MAX_BUFFER:
            self._buffer.clear()

    def _from_stream(self) -> bytes | None:
        """Take a message off the buffer's front, or what is none of SIP's; None where there is none, or not all."""
        buffer = self._buffer
        while buffer and buffer[0] in b"\r\n":
            del buffer[0]
        if buffer.startswith(_HTTP):
            end = sip.header_end(buffer)
            if end < 0:
                return None
            if _UPGRADE.match(bytes(buffer[:end])):
                self.proto = "ws"
            del buffer[:end]
            return None
        if _looks_like_websocket(buffer):  # the capture began behind the handshake
            self.proto = "ws"
            return None
        if not starts_message(bytes(buffer[:2048])):
            if len(buffer) < 64 and b"\n" not in buffer:
                return None  # the first line may not be whole
            found = _START_OF_LINE.search(buffer, 1)
            del buffer[: found.end() if found else max(len(buffer) - 2048, 1) if len(buffer) > 2048 else 0]
            return None
        end = sip.header_end(buffer)
        if end < 0:
            return None
        length = sip.content_length(bytes(buffer[:end]), 0, end)
        if length is None:  # not legal on a stream: up to what looks like the next message
            found = _START_OF_LINE.search(buffer, end)
            end = found.end() if found else len(buffer)
        else:
            end += length
            if end > len(buffer):
                return None
        message = bytes(buffer[:end])
        del buffer[:end]
        return message

    def _from_websocket(self) -> bytes | None:
        """Take a frame off the buffer's front; the message that it ends, or None."""
        frame = _frame(self._buffer)
        if frame is None:
            return None
        opcode, final, start, end, mask = frame
        data = _unmasked(bytes(self._buffer[start:end]), mask)
        del self._buffer[:end]
        if opcode in (_TEXT, _BINARY):
            self._message = data
        elif opcode == _CONTINUATION:
            self._message += data
        else:  # ping, pong, close
            return None
        if not final or len(self._message) > _MAX_BUFFER:
            return None
        message, self._message = self._message, b""
        return message if starts_message(message) else None


def _frame(buffer: bytearray) -> tuple[int, bool, int, int, bytes] | None:
    """Return opcode, whether it is the last, start and end of the data, and the mask; None where it is not whole."""
    if len(buffer) < 2:
        return None
    length, at = buffer[1] & 0x7F, 2
    if length >= 126:
        size = 2 if length == 126 else 8
        if len(buffer) < 2 + size:
            return None
        length, at = int.from_bytes(buffer[2 : 2 + size], "big"), 2 + size
    mask = b""
    if buffer[1] & _MASKED:
        mask, at = bytes(buffer[at : at + 4]), at + 4
    if len(buffer) < at + length:
        return None
    return buffer[0] & 15, bool(buffer[0] & 0x80), at, at + length, mask


def _looks_like_websocket(buffer: bytearray) -> bool:
    if buffer[0] not in (0x81, 0x82):
        return False
    frame = _frame(buffer)
    return frame is not None and starts_message(_unmasked(bytes(buffer[frame[2] : frame[3]]), frame[4]))


def _unmasked(data: bytes, mask: bytes) -> bytes:
    if not mask:
        return data
    length = len(data)
    key = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
    return (int.from_bytes(data, "big") ^ key).to_bytes(length, "big")

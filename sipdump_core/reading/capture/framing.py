"""SIP messages in a stream of bytes: cut by Content-Length, or taken out of WebSocket frames.

What is not SIP is skipped, up to what looks like a start line. Nothing raises on any input, and all of it is read in
linear time: what has to wait for more bytes is not looked at again before they are there.

Sources: RFC 3261 sections 7.5 and 18.3 (framing), RFC 6455 and 7118 (WebSocket, SIP over it).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from sipdump_core import sip

__all__ = ["Framing", "starts_message"]

_MAX_MESSAGE = 1 << 20
_MAX_HEADERS = 1 << 16
_MAX_LINE = 8192
_LINE = rb"(?:SIP/\d\.\d[ \t]+\d{3}(?!\d)|[A-Za-z0-9.!%*_+`'~-]{1,64}[ \t]+[^ \t\r\n]+[ \t]+SIP/\d\.\d)"
_STARTS = re.compile(rb"[\r\n]*+" + _LINE, re.IGNORECASE)
_START_OF_LINE = re.compile(rb"\n(?=" + _LINE + rb"[^\n]*\n)", re.IGNORECASE)
_UPGRADE = re.compile(
    rb"(?:GET [^\n]*|HTTP/1\.\d 101[^\n]*)\r?\n(?:[^\r\n][^\n]*\n)*?upgrade:[ \t]*websocket", re.IGNORECASE
)
_HTTP = (b"GET ", b"HTTP/1.")
_MASKED, _FINAL = 0x80, 0x80
_CONTINUATION, _TEXT, _BINARY = 0, 1, 2
_ENOUGH = 64
"""Bytes in which the beginning of a message can be told."""


def starts_message(data: bytes | bytearray) -> bool:
    """Return whether bytes begin with a SIP message, line ends before it left out (RFC 3261, section 7.5)."""
    return _STARTS.match(data) is not None


class Framing:
    """The bytes of one direction of a connection, in order."""

    def __init__(self) -> None:
        self.proto = "tcp"
        """``tcp``, or ``ws`` once WebSocket was seen."""
        self.truncated = 0
        """Messages of which only the beginning came."""
        self._buffer = bytearray()
        self._needed = 1
        """The buffer's length below which there is nothing new to be found."""
        self._searched = 0
        """The buffer's bytes in which the headers do not end."""
        self._in_step = True
        """The buffer begins with a WebSocket frame; not known behind a gap."""
        self._message = bytearray()
        """The frames so far of a message."""

    def take(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes, and yield the messages that are whole with them."""
        self._buffer += data
        while len(self._buffer) >= self._needed:
            before = len(self._buffer), self.proto
            found = self._take_frame() if self.proto == "ws" else self._take_message()
            if found:
                yield found
            if (len(self._buffer), self.proto) == before:
                self._needed = max(self._needed, len(self._buffer) + 1)

    def cut(self) -> Iterator[bytes]:
        """Yield the message that has begun, as far as it came: the rest of its packet was not captured."""
        if self.proto == "tcp" and starts_message(self._buffer):
            self.truncated += 1
            message = bytes(self._buffer)
            self._drop(len(self._buffer))
            yield message
        self.end()

    def end(self) -> None:
        """Forget what has begun: the bytes behind it do not come."""
        self.truncated += starts_message(self._message or self._buffer)
        self._drop(len(self._buffer))
        self._message.clear()
        self._in_step = False

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._needed, self._searched = 1, 0

    def _take_message(self) -> bytes | None:
        """Take a message off the buffer's front, or what is none of SIP's; None where there is none, or not all."""
        buffer = self._buffer
        ends = len(buffer) - len(buffer.lstrip(b"\r\n")) if buffer[0] in b"\r\n" else 0
        if ends:
            self._drop(ends)
        if not buffer:
            return None
        if buffer.startswith(_HTTP):
            end = self._head_end()
            if end >= 0:
                if _UPGRADE.match(buffer[:end]):
                    self.proto, self._in_step = "ws", True
                self._drop(end)
            return None
        if buffer[0] & 15 in (_TEXT, _BINARY) and buffer[0] & _FINAL and _is_websocket(buffer):
            self.proto, self._in_step = "ws", True  # the capture began behind the handshake
            return None
        if not starts_message(buffer[:_MAX_LINE]):
            self._pass_over()
            return None
        head = self._head_end()
        if head < 0:
            return None
        length = sip.content_length(bytes(buffer[:head]), 0, head)
        if length is None:  # not legal on a stream: up to what looks like the next message
            found = _START_OF_LINE.search(buffer, head - 1)
            end = found.end() if found else len(buffer)
        elif head + length > _MAX_MESSAGE:
            self._drop(head)
            return None
        else:
            end = head + length
        if end > len(buffer):
            self._needed = end
            return None
        message = bytes(buffer[:end])
        self._drop(end)
        return message

    def _head_end(self) -> int:
        """Return where the headers at the buffer's front end, -1 where they do not; too long ones are dropped."""
        end = sip.header_end(self._buffer, max(self._searched - 2, 0))
        self._searched = len(self._buffer) if end < 0 else end - 1
        if end < 0 and len(self._buffer) > _MAX_HEADERS:
            self._drop(len(self._buffer))
        return end

    def _pass_over(self) -> None:
        """Drop what is not SIP: up to a start line, or all but a line that may become one."""
        buffer = self._buffer
        found = _START_OF_LINE.search(buffer)
        if found:
            self._drop(found.end())
        elif b"\n" in buffer or len(buffer) > _MAX_LINE:
            self._drop(max(buffer.rfind(b"\n"), len(buffer) - _MAX_LINE, 0))

    def _take_frame(self) -> bytes | None:
        """Take a frame off the buffer's front; the message that it ends, or None."""
        if not self._in_step:
            if not _is_websocket(self._buffer):
                self._drop(len(self._buffer))
                return None
            self._in_step = True
        frame = _frame(self._buffer)
        if frame is None:
            return None
        if frame.end > _MAX_MESSAGE:
            self.end()
            return None
        if frame.end > len(self._buffer):
            self._needed = frame.end
            return None
        data = frame.unmasked(self._buffer)
        self._drop(frame.end)
        if frame.opcode in (_TEXT, _BINARY):
            self._message = bytearray(data)
        elif frame.opcode == _CONTINUATION:
            self._message += data
        else:  # ping, pong, close
            return None
        if not frame.final and len(self._message) <= _MAX_MESSAGE:
            return None
        message, self._message = bytes(self._message), bytearray()
        return message if starts_message(message) else None


class _Frame(NamedTuple):
    """The header of a WebSocket frame (RFC 6455, section 5.2)."""

    opcode: int
    final: bool
    start: int
    end: int
    mask: bytes

    def unmasked(self, buffer: bytearray, limit: int | None = None) -> bytes:
        """Return its data, as far as it is there, and at most ``limit`` bytes of it."""
        data = bytes(buffer[self.start : self.end if limit is None else min(self.end, self.start + limit)])
        if not self.mask:
            return data
        length = len(data)
        key = int.from_bytes((self.mask * (length // 4 + 1))[:length], "big")
        return (int.from_bytes(data, "big") ^ key).to_bytes(length, "big")


def _frame(buffer: bytearray) -> _Frame | None:
    """Return the frame at a buffer's front; None where its header is not whole."""
    if len(buffer) < 2:
        return None
    length, at = buffer[1] & 0x7F, 2
    if length >= 126:
        size = 2 if length == 126 else 8
        length, at = int.from_bytes(buffer[2 : 2 + size], "big"), 2 + size
    masked = bool(buffer[1] & _MASKED)
    start = at + 4 * masked
    if len(buffer) < start:
        return None
    return _Frame(buffer[0] & 15, bool(buffer[0] & _FINAL), start, start + length, bytes(buffer[at:start]))


def _is_websocket(buffer: bytearray) -> bool:
    """Return whether a frame begins here whose data begins with SIP."""
    frame = _frame(buffer)
    return frame is not None and starts_message(frame.unmasked(buffer, _ENOUGH))

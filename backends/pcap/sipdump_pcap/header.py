"""The P-KSR-SIPDump header (flag 8): a message's proto, pid and process number, written into the message itself."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Transform
from sipdump_core.record import Flow, Record

__all__ = ["LONGEST_LINE", "NAME", "HeaderTransform", "Split", "may_have_line", "split"]

NAME = b"P-KSR-SIPDump: "
LONGEST_LINE = len(NAME) + len("sctp pid=-2147483648 pno=-2147483648\r\n")
"""Bytes of the longest header."""
_LINE_ENDS = (b"\r", b"\n")
_LINE = re.compile(NAME + rb"(udp|tcp|tls|sctp|wss?|none) pid=(-?\d{1,10}) pno=(-?\d{1,10})\r\n")
# Line ends before a message are no part of it (RFC 3261, section 7.5).
_START_LINE = re.compile(rb"[\r\n]*+[^\r\n][^\n]*\n")
# Behind the start line; behind the first line end where no start line ends, and in older files and Kamailio's.
_PLACES = (_START_LINE, re.compile(rb"[\r\n]*\n(?=" + NAME + rb")"))


class HeaderTransform(Transform):
    """Inserts ``P-KSR-SIPDump: <proto> pid=<pid> pno=<procno>`` after the message's start line.

    Where there are line ends but none ends a start line, it goes after the first, as with Kamailio. A message without
    any line end stays as it is (Kamailio 5.6 writes an empty packet for it).
    """

    name = "header"
    flag = 8

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        # by the flow's identity; each entry keeps its flow alive, so that no other flow can get its id
        self._lines: Cache[int, tuple[Flow, bytes]] = Cache()

    def apply(self, batch: Sequence[Record], bufs: Sequence[bytes]) -> list[bytes]:
        """Return the messages with the header in them."""
        lines = self._lines
        out = []
        for record, buf in zip(batch, bufs, strict=True):
            line = lines.get(id(record.flow)) or self._prepare(record.flow)
            if buf[:1] > b"\r":
                out.append(buf.replace(b"\n", line[1], 1))
            else:
                out.append(_insert(buf, line[1][1:]))
        return out

    def _prepare(self, flow: Flow) -> tuple[Flow, bytes]:
        text = f"\n{NAME.decode()}{flow.proto} pid={flow.pid} pno={flow.procno}\r\n"
        return self._lines.keep(id(flow), (flow, text.encode()))


class Split(NamedTuple):
    """A message with the header in it, taken apart."""

    at: int
    """Offset of the header's line."""
    end: int
    """Offset behind it."""
    proto: str
    pid: int
    procno: int


def may_have_line(buf: bytes) -> bool:
    """Return False where :func:`split` finds nothing, and True where it may: a cheap test, made for every message."""
    return buf.startswith(NAME, buf.find(b"\n") + 1) or (buf[:1] in _LINE_ENDS and NAME in buf)


def split(buf: bytes) -> Split | None:
    """Return where a message has the header; None where it has none at the place that the header goes to."""
    for place in _PLACES:
        before = place.match(buf)
        found = _LINE.match(buf, before.end()) if before else None
        if found:
            return Split(found.start(), found.end(), found[1].decode(), int(found[2]), int(found[3]))
    return None


def _insert(buf: bytes, line: bytes) -> bytes:
    """Return a message, which may begin with line ends, with a line behind its start line."""
    found = _START_LINE.match(buf)
    if found:
        return buf[: found.end()] + line + buf[found.end() :]
    return buf.replace(b"\n", b"\n" + line, 1)

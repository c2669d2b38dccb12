"""Cutting a piece of a stream into SIP messages by Content-Length (RFC 3261, section 18.3)."""

import re
from collections.abc import Sequence

from sipdump_core import sip

__all__ = ["begins_message", "is_usual", "split_messages"]

_START_LINE = re.compile(rb"[\r\n\0]*(?:SIP/\d\.\d \d|[^\s\0:/]+ [^\r\n]+ SIP/\d\.\d[ \t]*\r?\n)", re.IGNORECASE)
_USUAL = re.compile(rb"[^\n]*\r\nVia: SIP/2\.0/(?:TCP|TLS|UDP) ")


def begins_message(buf: bytes, at: int = 0) -> bool:
    """Return whether a start line of SIP is here, perhaps behind line ends (RFC 3261, sections 7.1, 7.2 and 7.5)."""
    return _START_LINE.match(buf, at) is not None


def is_usual(buf: bytes) -> bool:
    """Return whether a quick look tells that this is one message, and that it did not come over WebSocket."""
    end = buf.find(b"\r\n\r\n")
    if end < 0 or _USUAL.match(buf) is None:
        return False
    body = len(buf) - end - 4
    if not body or buf.endswith(b"\nContent-Length: %d" % body, 0, end):
        return True
    return buf.find(b"/2.0", end) < 0  # the version in a further start line


def split_messages(buf: bytes) -> Sequence[bytes]:
    """Return the messages of a payload, in most cases one.

    It is cut only where a further start line follows, so that a wrong Content-Length cuts nothing off. Line ends and
    NULs between messages are keep-alives and belong to none.
    """
    messages = []
    at = 0
    while (start := sip.header_end(buf, _first_line(buf, at))) >= 0:
        length = sip.content_length(buf, at, start)
        end = start + (length or 0)
        if length is None or not begins_message(buf, end):
            break
        messages.append(buf[at:end])
        at = _first_line(buf, end)
    messages.append(buf[at:])
    return messages


def _first_line(buf: bytes, at: int) -> int:
    """Return where a message's start line is, behind line ends and NULs."""
    while buf[at : at + 1] in (b"\r", b"\n", b"\0"):
        at += 1
    return at

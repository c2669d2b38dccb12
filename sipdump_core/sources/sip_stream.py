"""Cutting a piece of a stream into SIP messages by Content-Length (RFC 3261, section 18.3)."""

import re
from collections.abc import Sequence

from sipdump_core import sip

__all__ = ["begins_message", "split_messages"]

_START_LINE = re.compile(rb"[\r\n]*(?:SIP/\d\.\d \d|[^\s:/]+ [^\r\n]+ SIP/\d\.\d\r?\n)", re.IGNORECASE)


def begins_message(buf: bytes, at: int = 0) -> bool:
    """Return whether a start line of SIP is here, perhaps behind line ends (RFC 3261, sections 7.1, 7.2 and 7.5)."""
    return _START_LINE.match(buf, at) is not None


def split_messages(buf: bytes) -> Sequence[bytes]:
    """Return the messages of a payload, in most cases one.

    It is cut only where a further start line follows, so that a wrong Content-Length cuts nothing off. Line ends
    between messages are keep-alives and belong to none.
    """
    end = buf.find(b"\r\n\r\n", 4)
    if end >= 0 and (end + 4 == len(buf) or buf.find(b"/2.0", end + 4) < 0):  # the version in a further start line
        return (buf,)
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
    """Return where a message's start line is, behind line ends."""
    while buf[at : at + 1] in (b"\r", b"\n"):
        at += 1
    return at

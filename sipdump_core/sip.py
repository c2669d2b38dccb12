"""The little that the core has to know of SIP itself: headers found in raw bytes, leniently.

Header names are compared without case, compact forms count (RFC 3261, section 7.3.3), folded lines are
unfolded (section 7.3.1), and lines may end in CRLF or LF. Nothing here raises on any input.
"""

import re

__all__ = ["call_id", "content_length", "header_end"]

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
# a value runs on over line ends that are followed by white space
_VALUE = rb"[ \t]*:((?:[^\r\n]|\r?\n[ \t]|\r(?!\n))*)"
_CALL_ID = re.compile(rb"\n(?:call-id|i)" + _VALUE, re.IGNORECASE)
_CONTENT_LENGTH = re.compile(
    rb"\n(?:content-length|l)[ \t]*:[ \t]*(?:\r?\n[ \t]+)?(\d{1,10})[ \t]*(?=\r?\n|$)", re.IGNORECASE
)


def header_end(buf: bytes | bytearray, start: int = 0, end: int | None = None) -> int:
    """Give the offset behind the blank line that ends the headers of ``buf[start:end]``, -1 where there is none."""
    found = _BLANK_LINE.search(buf, start, len(buf) if end is None else end)
    return found.end() if found else -1


def call_id(buf: bytes) -> str | None:
    """Give the message's Call-ID, or None where it has none; bytes that are no UTF-8 are escaped."""
    found = _CALL_ID.search(buf)
    if found is None:
        return None
    empty = len(buf) - len(buf.lstrip(b"\r\n"))  # lines before a message are no part of it (section 7.5)
    blank = _BLANK_LINE.search(buf, max(0, empty - 1))
    if blank is not None and found.start() > blank.start():
        return None
    return b" ".join(found[1].split()).decode("utf-8", "backslashreplace") or None


def content_length(buf: bytes, start: int, end: int) -> int | None:
    """Give the value of Content-Length among the headers ``buf[start:end]``, or None."""
    found = _CONTENT_LENGTH.search(buf, start, end)
    return int(found[1]) if found else None

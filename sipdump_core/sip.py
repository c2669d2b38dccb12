"""The little that the core has to know of SIP itself: headers found in raw bytes, leniently.

Header names are compared without regard to case, compact forms count (RFC 3261, section 7.3.3), folded lines are
unfolded (section 7.3.1), and lines may end in CRLF or LF. Nothing here raises on any input.
"""

import re
from collections.abc import Iterator

__all__ = ["call_id", "content_length", "content_lengths", "header_end"]


def _any_case(name: str) -> str:
    # An expression that begins with a newline finds it by memchr; with re.IGNORECASE it would try each byte
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else char for char in name)


_BLANK_LINE = re.compile(rb"\n\r?\n")
_CALL_ID = re.compile(rf"\n(?:{_any_case('call-id')}|{_any_case('i')})[ \t]*:".encode())
_CONTENT_LENGTH = re.compile(
    rf"\n(?:{_any_case('content-length')}|{_any_case('l')})[ \t]*:[ \t]*".encode()
    + rb"(?:\r?\n[ \t]+)?(\d{1,10})[ \t]*(?=\r?\n|$)"
)


def header_end(buf: bytes | bytearray, start: int = 0, end: int | None = None) -> int:
    """Return the offset after the blank line that ends the headers of ``buf[start:end]``, -1 where there is none."""
    found = _BLANK_LINE.search(buf, start, len(buf) if end is None else end)
    return found.end() if found else -1


def call_id(buf: bytes) -> str | None:
    """Return the message's Call-ID, or None where it has none; bytes that are not UTF-8 are escaped."""
    found = _CALL_ID.search(buf)
    if found is None:
        return None
    start = 0
    if buf[:1] in (b"\r", b"\n"):  # lines before a message are no part of it (section 7.5)
        start = len(buf) - len(buf.lstrip(b"\r\n")) - 1
    if _BLANK_LINE.search(buf, start, found.start() + 1):  # it is in the body
        return None
    end = buf.find(b"\n", found.end())
    while end >= 0 and buf[end + 1 : end + 2] in (b" ", b"\t"):  # the next line continues this one
        end = buf.find(b"\n", end + 1)
    value = buf[found.end() : end if end >= 0 else len(buf)]
    return b" ".join(value.split()).decode("utf-8", "backslashreplace") or None


def content_length(buf: bytes, start: int, end: int) -> int | None:
    """Return the value of Content-Length among the headers ``buf[start:end]``, or None."""
    found = _CONTENT_LENGTH.search(buf, start, end)
    return int(found[1]) if found else None


def content_lengths(buf: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each Content-Length in a part of a file of messages: its offset, where the body begins, and its value."""
    blank = None
    for found in _CONTENT_LENGTH.finditer(buf):
        if blank is None or blank.start() < found.end(1):
            blank = _BLANK_LINE.search(buf, found.end(1))
        if blank is None:
            return
        yield found.start(), blank.end(), int(found[1])

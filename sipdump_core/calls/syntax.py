"""Pieces of SIP's grammar that several modules read: text, folded lines, lists (RFC 3261, sections 7.3.1 and 25.1)."""

import re

__all__ = ["split_commas", "text", "unfolded"]

_FOLD = re.compile(rb"\r?\n[ \t]++")
# one value of a list; an unclosed quoted string or URI reaches to the end
_ITEM = re.compile(rb'(?:[^,"<]|"(?:[^"\\]|\\.?)*+"?|<[^>]*+>?)++', re.DOTALL)


def text(value: bytes) -> str:
    """Return a header's value as text: white space and folds become one space, bytes that are not UTF-8 are escaped."""
    return b" ".join(value.split()).decode("utf-8", "backslashreplace")


def unfolded(head: bytes) -> bytes:
    """Return headers with every folded line joined to the one before."""
    return _FOLD.sub(b" ", head)


def split_commas(value: bytes) -> list[bytes]:
    """Return the values of a comma-separated list; commas in quoted strings and angle brackets do not separate."""
    return [item for item in _ITEM.findall(value) if item.strip()]

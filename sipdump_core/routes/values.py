"""Values of pseudo-variables: strings, numbers and null, and how one becomes another."""

import re
import time
from collections.abc import Callable
from typing import Final

from sipdump_core.record import Record

__all__ = [
    "MAX_VALUE",
    "Format",
    "Getter",
    "NumberText",
    "Value",
    "encode",
    "local",
    "strftime",
    "text_of",
    "to_int",
    "utc",
]

Value = int | bytes | None
Getter = Callable[[Record], Value]
Format = Callable[[Record], bytes]

MAX_VALUE: Final = 262_144
"""Bytes that the result of a transformation may have; Kamailio's limit is 65,535."""

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1  # {s.int} and numbers in strings: a C int
_INT = re.compile(rb"[+-]?[0-9]*")


def to_int(text: bytes) -> int | None:
    """Read a C int as Kamailio does (str2sint): a sign and digits, where the empty string is 0."""
    if len(text) > 20 or not _INT.fullmatch(text):
        return None
    value = int(text) if text not in (b"", b"+", b"-") else 0
    return value if _INT_MIN <= value <= _INT_MAX else None


def text_of(value: Value) -> bytes:
    """Return a value as a string: null is empty."""
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    return value.text if isinstance(value, NumberText) else b"%d" % value


class NumberText(int):
    """A number that was read from a text: it prints as that text, as ``007`` or nothing at all."""

    text: bytes


def encode(text: str) -> bytes:
    """Return the bytes of a text from a configuration file, which was decoded in the same way."""
    return text.encode("utf-8", "surrogateescape")


def local(seconds: int) -> time.struct_time:
    """Return a time in seconds since the epoch as local time; of a year that no date has, the epoch's."""
    try:
        return time.localtime(seconds)
    except (OverflowError, OSError, ValueError):
        return time.localtime(0)  # the capture node's clock has gone mad


def utc(seconds: int) -> time.struct_time:
    """Return a time in seconds since the epoch as UTC; of a year that no date has, the epoch's."""
    try:
        return time.gmtime(seconds)
    except (OverflowError, OSError, ValueError):
        return time.gmtime(0)


def strftime(form: str, when: time.struct_time) -> bytes | None:
    """Return a time in a format of strftime(3), or None where nothing comes of it."""
    try:
        return encode(time.strftime(form, when)) or None
    except (ValueError, OverflowError, MemoryError):
        return None

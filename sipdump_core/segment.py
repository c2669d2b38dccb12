"""Segments: what a store holds between two rotations, and how they are named.

The name is Kamailio's: ``<fprefix>yyyy-mm-dd--hh-mm-ss<suffix>`` in local time. A second segment of the same
second gets ``-1``, ``-2`` ... before its suffix, because nothing that was stored is ever overwritten.
"""

import re
import time
from datetime import date
from functools import total_ordering
from typing import Any, Self

import attrs

__all__ = ["FOREIGN", "UNREADABLE", "Segment", "StoredSegment", "read_stamp"]

FOREIGN = "of another user"
"""The state of a segment that a stranger may have put there: it can be read, and is never pruned, merged or sealed."""

UNREADABLE = "unreadable"
"""The state of a segment that this user may not read, so that nobody knows whether it is open."""

_STAMP_FORMAT = "%Y-%m-%d--%H-%M-%S"
_NAME = re.compile(r"(.{20})(?:-([1-9]\d{0,5}))?", re.ASCII)
_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)--(\d\d)-(\d\d)-(\d\d)", re.ASCII)


@total_ordering
@attrs.frozen(order=False)
class Segment:
    """A segment's name in its parts; the same for every backend up to the suffix. The order is that of its parts."""

    prefix: str
    stamp: str
    """Local time of the opening, ``yyyy-mm-dd--hh-mm-ss``."""
    sequence: int = 0
    """Distinguishes segments of one second: 0, then 1, 2 ..."""
    suffix: str = ""

    @classmethod
    def starting(cls, prefix: str, time_s: float) -> Self:
        """Name a segment that starts at ``time_s`` (seconds since the epoch)."""
        return cls(prefix, time.strftime(_STAMP_FORMAT, time.localtime(time_s)))

    @classmethod
    def parse(cls, name: str, prefix: str, suffix: str) -> Self | None:
        """Parse a name; return None if it is not of the form ``<prefix><stamp>[-n]<suffix>``."""
        if not (name.startswith(prefix) and name.endswith(suffix)):
            return None
        middle = _NAME.fullmatch(name, len(prefix), len(name) - len(suffix))
        if middle is None:
            return None
        stamp, sequence = middle.groups()
        try:
            read_stamp(stamp)
        except ValueError:
            return None
        return cls(prefix, stamp, int(sequence or 0), suffix)

    def __lt__(self, other: Any) -> bool:
        if not isinstance(other, Segment):
            return NotImplemented
        return (self.prefix, self.stamp, self.sequence, self.suffix) < (
            other.prefix,
            other.stamp,
            other.sequence,
            other.suffix,
        )

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return f"{self.prefix}{self.stamp}" + (f"-{self.sequence}" if self.sequence else "")

    @property
    def name(self) -> str:
        """The whole name."""
        return self.stem + self.suffix

    @property
    def start(self) -> float:
        """Start of the segment in seconds since the epoch, read from its name.

        Raises:
            ValueError: the stamp is not a time.
            OverflowError: it is out of range for this system.
        """
        return time.mktime((*read_stamp(self.stamp), 0, 0, -1))

    def next(self) -> Self:
        """The name to try when this one is taken."""
        return attrs.evolve(self, sequence=self.sequence + 1)


def read_stamp(stamp: str) -> tuple[int, int, int, int, int, int]:
    """Return a stamp's year, month, day, hour, minute and second.

    That is not left to strptime(), which takes 8 us: folders may hold 100,000 names.

    Raises:
        ValueError: there is no such time.
    """
    found = _STAMP.fullmatch(stamp)
    if found is None:
        raise ValueError(f"{stamp!r} is not a time such as 2026-11-27--10-32-00")
    year, month, day, hour, minute, second = map(int, found.groups())
    date(year, month, day)
    if hour > 23 or minute > 59 or second > 61:  # leap seconds, as for strptime()
        raise ValueError(f"{stamp!r} is not a time of the day")
    return year, month, day, hour, minute, second


@attrs.frozen
class StoredSegment:
    """A segment as its store lists it."""

    segment: Segment
    size: int
    """Bytes."""
    modified: float
    """Last write, in seconds since the epoch."""
    sealed: bool
    """False while a writer has it open, and until it is in its final form and place: only then may it be pruned."""
    records: int | None = None
    """How many records it holds, if the store knows without reading it."""
    location: str = ""
    """Path or key, for people."""
    pending: str = ""
    """Why it is not sealed, if no writer has it open: ``unsealed``, ``waiting for upload``; or ``unreadable``."""

    @property
    def state(self) -> str:
        """``sealed``, ``open`` or, if it is neither, ``pending``."""
        return "sealed" if self.sealed else self.pending or "open"

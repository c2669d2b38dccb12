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

from sipdump_core.clock import local_iso

__all__ = ["FOREIGN", "STAMP_FORMAT", "UNREADABLE", "Segment", "Starts", "StoredSegment", "check_stamp"]

FOREIGN = "of another user"
"""The state of a segment that a stranger may have put there: it can be read, and is never pruned, merged or sealed."""

UNREADABLE = "unreadable"
"""The state of a segment that this user may not read, so that nobody knows whether it is open."""

STAMP_FORMAT = "%Y-%m-%d--%H-%M-%S"
"""How a name has its time, as for strftime()."""
_TIME = r"(\d{4}-\d\d-\d\d)--(?:[01]\d|2[0-3])-[0-5]\d-(?:[0-5]\d|6[01])"  # leap seconds, as for strptime()
_NAME = re.compile(rf"({_TIME})(?:-([1-9]\d{{0,5}}))?", re.ASCII)
_STAMP = re.compile(_TIME, re.ASCII)


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
        return cls(prefix, time.strftime(STAMP_FORMAT, time.localtime(time_s)))

    @classmethod
    def parse(cls, name: str, prefix: str, suffix: str) -> Self | None:
        """Parse a name; return None if it is not of the form ``<prefix><stamp>[-n]<suffix>``."""
        if not (name.startswith(prefix) and name.endswith(suffix)):
            return None
        middle = _NAME.fullmatch(name, len(prefix), len(name) - len(suffix))
        if middle is None:
            return None
        stamp, day, sequence = middle.groups()
        try:
            date.fromisoformat(day)
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
        if self.sequence:
            return f"{self.prefix}{self.stamp}-{self.sequence}{self.suffix}"
        return self.prefix + self.stamp + self.suffix  # written out, because folders may hold 100,000

    @property
    def start(self) -> float:
        """Start of the segment in seconds since the epoch, read from its name.

        Raises:
            ValueError: the stamp is not a time.
            OverflowError: it is out of range for this system.
        """
        check_stamp(self.stamp)
        year, month, day, _, hour, minute, second = self.stamp.split("-")
        return time.mktime((int(year), int(month), int(day), int(hour), int(minute), int(second), 0, 0, -1))

    def next(self) -> Self:
        """The name to try when this one is taken."""
        return attrs.evolve(self, sequence=self.sequence + 1)


def check_stamp(stamp: str) -> None:
    """Look whether there is such a time.

    That is not left to strptime(), which takes 8 us: folders may hold 100,000 names.

    Raises:
        ValueError: there is none.
    """
    found = _STAMP.fullmatch(stamp)
    if found is None:
        raise ValueError(f"{stamp!r} is not a time such as 2026-11-27--10-32-00")
    date.fromisoformat(found[1])


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


class Starts:
    """Writes the starts of many segments as people read them, as :func:`~sipdump_core.clock.local_iso` does.

    The zone is asked for each day, not for each segment: that takes 5 us.
    """

    def __init__(self) -> None:
        self._offsets: dict[str, str] = {}

    def iso(self, segment: Segment) -> str:
        """Return when a segment starts."""
        stamp = segment.stamp
        day = stamp[:10]
        offset = self._offsets.get(day)
        if offset is None:
            offset = self._offsets[day] = _offset(day)
        if not offset or stamp[18] == "6":  # a leap second
            return local_iso(segment.start)
        return f"{day}T{stamp[12:].replace('-', ':')}{offset}"


def _offset(day: str) -> str:
    """Return a day's offset from UTC, as ``+0100``; nothing where it changes on that day."""
    first, last = (local_iso(Segment("", f"{day}--{time_}").start) for time_ in ("00-00-00", "23-59-59"))
    offset = first[19:]
    return offset if (first, last) == (f"{day}T00:00:00{offset}", f"{day}T23:59:59{offset}") else ""

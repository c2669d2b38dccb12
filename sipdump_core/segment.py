"""Segments: what a store holds between two rotations, and how they are named.

The name is Kamailio's: ``<fprefix>yyyy-mm-dd--hh-mm-ss<suffix>`` in local time. A second segment of the same
second gets ``-1``, ``-2`` ... before its suffix, because nothing that was stored is ever overwritten.
"""

import re
import time
from typing import Self

import attrs

__all__ = ["FOREIGN", "UNREADABLE", "Segment", "StoredSegment"]

FOREIGN = "of another user"
"""The state of a segment that a stranger may have put there: it can be read, and is never pruned, merged or sealed."""

UNREADABLE = "unreadable"
"""The state of a segment that this user may not read, so that nobody knows whether it is open."""

_STAMP_FORMAT = "%Y-%m-%d--%H-%M-%S"
_NAME = re.compile(r"(\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d)(?:-([1-9]\d{0,5}))?", re.ASCII)


@attrs.frozen(order=True)
class Segment:
    """A segment's name in its parts; the same for every backend up to the suffix."""

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
        middle = _NAME.fullmatch(name[len(prefix) : len(name) - len(suffix)])
        if middle is None:
            return None
        try:
            time.strptime(middle[1], _STAMP_FORMAT)
        except ValueError:
            return None
        return cls(prefix, middle[1], int(middle[2] or 0), suffix)

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
        """Start of the segment in seconds since the epoch, read from its name."""
        return time.mktime(time.strptime(self.stamp, _STAMP_FORMAT))

    def next(self) -> Self:
        """The name to try when this one is taken."""
        return attrs.evolve(self, sequence=self.sequence + 1)


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

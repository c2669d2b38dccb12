"""What the terminal and its reader, a process of its own, say to each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sipdump_core.calls.ladder import Ladder
from sipdump_core.viewing.listing import Row
from sipdump_core.viewing.live import Counts
from sipdump_core.viewing.words import Word

__all__ = [
    "Broken",
    "Came",
    "Found",
    "Hold",
    "Open",
    "Opened",
    "Options",
    "Refused",
    "Save",
    "Saved",
    "Scanned",
    "Seek",
]


@attrs.frozen
class Options:
    """What is to be read, as the command line says: the first thing that is sent."""

    store: Mapping[str, Any]
    """The arguments of ``open_shelves``."""
    names: Mapping[str, str]
    """Names by address."""
    redact: Sequence[Mapping[str, Any]] = ()
    """What ``--redact`` hides."""
    users_keys: Sequence[str] = ()
    """Files of keys, whose tokens stand for users in the store."""


@attrs.frozen
class Seek:
    """List the calls that match, instead of those before, from the newest back."""

    number: int
    words: Sequence[Word]
    limit: int
    """How many calls to list; 0: all."""


@attrs.frozen
class Hold:
    """End the scan that is under way."""


@attrs.frozen
class Open:
    """Show calls as a ladder."""

    number: int
    call_ids: Sequence[str]
    legs: bool
    """Whether their other legs are drawn too."""


@attrs.frozen
class Save:
    """Write calls into a file."""

    number: int
    call_ids: Sequence[str]
    path: str
    legs: bool
    replace: bool
    """Whether a file of that name is to be replaced."""


Request = Options | Seek | Hold | Open | Save


@attrs.frozen
class Found:
    """A scan has found calls."""

    number: int
    rows: Sequence[Row]
    gone: Sequence[str]
    """Call-IDs that do not match after all."""
    back_us: int
    """Everything from here on is read: microseconds since the epoch; 0: it is not known yet."""


@attrs.frozen
class Scanned:
    """A scan has ended."""

    number: int
    why: str
    """``all``: everything was read; ``limit``: as many calls as are listed; ``held``: it was interrupted."""
    segments: int
    problems: Sequence[str]
    notes: Sequence[str]


@attrs.frozen
class Came:
    """Messages came."""

    number: int
    """Of the search whose calls these are."""
    rows: Sequence[Row]
    gone: Sequence[str]
    lost: int
    """Changes that were lost because the terminal was slow."""
    counts: Counts
    problems: Sequence[str]


@attrs.frozen
class Opened:
    """A ladder; None: there is no such call."""

    number: int
    ladder: Ladder | None
    complete: bool
    """Whether the store was asked; else it has only what came while the terminal was watching."""
    legs: int
    """How many other legs there are."""
    problems: Sequence[str]


@attrs.frozen
class Saved:
    """A file was written."""

    number: int
    path: str
    calls: int
    missing: int
    """How many of the calls that were asked for are not stored any more."""


@attrs.frozen
class Refused:
    """A request failed, and nothing was changed."""

    number: int
    error: str
    exists: bool = False
    """There is a file of that name."""


@attrs.frozen
class Broken:
    """The store cannot be opened, or the reader has ended."""

    error: str
    wrong: bool = False
    """What was asked for is wrong, so that trying again is no use."""


Report = Found | Scanned | Came | Opened | Saved | Refused | Broken

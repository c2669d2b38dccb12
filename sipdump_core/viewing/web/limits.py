"""What the page may cost."""

import attrs

from sipdump_core.errors import SipDumpError

__all__ = ["BusyError", "Limits"]


class BusyError(SipDumpError):
    """As many searches, or viewers, are there as there may be."""


@attrs.frozen
class Limits:
    """What one search may cost, and how many there may be."""

    seconds: float = 30.0
    """After this time a search ends with what it has found."""
    rows: int = 1000
    """Calls that one search lists, at most."""
    searches: int = 4
    """Searches at once."""
    patience: float = 5.0
    """Seconds that one more waits for another one to end."""

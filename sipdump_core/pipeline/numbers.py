"""What a lane did, in numbers."""

from collections import Counter
from collections.abc import Mapping

import attrs

__all__ = ["LaneStats"]


@attrs.define
class LaneStats:
    """What a backend did; counts are of records."""

    state: str = "ok"
    """ok, retrying (an error, see ``error``), stalled (a call does not return) or stopped."""
    since: float = 0.0
    """When the state began, seconds since the epoch."""
    error: str = ""
    """The last error, with its kind."""
    stored: int = 0
    backlog: int = 0
    dropped: Counter[str] = attrs.field(factory=Counter)
    """Records lost to this backend, by reason."""
    refused: int = 0
    """Records that the store will never take; they are in the dead letter."""
    distribution: str = ""
    """The distribution, with its version, that the driver came from."""
    counters: Mapping[str, int] = attrs.field(factory=dict)
    """The backend's own (``Backend.stats``)."""

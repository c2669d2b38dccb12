"""Time, injected, so that tests turn the clock and no code sleeps for them."""

import time

__all__ = ["Clock", "local_iso"]


class Clock:
    """The system's clocks. Tests put a subclass in its place."""

    def time(self) -> float:
        """Wall clock: seconds since the epoch. Names and ages of segments follow it."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never step back. Intervals follow it, so that a stepped wall clock delays no rotation."""
        return time.monotonic()


def local_iso(time_s: float) -> str:
    """Return a time as people read it: local, to the second, with its offset, as ``2026-11-22T22:27:11+0000``.

    Args:
        time_s: seconds since the epoch.
    """
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time_s))

"""Time, injected, so that tests turn the clock and no code sleeps for them."""

import time

__all__ = ["Clock"]


class Clock:
    """The system's clocks. Tests put a subclass in its place."""

    def time(self) -> float:
        """Wall clock: seconds since the epoch. Names and ages of segments follow it."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never step back. Intervals follow it, so that a stepped wall clock delays no rotation."""
        return time.monotonic()

"""Helpers of the tests."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import settings

from sipdump_core.clock import Clock
from sipdump_core.testing.samples import OPTIONS, record

__all__ = ["OPTIONS", "FakeClock", "examples", "memory_limit", "record", "wait_for"]

_TIMES = int(os.environ.get("SIPDUMP_EXAMPLES", "1"))


def examples(count: int) -> settings:
    """Have Hypothesis try so many examples, or ``SIPDUMP_EXAMPLES`` times as many."""
    return settings(max_examples=count * _TIMES)


class FakeClock(Clock):
    """A clock that moves when it is told to."""

    def __init__(self, now: float = 1_795_386_431.0) -> None:
        self.now = now
        self.ticks = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.ticks

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.ticks += seconds


def wait_for(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    """Wait until a condition gives something true, and give that; only a failing test waits so long."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {condition}")
        time.sleep(0.005)


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """What needs so many bytes more than this process has now gets a MemoryError. Unlike tracing, it costs no time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

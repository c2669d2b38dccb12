"""Helpers of the tests."""

import time
from collections.abc import Callable
from typing import Any

from sipdump_core.clock import Clock
from sipdump_core.record import Record

OPTIONS = (
    b"OPTIONS sip:bob@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n"
    b"To: <sip:b@c>\r\nCall-ID: c1@192.0.2.1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)


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


def record(buf: bytes = OPTIONS, **fields: Any) -> Record:
    """Make a record of plain values."""
    values = {
        "time_us": 1_795_386_431_765_284,
        "tag": "rcv",
        "pid": 2738,
        "procno": 2,
        "src_ip": "127.0.0.1",
        "src_port": 5999,
        "dst_ip": "127.0.0.1",
        "dst_port": 5070,
    }
    return Record.of(buf, **{**values, **fields})


def wait_for(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Wait until a condition gives something true, and give that."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {condition}")
        time.sleep(0.005)

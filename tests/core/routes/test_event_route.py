"""The event route, with a plain Python callable."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core.record import Record
from sipdump_core.routes import event_route
from sipdump_core.routes.event_route import DROP, EventRoute
from sipdump_core.sipdump import SipDump
from tests.support import record


def ticks(*took_us: int) -> Iterator[int]:
    """What perf_counter_ns() returns where the calls between two looks take so long."""
    now = 0
    for one in took_us:
        yield now
        now += one * 1000
        yield now


def test_calls_are_counted_and_timed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    looks = ticks(5, 20_000, 10_000, 7, 10_001)
    monkeypatch.setattr(event_route, "perf_counter_ns", lambda: next(looks))

    def callback(one: Record) -> object:
        if one.buf == b"3":
            raise RuntimeError("a bug")
        return DROP if one.buf in (b"1", b"4") else None

    route = EventRoute(callback)
    kept = [one.buf for part in (range(2), range(2, 5)) for one in route.filter([record(b"%d" % n) for n in part])]
    assert kept == [b"0", b"2", b"3"]
    assert (route.calls, route.dropped, route.errors, route.slow) == (5, 2, 1, 2)
    assert (route.total_ns, route.max_ns) == (40_013_000, 20_000_000)
    assert "event route is slow: records wait for it us=20000" in caplog.text
    assert "event route raised; the record is stored" in caplog.text


def test_without_a_callback_all_is_kept_and_nothing_counted() -> None:
    route, records = EventRoute(), [record()]
    assert route.filter(records) is records
    assert route.calls == 0


def test_a_plain_callback_that_exits_ends_nothing(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=3, folder=tmp_path) as one:
        one.event_route(lambda _: sys.exit(1))
        one.intercept([record()])
        assert one.stats().route_errors == 1
    assert b"\ntag: rcv\n" in next(tmp_path.glob("*.data")).read_bytes()

"""Lanes: one backend waits for no other; backlogs are bounded; ends come in time."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core.errors import StorageFullError
from sipdump_core.pipeline import delivery
from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, Probe, plan, probe, read
from tests.support import record, wait_for


@pytest.fixture
def dump(tmp_path: Path) -> Iterator[SipDump]:
    made = SipDump(plan=plan(tmp_path, Probe))
    yield made
    made.close(1)


def test_a_backend_sees_open_write_flush_close(dump: SipDump) -> None:
    dump.received(b"a", A, B)
    assert dump.flush(60)
    dump.close()
    assert probe(dump).calls == ["open", "write", "flush", "close"]


def test_flush_stays_rare_under_load(tmp_path: Path) -> None:
    with SipDump(plan=plan(tmp_path, Probe)) as made:
        for _ in range(200):
            made.intercept([record()] * 1000)
        assert made.flush(60)
        calls = probe(made).calls
    assert 200 <= calls.count("write") < 400
    assert calls.count("flush") < 400  # of 200,000 records


def test_a_hanging_backend_stops_neither_the_others_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "STALL", 0.05)
    free = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue=10))
    probe(made).on_write = lambda: free.wait(30)
    for n in range(100):
        made.received(b"%d" % n, A, B)
    wait_for(lambda: len(read(tmp_path)) == 100)
    assert made.stats().backends["probe"].state == "stalled"
    start = time.monotonic()
    assert not made.close(0.1)
    assert time.monotonic() - start < 5
    stats = made.stats().backends
    assert sum(stats["probe"].dropped.values()) == 100
    assert stats["text"].stored == 100
    assert "did not stop in time" in caplog.text
    free.set()


def test_what_waits_for_a_hanging_backend_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue_bytes=100_000, queue_full="drop"))
    probe(made).on_write = lambda: free.wait(30)
    for n in range(50):
        made.received(b"x" * 10_000, A, B)
        wait_for(lambda: made.stats().backends["text"].stored > n)  # noqa: B023 - called at once
    assert made.stats().backends["probe"].backlog <= 11
    assert made.stats().backends["probe"].dropped["backlog full"] >= 39
    free.set()
    made.close()


def test_the_end_comes_in_time_while_a_caller_waits_for_a_hanging_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue=10))
    probe(made).on_write = lambda: free.wait(30)
    made.intercept([record()] * 10)
    made.intercept([record()] * 10)
    start = time.monotonic()
    assert not made.close(0.5)
    assert time.monotonic() - start < 3
    free.set()


def test_what_is_lost_at_the_end_makes_close_false(tmp_path: Path) -> None:
    made = SipDump(plan=plan(tmp_path, Probe))

    def full() -> None:
        raise StorageFullError("write", "x", "No space left on device")

    probe(made).on_write = full
    made.received(b"a", A, B)
    assert not made.close(5)
    assert made.stats().backends["probe"].dropped == {"StorageFullError": 1}


def test_a_slow_backend_is_waited_for_when_blocking(tmp_path: Path) -> None:
    with SipDump(plan=plan(tmp_path, Probe, queue=10)) as made:
        probe(made).on_write = lambda: time.sleep(0.002)
        for n in range(200):
            made.received(b"%d" % n, A, B)
        assert made.flush(60)
        assert [one.buf for one in probe(made).stored] == [b"%d" % n for n in range(200)]

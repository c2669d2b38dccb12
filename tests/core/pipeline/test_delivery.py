"""Deliveries: what backends raise is counted and tried again, and costs no other backend anything."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sipdump_core.errors import StorageError, StorageFullError
from sipdump_core.pipeline import delivery, lane
from sipdump_core.record import Record
from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, Broken, Probe, plan, probe, read
from tests.support import record, wait_for


@pytest.fixture
def dump(tmp_path: Path) -> Iterator[SipDump]:
    made = SipDump(plan=plan(tmp_path, Probe))
    yield made
    made.close(1)


def test_a_backend_without_an_encoding_is_told_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    with SipDump(plan=plan(tmp_path, Broken)) as made:
        made.received(b"a", A, B)
        assert made.flush(60)
        stats = made.stats().backends
        assert stats["broken"].dropped == {"NotImplementedError": 1}
        assert "Broken has no encode()" in stats["broken"].error
        assert stats["text"].stored == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), SystemExit(3), KeyboardInterrupt(), StorageError("write", "x", "y")]
)
def test_a_failing_backend_costs_the_others_nothing(
    dump: SipDump, tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))

    def fail() -> None:
        raise error

    probe(dump).on_write = fail
    for _ in range(3):
        dump.received(b"a", A, B)
    wait_for(lambda: len(read(tmp_path)) == 3)
    wait_for(lambda: dump.stats().backends["probe"].state == "retrying")
    assert type(error).__name__ in dump.stats().backends["probe"].error
    probe(dump).on_write = lambda: None
    dump.received(b"b", A, B)
    wait_for(lambda: probe(dump).stored and dump.stats().backends["probe"].state == "ok")
    assert dump.flush(60)
    stats = dump.stats().backends
    assert stats["text"].stored == 4
    assert stats["probe"].stored + sum(stats["probe"].dropped.values()) == 4
    if isinstance(error, StorageError):
        assert stats["probe"].stored == 4


def test_a_batch_that_a_backend_cannot_digest_is_given_up_with_a_count(
    dump: SipDump, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise ValueError("poison")

    probe(dump).on_write = fail
    dump.received(b"a", A, B)
    assert dump.flush(60)
    assert dump.stats().backends["probe"].dropped == {"ValueError": 1}
    assert len(attempts) == delivery.ATTEMPTS + 1  # and once more by itself
    assert "poison" in caplog.text
    assert "test_delivery.py" in caplog.text  # where the driver raised


def test_one_record_that_a_backend_cannot_digest_costs_no_other(dump: SipDump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    target = probe(dump)

    def write(batch: Sequence[Record]) -> None:
        if any(one.buf == b"poison" for one in batch):
            raise ValueError("poison")
        target.stored += batch

    monkeypatch.setattr(target, "write", write)
    dump.intercept([record(b"poison" if n == 33 else b"%d" % n) for n in range(100)])
    assert dump.flush(60)
    assert [one.buf for one in target.stored] == [b"%d" % n for n in range(100) if n != 33]
    assert dump.stats().backends["probe"].dropped == {"ValueError": 1}


def test_a_record_size_that_raises_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SipDump(plan=plan(tmp_path, Probe, rotate_size=100_000)) as made:
        monkeypatch.setattr(probe(made), "record_size", lambda _: 1 // 0)
        made.received(b"a", A, B)
        assert made.flush(60)
        assert len(probe(made).stored) == len(read(tmp_path)) == 1


def test_a_full_store_goes_on_in_the_same_segment(dump: SipDump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    left = iter([True, True, False])

    def full() -> None:
        if next(left, False):
            raise StorageFullError("write", "x", "No space left on device")

    probe(dump).on_write = full
    dump.received(b"a", A, B)
    assert dump.flush(60)
    assert [call for call in probe(dump).calls if call != "flush"] == ["open", "write"]


def test_after_any_other_error_of_the_store_a_fresh_segment_is_begun(
    dump: SipDump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the open one has is good; behind the failure it may not be."""
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    failures = iter([True])

    def fail() -> None:
        if next(failures, False):
            probe(dump).calls.append("failure")
            raise StorageError("write", "x", "Input/output error")

    dump.received(b"a", A, B)
    assert dump.flush(60)
    probe(dump).on_write = fail
    dump.received(b"b", A, B)
    assert dump.flush(60)
    calls = [call for call in probe(dump).calls if call != "flush"]
    assert calls == ["open", "write", "failure", "close", "open", "write"]


def test_the_pause_between_two_tries_grows_up_to_its_bound(dump: SipDump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (1.0, 5.0))
    pauses: list[float] = []
    monkeypatch.setattr(delivery.Delivery, "pause", lambda _, seconds: pauses.append(seconds))

    def fail() -> None:
        if len(pauses) < 5:
            raise StorageError("write", "x", "away")

    probe(dump).on_write = fail
    dump.received(b"a", A, B)
    assert dump.flush(60)
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_segment_that_is_no_longer_good_is_sealed_though_nothing_comes(
    dump: SipDump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "CHECK_EVERY", 0.001)
    monkeypatch.setattr(lane, "CHECK_EVERY", 0.001)
    target = probe(dump)
    bad = threading.Event()

    def check() -> None:
        if bad.is_set() and "close" not in target.calls:
            raise StorageError("sync", "x", "Input/output error")

    monkeypatch.setattr(target, "check", check)
    dump.received(b"a", A, B)
    assert dump.flush(60)
    bad.set()
    wait_for(lambda: "close" in target.calls)
    dump.received(b"b", A, B)
    assert dump.flush(60)
    assert [call for call in target.calls if call != "flush"] == ["open", "write", "close", "open", "write"]


def test_a_flush_that_failed_is_tried_again(dump: SipDump, monkeypatch: pytest.MonkeyPatch) -> None:
    dump.received(b"a", A, B)
    assert dump.flush(60)
    failures = [StorageError("flush", "x", "away")] * 2
    flushes = []

    def flush() -> None:
        flushes.append(1)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(probe(dump), "flush", flush)
    dump.received(b"b", A, B)
    for _ in range(4):
        assert dump.flush(60)
    assert len(flushes) == 3, "and no more often than until it has worked"
    assert dump.stats().backends["probe"].state == "ok"


def test_a_folder_that_goes_away_is_survived_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.01))
    folder = tmp_path / "spool"
    folder.mkdir()
    with SipDump(enable=1, folder=folder) as dump:
        folder.rmdir()
        dump.received(b"a", A, B)
        wait_for(lambda: dump.stats().backends["text"].state == "retrying")
        assert "create the folder" in dump.stats().backends["text"].error
        folder.mkdir()
        wait_for(lambda: dump.stats().backends["text"].stored == 1)
    assert [one.buf for one in read(folder)] == [b"a"]
    assert "works again" in caplog.text

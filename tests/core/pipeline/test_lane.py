"""Lanes: one backend waits for no other; backlogs are bounded; ends come in time."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import StorageFullError
from sipdump_core.pipeline import delivery
from sipdump_core.pipeline.delivery import Delivery
from sipdump_core.pipeline.lane import Lane
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.options import option
from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, Probe, plan, probe, read
from tests.support import FakeClock, record, wait_for


class Bench:
    """A lane whose backend writes when it is let, one write a permit."""

    def __init__(self, limit: int = 10, limit_bytes: int = 1000) -> None:
        self.clock = FakeClock()
        self.backend = Probe(NoOptions(), Site("", ""))
        self.permits = threading.Semaphore(0)
        self.step = 0.0
        self.began = 0
        self.backend.on_write = self._write
        self.lane = Lane(Delivery(self.backend, self.clock), limit, limit_bytes, self.clock)
        self.lane.open(Segment("p-", "2026-11-22--00-00-00"))

    def _write(self) -> None:
        self.began += 1
        self.permits.acquire(timeout=30)
        self.clock.advance(self.step)

    def write(self, count: int = 1, size: int = 0) -> None:
        self.lane.write([record()] * count, size, block=False)

    def let(self, writes: int = 1000) -> None:
        self.permits.release(writes)

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.lane.snapshot().dropped)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.let()
    made.lane.stop()
    made.lane.join(10)


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


def test_under_load_it_is_flushed_every_50_ms_and_when_nothing_waits(bench: Bench) -> None:
    bench.step = 0.03
    for _ in range(10):
        bench.write()
    bench.let()
    wait_for(lambda: len(bench.backend.stored) == 10 and bench.backend.calls[-1] == "flush")
    calls = "".join(call[0] for call in bench.backend.calls if call != "open")
    assert calls == "wf" + "wwf" * 4 + "wf"


def test_the_bounds_of_a_backlog_are_exact_and_room_comes_back(bench: Bench) -> None:
    bench.write(6, 900)
    bench.write(4, 100)
    bench.write(1, 0)
    assert bench.dropped == {"backlog full": 1}
    bench.let(2)
    wait_for(lambda: bench.lane.snapshot().backlog == 0)
    bench.write(1, 600)
    bench.write(1, 401)
    assert bench.dropped == {"backlog full": 2}
    bench.write(1, 400)
    bench.let(2)
    wait_for(lambda: bench.lane.snapshot().backlog == 0)
    bench.write(11, 1001)  # one batch always may
    assert bench.dropped == {"backlog full": 2}


def test_a_backend_that_was_stalled_is_well_when_it_has_caught_up_by_half(bench: Bench) -> None:
    for _ in range(10):
        bench.write()
    wait_for(lambda: bench.began == 1)
    bench.clock.advance(5)
    assert bench.lane.snapshot().state == "ok"
    bench.clock.advance(0.1)
    assert bench.lane.snapshot().state == "stalled"
    bench.let(4)
    wait_for(lambda: bench.began == 5)
    assert bench.lane.snapshot().state == "stalled"
    bench.let(1)
    wait_for(lambda: bench.lane.snapshot().state == "ok")


def test_the_end_waits_only_a_while_for_a_backend_that_is_stalled(bench: Bench) -> None:
    bench.write(3)
    bench.write(4)
    wait_for(lambda: bench.began == 1)
    bench.lane.stop()
    bench.clock.advance(6)
    began = time.monotonic()
    assert not bench.lane.join(60)
    assert time.monotonic() - began < 30
    assert bench.dropped == {"backend did not stop in time": 7}
    assert bench.lane.snapshot().backlog == 0
    bench.let()  # it returns after all
    assert not bench.lane.join(10)
    assert len(bench.backend.stored) == 3


def test_nobody_waits_for_room_in_a_hurry(bench: Bench) -> None:
    bench.write(10)
    done = threading.Event()

    def bring() -> None:
        bench.lane.write([record()], 0, block=True)
        done.set()

    threading.Thread(target=bring, daemon=True).start()
    assert not done.wait(0.05)
    bench.lane.hurry()
    assert done.wait(60)
    assert bench.dropped == {"backlog full": 1}
    bench.let()
    bench.lane.stop()
    assert not bench.lane.join(10)  # not all that was given is stored


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
    assert time.monotonic() - start < 20
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
    assert time.monotonic() - start < 20
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


class Wishful(Probe):
    """A backend that wants batches of another size."""

    batch_records = 30

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self.sizes: list[int] = []
        self.free = threading.Event()

    def write(self, batch: Sequence[Record]) -> None:
        self.free.wait(30)
        self.sizes.append(len(batch))
        super().write(batch)


@pytest.mark.parametrize(("count", "rounds", "sizes"), [(100, 1, [30, 30, 30, 10]), (10, 7, [10, 30, 30])])
def test_batches_have_no_more_records_than_are_wanted(
    tmp_path: Path, count: int, rounds: int, sizes: list[int]
) -> None:
    with SipDump(plan=plan(tmp_path, Wishful)) as made:
        target = probe(made)
        assert isinstance(target, Wishful)
        for n in range(rounds):
            made.intercept([record(b"%d" % (count * n + m)) for m in range(count)])
            wait_for(lambda: made.stats().backends["text"].stored == count * (n + 1))  # noqa: B023 - called at once
        target.free.set()
        assert made.flush(10)
        assert (target.sizes, made.stats().backends["probe"].backlog) == (sizes, 0)
    assert [one.buf for one in target.stored] == [b"%d" % n for n in range(count * rounds)]


@pytest.mark.parametrize("end", ["records", "flush", "rotate", "seconds", "close", "backlog"])
def test_records_are_waited_for_but_not_for_ever(tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wishful, "batch_seconds", 0.1 if end == "seconds" else 60.0)
    monkeypatch.setattr(Wishful, "batch_records", 0 if end == "backlog" else 30)
    with SipDump(plan=plan(tmp_path, Wishful, queue=40)) as made:
        target = probe(made)
        assert isinstance(target, Wishful)
        target.free.set()
        for n in range(2):
            made.intercept([record(b"%d" % (8 * n + m)) for m in range(8)])
            wait_for(lambda: made.stats().backends["text"].stored == 8 * (n + 1))  # noqa: B023 - called at once
        if end != "seconds":
            assert target.sizes == []
        if end == "flush":
            assert made.flush(10)
        elif end == "rotate":
            made.rotate()
        elif end in ("records", "backlog"):
            made.intercept([record(b"%d" % (16 + m)) for m in range(14)])
        elif end == "close":
            assert made.close()
        wait_for(lambda: target.sizes == [30 if end in ("records", "backlog") else 16])
    assert sorted(int(one.buf) for one in target.stored) == list(range(len(target.stored)))


def test_options_of_these_names_count(tmp_path: Path) -> None:
    @attrs.frozen
    class Options:
        batch_records: int = option(7, help="how many records")
        batch_seconds: float = option(0.0, help="how long")

    class Chosen(Wishful):
        options = Options

    with SipDump(plan=plan(tmp_path, Chosen)) as made:
        target = probe(made)
        assert isinstance(target, Chosen)
        target.free.set()
        made.intercept([record(b"%d" % n) for n in range(20)])
        assert made.flush(10)
    assert target.sizes == [7, 7, 6]


@pytest.mark.parametrize(("name", "value"), [("batch_records", -1), ("batch_records", "7"), ("batch_seconds", -0.5)])
def test_wishes_that_make_no_sense_are_refused(
    tmp_path: Path, name: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    class Silly(Wishful):
        api = 2

    setattr(Silly, name, value)
    SipDump(plan=plan(tmp_path, Silly)).close()
    assert f"TypeError: its {name} is {value!r}" in caplog.text


def test_a_record_size_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    free = threading.Event()

    class Hanging(Probe):
        def record_size(self, record: Record) -> int:
            free.wait(30)
            return 1

    with SipDump(plan=plan(tmp_path, Hanging, rotate_size=100_000)) as made:
        start = time.monotonic()
        for n in range(20):
            made.intercept([record(b"%d" % n)])
            wait_for(lambda: made.stats().backends["text"].stored == n + 1)  # noqa: B023 - called at once
        assert time.monotonic() - start < 10
        assert len(probe(made).stored) == 20
        wait_for(lambda: "sizes are guessed" in made.stats().backends["probe"].error)
        free.set()
    assert len(read(tmp_path)) == 20


def test_a_preamble_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    free = threading.Event()

    class Hanging(FolderBackend):
        name = "hanging"
        suffix = ".hanging"

        def preamble(self) -> bytes:
            free.wait(30)
            return b""

    made = SipDump(plan=plan(tmp_path, Hanging, rotate_size=100_000))
    made.intercept([record(b"a")])
    wait_for(lambda: len(read(tmp_path)) == 1)
    free.set()
    made.close(1)


def test_a_record_size_that_is_far_off_makes_no_small_segments_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "record_size", lambda *_: 10**9)
    with SipDump(plan=plan(tmp_path, Probe, rotate_size=100_000)) as made:
        made.intercept([record(b"%d" % n) for n in range(50)])
        assert made.flush(10)
        assert "record_size() returned 1000000000" in made.stats().backends["probe"].error
    assert len(list(tmp_path.glob("*.data"))) == 1


@pytest.mark.parametrize("method", ["close", "stop"])
@pytest.mark.parametrize("failing", [False, True])
def test_an_end_that_hangs_is_left_behind_and_makes_close_false(
    tmp_path: Path, method: str, failing: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "STALL", 0.2)
    monkeypatch.setattr(Probe, "stop_seconds", 0.0)
    free = threading.Event()
    monkeypatch.setattr(Probe, method, lambda _: free.wait(30))
    if failing:  # its state is not "ok" when the end comes
        monkeypatch.setattr(Probe, "flush", lambda _: 1 / 0)
    made = SipDump(plan=plan(tmp_path, Probe))
    made.received(b"a", A, B)
    assert made.flush(60)
    start = time.monotonic()
    assert not made.close(30)
    assert time.monotonic() - start < 20
    assert made.stats().backends["text"].stored == 1
    assert made.stats().backends["probe"].state == "stalled"
    assert "backend did not stop in time" in caplog.text
    free.set()


def test_two_ends_that_hang_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(Probe):
        name = "second"
        flag = 512

    monkeypatch.setattr(delivery, "STALL", 1.5)
    monkeypatch.setattr(Probe, "stop_seconds", 0.0)
    free = threading.Event()
    monkeypatch.setattr(Probe, "stop", lambda _: free.wait(30))
    took: list[float] = []
    for _ in range(3):  # a busy machine may delay one of them
        made = SipDump(plan=plan(tmp_path, Probe, Second))
        start = time.monotonic()
        assert not made.close(30)
        took.append(time.monotonic() - start)
        assert took[-1] >= 1.5
        if took[-1] < 3:
            break
    free.set()
    assert min(took) < 3


def test_one_that_says_that_its_end_takes_longer_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "STALL", 0.05)
    monkeypatch.setattr(Probe, "stop_seconds", 20.0)
    monkeypatch.setattr(Probe, "stop", lambda _: time.sleep(0.5))
    made = SipDump(plan=plan(tmp_path, Probe))
    assert made.close(30)
    assert made.stats().backends["probe"].state == "stopped"

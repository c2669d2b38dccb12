"""The intake: the bounded queue in front of the writer."""

import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.errors import ClosedError, StorageError
from sipdump_core.pipeline.dispatcher import Dispatcher
from sipdump_core.pipeline.intake import BATCH_BYTES, BATCH_RECORDS, NEAR_US, Intake, in_order
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, Probe, files, plan, probe, read
from tests.support import record, wait_for


class Sink:
    """A dispatcher that notes what it is given, and holds the writer where a test says so."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.free = threading.Event()
        self.free.set()
        self.errors: list[BaseException] = []

    def handle(self, batch: Sequence[Record], size: int) -> None:
        self.batches.append([one.buf for one in batch])
        assert size == sum(map(len, self.batches[-1]))
        self.free.wait(600)
        if self.errors:
            raise self.errors.pop()

    def tick(self) -> None:
        """Nothing is due."""

    def wait(self) -> float | None:
        return None


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.free.set()


def intake(sink: Sink, records: int = 10_000, size: int = 1 << 30, gather: float = 0.0) -> Intake:
    return Intake(cast(Dispatcher, sink), records, size, gather)


def held(sink: Sink, one: Intake) -> None:
    """Let the writer be busy with a record, so that what comes next waits in the queue."""
    sink.free.clear()
    before = len(sink.batches)
    one.put([record(b"first")], block=True)
    wait_for(lambda: len(sink.batches) > before)


def test_a_batch_is_bounded_in_records_and_in_bytes(sink: Sink) -> None:
    one = intake(sink)
    one.put([record(b"x")] * (2 * BATCH_RECORDS + 1), block=True)
    one.put([record(b"x" * 100_000)] * 100, block=True)
    one.put([record(b"x" * (BATCH_BYTES + 1)), record(b"y")], block=True)
    assert one.close(30)
    assert sum(map(len, sink.batches)) == 2 * BATCH_RECORDS + 1 + 100 + 2
    assert max(map(len, sink.batches)) == BATCH_RECORDS
    assert all(len(batch) == 1 or sum(map(len, batch)) <= BATCH_BYTES for batch in sink.batches)


def test_callers_that_wait_for_room_are_told_of_the_end(sink: Sink) -> None:
    one = intake(sink, records=1)
    held(sink, one)
    one.put([record(b"second")], block=True)
    told = threading.Event()

    def bring() -> None:
        with pytest.raises(ClosedError):
            one.put([record(b"third")], block=True)
        told.set()

    threading.Thread(target=bring, daemon=True).start()
    wait_for(lambda: one._room._waiters)  # type: ignore[attr-defined]  # of threading.Condition
    assert not one.close(0.0)  # the writer is busy
    assert told.wait(60)
    sink.free.set()
    assert one.close(10)
    assert sink.batches == [[b"first"], [b"second"]]


def test_the_bounds_are_exact_and_room_comes_back(sink: Sink) -> None:
    one = intake(sink, records=10, size=100)
    held(sink, one)
    assert one.put([record(b"x")] * 20, block=False) == 10
    assert one.put([record(b"x")], block=False) == 1
    sink.free.set()
    wait_for(lambda: len(sink.batches) == 2)
    held(sink, one)
    assert one.put([record(b"x" * 30)] * 4, block=False) == 1
    sink.free.set()
    wait_for(lambda: sink.batches[-1] == [b"x" * 30] * 3)
    held(sink, one)
    assert one.put([record(b"x" * 100)], block=False) == 0
    sink.free.set()
    assert one.close(10)
    with pytest.raises(ClosedError):
        one.put([record()], block=False)
    with pytest.raises(ClosedError):
        one.order(lambda: None)


def fail() -> None:
    raise ZeroDivisionError


def test_an_order_comes_behind_what_was_there_and_before_what_follows(sink: Sink) -> None:
    one = intake(sink)
    held(sink, one)
    one.put([record(b"a")], block=True)
    one.order(lambda: sink.batches.append([b"order 1"]))
    one.order(fail)  # costs nobody anything
    one.put([record(b"b")], block=True)
    one.order(lambda: sink.batches.append([b"order 2"]))
    one.put([record(b"c")], block=True)
    sink.free.set()
    assert one.close(10)
    assert sink.batches == [[b"first"], [b"a"], [b"order 1"], [b"b"], [b"order 2"], [b"c"]]


@pytest.mark.parametrize("what", ["a full batch", "an order", "the end"])
def test_gathering_ends_early_for(sink: Sink, what: str) -> None:
    one = intake(sink, gather=60.0)
    one.put([record(b"x")] * (BATCH_RECORDS - 1), block=True)
    if what == "a full batch":
        one.put([record(b"x")], block=True)
    elif what == "an order":
        one.order(lambda: None)
    else:
        assert one.close(10)
    wait_for(lambda: sink.batches)
    assert one.close(10)


@pytest.mark.parametrize(
    "puts", [[[1, 2], [3]], [[2, 1], [3]], [[3], [1, 2]], [[1, 3], [2], [4]], [[2], [1], [3]], [[1], [1]]]
)
def test_what_gathers_is_put_in_order_of_time(sink: Sink, puts: list[list[int]]) -> None:
    one = intake(sink)
    for _ in range(2):  # what the first batch was like does not matter to the second
        held(sink, one)
        for times in puts:
            one.put([record(b"%d" % time_us, time_us=time_us) for time_us in times], block=True)
        before = len(sink.batches)
        sink.free.set()
        wait_for(lambda: len(sink.batches) > before)  # noqa: B023 - of this round
        assert sink.batches[-1] == [b"%d" % time_us for time_us in sorted(chain(*puts))]
    assert one.close(10)


def test_while_records_keep_coming_the_first_of_a_batch_wakes_nobody(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = intake(sink, gather=0.3)
    one.put([record(b"a")], block=True)
    wait_for(lambda: one._resting)
    notified: list[None] = []
    monkeypatch.setattr(one._work, "notify", lambda: notified.append(None))
    one.put([record(b"b")], block=True)
    one.put([record(b"c")], block=True)
    wait_for(lambda: len(sink.batches) == 2)
    assert sink.batches == [[b"a"], [b"b", b"c"]]
    assert not notified
    monkeypatch.undo()
    wait_for(lambda: one._work._waiters and not one._resting)  # type: ignore[attr-defined]  # of threading.Condition
    one.put([record(b"d")], block=True)  # after a pause it is told again
    wait_for(lambda: len(sink.batches) == 3)
    assert one.close(10)


@pytest.mark.parametrize("what", ["a full batch", "an order", "the end"])
def test_it_does_not_wait_for_more_after(sink: Sink, what: str) -> None:
    one = intake(sink, gather=0.0)
    one._gather = 60.0
    one.put([record(b"x")] * BATCH_RECORDS, block=True)
    wait_for(lambda: one._resting)
    if what == "a full batch":
        one.put([record(b"x")] * BATCH_RECORDS, block=True)
        wait_for(lambda: len(sink.batches) == 2)
    elif what == "an order":
        done = threading.Event()
        one.order(done.set)
        assert done.wait(30)
    assert one.close(30)


def test_a_bug_does_not_end_the_writer(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    one = intake(sink)
    sink.errors = [SystemExit(3)]
    one.put([record(b"a")], block=True)
    wait_for(lambda: not sink.errors)
    one.put([record(b"b")], block=True)
    assert one.close(10)
    assert sink.batches == [[b"a"], [b"b"]]
    assert "this is a bug in sipdump" in caplog.text


def test_a_full_queue_drops_with_a_count(tmp_path: Path) -> None:
    release = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue=10, queue_full="drop"))
    probe(made).on_write = lambda: release.wait(30)
    made.intercept([record(b"%d" % n) for n in range(1000)])
    made.intercept([record(b"x")] * 10)
    stats = made.stats()
    assert stats.queue_dropped >= 990
    release.set()
    assert made.close()
    final = made.stats()
    total = final.backends["probe"].stored + sum(final.backends["probe"].dropped.values()) + final.queue_dropped
    assert total == final.received == 1010


def test_the_queue_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    release = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue_bytes=1000, queue_full="drop", wait=1_000_000))
    made.intercept([record(b"x" * 400)] * 5)
    assert made.stats().queue_dropped == 3
    made.intercept([record(b"x" * 5000)])
    assert made.stats().queue_dropped == 4
    release.set()
    made.close()
    with SipDump(plan=plan(tmp_path, Probe, queue_bytes=1000, queue_full="drop")) as other:
        other.intercept([record(b"x" * 5000)])  # one always finds room
        assert other.stats().queue_dropped == 0


def test_records_of_many_threads_are_all_stored_in_each_ones_order(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=5, folder=tmp_path, queue=64) as dump:

        def bring(number: int) -> None:
            for n in range(500):
                dump.received(b"%d %d" % (number, n), A, B)

        threads = [threading.Thread(target=bring, args=(n,), name=f"worker {n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = read(tmp_path)
    for number in range(4):
        assert [one.buf for one in found if one.buf.startswith(b"%d " % number)] == [
            b"%d %d" % (number, n) for n in range(500)
        ]
    (meta,) = files(tmp_path, ".meta")
    assert meta.read_text().count("thread worker") == 4
    assert len({one.procno for one in found}) == 4


def at(*times_us: int) -> list[Record]:
    return [record(b"%d" % n, time_us=time_us) for n, time_us in enumerate(times_us)]


def order(*times_us: int) -> list[int]:
    return [int(one.buf) for one in in_order(at(*times_us))]


T = 1_795_386_431_000_000


def test_a_reply_that_arrives_before_its_request_is_stored_after_it(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path, wait=500_000) as dump:
        dump.received(b"SIP/2.0 180 Ringing", A, B, time_us=T + 900)
        dump.received(b"INVITE sip:b@c", B, A, time_us=T)
        dump.received(b"SIP/2.0 200 OK", A, B, time_us=T + 9_000)
    assert [one.buf[:11] for one in read(tmp_path)] == [b"INVITE sip:", b"SIP/2.0 180", b"SIP/2.0 200"]


def test_times_that_are_in_order_are_left_alone() -> None:
    records = at(T, T, T + 1, T + 5_000_000)
    assert in_order(records) is records
    assert in_order([]) == []


def test_equal_times_keep_their_order() -> None:
    assert order(T + 1, T, T + 1, T) == [1, 3, 0, 2]


def test_a_time_far_from_all_others_keeps_its_place() -> None:
    assert order(T + 3, 5, T + 1, T + 10**15, T + 2) == [2, 1, 4, 3, 0]


def test_records_of_a_clock_that_is_wrong_are_in_order_among_themselves() -> None:
    hour = 3_600_000_000
    assert order(T + 2, T + hour + 2, T + 1, T + hour + 1) == [2, 3, 0, 1]


@given(st.lists(st.integers(0, 4_000_000), max_size=50))
def test_nothing_is_lost_and_near_times_are_in_order(times: list[int]) -> None:
    found = in_order(at(*times))
    assert sorted(found, key=lambda one: one.buf) == sorted(at(*times), key=lambda one: one.buf)
    if max(times, default=0) - min(times, default=0) <= NEAR_US:
        assert [one.time_us for one in found] == sorted(times)


def test_what_the_writer_still_holds_at_the_end_counts_as_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a disk that hangs while a segment's ``.meta`` is written."""
    free, reached = threading.Event(), threading.Event()

    def hang(*_: object) -> Segment:
        reached.set()
        free.wait(30)
        raise StorageError("write", "meta", "too late")

    monkeypatch.setattr("sipdump_core.lifecycle.meta_file.claim", hang)
    made = SipDump(enable=1, folder=tmp_path)
    made.intercept([record(b"%d" % n) for n in range(1500)])
    assert reached.wait(10)
    made.intercept([record(b"more %d" % n) for n in range(5)])
    assert not made.close(0.2)
    stats = made.stats()
    assert (stats.received, stats.queue_dropped, stats.backends["text"].stored) == (1505, 1505, 0)
    assert "the writer did not end in time" in caplog.text
    free.set()
    wait_for(lambda: not {"sipdump-writer", "sipdump-text"} & {thread.name for thread in threading.enumerate()})
    stats = made.stats()
    assert (stats.received, stats.queue_dropped, stats.backends["text"].stored) == (1505, 1505, 0)

"""Deliveries: what backends raise is counted and tried again, and costs no other backend anything."""

import errno
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.errors import PartialWriteError, RecordError, StorageError, StorageFullError
from sipdump_core.pipeline import delivery, lane
from sipdump_core.pipeline.dead_letter import DeadLetters
from sipdump_core.record import Record
from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, Broken, Probe, plan, probe, read
from tests.support import record, wait_for


@pytest.fixture
def dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SipDump]:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    made = SipDump(plan=plan(tmp_path, Probe))
    yield made
    made.close(1)


def test_a_backend_without_an_encoding_is_told_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    with SipDump(plan=plan(tmp_path, Broken)) as made:
        made.received(b"a", A, B)
        wait_for(lambda: "Broken has no encode()" in made.stats().backends["broken"].error)
        wait_for(lambda: made.stats().backends["text"].stored == 1)
    assert made.stats().backends["broken"].refused == 1  # it is kept in the dead letter


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


def refuse_poison(target: Probe, error: BaseException) -> list[int]:
    """Have a probe refuse batches with a record that begins with ``poison``; return the sizes of all batches."""
    sizes: list[int] = []

    def write(batch: Sequence[Record]) -> None:
        sizes.append(len(batch))
        if any(one.buf.startswith(b"poison") for one in batch):
            raise error
        target.stored += batch

    target.write = write  # type: ignore[method-assign]  # of this instance
    return sizes


def dead(folder: Path) -> list[bytes]:
    letters = DeadLetters(Site(str(folder), "kamailio-sipdump-"))
    return sorted(one.buf for stored in letters.segments() for one in letters.read(stored))


ERRORS = [StorageError("insert", "db", "value too long for the index"), ValueError("too long"), SystemExit(3)]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("count", [2, 3, 100, 1000])
def test_what_a_store_refuses_among_others_goes_to_the_dead_letter(
    dump: SipDump, tmp_path: Path, count: int, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    target = probe(dump)
    sizes = refuse_poison(target, error)
    poison = {0, count // 3} if count > 2 else {1}
    bufs = [b"poison %d" % n if n in poison else b"%d" % n for n in range(count)]
    dump.intercept([record(buf) for buf in bufs])
    assert dump.flush(20)
    numbers = dump.stats().backends["probe"]
    assert sorted(one.buf for one in target.stored) == sorted(buf for buf in bufs if not buf.startswith(b"poison"))
    assert (numbers.stored, numbers.refused, numbers.dropped) == (count - len(poison), len(poison), {})
    assert numbers.state == "ok"
    assert dead(tmp_path) == sorted(buf for buf in bufs if buf.startswith(b"poison"))
    assert "the store refuses records" in caplog.text
    assert str(error) in caplog.text
    assert len(sizes) < 100  # by halves


@pytest.mark.parametrize("error", ERRORS)
def test_a_record_that_stands_alone_is_refused_when_another_one_was_stored(
    dump: SipDump, tmp_path: Path, error: BaseException
) -> None:
    target = probe(dump)
    refuse_poison(target, error)
    dump.intercept([record(b"poison")])
    wait_for(lambda: dump.stats().backends["probe"].state == "retrying")
    assert dead(tmp_path) == []  # the store may be down
    dump.intercept([record(b"good")])
    wait_for(lambda: dump.stats().backends["probe"].refused == 1)
    assert dump.flush(10)
    assert ([one.buf for one in target.stored], dead(tmp_path)) == ([b"good"], [b"poison"])


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("count", [1, 3])
def test_what_stands_alone_is_refused_after_a_while_if_the_store_took_others(
    dump: SipDump, tmp_path: Path, error: BaseException, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_ALONE", 0.2)
    refuse_poison(probe(dump), error)
    dump.intercept([record(b"good")])
    assert dump.flush(10)
    begin = time.monotonic()
    dump.intercept([record(b"poison %d" % n) for n in range(count)])
    wait_for(lambda: dump.stats().backends["probe"].refused == count)
    assert time.monotonic() - begin >= 0.2
    assert dead(tmp_path) == [b"poison %d" % n for n in range(count)]
    assert dump.stats().backends["probe"].state == "ok"
    assert dump.close()


def test_what_stands_alone_is_refused_within_a_minute() -> None:
    last_tries = sum(0.1 * 2**n for n in range(4))
    assert delivery._ALONE + delivery.BACKOFF[1] + last_tries < 60


AWAY = [
    ConnectionRefusedError(111, "refused"),
    TimeoutError("no answer"),
    OSError(errno.EIO, "Input/output error"),
    StorageFullError("insert", "db", "No space left on device"),
    StorageError("insert", "db", "the query timed out"),
]


@pytest.mark.parametrize("error", [*AWAY, "open", "check", "flush"])
def test_an_outage_refuses_nothing_that_stands_alone(
    dump: SipDump, tmp_path: Path, error: Exception | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_ALONE", 0.02)
    monkeypatch.setattr(delivery, "CHECK_EVERY", 0.0)
    target = probe(dump)
    dump.intercept([record(b"good")])
    assert dump.flush(10)
    tries: list[int] = []

    def fail(*_: object) -> None:
        tries.append(1)
        if error == "open":  # a fresh one is begun
            raise StorageError("insert", "db", "no")
        raise ValueError("no") from (error if isinstance(error, Exception) else None)

    with monkeypatch.context() as patch:
        if isinstance(error, str):
            patch.setattr(target, error, fail)
        if error == "flush":
            dump.intercept([record(b"not flushed")])
            wait_for(lambda: tries)
        patch.setattr(target, "write", fail)
        begin = time.monotonic()
        dump.intercept([record(b"lone")])
        wait_for(lambda: len(tries) > 20 and time.monotonic() - begin > 0.2, 10)
        assert dump.stats().backends["probe"].refused == 0
    assert dump.flush(10)
    assert (target.stored[-1].buf, dead(tmp_path)) == (b"lone", [])


@pytest.mark.parametrize("many", [4, 50])
def test_many_that_fail_alone_are_taken_for_an_outage(
    dump: SipDump, tmp_path: Path, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_ALONE", 0.02)
    sizes = refuse_poison(probe(dump), ValueError("too long"))
    dump.intercept([record(b"good")])
    assert dump.flush(10)
    begin = time.monotonic()
    dump.intercept([record(b"poison %d" % n) for n in range(many)])
    wait_for(lambda: len(sizes) > 20 and time.monotonic() - begin > 0.2)
    assert dead(tmp_path) == []


@pytest.mark.parametrize("others", [0, 1])
def test_nothing_is_refused_alone_by_a_store_that_took_nothing_or_takes_nothing_behind_it(
    dump: SipDump, tmp_path: Path, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_ALONE", 0.1)
    sizes = refuse_poison(probe(dump), ValueError("too long"))
    for buf in [b"good"] * others:
        dump.intercept([record(buf)])
        assert dump.flush(10)
    dump.intercept([record(b"poison 1")])
    if others:
        wait_for(lambda: len(sizes) > 1)
        dump.intercept([record(b"poison 2")])
    begin = time.monotonic()
    wait_for(lambda: time.monotonic() - begin > 0.3)
    assert dead(tmp_path) == []


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("retried", [False, True])
def test_at_the_end_what_is_refused_alone_is_kept_and_makes_close_false(
    tmp_path: Path, error: BaseException, count: int, retried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    made = SipDump(plan=plan(tmp_path, Probe))
    sizes = refuse_poison(probe(made), error)
    for n in range(3):  # one batch behind another
        made.intercept([record(b"poison %02d" % m) for m in range(count * n, count * n + count)])
    if retried:
        wait_for(lambda: len(sizes) > 5)  # it was found that the store takes nothing
    assert not made.close()
    numbers = made.stats().backends["probe"]
    assert (numbers.refused, numbers.dropped) == (3 * count, {})
    assert dead(tmp_path) == [b"poison %02d" % n for n in range(3 * count)]


@pytest.mark.parametrize("error", AWAY)
def test_at_the_end_an_outage_refuses_nothing(tmp_path: Path, error: Exception) -> None:
    made = SipDump(plan=plan(tmp_path, Probe))

    def fail() -> None:
        raise error

    probe(made).on_write = fail
    made.intercept([record(b"lone")])
    assert not made.close()
    numbers = made.stats().backends["probe"]
    assert (numbers.refused, sum(numbers.dropped.values()), dead(tmp_path)) == (0, 1, [])


@pytest.mark.parametrize("error", ERRORS)
def test_nothing_is_refused_while_everything_fails(dump: SipDump, tmp_path: Path, error: BaseException) -> None:
    target = probe(dump)
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise error

    target.on_write = fail
    for n in range(5):
        dump.intercept([record(b"%d" % (10 * n + m)) for m in range(10)])
    wait_for(lambda: len(tries) > 100)  # it was sifted, again and again
    assert dump.stats().backends["probe"].refused == 0
    target.on_write = lambda: None
    assert dump.flush(10)
    assert sorted(int(one.buf) for one in target.stored) == list(range(50))
    assert (dump.stats().backends["probe"].refused, dead(tmp_path)) == (0, [])


def test_nothing_is_refused_when_the_store_goes_down_meanwhile(dump: SipDump, tmp_path: Path) -> None:
    target = probe(dump)
    calls: list[int] = []

    def write(batch: Sequence[Record]) -> None:
        calls.append(len(batch))
        if len(batch) > 5 or 12 < len(calls) < 60:  # it takes a few, and then nothing for a while
            raise StorageError("insert", "db", "busy")
        target.stored += batch

    target.write = write  # type: ignore[method-assign]  # of this instance
    dump.intercept([record(b"%d" % n) for n in range(40)])
    assert dump.flush(20)
    assert sorted(int(one.buf) for one in target.stored) == list(range(40))
    assert (dump.stats().backends["probe"].refused, dead(tmp_path)) == (0, [])


@pytest.mark.parametrize("others_stored", [True, False])
@pytest.mark.parametrize("by_index", [True, False])
def test_records_that_a_driver_names_are_refused_at_once(
    dump: SipDump, tmp_path: Path, by_index: bool, others_stored: bool
) -> None:
    target = probe(dump)
    batches: list[tuple[str, list[bytes]]] = []

    def write(batch: Batch) -> None:
        batches.append((batch.id, [one.buf for one in batch]))
        bad = [place for place, one in enumerate(batch) if one.buf == b"bad"]
        if not bad or others_stored:
            target.stored += [one for one in batch if one.buf != b"bad"]
        if bad:
            named = bad if by_index else [batch[place] for place in bad]
            raise RecordError("insert", "db", "too long", named, others_stored=others_stored)

    target.write = write  # type: ignore[method-assign,assignment]  # of this instance
    dump.intercept([record(buf) for buf in (b"a", b"bad", b"b", b"bad")])
    assert dump.flush(10)
    assert [one.buf for one in target.stored] == [b"a", b"b"]
    assert [bufs for _, bufs in batches] == [[b"a", b"bad", b"b", b"bad"], [b"a", b"b"]][: 1 if others_stored else 2]
    numbers = dump.stats().backends["probe"]
    assert (numbers.stored, numbers.refused, numbers.state, numbers.error) == (2, 2, "ok", "")
    assert target.calls.count("open") == 1  # the segment goes on
    assert dead(tmp_path) == [b"bad", b"bad"]


@pytest.mark.parametrize("refused", [[], [7], None, ["x"], [True]])
def test_a_record_error_that_names_nothing_is_like_any_other(dump: SipDump, tmp_path: Path, refused: object) -> None:
    target = probe(dump)
    errors = [RecordError("insert", "db", "odd", refused)]

    def fail() -> None:
        if errors:
            raise errors.pop()

    target.on_write = fail
    dump.intercept([record(b"a")])
    assert dump.flush(10)
    assert (len(target.stored), dead(tmp_path)) == (1, [])


def test_a_batch_that_comes_again_is_the_same(dump: SipDump) -> None:
    target = probe(dump)
    batches: list[Batch] = []

    def write(batch: Batch) -> None:
        batches.append(batch)
        assert isinstance(batch, tuple)
        if len(batches) in (1, 2):
            raise StorageError("insert", "db", "the answer is lost")
        if len(batches) == 3:
            raise PartialWriteError("insert", "db", "locked", [1, 3])

    target.write = write  # type: ignore[method-assign,assignment]  # of this instance
    dump.intercept([record(b"%d" % n) for n in range(5)])
    assert dump.flush(10)
    dump.intercept([record(b"next")])
    assert dump.flush(10)
    first, *again, part, following = batches
    assert [(batch, batch.id) for batch in again] == [(first, first.id)] * 2
    assert (first.whole, list(first.indexes)) == (first.id, [0, 1, 2, 3, 4])
    assert (part.whole, list(part.indexes)) == (first.id, [1, 3])
    assert len({first.id, part.id, following.id}) == 3


def test_a_record_that_is_busy_for_a_moment_is_not_refused_with_another_one(dump: SipDump, tmp_path: Path) -> None:
    target = probe(dump)
    busy = [1, 1, 1]

    def write(batch: Batch) -> None:
        if any(one.buf == b"poison" for one in batch):
            raise StorageError("insert", "db", "too long")
        if batch[-1].buf == b"busy" and busy:
            busy.pop()
            target.stored += batch[:-1]
            raise PartialWriteError("insert", "db", "locked", [len(batch) - 1])
        target.stored += batch

    target.write = write  # type: ignore[method-assign,assignment]  # of this instance
    for bufs in ([b"a", b"poison"], [b"b", b"busy"]):
        dump.intercept([record(buf) for buf in bufs])
        assert dump.flush(30)
    assert sorted(one.buf for one in target.stored) == [b"a", b"b", b"busy"]
    assert dead(tmp_path) == [b"poison"]


def test_what_finds_no_room_in_the_dead_letter_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    with SipDump(plan=plan(tmp_path, Probe, dead_max_bytes=1000)) as made:
        refuse_poison(probe(made), ValueError("too long"))
        for n in range(5):
            made.intercept([record(b"good"), record(b"poison %d " % n + b"x" * 400)])
            assert made.flush(10)
        numbers = made.stats().backends["probe"]
    assert (numbers.stored, numbers.refused, numbers.dropped) == (5, 1, {"refused": 4})
    assert "dead_max_bytes" in caplog.text
    assert len(dead(tmp_path)) == 1


def test_at_the_end_what_a_store_refuses_costs_no_other(tmp_path: Path) -> None:
    made = SipDump(plan=plan(tmp_path, Probe))
    target = probe(made)
    refuse_poison(target, StorageError("insert", "db", "too long"))
    made.intercept([record(b"poison" if n == 33 else b"%d" % n) for n in range(100)])
    assert made.close()  # at once, and the dead letter has it: nothing is lost
    assert (len(target.stored), dead(tmp_path)) == (99, [b"poison"])


def test_with_refuse_after_0_nothing_is_ever_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    with SipDump(plan=plan(tmp_path, Probe, refuse_after=0)) as made:
        sizes = refuse_poison(probe(made), ValueError("too long"))
        made.intercept([record(b"good"), record(b"poison")])
        wait_for(lambda: len(sizes) > 50)
        assert set(sizes) == {2}


def test_one_that_changes_its_batch_costs_no_other(tmp_path: Path) -> None:
    with SipDump(plan=plan(tmp_path, Probe)) as made:
        target = probe(made)
        target.write = list.clear  # type: ignore[method-assign,assignment]  # its fault
        made.intercept([record(b"%d" % n) for n in range(100)])
        wait_for(lambda: made.stats().backends["text"].stored == 100)
        wait_for(lambda: "TypeError" in made.stats().backends["probe"].error)
    assert [one.buf for one in read(tmp_path)] == [b"%d" % n for n in range(100)]


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

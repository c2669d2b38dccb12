"""The spool: nothing is lost while a store is away, over restarts and crashes, within its bound."""

import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.drivers import folder
from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.discovery import Driver
from sipdump_core.errors import StorageError
from sipdump_core.pipeline import delivery, journal, lane, spool, spool_feed
from sipdump_core.pipeline.dead_letter import DeadLetters
from sipdump_core.pipeline.spool import SpoolOptions
from sipdump_core.plan import make_plan
from sipdump_core.segment import Segment
from sipdump_core.settings.options import Setting
from sipdump_core.sipdump import SipDump
from sipdump_text import TextBackend
from tests.core.drivers.test_discovery import install
from tests.forks import script
from tests.support import record, wait_for


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.01))
    monkeypatch.setattr(spool, "BACKOFF", (0.001, 0.01))
    monkeypatch.setattr(lane, "BACKOFF", (0.001, 0.01))
    yield
    Remote.reset()


@attrs.frozen
class RemoteOptions(SpoolOptions):
    """Options of a store that can have a spool, and none of its own."""


class Remote(Backend):
    """A store that is away when a test says so."""

    name = "remote"
    options = RemoteOptions
    away = False
    stored: list[bytes] = []  # noqa: RUF012 - the store outlives the instances
    segments_seen: list[str] = []  # noqa: RUF012 - as above
    tried: list[Batch] = []  # noqa: RUF012 - as above
    batches: list[Batch] = []  # noqa: RUF012 - as above
    opens = False
    """Whether a segment can be opened while it is away."""

    @classmethod
    def reset(cls) -> None:
        cls.away = False
        cls.stored, cls.segments_seen, cls.tried, cls.batches = [], [], [], []
        cls.opens, cls.batch_records, cls.batch_seconds = False, 0, 0.0

    def open(self, segment: Segment) -> None:
        if self.away and not self.opens:
            raise StorageError("open", "remote", "away")
        self.segments_seen.append(segment.stem)

    def write(self, batch: Batch) -> None:
        if self.away:
            Remote.tried.append(batch)
            raise StorageError("write", "remote", "away")
        if any(one.buf.startswith(b"poison") for one in batch):
            raise StorageError("write", "remote", "too long for the index")
        Remote.stored += [one.buf for one in batch]
        Remote.batches.append(batch)

    def stats(self) -> dict[str, int]:
        return {"own": 1}


def start(where: Path, queue: int = 8192, **options: Any) -> SipDump:
    drivers = [Driver("text", "sipdump", "1", TextBackend), Driver("remote", "sipdump-remote", "1", Remote)]
    settings = [Setting("sipdump", "folder", str(where)), Setting("sipdump", "enable", 1)]
    settings += [Setting("sipdump", "backend", "remote"), Setting("sipdump", "queue", queue)]
    settings += [Setting("sipdump_remote", n, v) for n, v in {"spool": str(where / "spool"), **options}.items()]
    return SipDump(plan=make_plan(settings, drivers))


def left(where: Path) -> list[str]:
    return [name for name in os.listdir(where / "spool") if not name.endswith(".lock")]


def test_what_works_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as dump:
        dump.intercept([record(b"%d" % n) for n in range(100)])
        wait_for(lambda: len(Remote.stored) == 100)
        wait_for(lambda: dump.stats().backends["remote"].stored == 100)
        numbers = dump.stats().backends["remote"]
        assert (numbers.state, numbers.backlog, numbers.dropped) == ("ok", 0, {})
        assert numbers.counters["spooled"] == 100
        assert numbers.counters["own"] == 1
        assert numbers.distribution == "sipdump-remote 1"
    assert Remote.stored == [b"%d" % n for n in range(100)]
    assert left(tmp_path) == []


def test_an_outage_costs_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    with start(tmp_path) as dump:
        Remote.away = True
        for n in range(50):
            dump.intercept([record(b"%d" % n)])
            if n == 20:
                dump.rotate()
        assert dump.flush(60)
        wait_for(lambda: dump.stats().backends["remote"].state == "retrying")
        assert "away" in dump.stats().backends["remote"].error
        assert dump.stats().backends["remote"].counters["spool_bytes"] > 0
        Remote.away = False
        wait_for(lambda: len(Remote.stored) == 50)
        wait_for(lambda: dump.stats().backends["remote"].state == "ok")
        assert dump.stats().backends["remote"].dropped == {}
    assert Remote.stored == [b"%d" % n for n in range(50)]
    assert left(tmp_path) == []


def test_what_is_left_at_the_end_goes_out_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Remote.away = True
    dump = start(tmp_path)
    dump.intercept([record(b"old")])
    assert dump.flush(60)
    assert dump.close()  # what is on disk is not lost
    assert "records wait in the spool for the next start" in caplog.text
    assert [name for name in left(tmp_path) if name.endswith(".spool")]
    Remote.away = False
    with start(tmp_path) as dump:
        wait_for(lambda: Remote.stored == [b"old"])  # without any traffic
        dump.intercept([record(b"new")])
        wait_for(lambda: Remote.stored == [b"old", b"new"])
    assert left(tmp_path) == []


def test_rotation_gives_the_store_segments_of_the_same_names(tmp_path: Path) -> None:
    with start(tmp_path) as dump:
        for n in range(3):
            dump.intercept([record(b"%d" % n)])
            assert dump.flush(60)
            dump.rotate()
        wait_for(lambda: len(Remote.stored) == 3)
    stems = sorted(path.stem for path in tmp_path.glob("*.data"))
    assert sorted(Remote.segments_seen) == stems
    assert len(stems) == 3


def test_a_full_spool_drops_with_a_count_for_this_backend_alone(tmp_path: Path) -> None:
    Remote.away = True
    with start(tmp_path, queue=20, spool_max_bytes=20_000) as dump:
        for n in range(15):
            dump.intercept([record(b"%04d" % n + b"x" * 996)])
            assert dump.flush(60)
        dump.block = False
        dump.intercept([record(b"y" * 1000) for n in range(60)])  # queue is 20: the rest finds no room anywhere
        wait_for(lambda: "spool_max_bytes" in dump.stats().backends["remote"].error)
        wait_for(lambda: dump.stats().backends["text"].stored >= 35)
        assert sum((tmp_path / "spool" / name).stat().st_size for name in left(tmp_path)) <= 20_000
        Remote.away = False
        wait_for(lambda: dump.stats().backends["remote"].state == "ok")
        assert dump.flush(60)
        text = dump.stats().backends["text"].stored
    numbers = dump.stats().backends["remote"]
    assert numbers.stored + sum(numbers.dropped.values()) == text
    assert [buf[:4] for buf in Remote.stored[:15]] == [b"%04d" % n for n in range(15)]
    assert left(tmp_path) == []


def test_two_daemons_do_not_share_a_spool(tmp_path: Path) -> None:
    with start(tmp_path) as one:
        one.intercept([record(b"one")])
        wait_for(lambda: Remote.stored == [b"one"])
        with start(tmp_path) as two:
            wait_for(lambda: "another process works on it" in two.stats().backends["remote"].error)
        one.intercept([record(b"two")])
        wait_for(lambda: len(Remote.stored) > 1)
    assert Remote.stored == [b"one", b"two"]


def test_a_hanging_store_is_seen_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "STALL", 0.05)
    monkeypatch.setattr(spool, "STOP_WAIT", 0.1)
    free = threading.Event()
    monkeypatch.setattr(Remote, "write", lambda *_: free.wait(30))
    dump = start(tmp_path)
    for n in range(30):
        dump.intercept([record(b"%d" % n)])
    assert dump.flush(60)
    wait_for(lambda: dump.stats().backends["remote"].state == "stalled")
    begin = time.monotonic()
    assert dump.close(10)
    assert time.monotonic() - begin < 20
    assert [name for name in left(tmp_path) if name.endswith(".spool")]
    free.set()


def test_an_end_has_the_time_that_the_spool_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "STALL", 0.05)
    monkeypatch.setattr(Remote, "stop_seconds", 0.0)
    monkeypatch.setattr(spool, "STOP_WAIT", 0.5)
    dump = start(tmp_path)
    Remote.away = True
    dump.intercept([record()])
    assert dump.close(20)  # it tries for half a second, and what is left waits in the folder
    assert dump.stats().backends["remote"].state == "stopped"
    assert [name for name in left(tmp_path) if name.endswith(".spool")]


def test_a_journal_stays_until_the_store_has_flushed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may hold in memory what it was given; the flush that fails is tried again, though nothing more comes."""
    waiting: list[list[str]] = []
    failures = [StorageError("flush", "remote", "away")] * 3

    def flush(_: Remote) -> None:
        waiting.append([name for name in left(tmp_path) if name.endswith(".spool")])
        if failures:
            raise failures.pop()

    Remote.away = True
    with start(tmp_path) as dump:  # so that the journal is complete when it is delivered
        dump.intercept([record(b"1")])
        assert dump.flush(60)
    monkeypatch.setattr(Remote, "flush", flush)
    Remote.away = False
    with start(tmp_path) as dump:
        wait_for(lambda: left(tmp_path) == [])
        wait_for(lambda: dump.stats().backends["remote"].state == "ok")
    assert Remote.stored == [b"1"]
    assert [len(names) for names in waiting[:4]] == [1] * 4


def test_what_a_spool_makes_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(spool, "sync_folder", synced.append)
    Remote.away = True
    umask = os.umask(0)
    try:
        with start(tmp_path) as dump:
            dump.intercept([record(b"1")])
            wait_for(lambda: list((tmp_path / "spool").glob("*.place")))
    finally:
        os.umask(umask)
    made = tmp_path / "spool"
    modes = {path.name.rpartition(".")[2]: stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()}
    assert modes == {"lock": 0o600, "place": 0o600, "spool": 0o640}  # file_mode
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert synced == [str(tmp_path)]  # the name of a spool that was made


@pytest.mark.parametrize("method", ["close", "stop"])
def test_an_end_that_hangs_is_left_behind_and_makes_close_false(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "STALL", 0.2)
    monkeypatch.setattr(spool, "STOP_WAIT", 0.1)
    monkeypatch.setattr(Remote, "stop_seconds", 0.0)
    free = threading.Event()
    monkeypatch.setattr(Remote, method, lambda _: free.wait(30))
    dump = start(tmp_path)
    dump.intercept([record(b"1")])
    wait_for(lambda: Remote.stored == [b"1"])
    begin = time.monotonic()
    assert not dump.close(30)
    assert time.monotonic() - begin < 20
    assert dump.stats().backends["remote"].state == "stalled"
    assert "backend did not stop in time" in caplog.text
    if method == "close":  # its journal is not sealed, so it stays
        assert "records wait in the spool for the next start" in caplog.text
    free.set()


def test_an_end_that_takes_as_long_as_it_says_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "STOP_WAIT", -0.9)  # it joins for 0.1 s
    monkeypatch.setattr(Remote, "stop_seconds", 20.0)
    monkeypatch.setattr(Remote, "stop", lambda _: time.sleep(0.5))
    assert start(tmp_path).close(30)


@pytest.mark.parametrize("kind", ["lock", "place"])
def test_a_link_in_a_spool_is_not_followed(tmp_path: Path, kind: str) -> None:
    """What is in its way is said, and all goes on when it is gone, without any traffic."""
    Remote.away = True
    with start(tmp_path) as dump:
        dump.intercept([record(b"1")])
        wait_for(lambda: list((tmp_path / "spool").glob("*.place")))
    (path,) = (tmp_path / "spool").glob(f"*.{kind}")
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    Remote.away = False
    with start(tmp_path) as dump:
        assert "symbolic links" in wait_for(lambda: dump.stats().backends["remote"].error)
        path.unlink()
        wait_for(lambda: Remote.stored == [b"1"])
        wait_for(lambda: left(tmp_path) == [])
    assert victim.read_text() == "precious"


def test_damage_is_told_and_kept_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Remote.away = True
    with start(tmp_path) as dump:
        for n in range(3):
            dump.intercept([record(b"message %d" % n)])
            assert dump.flush(60)
    (path,) = (tmp_path / "spool").glob("*.spool")
    data = path.read_bytes()
    damaged = data.replace(b"message 1", b"massage 1")
    path.write_bytes(damaged)
    earlier = Path(f"{path}.damaged")
    earlier.write_bytes(b"of an earlier time")
    Remote.away = False
    with start(tmp_path):
        wait_for(lambda: len(Remote.stored) == 2)
    assert Remote.stored == [b"message 0", b"message 2"]
    assert "spool is not whole" in caplog.text
    assert sorted(left(tmp_path)) == [earlier.name, f"{earlier.name}-1"]
    assert earlier.read_bytes() == b"of an earlier time"
    assert Path(f"{earlier}-1").read_bytes() == damaged


def test_a_torn_end_is_no_damage(tmp_path: Path) -> None:
    """A crash in the midst of a write leaves it: nobody was told that what it held is stored."""
    Remote.away = True
    with start(tmp_path) as dump:
        for n in range(2):
            dump.intercept([record(b"message %d" % n)])
            assert dump.flush(60)
    (path,) = (tmp_path / "spool").glob("*.spool")
    os.truncate(path, path.read_bytes().index(b"message 1") + 3)
    Remote.away = False
    with start(tmp_path):
        wait_for(lambda: Remote.stored == [b"message 0"])
        wait_for(lambda: left(tmp_path) == [])


def test_the_journal_that_is_written_stays_where_files_have_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "in_use", lambda *_, **__: False)
    with start(tmp_path) as dump:
        for n in range(5):
            dump.intercept([record(b"%d" % n)])
            wait_for(lambda count=n + 1: len(Remote.stored) == count)  # type: ignore[misc]
            assert any(name.endswith(".spool") for name in left(tmp_path))
    assert left(tmp_path) == []


def test_an_empty_spool_takes_a_batch_larger_than_its_bound(tmp_path: Path) -> None:
    with start(tmp_path, spool_max_bytes=100) as dump:
        dump.intercept([record(b"x" * 1000)])
        wait_for(lambda: Remote.stored == [b"x" * 1000])
        assert dump.stats().backends["remote"].dropped == {}


def test_the_store_seals_its_segment_at_a_rotation_though_nothing_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = threading.Event()
    monkeypatch.setattr(Remote, "close", lambda _: closed.set())
    with start(tmp_path) as dump:
        dump.intercept([record(b"1")])
        wait_for(lambda: Remote.stored == [b"1"])
        assert not closed.is_set()
        dump.rotate()
        assert closed.wait(60)


def test_what_waits_is_in_several_journals_so_that_room_is_made_bit_by_bit(tmp_path: Path) -> None:
    Remote.away = True
    with start(tmp_path, spool_max_bytes=32_000) as dump:
        for _ in range(9):
            dump.intercept([record(b"x" * 2000)])
            assert dump.flush(60)
        assert len(list((tmp_path / "spool").glob("*.spool"))) == 9


def test_the_end_waits_no_longer_than_it_may_for_a_store_that_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "STOP_WAIT", 0.0)
    hurry = delivery.Delivery.hurry
    hurried, begun, closed = threading.Event(), threading.Event(), threading.Event()

    def hurrying(made: delivery.Delivery) -> None:
        hurry(made)
        if made.backend.name == "remote" and not isinstance(made, spool.SpooledDelivery):
            hurried.set()  # behind the deadline

    def write(_: Remote, batch: Batch) -> None:
        begun.set()
        assert hurried.wait(60)
        Remote.stored += [one.buf for one in batch]

    Remote.away = True
    with start(tmp_path) as dump:
        for n in range(10):
            dump.intercept([record(b"%d" % n)])
            assert dump.flush(60)
    Remote.away = False
    with monkeypatch.context() as patch:
        patch.setattr(delivery.Delivery, "hurry", hurrying)
        patch.setattr(Remote, "write", write)
        patch.setattr(Remote, "close", lambda _: closed.set())
        dump = start(tmp_path)
        assert begun.wait(60)
        assert dump.close()
        assert closed.wait(60), "what the store has is sealed"
    assert Remote.stored == [b"0"]
    with start(tmp_path):
        wait_for(lambda: Remote.stored == [b"%d" % n for n in range(10)])


CHILD = """
from pathlib import Path
from tests.core.pipeline import test_spool
from tests.support import record

held = []

def store(lines):
    with open({store!r}, "a") as file:
        file.write("".join(lines))

class Writer(test_spool.Remote):
    batch_records = {batch_records}
    def open(self, segment):
        pass
    def write(self, batch):
        held.extend(f"{{batch.id}} {{one.buf.decode()}}\\n" for one in batch)
        if not {holds}:
            store(held)
            held.clear()
    def flush(self):
        store([*held, "flush\\n"])
        held.clear()

store(["start\\n"])
test_spool.Remote = Writer
dump = test_spool.start(Path({folder!r}))
for n in range({first}, {first} + 100000):
    dump.intercept([record(b"%d" % n)])
    if n % {every} == 0:
        assert dump.flush(60)
        print(n, flush=True)
"""


@pytest.mark.parametrize(("holds", "every", "batch_records"), [(False, 1, 0), (True, 20, 3)])
def test_kill_9_loses_nothing_that_was_flushed(tmp_path: Path, holds: bool, every: int, batch_records: int) -> None:
    """Nor what a store held in its memory; only what it had not flushed comes again, in the same batch."""
    store = tmp_path / "store"
    values = {"folder": str(tmp_path), "store": str(store), "holds": holds, "batch_records": batch_records}
    acknowledged = -1
    for round_ in range(6):
        with script(CHILD.format(**values, first=acknowledged + 1, every=every)) as (child, printed):
            for _ in range(2 + 3 * round_):
                acknowledged = int(printed.readline())
            child.kill()
            acknowledged = max([acknowledged, *map(int, printed.read().split())])
    Remote.batch_records = 2  # another wish: what was tried stays as it was
    with start(tmp_path) as dump:
        wait_for(lambda: not dump.stats().backends["remote"].counters["spool_bytes"])
    lines = store.read_text().splitlines()
    lines += ["start", *(f"{batch.id} {one.buf.decode()}" for batch in Remote.batches for one in batch)]
    records = [line.split() for line in lines if " " in line]
    assert set(range(acknowledged + 1)) <= {int(number) for _, number in records}
    for line in {line for line in lines if " " in line and lines.count(line) > 1}:
        first = lines.index(line)
        before_the_kill = lines[first : lines.index("start", first)]
        assert before_the_kill.count("flush") <= 1  # killed before the place was noted
    numbers: dict[str, list[str]] = {}
    for id, number in records:
        numbers.setdefault(id, []).append(number)
    for each in numbers.values():
        whole = list(dict.fromkeys(each))
        assert each == whole * (len(each) // len(whole))


def test_what_the_store_has_not_flushed_comes_again_in_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flush(_: Remote) -> None:
        raise StorageError("flush", "remote", "away")

    Remote.batch_records = 3
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "flush", flush)
        with start(tmp_path) as dump:
            dump.intercept([record(b"%d" % n) for n in range(10)])
            wait_for(lambda: Remote.batches)
            dump.rotate()
            dump.intercept([record(b"%d" % n) for n in range(10, 20)])
    held = named(Remote.batches)
    Remote.batches.clear()
    Remote.batch_records = 2  # another wish: what was tried stays as it was
    with start(tmp_path):
        wait_for(lambda: sum(map(len, Remote.batches)) == 20)
    assert named(Remote.batches)[: len(held)] == held
    assert left(tmp_path) == []


def test_what_was_stored_is_flushed_and_noted_while_the_next_batch_is_tried(tmp_path: Path) -> None:
    with start(tmp_path) as dump:
        dump.intercept([record(b"good")])
        wait_for(lambda: Remote.stored == [b"good"])
        Remote.away = Remote.opens = True
        dump.intercept([record(b"next")])
        wait_for(lambda: len(Remote.tried) > 5)
    Remote.away = False
    with start(tmp_path):
        wait_for(lambda: Remote.stored[-1:] == [b"next"])
    assert Remote.stored == [b"good", b"next"]


def test_under_load_the_store_flushes_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that only few batches come again after a crash."""
    flushes: list[int] = []
    monkeypatch.setattr(Remote, "flush", lambda _: flushes.append(len(Remote.batches)))
    monkeypatch.setattr(spool_feed, "_FLUSH_AFTER", 8)
    monkeypatch.setattr(spool_feed, "FLUSH_EVERY", 60.0)
    Remote.away, Remote.batch_records = True, 1
    with start(tmp_path) as dump:
        dump.intercept([record(b"%d" % n) for n in range(100)])
        assert dump.flush(60)
    Remote.away = False
    with start(tmp_path):
        wait_for(lambda: left(tmp_path) == [])
    assert [after - before for before, after in pairwise(flushes)][:10] == [8] * 10


def test_rotation_counts_as_the_backend_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remote, "record_size", lambda *_: 77)
    with start(tmp_path) as dump:
        assert [backend.record_size(record()) for backend in dump.backends if backend.name == "remote"] == [77]


LATE = """
from sipdump_core import Backend, SpoolOptions

class Late(Backend):
    name, flag, options = "late", 512, SpoolOptions
    {start}

    def write(self, batch):
        with open({path!r}, "ab") as file:
            file.write(b"".join(one.buf + b"\\n" for one in batch))
"""


@pytest.mark.parametrize("code", ["import nosuchmodule", "def f(:", LATE.replace("{start}", "requires = ('no.such',)")])
def test_the_records_of_a_driver_that_cannot_be_used_wait_in_its_spool(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, spool, stored = tmp_path / "packages", tmp_path / "spool", tmp_path / "stored"
    packages.mkdir()
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the mended file may have the same second and size
    monkeypatch.setitem(sys.modules, "sipdump_late", None)
    monkeypatch.delitem(sys.modules, "sipdump_late")
    install(packages, "sipdump-late", code.replace("{path!r}", repr(str(stored))), "late = sipdump_late:Late")
    params: dict[str, int | str] = {"mode": 513, "folder": str(tmp_path), "enable": 1, "queue": 10}
    settings = [*(Setting("sipdump", n, v) for n, v in params.items()), Setting("sipdump_late", "spool", str(spool))]
    with SipDump(plan=make_plan(settings)) as dump:
        for n in range(100):  # many more than the backlog has room for
            dump.intercept([record(b"%d" % n)])
            assert dump.flush(60)
        wait_for(lambda: dump.stats().backends["late"].state == "retrying")
        numbers = dump.stats().backends["late"]
        assert (numbers.stored, numbers.dropped) == (0, {})
        assert numbers.counters["spooled"] == 100
        (packages / "sipdump_late.py").write_text(LATE.format(start="", path=str(stored)))
        sys.modules.pop("sipdump_late", None)
        wait_for(lambda: dump.stats().backends["late"].stored == 100)
        assert dump.stats().backends["late"].state == "ok"
    assert stored.read_bytes() == b"".join(b"%d\n" % n for n in range(100))
    assert left(tmp_path) == []


def test_the_options_are_there_for_an_author(tmp_path: Path) -> None:
    backend = Remote(RemoteOptions(), Site(str(tmp_path), ""))
    assert (backend.opts.spool, backend.opts.spool_max_bytes) == ("", 1 << 30)


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_a_spool_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(mode)
    with start(tmp_path) as dump:
        dump.intercept([record(b"1")])
        error = wait_for(lambda: dump.stats().backends["remote"].error)
        assert "chmod go-w" in error
        (tmp_path / "spool").chmod(0o755)
        wait_for(lambda: Remote.stored == [b"1"])


def test_a_journal_that_is_deleted_is_not_counted_as_spooled(tmp_path: Path) -> None:
    Remote.away = True
    with start(tmp_path) as dump:
        dump.intercept([record(b"%d" % n) for n in range(3)])
        wait_for(lambda: dump.stats().backends["remote"].counters["spooled"] == 3)
        for path in (tmp_path / "spool").glob("*.spool*"):
            path.unlink()
        wait_for(lambda: dump.stats().backends["remote"].dropped == {"the open file was deleted": 3})
        Remote.away = False
        dump.intercept([record(b"after")])
        wait_for(lambda: Remote.stored[-1:] == [b"after"])
        wait_for(lambda: dump.stats().backends["remote"].counters["spool_bytes"] == 0 or left(tmp_path))


def test_what_was_delivered_from_a_journal_that_is_gone_is_not_lost(tmp_path: Path) -> None:
    with start(tmp_path) as dump:
        dump.intercept([record(b"0")])
        wait_for(lambda: Remote.stored == [b"0"])
        Remote.away = True
        dump.intercept([record(b"1"), record(b"2")])
        wait_for(lambda: dump.stats().backends["remote"].counters["spooled"] == 3)
        for path in (tmp_path / "spool").glob("*.spool"):
            path.unlink()
        wait_for(lambda: dump.stats().backends["remote"].dropped == {"the open file was deleted": 2})


def test_a_journal_that_cannot_be_synced_costs_the_store_no_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "CHECK_EVERY", 0.001)
    monkeypatch.setattr(lane, "CHECK_EVERY", 0.001)
    failures: list[StorageError] = []
    checked = threading.Event()
    closed: list[int] = []

    def check(_: journal.Journal) -> None:
        if failures:
            checked.set()
            raise failures.pop()

    monkeypatch.setattr(journal.Journal, "check", check)
    monkeypatch.setattr(Remote, "close", lambda _: closed.append(1))
    with start(tmp_path) as dump:
        dump.intercept([record(b"1")])
        wait_for(lambda: Remote.stored == [b"1"])
        failures.append(StorageError("sync", "x", "Input/output error"))
        assert checked.wait(60)
        dump.intercept([record(b"2")])
        wait_for(lambda: Remote.stored == [b"1", b"2"])
        assert closed == []
    assert closed == [1]
    assert len(Remote.segments_seen) == 1


@pytest.mark.parametrize("note", ["", "no segment", "2026-11-22--00-00-00", "2026-11-22--00-00-00 x", "99 99"])
def test_a_note_of_no_form_costs_nothing_else(tmp_path: Path, note: str) -> None:
    """Its sum is right, but another program wrote it."""
    (tmp_path / "spool").mkdir(0o700)
    log = journal.Journal(Site(str(tmp_path / "spool"), "kamailio-sipdump-"), ".remote.spool")
    log.open(Segment("kamailio-sipdump-", "2026-11-22--00-00-00", 0, ".remote.spool"))
    log.note("2026-11-22--00-00-00 0")
    log.write([record(b"before")])
    log.note(note)
    log.write([record(b"behind")])
    log.close()
    with start(tmp_path) as dump:
        wait_for(lambda: Remote.stored == [b"before", b"behind"])
        dump.intercept([record(b"after")])
        wait_for(lambda: Remote.stored == [b"before", b"behind", b"after"])
    assert [name[-8:] for name in left(tmp_path)] == [".damaged"]


def dead(folder: Path) -> list[bytes]:
    letters = DeadLetters(Site(str(folder), "kamailio-sipdump-"))
    return [one.buf for stored in letters.segments() for one in letters.read(stored)]


def named(batches: list[Batch]) -> list[tuple[str, list[bytes]]]:
    return [(batch.id, [one.buf for one in batch]) for batch in batches]


def test_a_batch_that_comes_again_after_a_restart_is_the_same(tmp_path: Path) -> None:
    Remote.away = Remote.opens = True
    with start(tmp_path, queue=10) as dump:
        dump.intercept([record(b"%d" % n) for n in range(10)])
        wait_for(lambda: len(Remote.tried) > 1)
        dump.intercept([record(b"more %d" % n) for n in range(5)])
        assert dump.flush(10)
    first = named(Remote.tried[:1])
    again = [batch for batch in Remote.tried if len(batch) == 10]
    assert named(again) == first * len(again)
    Remote.away = False
    with start(tmp_path):
        wait_for(lambda: len(Remote.stored) == 15)
    assert named(Remote.batches)[:1] == first
    assert len({batch.id for batch in Remote.batches}) == len(Remote.batches) == 2


@pytest.mark.parametrize("wanted", [1, 7, 10, 16, 100])
def test_a_spool_makes_batches_of_the_size_that_is_wanted(tmp_path: Path, wanted: int) -> None:
    Remote.batch_records = wanted
    Remote.away = Remote.opens = True
    with start(tmp_path) as dump:
        for n in range(6):
            dump.intercept([record(b"%d" % (10 * n + m)) for m in range(10)])
            assert dump.flush(10)
        wait_for(lambda: Remote.tried)
    begun = [batch for batch in Remote.tried if batch.id == batch.whole][-1]
    Remote.away = False
    Remote.batch_records = 3  # another wish: what was tried stays as it was
    with start(tmp_path):
        wait_for(lambda: len(Remote.stored) == 60)
    assert Remote.stored == [b"%d" % n for n in range(60)]
    assert named(Remote.batches)[0] == named([begun])[0]
    assert {len(batch) for batch in Remote.batches[1:]} <= {1, 2, 3}
    assert left(tmp_path) == []


def test_a_spool_waits_for_as_many_records_as_are_wanted(tmp_path: Path) -> None:
    Remote.batch_records, Remote.batch_seconds = 30, 60.0
    with start(tmp_path) as dump:
        for n in range(7):
            dump.intercept([record(b"%d" % (10 * n + m)) for m in range(10)])
            assert dump.flush(10)
        wait_for(lambda: len(Remote.stored) == 60)
    assert [len(batch) for batch in Remote.batches] == [30, 30, 10]  # the end waits for nothing


def test_a_spool_does_not_wait_for_ever(tmp_path: Path) -> None:
    Remote.batch_records, Remote.batch_seconds = 30, 0.05
    with start(tmp_path) as dump:
        dump.intercept([record(b"%d" % m) for m in range(10)])
        wait_for(lambda: len(Remote.stored) == 10)


@pytest.mark.parametrize("bufs", [[b"good", b"poison", b"more"], [b"poison"], [b"poison", b"poison 2"]])
def test_what_the_store_refuses_holds_nothing_up(tmp_path: Path, bufs: list[bytes]) -> None:
    with start(tmp_path) as dump:
        dump.intercept([record(buf) for buf in bufs])
        assert dump.flush(10)
        dump.rotate()
        for n in range(5):
            dump.intercept([record(b"behind %d" % n)])
            assert dump.flush(10)
        good = [buf for buf in bufs if not buf.startswith(b"poison")] + [b"behind %d" % n for n in range(5)]
        wait_for(lambda: sorted(Remote.stored) == sorted(good))
        wait_for(lambda: dump.stats().backends["remote"].refused == len(bufs) + 5 - len(good))
        wait_for(lambda: dump.stats().backends["remote"].state == "ok")
        assert dump.stats().backends["remote"].stored == len(good)
    assert sorted(dead(tmp_path)) == [buf for buf in bufs if buf.startswith(b"poison")]
    assert left(tmp_path) == []


def test_what_is_refused_alone_holds_nothing_up_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_ALONE", 0.05)
    with start(tmp_path) as dump:
        dump.intercept([record(b"good")])
        wait_for(lambda: Remote.stored == [b"good"])
        dump.intercept([record(b"poison")])
        wait_for(lambda: dump.stats().backends["remote"].refused == 1)
        wait_for(lambda: dump.stats().backends["remote"].state == "ok")
    assert dead(tmp_path) == [b"poison"]
    assert left(tmp_path) == []


def test_at_the_end_what_the_store_does_not_take_stays_in_the_spool(tmp_path: Path) -> None:
    with start(tmp_path) as dump:
        dump.intercept([record(b"poison")])
        wait_for(lambda: "too long" in dump.stats().backends["remote"].error)
    assert dead(tmp_path) == []
    assert [name for name in left(tmp_path) if name.endswith(".spool")]


def test_an_outage_with_a_spool_is_no_refusal(tmp_path: Path) -> None:
    Remote.away = Remote.opens = True
    with start(tmp_path) as dump:
        for n in range(5):
            dump.intercept([record(b"%d" % (10 * n + m)) for m in range(10)])
            assert dump.flush(10)
        wait_for(lambda: len(Remote.tried) > 100)
    Remote.away = False
    with start(tmp_path) as dump:
        wait_for(lambda: sorted(map(int, Remote.stored)) == list(range(50)))
        assert dump.stats().backends["remote"].refused == 0
    assert dead(tmp_path) == []


def test_what_is_in_the_dead_letter_gets_in_once_though_its_batch_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill -9 between the dead letter and the note of the place."""
    monkeypatch.setattr("sipdump_core.pipeline.spool_reader.PlaceFile.write", lambda *_: None)
    monkeypatch.setattr(spool.Spool, "settle", lambda *_, **__: None)
    for _ in range(3):
        with start(tmp_path) as dump:
            dump.intercept([record(buf) for buf in (b"good", b"poison", b"poison 2")] if not dead(tmp_path) else [])
            wait_for(lambda: Remote.stored.count(b"good") and dump.stats().backends["remote"].state == "ok")
            wait_for(lambda: len(dead(tmp_path)) == 2)
        assert sorted(dead(tmp_path)) == [b"poison", b"poison 2"]
        assert Remote.stored.count(b"good") >= 1
        Remote.stored.clear()

"""Records are taken out of a spool's journals: the rest is delivered once, in order, in the same batches."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers import discovery
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.rewriting import Change
from sipdump_core.errors import PartialWriteError, StorageError
from sipdump_core.pipeline import delivery, lane, spool, spool_rewriting
from sipdump_core.pipeline.spool_feed import SpoolFeed
from sipdump_core.pipeline.spool_reader import Entry, Place, entries
from sipdump_core.pipeline.spool_rewriting import SpoolJournals
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_text import TextBackend
from tests.core.admin.run import run
from tests.core.lifecycle.rewrites import calls
from tests.core.pipeline.test_spool import Remote, RemoteOptions, left, start
from tests.support import wait_for

FULL = calls("one", "two", "three", "four")
NAME = Segment("kamailio-sipdump-", "2026-11-22--10-00-00", 0, ".remote.spool")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (delivery, spool, lane):
        monkeypatch.setattr(module, "BACKOFF", (0.001, 0.01))
    yield
    Remote.reset()


def journals(folder: Path) -> SpoolJournals:
    site = Site(str(folder), "kamailio-sipdump-")
    return SpoolJournals(Remote(RemoteOptions(), site), str(folder / "spool"))


def without(*names: str) -> list[bytes]:
    return [record.buf for record in FULL if record.call_id not in names]


def filled(folder: Path, *frames: list[Record]) -> SpoolJournals:
    """Make one journal with these frames, as the spool does."""
    (folder / "spool").mkdir()
    made = journals(folder)
    made.open(NAME)
    made.note("2026-11-22--10-00-00 0")
    for frame in frames:
        made.write(Batch(frame))
    made.note("seal")
    made.close()
    return made


def test_a_running_daemon_delivers_what_is_left_once(tmp_path: Path) -> None:
    """Also of the batch that it tries again and again: it is in memory."""
    with start(tmp_path) as dump:
        Remote.away = Remote.opens = True
        for record in FULL:
            dump.intercept([record])
        dump.rotate()
        wait_for(lambda: bool(Remote.tried))
        spooled = journals(tmp_path)
        wait_for(lambda: all(stored.sealed for stored in spooled.segments()))
        done = [spooled.rewrite(stored, Change({"one", "three"})) for stored in spooled.segments()]
        assert sum(each.removed for each in done) == len(FULL) - len(without("one", "three"))
        Remote.away = False
        wait_for(lambda: len(Remote.stored) >= len(without("one", "three")) and not left(tmp_path))
    assert Remote.stored == without("one", "three")


def test_what_a_store_has_taken_of_a_batch_does_not_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store takes the even ones of a batch, and fails with the rest, when the batch is rewritten."""
    tried: list[Batch] = []

    def half(self: Remote, batch: Batch) -> None:
        tried.append(batch)
        if not Remote.away:
            Remote.stored += [one.buf for one in batch]
            return
        if len(tried) > 1:
            raise StorageError("write", "remote", "away")
        Remote.stored += [one.buf for one in batch[::2]]
        raise PartialWriteError("write", "remote", "away", list(range(1, len(batch), 2)))

    monkeypatch.setattr(Remote, "write", half)
    monkeypatch.setattr(spool_rewriting, "_PAUSE", 0.001)
    Remote.away = Remote.opens = True
    spooled = filled(tmp_path, FULL)
    with start(tmp_path) as dump:
        wait_for(lambda: len(tried) > 2)
        (stored,) = spooled.segments()
        spooled.rewrite(stored, Change({"two"}))
        Remote.away = False
        wait_for(lambda: not left(tmp_path))
        assert dump.stats().backends["remote"].dropped == {}
    even = [record.buf for record in FULL[::2]]
    odd = [record.buf for record in FULL[1::2] if record.call_id != "two"]
    assert sorted(Remote.stored) == sorted(even + odd)


def test_erase_reaches_the_spool_of_a_daemon_that_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drivers = [discovery.Driver("text", "sipdump", "1", TextBackend), discovery.Driver("remote", "x", "1", Remote)]
    monkeypatch.setattr("sipdump_core.plan.take_stock", lambda *_: discovery.Stock(drivers))
    config = tmp_path / "s.cfg"
    config.write_text(
        f'modparam("sipdump", "folder", "{tmp_path}")\nmodparam("sipdump", "backend", "remote")\n'
        f'modparam("sipdump_remote", "spool", "{tmp_path}/spool")\n'
    )
    filled(tmp_path, FULL[:7], FULL[7:])
    assert run(capsys, "hold", "add", "case", "-f", config, "--call-id", "two")[0] == 0
    code, out, err = run(capsys, "erase", "-f", config, "--user", "alice", "--dry-run")
    assert (code, "3 calls would be erased" in out) == (1, True), err  # what is held is said
    code, out, err = run(capsys, "erase", "-f", config, "--user", "alice")
    assert (code, "3 calls erased" in out) == (1, True), err
    (path,) = (tmp_path / "spool").glob("*.spool")
    assert [name for name in ("one", "three", "four") if f"Call-ID: {name}".encode() in path.read_bytes()] == []
    assert run(capsys, "hold", "release", "case", "-f", config)[0] == 0
    code, out, err = run(capsys, "erase", "-f", config, "--user", "alice", "--mask")
    assert (code, "1 calls masked" in out) == (0, True), err
    assert b"alice" not in path.read_bytes()
    code, out, err = run(capsys, "erase", "-f", config, "--call-id", "two")
    assert code == 0, err
    with start(tmp_path):
        wait_for(lambda: not left(tmp_path))
    assert Remote.stored == []


@pytest.mark.parametrize("wanted", [0, 1, 3, 5, 100])
def test_batches_keep_their_names_and_borders(wanted: int, tmp_path: Path) -> None:
    spooled = filled(tmp_path, FULL[:5], FULL[5:6], FULL[6:])
    (stored,) = spooled.segments()

    def batches(place: Place) -> list[Entry]:
        with open(stored.location, "rb") as file:
            return [one for one in entries(file, "k", place, wanted, lambda _: 0) if isinstance(one, Entry)]

    before = batches(Place())
    middle = before[len(before) // 2].end
    after_middle = batches(middle)
    size = os.path.getsize(stored.location)
    for names in ({"two"}, {"two", "four"}, {"one", "two", "three", "four"}):
        spooled.rewrite(stored, Change(names))
        assert os.path.getsize(stored.location) == size
        for old, new in ((before, batches(Place())), (after_middle, batches(middle))):
            assert [(one.batch.id, one.count, one.end) for one in old] == [
                (one.batch.id, one.count, one.end) for one in new
            ]
            for one, other in zip(old, new, strict=True):
                places = [at for at, record in enumerate(one.batch) if record.call_id not in names]
                assert list(other.batch.indexes) == places
                assert list(other.batch) == [one.batch[at] for at in places]


def test_correlation_ids_stay_with_their_records(tmp_path: Path) -> None:
    named = [attrs.evolve(record, correlation_id=f"id-{n}") for n, record in enumerate(FULL)]
    spooled = filled(tmp_path, named)
    (stored,) = spooled.segments()
    spooled.rewrite(stored, Change({"two"}))
    assert list(spooled.read(stored)) == [record for record in named if record.call_id != "two"]


def test_a_masked_message_that_finds_no_room_goes(tmp_path: Path) -> None:
    spooled = filled(tmp_path, FULL)
    (stored,) = spooled.segments()
    done = spooled.rewrite(
        stored, Change({"two"}, mask=lambda record: attrs.evolve(record, buf=record.buf + b"x" * 700))
    )
    found = list(spooled.read(stored))
    assert [record.buf for record in found if record.call_id != "two"] == without("two")
    assert done.removed
    assert done.masked == sum(record.call_id == "two" for record in found)


def test_a_damaged_or_open_journal_is_named_and_stays(tmp_path: Path) -> None:
    spooled = filled(tmp_path, FULL[:5], FULL[5:])
    (stored,) = spooled.segments()
    path = Path(stored.location)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="it is damaged from"):
        spooled.rewrite(stored, Change({"two"}))
    assert path.read_bytes() == data
    spooled.open(NAME.next())
    spooled.write(Batch(FULL))
    newest = max(spooled.segments(), key=lambda one: one.segment)
    with pytest.raises(StorageError, match="open for writing"):
        spooled.rewrite(newest, Change({"two"}))
    spooled.close()


def test_a_daemon_that_does_not_let_go_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_rewriting, "_LET_GO", 0.0)
    spooled = filled(tmp_path, FULL)
    (stored,) = spooled.segments()
    with SpoolFeed._opened(stored), pytest.raises(StorageError, match="still delivers"):
        spooled.rewrite(stored, Change({"two"}))
    assert [record.buf for record in spooled.read(stored)] == without("two")


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Each record is there once, or gone; a next run ends it, and leaves no draft."""
    spooled = filled(tmp_path, *([record] for record in FULL))
    (stored,) = spooled.segments()
    gone: set[str] = set()
    for name in ("one", "two", "three"):
        gone.add(name)
        child = os.fork()
        if not child:
            try:
                spooled.rewrite(stored, Change(gone))
            finally:
                os._exit(0)
        time.sleep(random.uniform(0, 0.006))
        os.kill(child, 9)
        os.waitpid(child, 0)
        found = [record.buf for record in spooled.read(stored)]
        assert found in (without(*gone), without(*(gone - {name})))
        spooled.rewrite(stored, Change(gone))
        assert [record.buf for record in spooled.read(stored)] == without(*gone)
        assert os.listdir(tmp_path / "spool") == [NAME.name]

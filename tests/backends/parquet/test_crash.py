"""Crashes and damage: what was taken is there exactly once, whatever moment the writer ends at."""

import fcntl
import logging
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sipdump_core.drivers.capabilities import Recovered
from sipdump_core.locks import take
from sipdump_core.log import Event
from sipdump_core.pipeline import journal
from sipdump_core.pipeline.journal import Damage, Journal, scan
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_parquet import conversion
from sipdump_parquet.options import WAL_SUFFIX
from tests.backends.parquet.support import SEGMENT, leave, make, read, sealed, write
from tests.forks import script
from tests.support import record

ROUNDS = int(os.environ.get("SIPDUMP_CRASH_ROUNDS", "20"))

# Writes records until it is killed, a segment each so many batches, and says on stdout what is stored.
_WRITER = """
import sys
from sipdump_core.drivers.base import Site
from sipdump_core.segment import Segment, StoredSegment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions
from tests.support import record

folder, first, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
backend = ParquetBackend(ParquetOptions(memory=memory), Site(folder, "t-"))
backend.start()
number, segment = first, Segment.starting("t-", 1_795_386_431 + first)
segment = Segment(segment.prefix, segment.stamp, 0, ".parquet")
while True:
    backend.open(segment)
    for _ in range(5):
        backend.write([record(b"%d %s" % (n, b"x" * 3000), time_us=n) for n in range(number, number + 20)])
        number += 20
        print(number, flush=True)
    backend.close()
    segment = segment.next()
"""


def everything(folder: Path) -> list[int]:
    """The number of every record in the folder."""
    backend = make(folder)
    return [int(one.buf.split()[0]) for stored in backend.segments() for one in backend.read(stored)]


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """Each writer takes up what the one before left, in the background, while it writes."""
    dice = random.Random(7)
    stored = 0
    for _ in range(ROUNDS):
        with script(_WRITER, str(tmp_path), str(stored), str(1 << 16)) as (writer, printed):
            acknowledged = stored
            for _ in range(dice.randrange(1, 40)):
                acknowledged = int(printed.readline())
            writer.kill()
            rest = printed.read().split("\n")
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1] if line)])
        found = everything(tmp_path)
        assert len(found) == len(set(found)), "none twice, at no moment"
        assert set(found) >= set(range(acknowledged))
        stored = max(found) + 1
    assert all(done.error is None and not done.in_use for done in make(tmp_path).recover())
    assert sorted(everything(tmp_path)) == list(range(stored))
    names = os.listdir(tmp_path)
    assert all(name.endswith(".parquet") for name in names), "nothing else is left"
    assert not any(name.startswith(".") for name in names)


# Seals a segment, and ends at the call of a function of os that is named, before or after it is done.
_STEP = """
import os, sys
from sipdump_core.drivers.base import Site
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions

folder, step, number, after = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "after"
real, count = getattr(os, step), 0

def ending(*args, **kwargs):
    global count
    count += 1
    if count == number and not after:
        os._exit(9)
    result = real(*args, **kwargs)
    if count == number:
        os._exit(9)
    return result

setattr(os, step, ending)
print(list(ParquetBackend(ParquetOptions(), Site(folder, "t-")).recover()))
"""


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(
    ("step", "number", "after"),
    [
        ("fchmod", 1, "after"),
        ("fsync", 1, "after"),
        ("link", 1, "before"),
        ("link", 1, "after"),
        ("unlink", 1, "before"),
        ("unlink", 1, "after"),
        ("fsync", 2, "after"),
        ("unlink", 2, "before"),
        ("unlink", 2, "after"),
    ],
)
def test_a_crash_at_each_step_of_sealing(tmp_path: Path, step: str, number: int, after: str, *, damaged: bool) -> None:
    wal = leave(tmp_path, [record(b"1")], [record(b"2")], [record(b"3")])
    expected = [1, 2, 3]
    if damaged:
        flip(wal, 1)
        expected = [1, 3]
    with script(_STEP, str(tmp_path), step, str(number), after) as (child, _):
        child.join()
        assert child.exitcode == 9
    found = everything(tmp_path)
    assert sorted(found) == expected
    results = list(make(tmp_path).recover())
    assert all(done.error is None for done in results)
    assert everything(tmp_path) == expected
    assert sealed(tmp_path) == [SEGMENT.name]
    kept = [wal.name + ".damaged"] if damaged else []
    assert sorted(os.listdir(tmp_path)) == sorted([SEGMENT.name, *kept])


def flip(wal: Path, number: int) -> None:
    """Turn a bit in the middle of a frame of records."""
    with wal.open("rb") as file:
        frames = [piece for piece in scan(file) if not isinstance(piece, Damage) and piece.kind == journal.RECORDS]
    data = bytearray(wal.read_bytes())
    data[(frames[number].offset + frames[number].end) // 2] ^= 4
    wal.write_bytes(data)


def test_a_segment_that_was_sealed_already_is_not_sealed_again(tmp_path: Path) -> None:
    wal = leave(tmp_path, [record(b"1"), record(b"2")])
    content = wal.read_bytes()
    assert [done.records for done in make(tmp_path).recover()] == [2]
    wal.write_bytes(content)  # as if the crash had come before its removal
    assert [(done.records, done.location) for done in make(tmp_path).recover()] == [(2, str(tmp_path / SEGMENT.name))]
    assert everything(tmp_path) == [1, 2]
    assert os.listdir(tmp_path) == [SEGMENT.name]


def test_a_parquet_file_of_the_same_name_is_no_reason_to_lose_another_write_ahead_file(tmp_path: Path) -> None:
    """The name may have come twice: in the hour that comes twice, say, or because somebody put a file there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    earlier = write(elsewhere, [record(b"1")])
    leave(tmp_path, [record(b"2")])
    earlier.rename(tmp_path / earlier.name)
    (done,) = make(tmp_path).recover()
    assert (done.records, done.location) == (1, str(tmp_path / SEGMENT.next().name))
    assert sorted(everything(tmp_path)) == [1, 2]


def test_a_segment_that_is_sealed_while_it_is_listed_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, [record(b"1")])
    backend = make(tmp_path)
    listed = Journal.segments

    def sealing(journal: Journal) -> Iterable[StoredSegment]:
        monkeypatch.undo()
        assert list(make(tmp_path).recover())
        return listed(journal)

    monkeypatch.setattr(Journal, "segments", sealing)
    assert [stored.segment for stored in backend.segments()] == [SEGMENT]


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_costs_one_batch(tmp_path: Path, seed: int) -> None:
    wal = leave(tmp_path, *([record(b"%d" % number)] for number in range(10)))
    data = bytearray(wal.read_bytes())
    bit = random.Random(seed).randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    wal.write_bytes(data)
    (done,) = make(tmp_path).recover()
    found = everything(tmp_path)
    assert len(found) >= 9
    assert found == sorted(set(found))
    assert set(found) <= set(range(10))
    assert done.records == len(found)
    assert done.damages == 1
    assert 0 < done.lost < len(data)
    kept = Path(f"{wal}.damaged")
    assert done.kept == str(kept)
    assert kept.read_bytes() == data
    assert not list(make(tmp_path).recover()), "the damaged file is not taken up again"


def test_damage_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wal = leave(tmp_path, [record(b"1")], [record(b"2")], [record(b"3")])
    flip(wal, 1)
    (done,) = make(tmp_path).recover()
    (event,) = [e.msg for e in caplog.records if isinstance(e.msg, Event) and "damaged" in e.msg.what]
    assert event.fields["path"] == str(wal)
    assert event.fields["bytes"] == done.lost
    assert event.fields["kept"] == done.kept == f"{wal}.damaged"


def test_earlier_damaged_files_are_not_overwritten(tmp_path: Path) -> None:
    kept = []
    for number in range(3):
        wal = leave(tmp_path, [record(b"%d" % number)], [record(b"lost")])
        flip(wal, 1)
        (done,) = make(tmp_path).recover()
        kept.append(done.kept)
        os.unlink(done.location)
    assert kept == [f"{wal}.damaged", f"{wal}.damaged-1", f"{wal}.damaged-2"]


def test_a_torn_end_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wal = leave(tmp_path, [record(b"1")], [record(b"2")])
    os.truncate(wal, wal.stat().st_size - 1)
    (done,) = make(tmp_path).recover()
    assert (done.records, done.damages, done.kept) == (1, 0, "")
    assert [entry.levelno for entry in caplog.records if "torn" in str(entry.msg)] == [logging.INFO]
    assert os.listdir(tmp_path) == [SEGMENT.name]


@pytest.mark.parametrize("size", [0, 5, 16, 20])
def test_nothing_but_a_begin_leaves_nothing(tmp_path: Path, size: int) -> None:
    wal = leave(tmp_path, [record(b"1")])
    os.truncate(wal, size)
    (done,) = make(tmp_path).recover()
    assert (done.records, done.location, done.error) == (0, "", None)
    assert os.listdir(tmp_path) == []


def test_a_frame_that_is_not_of_its_form_costs_itself_alone(tmp_path: Path) -> None:
    """Its sum is right: a bug has written it, or somebody who means harm."""
    wal = leave(tmp_path, [record(b"1")])
    with wal.open("r+b") as file:
        salt = file.read()[8:16]
        for payload in (b"", b"\xff" * 40, b"\0" * 40, b"\4\0\0\0a\tb\n" + b"\0" * 16):
            file.write(journal._head(salt, journal.RECORDS, 1, payload) + payload)
        file.write(journal._head(salt, journal.NOTE, 0, b"\xff") + b"\xff")
        good = Journal(make(tmp_path).site)
        good._salt = salt
        file.write(good.encode([record(b"2")]))
    (done,) = make(tmp_path).recover()
    assert (done.records, done.damages, done.error) == (2, 5, None)
    assert everything(tmp_path) == [1, 2]


def test_what_a_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    writer = make(tmp_path)
    writer.start()
    writer.open(SEGMENT)
    writer.write([record(b"1")])
    other = make(tmp_path)
    other.start()
    (done,) = make(tmp_path).recover()
    assert done.in_use
    assert done.error
    other.stop()
    writer.write([record(b"2")])
    writer.close()
    writer.stop()
    assert everything(tmp_path) == [1, 2]


def test_one_kind_of_lock_is_enough_to_be_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = leave(tmp_path, [record(b"1")])
    with wal.open("r+b") as file:
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", lambda *_: None)
            assert take(file.fileno())
        (done,) = make(tmp_path).recover()
        assert done.in_use
        assert wal.exists()
    (done,) = make(tmp_path).recover()
    assert done.records == 1


def test_a_write_ahead_file_that_another_one_seals_meanwhile_is_his(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, [record(b"1")])

    def looking(_: int) -> bool:
        monkeypatch.undo()
        assert len(list(make(tmp_path).recover())) == 1
        return False

    monkeypatch.setattr(conversion, "in_use", looking)
    assert list(make(tmp_path).recover()) == []
    assert os.listdir(tmp_path) == [SEGMENT.name]


def test_a_link_is_not_sealed_wherever_it_leads(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wal = leave(elsewhere, [record(b"1")])
    (tmp_path / wal.name).symlink_to(wal)
    backend = make(tmp_path)
    assert list(backend.segments()) == []
    (done,) = conversion.recover([SEGMENT], backend.opts, backend.site)
    assert "symbolic links" in str(done.error)
    assert sorted(os.listdir(tmp_path)) == sorted([wal.name, "elsewhere"])
    assert wal.exists()


def test_where_files_have_no_locks_only_its_writer_seals_a_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = leave(tmp_path, [record(b"1")])
    monkeypatch.setattr(conversion, "has_locks", lambda _: False)
    (done,) = make(tmp_path).recover()
    assert done.in_use
    assert "has no locks" in str(done.error)
    assert write(tmp_path, [record(b"2")], segment=SEGMENT.next()).exists(), "which also looked at what was left"
    assert sorted(os.listdir(tmp_path)) == sorted([wal.name, SEGMENT.next().name])


def test_a_start_takes_up_what_was_left(tmp_path: Path) -> None:
    for number in range(3):
        leave(tmp_path, [record(b"%d" % number)], segment=Segment("t-", f"2026-11-22--23-31-0{number}", 0, ".parquet"))
    (tmp_path / f".{SEGMENT.stem}.parquet.tmp").write_bytes(b"half a file")
    other = tmp_path / f"other-2026-11-22--23-31-00{WAL_SUFFIX}"
    other.write_bytes(b"of another prefix")
    backend = make(tmp_path)
    backend.start()
    backend.stop()
    assert len(sealed(tmp_path)) == 3
    assert everything(tmp_path) == [0, 1, 2]
    assert other.read_bytes() == b"of another prefix"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_the_table_of_processes_survives(tmp_path: Path) -> None:
    leave(tmp_path, [record()])
    (done,) = make(tmp_path).recover()
    assert pq.read_metadata(done.location).metadata[b"sipdump.meta"].decode() == "v: 1.0\nmeta ☎\n"


def test_a_long_segment_is_recovered_in_order(tmp_path: Path) -> None:
    def batches() -> Iterator[list[Record]]:
        for batch in range(30):
            yield [record(b"%d %s" % (batch * 20 + n, b"x" * 500)) for n in range(20)]

    leave(tmp_path, *batches())
    (done,) = make(tmp_path, memory=1 << 16).recover()
    assert isinstance(done, Recovered)
    assert done.records == 600
    assert everything(tmp_path) == list(range(600))


def test_a_cut_parquet_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, [record()])
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(Exception, match=str(path)) as caught:
        read(tmp_path)
    assert type(caught.value).__name__ == "ContentError"

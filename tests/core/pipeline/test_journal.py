"""The journal: frames, damage, torn tails."""

import errno
import os
import random
import struct
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.errors import RecordError, StorageError, StorageFullError
from sipdump_core.pipeline import journal
from sipdump_core.pipeline.journal import Columns, Damage, Frame, Journal, scan
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from tests.support import examples, record

SEGMENT = Segment("t-", "2026-11-22--23-31-00", 0, ".wal")


def write(folder: Path, *batches: list[Record]) -> Path:
    log = Journal(Site(str(folder), "t-"))
    log.open(SEGMENT)
    for batch in batches:
        log.write(batch)
    log.close()
    return Path(log.path)


def frames(path: Path, start: int = 0) -> list[Frame | Damage]:
    with open(path, "rb") as file:
        return list(scan(file, start))


def records(path: Path) -> list[Record]:
    found = [f for f in frames(path) if isinstance(f, Frame) and f.kind == journal.RECORDS]
    return [r for f in found for r in f.columns().records()]


BATCHES = [[record(b"m%d-%d" % (b, n), src_port=n + 1, node="ed ge") for n in range(20)] for b in range(10)]
FLAT = [r for batch in BATCHES for r in batch]


def test_batches_come_back(tmp_path: Path) -> None:
    path = write(tmp_path, *BATCHES)
    assert records(path) == FLAT
    assert [f.count for f in frames(path) if isinstance(f, Frame)] == [20] * 10


def test_correlation_ids_come_back(tmp_path: Path) -> None:
    ids = ["", '☎\n"\t', "\ud800", "a" * 300]
    batches = [[record(b"m%d" % n, correlation_id=one) for n, one in enumerate(ids)], [record()], [record(b"")]]
    path = write(tmp_path, *batches)
    assert records(path) == [r for batch in batches for r in batch]
    columns = [f.columns() for f in frames(path) if isinstance(f, Frame)]
    assert [len(each.correlation_ids) for each in columns] == [4, 0, 0], "they take no room where there are none"
    joined = Columns.joined(columns)
    assert list(joined.records()) == records(path)
    assert list(joined.correlation_ids) == [*ids, "", ""]
    assert Columns.joined(columns[1:]).correlation_ids == []


@pytest.mark.parametrize("ids", [b"1", b"null", b"[1]", b'["a", "b"]', b"[]", b'{"a": 1}', b'["a"', b"\xff"])
def test_correlation_ids_that_do_not_fit_are_no_records(ids: bytes, tmp_path: Path) -> None:
    (frame,) = frames(write(tmp_path, [record(b"message")]))
    assert isinstance(frame, Frame)
    at = len(frame.payload) - len(b"message")
    payload = frame.payload[:at] + ids + frame.payload[at:]
    with pytest.raises(ValueError, match=r"."):
        attrs.evolve(frame, payload=payload).columns()


def test_notes_stand_between(tmp_path: Path) -> None:
    log = Journal(Site(str(tmp_path), "t-"))
    log.open(SEGMENT)
    log.note("first ☎")
    log.write([record()])
    log.note("second")
    log.close()
    found = [f for f in frames(Path(log.path)) if isinstance(f, Frame)]
    assert [f.text() for f in found if f.kind == journal.NOTE] == ["first ☎", "second"]


def test_it_is_read_on_from_a_frames_end(tmp_path: Path) -> None:
    path = write(tmp_path, *BATCHES)
    third = frames(path)[2]
    assert frames(path, third.end) == frames(path)[3:]


@pytest.mark.parametrize("cut", [1, 5, 31, 32, 33, 200])
def test_a_torn_tail_is_told_from_damage(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, *BATCHES)
    os.truncate(path, path.stat().st_size - cut)
    *whole, last = frames(path)
    assert isinstance(last, Damage)
    assert last.torn
    assert len(whole) == 9
    assert all(isinstance(f, Frame) for f in whole)


def test_nothing_but_a_part_of_the_header_is_torn(tmp_path: Path) -> None:
    path = write(tmp_path, *BATCHES)
    os.truncate(path, 9)
    assert frames(path) == [Damage(0, 9, torn=True)]


@pytest.mark.parametrize("at", ["header", "salt", "first", "start", "middle", "last"])
def test_damage_costs_only_the_frame_that_it_hits(tmp_path: Path, at: str) -> None:
    path = write(tmp_path, *BATCHES)
    data = bytearray(path.read_bytes())
    starts = [f.offset for f in frames(path)]
    where = {"header": 0, "salt": 9, "first": starts[0], "start": 0, "middle": starts[5] + 60, "last": starts[9] + 60}
    length = starts[2] - 5 if at == "start" else 2
    data[where[at] : where[at] + length] = bytes(b ^ 0x55 for b in data[where[at] : where[at] + length])
    path.write_bytes(data)
    lost = {"header": [], "salt": [], "first": [0], "start": [0, 1], "middle": [5], "last": [9]}[at]
    found = frames(path)
    damages = [f for f in found if isinstance(f, Damage)]
    assert len(damages) == 1
    assert not damages[0].torn
    assert records(path) == [r for n, batch in enumerate(BATCHES) if n not in lost for r in batch]


def test_frames_behind_a_large_one_that_lost_its_middle_are_found(tmp_path: Path) -> None:
    batches = [[record(b"x" * 20_000)], [record(b"a")], [record(b"b")], [record(b"c")]]
    path = write(tmp_path, *batches)
    data = path.read_bytes()
    path.write_bytes(data[:8000] + data[12096:])
    damage, *rest = frames(path)
    assert isinstance(damage, Damage)
    assert not damage.torn
    assert len(rest) == 3
    assert records(path) == [r for batch in batches[1:] for r in batch]


def test_a_block_that_cannot_be_read_costs_only_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [[record(b"%d" % n * 3000)] for n in range(8)]
    path = write(tmp_path, *batches)
    pread = os.pread

    def fail(fd: int, length: int, at: int) -> bytes:
        if at < 12288 and at + length > 8192:
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, length, at)

    monkeypatch.setattr(os, "pread", fail)
    found = records(path)
    assert found == [batches[n][0] for n in (0, 1, 4, 5, 6, 7)]
    assert [f.torn for f in frames(path) if isinstance(f, Damage)] == [False]


def test_it_writes_on_whoever_keeps_the_frames_of_an_earlier_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback, a debugger or a profiler keeps the local variables of a call, as views of the buffer."""
    log = Journal(Site(str(tmp_path), "t-"))
    log.open(SEGMENT)
    kept: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail_with_enospc)
        with pytest.raises(StorageFullError) as failure:
            log.write([record(b"a")])
        kept.append(failure)
    sys.setprofile(lambda frame, event, arg: kept.append(frame))
    try:
        log.write([record(b"a")])
    finally:
        sys.setprofile(None)
    log.write([record(b"b" * 100_000)])  # the buffer must grow for it
    log.close()
    assert [r.buf for r in records(Path(log.path))] == [b"a", b"b" * 100_000]


def fail_with_enospc(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, *BATCHES)
    good = path.read_bytes()
    for seed in range(300):
        bit = random.Random(seed).randrange(len(good) * 8)
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert len([f for f in frames(path) if isinstance(f, Damage)]) == 1, bit
        found = records(path)
        assert all(r in FLAT for r in found)
        assert len(found) >= len(FLAT) - 20


def test_a_frame_inside_a_message_is_not_taken_for_one(tmp_path: Path) -> None:
    inner = write(tmp_path, [record(b"forged")]).read_bytes()
    os.unlink(tmp_path / SEGMENT.name)
    path = write(tmp_path, [record(inner * 50)], [record(b"good")])
    data = bytearray(path.read_bytes())
    data[16:60] = bytes(44)  # the damage would make a reader look inside the message
    path.write_bytes(data)
    assert [r.buf for r in records(path)] == [b"good"]


def test_a_batch_is_divided_by_count_and_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FRAME_RECORDS", 7)
    monkeypatch.setattr(journal, "FRAME_BYTES", 100)
    batch = [record(bytes([n]) * (n * 9)) for n in range(30)]
    path = write(tmp_path, batch)
    assert records(path) == batch
    assert all(f.count <= 7 for f in frames(path) if isinstance(f, Frame))


def test_a_frame_holds_as_many_records_as_it_may_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FRAME_RECORDS", 7)
    path = write(tmp_path, [record(b"x")] * 16)
    assert [f.count for f in frames(path) if isinstance(f, Frame)] == [7, 7, 2]


def test_the_memory_of_a_large_batch_is_given_back(tmp_path: Path) -> None:
    log = Journal(Site(str(tmp_path), "t-"))
    log.open(SEGMENT)
    tracemalloc.start()
    log.write([record(b"x" * (2 * journal._KEPT))])
    assert tracemalloc.get_traced_memory()[0] < journal._KEPT
    tracemalloc.stop()
    log.close()


def test_a_journal_that_cannot_be_synced_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    failed = threading.Event()
    monkeypatch.setattr(os, "fdatasync", fail)
    log = Journal(Site(str(tmp_path), "t-", sync=0.001))
    monkeypatch.setattr(log, "_not_synced", lambda *_: failed.set())
    log.open(SEGMENT)
    log.write([record(b"1")])
    assert failed.wait(60)
    with pytest.raises(StorageError, match="Input/output error"):
        log.write([record(b"2")])
    log.close()
    assert SYNCER.finish(60)
    assert [one.buf for one in records(Path(log.path))] == [b"1"]


def test_what_is_passed_over_hides_no_frames_behind_it(tmp_path: Path) -> None:
    """A frame that lost its middle seems to contain those after it: it is not passed over unchecked."""
    path = write(tmp_path, [record(b"x" * 20_000)], [record(b"a" * 15_000)], [record(b"wanted")])
    data = path.read_bytes()
    cut = len(data) - frames(path)[0].end  # so that what it claims is all there
    path.write_bytes(data[:8000] + data[8000 + cut :])
    with path.open("rb") as file:
        found = list(scan(file, wanted=lambda _, payload: len(payload) < 1000))
    assert [f.columns().records().__next__().buf for f in found if isinstance(f, Frame) and f.payload] == [b"wanted"]


@examples(150)
@given(st.binary(max_size=400), st.integers(0, 3))
def test_any_bytes_can_be_scanned(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: int) -> None:
    path = tmp_path_factory.mktemp("j") / "x.wal"
    path.write_bytes((b"", b"SIPDJNL1", b"SIPDJNL1saltsalt", b"SIPDJNL1saltsalt\xf5SJ1saltsalt")[head] + data)
    for found in frames(path):
        assert isinstance(found, Damage)
        assert 0 <= found.offset < found.end <= path.stat().st_size


@examples(100)
@given(st.lists(st.lists(st.tuples(st.binary(max_size=200), st.integers(1, 5)), min_size=1, max_size=8), max_size=5))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, drawn: list[list[tuple[bytes, int]]]) -> None:
    batches = [[record(buf, src_port=port, tag="pröf☎") for buf, port in batch] for batch in drawn]
    if batches:
        path = write(tmp_path_factory.mktemp("j"), *batches)
        assert records(path) == [r for batch in batches for r in batch]


def forge(path: Path, count: int, length: int, payload: bytes = b"", kind: int = journal.RECORDS) -> None:
    """Append a frame whose head claims what it likes; its sums are right."""
    data = path.read_bytes()
    head = journal._HEAD.pack(journal._MARK, data[8:16], kind, count, length, zlib.crc32(payload), 0)[:-4]
    path.write_bytes(data + head + journal._SUM.pack(zlib.crc32(head)) + payload)


@pytest.mark.parametrize("length", [1 << 20, 1 << 27, (1 << 27) + 1, (1 << 32) - 1])
@pytest.mark.parametrize("hole", [False, True])
def test_what_a_frame_claims_takes_no_memory(tmp_path: Path, length: int, *, hole: bool) -> None:
    path = write(tmp_path, *BATCHES[:1])
    forge(path, 1 << 31, length)
    if hole:
        os.truncate(path, 1 << 40)
    tracemalloc.start()
    assert records(path) == BATCHES[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * journal.FRAME_LIMIT if hole and length <= journal.FRAME_LIMIT else peak < 8 << 20


@pytest.mark.parametrize(
    ("count", "payload"),
    [
        (1 << 31, struct.pack("<I", 0)),
        (8, struct.pack("<I", 1 << 22) + b"\n" * (1 << 22) + bytes(8 * 16)),
        (8, struct.pack("<I", (1 << 32) - 1) + bytes(8 * 16)),
        (1, struct.pack("<I", 2) + b"x\n" + bytes(16) + b"[" * 100_000),
        (1, struct.pack("<I", 2) + b"x\n" + bytes(16) + b"[" + b"0," * (1 << 24) + b"0]"),
    ],
)
def test_a_payload_that_does_not_hold_what_it_claims(tmp_path: Path, count: int, payload: bytes) -> None:
    path = write(tmp_path, *BATCHES[:1])
    forge(path, count, len(payload), payload)
    (_, forged) = frames(path)
    assert isinstance(forged, Frame)
    journal.parse_flow.cache_clear()
    tracemalloc.start()
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        forged.columns()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20 or peak < 3 * len(payload)


def test_correlation_ids_longer_than_any_that_are_written_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_IDS_LIMIT", 100)
    path = write(tmp_path, [record(b"1", correlation_id="c" * 90)])
    (frame,) = frames(path)
    assert isinstance(frame, Frame)
    assert [one.correlation_id for one in frame.columns().records()] == ["c" * 90]
    monkeypatch.setattr(journal, "_IDS_LIMIT", 80)
    with pytest.raises(ValueError, match="too long"):
        frame.columns()


def test_a_file_of_marks_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT.name
    path.write_bytes(b"x" * 16 + b"".join(journal._MARK + os.urandom(8) for _ in range(1 << 20)))
    tracemalloc.start()
    assert records(path) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_long_correlation_ids_are_divided_too(tmp_path: Path) -> None:
    batch = [record(b"m%d" % n, correlation_id="☎" * 50_000) for n in range(200)]
    path = write(tmp_path, batch)
    assert len(frames(path)) > 1
    assert records(path) == batch


def test_a_message_that_no_frame_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FRAME_LIMIT", 10_000)
    log = Journal(Site(str(tmp_path), "t-"))
    log.open(SEGMENT)
    log.write([record(b"1")])
    with pytest.raises(RecordError, match="too long to be stored") as caught:
        log.write([record(b"a"), record(b"x" * 20_000)])
    assert caught.value.refused == (1,)
    log.write([record(b"2")])
    log.close()
    assert [one.buf for one in records(Path(log.path))] == [b"1", b"2"]

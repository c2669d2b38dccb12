"""Compaction: small files of one hour become one, and no record is lost or doubled by a crash."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from sipdump_core.admin import command as admin
from sipdump_core.drivers.capabilities import Compacted
from sipdump_core.errors import SegmentExistsError, StorageError
from sipdump_core.lifecycle.retention import prune
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet.options import COLUMNS, FIRST_COLUMNS
from sipdump_parquet.sort import Sorter
from tests.backends.parquet.support import SEGMENT, calls, leave, make, read, sealed, write
from tests.forks import script
from tests.support import OPTIONS, record

HOUR = "date=2026-11-22/hour=23"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def at(minute: int, hour: int = 23) -> Segment:
    return Segment("t-", f"2026-11-22--{hour:02}-{minute:02}-00", 0, ".parquet")


def store(folder: Path, count: int = 3, hour: int = 23, modified: float = 1_000_000.0, **options: Any) -> list[Record]:
    """Write segments of one minute each, of calls that go through all of them."""
    batch = calls(20, each=count)
    size = len(batch) // count
    for number in range(count):
        path = write(folder, batch[number * size : (number + 1) * size], segment=at(number, hour), **options)
        os.utime(path, (modified + number, modified + number))
    return batch


def compact(folder: Path, **arguments: Any) -> list[Compacted]:
    return list(make(folder).compact(**{"min_age": 0, **arguments}))


def test_small_files_become_one(tmp_path: Path) -> None:
    batch = store(tmp_path)
    (done,) = compact(tmp_path)
    assert done.error is None
    assert (done.backend, done.partition, done.records) == ("parquet", HOUR, len(batch))
    assert [stored.segment for stored in done.sources] == [at(0), at(1), at(2)]
    assert done.size_before == sum(stored.size for stored in done.sources)
    assert done.size_after == os.stat(done.location).st_size
    assert done.location == str(tmp_path / at(2).next().name)
    assert os.listdir(tmp_path) == [at(2).next().name]
    assert read(tmp_path, at(2).next()) == batch, "in the order of their arrival"
    (stored,) = make(tmp_path).segments()
    assert stored.modified == 1_000_002.0, "retention counts from the last write of the last one"
    assert stored.records in (len(batch), None)
    rows = pq.read_table(done.location, columns=["call_id", "time", "seq"]).to_pylist()
    assert rows == sorted(rows, key=lambda row: (row["call_id"], row["time"], row["seq"]))
    assert sorted(row["seq"] for row in rows) == list(range(len(batch)))
    pairs = pq.read_metadata(done.location).metadata
    assert [source["name"] for source in json.loads(pairs[b"sipdump.merged"])] == [at(n).name for n in range(3)]
    assert pairs[b"sipdump.meta"].decode() == "v: 1.0\nmeta ☎\n"
    assert compact(tmp_path) == []
    with duckdb.connect() as db:
        assert db.execute(f"SELECT count(DISTINCT seq) FROM '{tmp_path}/*.parquet'").fetchall() == [(len(batch),)]


def test_little_memory_gives_the_same(tmp_path: Path) -> None:
    little = {"memory": 1 << 16, "row_group_records": 13}
    for name, options in (("a", {}), ("b", little)):
        (tmp_path / name).mkdir()
        store(tmp_path / name, **options)
    (large,) = make(tmp_path / "a").compact()
    (small,) = make(tmp_path / "b", **little).compact()
    assert pq.read_table(small.location).equals(pq.read_table(large.location))


def test_what_is_young_or_large_or_alone_is_left(tmp_path: Path) -> None:
    store(tmp_path, 3, modified=1_000_000.0)
    assert compact(tmp_path, now=1_000_002.0, min_age=10) == []
    assert len(compact(tmp_path, now=1_000_011.5, min_age=10, dry_run=True)[0].sources) == 2
    assert compact(tmp_path, now=1_000_010.5, min_age=10) == [], "one alone is not worth it"
    assert compact(tmp_path, target_size=100) == []
    size = os.stat(tmp_path / at(0).name).st_size
    assert compact(tmp_path, target_size=int(size * 1.5)) == [], "no two fit together"
    (done,) = compact(tmp_path, target_size=int(size * 2.5))
    assert len(done.sources) == 2
    assert len(sealed(tmp_path)) == 2


def test_the_least_age_is_twice_the_rotate(tmp_path: Path) -> None:
    store(tmp_path, 2, modified=1_000_000.0)
    rotate = make(tmp_path).site.rotate
    assert not list(make(tmp_path).compact(now=1_000_000.0 + 2 * rotate))
    assert len(list(make(tmp_path).compact(now=1_000_001.0 + 2 * rotate))) == 1


def test_hours_are_kept_apart_and_counted_in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")  # 5:30 before UTC: 23:00 to 23:29 there is 17:30 to 17:59
    time.tzset()
    for minute in (0, 29, 30, 59):
        write(tmp_path, [record(b"%d" % minute)], segment=at(minute))
    found = compact(tmp_path, dry_run=True)
    assert [(done.partition, [s.segment for s in done.sources]) for done in found] == [
        ("date=2026-11-22/hour=17", [at(0), at(29)]),
        ("date=2026-11-22/hour=18", [at(30), at(59)]),
    ]
    assert len(compact(tmp_path, dry_run=True, partition="date=2026-11-22")) == 2
    assert len(compact(tmp_path, dry_run=True, partition="date=2026-11-22/hour=18/")) == 1
    assert compact(tmp_path, dry_run=True, partition="date=2026-11-22/hour=1") == []


def test_a_dry_run_does_nothing(tmp_path: Path) -> None:
    store(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (done,) = compact(tmp_path, dry_run=True)
    assert (done.location, done.size_after, done.error) == ("", 0, None)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_of_other_columns_are_not_mixed(tmp_path: Path) -> None:
    for minute, columns in enumerate(("", "seq,time,buf", "", "seq,time,buf")):
        write(tmp_path, [record(b"%d" % minute)], segment=at(minute), columns=columns)
    found = compact(tmp_path)
    assert sorted([stored.segment for stored in done.sources] for done in found) == [[at(0), at(2)], [at(1), at(3)]]
    assert [one.buf for one in read(tmp_path, at(3).next())] == [b"1", b"3"]
    with pytest.raises(StorageError, match="its columns are not those"):
        make(tmp_path).merge([str(tmp_path / at(n).next().name) for n in (2, 3)], str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


FIRST = ",".join(FIRST_COLUMNS)
"""The columns of a file of schema version 1."""


def test_files_of_both_schema_versions_are_merged(tmp_path: Path) -> None:
    """What a file of version 1 lacks is pulled out of its messages."""
    batch = calls(20, each=3)
    for minute, columns in enumerate((FIRST, "", FIRST)):
        write(tmp_path, batch[20 * minute : 20 * (minute + 1)], segment=at(minute), columns=columns)
    versions = [pq.read_metadata(tmp_path / at(n).name).metadata[b"sipdump.schema"] for n in range(3)]
    assert versions == [b"1", b"2", b"1"]
    (done,) = compact(tmp_path)
    assert (done.error, done.records) == (None, 60)
    assert pq.read_metadata(done.location).metadata[b"sipdump.schema"] == b"2"
    assert pq.read_schema(done.location).names == list(COLUMNS)
    found = pq.read_table(done.location, columns=["via_branch", "from_tag", "to_tag", "request_uri_user"])
    assert set(map(tuple, (row.values() for row in found.to_pylist()))) == {("z9hG4bK1", "1", None, "bob")}
    assert read(tmp_path, at(2).next()) == batch


def test_files_of_version_1_alone_stay_as_they_are(tmp_path: Path) -> None:
    store(tmp_path, columns=FIRST)
    (done,) = compact(tmp_path)
    assert pq.read_metadata(done.location).metadata[b"sipdump.schema"] == b"1"
    assert pq.read_schema(done.location).names == list(FIRST_COLUMNS)


def test_without_messages_what_a_file_lacks_is_null(tmp_path: Path) -> None:
    write(tmp_path, [record()], segment=at(0), columns="seq,time,call_id")
    write(tmp_path, [record()], segment=at(1), columns="seq,time,call_id,via_branch")
    (done,) = compact(tmp_path)
    assert pq.read_table(done.location)["via_branch"].to_pylist() == [None, "z9hG4bK1"]


def test_columns_of_ones_own_are_merged(tmp_path: Path) -> None:
    buf = OPTIONS.replace(b"\r\n\r\n", b"\r\nX-One: 1\r\nX-Two: 2\r\nX-Id: 3\r\n\r\n", 1)
    write(tmp_path, [record(buf)], segment=at(0), header=("X-One",))
    write(tmp_path, [record(buf)], segment=at(1), header=("X-Two",), correlate=("X-Id",))
    write(tmp_path, [record(buf)], segment=at(2), columns=FIRST)
    (done,) = compact(tmp_path)
    rows = pq.read_table(done.location, columns=["x_one", "x_two", "correlation"]).to_pylist()
    assert [(row["x_one"], row["x_two"]) for row in rows] == [("1", "2")] * 3
    assert [row["correlation"] for row in rows] == [None, ["3"], ["3"]], "what a file has stays as it is"


def counting_up(first: int, count: int) -> list[Record]:
    """Calls as sipp makes them: Call-ID, tag and branch have the call's number, and times grow with it."""
    made = []
    for number in range(first, first + count):
        for step, line in enumerate((b"INVITE sip:s@h SIP/2.0", b"SIP/2.0 200 OK", b"BYE sip:s@h SIP/2.0")):
            buf = (
                b"%b\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK-4711-%d-%d\r\nFrom: <sip:u@h>;tag=4711T%d\r\n"
                b"To: <sip:s@h>\r\nCall-ID: %d-4711@h\r\nCSeq: %d INVITE\r\nContent-Length: 0\r\n\r\n"
            ) % (line, number, step, number, number, step)
            made.append(record(buf, time_us=1_795_386_431_000_000 + 20_000 * number + 50_000 * step + number % 7))
    return made


def test_nothing_becomes_larger(tmp_path: Path) -> None:
    """Sorted together, calls of different times alternate, and are further from those that they are like."""
    parts = [counting_up(1, 5000), counting_up(5001, 5000)]
    for minute, part in enumerate(parts):
        write(tmp_path, part, segment=at(minute))
    (done,) = compact(tmp_path)
    assert done.size_after <= done.size_before
    assert read(tmp_path, at(1).next()) == parts[0] + parts[1]
    with pq.ParquetFile(done.location) as file:
        assert file.num_row_groups == 2
        for group, part in enumerate(parts):
            rows = file.read_row_group(group, columns=["call_id", "time", "seq"]).to_pylist()
            assert rows == sorted(rows, key=lambda row: (row["call_id"], row["time"], row["seq"]))
            assert len(rows) == len(part)
            assert file.metadata.row_group(group).column(COLUMNS.index("call_id")).bloom_filter_offset
    assert compact(tmp_path) == []


def test_what_would_become_larger_all_the_same_is_left(tmp_path: Path) -> None:
    store(tmp_path, 2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert list(make(tmp_path, compression="none", row_group_records=1).compact(min_age=0)) == []
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_open_segment_and_what_waits_are_left(tmp_path: Path) -> None:
    batch = store(tmp_path)
    leave(tmp_path, [record(b"waits")], segment=at(4))
    leave(tmp_path, [record(b"crashed")], segment=at(1).next())
    (tmp_path / at(1).next().name).write_bytes((tmp_path / at(1).name).read_bytes())  # sealed, by its looks
    (done,) = compact(tmp_path)
    assert (done.records, len(done.sources)) == (len(batch), 3)
    assert (tmp_path / at(1).next().name).exists()


def test_a_broken_file_spoils_no_others(tmp_path: Path) -> None:
    batch = store(tmp_path)
    (tmp_path / at(5).name).write_bytes(b"PAR1 not really PAR1")
    broken, done = compact(tmp_path)
    assert at(5).name in str(broken.error)
    assert done.error is None
    assert done.records == len(batch)
    assert (tmp_path / at(5).name).exists()


def test_a_damaged_page_is_left_and_spoils_no_others(tmp_path: Path) -> None:
    batch = store(tmp_path)
    path = tmp_path / at(1).name
    data = bytearray(path.read_bytes())
    at_buf = pq.read_metadata(path).row_group(0).column(len(COLUMNS) - 1).data_page_offset
    data[at_buf + 60] ^= 0xFF
    path.write_bytes(data)
    broken, done = compact(tmp_path)
    assert (broken.location, [stored.location for stored in broken.sources]) == ("", [str(path)])
    assert str(path) in str(broken.error)
    assert done.error is None
    assert done.records is not None
    assert 0 < done.records < len(batch)
    assert path.read_bytes() == data
    assert {file.name for file in tmp_path.glob("*.parquet")} == {path.name, Path(done.location).name}
    (done,) = compact(tmp_path)
    assert str(path) in str(done.error), "with one other there is nothing to merge"
    assert path.read_bytes() == data


def test_what_a_crash_left_is_deleted_and_not_merged_again(tmp_path: Path) -> None:
    batch = store(tmp_path)
    originals = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (done,) = compact(tmp_path)
    for path, content in list(originals.items())[:2]:
        path.write_bytes(content)  # as if the crash had come before its deletion
    (tmp_path / ".t-2026-11-22--23-31-00.parquet.merge").write_bytes(b"half")
    assert compact(tmp_path) == []
    assert os.listdir(tmp_path) == [os.path.basename(done.location)]
    write(tmp_path, [record(b"new, of an old name")], segment=at(0))
    (done,) = compact(tmp_path)
    assert done.records == len(batch) + 1, "only what has the same content is taken for a source"


def test_a_source_in_use_is_deleted_the_next_time(tmp_path: Path) -> None:
    batch = store(tmp_path)
    with (tmp_path / at(1).name).open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        (done,) = compact(tmp_path)
        assert done.location
        assert "in use" in str(done.error)
        assert sealed(tmp_path) == [at(1).name, at(2).next().name]
        (again,) = compact(tmp_path)
        assert "in use" in str(again.error)
        assert not again.location, "the merged file waits too, or the source would be merged twice"
        assert len(sealed(tmp_path)) == 2
    assert compact(tmp_path) == []
    assert sealed(tmp_path) == [at(2).next().name]
    assert read(tmp_path, at(2).next()) == batch


def test_a_merged_file_is_as_young_as_its_youngest_source_whichever_that_is(tmp_path: Path) -> None:
    store(tmp_path)
    os.utime(tmp_path / at(0).name, (2_000_000, 2_000_000))
    (done,) = compact(tmp_path)
    assert os.stat(done.location).st_mtime == 2_000_000


def test_drafts_of_others_stay(tmp_path: Path) -> None:
    """Those of this prefix are what a crash left; another daemon may be at work on those of its own."""
    store(tmp_path)
    ours, others = (tmp_path / f".{prefix}2026-11-22--23-09-00.parquet.merge" for prefix in ("t-", "u-"))
    for path in (ours, others):
        path.touch()
    compact(tmp_path)
    assert not ours.exists()
    assert others.exists()


def test_two_compactions_do_not_meet(tmp_path: Path) -> None:
    store(tmp_path)
    one = make(tmp_path).compact(dry_run=True)
    next(one)
    with pytest.raises(StorageError, match="another compaction"):
        compact(tmp_path)
    one.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(compact(tmp_path)) == 1


# Compacts, and ends at a call of a function of os that is named.
_STEP = """
import os, sys
from sipdump_core.drivers.base import Site
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions

folder, step, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
real, count = getattr(os, step), 0

def ending(*args, **kwargs):
    global count
    count += 1
    result = real(*args, **kwargs)
    if count == number:
        os._exit(9)
    return result

setattr(os, step, ending)
list(ParquetBackend(ParquetOptions(), Site(folder, "t-")).compact())
"""


@pytest.mark.parametrize(
    ("step", "number"),
    [("fchmod", 1), ("fsync", 1), ("link", 1), ("unlink", 1), ("fsync", 2), ("unlink", 2), ("unlink", 4)],
)
def test_a_crash_at_each_step(tmp_path: Path, step: str, number: int) -> None:
    batch = store(tmp_path)
    with script(_STEP, str(tmp_path), step, str(number)) as (child, _):
        child.join()
        assert child.exitcode == 9
    bufs = {one.buf for stored in make(tmp_path).segments() for one in make(tmp_path).read(stored)}
    assert bufs == {one.buf for one in batch}, "all are there at any moment"
    assert all(done.error is None for done in compact(tmp_path))
    assert os.listdir(tmp_path) == [at(2).next().name]
    assert read(tmp_path, at(2).next()) == batch


def test_a_full_disk_leaves_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path)
    before = set(tmp_path.iterdir())

    def full(self: Sorter) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sorter, "sorted", full)
    (done,) = compact(tmp_path)
    assert "No space left" in str(done.error)
    assert set(tmp_path.iterdir()) == before


def test_a_taken_target_is_refused(tmp_path: Path) -> None:
    store(tmp_path)
    paths = [str(tmp_path / at(n).name) for n in range(3)]
    with pytest.raises(SegmentExistsError):
        make(tmp_path).merge(paths, paths[0])
    assert make(tmp_path).merge(paths, str(tmp_path / "target")) == 60


def test_what_was_merged_is_pruned_with_its_youngest(tmp_path: Path) -> None:
    store(tmp_path, modified=1_000_000.0)
    (tmp_path / f"{at(0).stem}.meta").write_text("table")
    compact(tmp_path)
    assert not (tmp_path / f"{at(0).stem}.meta").exists(), "it stood beside the source alone"
    assert not list(prune([make(tmp_path)], 100, now=1_000_102.0))
    assert len(list(prune([make(tmp_path)], 100, now=1_000_103.0))) == 1


def test_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--folder", str(tmp_path), "--fprefix", "t-"]
    assert admin.main(["compact", *where]) == 0
    assert capsys.readouterr().out == "nothing to compact\n"
    store(tmp_path)
    assert admin.main(["compact", "--dry-run", "--partition", HOUR, *where]) == 0
    assert capsys.readouterr().out.startswith(f"would compact {HOUR}: 3 segments, ")
    assert admin.main(["compact", "--min-age", "1", "--target-size", "100000000", "--json", *where]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["location"] == str(tmp_path / at(2).next().name)
    assert (row["records"], row["error"]) == (60, None)
    write(tmp_path, [record()], segment=SEGMENT.next())
    (tmp_path / at(7).name).write_bytes(b"broken")
    assert admin.main(["compact", "--min-age", "0", *where]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith(f"compacted {HOUR}: 2 segments, ")
    assert at(7).name in err

"""The Parquet backend: what a file holds, its options, and what happens between a close and the file."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipdump_core.admin import command as admin
from sipdump_core.drivers.base import Site
from sipdump_core.errors import ConfigError, SegmentExistsError, StorageError, StorageFullError
from sipdump_core.pipeline import journal
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.options import Setting, build
from sipdump_core.testing import Contract
from sipdump_parquet import COLUMNS, WAL_SUFFIX, ParquetBackend, ParquetOptions, sealer
from sipdump_parquet.table import TYPES, Builder
from tests.support import OPTIONS, record, wait_for

STAMP = "2026-11-22--23-31-00"
SEGMENT = Segment("t-", STAMP, 0, ".parquet")
SMALL = 1 << 16
"""The least memory that can be set."""


class TestContract(Contract):
    backend_class = ParquetBackend


def make(folder: Path, **options: Any) -> ParquetBackend:
    return ParquetBackend(ParquetOptions(**options), Site(str(folder), "t-", 0o640, lambda: "v: 1.0\nmeta ☎\n"))


def write(folder: Path, *batches: Sequence[Record], segment: Segment = SEGMENT, **options: Any) -> Path:
    """Write a segment and seal it; give the path of its file."""
    backend = make(folder, **options)
    backend.start()
    backend.open(segment)
    for batch in batches:
        backend.write(batch)
    backend.close()
    backend.stop()
    return folder / segment.name


def leave(folder: Path, *batches: Sequence[Record], segment: Segment = SEGMENT) -> Path:
    """Write a segment as a process does that is killed then; give the path of its write-ahead file."""
    backend = make(folder)
    backend.open(segment)
    for batch in batches:
        backend.write(batch)
    backend.forget()
    return folder / (segment.stem + WAL_SUFFIX)


def read(folder: Path, segment: Segment = SEGMENT, **options: Any) -> list[Record]:
    backend = make(folder, **options)
    (stored,) = [stored for stored in backend.segments() if stored.segment == segment]
    return list(backend.read(stored))


def sealed(folder: Path) -> list[str]:
    return [stored.segment.name for stored in make(folder).segments() if stored.sealed]


def calls(count: int, each: int = 6, size: int = 0) -> list[Record]:
    """Records of calls that overlap, in the order of their arrival."""
    made = []
    for number in range(count * each):
        call, step = number * 7 % count, number // count
        buf = OPTIONS.replace(b"c1@", b"call%d@" % call).replace(b"CSeq: 1 ", b"CSeq: %d " % step)
        made.append(record(buf + b"x" * size, time_us=1_795_386_431_000_000 + 1000 * number, src_port=5000 + call % 5))
    return made


# --- what a file holds


def test_the_schema(tmp_path: Path) -> None:
    path = write(tmp_path, [record()])
    schema = pq.read_schema(path)
    assert tuple(schema.names) == COLUMNS == tuple(TYPES)
    assert schema.field("time").type == pa.timestamp("us", "UTC")
    for name in ("tag", "proto", "af", "node"):
        assert schema.field(name).type == pa.dictionary(pa.int32(), pa.string())
    assert not any(pa.types.is_uint64(kind) for kind in schema.types)
    pairs = pq.read_metadata(path).metadata
    assert pairs[b"sipdump.schema"] == b"1"
    assert pairs[b"sipdump.version"]
    assert pairs[b"sipdump.meta"].decode() == "v: 1.0\nmeta ☎\n"


def test_a_row(tmp_path: Path) -> None:
    one = record(src_ip="2001:db8::1", dst_ip="::1", af="ipv6", proto="wss", tag="snd", node="edge-1")
    (row,) = pq.read_table(write(tmp_path, [one])).to_pylist()
    assert row.pop("time").timestamp() == 1_795_386_431.765284
    assert row == {
        "seq": 0, "tag": "snd", "pid": 2738, "procno": 2, "proto": "wss", "af": "ipv6", "src_ip": "2001:db8::1",
        "src_port": 5999, "dst_ip": "::1", "dst_port": 5070, "node": "edge-1", "call_id": "c1@192.0.2.1",
        "method": "OPTIONS", "status": None, "cseq": 1, "cseq_method": "OPTIONS", "from_user": "a", "to_user": "b",
        "user_agent": None, "buf": OPTIONS,
    }  # fmt: skip


def test_it_is_made_for_search(tmp_path: Path) -> None:
    path = write(tmp_path, calls(50), row_group_records=100)
    with pq.ParquetFile(path) as file:
        assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [100, 100, 100]
        for number in range(3):
            group = file.metadata.row_group(number)
            columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
            assert [key.column_index for key in group.sorting_columns] == [
                COLUMNS.index(k) for k in ("call_id", "time", "seq")
            ]
            assert columns["call_id"].statistics.has_min_max
            assert columns["call_id"].bloom_filter_offset
            assert not columns["tag"].bloom_filter_offset
            assert columns["time"].has_column_index
            assert columns["time"].has_offset_index
            assert columns["buf"].statistics is None
            assert {column.compression for column in columns.values()} == {"ZSTD"}
            assert "DELTA_BINARY_PACKED" in columns["time"].encodings
            assert "RLE_DICTIONARY" in columns["tag"].encodings
    rows = pq.read_table(path, columns=["call_id", "time", "seq"]).to_pylist()
    assert rows == sorted(rows, key=lambda row: (row["call_id"], row["time"], row["seq"]))
    assert sorted(row["seq"] for row in rows) == list(range(300))


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_duckdb_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    path = write(tmp_path, calls(50))
    with duckdb.connect() as db:
        types = dict(db.execute(f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM '{path}')").fetchall())
        assert types["time"] == "TIMESTAMP WITH TIME ZONE"
        assert (types["seq"], types["pid"], types["src_port"], types["status"]) == (
            "BIGINT",
            "INTEGER",
            "INTEGER",
            "INTEGER",
        )
        assert (types["tag"], types["call_id"], types["buf"]) == ("VARCHAR", "VARCHAR", "BLOB")
        totals = db.execute(f"SELECT count(*), min(epoch_us(time)) FROM '{path}'").fetchall()
        assert totals == [(300, 1_795_386_431_000_000)]
        found = db.execute(f"SELECT cseq, buf FROM '{path}' WHERE call_id = 'call7@192.0.2.1' ORDER BY time").fetchall()
    assert [cseq for cseq, _ in found] == [0, 1, 2, 3, 4, 5]
    assert all(b"call7@" in buf for _, buf in found)


def test_the_files_own_properties(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        wal = leave(tmp_path, [record(), record()])
    finally:
        os.umask(old)
    os.utime(wal, (1_700_000_000, 1_700_000_000))
    assert [done.records for done in make(tmp_path).recover()] == [2]
    (stored,) = make(tmp_path).segments()
    assert stored.modified == 1_700_000_000, "retention counts from the last write"
    assert os.stat(stored.location).st_mode & 0o777 == 0o640
    assert stored.records in (2, None)
    assert os.listdir(tmp_path) == [SEGMENT.name]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=200),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(-(2**40), 2**40),
            st.text("aé☎ ", max_size=4),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, drawn: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("r")
    batch = [record(buf, time_us=time_us, pid=pid, tag=tag, node=tag) for buf, time_us, pid, tag in drawn]
    write(folder, batch)
    for one, back in zip(batch, read(folder), strict=True):
        fits = -(2**31) <= one.pid < 2**31
        assert back == record(one.buf, time_us=one.time_us, pid=one.pid if fits else 0, tag=one.tag, node=one.node)


# --- memory


def test_little_memory_gives_the_same_file(tmp_path: Path) -> None:
    batch = calls(200, size=700)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    large = write(tmp_path / "a", batch)
    small = write(tmp_path / "b", *(batch[at : at + 50] for at in range(0, len(batch), 50)), memory=SMALL)
    assert pq.read_table(small).equals(pq.read_table(large))
    assert pq.read_metadata(small).num_row_groups > pq.read_metadata(large).num_row_groups == 1
    assert read(tmp_path / "b", memory=SMALL) == batch


def test_an_open_segment_is_taken_bit_by_bit(tmp_path: Path) -> None:
    """The reader goes no further than it is told; what it takes early and what it takes at last make one file."""
    batch = calls(40, size=500)
    backend = make(tmp_path, memory=SMALL)
    backend.open(SEGMENT)
    conversion = None
    for at in range(0, len(batch), 10):
        backend.write(batch[at : at + 10])
        conversion = conversion or sealer.Conversion(
            str(tmp_path / (SEGMENT.stem + WAL_SUFFIX)), backend.opts, str(tmp_path)
        )
        size = os.stat(conversion.path).st_size
        conversion.take(size - 1)
        assert conversion.sorter.rows == at, "the last frame goes over the limit"
        conversion.take(size)
        assert conversion.sorter.rows == at + 10
    backend.close()
    assert conversion
    done = sealer.seal(SEGMENT, backend.opts, backend.site, conversion)
    assert done
    assert done.records == len(batch)
    assert read(tmp_path) == batch


def test_the_background_takes_what_has_gathered(tmp_path: Path) -> None:
    batch = calls(300, size=700)
    backend = make(tmp_path, memory=SMALL)
    backend.start()
    backend.open(SEGMENT)
    before = temporary_files()
    for at in range(0, len(batch), 100):
        backend.write(batch[at : at + 100])
    wait_for(lambda: temporary_files() > before)
    backend.close()
    backend.stop()
    assert temporary_files() == before
    assert read(tmp_path) == batch


def temporary_files() -> int:
    """How many open files of this process have no name."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += "(deleted)" in os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    return count


def test_without_memory_for_early_runs_all_is_done_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = []

    def no_space(*args: Any, **kwargs: Any) -> Any:
        failed.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    batch = calls(100, size=700)
    backend = make(tmp_path, memory=SMALL)
    backend.start()
    backend.open(SEGMENT)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", no_space)
        backend.write(batch[:300])
        wait_for(lambda: failed)
        backend.write(batch[300:])
    backend.close()
    backend.stop()
    assert read(tmp_path) == batch
    assert sealed(tmp_path) == [SEGMENT.name]


# --- options


def test_columns(tmp_path: Path) -> None:
    columns = "time, seq,call_id , buf"
    path = write(tmp_path, calls(3), columns=columns)
    assert pq.read_schema(path).names == ["seq", "time", "call_id", "buf"]
    back = read(tmp_path)
    assert [one.buf for one in back] == [one.buf for one in calls(3)]
    assert {(one.src_ip, one.proto, one.pid) for one in back} == {("0.0.0.0", "none", 0)}


def test_without_buf_no_record_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path, calls(3), columns="seq,time,from_user")
    assert pq.read_table(path).num_rows == 18
    with pytest.raises(StorageError, match="has no column buf"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"columns": "seq,time,nosuch"}, "no column 'nosuch'; there are: seq, time, tag"),
        ({"columns": "seq,buf"}, "time must be among them"),
        ({"columns": ","}, "no column ''"),
        ({"compression": "gzip", "level": 12}, "must be 1 to 9 with gzip"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make(tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("compression", "brotli"), ("level", 23), ("memory", 1000), ("sync", -1), ("row_group_records", 0)],
)
def test_values_out_of_range(name: str, value: int | str) -> None:
    with pytest.raises(ConfigError, match=name):
        build(ParquetOptions, [Setting("sipdump_parquet", name, value)])


@pytest.mark.parametrize("compression", ["zstd", "gzip", "snappy", "lz4", "none"])
def test_compression(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path, calls(3), compression=compression)
    stands = {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert pq.read_metadata(path).row_group(0).column(0).compression == stands
    assert read(tmp_path) == calls(3)


# --- names


def test_a_write_ahead_file_takes_the_name_too(tmp_path: Path) -> None:
    leave(tmp_path, [record()])
    backend = make(tmp_path)
    with pytest.raises(SegmentExistsError):
        backend.open(SEGMENT)
    (tmp_path / SEGMENT.next().name).write_bytes(b"x")
    with pytest.raises(SegmentExistsError):
        backend.open(SEGMENT.next())
    assert sorted(os.listdir(tmp_path)) == sorted([SEGMENT.stem + WAL_SUFFIX, SEGMENT.next().name])


def test_what_appears_under_the_name_is_left_alone(tmp_path: Path) -> None:
    wal = leave(tmp_path, [record()])
    (tmp_path / SEGMENT.name).write_bytes(b"somebody's")
    other = make(tmp_path)
    other.open(SEGMENT.next())  # whose file is to come
    other.write([record(b"other")])
    (done,) = [done for done in make(tmp_path).recover() if not done.in_use]
    assert done.source == str(wal)
    assert done.location == str(tmp_path / f"t-{STAMP}-2.parquet")
    assert (tmp_path / SEGMENT.name).read_bytes() == b"somebody's"
    other.close()
    assert read(tmp_path, SEGMENT.next()) == [record(b"other")]
    assert read(tmp_path, SEGMENT.next().next()) == [record()]


def test_what_is_not_sealed_is_not_deleted(tmp_path: Path) -> None:
    leave(tmp_path, [record()])
    backend = make(tmp_path)
    (stored,) = backend.segments()
    assert not stored.sealed
    with pytest.raises(StorageError, match="not sealed yet"):
        backend.delete(stored)
    assert read(tmp_path) == [record()]


def test_odd_things_under_its_names_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / (SEGMENT.stem + WAL_SUFFIX)).mkdir()
    (tmp_path / (SEGMENT.next().stem + WAL_SUFFIX)).symlink_to("/dev/null")
    (tmp_path / f"other-{STAMP}{WAL_SUFFIX}").write_bytes(b"x")
    assert not list(make(tmp_path).segments())
    assert not list(make(tmp_path).recover())
    assert len(os.listdir(tmp_path)) == 3


# --- the background


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer, "_BACKOFF", (0.01, 0.05))


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_sealed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(tmp_path)
    backend.start()
    backend.open(SEGMENT)
    backend.write([record()])

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        backend.close()
        health = wait_for(backend.health)
        assert health.startswith("1 segments cannot be sealed: publish ")
        assert "No space left" in health
        assert read(tmp_path) == [record()]
    wait_for(lambda: sealed(tmp_path) == [SEGMENT.name])
    wait_for(lambda: not backend.health())
    backend.stop()
    assert os.listdir(tmp_path) == [SEGMENT.name]


def test_many_small_batches_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little traffic each batch is a record, and a table costs much however little it holds."""
    rows: list[int] = []
    real = Builder.table

    def count(self: Builder, columns: journal.Columns, first: int) -> Any:
        rows.append(len(columns.times))
        return real(self, columns, first)

    monkeypatch.setattr(Builder, "table", count)
    batch = [record(b"%d" % n, src_port=n % 7 + 1, time_us=n) for n in range(9000)]
    backend = make(tmp_path)
    backend.start()
    backend.open(SEGMENT)
    for one in batch:
        backend.write([one])
    backend.close()
    backend.stop()
    assert read(tmp_path) == batch
    assert sum(rows) == 9000
    assert len(rows) == 3


def test_the_time_of_a_file_is_that_of_its_last_record(tmp_path: Path) -> None:
    tables = iter(["v: 1\n", "v: 2\n"])
    backend = ParquetBackend(ParquetOptions(), Site(str(tmp_path), SEGMENT.prefix, meta=lambda: next(tables)))
    backend.start()
    backend.open(SEGMENT)
    backend.write([record()])
    wal = tmp_path / (SEGMENT.stem + WAL_SUFFIX)
    os.utime(wal, (1_000_000_000, 1_000_000_000))
    backend.close()
    backend.stop()
    (stored,) = backend.segments()
    assert stored.modified == 1_000_000_000
    assert pq.read_metadata(stored.location).metadata[b"sipdump.meta"] == b"v: 2\n"


@pytest.mark.usefixtures("quick")
def test_what_no_try_can_seal_is_kept_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours, which comes again each time, must hold up nothing else."""
    real = Builder.table

    def fault(self: Builder, columns: journal.Columns, first: int) -> Any:
        if b"poison" in columns.payload:
            raise RuntimeError("a bug")
        return real(self, columns, first)

    monkeypatch.setattr(Builder, "table", fault)
    backend = make(tmp_path)
    backend.start()
    aside = tmp_path / f"{SEGMENT.stem}{WAL_SUFFIX}.damaged"
    aside.write_bytes(b"of an earlier time")
    for segment, buf in ((SEGMENT, b"poison"), (SEGMENT.next(), b"good")):
        backend.open(segment)
        backend.write([record(buf)])
        backend.close()
    kept = Path(f"{aside}-1")
    wait_for(lambda: kept.exists() and not backend.health())
    backend.stop()
    assert sealed(tmp_path) == [SEGMENT.next().name]
    assert aside.read_bytes() == b"of an earlier time"
    with kept.open("rb") as file:
        assert [one.buf for one in journal.Journal(backend.site).decode(file)] == [b"poison"]
    assert not list(make(tmp_path).recover()), "it is not taken up again"


def test_a_disk_that_cannot_sync_ends_the_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def fdatasync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    backend = make(tmp_path, sync=1)
    backend.start()
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    wait_for(lambda: synced)

    wait_for(lambda: backend._syncer and backend._syncer._error)  # it is set a moment after
    count = len(synced)
    with pytest.raises(StorageError, match="I/O error"):
        backend.write([record(b"second")])
    backend.close()
    backend.open(SEGMENT.next())
    backend.write([record(b"third")])  # a fresh file is tried afresh
    backend.close()
    backend.stop()
    assert count == 1, "a file that failed is not synced again"
    assert read(tmp_path)[0].buf == b"first"
    assert read(tmp_path, SEGMENT.next()) == [record(b"third")]


# --- a full disk, a real one


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1m tmpfs '{place}' 2>/dev/null"):
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    os.system(f"umount '{place}'")


@pytest.mark.usefixtures("quick")
def test_a_full_disk_costs_nothing_that_was_taken(tiny: Path) -> None:
    backend = make(tiny)
    backend.start()
    backend.open(SEGMENT)
    stored: list[Record] = []
    with contextlib.suppress(StorageFullError):
        while len(stored) < 10_000:
            batch = [record(os.urandom(2000), time_us=len(stored))]  # no compression makes room
            backend.write(batch)
            stored += batch
    assert 100 < len(stored) < 10_000
    assert read(tiny) == stored
    backend.close()
    health = wait_for(backend.health)
    assert "free space" in health
    assert read(tiny) == stored
    assert os.listdir(tiny) == [SEGMENT.stem + WAL_SUFFIX], "nothing half-made is left"
    os.system(f"mount -o remount,size=4m '{tiny}'")
    wait_for(lambda: sealed(tiny) == [SEGMENT.name])
    wait_for(lambda: not backend.health())
    backend.stop()
    assert read(tiny) == stored


# --- sipdump-admin


def test_recover_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--folder", str(tmp_path), "--fprefix", "t-"]
    assert admin.main(["recover", *where]) == 0
    assert capsys.readouterr().out == "nothing to recover\n"
    wal = leave(tmp_path, [record()] * 3)
    live = make(tmp_path)
    live.open(SEGMENT.next())
    live.write([record()])
    assert admin.main(["recover", *where]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"recovered {wal}: 3 records in {tmp_path / SEGMENT.name}"
    assert out[1].startswith(f"skipped: seal {tmp_path / SEGMENT.next().stem}{WAL_SUFFIX}: ")
    assert len(out) == 2
    live.close()
    assert admin.main(["recover", "--json", *where]) == 0
    assert '"records": 1' in capsys.readouterr().out

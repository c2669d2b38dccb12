"""The Parquet backend: what a file holds, and its name."""

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.admin import command as admin
from sipdump_core.errors import SegmentExistsError, StorageError
from sipdump_core.testing import Contract
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import COLUMNS, WAL_SUFFIX
from sipdump_parquet.table import TYPES
from tests.backends.parquet.support import SEGMENT, SMALL, STAMP, calls, leave, make, read, write
from tests.support import OPTIONS, examples, record


class TestContract(Contract):
    backend_class = ParquetBackend


def test_the_schema(tmp_path: Path) -> None:
    path = write(tmp_path, [record()])
    schema = pq.read_schema(path)
    assert tuple(schema.names) == COLUMNS == tuple(TYPES)
    assert schema.field("time").type == pa.timestamp("us", "UTC")
    for name in ("tag", "proto", "af", "node"):
        assert schema.field(name).type == pa.dictionary(pa.int32(), pa.string())
    assert not any(pa.types.is_uint64(kind) for kind in schema.types)
    pairs = pq.read_metadata(path).metadata
    assert pairs[b"sipdump.schema"] == b"2"
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
        "user_agent": None, "from_tag": "1", "to_tag": None, "request_uri_user": "bob", "via_branch": "z9hG4bK1",
        "correlation": None, "correlation_id": None, "buf": OPTIONS,
    }  # fmt: skip


def test_the_correlation_id_of_a_record_is_kept(tmp_path: Path) -> None:
    buf = OPTIONS.replace(b"\r\n\r\n", b"\r\nX-CID: leg\r\nX-Call-ID: other\r\n\r\n", 1)
    batch = [
        record(buf, correlation_id="hep"),
        record(),
        record(correlation_id="☎"),
        record(buf, correlation_id="other"),
    ]
    path = write(tmp_path, batch[:2], batch[2:])
    found = pq.read_table(path, columns=["seq", "correlation", "correlation_id"]).sort_by("seq").to_pylist()
    assert [(row["correlation"], row["correlation_id"]) for row in found] == [
        (["hep", "leg", "other"], "hep"), (None, None), (["☎"], "☎"), (["other", "leg"], "other"),
    ]  # fmt: skip
    assert read(tmp_path) == batch
    write(tmp_path, [record(correlation_id="a\ud800")], segment=SEGMENT.next())
    assert read(tmp_path, SEGMENT.next()) == [record(correlation_id="a?")]


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


@examples(25)
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


def test_little_memory_gives_the_same_file(tmp_path: Path) -> None:
    batch = calls(200, size=700)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    large = write(tmp_path / "a", batch)
    small = write(tmp_path / "b", *(batch[at : at + 50] for at in range(0, len(batch), 50)), memory=SMALL)
    assert pq.read_table(small).equals(pq.read_table(large))
    assert pq.read_metadata(small).num_row_groups > pq.read_metadata(large).num_row_groups == 1
    assert read(tmp_path / "b", memory=SMALL) == batch


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


def test_what_is_open_is_told_from_what_a_crash_left(tmp_path: Path) -> None:
    write(tmp_path, [record()], segment=SEGMENT.next().next())
    leave(tmp_path, [record()])
    writer = make(tmp_path)
    writer.open(SEGMENT.next())
    writer.write([record()])

    def states() -> list[str]:
        return [stored.state for stored in make(tmp_path).segments()]

    assert states() == ["unsealed", "open", "sealed"]
    writer.close()
    assert states() == ["unsealed", "unsealed", "sealed"]
    list(make(tmp_path).recover())
    assert states() == ["sealed", "sealed", "sealed"]


def test_a_lister_at_work_keeps_nothing_from_being_sealed(tmp_path: Path) -> None:
    wal = leave(tmp_path, [record()])
    with open(wal, "rb") as lister:
        fcntl.flock(lister, fcntl.LOCK_SH)
        timer = threading.Timer(0.02, lister.close)
        timer.start()
        (done,) = make(tmp_path).recover()
        timer.join()
    assert (done.in_use, done.records, done.error) == (False, 1, None)


def test_odd_things_under_its_names_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / (SEGMENT.stem + WAL_SUFFIX)).mkdir()
    (tmp_path / (SEGMENT.next().stem + WAL_SUFFIX)).symlink_to("/dev/null")
    (tmp_path / f"other-{STAMP}{WAL_SUFFIX}").write_bytes(b"x")
    assert not list(make(tmp_path).segments())
    assert not list(make(tmp_path).recover())
    assert len(os.listdir(tmp_path)) == 3


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

"""The contract of every backend, and what is a database's own."""

import contextlib
import multiprocessing
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sipdump_core import Backend, ClosedError, Segment, SegmentExistsError, Site, StorageError, StorageFullError
from sipdump_core.testing import Contract, record

from sipdump_sqlite import SqliteBackend, SqliteOptions

PREFIX = "x-"
WRITERS = 3


class TestContract(Contract):
    backend_class = SqliteBackend

    @contextlib.contextmanager
    def outage(self, backend: Backend) -> Iterator[None]:
        folder = Path(backend.site.folder)
        aside = folder.rename(folder.with_name("aside"))
        yield
        aside.rename(folder)


def segment(second: int = 0) -> Segment:
    return Segment(PREFIX, f"2026-11-22--23-31-{second:02}")


def make(folder: Path, **options: object) -> SqliteBackend:
    return SqliteBackend(SqliteOptions(**{"busy_timeout": 20, **options}), Site(str(folder), PREFIX))  # type: ignore[arg-type]  # any option


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[SqliteBackend]:
    backend = make(tmp_path)
    backend.start()
    backend.open(segment())
    yield backend
    with contextlib.suppress(StorageError):
        backend.close()
    backend.stop()


@pytest.fixture
def database(backend: SqliteBackend) -> Iterator[sqlite3.Connection]:
    path = Path(backend.site.folder) / "sipdump.sqlite"
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as database:
        yield database


def test_a_call_is_found_by_the_index(backend: SqliteBackend, database: sqlite3.Connection) -> None:
    backend.write([record(b"X y SIP/2.0\r\nCall-ID: %d\r\n\r\n" % (n % 50), time_us=1000 - n) for n in range(500)])
    backend.write([record(b"no Call-ID")])
    query = "SELECT time_us FROM records WHERE call_id = '7' ORDER BY time_us"
    times = [row[0] for row in database.execute(query)]
    assert len(times) == 10
    assert times == sorted(times)
    (*_, plan) = database.execute(f"EXPLAIN QUERY PLAN {query}").fetchone()
    assert "USING INDEX records_call_id" in plan or "USING COVERING INDEX records_call_id" in plan
    assert database.execute("SELECT count(*) FROM records WHERE call_id IS NULL").fetchone() == (1,)


def test_the_database_counts_what_it_holds(backend: SqliteBackend, database: sqlite3.Connection) -> None:
    backend.write([record()] * 3)
    backend.write([record()])
    backend.close()
    ((name, records, opened, modified, closed),) = database.execute(
        "SELECT name, records, opened, modified, closed FROM segments"
    )
    assert (name, records) == (segment().name, 4)
    assert opened <= modified <= closed


def test_the_sizes_told_are_near_those_of_the_file(tmp_path: Path) -> None:
    backend = make(tmp_path)
    backend.open(segment())
    for n in range(20):
        backend.write([record(b"X y SIP/2.0\r\nCall-ID: %d-%d\r\n\r\n" % (n, m) + b"b" * 500) for m in range(100)])
    backend.close()
    backend.stop()
    (stored,) = backend.segments()
    size = (tmp_path / "sipdump.sqlite").stat().st_size
    assert size <= stored.size <= 1.3 * size


def test_a_batch_is_stored_as_a_whole_or_not_at_all(backend: SqliteBackend, database: sqlite3.Connection) -> None:
    backend.write([record(b"before")])
    with pytest.raises(OverflowError):  # no StorageError: sipdump then stores the batch record by record
        backend.write([record(b"good"), record(b"bad", pid=1 << 63), record(b"good")])
    backend.write([record(b"after")])
    assert [row[0] for row in database.execute("SELECT buf FROM records ORDER BY id")] == [b"before", b"after"]


def test_a_database_that_is_locked_is_waited_for(backend: SqliteBackend, database: sqlite3.Connection) -> None:
    database.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match=r"write .*sipdump.sqlite: database is locked \(another process"):
        backend.write([record()])
    database.rollback()
    backend.write([record()])
    backend.close()
    (stored,) = backend.segments()
    assert list(backend.read(stored)) == [record()]


def test_a_full_disk_is_told_and_the_batch_comes_again(backend: SqliteBackend, database: sqlite3.Connection) -> None:
    assert backend._db is not None
    (pages,) = backend._db.execute("PRAGMA page_count").fetchone()
    backend._db.execute(f"PRAGMA max_page_count = {pages + 20}")  # SQLite's own way to say that there is no room
    batch = [record(b"x" * 10_000) for _ in range(20)]
    with pytest.raises(StorageFullError, match="free space, or lower fage"):
        backend.write(batch)
    assert database.execute("SELECT count(*) FROM records").fetchone() == (0,)
    backend._db.execute(f"PRAGMA max_page_count = {pages + 2000}")
    backend.write(batch)
    assert database.execute("SELECT count(*) FROM records").fetchone() == (20,)


def test_room_to_delete_is_kept(backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.write([record()])
    with monkeypatch.context() as patch:
        patch.setattr("sipdump_sqlite._RESERVE", 1 << 60)
        with pytest.raises(StorageFullError, match="are free on the disk, which pruning needs"):
            backend.write([record()])
    backend.write([record()])
    assert [one.records for one in backend.segments()] == [2]


def test_deleted_space_is_used_again(tmp_path: Path) -> None:
    backend = make(tmp_path)
    sizes = []
    for second in range(4):
        backend.open(segment(second))
        backend.write([record(b"x" * 1000)] * 500)
        backend.close()
        for stored in backend.segments():
            backend.delete(stored)
        backend.stop()  # which moves the log into the file
        sizes.append((tmp_path / "sipdump.sqlite").stat().st_size)
    assert sizes[-1] <= sizes[1]


@pytest.mark.parametrize("content", [b"no database, but text" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sipdump.sqlite"
    path.write_bytes(content)
    backend = make(tmp_path)
    for call in (backend.start, lambda: backend.open(segment()), lambda: list(backend.segments())):
        with pytest.raises(StorageError, match=r"sipdump\.sqlite"):
            call()
    assert path.read_bytes() == content
    path.unlink()
    backend.open(segment())
    backend.stop()


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "sipdump.sqlite")) as other:
        other.execute("CREATE TABLE segments (theirs)")
    backend = make(tmp_path)
    with pytest.raises(StorageError, match="the database of another program"):
        backend.start()
    with contextlib.closing(sqlite3.connect(tmp_path / "sipdump.sqlite")) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("segments",)]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "sipdump.sqlite").symlink_to(tmp_path / "elsewhere")
    backend = make(tmp_path)
    with pytest.raises(StorageError, match="there is a symbolic link") as caught:
        backend.open(segment())
    assert not isinstance(caught.value, SegmentExistsError)  # for which sipdump would try the next name
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    backend = make(tmp_path, path=str(tmp_path / "missing" / "x.sqlite"))
    with pytest.raises(StorageError, match="create the folder"):
        backend.start()
    (tmp_path / "missing").mkdir()
    backend.start()
    backend.stop()
    assert (tmp_path / "missing" / "x.sqlite").exists()


def test_nothing_is_there_before_the_first_start(tmp_path: Path) -> None:
    assert list(make(tmp_path).segments()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_somebody_removes_is_made_again(backend: SqliteBackend, tmp_path: Path) -> None:
    backend.write([record(b"old")])
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(StorageError, match="removed or replaced"):
        backend.write([record(b"new")])
    backend.close()  # as sipdump does after a StorageError
    backend.open(segment(1))
    backend.write([record(b"new")])
    backend.close()
    (stored,) = backend.segments()
    assert list(backend.read(stored)) == [record(b"new")]


def test_a_segment_that_somebody_deletes_while_it_is_open(backend: SqliteBackend, database: sqlite3.Connection) -> None:
    with database:
        database.execute("DELETE FROM segments")
    with pytest.raises(StorageError, match="deleted the open segment"):
        backend.write([record()])
    assert database.execute("SELECT count(*) FROM records").fetchone() == (0,)


@pytest.mark.parametrize(("synchronous", "value"), [("off", 0), ("normal", 1), ("full", 2)])
def test_options_reach_the_database(tmp_path: Path, synchronous: str, value: int) -> None:
    backend = make(tmp_path, synchronous=synchronous)
    backend.start()
    assert backend._db is not None
    assert backend._db.execute("PRAGMA synchronous").fetchone() == (value,)
    assert backend._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    backend.stop()


def test_files_have_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    backend = SqliteBackend(SqliteOptions(), Site(str(tmp_path), PREFIX, 0o664))
    before = os.umask(0o077)
    try:
        backend.open(segment())
        backend.write([record()])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    backend.stop()
    assert modes == dict.fromkeys(["sipdump.sqlite" + end for end in ("", "-wal", "-shm", ".lock")], 0o664)


def test_writing_before_start_and_after_stop_is_refused(tmp_path: Path) -> None:
    backend = make(tmp_path)
    with pytest.raises(ClosedError):
        backend.write([record()])
    backend.open(segment())
    backend.stop()
    with pytest.raises(ClosedError):
        backend.write([record()])
    (stored,) = backend.segments()
    assert stored.sealed


def _writer(folder: Path, number: int) -> None:
    backend = make(folder, busy_timeout=20_000)
    for attempt in range(100):
        with contextlib.suppress(StorageError):
            backend.start()
            break
        assert attempt < 99
    for second in range(3):
        own = segment(second)
        while True:
            try:
                backend.open(own)
                break
            except SegmentExistsError:
                own = own.next()
        for batch in range(10):
            backend.write([record(b"%d" % number, time_us=100 * (10 * second + batch) + n) for n in range(100)])
        backend.close()
    backend.stop()


def test_several_processes_write_to_one_database(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writer, args=(tmp_path, number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    reader = make(tmp_path)
    stored = list(reader.segments())
    assert [one.records for one in stored] == [1000] * 3 * WRITERS
    assert all(one.sealed for one in stored)
    times: dict[bytes, list[int]] = {b"%d" % number: [] for number in range(WRITERS)}
    for one in sorted(stored, key=lambda one: one.segment.stamp):
        records = list(reader.read(one))
        assert len({found.buf for found in records}) == 1  # no segment is shared
        times[records[0].buf] += [found.time_us for found in records]
    assert times == {b"%d" % number: list(range(3000)) for number in range(WRITERS)}

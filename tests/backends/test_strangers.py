"""Files and locks of another user in a folder like /tmp: never sealed, believed, deleted, waited for."""

import fcntl
import os
import resource
import time
from pathlib import Path

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import StorageError
from sipdump_core.lifecycle.retention import prune
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.sipdump import SipDump
from sipdump_parquet import ParquetBackend, conversion
from sipdump_parquet.options import WAL_SUFFIX
from sipdump_text import TextBackend
from tests.backends.parquet import support
from tests.backends.parquet.support import SEGMENT, leave, make, sealed, write
from tests.core.support import A, B, files, read
from tests.strangers import NOBODY, needs_root, open_to_all, stranger_locks
from tests.support import record, wait_for

pytestmark = needs_root
TEXT = Segment("t-", support.STAMP, 0, ".data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return open_to_all(tmp_path)


def text(folder: Path) -> TextBackend:
    return TextBackend(NoOptions(), Site(str(folder), "t-", 0o644))


def store(backend: FolderBackend, segment: Segment, buf: bytes = b"1") -> StoredSegment:
    backend.open(segment)
    backend.write([record(buf)])
    backend.close()
    (stored,) = backend.segments()
    return stored


def given(path: Path) -> Path:
    """Make a file the stranger's."""
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return path


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_stranger_s_lock_stops_no_pruning(folder: Path, kind: int) -> None:
    backend = text(folder)
    stored = store(backend, TEXT)
    with stranger_locks(folder / TEXT.name, kind):
        assert [each.sealed for each in backend.segments()] == [True]
        backend.delete(stored)
    assert os.listdir(folder) == []


def test_a_stranger_s_lock_stops_no_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is locked, nobody else can open it."""
    real, modes = fcntl.fcntl, list[int]()

    def look(fd: int, command: int, argument: bytes) -> bytes:
        modes.append(os.fstat(fd).st_mode & 0o777)
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", look)
    text(folder).open(TEXT)
    assert modes[0] == 0o600
    assert (folder / TEXT.name).stat().st_mode & 0o7777 == 0o644


def test_the_open_file_is_told_whatever_a_stranger_locks(folder: Path) -> None:
    backend = text(folder)
    backend.open(TEXT)
    backend.write([record(b"1")])
    assert [each.state for each in text(folder).segments()] == ["open"]
    with (folder / TEXT.name).open("rb") as older, pytest.raises(BlockingIOError):  # a version that knows no other lock
        fcntl.flock(older.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(StorageError, match="in use"):
        text(folder).delete(next(iter(backend.segments())))
    backend.close()


def test_a_stranger_s_file_is_read_and_never_pruned(folder: Path) -> None:
    backend = text(folder)
    stored = store(backend, TEXT)
    given(folder / TEXT.name)
    (found,) = backend.segments()
    assert found.state == "of another user"
    assert [one.buf for one in backend.read(found)] == [b"1"]
    with pytest.raises(StorageError, match="another user"):
        backend.delete(stored)
    assert list(prune([backend], 1, now=time.time() + 100)) == []
    assert os.listdir(folder) == [TEXT.name]


def test_root_prunes_the_folder_of_another_user(folder: Path) -> None:
    backend = text(folder)
    store(backend, TEXT)
    given(folder / TEXT.name)
    given(folder)
    (found,) = backend.segments()
    assert found.sealed
    backend.delete(found)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("backend", [text, make])
def test_a_pipe_is_not_waited_for(folder: Path, backend: object) -> None:
    made = text(folder) if backend is text else make(folder)
    segment = TEXT if backend is text else SEGMENT
    os.mkfifo(folder / segment.name)
    assert list(made.segments()) == []
    with pytest.raises(StorageError, match="no regular file"):
        list(made.read(StoredSegment(segment, 0, 0.0, sealed=True)))
    with pytest.raises(StorageError, match="no regular file"):
        made.delete(StoredSegment(segment, 0, 0.0, sealed=True))


def test_a_draft_of_the_process_table_that_a_stranger_has_made(folder: Path) -> None:
    with SipDump(enable=1, folder=folder) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(60)
        (meta,) = files(folder, ".meta")
        (folder / f".{meta.name}.{os.getpid()}").mkdir()
        dump.table.add(1, 0, "HEP agent id=77")
        dump.received(b"b", A, B)
        wait_for(lambda: "process: 1 0 HEP agent id=77" in meta.read_text())
    assert len(read(folder)) == 2


# ---- Parquet ----


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "file"])
@pytest.mark.parametrize("name", [SEGMENT.name, f".{SEGMENT.stem}.parquet.tmp", f".{SEGMENT.stem}.parquet.lock"])
def test_what_is_in_the_way_of_sealing_is_left_alone(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    leave(folder, [record(b"1")]).chmod(0o644)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.write_bytes(b"the stranger's")
    given(path)
    with stranger_locks(folder / (SEGMENT.stem + WAL_SUFFIX)) if kind == "file" else open(os.devnull):
        backend = make(folder)
        backend.start()
        wait_for(lambda: not (folder / (SEGMENT.stem + WAL_SUFFIX)).exists())
        backend.stop()
    assert os.path.lexists(path)
    (name_of,) = [one for one in sealed(folder) if one != name]
    segment = Segment.parse(name_of, "t-", ".parquet")
    assert segment
    assert [one.buf for one in support.read(folder, segment)] == [b"1"]


def test_a_parquet_file_of_a_stranger_that_names_our_write_ahead_file(folder: Path) -> None:
    victim = leave(folder, [record(b"1")])
    copy = victim.read_bytes()
    list(make(folder).recover())
    given(folder / SEGMENT.name)
    victim.write_bytes(copy)
    (done,) = make(folder).recover()
    assert done.records == 1
    assert sealed(folder) == [SEGMENT.next().name], "our records are in a file of our own"


def test_a_write_ahead_file_of_a_stranger(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    wal = given(leave(folder, [record(b"forged")]))
    backend = make(folder)
    backend.start()
    time.sleep(0.2)
    assert backend.health() == ""
    backend.stop()
    assert list(make(folder).recover()) == []
    assert wal.exists()
    assert sealed(folder) == []
    assert "of another user is left alone" in caplog.text
    assert [each.state for each in make(folder).segments()] == ["of another user"]


def test_a_write_ahead_file_that_a_stranger_put_there_meanwhile_is_not_sealed(folder: Path) -> None:
    """When the folder was listed it was ours."""
    wal = leave(folder, [record(b"forged")])
    backend = make(folder)
    segments = backend._left()
    given(wal)
    (done,) = conversion.recover(segments, backend.opts, backend.site)
    assert "belongs to another user" in str(done.error)
    assert os.listdir(folder) == [wal.name]


def test_two_do_not_seal_at_once_what_a_stranger_has_locked(folder: Path) -> None:
    wal = leave(folder, [record(b"1")])
    wal.chmod(0o644)
    lock = folder / f".{SEGMENT.stem}.parquet.lock"
    lock.touch(0o600)
    with stranger_locks(wal), lock.open() as other:
        fcntl.flock(other.fileno(), fcntl.LOCK_EX)
        (done,) = make(folder).recover()
        assert done.in_use
        assert wal.exists()
    lock.unlink()
    assert [done.records for done in make(folder).recover()] == [1]


def test_a_write_ahead_file_of_a_stranger_beside_our_parquet_file(folder: Path) -> None:
    wal = leave(folder, [record(b"forged")])
    forged = wal.read_bytes()
    wal.unlink()
    write(folder, [record(b"1")])
    wal.write_bytes(forged)
    given(wal)
    (stored,) = make(folder).segments()
    assert [one.buf for one in make(folder).read(stored)] == [b"1"]
    make(folder).delete(stored)
    assert not (folder / SEGMENT.name).exists()


def test_root_recovers_the_folder_of_another_user(folder: Path) -> None:
    given(leave(folder, [record(b"1")]))
    given(folder)
    (done,) = make(folder).recover()
    assert done.records == 1
    assert (folder / SEGMENT.name).stat().st_uid == NOBODY, "he can read his records still"


def test_a_huge_hole_costs_neither_memory_nor_time(folder: Path) -> None:
    wal = leave(folder, [record(b"1")])
    with wal.open("r+b") as file:
        file.truncate(1 << 42)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    (done,) = make(folder).recover()
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert done.records == 1


def test_a_lock_on_the_folder_stops_no_compaction(folder: Path) -> None:
    for number in range(2):
        write(folder, [record(b"%d" % number)], segment=Segment("t-", support.STAMP, number, ".parquet"))
    (folder / f".{SEGMENT.next().stem}.parquet.merging").mkdir()
    backend: ParquetBackend = make(folder)
    with stranger_locks(folder):
        (done,) = backend.compact(min_age=0, now=time.time() + 100)
    assert done.error is None
    assert done.records == 2


def test_a_draft_of_a_merge_that_a_stranger_has_made_is_left_alone(folder: Path) -> None:
    write(folder, [record(b"1")])
    write(folder, [record(b"2")], segment=SEGMENT.next())
    path = folder / f".{SEGMENT.next().stem}.parquet.merge"
    path.write_text("the stranger's")
    given(path)
    (done,) = make(folder).compact(min_age=0)
    assert done.error is None
    assert path.read_text() == "the stranger's"

"""Files reach the disk in time, whatever the disk does, and no lane waits for it."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers import syncing
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.syncing import SYNCER, SyncedFile, Syncer, sync_folder
from sipdump_core.errors import StorageError, StorageFullError
from sipdump_core.segment import Segment
from sipdump_text import TextBackend
from tests.support import record, wait_for

SEGMENT = Segment("p-", "2026-11-22--00-00-00", 0, ".data")


@attrs.define
class Disk:
    """Notes every sync, and fails as a test says."""

    calls: list[tuple[str, str]] = attrs.field(factory=list)
    """``fdatasync`` or ``fsync``, and the path."""
    on_call: Callable[[str, str], object] = lambda *_: None

    def synced(self, path: Path) -> list[str]:
        return [name for name, what in self.calls if what == str(path)]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk()

    def call(name: str, real: Callable[[int], None], fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        made.calls.append((name, path))
        made.on_call(name, path)
        real(fd)

    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, partial(call, name, getattr(os, name)))
    yield made
    made.on_call = lambda *_: None
    assert SYNCER.finish(60)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[TextBackend]:
    made = TextBackend(NoOptions(), Site(str(tmp_path), "p-", sync=0.02))
    yield made
    made.close()
    assert SYNCER.finish(60)


def failing(number: int, times: int = 1) -> Callable[[str, str], None]:
    left = [times]

    def fail(name: str, path: str) -> None:
        if path.endswith(".data") and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))

    return fail


def test_an_open_file_is_synced_while_it_grows_and_only_then(tmp_path: Path, backend: TextBackend, disk: Disk) -> None:
    path = tmp_path / SEGMENT.name
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    file = backend._synced
    assert file
    wait_for(lambda: file.named and not file.dirty and not SYNCER._busy)
    calls = [*disk.calls]
    assert set(calls) == {("fdatasync", str(path)), ("fsync", str(tmp_path))}  # its name, too
    time.sleep(0.1)
    assert disk.calls == calls
    backend.write([record(b"second")])
    wait_for(lambda: len(disk.calls) > len(calls))
    assert disk.calls[len(calls) :] == [("fdatasync", str(path))]
    wait_for(lambda: not SYNCER._busy)
    backend.close()
    assert SYNCER.finish(10)
    assert disk.calls[-1] == ("fsync", str(path)), "the last sync is of all that is known of it"


def test_a_folder_that_cannot_be_opened_at_the_end_is_a_failure(
    backend: TextBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no later time at which it would be tried again."""

    def short(_: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(syncing, "sync_folder", short)
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    backend.close()
    assert SYNCER.finish(10)
    assert "file cannot be synced" in caplog.text


def test_a_forked_child_closes_what_is_the_parents_to_sync(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    syncer = Syncer()
    syncer._files.append(SyncedFile(fd, "file", 1.0, lambda *_: None, 0.0, complete=True))
    syncer.forget()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_is_written_during_a_sync_is_synced_again(tmp_path: Path, backend: TextBackend, disk: Disk) -> None:
    more = iter([[record(b"second")]])

    def write(*_: str) -> None:
        for batch in more:
            backend.write(batch)

    backend.open(SEGMENT)
    file = backend._synced
    assert file
    wait_for(lambda: file.named and not file.dirty and not SYNCER._busy)
    before = len(disk.calls)
    disk.on_call = write
    backend.write([record(b"first")])
    wait_for(lambda: len(disk.calls) == before + 2)
    assert disk.calls[before:] == [("fdatasync", str(tmp_path / SEGMENT.name))] * 2


def test_a_sealed_file_and_its_folder_are_synced(tmp_path: Path, disk: Disk) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-", sync=3600))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    backend.close()
    assert SYNCER.finish(60)
    assert disk.calls == [("fsync", str(tmp_path / SEGMENT.name)), ("fsync", str(tmp_path))]


def test_with_0_nothing_is_synced(tmp_path: Path, disk: Disk) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-", sync=0))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    backend.close()
    assert disk.calls == []


def test_a_disk_that_hangs_holds_nothing_up(
    tmp_path: Path, backend: TextBackend, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "STALL", 0.05)
    free = threading.Event()
    disk.on_call = lambda *_: free.wait(20)
    backend.open(SEGMENT)
    start = time.monotonic()
    backend.write([record(b"first")])
    wait_for(lambda: disk.calls)
    backend.write([record(b"second")])
    backend.close()
    backend.open(SEGMENT.next())
    backend.write([record(b"third")])
    backend.close()
    assert time.monotonic() - start < 15
    assert "does not return" in wait_for(backend.health)
    assert not SYNCER.finish(0.01)
    free.set()
    assert SYNCER.finish(60)
    assert disk.synced(tmp_path / SEGMENT.name) == ["fdatasync", "fsync"], "it is synced to its end, too"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.EROFS])
def test_a_file_that_failed_is_written_and_synced_no_more(
    tmp_path: Path, backend: TextBackend, disk: Disk, number: int
) -> None:
    disk.on_call = failing(number)
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    wait_for(lambda: backend._synced and backend._synced.error)
    for _ in range(2):
        with pytest.raises(StorageError, match=os.strerror(number)) as raised:
            backend.write([record(b"second")])
        assert not isinstance(raised.value, StorageFullError), "that would promise that a retry may do"
    with pytest.raises(StorageError):
        backend.check()
    backend.close()
    backend.open(SEGMENT.next())
    backend.write([record(b"second")])
    wait_for(lambda: disk.synced(tmp_path / SEGMENT.next().name))
    backend.close()
    assert SYNCER.finish(60)
    assert disk.synced(tmp_path / SEGMENT.name) == ["fdatasync"]


def test_whatever_a_sync_raises_is_its_error(backend: TextBackend, disk: Disk) -> None:
    def leave(*_: str) -> None:
        raise SystemExit(3)

    disk.on_call = leave
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    wait_for(lambda: backend._synced and backend._synced.error)
    with pytest.raises(StorageError, match="SystemExit"):
        backend.check()


def test_the_failure_of_a_sealed_file_is_reported_later(
    backend: TextBackend, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.on_call = failing(errno.EIO)
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    backend.close()
    backend.open(SEGMENT.next())
    wait_for(lambda: "file cannot be synced" in caplog.text)
    with pytest.raises(StorageError, match="I/O error"):
        backend.check()
    backend.check()  # once is enough: the file that is open is good
    backend.write([record(b"second")])


def test_an_error_at_the_close_is_an_error_of_the_sync(
    backend: TextBackend, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.close

    def close(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        real(fd)
        if path.endswith(".data"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    backend.open(SEGMENT)
    backend.write([record(b"first")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        backend.close()
        assert SYNCER.finish(60)
    assert "file cannot be synced" in caplog.text
    backend.open(SEGMENT.next())
    with pytest.raises(StorageError, match="I/O error"):
        backend.write([record(b"second")])
    backend.write([record(b"second")])
    wait_for(lambda: disk.synced(Path(backend.site.folder) / SEGMENT.next().name))  # the thread goes on


def test_a_folder_that_cannot_be_opened_for_now_is_tried_again(
    tmp_path: Path, backend: TextBackend, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(syncing, "sync_folder", none_left)
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    assert "Too many open files" in wait_for(backend.health)
    backend.check()
    monkeypatch.setattr(syncing, "sync_folder", sync_folder)
    wait_for(lambda: not backend.health())
    assert disk.synced(tmp_path)


def test_a_file_system_that_cannot_sync_is_no_failure(backend: TextBackend, disk: Disk) -> None:
    disk.on_call = failing(errno.EINVAL, 100)
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    wait_for(lambda: disk.calls)
    time.sleep(0.05)
    backend.check()
    assert not backend.health()


def test_a_thread_that_cannot_be_started_refuses_the_segment(
    tmp_path: Path, backend: TextBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    wait_for(lambda: not SYNCER._files)
    wait_for(lambda: not SYNCER._thread)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StorageError, match="can't start new thread"):
            backend.open(SEGMENT)
    assert os.listdir(tmp_path) == []
    backend.open(SEGMENT)
    backend.write([record(b"first")])


def test_the_thread_ends_with_the_last_file(backend: TextBackend) -> None:
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    assert any(thread.name == "sipdump-sync" for thread in threading.enumerate())
    backend.close()
    wait_for(lambda: all(thread.name != "sipdump-sync" for thread in threading.enumerate()))


def test_a_forked_child_syncs_files_of_its_own(tmp_path: Path, backend: TextBackend) -> None:
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            backend.forget()
            other = TextBackend(NoOptions(), Site(str(tmp_path), "child-", sync=0.02))
            other.open(Segment("child-", SEGMENT.stamp, 0, ".data"))
            other.write([record(b"of the child")])
            other.close()
            status = 0 if SYNCER.finish(60) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    backend.write([record(b"second")])
    backend.check()

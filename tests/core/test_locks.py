"""Locks of strangers hold nothing up; those of processes that may write are told."""

import fcntl
import io
import os
import time
from pathlib import Path

import pytest

from sipdump_core import locks
from sipdump_core.locks import claimed, in_use, own_lock, release, take
from tests.strangers import NOBODY, needs_root, open_to_all, stranger_locks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = open_to_all(tmp_path) / "file"
    made.write_bytes(b"x")
    made.chmod(0o644)
    return made


def used(path: Path, *, alone: bool = False) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return in_use(fd, alone=alone)
    finally:
        os.close(fd)


def test_a_file_is_in_use_from_take_to_release(path: Path) -> None:
    with path.open("r+b") as file:
        assert not used(path)
        assert take(file.fileno())
        assert used(path)
        with path.open("r+b") as other:
            assert not take(other.fileno())
        release(file.fileno())
        assert not used(path)


@pytest.mark.parametrize("call", [fcntl.flock, None])
def test_one_kind_of_lock_is_enough(path: Path, monkeypatch: pytest.MonkeyPatch, call: object) -> None:
    """An older version has the flock alone, and on some file systems there is but one of both."""
    with path.open("r+b") as file:
        if call:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        else:
            with monkeypatch.context() as patch:
                patch.setattr(fcntl, "flock", lambda *_: None)
                assert take(file.fileno())
        assert used(path)
    assert not used(path)


def test_a_reader_of_ours_keeps_a_file_from_being_deleted(path: Path) -> None:
    with path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
        assert not used(path)
        assert used(path, alone=True)


@needs_root
@pytest.mark.parametrize("orphaned", [False, True])
@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_stranger_s_flock_counts_for_nothing(path: Path, kind: int, *, orphaned: bool) -> None:
    with stranger_locks(path, kind, orphaned=orphaned):
        assert not used(path)
        assert not used(path, alone=True)
        with path.open("r+b") as file:
            assert take(file.fileno())
            assert used(path)


@needs_root
def test_a_lock_of_the_files_owner_counts_whoever_looks(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)
    with stranger_locks(path):  # who is no stranger to this file
        assert used(path)


@needs_root
def test_a_lock_of_root_counts_whoever_looks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(path, NOBODY, NOBODY)
    monkeypatch.chdir(path.parent)  # pytest closes the folders above to others
    with path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        os.seteuid(NOBODY)
        try:
            assert used(Path(path.name))
        finally:
            os.seteuid(0)


@needs_root
def test_a_lock_of_ours_on_another_file_says_nothing(path: Path) -> None:
    with (path.parent / "other").open("wb") as other, stranger_locks(path):
        fcntl.flock(other.fileno(), fcntl.LOCK_EX)
        assert not used(path)


def test_a_lock_of_somebody_who_is_not_listed_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He is outside of this container, say."""
    monkeypatch.setattr(locks, "open", lambda _: io.StringIO(""), raising=False)
    with path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        assert used(path)


@needs_root
def test_a_stranger_does_not_hide_a_writer(path: Path) -> None:
    with path.open("r+b") as file:
        assert take(file.fileno())
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
        with stranger_locks(path):
            assert used(path)


def test_an_own_lock_lets_one_in(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    with own_lock(lock) as first:
        assert first
        assert os.stat(lock).st_mode & 0o777 == 0o600
        with own_lock(lock, 0.05) as second:
            assert not second
    assert not os.path.lexists(lock)
    with own_lock(lock) as third:
        assert third


def test_an_own_lock_that_others_could_open_is_not_believed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    lock.chmod(0o640)
    with lock.open() as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        with own_lock(str(lock)) as alone:
            assert alone
    assert lock.exists()


def test_an_own_lock_that_was_removed_before_it_was_taken_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    real = fcntl.flock

    def flock(fd: int, kind: int) -> None:
        monkeypatch.undo()
        lock.unlink()  # as another process does at its end
        real(fd, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with own_lock(str(lock)) as alone:
        assert alone
        assert lock.exists()


@needs_root
@pytest.mark.parametrize("kind", ["file", "pipe", "folder", "link"])
def test_what_a_stranger_puts_in_place_of_a_lock_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / "lock"
    if kind == "file":
        lock.touch(0o600)
    elif kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(tmp_path / "elsewhere")
    os.chown(lock, NOBODY, NOBODY, follow_symlinks=False)
    with own_lock(str(lock), 10) as alone:
        assert alone
    assert os.path.lexists(lock)
    assert not (tmp_path / "elsewhere").exists()


def test_one_at_a_time_claims_a_folder(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    one, other = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    with claimed(one, lock) as first, claimed(other, lock) as second:
        assert first
        assert not second
    assert os.listdir(tmp_path) == [], "no lock file is needed"
    os.close(one)
    with claimed(other, lock) as third:
        assert third
    os.close(other)


@needs_root
def test_one_at_a_time_claims_a_folder_that_a_stranger_has_locked(tmp_path: Path) -> None:
    lock = str(open_to_all(tmp_path) / "lock")
    one, other = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    with stranger_locks(tmp_path):
        start = time.monotonic()
        with claimed(one, lock, 60.0) as first:
            assert first
            assert time.monotonic() - start < 30
            with claimed(other, lock) as second:
                assert not second
    os.close(one)
    os.close(other)

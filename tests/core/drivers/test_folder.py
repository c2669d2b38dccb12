"""The base of backends of files."""

import errno
import fcntl
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.drivers import folder
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import disorder, free_name, remove
from sipdump_core.errors import SegmentExistsError, StorageError, StorageFullError
from sipdump_core.locks import in_use, take
from sipdump_core.segment import Segment, StoredSegment
from sipdump_text import TextBackend
from tests.core.support import read
from tests.support import record

SEGMENT = Segment("p-", "2026-11-22--00-00-00", 0, ".data")


def test_a_segment_is_sealed_though_a_forked_child_still_has_it_open(tmp_path: Path) -> None:
    """Not every child can be told to let go of it: a C library may have forked."""
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(Segment("p-", "2026-11-22--00-00-00", 0, ".data"))
    backend.write([record(b"first")])
    with subprocess.Popen(["sleep", "60"], pass_fds=[backend._fd]) as child:
        try:
            assert [stored.sealed for stored in backend.segments()] == [False]
            backend.close()
            assert [stored.sealed for stored in backend.segments()] == [True]
        finally:
            child.kill()


def test_a_write_error_takes_the_torn_part_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    real = os.write
    budget = [100]

    def scarce(fd: int, data: Any) -> int:
        if not budget[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(fd, bytes(data)[: budget[0]])
        budget[0] -= count
        return count

    monkeypatch.setattr(os, "write", scarce)
    with pytest.raises(StorageFullError, match=r"No space left on device.*free space"):
        backend.write([record(b"second")])
    monkeypatch.undo()
    backend.write([record(b"third")])
    backend.close()
    assert [one.buf for one in read(tmp_path, "p-")] == [b"first", b"third"]


def test_what_a_failed_write_left_is_gone_though_nothing_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long record failed: a shorter one, or none, would not cover what there is of it."""
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    path = tmp_path / SEGMENT.name
    before = path.read_bytes()
    real = os.write
    budget = [1000]

    def scarce(fd: int, data: Any) -> int:
        if not budget[0]:
            raise OSError(errno.EIO, "Input/output error")
        count = real(fd, bytes(data)[: budget[0]])
        budget[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", scarce)
        with pytest.raises(StorageError, match="Input/output error"):
            backend.write([record(b"x" * 2000)])
    assert path.read_bytes() == before
    backend.write([record(b"third")])
    backend.close()
    assert [one.buf for one in read(tmp_path, "p-")] == [b"first", b"third"]


def test_links_are_neither_listed_nor_deleted(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    backend = TextBackend(NoOptions(), Site(str(outside), "p-"))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    backend.close()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / SEGMENT.name).symlink_to(outside / SEGMENT.name)
    made = TextBackend(NoOptions(), Site(str(inside), "p-"))
    assert list(made.segments()) == []
    with pytest.raises(StorageError):
        made.delete(StoredSegment(SEGMENT, 1, 0.0, sealed=True))
    assert (inside / SEGMENT.name).is_symlink()
    assert (outside / SEGMENT.name).exists()


def test_a_file_that_was_deleted_before_it_had_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock it was taken for a sealed one."""
    path = tmp_path / SEGMENT.name
    modes = []

    def taking(fd: int) -> bool:
        modes.append(os.fstat(fd).st_mode)
        if len(modes) == 1:
            path.unlink()
        return take(fd)

    monkeypatch.setattr(folder, "take", taking)
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    assert [one.buf for one in read(tmp_path, "p-")] == [b"first"]
    assert len(modes) == 2
    with pytest.raises(BlockingIOError, match="in use"):
        remove(str(path), modes[1])  # who looked then, and deletes now, must see the lock
    assert path.exists()
    backend.close()
    remove(str(path), path.stat().st_mode)
    assert not path.exists()


def test_a_link_that_took_a_files_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        remove(str(link), stat.S_IFREG | stat.S_ISVTX | 0o600)
    assert link.is_symlink()


def test_a_forked_child_that_has_the_file_open_keeps_it_from_nothing(tmp_path: Path) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    inherited = os.dup(backend._fd)
    assert [stored.sealed for stored in backend.segments()] == [False]
    backend.close()
    (stored,) = backend.segments()
    assert stored.sealed
    backend.delete(stored)
    assert os.listdir(tmp_path) == []
    os.close(inherited)


def test_a_file_in_use_is_not_deleted(tmp_path: Path) -> None:
    """Neither one that is written, nor one that a reader of ours wants to stay."""
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    (stored,) = backend.segments()
    with pytest.raises(StorageError, match="in use"):
        backend.delete(stored)
    backend.close()
    with (tmp_path / SEGMENT.name).open("rb") as reader:
        fcntl.flock(reader.fileno(), fcntl.LOCK_SH)
        with pytest.raises(StorageError, match="in use"):
            backend.delete(stored)
    backend.delete(stored)
    assert os.listdir(tmp_path) == []


def test_readers_learn_of_an_older_record_before_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(SEGMENT)
    backend.write([record(b"first", time_us=10_000_000)])
    known: list[int | None] = []
    real = os.write

    def write(fd: int, data: Any) -> int:
        known.append(disorder(fd))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    backend.write([record(b"older", time_us=7_000_000)])
    if known == [None]:
        pytest.skip("the file system has no extended attributes")
    assert known == [3_000_000]
    backend.close()


def test_what_took_the_name_of_an_empty_segment_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / SEGMENT.name
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(SEGMENT)
    path.unlink()
    path.write_text("of somebody else")
    backend.close()  # it has no records, and would be removed
    assert path.read_text() == "of somebody else"
    with pytest.raises(SegmentExistsError):
        backend.open(SEGMENT)
    assert path.read_text() == "of somebody else"


def test_a_free_name_is_nobodys_not_even_a_links(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert free_name(str(path)) == str(path)
    path.symlink_to("nowhere")
    (tmp_path / "f-1").touch()
    assert free_name(str(path)) == f"{path}-2"


def test_a_segment_that_has_been_counted_is_sealed_without_a_look_at_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks at locks cost a quarter of a listing; and who seals a segment counts its records last."""
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    asked = []

    def asking(fd: int, *, alone: bool = False) -> bool:
        asked.append(fd)
        return in_use(fd, alone=alone)

    monkeypatch.setattr(folder, "in_use", asking)
    assert [stored.state for stored in backend.segments()] == ["open"]
    assert len(asked) == 1
    backend.close()
    (stored,) = backend.segments()
    assert stored.state == "sealed"
    if stored.records is None:
        pytest.skip("the file system has no extended attributes")
    assert len(asked) == 1


def test_segments_are_listed_by_time_and_then_by_number(tmp_path: Path) -> None:
    names = [attrs.evolve(SEGMENT, sequence=number).name for number in (0, 1, 2, 10)]
    for name in reversed(names):
        (tmp_path / name).touch()
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    assert [stored.segment.name for stored in backend.segments()] == names

"""The base of backends of files."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import free_name
from sipdump_core.errors import StorageError, StorageFullError
from sipdump_core.segment import Segment, StoredSegment
from sipdump_text import TextBackend
from tests.core.support import read
from tests.support import record

SEGMENT = Segment("p-", "2026-11-22--00-00-00", 0, ".data")


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
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / SEGMENT.name).symlink_to(outside / SEGMENT.name)
    made = TextBackend(NoOptions(), Site(str(folder), "p-"))
    assert list(made.segments()) == []
    with pytest.raises(StorageError):
        made.delete(StoredSegment(SEGMENT, 1, 0.0, sealed=True))
    assert (folder / SEGMENT.name).is_symlink()
    assert (outside / SEGMENT.name).exists()


def test_a_free_name_is_nobodys_not_even_a_links(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert free_name(str(path)) == str(path)
    path.symlink_to("nowhere")
    (tmp_path / "f-1").touch()
    assert free_name(str(path)) == f"{path}-2"

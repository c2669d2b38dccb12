"""The .meta file beside each segment."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.errors import SegmentExistsError, StorageError, StorageFullError
from sipdump_core.lifecycle import meta_file
from sipdump_core.segment import Segment
from tests.steps import steps_of
from tests.strangers import NOBODY, needs_root, open_to_all

SEGMENT = Segment("p-", "2026-11-22--00-00-00")
NAME = "p-2026-11-22--00-00-00.meta"


def site(folder: Path, text: str = "new", **fields: Any) -> Site:
    return Site(str(folder), "p-", meta=lambda: text, **fields)


def test_it_is_made_once_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        meta_file.create(site(tmp_path, file_mode=0o664), SEGMENT)
    finally:
        os.umask(old)
    assert (tmp_path / NAME).read_text() == "new"
    assert (tmp_path / NAME).stat().st_mode & 0o7777 == 0o664
    with pytest.raises(SegmentExistsError):
        meta_file.create(site(tmp_path, "another"), SEGMENT)
    assert (tmp_path / NAME).read_text() == "new"


def test_a_rewrite_takes_a_stale_draft_away(tmp_path: Path) -> None:
    """A crashed process with our pid has left it."""
    (tmp_path / NAME).write_text("old")
    (tmp_path / f".{NAME}.{os.getpid()}").write_text("stale")
    meta_file.rewrite(site(tmp_path), SEGMENT)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {NAME: "new"}


def test_a_rewrite_leaves_what_is_no_draft_of_ours(tmp_path: Path) -> None:
    draft = tmp_path / f".{NAME}.{os.getpid()}"
    (tmp_path / "victim").write_text("precious")
    (tmp_path / NAME).write_text("old")
    draft.symlink_to(tmp_path / "victim")
    meta_file.rewrite(site(tmp_path), SEGMENT)
    assert (tmp_path / "victim").read_text() == "precious"
    assert draft.is_symlink()
    assert (tmp_path / NAME).read_text() == "new"


@pytest.mark.parametrize("call", [meta_file.create, meta_file.rewrite])
def test_a_full_disk_leaves_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    real, left = os.write, [2]

    def scarce(fd: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(fd, bytes(data)[: left[0]])
        left[0] -= count
        return count

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "write", scarce)
    with pytest.raises(StorageFullError):
        call(site(tmp_path), SEGMENT)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_rewrite_that_fails_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / NAME).write_text("old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        meta_file.rewrite(site(tmp_path), SEGMENT)
    assert (tmp_path / NAME).read_text() == "old"


def test_a_name_is_claimed_that_is_free_under_every_suffix(tmp_path: Path) -> None:
    for name in ("p-2026-11-22--00-00-00.data", "p-2026-11-22--00-00-00-1.pcap", "p-2026-11-22--00-00-00-2.meta"):
        (tmp_path / name).touch()
    claimed = meta_file.claim(site(tmp_path), SEGMENT, [".data", ".pcap"])
    assert claimed.sequence == 3
    assert (tmp_path / "p-2026-11-22--00-00-00-3.meta").read_text() == "new"
    (tmp_path / "p-2026-11-22--00-00-00-4.data").symlink_to("/nonexistent")  # taken, though it leads nowhere
    assert meta_file.claim(site(tmp_path), claimed, [".data"]).sequence == 5


def test_a_sweep_takes_lone_ones_only_that_are_old_or_of_what_was_deleted(tmp_path: Path) -> None:
    for number, seconds in enumerate((50, 150, 150, 50)):
        path = tmp_path / f"p-2026-11-22--00-00-0{number}.meta"
        path.touch()
        os.utime(path, (seconds, seconds))
    (tmp_path / "p-2026-11-22--00-00-03.data").touch()
    meta_file.sweep(str(tmp_path), "p-", {"p-2026-11-22--00-00-01", "p-2026-11-22--00-00-03"}, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "p-2026-11-22--00-00-02.meta", "p-2026-11-22--00-00-03.data", "p-2026-11-22--00-00-03.meta",
    ]  # fmt: skip


def test_it_is_synced_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = steps_of(monkeypatch)
    meta_file.create(site(tmp_path, sync=1), SEGMENT)
    assert SYNCER.finish(60)
    assert steps == [("fsync", NAME, 3), ("fsync", tmp_path.name, 0)]


def test_one_that_is_exactly_as_old_as_that_is_not_swept(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    os.utime(tmp_path / NAME, (1000, 1000))
    meta_file.sweep(str(tmp_path), "p-", (), 1000)
    assert (tmp_path / NAME).exists()
    meta_file.sweep(str(tmp_path), "p-", (), 1001)
    assert not (tmp_path / NAME).exists()


@needs_root
def test_what_a_stranger_has_made_is_neither_swept_nor_used_for_a_draft(tmp_path: Path) -> None:
    draft, other = (open_to_all(tmp_path) / name for name in (f".{NAME}.{os.getpid()}", f"{SEGMENT.next().stem}.meta"))
    for path in (draft, other):
        path.write_text("precious")
        os.chown(path, NOBODY, NOBODY)
    meta_file.create(site(tmp_path, "old"), SEGMENT)
    meta_file.rewrite(site(tmp_path, "new"), SEGMENT)
    meta_file.sweep(str(tmp_path), "p-", (SEGMENT.next().stem,), 2e9)
    assert draft.read_text() == other.read_text() == "precious"

"""The file beside each segment."""

import errno
import os
from pathlib import Path

import pytest

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.errors import StorageError
from sipdump_core.lifecycle import meta_file
from sipdump_core.segment import Segment
from tests.steps import steps_of
from tests.strangers import NOBODY, needs_root, open_to_all

SEGMENT = Segment("t-", "2026-11-22--23-31-00")
NAME = "t-2026-11-22--23-31-00.meta"


def site(folder: Path, text: str = "v: 1.0\n", sync: float = 0) -> Site:
    return Site(str(folder), "t-", meta=lambda: text, sync=sync)


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_written_leaves_nothing_and_frees_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left"):
            meta_file.create(site(tmp_path), SEGMENT)
    assert os.listdir(tmp_path) == []


def test_the_old_one_stays_if_its_successor_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta_file.create(site(tmp_path, "old"), SEGMENT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left"):
            meta_file.rewrite(site(tmp_path, "new"), SEGMENT)
    assert os.listdir(tmp_path) == [NAME]
    assert (tmp_path / NAME).read_text() == "old"
    meta_file.rewrite(site(tmp_path, "new"), SEGMENT)
    assert (tmp_path / NAME).read_text() == "new"


def test_it_is_synced_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = steps_of(monkeypatch)
    meta_file.create(site(tmp_path, "v: 1.0\n", sync=1), SEGMENT)
    assert SYNCER.finish(10)
    assert steps == [("fsync", NAME, 7), ("fsync", tmp_path.name, 0)]


def test_a_name_is_claimed_that_is_free_under_every_suffix(tmp_path: Path) -> None:
    (tmp_path / "t-2026-11-22--23-31-00.pcap").touch()
    (tmp_path / "t-2026-11-22--23-31-00-1.meta").write_text("of another segment")
    (tmp_path / "t-2026-11-22--23-31-00-2.data").symlink_to("nowhere")
    claimed = meta_file.claim(site(tmp_path), SEGMENT, [".data", ".pcap"])
    assert claimed.sequence == 3
    assert (tmp_path / "t-2026-11-22--23-31-00-1.meta").read_text() == "of another segment"


@pytest.mark.parametrize("name", [NAME, "t-2026-11-22--23-31-00-7.meta"])
def test_what_stands_beside_a_segment_or_is_young_is_not_swept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (1000, 1000))
    stem = name.removesuffix(".meta")
    meta_file.sweep(str(tmp_path), "t-", (), 1000)
    assert (tmp_path / name).exists(), "it is as young as that"
    (tmp_path / f"{stem}.data").touch()
    meta_file.sweep(str(tmp_path), "t-", (stem,), 2000)
    assert (tmp_path / name).exists(), "a segment is there"
    (tmp_path / f"{stem}.data").unlink()
    meta_file.sweep(str(tmp_path), "t-", (), 1001)
    assert not (tmp_path / name).exists()


@needs_root
def test_what_a_stranger_has_put_there_is_not_swept(tmp_path: Path) -> None:
    path = open_to_all(tmp_path) / NAME
    path.touch()
    os.chown(path, NOBODY, NOBODY)
    meta_file.sweep(str(tmp_path), "t-", (SEGMENT.stem,), 2e9)
    assert path.exists()


@needs_root
def test_a_draft_that_a_stranger_has_made_is_neither_used_nor_removed(tmp_path: Path) -> None:
    draft = open_to_all(tmp_path) / f".{NAME}.{os.getpid()}"
    draft.write_text("precious")
    os.chown(draft, NOBODY, NOBODY)
    meta_file.create(site(tmp_path, "old"), SEGMENT)
    meta_file.rewrite(site(tmp_path, "new"), SEGMENT)
    assert draft.read_text() == "precious"
    assert (tmp_path / NAME).read_text() == "new"

"""Rotation and retention."""

import os
from pathlib import Path

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.errors import StorageError
from sipdump_core.lifecycle.retention import prune
from sipdump_core.lifecycle.rotation import Rotation
from sipdump_core.segment import Segment
from sipdump_text import TextBackend
from tests.support import record

DAY = 86400


def test_rotation_by_time() -> None:
    rotation = Rotation(7200)
    rotation.begin(50.0)
    assert rotation.deadline == 7250.0
    assert rotation.take([record()] * 1000) == 1000


def test_rotation_by_records_is_exact() -> None:
    rotation = Rotation(7200, records=5)
    assert [rotation.take([record()] * 3) for _ in range(3)] == [3, 2, 0]
    rotation.begin(0)
    assert rotation.take([record()] * 9) == 5


def test_rotation_by_size_counts_the_largest_file_and_never_refuses_the_first_record() -> None:
    rotation = Rotation(7200, size=100, sizes=[lambda r: len(r.buf), lambda r: 2 * len(r.buf)])
    assert rotation.take([record(b"x" * 20)] * 9) == 2  # 2 * 20 * 2 = 80, a third would make 120
    assert rotation.take([record(b"x" * 20)]) == 0
    rotation.begin(0)
    assert rotation.take([record(b"x" * 999), record(b"x")]) == 1
    rotation.begin(0)
    assert rotation.take([record(b"x" * 50), record(b"x")]) == 1


def test_rotation_by_size_counts_what_a_file_begins_with() -> None:
    rotation = Rotation(7200, size=100, sizes=[lambda r: len(r.buf)], preambles=[24])
    rotation.begin(0)
    assert rotation.take([record(b"x" * 20)] * 9) == 3


@pytest.fixture
def backend(tmp_path: Path) -> TextBackend:
    return TextBackend(NoOptions(), Site(str(tmp_path), "p-"))


def put(folder: Path, name: str, modified: float) -> Path:
    path = folder / name
    path.write_bytes(b"x" * 10)
    os.utime(path, (modified, modified))
    return path


def test_prune_takes_what_is_old_and_ours(backend: TextBackend, tmp_path: Path) -> None:
    now = Segment("p-", "2026-11-22--00-00-00").start
    old = put(tmp_path, "p-2026-11-18--00-00-00.data", now - 3 * DAY)
    put(tmp_path, "p-2026-11-18--00-00-00.meta", now)
    put(tmp_path, "p-2026-11-18--00-00-01.meta", now - 3 * DAY)  # stands alone, and is old
    kept = [
        put(tmp_path, name, now - 3 * DAY)
        for name in ("p-x.data", "q-2026-11-18--00-00-00.data", "p-2026-11-18--00-00-05.pcap", "p-notes.meta")
    ]
    kept.append(put(tmp_path, "p-2026-11-18--00-00-05.meta", now - 3 * DAY))  # beside a .pcap that is not pruned here
    kept.append(put(tmp_path, "p-2026-11-20--12-00-00.data", now - DAY))
    kept.append(put(tmp_path, "p-2026-11-21--12-00-00.meta", now - DAY / 2))
    (dry,) = prune([backend], 2 * DAY, now=now, dry_run=True)
    assert old.exists()
    (pruned,) = prune([backend], 2 * DAY, now=now)
    assert dry == pruned
    assert (pruned.stored.location, pruned.stored.size, pruned.error) == (str(old), 10, None)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert not list(prune([backend], 2 * DAY, now=now))


def test_age_is_that_of_the_last_write_whatever_the_name_says(backend: TextBackend, tmp_path: Path) -> None:
    """The name is the start, by a clock and in a zone that may not be ours."""
    now = Segment("p-", "2026-11-22--00-00-00").start
    put(tmp_path, "p-1970-01-01--00-00-10.data", now - 5)
    assert not list(prune([backend], DAY, now=now))
    put(tmp_path, "p-2026-11-21--23-59-59.data", now - 2 * DAY)
    assert len(list(prune([backend], DAY, now=now))) == 1


def test_prune_never_takes_the_open_segment(backend: TextBackend, tmp_path: Path) -> None:
    segment = Segment("p-", "2020-01-01--00-00-00", 0, ".data")
    backend.open(segment)
    backend.write([record()])
    os.utime(tmp_path / segment.name, (0, 0))
    other = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    assert not list(prune([other], 1))
    backend.close()
    os.utime(tmp_path / segment.name, (0, 0))
    assert len(list(prune([other], 1))) == 1


def test_prune_goes_on_behind_a_segment_that_cannot_be_deleted(
    backend: TextBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(tmp_path, "p-2026-01-01--00-00-00.data", 0)
    second = put(tmp_path, "p-2026-01-01--00-00-01.data", 0)
    unlink = os.unlink

    def refuse(path: str) -> None:
        if path == str(first):
            raise PermissionError(1, "Operation not permitted")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    one, two = prune([backend], 1)
    assert isinstance(one.error, StorageError)
    assert "delete" in str(one.error)
    assert two.error is None
    assert first.exists()
    assert not second.exists()


def test_a_folder_that_is_gone_is_a_storage_error() -> None:
    gone = TextBackend(NoOptions(), Site("/nonexistent", "p-"))
    with pytest.raises(StorageError, match="list /nonexistent: No such file or directory"):
        list(prune([gone], 1))


def test_thousands_of_segments_are_pruned_quickly(backend: TextBackend, tmp_path: Path) -> None:
    for n in range(2000):
        stamp = f"p-2026-01-01--{n // 3600:02}-{n // 60 % 60:02}-{n % 60:02}"
        put(tmp_path, stamp + ".data", 0)
        put(tmp_path, stamp + ".meta", 0)
    assert sum(1 for _ in prune([backend], 1)) == 2000
    assert not list(tmp_path.iterdir())

"""What happens between the close of a segment and its Parquet file."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sipdump_core.drivers.base import Site
from sipdump_core.errors import StorageError, StorageFullError
from sipdump_core.pipeline import journal
from sipdump_core.record import Record
from sipdump_parquet import ParquetBackend, conversion, sealer
from sipdump_parquet.options import WAL_SUFFIX, ParquetOptions
from sipdump_parquet.table import Builder
from tests.backends.parquet.support import SEGMENT, SMALL, calls, make, read, sealed
from tests.support import record, wait_for


def test_an_open_segment_is_taken_bit_by_bit(tmp_path: Path) -> None:
    """The reader goes no further than it is told; what it takes early and what it takes at last make one file."""
    batch = calls(40, size=500)
    backend = make(tmp_path, memory=SMALL)
    backend.open(SEGMENT)
    early = None
    for at in range(0, len(batch), 10):
        backend.write(batch[at : at + 10])
        early = early or conversion.Conversion(str(tmp_path / (SEGMENT.stem + WAL_SUFFIX)), backend.opts, str(tmp_path))
        size = os.stat(early.path).st_size
        early.take(size - 1)
        assert early.sorter.rows == at, "the last frame goes over the limit"
        early.take(size)
        assert early.sorter.rows == at + 10
    backend.close()
    assert early
    done = conversion.seal(SEGMENT, backend.opts, backend.site, early)
    assert done
    assert done.records == len(batch)
    assert read(tmp_path) == batch


def test_the_background_takes_what_has_gathered(tmp_path: Path) -> None:
    batch = calls(300, size=700)
    backend = make(tmp_path, memory=SMALL)
    backend.start()
    backend.open(SEGMENT)
    before = temporary_files()
    for at in range(0, len(batch), 100):
        backend.write(batch[at : at + 100])
    wait_for(lambda: temporary_files() > before)
    backend.close()
    backend.stop()
    assert temporary_files() == before
    assert read(tmp_path) == batch


def temporary_files() -> int:
    """How many open files of this process have no name."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += "(deleted)" in os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    return count


def test_without_memory_for_early_runs_all_is_done_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = []

    def no_space(*args: Any, **kwargs: Any) -> Any:
        failed.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    batch = calls(100, size=700)
    backend = make(tmp_path, memory=SMALL)
    backend.start()
    backend.open(SEGMENT)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", no_space)
        backend.write(batch[:300])
        wait_for(lambda: failed)
        backend.write(batch[300:])
    backend.close()
    backend.stop()
    assert read(tmp_path) == batch
    assert sealed(tmp_path) == [SEGMENT.name]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer, "_BACKOFF", (0.01, 0.05))


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_sealed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(tmp_path)
    backend.start()
    backend.open(SEGMENT)
    backend.write([record()])

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        backend.close()
        health = wait_for(backend.health)
        assert health.startswith("1 segments cannot be sealed: publish ")
        assert "No space left" in health
        assert read(tmp_path) == [record()]
    wait_for(lambda: sealed(tmp_path) == [SEGMENT.name])
    wait_for(lambda: not backend.health())
    backend.stop()
    assert os.listdir(tmp_path) == [SEGMENT.name]


@pytest.mark.usefixtures("quick")
def test_what_the_disk_refuses_is_tried_for_as_long_as_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the contents, and nothing is put aside for it."""
    refusals = iter(range(2 * sealer.ATTEMPTS))
    real = os.fsync

    def fsync(fd: int) -> None:
        if next(refusals, None) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    backend = make(tmp_path)
    backend.start()
    backend.open(SEGMENT)
    backend.write([record()])
    backend.close()
    try:
        wait_for(lambda: os.listdir(tmp_path) == [SEGMENT.name])
    finally:
        backend.stop()


def test_the_time_between_two_tries_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(tmp_path)
    made = sealer.Sealer(backend.opts, backend.site, [])
    made.stop()
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    job = sealer._Job(SEGMENT)
    waits = []
    for _ in range(12):
        made._failed(job, "path", StorageError("seal", "path", "a test"))
        waits.append(job.due - 1000.0)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_many_small_batches_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little traffic each batch is a record, and a table costs much however little it holds."""
    rows: list[int] = []
    real = Builder.table

    def count(self: Builder, columns: journal.Columns, first: int) -> Any:
        rows.append(len(columns.times))
        return real(self, columns, first)

    monkeypatch.setattr(Builder, "table", count)
    batch = [record(b"%d" % n, src_port=n % 7 + 1, time_us=n) for n in range(9000)]
    backend = make(tmp_path)
    backend.start()
    backend.open(SEGMENT)
    for one in batch:
        backend.write([one])
    backend.close()
    backend.stop()
    assert read(tmp_path) == batch
    assert sum(rows) == 9000
    assert len(rows) == 3


def test_the_time_of_a_file_is_that_of_its_last_record(tmp_path: Path) -> None:
    tables = iter(["v: 1\n", "v: 2\n"])
    backend = ParquetBackend(ParquetOptions(), Site(str(tmp_path), SEGMENT.prefix, meta=lambda: next(tables)))
    backend.start()
    backend.open(SEGMENT)
    backend.write([record()])
    wal = tmp_path / (SEGMENT.stem + WAL_SUFFIX)
    os.utime(wal, (1_000_000_000, 1_000_000_000))
    backend.close()
    backend.stop()
    (stored,) = backend.segments()
    assert stored.modified == 1_000_000_000
    assert pq.read_metadata(stored.location).metadata[b"sipdump.meta"] == b"v: 2\n"


@pytest.mark.usefixtures("quick")
def test_what_no_try_can_seal_is_kept_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours, which comes again each time, must hold up nothing else."""
    real = Builder.table
    faults = []

    def fault(self: Builder, columns: journal.Columns, first: int) -> Any:
        if b"poison" in columns.payload:
            faults.append((tmp_path / f"{SEGMENT.stem}{WAL_SUFFIX}").exists())
            raise RuntimeError("a bug")
        return real(self, columns, first)

    monkeypatch.setattr(Builder, "table", fault)
    backend = make(tmp_path)
    backend.start()
    aside = tmp_path / f"{SEGMENT.stem}{WAL_SUFFIX}.damaged"
    aside.write_bytes(b"of an earlier time")
    for segment, buf in ((SEGMENT, b"poison"), (SEGMENT.next(), b"good")):
        backend.open(segment)
        backend.write([record(buf)])
        backend.close()
    kept = Path(f"{aside}-1")
    wait_for(lambda: kept.exists() and not backend.health())
    backend.stop()
    assert sealed(tmp_path) == [SEGMENT.next().name]
    assert faults == [True] * sealer.ATTEMPTS
    assert aside.read_bytes() == b"of an earlier time"
    with kept.open("rb") as file:
        assert [one.buf for one in journal.Journal(backend.site).decode(file)] == [b"poison"]
    assert not list(make(tmp_path).recover()), "it is not taken up again"


def test_a_disk_that_cannot_sync_ends_the_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def fdatasync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    backend = make(tmp_path, sync=1)
    backend.start()
    backend.open(SEGMENT)
    backend.write([record(b"first")])
    wait_for(lambda: backend._journal._synced and backend._journal._synced.error)
    count = len(synced)
    with pytest.raises(StorageError, match="I/O error"):
        backend.write([record(b"second")])
    backend.close()
    backend.open(SEGMENT.next())
    backend.write([record(b"third")])  # a fresh file is tried afresh
    backend.close()
    backend.stop()
    assert count == 1, "a file that failed is not synced again"
    assert read(tmp_path)[0].buf == b"first"
    assert read(tmp_path, SEGMENT.next()) == [record(b"third")]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1m tmpfs '{place}' 2>/dev/null"):
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    os.system(f"umount '{place}'")


@pytest.mark.usefixtures("quick")
def test_a_full_disk_costs_nothing_that_was_taken(tiny: Path) -> None:
    backend = make(tiny)
    backend.start()
    backend.open(SEGMENT)
    stored: list[Record] = []
    with contextlib.suppress(StorageFullError):
        while len(stored) < 10_000:
            batch = [record(os.urandom(2000), time_us=len(stored))]  # no compression makes room
            backend.write(batch)
            stored += batch
    assert 100 < len(stored) < 10_000
    assert read(tiny) == stored
    backend.close()
    health = wait_for(backend.health)
    assert "free space" in health
    assert read(tiny) == stored
    wait_for(lambda: os.listdir(tiny) == [SEGMENT.stem + WAL_SUFFIX])  # nothing half-made is left, between two tries
    os.system(f"mount -o remount,size=4m '{tiny}'")
    wait_for(lambda: sealed(tiny) == [SEGMENT.name])
    wait_for(lambda: not backend.health())
    backend.stop()
    assert read(tiny) == stored

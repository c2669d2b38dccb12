"""The order of steps in which Parquet files are made, so that a crash of the machine at any moment loses nothing.

A process that is killed (see test_crash) leaves all that it wrote; a machine leaves what was synced.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.errors import StorageError
from sipdump_parquet import ParquetBackend, files
from sipdump_parquet.options import WAL_SUFFIX, ParquetOptions
from tests.backends.parquet.support import SEGMENT, calls, leave, make, read, sealed, write
from tests.steps import steps_of
from tests.support import record, wait_for


def test_a_write_ahead_file_goes_when_its_parquet_file_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = leave(tmp_path, [record(b"1"), record(b"2")])
    length = wal.stat().st_size
    steps = steps_of(monkeypatch)
    list(make(tmp_path).recover())
    size = (tmp_path / SEGMENT.name).stat().st_size
    draft = f".{SEGMENT.stem}.parquet.tmp"
    assert steps == [
        ("fdatasync", wal.name, length),
        ("fsync", draft, size),
        ("link", draft, size),
        ("unlink", draft, size),
        ("fsync", tmp_path.name, 0),
        ("unlink", wal.name, length),
    ]


def test_what_was_damaged_is_kept_before_the_parquet_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = leave(tmp_path, [record(b"first")], [record(b"second")], [record(b"third")])
    wal.write_bytes(wal.read_bytes().replace(b"second", b"sesond"))
    steps = steps_of(monkeypatch)
    list(make(tmp_path).recover())
    links = [name for call, name, _ in steps if call == "link"]
    assert links == [wal.name, f".{SEGMENT.stem}.parquet.tmp"]


def test_sources_go_when_what_was_merged_of_them_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [SEGMENT, SEGMENT.next()]
    for segment in sources:
        write(tmp_path, calls(20), segment=segment)
    steps = steps_of(monkeypatch)
    (done,) = make(tmp_path).compact(min_age=0)
    size = Path(done.location).stat().st_size
    draft = f".{sources[-1].stem}.parquet.merge"
    at = steps.index(("link", draft, size))
    assert ("fsync", draft, size) in steps[:at]
    assert [(call, name) for call, name, _ in steps[at:]] == [
        ("link", draft),
        ("fsync", tmp_path.name),
        ("unlink", draft),
        ("unlink", sources[0].name),
        ("unlink", sources[1].name),
    ]


@pytest.mark.parametrize("options", [ParquetOptions(), ParquetOptions(sync=1)])
def test_a_write_ahead_file_and_its_name_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: ParquetOptions
) -> None:
    """By the option of the core, or by this backend's own."""
    backend = ParquetBackend(options, Site(str(tmp_path), "t-", sync=0 if options.sync > 0 else 0.01))
    steps = steps_of(monkeypatch)
    backend.open(SEGMENT)
    backend.write([record(b"1")])
    wal = SEGMENT.stem + WAL_SUFFIX
    size = (tmp_path / wal).stat().st_size
    wait_for(lambda: [("fdatasync", wal, size), ("fsync", tmp_path.name, 0)] == steps)
    backend.forget()
    assert SYNCER.finish(60)


def lose_rows(tables: Iterator[Any], _: ParquetOptions) -> Iterator[Any]:
    for table in tables:
        yield table.slice(1)


def test_a_parquet_file_that_lacks_rows_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = leave(tmp_path, [record(b"1"), record(b"2")])
    with monkeypatch.context() as patch:
        patch.setattr(files, "_row_groups", lose_rows)
        (done,) = make(tmp_path).recover()
    assert "it has 1 rows of 2" in str(done.error)
    assert os.listdir(tmp_path) == [wal.name]
    (done,) = make(tmp_path).recover()
    assert done.records == 2
    assert sealed(tmp_path) == [SEGMENT.name]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_page_that_changed_is_an_error_whoever_reads_it(tmp_path: Path, compression: str) -> None:
    """Without compression nothing but the page's checksum tells."""
    path = write(tmp_path, [record(b"a call" + b"x" * 500)], compression=compression)
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).names.index("buf"))
    data[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError):
        read(tmp_path, compression=compression)
    backend = make(tmp_path, compression=compression)
    (stored,) = backend.segments()
    with pytest.raises(StorageError, match="checksum"):
        list(backend.search(stored, Query(greps="a call")))

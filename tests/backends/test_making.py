"""How files are made: with no more rights than they shall have, never through a link, never over another file."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.lifecycle import meta_file
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions
from sipdump_pcap import PcapBackend
from sipdump_text import TextBackend
from tests.support import record

MODE = 0o604
STAMP = "2026-11-22--23-31-00"


class Made(dict[str, tuple[int, int]]):
    """Flags and mode of every file that was made with ``os.open``, by its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        real = os.open

        def opened(path: Any, flags: int, mode: int = 0o777, **where: Any) -> int:
            if flags & os.O_CREAT:
                self[os.path.basename(path)] = flags, mode
            return real(path, flags, mode, **where)

        monkeypatch.setattr(os, "open", opened)

    def check(self, *ends: str) -> None:
        assert sorted(next((end for end in ends if name.endswith(end)), name) for name in self) == sorted(ends)
        for name, (flags, mode) in self.items():
            assert stat.S_IMODE(mode) & 0o777 & ~MODE == 0, f"{name}: {mode:o}"
            assert flags & os.O_EXCL, name
            assert flags & os.O_NOFOLLOW, name
            assert flags & os.O_CLOEXEC, name


def backend_of(cls: type[FolderBackend], folder: Path) -> FolderBackend:
    options = ParquetOptions() if cls is ParquetBackend else NoOptions()
    return cls(options, Site(str(folder), "t-", MODE, lambda: "v: 1.0\n", sync=1))


@pytest.fixture(autouse=True)
def _no_umask() -> Any:
    umask = os.umask(0)
    yield
    os.umask(umask)


@pytest.mark.parametrize("cls", [TextBackend, PcapBackend])
def test_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type[FolderBackend]) -> None:
    made = Made(monkeypatch)
    backend = backend_of(cls, tmp_path)
    segment = Segment("t-", STAMP, 0, backend.suffix)
    backend.open(segment)
    backend.write([record(b"1")])
    backend.close()
    assert SYNCER.finish(60)
    made.check(backend.suffix)
    assert stat.S_IMODE((tmp_path / segment.name).stat().st_mode) == MODE


def test_without_a_word_of_modes_others_may_not_read_it(tmp_path: Path) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "t-"))
    segment = Segment("t-", STAMP, 0, backend.suffix)
    backend.open(segment)
    backend.write([record(b"1")])
    backend.close()
    assert stat.S_IMODE((tmp_path / segment.name).stat().st_mode) == 0o640


def test_a_parquet_file_and_all_on_the_way_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch)
    backend = backend_of(ParquetBackend, tmp_path)
    assert isinstance(backend, ParquetBackend)
    backend.start()
    for number in range(2):
        backend.open(Segment("t-", STAMP, number, ".parquet"))
        backend.write([record(b"1")])
        backend.close()
    backend.stop()
    assert [stored.records for stored in backend.segments()] == [1, 1]
    (done,) = backend.compact(min_age=0)
    assert done.error is None
    stem = f"t-{STAMP}"
    made.check(
        f"{stem}.parquet.wal", f"{stem}-1.parquet.wal", f".{stem}.parquet.tmp", f".{stem}-1.parquet.tmp",
        f".{stem}-1.parquet.merge",
    )  # fmt: skip
    assert stat.S_IMODE(os.stat(done.location).st_mode) == MODE


def test_a_process_table_and_its_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch)
    site = Site(str(tmp_path), "t-", MODE, lambda: "v: 1.0\n")
    segment = Segment("t-", STAMP, 0, "")
    meta_file.create(site, segment)
    meta_file.rewrite(site, segment)
    made.check(".meta", f".meta.{os.getpid()}")
    assert stat.S_IMODE((tmp_path / f"t-{STAMP}.meta").stat().st_mode) == MODE

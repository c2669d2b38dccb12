"""The Parquet backend: ``.parquet`` files, sorted for search, made of a write-ahead file that survives any crash.

What is written goes into ``<stem>.parquet.wal``, a :mod:`sipdump_core.pipeline.journal`, at once. A background thread
turns it into the Parquet file when the segment is closed, and finishes at the next start what a crash left. pyarrow is
imported there and not here: this module is loaded by every start of sipdump.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import attrs

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Compacted, Recovered
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import ClosedError, ConfigError, SegmentExistsError, StorageError
from sipdump_core.pipeline.journal import Journal
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.settings.options import at_least, in_range, one_of, option
from sipdump_parquet.fields import FIELDS
from sipdump_parquet.sync import Syncer

if TYPE_CHECKING:
    from sipdump_parquet.sealer import Sealer

__all__ = ["COLUMNS", "WAL_SUFFIX", "ParquetBackend", "ParquetOptions"]

COLUMNS = (
    "seq", "time", "tag", "pid", "procno", "proto", "af", "src_ip", "src_port", "dst_ip", "dst_port", "node",
    *FIELDS, "buf",
)  # fmt: skip
"""The columns of a file, in their order."""

WAL_SUFFIX = ".parquet.wal"

_REQUIRED = ("seq", "time")
_LEVELS = {"zstd": 22, "gzip": 9}
"""The highest level of the codecs that have any."""


@attrs.frozen
class ParquetOptions:
    """Options of the Parquet backend."""

    compression: str = option(
        "zstd",
        help="codec of the pages: zstd, gzip, snappy, lz4, none",
        check=one_of("zstd", "gzip", "snappy", "lz4", "none"),
    )
    level: int = option(3, help="how hard zstd (1 to 22) or gzip (1 to 9) tries; the others have no levels",
                        check=in_range(1, 22))  # fmt: skip
    row_group_records: int = option(
        100_000, unit="records", help="a row group ends after so many, or when it has `memory` bytes", check=at_least(1)
    )
    columns: str = option("", help="columns to write, with commas between; empty: all. seq and time must be among them")
    memory: int = option(
        64 << 20,
        unit="bytes",
        help="of records held at once while a segment is put together; at work it is about four times as much",
        check=in_range(1 << 22, 1 << 29),
    )
    sync: int = option(
        1,
        unit="seconds",
        help="between two fdatasync of the write-ahead file; 0: left to the kernel",
        check=at_least(0),
    )

    @property
    def names(self) -> list[str]:
        """The columns that are written, in their order in the file."""
        wanted = {name.strip() for name in self.columns.split(",")} if self.columns.strip() else set(COLUMNS)
        return [name for name in COLUMNS if name in wanted]

    @property
    def keys(self) -> list[str]:
        """What a file is sorted by."""
        return [name for name in ("call_id", "time", "seq") if name in self.names]

    @property
    def compression_level(self) -> int | None:
        """The level, for the codecs that have one."""
        return self.level if self.compression in _LEVELS else None

    def check(self) -> None:
        """Check what one option alone does not tell.

        Raises:
            ConfigError: an unknown column, one that must be there is missing, or a level that the codec lacks.
        """
        given = [name.strip() for name in self.columns.split(",")] if self.columns.strip() else list(COLUMNS)
        unknown = [name for name in given if name not in COLUMNS]
        if unknown:
            raise ConfigError(f"columns: there is no column {unknown[0]!r}; there are: {', '.join(COLUMNS)}")
        missing = [name for name in _REQUIRED if name not in given]
        if missing:
            raise ConfigError(f"columns: {' and '.join(missing)} must be among them: records are ordered by them")
        highest = _LEVELS.get(self.compression, self.level)
        if self.level > highest:
            raise ConfigError(f"level: must be 1 to {highest} with {self.compression}")


class ParquetBackend(FolderBackend):
    """Writes and reads ``.parquet`` files."""

    name = "parquet"
    flag = 16
    suffix = ".parquet"
    options = ParquetOptions
    requires = ("pyarrow",)

    def __init__(self, options: ParquetOptions, site: Site) -> None:
        options.check()
        super().__init__(options, site)
        self._journal = Journal(site, WAL_SUFFIX)
        self._sealer: Sealer | None = None
        self._syncer: Syncer | None = None

    def start(self) -> None:
        """Begin to seal in the background, first what an earlier run left."""
        from sipdump_parquet.sealer import Sealer  # noqa: PLC0415 - see the module's docstring

        self.stop()
        self._sealer = Sealer(self.opts, self.site, [stored.segment for stored in self._waiting()])
        if self.opts.sync:
            self._syncer = Syncer(self.opts.sync)

    def stop(self) -> None:
        """Seal what is closed, and end; what cannot be sealed now stays for the next start."""
        if self._syncer:
            self._syncer.stop()
            self._syncer = None
        if self._sealer:
            self._sealer.stop()
            self._sealer = None

    def health(self) -> str:
        """Say what keeps closed segments from being sealed."""
        sealer = self._sealer
        return sealer.health() if sealer else ""

    def open(self, segment: Segment) -> None:
        """Begin a write-ahead file, unless it or a Parquet file of that name is there."""
        self.close()
        self._segment = segment
        self._journal.open(attrs.evolve(segment, suffix=WAL_SUFFIX))
        self._written = False
        self._noted = ""
        path = os.path.join(self.site.folder, segment.name)
        try:
            # looked for only now, so that of two writers one sees the other
            if os.path.lexists(path):
                raise SegmentExistsError("open", path, "File exists")
            self._note()
        except StorageError:
            self._journal.close()  # without records it is removed
            raise
        if self._syncer:
            self._syncer.watch(self._journal.fileno(), self._journal.path)

    def write(self, batch: Sequence[Record]) -> None:
        """Append a batch to the write-ahead file."""
        if self._journal.fileno() < 0:
            raise ClosedError(f"write to the backend {self.name}: no segment is open")
        if self._syncer:
            self._syncer.check()
        self._journal.write(batch)
        self._written = True
        if self._sealer:
            self._sealer.grown(self._journal.path, self._journal.size)

    def close(self) -> None:
        """Close the write-ahead file; the Parquet file is made of it in the background."""
        if self._journal.fileno() < 0:
            return
        if self._syncer:
            self._syncer.release()
        if self._written:
            with contextlib.suppress(StorageError):  # the table as it was at the open is there
                self._note()
        try:
            self._journal.close()
        finally:
            if self._written and self._sealer:
                self._sealer.closed(self._segment)

    def forget(self) -> None:
        """Let go of the open segment and of the threads, which belong to the process that this one was forked from."""
        self._journal.forget()
        self._sealer = self._syncer = None

    def segments(self) -> Iterable[StoredSegment]:
        """List the files, and the write-ahead files that none was made of yet as open segments."""
        waiting = {stored.segment: stored for stored in self._waiting()}
        # after the others: meanwhile a Parquet file may have taken the place of a write-ahead file, never the reverse
        waiting |= {stored.segment: stored for stored in super().segments()}
        yield from sorted(waiting.values(), key=lambda stored: stored.segment)

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """Read a segment's records again, in the order of their arrival, sealed or not."""
        wal = self._wal(stored.segment)
        if not os.path.lexists(os.path.join(self.site.folder, stored.segment.name)):
            try:
                with open(wal, "rb") as file:
                    yield from self._journal.decode(file)
                    return
            except FileNotFoundError:
                pass  # sealed meanwhile
            except OSError as error:
                raise StorageError.from_os("read", wal, error) from error
        yield from super().read(stored)

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Give the records of an open Parquet file in the order of their arrival."""
        from sipdump_parquet.files import decode  # noqa: PLC0415 - see the module's docstring

        return decode(file, self.opts.memory)

    def delete(self, stored: StoredSegment) -> None:
        """Delete a sealed file."""
        if os.path.lexists(self._wal(stored.segment)):  # the records would come back with it
            raise StorageError("delete", self._wal(stored.segment), "it is not sealed yet")
        super().delete(stored)

    def recover(self) -> Iterator[Recovered]:
        """Make Parquet files of the write-ahead files that nobody holds open, and yield what became of each.

        Raises:
            StorageError: the folder cannot be listed.
        """
        left = [stored.segment for stored in self._waiting()]
        if not left:  # then pyarrow need not be there
            return iter(())
        from sipdump_parquet.sealer import recover  # noqa: PLC0415 - see the module's docstring

        return recover(left, self.opts, self.site)

    def merge(self, paths: Sequence[str], target: str) -> int:
        """Merge Parquet files into one, sorted, durable and checked.

        Args:
            paths: the files, oldest first: ``seq`` goes on from one to the next.
            target: the path of the new file.

        Returns:
            How many records it holds.

        Raises:
            SegmentExistsError: there is a file of that name.
            StorageError: a file cannot be read, or the new one cannot be written; it is not there then.
        """
        from sipdump_parquet.compaction import merge  # noqa: PLC0415 - see the module's docstring

        return merge(paths, target, self.opts, self.site)

    def compact(
        self,
        *,
        target_size: int = 128 << 20,
        min_age: float | None = None,
        partition: str = "",
        dry_run: bool = False,
        now: float | None = None,
    ) -> Iterator[Compacted]:
        """Merge small sealed files of one hour, and yield what became of each group.

        Args:
            target_size: bytes; larger files are left alone, and no more is put together than this.
            min_age: seconds since a file's last write, or it is left alone; by default twice ``rotate``.
            partition: only this one, as ``date=2026-11-22/hour=23`` or ``date=2026-11-22``, in UTC; empty: all.
            dry_run: yield what would be done, and do nothing.
            now: the time to count from, seconds since the epoch.

        Raises:
            StorageError: the folder cannot be listed, or another compaction is under way there.
        """
        if not any(stored.sealed for stored in self.segments()):  # then pyarrow need not be there
            return iter(())
        from sipdump_parquet.compaction import compact  # noqa: PLC0415 - see the module's docstring

        age = 2 * self.site.rotate if min_age is None else min_age
        now = time.time() if now is None else now
        return compact(self, target_size=target_size, min_age=age, partition=partition, dry_run=dry_run, now=now)

    def _note(self) -> None:
        text = self.site.meta()
        if not text or text == self._noted:
            return
        before = os.fstat(self._journal.fileno())
        self._journal.note(text)
        self._noted = text
        if self._written:  # a file's time is that of its last record, and not of the rotation
            with contextlib.suppress(OSError):
                os.utime(self._journal.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))

    def _wal(self, segment: Segment) -> str:
        return os.path.join(self.site.folder, segment.stem + WAL_SUFFIX)

    def _waiting(self) -> Iterator[StoredSegment]:
        """List the write-ahead files."""
        try:
            names = sorted(os.listdir(self.site.folder))
        except OSError as error:
            raise StorageError.from_os("list", self.site.folder, error) from error
        for name in names:
            found = Segment.parse(name, self.site.prefix, WAL_SUFFIX)
            path = os.path.join(self.site.folder, name)
            with contextlib.suppress(FileNotFoundError):  # sealed meanwhile
                status = os.lstat(path)
                if found and stat.S_ISREG(status.st_mode):
                    segment = attrs.evolve(found, suffix=self.suffix)
                    yield StoredSegment(segment, status.st_size, status.st_mtime, sealed=False, location=path)

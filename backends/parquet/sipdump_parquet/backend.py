"""The Parquet backend: ``.parquet`` files, sorted for search, made of a write-ahead file that survives any crash.

Records go into ``<stem>.parquet.wal``, a :mod:`sipdump_core.pipeline.journal`, at once. A background thread makes the
Parquet file of it when the segment is closed; the next start finishes what a crash left. pyarrow is imported only where
it is needed, because every start of sipdump loads this module.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import attrs

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Compacted, Recovered
from sipdump_core.drivers.folder import FOREIGN, FolderBackend, open_regular
from sipdump_core.errors import ClosedError, SegmentExistsError, SegmentLostError, StorageError
from sipdump_core.log import Event, log
from sipdump_core.ownership import is_ours
from sipdump_core.pipeline.journal import Journal
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_parquet.options import NAME, WAL_SUFFIX, ParquetOptions

if TYPE_CHECKING:
    from sipdump_parquet.sealer import Sealer

__all__ = ["ParquetBackend"]


class ParquetBackend(FolderBackend):
    """Writes and reads ``.parquet`` files."""

    name = NAME
    flag = 16
    suffix = ".parquet"
    options = ParquetOptions
    requires = ("pyarrow",)

    def __init__(self, options: ParquetOptions, site: Site) -> None:
        options.check()
        if options.sync >= 0:
            site = attrs.evolve(site, sync=options.sync)
        super().__init__(options, site)
        self._journal = Journal(site, WAL_SUFFIX)
        self._sealer: Sealer | None = None

    def start(self) -> None:
        """Start sealing in the background, first what an earlier run left."""
        from sipdump_parquet.sealer import Sealer

        self.stop()
        self._sealer = Sealer(self.opts, self.site, self._left())

    def stop(self) -> None:
        """Seal what is closed, and stop; what cannot be sealed now is left for the next start."""
        if self._sealer:
            self._sealer.stop()
            self._sealer = None

    def health(self) -> str:
        """Report what keeps closed segments from being sealed, or files from being synced."""
        sealer = self._sealer
        return (sealer.health() if sealer else "") or super().health()

    def open(self, segment: Segment) -> None:
        """Start a write-ahead file, unless there is one already, or a Parquet file of that name."""
        self.close()
        self._segment = segment
        self._journal.open(attrs.evolve(segment, suffix=WAL_SUFFIX))
        self._written = False
        self._noted = ""
        path = os.path.join(self.site.folder, segment.name)
        try:
            # checked only now, so that one of two writers sees the other
            if os.path.lexists(path):
                raise SegmentExistsError("open", path, "File exists")
            self._note()
        except StorageError:
            self._journal.close()  # which removes it, as it has no records
            raise

    def write(self, batch: Sequence[Record]) -> None:
        """Append a batch to the write-ahead file."""
        if self._journal.fileno() < 0:
            raise ClosedError(f"write to the backend {self.name}: no segment is open")
        self._journal.write(batch)
        self._written = True
        if self._sealer:
            self._sealer.grown(self._journal.path, self._journal.size)

    def check(self) -> None:
        """Look whether the write-ahead file is where it was made, and could be synced."""
        try:
            self._journal.check()
        except SegmentLostError:
            self._written = False  # there is nothing to seal
            raise

    def close(self) -> None:
        """Close the write-ahead file; it becomes a Parquet file in the background."""
        if self._journal.fileno() < 0:
            return
        if self._written:
            with contextlib.suppress(StorageError):  # the process table as of the open is there
                self._note()
        try:
            self._journal.close()
        except SegmentLostError:
            self._written = False  # there is nothing to seal
            raise
        finally:
            if self._written and self._sealer:
                self._sealer.closed(self._segment)

    def forget(self) -> None:
        """Drop the open segment and the threads: they belong to the process that this one was forked from."""
        self._journal.forget()
        self._sealer = None

    def segments(self) -> Iterable[StoredSegment]:
        """List the Parquet files, and as open segments the write-ahead files that have none yet."""
        waiting = {stored.segment: stored for stored in self._waiting()}
        # listed last: meanwhile a Parquet file may have replaced a write-ahead file, never the reverse
        waiting |= {stored.segment: stored for stored in super().segments()}
        yield from sorted(waiting.values(), key=lambda stored: stored.segment)

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """Read a segment's records in the order of their arrival, whether or not it is sealed."""
        wal = self._wal(stored.segment)
        if not os.path.isfile(os.path.join(self.site.folder, stored.segment.name)):
            try:
                with open_regular(wal) as file:
                    yield from self._journal.decode(file)
                    return
            except FileNotFoundError:
                pass  # sealed meanwhile
            except OSError as error:
                raise StorageError.from_os("read", wal, error) from error
        yield from super().read(stored)

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Return the records of an open Parquet file in the order of their arrival."""
        from sipdump_parquet.files import decode

        return decode(file, self.opts.memory)

    def delete(self, stored: StoredSegment) -> None:
        """Delete a sealed file."""
        if is_ours(self._wal(stored.segment)):  # the records would come back with it
            raise StorageError("delete", self._wal(stored.segment), "it is not sealed yet")
        super().delete(stored)

    def recover(self) -> Iterator[Recovered]:
        """Make Parquet files of the write-ahead files that no process has open, and yield what became of each.

        Raises:
            StorageError: the folder cannot be listed.
        """
        left = self._left()
        if not left:  # so that pyarrow need not be installed
            return iter(())
        from sipdump_parquet.conversion import recover

        return recover(left, self.opts, self.site)

    def merge(self, paths: Sequence[str], target: str) -> int:
        """Merge Parquet files into one, sorted, durable and checked.

        Args:
            paths: the files, oldest first; ``seq`` is numbered across them in this order.
            target: the path of the new file.

        Returns:
            How many records it has.

        Raises:
            SegmentExistsError: there is a file of that name.
            StorageError: a file cannot be read, or the new one cannot be written; nothing is left of it then.
        """
        from sipdump_parquet.compaction import merge

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
        if not any(stored.sealed for stored in self.segments()):  # so that pyarrow need not be installed
            return iter(())
        from sipdump_parquet.compaction import Compaction

        return Compaction(self).run(
            target_size=target_size,
            min_age=2 * self.site.rotate if min_age is None else min_age,
            partition=partition,
            dry_run=dry_run,
            now=time.time() if now is None else now,
        )

    def _note(self) -> None:
        text = self.site.meta()
        if not text or text == self._noted:
            return
        before = os.fstat(self._journal.fileno())
        self._journal.note(text)
        self._noted = text
        if self._written:  # a file's time is that of its last record, not that of the rotation
            with contextlib.suppress(OSError):
                os.utime(self._journal.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))

    def _wal(self, segment: Segment) -> str:
        return os.path.join(self.site.folder, segment.stem + WAL_SUFFIX)

    def _left(self) -> list[Segment]:
        """List what is to be sealed; what belongs to others is not."""
        left = []
        for stored in self._waiting():
            if stored.pending == FOREIGN:
                hint = "run sipdump-admin recover as that user"
                log.warning(Event("write-ahead file of another user is left alone", path=stored.location, hint=hint))
            else:
                left.append(stored.segment)
        return left

    def _waiting(self) -> Iterator[StoredSegment]:
        """List the write-ahead files; one that no process has open is pending until its Parquet file is made."""
        for stored in self._journal.segments():
            segment = attrs.evolve(stored.segment, suffix=self.suffix)
            pending = stored.pending or ("unsealed" if stored.sealed else "")
            yield attrs.evolve(stored, segment=segment, sealed=False, pending=pending)

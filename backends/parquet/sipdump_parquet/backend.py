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

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Compacted, Recovered
from sipdump_core.drivers.folder import FolderBackend, open_regular
from sipdump_core.drivers.names import forget_names
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.rewriting import Change, Rewritten
from sipdump_core.errors import ClosedError, SegmentExistsError, SegmentLostError, StorageError
from sipdump_core.log import Event, log
from sipdump_core.ownership import is_ours
from sipdump_core.pipeline.journal import Journal
from sipdump_core.record import Record
from sipdump_core.segment import FOREIGN, Segment, StoredSegment
from sipdump_parquet import wal
from sipdump_parquet.fields import Puller
from sipdump_parquet.options import NAME, WAL_SUFFIX, ParquetOptions
from sipdump_parquet.sealer import Sealer

if TYPE_CHECKING:
    from sipdump_parquet.search import Footer

__all__ = ["ParquetBackend"]

_FOLLOWED = 10_000
"""Records that one call of ``follow`` returns, about."""
_FOOTERS = 100
"""Files whose ends are remembered."""


class ParquetBackend(FolderBackend):
    """Writes and reads ``.parquet`` files."""

    name = NAME
    flag = 16
    suffix = ".parquet"
    options = ParquetOptions
    requires = ("pyarrow",)
    stop_seconds = 30.0  # what is closed is sealed before the end

    def __init__(self, options: ParquetOptions, site: Site) -> None:
        options.check()
        if options.sync >= 0:
            site = attrs.evolve(site, sync=options.sync)
        super().__init__(options, site)
        self._journal = Journal(site, WAL_SUFFIX)
        self._sealer: Sealer | None = None
        self._footers: Cache[object, Footer] = Cache(_FOOTERS)
        self._marks: Cache[tuple[str, int], wal.Mark] = Cache(_FOOTERS)
        """How far write-ahead files were followed, by path and inode."""

    def start(self) -> None:
        """Start sealing in the background, first what an earlier run left."""
        self.stop()
        self._sealer = Sealer(self.opts, self.site, self._left())
        library = Puller(self.opts.own, self.opts.correlate).library()
        log.info(Event("parquet started", fields="native" if library else "python"))

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
        if self._sealer:
            self._sealer.forget()
            self._sealer = None

    def segments(self) -> Iterable[StoredSegment]:
        """List the Parquet files, and as open segments the write-ahead files that have none yet."""
        waiting = {stored.segment.stem: stored for stored in self._waiting()}
        # listed last: meanwhile a Parquet file may have replaced a write-ahead file, never the reverse
        forget_names(self.site.folder)
        found = []
        for stored in super().segments():
            waiting.pop(stored.segment.stem, None)
            found.append(stored)
        found += waiting.values()
        yield from sorted(found, key=lambda stored: (stored.segment.stamp, stored.segment.sequence))

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """Read a segment's records in the order of their arrival, whether or not it is sealed."""
        with self._reading(stored) as (file, is_sealed):
            yield from self.decode(file) if is_sealed else self._journal.decode(file)

    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        """Yield a segment's records that are an answer, those of one call in the order of their arrival."""
        with self._reading(stored) as (file, is_sealed):
            if is_sealed:
                yield from self.search_file(file, query)
            else:
                yield from wal.search(file, query)

    def search_file(self, file: BinaryIO, query: Query) -> Iterator[Record]:
        """Yield an open Parquet file's records that are an answer; see :class:`SearchesFiles`."""
        from sipdump_parquet.search import search

        return search(file, query, self.opts.memory, self._footer(file))

    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        """Return a segment's records behind a place, which is the number of those before it: so sealing moves none."""
        with self._reading(stored) as (file, is_sealed):
            if is_sealed:
                from sipdump_parquet.search import since

                footer = self._footer(file)
                if place < 0:
                    return (), int(footer.metadata.num_rows)
                found = since(file, place, _FOLLOWED, footer)
                return found, place + len(found)
            key = file.name, os.fstat(file.fileno()).st_ino
            mark = self._marks.get(key)
            if mark is None or 0 <= place < mark.count:
                mark = wal.Mark()
            found, mark = wal.follow(file, mark, place, _FOLLOWED)
            self._marks.keep(key, mark)
            return found, max(place, mark.count)

    def united(self, stored: StoredSegment) -> Sequence[Segment]:
        """Return the segments that compactions made a segment of, down to the first ones."""
        with self._reading(stored) as (file, is_sealed):
            names = self.united_in(file) if is_sealed else ()
        found = (Segment.parse(name, self.site.prefix, self.suffix) for name in names)
        return [segment for segment in found if segment]

    def united_in(self, file: BinaryIO) -> Sequence[str]:
        """Return the names of the segments that compactions made an open Parquet file of."""
        from sipdump_parquet.compaction import merged_names

        return merged_names(self._footer(file).metadata, str(getattr(file, "name", "?")))

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Return the records of an open Parquet file in the order of their arrival."""
        from sipdump_parquet.files import decode

        return decode(file, self.opts.memory)

    def delete(self, stored: StoredSegment) -> None:
        """Delete a sealed file."""
        if is_ours(self._wal(stored.segment)):  # the records would come back with it
            raise StorageError("delete", self._wal(stored.segment), "it is not sealed yet")
        super().delete(stored)

    def rewrite(self, stored: StoredSegment, change: Change) -> Rewritten:
        """Replace a sealed file by one without some of its records; its columns, order and metadata stay."""
        if is_ours(self._wal(stored.segment)):  # the records would come back with it
            hint = "start the daemon, or run sipdump-admin recover"
            raise StorageError("rewrite", self._wal(stored.segment), "it is not sealed yet", hint)
        return super().rewrite(stored, change)

    def rewrite_file(self, file: BinaryIO, draft: str, change: Change) -> Rewritten:
        """Write what a change makes of a Parquet file into a new one."""
        from sipdump_parquet.rewriting import rewrite

        return rewrite(file, draft, self.opts, change)

    def count_records(self, file: BinaryIO) -> int:
        """Return how many records a Parquet file has, by its end."""
        from sipdump_parquet.files import rows_of

        return rows_of(file)

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

    def newest(self, stored: StoredSegment) -> int | None:
        """Return the time of a sealed segment's newest record, microseconds since the epoch."""
        with self._reading(stored) as (file, is_sealed):
            return self.newest_in(file) if is_sealed else None

    def newest_in(self, file: BinaryIO) -> int | None:
        """Return the time of an open Parquet file's newest record, by its statistics."""
        from sipdump_parquet.files import newest

        return newest(self._footer(file).metadata)

    @contextlib.contextmanager
    def _reading(self, stored: StoredSegment) -> Iterator[tuple[BinaryIO, bool]]:
        """Open a segment to be read: its Parquet file, or its write-ahead file until there is one.

        Raises:
            StorageError: it cannot be read; also for an ``OSError`` of the block.
        """
        path = os.path.join(self.site.folder, stored.segment.stem + self.suffix)
        waiting = self._wal(stored.segment)
        try:
            with contextlib.ExitStack() as stack:
                # whatever else has the name of a Parquet file is in nobody's way
                for name in (path, waiting) if os.path.isfile(path) else (waiting, path):
                    with contextlib.suppress(FileNotFoundError):
                        yield stack.enter_context(open_regular(name)), name == path
                        return
                yield stack.enter_context(open_regular(path)), True  # sealed meanwhile
        except OSError as error:
            raise StorageError.from_os("read", path, error) from error

    def _footer(self, file: BinaryIO) -> "Footer":
        """Return what a file's end says, from the last time that it was asked if that was the same file."""
        from sipdump_parquet.files import translated
        from sipdump_parquet.search import Footer

        identity = getattr(file, "identity", None)
        if identity is None:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        footer = self._footers.get(identity)
        if footer is None:
            with translated("read", str(getattr(file, "name", "?"))):
                footer = self._footers.keep(identity, Footer.of(file))
        return footer

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

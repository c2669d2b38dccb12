"""The dispatcher: cuts the stream of records into segments, and passes every batch to every backend's lane.

It runs in the writer's thread. It waits for no store, only for the ``.meta`` file, whose creation reserves the name
that the segment's files of all backends share.
"""

import threading
from collections.abc import Callable, Sequence

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.errors import SegmentExistsError, StorageError
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.lifecycle.rotation import Rotation
from sipdump_core.log import Limit
from sipdump_core.pipeline.delivery import STALL
from sipdump_core.pipeline.lane import Lane
from sipdump_core.pipeline.spool import delivery_to
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.core import Params

__all__ = ["Dispatcher"]

_META_EVERY = 1.0


class Dispatcher:
    """Fans batches out to lanes, and rotates all of them together.

    Args:
        params: the core's parameters.
        backends: the backends that mode and name switched on.
        site: where ``.meta`` files are.
        table: the process table for them.
        block: whether a full backlog is waited for.
        clock: the time.
    """

    def __init__(
        self,
        params: Params,
        backends: Sequence[Backend],
        site: Site,
        table: ProcessTable,
        *,
        block: bool,
        clock: Clock,
    ) -> None:
        self.lanes = [
            Lane(delivery_to(backend, clock, params), params.queue, params.queue_bytes, clock) for backend in backends
        ]
        self._site = site
        self._suffixes = [b.suffix for b in backends if isinstance(b, FolderBackend)]
        self._table = table
        self._block = block
        self._clock = clock
        self._rotation = Rotation(
            params.rotate,
            params.rotate_size,
            params.rotate_records,
            [lane.sizes for lane in self.lanes],
            [lane.preamble for lane in self.lanes],
            align=bool(params.rotate_align),
        )
        self.sealed: Callable[[], object] = bool
        """Is called when a segment was sealed."""
        self._segment: Segment | None = None
        self._last: Segment | None = None
        self._losses = 0
        self._abandoned = False
        self._meta_claimed = False
        self._meta_changes = -1
        self._meta_time = 0.0
        self._log = Limit()

    def handle(self, records: Sequence[Record], size: int) -> None:
        """Store records in the open segment and in as many more as they fill.

        Args:
            records: in the order in which they are stored; lanes share them, so nobody may change this sequence.
            size: bytes of their messages.
        """
        self.tick()
        weights = self._rotation.weigh(records)
        at = 0
        while at < len(records):
            if self._segment is None:
                self._open()
            if self._abandoned:
                return
            count = self._rotation.take(len(records) - at, weights[at:])
            if count:
                batch, bytes_of_batch = records, size
                if count < len(records):
                    batch = records[at : at + count]
                    bytes_of_batch = sum([len(record.buf) for record in batch])
                for lane in self.lanes:
                    lane.write(batch, bytes_of_batch, block=self._block)
                at += count
            else:
                self.rotate()

    def tick(self) -> None:
        """Do what is due by time: seal a stale segment, bring the ``.meta`` file up to date."""
        if self._segment is None:
            return
        now = self._clock.monotonic()
        losses = sum([lane.losses for lane in self.lanes])
        if losses != self._losses:  # somebody clears the folder: whatever belongs to this name may be gone
            self._losses = losses
            self.rotate()
        elif self._rotation.due(now, self._clock.time()) <= 0:
            self.rotate()
        elif self._meta_changes != self._table.changes and now - self._meta_time >= _META_EVERY:
            self._write_meta(self._segment)

    def wait(self) -> float | None:
        """Return the seconds until the next ``tick`` is due, None when nothing is open."""
        if self._segment is None:
            return None
        now = self._clock.monotonic()
        due = self._rotation.due(now, self._clock.time())
        if self._meta_changes != self._table.changes:
            due = min(due, self._meta_time + _META_EVERY - now)
        return max(0.0, due)

    def rotate(self) -> None:
        """Seal the open segment; the next record opens a new one."""
        if self._segment is None:
            return
        if self._meta_changes != self._table.changes and not self._abandoned:
            self._write_meta(self._segment)
        for lane in self.lanes:
            lane.seal()
        self._segment = None
        self.sealed()

    def flush(self) -> list[threading.Event]:
        """Return events that are set when the lanes have stored and flushed what they were given."""
        return [lane.flush() for lane in self.lanes]

    def hurry(self) -> None:
        """Stop waiting for any lane."""
        for lane in self.lanes:
            lane.hurry()

    def abandon(self) -> None:
        """Take nothing more and write no more ``.meta``: a disk that hangs, say, is not waited for."""
        self._abandoned = True

    def forget(self) -> None:
        """In a forked child: let go of what is open; it belongs to the parent."""
        for lane in self.lanes:
            lane.forget()

    def close(self, timeout: float) -> bool:
        """Seal, and end all lanes within ``timeout`` seconds; return whether each stored all that it was given."""
        self.rotate()
        for lane in self.lanes:
            lane.stop()
        end = self._clock.monotonic() + timeout
        ended = [lane.join(max(0.0, end - self._clock.monotonic())) for lane in self.lanes]
        if not SYNCER.finish(max(0.0, min(STALL, end - self._clock.monotonic()))):
            self._log.warn("sync", "files could not be synced in time", error=SYNCER.health())
        return all(ended)

    def _open(self) -> None:
        time_s = self._clock.time()
        segment = Segment.starting(self._site.prefix, time_s)
        if self._last is not None and self._last.stamp == segment.stamp:
            segment = self._last.next()
        self._meta_claimed = False
        self._table.begin_segment()
        if self._suffixes:
            try:
                segment = meta.claim(self._site, segment, self._suffixes)
                self._meta_claimed = True
                self._meta_changes = self._table.changes
            except StorageError as error:
                self._meta_changes = -1
                self._log.warn("meta", "meta file not written", error=error)
        else:
            self._meta_changes = self._table.changes
        self._meta_time = self._clock.monotonic()
        self._segment = self._last = segment
        self._rotation.begin(self._clock.monotonic(), time_s)
        for lane in self.lanes:
            lane.open(segment)

    def _write_meta(self, segment: Segment) -> None:
        self._meta_time = self._clock.monotonic()
        if not self._suffixes:
            return
        changes = self._table.changes
        try:
            # what was not claimed may belong to another segment, and is never overwritten
            write = meta.rewrite if self._meta_claimed else meta.create
            write(self._site, segment)
            self._meta_claimed = True
            self._meta_changes = changes
        except SegmentExistsError:
            self._meta_changes = changes
        except StorageError as error:
            self._log.warn("meta", "meta file not written", error=error)

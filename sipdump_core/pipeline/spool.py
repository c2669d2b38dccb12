"""The spool: keeps a backend's records on disk until the backend has accepted them.

A driver whose options derive from :class:`SpoolOptions` can have one. The lane's thread only appends to a journal; a
thread of the spool's own reads the journals, oldest first, and delivers. A journal is deleted when all of it was
accepted and flushed, so an outage, a restart or a crash of the process loses nothing. The place in a journal is noted
after each flush: what was not flushed before a crash is delivered once more, in the same batches.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Mapping, Sequence

import attrs

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.folder import free_name
from sipdump_core.drivers.guard import Guard
from sipdump_core.drivers.rewriting import alone
from sipdump_core.drivers.syncing import sync_folder
from sipdump_core.errors import ClosedError, SegmentExistsError, SegmentLostError, StorageError, StorageFullError
from sipdump_core.log import Event, log
from sipdump_core.ownership import require_private
from sipdump_core.pipeline.dead_letter import DeadLetter
from sipdump_core.pipeline.delivery import BACKOFF, CHECK_EVERY, Delivery
from sipdump_core.pipeline.journal import Journal
from sipdump_core.pipeline.numbers import LaneStats
from sipdump_core.pipeline.spool_feed import SEAL, SpoolFeed
from sipdump_core.pipeline.spool_reader import PLACE_SUFFIX
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.settings.core import Params
from sipdump_core.settings.options import at_least, option
from sipdump_core.threads import lasting

__all__ = ["SpoolOptions", "counted_folders", "delivery_to", "waiting_places"]

STOP_WAIT = 5.0
"""Seconds that the end waits for what is still to be delivered; the rest stays for the next start."""
_END_EVERY = 0.1
_REWRITE_WAIT = 10.0
_JOURNALS = 16  # a journal takes this part of the bound: only a whole one can be deleted


@attrs.frozen
class SpoolOptions:
    """Options of a backend that can have a spool; a driver's options class derives from it."""

    spool: str = option("", help="folder that keeps records until the store has accepted them; empty: no spool")
    spool_max_bytes: int = option(
        1 << 30, unit="bytes", help="how much the spool may hold; what finds no room is dropped", check=at_least(1)
    )


def delivery_to(backend: Backend, clock: Clock, params: Params) -> Delivery:
    """Return what delivers to a backend: through a spool, if its options name one, or directly."""
    options = getattr(backend, "opts", None)
    if isinstance(options, SpoolOptions) and options.spool:
        return SpooledDelivery(backend, options, clock, params)
    dead = DeadLetter(backend.site, backend.name, params.dead_max_bytes)
    return Delivery(backend, clock, dead=dead, tries=params.refuse_after)


def waiting_places(backend: Backend) -> list[str]:
    """Return the folders, besides the store's own, where something of a backend waits or was set aside."""
    options = getattr(backend, "opts", None)
    found = [options.spool] if isinstance(options, SpoolOptions) and options.spool else []
    inner = getattr(backend, "inner", None)
    if isinstance(inner, Backend):
        found += [inner.site.folder, os.path.join(inner.site.folder, "quarantine")]
    return found


def counted_folders(folder: str, prefix: str, backends: Sequence[Backend]) -> list[tuple[str, str]]:
    """Return the folders that count for the caps: the store's own, and those where something waits.

    Args:
        folder: the store's.
        prefix: what the names there begin with.
        backends: the store's.

    Returns:
        Each folder, with what the names there begin with.
    """
    found = {os.path.realpath(folder): prefix}
    for backend in backends:
        for place in waiting_places(backend):
            found.setdefault(os.path.realpath(place), "")
    return list(found.items())


class SpooledDelivery(Delivery):
    """Delivers into the spool; its thread delivers from there to the backend.

    Args:
        backend: the backend.
        options: where the spool is, and how large it may be.
        clock: the time.
        params: what becomes of records that the store refuses.
    """

    def __init__(self, backend: Backend, options: SpoolOptions, clock: Clock, params: Params) -> None:
        self._spool = Spool(backend, options, clock, params)
        super().__init__(backend, clock, self._spool)

    @property
    def batching(self) -> tuple[int, float]:
        """Everything goes to the spool at once: it makes the batches that the backend wants."""
        return 0, 0.0

    @property
    def stop_seconds(self) -> float:
        """Seconds that the end may take: those of the spool, which does not wait for ever for the backend."""
        return self._spool.stop_seconds + 1

    def end(self) -> None:
        """Close the journal and stop the spool; a backend whose end hangs is left behind."""
        super().end()
        if self._spool.hangs:
            self.lost = True
            self.abandon()

    def snapshot(self) -> LaneStats:
        """Return the numbers of the whole: what the backend has stored and refused, and how it is."""
        outer, inner = super().snapshot(), self._spool.snapshot()
        worse = outer if outer.state != "ok" else inner
        return attrs.evolve(
            outer,
            state=worse.state,
            since=worse.since,
            error=outer.error or inner.error,
            stored=inner.stored,
            refused=inner.refused,
            dropped=outer.dropped + inner.dropped,
            counters={**inner.counters, "spooled": outer.stored, "spool_bytes": self._spool.bytes},
        )


class Spool:
    """Is written to in the place of a backend: takes everything at once, to disk, and delivers it when it can.

    Args:
        backend: the backend that stores.
        options: where the spool is, and how large it may be.
        clock: the time.
        params: what becomes of records that the store refuses.
    """

    def __init__(self, backend: Backend, options: SpoolOptions, clock: Clock, params: Params) -> None:
        self.suffix = f".{backend.name}.spool"  # spools of several backends may share a folder
        self.bytes = 0
        """How many wait in the folder."""
        self.hangs = False
        """Whether a call that was to end the backend has not returned."""
        self._backend = backend
        self._name = backend.name
        self._limit = options.spool_max_bytes
        self._folder = options.spool
        self._prefix = backend.site.prefix
        self._clock = clock
        self._journal = Journal(attrs.evolve(backend.site, folder=options.spool), self.suffix)
        self._params = params
        self._feed = self._made()
        self._counted = 0
        self._bytes_lock = threading.Lock()
        self._work = threading.Event()
        self._segment: Segment | None = None
        self.live: Segment | None = None
        """The journal that is being written, whatever its lock says: set before the file is there."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take the folder for this process, and deliver what an earlier one left in it.

        Raises:
            StorageError: the folder cannot be made or written, or another process works on it.
        """
        if self._thread is not None and self._thread.is_alive():
            raise StorageError("open the spool", self._folder, "the backend has not returned since the last stop")
        lock = self._take_folder()
        self._feed = self._made()
        self.bytes = sum(stored.size for stored in self._journal.segments())
        self._work.set()
        self._lock = lock
        self._thread = lasting(self._run, f"sipdump-{self._name}-spool")
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads can be had
            os.close(lock)
            raise StorageError("open the spool", self._folder, str(error)) from error

    def _made(self) -> SpoolFeed:
        """Make what delivers to the backend."""
        dead = DeadLetter(self._backend.site, self._name, self._params.dead_max_bytes, recall=True)
        delivery = Delivery(self._backend, self._clock, dead=dead, tries=self._params.refuse_after, spooled=True)
        return SpoolFeed(self, self._journal, delivery, self._clock, self._params.queue)

    def stop(self) -> None:
        """Deliver what there is, within ``STOP_WAIT`` seconds; the rest stays in the folder."""
        begin, delivery = self._clock.monotonic(), self._feed.delivery
        self._feed.hurry(begin + STOP_WAIT)
        self._work.set()
        if self._thread is not None:
            self._thread.join(STOP_WAIT + 1)
            while self._thread.is_alive() and delivery.ending and not self.hangs:
                self._thread.join(_END_EVERY)
                self.hangs = delivery.ending and delivery.overdue(begin)
        if self.bytes:
            log.warning(Event("records wait in the spool for the next start", backend=self._name, bytes=self.bytes))

    @property
    def stop_seconds(self) -> float:
        """Seconds that ``stop`` may take: it waits for the deliveries, and then for ``close`` and ``stop``."""
        return STOP_WAIT + 1 + 2 * self._feed.delivery.stop_seconds

    def open(self, segment: Segment) -> None:
        """Deliver what follows into a segment of this name."""
        self._segment = segment

    def write(self, batch: Sequence[Record]) -> None:
        """Append a batch to the journal; an empty spool takes one larger than its bound, too.

        Raises:
            StorageFullError: the spool or the disk has no room.
            StorageError: the disk refuses.
        """
        limit = self._limit
        if self.bytes and self.bytes + sum([len(record.buf) for record in batch]) > limit:
            if self._journal.fileno() >= 0:
                self._close_journal()  # so that it can be deleted once it is delivered
            self._work.set()
            raise StorageFullError(
                "write",
                self._folder,
                f"the spool may hold {limit} bytes (spool_max_bytes)",
                "it drains when the store takes records again",
            )
        if self._journal.fileno() >= 0 and self._journal.size > limit // _JOURNALS:
            self._close_journal()
        if self._journal.fileno() < 0:
            self._open_journal()
        self._journal.write(batch)
        self._count_journal()
        if self._feed.wants(len(batch)):
            self._work.set()

    def check(self) -> None:
        """Look whether the journal is still good; go on in a fresh one if it is not."""
        try:
            self._journal.check()
        except SegmentLostError as error:
            error.records = max(0, error.records - self._feed.taken_from(self.live))  # what was delivered is not lost
            self._abandon_journal()
            raise
        except StorageError:
            self._close_journal()
            raise

    def close(self) -> None:
        """Seal the segment after what it was given."""
        if self._journal.fileno() >= 0:
            self._journal.note(SEAL)
            self._close_journal()
        self._work.set()

    def flush(self) -> None:
        """Do nothing: what was written is on its way."""

    def health(self) -> str:
        """Report what is wrong with the spool; ``snapshot`` says how the backend is."""
        thread = self._thread
        if thread and thread.ident and not thread.is_alive() and not self._feed.delivery.hurried:
            return "the thread that delivers from the spool has ended"
        return self._journal.health()

    def stats(self) -> Mapping[str, int]:
        """Return nothing: ``snapshot`` has the numbers."""
        return {}

    def forget(self) -> None:
        """Let go of the open journal: it belongs to the process that this one was forked from."""
        self._journal.forget()
        self._backend.forget()

    def snapshot(self) -> LaneStats:
        """Return the numbers of the delivery to the backend."""
        return self._feed.delivery.snapshot()

    def _open_journal(self) -> None:
        """Begin the next journal, and note in it which segment its records belong to."""
        if self._segment is None:
            raise ClosedError(f"write to the backend {self._name}: no segment is open")
        name = attrs.evolve(self._segment, suffix=self.suffix)
        while True:
            self.live = name
            try:
                self._journal.open(name)
            except SegmentExistsError:
                name = name.next()
            else:
                break
        self._journal.note(f"{self._segment.stamp} {self._segment.sequence}")
        self._counted = 0

    def _close_journal(self) -> None:
        self._count_journal()
        self._journal.close()
        self.live = None

    def _abandon_journal(self) -> None:
        """Let go of a journal whose file is gone."""
        self._journal.close()
        self.live = None
        self._count(-self._counted)
        self._counted = 0

    def _count_journal(self) -> None:
        """Count what the open journal has grown by."""
        self._count(self._journal.size - self._counted)
        self._counted = self._journal.size

    def _take_folder(self) -> int:
        path = os.path.join(self._folder, f".{self._prefix}{self._name}.lock")
        try:
            if not os.path.isdir(self._folder):
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
                sync_folder(os.path.dirname(os.path.abspath(self._folder)))
            require_private(self._folder)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError.from_os("open the spool", path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            hint = "give each daemon a spool or an fprefix of its own"
            raise StorageError("open the spool", path, "another process works on it", hint) from error
        return lock

    def _run(self) -> None:
        feed, lock = self._feed, self._lock
        delivery = feed.delivery
        delivery.start()
        stopping = False
        while not stopping:
            stopping = delivery.hurried  # looked at before: what came until then is still delivered
            self._work.clear()
            with Guard() as guard:
                feed.drain()
            if guard.error:  # of the spool's own files
                delivery.failed("read the spool", guard.error)
            if guard.error:
                self._work.set()  # it is tried again, whether or not more comes
                delivery.pause(BACKOFF[1])
            if delivery.hurried:
                continue
            self._wait(feed)
            if not delivery.started:
                delivery.start()
        with Guard():  # the delivery reports what it raises
            delivery.end()
        os.close(lock)

    def _wait(self, feed: SpoolFeed) -> None:
        """Wait for something to deliver, or for the next try of what failed; meanwhile, look after the segment."""
        delivery = feed.delivery
        if not delivery.started:
            self._work.wait(BACKOFF[1])
            return
        while True:
            left = feed.due - self._clock.monotonic() if feed.due else None
            idle = CHECK_EVERY if delivery.opened else None
            if self._work.wait(min([each for each in (left, idle) if each is not None], default=None)):
                return
            if left is not None and left <= CHECK_EVERY:
                return
            delivery.check()

    def settle(self, stored: StoredSegment, *, whole: bool) -> None:
        """Delete a journal that was delivered; one that was damaged is kept aside."""
        with alone(self._folder, "put a journal away in", _REWRITE_WAIT):  # so that nobody rewrites it now
            size = os.stat(stored.location).st_size  # when it was listed it may have been smaller
            if whole:
                self._journal.delete(stored)
            else:
                kept = free_name(stored.location + ".damaged")
                os.rename(stored.location, kept)
                log.error(Event("damaged spool is kept aside", path=kept))
        self._count(-size)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stored.location + PLACE_SUFFIX)

    def _count(self, size: int) -> None:
        with self._bytes_lock:
            self.bytes += size

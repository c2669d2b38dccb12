"""The spool: keeps a backend's records on disk until the backend has accepted them.

A driver whose options derive from :class:`SpoolOptions` can have one. The lane's thread only appends to a journal; a
thread of the spool's own reads the journals, oldest first, and delivers. A journal is deleted when all of it was
accepted, so an outage, a restart or a crash of the process loses nothing. The place in a journal is noted after each
frame: what was accepted last before a crash may be delivered once more.
"""

import contextlib
import fcntl
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import BinaryIO

import attrs

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.guard import Guard
from sipdump_core.drivers.syncing import sync_folder
from sipdump_core.errors import ClosedError, SegmentExistsError, SegmentLostError, StorageError, StorageFullError
from sipdump_core.log import Event, log
from sipdump_core.ownership import require_private
from sipdump_core.pipeline.dead_letter import DeadLetter
from sipdump_core.pipeline.delivery import BACKOFF, CHECK_EVERY, Delivery
from sipdump_core.pipeline.journal import NOTE, Damage, Frame, Journal, scan
from sipdump_core.pipeline.numbers import LaneStats
from sipdump_core.pipeline.spool_reader import PLACE_SUFFIX, Entry, Place, PlaceFile, entries, key_of
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.settings.core import Params
from sipdump_core.settings.options import at_least, option
from sipdump_core.threads import lasting

__all__ = ["SpoolOptions", "delivery_to"]

STOP_WAIT = 5.0
"""Seconds that the end waits for what is still to be delivered; the rest stays for the next start."""
_SEAL = "seal"
_LOOK_AHEAD = 8
"""Among how many batches one is chosen that shows whether the store works."""
_JOURNALS = 16  # a journal takes this part of the bound: only a whole one can be deleted


@attrs.frozen
class SpoolOptions:
    """Options of a backend that can have a spool; a driver's options class derives from it."""

    spool: str = option("", help="folder that keeps records until the store has accepted them; empty: no spool")
    spool_max_bytes: int = option(
        1 << 30, unit="bytes", help="how much the spool may hold; what finds no room is dropped", check=at_least(1)
    )


@attrs.frozen
class _Ahead:
    """A batch that was stored ahead of its turn."""

    size: int
    unstored: Sequence[int]
    """The places of those records that were not stored."""


def delivery_to(backend: Backend, clock: Clock, params: Params) -> Delivery:
    """Return what delivers to a backend: through a spool, if its options name one, or directly."""
    options = getattr(backend, "opts", None)
    if isinstance(options, SpoolOptions) and options.spool:
        return SpooledDelivery(backend, options, clock, params)
    dead = DeadLetter(backend.site, backend.name, params.dead_max_bytes)
    return Delivery(backend, clock, dead=dead, tries=params.refuse_after)


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
        self._backend = backend
        self._name = backend.name
        self._limit = options.spool_max_bytes
        self._folder = options.spool
        self._prefix = backend.site.prefix
        self._clock = clock
        self._journal = Journal(attrs.evolve(backend.site, folder=options.spool), self.suffix)
        self._params = params
        self._delivery = self._made()
        self._counted = 0
        self._bytes_lock = threading.Lock()
        self._work = threading.Event()
        self._deadline = 0.0
        self._segment: Segment | None = None
        self._live: Segment | None = None
        """The journal that is being written, whatever its lock says: set before the file is there."""
        self._feeding: Segment | None = None
        self._reading: Segment | None = None
        self._due = 0.0
        """When a batch that waits for more records is to go, monotonic seconds; 0: none waits."""
        self._needed = self._arrived = 0
        """How many more records that batch should have, and how many came since."""
        self._gathering = ("", 0.0)
        """The batch that waits, and since when."""
        self._ahead: dict[str, _Ahead] = {}
        """The batches that were stored ahead of their turn, by name."""
        self._taken = 0
        """How many records of the journal that is being read were delivered, or given up, in this run."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take the folder for this process, and deliver what an earlier one left in it.

        Raises:
            StorageError: the folder cannot be made or written, or another process works on it.
        """
        if self._thread is not None and self._thread.is_alive():
            raise StorageError("open the spool", self._folder, "the backend has not returned since the last stop")
        lock = self._take_folder()
        self._delivery = self._made()
        self._feeding = self._reading = None
        self._ahead = {}
        self.bytes = sum(stored.size for stored in self._journal.segments())
        self._work.set()
        self._lock = lock
        self._thread = lasting(self._run, f"sipdump-{self._name}-spool")
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads can be had
            os.close(lock)
            raise StorageError("open the spool", self._folder, str(error)) from error

    def _made(self) -> Delivery:
        """Make what delivers to the backend."""
        dead = DeadLetter(self._backend.site, self._name, self._params.dead_max_bytes, recall=True)
        return Delivery(self._backend, self._clock, dead=dead, tries=self._params.refuse_after)

    def stop(self) -> None:
        """Deliver what there is, within ``STOP_WAIT`` seconds; the rest stays in the folder."""
        self._deadline = self._clock.monotonic() + STOP_WAIT
        self._delivery.hurry()
        self._work.set()
        if self._thread is not None:
            self._thread.join(STOP_WAIT + 1)
        if self.bytes:
            log.warning(Event("records wait in the spool for the next start", backend=self._name, bytes=self.bytes))

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
        self._arrived += len(batch)
        if self._arrived >= self._needed:
            self._work.set()

    def check(self) -> None:
        """Look whether the journal is still good; go on in a fresh one if it is not."""
        try:
            self._journal.check()
        except SegmentLostError as error:
            if self._reading == self._live:  # what was delivered from there is not lost
                error.records = max(0, error.records - self._taken)
            self._abandon_journal()
            raise
        except StorageError:
            self._close_journal()
            raise

    def close(self) -> None:
        """Seal the segment after what it was given."""
        if self._journal.fileno() >= 0:
            self._journal.note(_SEAL)
            self._close_journal()
        self._work.set()

    def flush(self) -> None:
        """Do nothing: what was written is on its way."""

    def health(self) -> str:
        """Report what is wrong with the spool; ``snapshot`` says how the backend is."""
        thread = self._thread
        if thread and not thread.is_alive() and not self._delivery.hurried:
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
        return self._delivery.snapshot()

    def _open_journal(self) -> None:
        """Begin the next journal, and note in it which segment its records belong to."""
        if self._segment is None:
            raise ClosedError(f"write to the backend {self._name}: no segment is open")
        name = attrs.evolve(self._segment, suffix=self.suffix)
        while True:
            self._live = name
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
        self._live = None

    def _abandon_journal(self) -> None:
        """Let go of a journal whose file is gone."""
        self._journal.close()
        self._live = None
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
        delivery, lock = self._delivery, self._lock
        delivery.start()
        stopping = False
        while not stopping:
            stopping = delivery.hurried  # looked at before: what came until then is still delivered
            self._work.clear()
            with Guard() as guard:
                self._drain(delivery)
            if guard.error:  # of the spool's own files
                delivery.failed("read the spool", guard.error)
                delivery.pause(BACKOFF[1])
            if delivery.hurried:
                continue
            self._wait(delivery)
            if not delivery.started:
                delivery.start()
        with Guard():  # the delivery reports what it raises
            delivery.end()
        os.close(lock)

    def _wait(self, delivery: Delivery) -> None:
        """Wait for something to deliver, or for the next try of what failed; meanwhile, look after the segment."""
        if not delivery.started:
            self._work.wait(BACKOFF[1])
            return
        while True:
            left = self._due - self._clock.monotonic() if self._due else None
            idle = CHECK_EVERY if delivery.opened else None
            if self._work.wait(min([each for each in (left, idle) if each is not None], default=None)):
                return
            if left is not None and left <= CHECK_EVERY:
                return
            delivery.check()

    def _drain(self, delivery: Delivery) -> None:
        """Deliver all that the folder holds, up to the end of the journal that is being written."""
        self._due = self._arrived = self._needed = 0
        for stored in list(self._journal.segments()):
            if not self._feed(delivery, stored):
                return

    def _feed(self, delivery: Delivery, stored: StoredSegment) -> bool:
        """Deliver what is left of one journal; False when it is time to stop."""
        whole = True
        sealed = stored.sealed and stored.segment != self._live
        try:
            with self._opened(stored) as file, PlaceFile(stored.location) as place:
                self._take_up(delivery, stored, file)
                key = key_of(file, stored.segment.name)
                for item in entries(file, key, place.read(), delivery.batching[0], self._size_ahead):
                    if isinstance(item, Damage):
                        if not sealed:
                            break  # more of it may come
                        _warn_of(stored, item)
                        whole = whole and item.torn
                    elif isinstance(item, Frame):
                        whole = self._turn(delivery, item) and whole
                        place.write(Place(item.end))
                    else:
                        if not (item.final or sealed) and self._waits_for_more(delivery, item):
                            break
                        place.write(item.begin)
                        if not self._deliver(delivery, stored, item):
                            return False
                        self._taken += len(item.batch)
                        place.write(item.end)
            delivery.flush()
            if sealed:
                self._settle(stored, whole=whole)
        except OSError as error:
            raise StorageError.from_os("read the spool", stored.location, error) from error
        return True

    @staticmethod
    def _opened(stored: StoredSegment) -> BinaryIO:
        file = open(stored.location, "rb")  # noqa: SIM115 - the caller closes it
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        raise StorageError("read the spool", stored.location, "it is no regular file")

    def _take_up(self, delivery: Delivery, stored: StoredSegment, file: BinaryIO) -> None:
        """Begin with a journal: its first note names the segment, wherever the place is."""
        if self._reading == stored.segment:
            return
        self._taken = 0
        first = next(scan(file), None)
        if isinstance(first, Frame) and first.kind == NOTE:
            self._turn(delivery, first)
        self._reading = stored.segment

    def _waits_for_more(self, delivery: Delivery, entry: Entry) -> bool:
        """Return whether a batch that may still grow is to be delivered later."""
        wanted, seconds = delivery.batching
        wanted = wanted or self._params.queue
        if self._gathering[0] != entry.batch.id:
            self._gathering = entry.batch.id, self._clock.monotonic()
        due = self._gathering[1] + seconds
        if delivery.hurried or len(entry.batch) >= wanted or due <= self._clock.monotonic():
            return False
        self._due, self._needed = due, wanted - len(entry.batch)
        return True

    def _turn(self, delivery: Delivery, frame: Frame) -> bool:
        """Do what a note in a journal says: seal, or go on in the segment that it names.

        Returns:
            False if it says nothing that is known here: its sum is right, but it is not of its form.
        """
        try:
            note = frame.text()
            segment = None if note == _SEAL else Segment.parse(_stem_of(note, self._prefix), self._prefix, "")
        except ValueError:
            return False
        if note == _SEAL:
            delivery.seal()
            self._feeding = None
            return True
        if segment and self._feeding != segment:
            delivery.seal()
            delivery.begin(segment)
            self._feeding = segment
        return segment is not None

    def _deliver(self, delivery: Delivery, stored: StoredSegment, entry: Entry) -> bool:
        """Deliver a batch, unless it was stored ahead of its turn; False when it is time to stop."""
        if delivery.hurried and self._clock.monotonic() > self._deadline:
            return False
        ahead = self._ahead.get(entry.batch.id)
        batch = entry.batch.part(ahead.unstored) if ahead else entry.batch
        rest = delivery.deliver(batch, partial(self._offer, stored, entry.end)) if batch else ()
        delivery.caught_up()
        if not rest:
            self._ahead.pop(entry.batch.id, None)
        return not rest

    def _offer(self, stored: StoredSegment, place: Place, store: Callable[[Batch], Sequence[int]]) -> None:
        """Have a batch stored that waits behind a place in a journal, to see whether the store works."""
        waiting = list(islice(self._behind(stored, place), _LOOK_AHEAD))
        if not waiting:
            return
        batch = random.choice(waiting)  # noqa: S311 - any will do
        rest = store(batch)
        if len(rest) < len(batch):
            self._ahead[batch.id] = _Ahead(len(batch), rest)

    def _size_ahead(self, name: str) -> int:
        """Return how many records a batch has that was stored ahead of its turn; 0 for any other."""
        ahead = self._ahead.get(name)
        return ahead.size if ahead else 0

    def _behind(self, stored: StoredSegment, place: Place) -> Iterator[Batch]:
        """Yield the batches behind a place in a journal, but for those that were stored ahead of their turn."""
        for journal in list(self._journal.segments()):
            if journal.segment < stored.segment:
                continue
            with self._opened(journal) as file, PlaceFile(journal.location) as own:
                begin = place if journal.segment == stored.segment else own.read()
                key = key_of(file, journal.segment.name)
                for item in entries(file, key, begin, self._delivery.batching[0], self._size_ahead):
                    if isinstance(item, Entry) and item.batch.id not in self._ahead:
                        yield item.batch

    def _settle(self, stored: StoredSegment, *, whole: bool) -> None:
        """Delete a journal that was delivered; one that was damaged is kept aside."""
        size = os.stat(stored.location).st_size  # when it was listed it may have been smaller
        if whole:
            self._journal.delete(stored)
        else:
            os.rename(stored.location, stored.location + ".damaged")
            log.error(Event("damaged spool is kept aside", path=stored.location + ".damaged"))
        self._count(-size)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stored.location + PLACE_SUFFIX)

    def _count(self, size: int) -> None:
        with self._bytes_lock:
            self.bytes += size


def _stem_of(note: str, prefix: str) -> str:
    """Return the stem of the segment that a note names as ``<stamp> <sequence>``.

    Raises:
        ValueError: it does not name one.
    """
    stamp, sequence = note.split(" ")
    return Segment(prefix, stamp, int(sequence)).stem


def _warn_of(stored: StoredSegment, damage: Damage) -> None:
    lost = damage.end - damage.offset
    log.warning(Event("spool is not whole", path=stored.location, offset=damage.offset, lost_bytes=lost))

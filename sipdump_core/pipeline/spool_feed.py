"""Feeding a backend from its spool: journal after journal, batch after batch."""

import contextlib
import fcntl
import os
import random
import stat
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from itertools import islice
from typing import BinaryIO, Protocol

import attrs

from sipdump_core.clock import Clock
from sipdump_core.drivers.batch import Batch
from sipdump_core.errors import StorageError
from sipdump_core.log import Event, log
from sipdump_core.pipeline.delivery import BACKOFF, FLUSH_EVERY, Delivery
from sipdump_core.pipeline.journal import NOTE, Damage, Frame, Journal, scan
from sipdump_core.pipeline.spool_reader import Entry, Place, PlaceFile, entries, key_of
from sipdump_core.segment import Segment, StoredSegment

__all__ = ["SEAL", "SpoolFeed"]

SEAL = "seal"
"""The note that seals the backend's segment."""
_FLUSH_AFTER = 256
"""After how many batches the store is to flush, if that is sooner than ``FLUSH_EVERY`` seconds."""
_LOOK_AHEAD = 8
"""Among how many batches one is chosen that shows whether the store works."""


class _Spool(Protocol):
    """What the feed asks of the spool."""

    @property
    def live(self) -> Segment | None:
        """The journal that is being written."""

    def settle(self, stored: StoredSegment, *, whole: bool) -> None:
        """Put away a journal that was delivered."""


@attrs.frozen
class _Ahead:
    """A batch that was stored ahead of its turn."""

    size: int
    """How many records it has in its journal."""
    unstored: Set[int]
    """The indexes of those records that were not stored."""


class _Replaced(Exception):  # noqa: N818 - no error: somebody has taken records out of the journal
    """The journal that is being read has made room for another one."""


class SpoolFeed:
    """Delivers what the journals of a spool hold, oldest first. One thread drains; any may call the rest.

    Args:
        spool: the spool.
        journal: lists its journals.
        delivery: where the batches go.
        clock: the time.
        limit: how many records a batch has that waits for more, if the backend says only how long it waits.
    """

    def __init__(self, spool: _Spool, journal: Journal, delivery: Delivery, clock: Clock, limit: int) -> None:
        self.delivery = delivery
        self.due = 0.0
        """When a batch that waits for more records is to go, monotonic seconds; 0: none waits."""
        self._spool = spool
        self._journal = journal
        self._prefix = journal.site.prefix
        self._clock = clock
        self._limit = limit
        self._deadline = 0.0
        self._feeding: Segment | None = None
        self._reading: Segment | None = None
        self._taken = 0
        """How many records of the journal that is being read were delivered, or given up."""
        self._needed = self._arrived = 0
        """How many more records the batch that waits should have, and how many came since."""
        self._gathering = ("", 0.0)
        """The batch that waits, and since when."""
        self._noted = 0.0
        """When a place was noted last, monotonic seconds."""
        self._ended = False
        """Whether the end has come before the store has flushed: what was not, comes again after the next start."""
        self._ahead: dict[str, _Ahead] = {}
        """The batches that were stored ahead of their turn, by name."""

    def hurry(self, deadline: float) -> None:
        """Try what fails no longer, and deliver nothing after a time, monotonic seconds."""
        self._deadline = deadline
        self.delivery.hurry()

    def wants(self, count: int) -> bool:
        """Return whether there is enough to deliver when so many more records have come."""
        self._arrived += count
        return self._arrived >= self._needed

    def taken_from(self, journal: Segment | None) -> int:
        """Return how many records of a journal were delivered, as far as that is known."""
        return self._taken if self._reading == journal else 0

    def drain(self) -> None:
        """Deliver all that the folder holds, up to the end of the journal that is being written."""
        self.due = self._arrived = self._needed = 0
        for stored in list(self._journal.segments()):
            while not self._ended:
                with contextlib.suppress(_Replaced):
                    if not self._feed(stored):
                        return
                    break
            if self._ended:
                return

    def _feed(self, stored: StoredSegment) -> bool:
        """Deliver what is left of one journal; False when those behind it must wait, or it is time to stop."""
        sealed = stored.sealed and stored.segment != self._spool.live
        try:
            with self._opened(stored) as file, PlaceFile(stored.location) as place:
                self._take_up(stored, file)
                try:
                    whole = self._deliver_rest(stored, file, place, sealed=sealed)
                finally:
                    noted = self._note(place)
            if whole is None or not noted:
                return False
            if sealed:
                self._spool.settle(stored, whole=whole)
        except OSError as error:
            raise StorageError.from_os("read the spool", stored.location, error) from error
        return True

    def _deliver_rest(self, stored: StoredSegment, file: BinaryIO, place: PlaceFile, *, sealed: bool) -> bool | None:
        """Deliver what an open journal holds behind a place.

        Returns:
            Whether nothing of it was damaged; None when it is time to stop.
        """
        whole = True
        key = key_of(file, stored.segment.name)
        for item in entries(file, key, place.read(), self.delivery.batching[0], self._size_ahead):
            if isinstance(item, Damage):
                if not sealed:
                    break  # more of it may come
                _warn_of(stored, item)
                whole = whole and item.torn
            elif isinstance(item, Frame):
                if not self._note(place):
                    return None
                whole = self._turn(item) and whole
                place.move(Place(item.end), 0)
                place.write()
            else:
                if _is_replaced(stored, file):
                    raise _Replaced
                if not (item.final or sealed) and self._waits_for_more(item):
                    break
                place.begin(item.count)
                if not self._deliver(stored, file, item, place):
                    return None
                self._taken += item.count
                place.move(item.end)
                late = self._clock.monotonic() - self._noted >= FLUSH_EVERY
                if (late or place.passed >= _FLUSH_AFTER) and not self._note(place):
                    return None
        return whole

    def _note(self, place: PlaceFile) -> bool:
        """Flush, however often that must be tried, and note the place; False when it is time to stop."""
        delay, ceiling = BACKOFF
        while not self._try_to_note(place):
            if self.delivery.hurried:
                self._ended = True
                return False
            self.delivery.pause(delay)
            self.delivery.check()
            delay = min(2 * delay, ceiling)
        return True

    def _try_to_note(self, place: PlaceFile) -> bool:
        """Note a place if the store flushes: before that, it may have in memory alone what it was given."""
        self.delivery.flush()
        if self.delivery.flushed and place.passed:
            place.write()
            self._noted = self._clock.monotonic()
        return self.delivery.flushed

    @staticmethod
    def _opened(stored: StoredSegment) -> BinaryIO:
        file = open(stored.location, "rb")  # noqa: SIM115 - the caller closes it
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # who replaces it waits for its end
            return file
        file.close()
        raise StorageError("read the spool", stored.location, "it is no regular file")

    def _take_up(self, stored: StoredSegment, file: BinaryIO) -> None:
        """Begin with a journal: its first note names the segment, wherever the place is."""
        if self._reading == stored.segment:
            return
        self._taken = 0
        first = next(scan(file), None)
        if isinstance(first, Frame) and first.kind == NOTE:
            self._turn(first)
        self._reading = stored.segment

    def _waits_for_more(self, entry: Entry) -> bool:
        """Return whether a batch that may still grow is to be delivered later."""
        wanted, seconds = self.delivery.batching
        wanted = wanted or self._limit
        if self._gathering[0] != entry.batch.id:
            self._gathering = entry.batch.id, self._clock.monotonic()
        due = self._gathering[1] + seconds
        if self.delivery.hurried or entry.count >= wanted or due <= self._clock.monotonic():
            return False
        self.due, self._needed = due, wanted - entry.count
        return True

    def _turn(self, frame: Frame) -> bool:
        """Do what a note in a journal says: seal, or go on in the segment that it names.

        Returns:
            False if it says nothing that is known here: its sum is right, but it is not of its form.
        """
        try:
            note = frame.text()
            segment = None if note == SEAL else Segment.parse(_stem_of(note, self._prefix), self._prefix, "")
        except ValueError:
            return False
        if note == SEAL:
            self.delivery.seal()
            self._feeding = None
            return True
        if segment and self._feeding != segment:
            self.delivery.seal()
            self.delivery.begin(segment)
            self._feeding = segment
        return segment is not None

    def _deliver(self, stored: StoredSegment, file: BinaryIO, entry: Entry, place: PlaceFile) -> bool:
        """Deliver a batch, unless it was stored ahead of its turn; False when it is time to stop.

        Raises:
            _Replaced: the journal was, and not all of the batch is stored.
        """
        if self.delivery.hurried and self._clock.monotonic() > self._deadline:
            return False
        ahead = self._ahead.get(entry.batch.id)
        batch = _rest(entry.batch, ahead.unstored) if ahead else entry.batch
        offer, wait = partial(self._offer, stored, entry.end), partial(self._try_to_note, place)
        stale = partial(_is_replaced, stored, file)
        rest = self.delivery.deliver(batch, offer, wait, stale) if batch else batch
        self.delivery.caught_up()
        if rest and not self.delivery.hurried:
            if ahead or len(rest) < len(batch):
                self._ahead[entry.batch.id] = _Ahead(entry.count, set(rest.indexes))
            raise _Replaced
        if not rest:
            self._ahead.pop(entry.batch.id, None)
        return not rest

    def _offer(self, stored: StoredSegment, place: Place, store: Callable[[Batch], Sequence[int]]) -> None:
        """Have a batch stored that waits behind a place in a journal, to see whether the store works."""
        waiting = list(islice(self._behind(stored, place), _LOOK_AHEAD))
        if not waiting:
            return
        entry = random.choice(waiting)  # noqa: S311 - any will do
        rest = store(entry.batch)
        if len(rest) < len(entry.batch):
            unstored = {entry.batch.indexes[at] for at in rest}
            self._ahead[entry.batch.id] = _Ahead(entry.count, unstored)

    def _size_ahead(self, name: str) -> int:
        """Return how many records a batch has that was stored ahead of its turn; 0 for any other."""
        ahead = self._ahead.get(name)
        return ahead.size if ahead else 0

    def _behind(self, stored: StoredSegment, place: Place) -> Iterator[Entry]:
        """Yield the batches behind a place in a journal, but for those that were stored ahead of their turn."""
        for journal in list(self._journal.segments()):
            if journal.segment < stored.segment:
                continue
            with self._opened(journal) as file, PlaceFile(journal.location) as own:
                begin = place if journal.segment == stored.segment else own.read()
                key = key_of(file, journal.segment.name)
                for item in entries(file, key, begin, self.delivery.batching[0], self._size_ahead):
                    if isinstance(item, Entry) and item.batch and item.batch.id not in self._ahead:
                        yield item


def _is_replaced(stored: StoredSegment, file: BinaryIO) -> bool:
    """Return whether another file has a journal's name now."""
    try:
        return not os.path.samestat(os.fstat(file.fileno()), os.lstat(stored.location))
    except OSError:
        return False


def _rest(batch: Batch, unstored: Set[int]) -> Batch:
    """Return what is still to be stored of a batch, by the indexes of that."""
    return batch.part([place for place, index in enumerate(batch.indexes) if index in unstored])


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

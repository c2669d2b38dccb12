"""The bounded queue between those who bring records and the one thread that hands them to the dispatcher."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import ClosedError
from sipdump_core.log import Event, log
from sipdump_core.pipeline.dispatcher import Dispatcher
from sipdump_core.record import Record
from sipdump_core.threads import lasting

__all__ = ["Intake", "in_order"]

BATCH_RECORDS = 1000
BATCH_BYTES = 4 << 20
_LOOK = 60.0
"""Seconds between two looks at what is due: the wall clock may be set meanwhile."""
NEAR_US = 1_000_000
"""Microseconds; times that are further apart are not of one clock, or not of now."""


class Intake:
    """Takes records from any thread, gathers them for a moment, and passes them on in batches, in order of time.

    Args:
        dispatcher: where the batches go.
        limit: how many records may wait.
        limit_bytes: how many bytes of messages may wait; one record always may.
        gather: seconds that the first record of a batch waits for others, at most.
    """

    def __init__(self, dispatcher: Dispatcher, limit: int, limit_bytes: int, gather: float) -> None:
        self._dispatcher = dispatcher
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._gather = gather
        self._items: list[Record] = []
        self._bytes = 0
        self._newest_us = 0
        self._ordered = True
        """Whether the items are in order of time; known here, the writer need not look at each: they are in the caches
        of who brings them."""
        self._orders: list[tuple[int, Callable[[], None]]] = []
        self._closed = self._abandoned = False
        self._resting = False
        """Whether the thread looks again soon, and need not be woken for the first record of a batch."""
        self._held = 0
        """How many records the thread has, and has not handed on."""
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._thread = lasting(self._run, "sipdump-writer")
        self._thread.start()

    def put(self, records: Sequence[Record], *, block: bool) -> int:
        """Queue records.

        Args:
            records: in the order of their arrival; see :func:`in_order`.
            block: wait for room; otherwise what finds none is dropped.

        Returns:
            How many were dropped.

        Raises:
            ClosedError: after ``close``.
        """
        at = 0
        with self._work:
            while True:
                if self._closed:
                    raise ClosedError("sipdump is closed: no more records are taken")
                taken = self._take(records[at:] if at else records)
                at += taken
                if at >= len(records):
                    return 0
                if not block:
                    return len(records) - at
                self._room.wait()

    def order(self, action: Callable[[], None]) -> None:
        """Do something in the writer's thread when all records queued so far were handed on."""
        with self._work:
            if self._closed:
                raise ClosedError("sipdump is closed")
            self._orders.append((len(self._items), action))
            self._work.notify()

    def close(self, timeout: float) -> bool:
        """Take nothing more, hand on what waits, and end the thread; return whether it ended within so many seconds."""
        with self._work:
            self._closed = True
            self._work.notify()
            self._room.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def abandon(self) -> int:
        """After a ``close`` in vain: let the thread hand on nothing more; return how many records are lost by that."""
        with self._work:
            self._abandoned = True
            self._dispatcher.abandon()
            lost = self._held + len(self._items)
            self._items, self._held = [], 0
            return lost

    def _take(self, records: Sequence[Record]) -> int:
        """Queue as many records, from the first, as there is room for; the lock is held."""
        before = len(self._items)
        count = min(len(records), self._limit - before)
        size = sum([len(record.buf) for record in records[:count]])
        while count and self._bytes + size > self._limit_bytes and (count > 1 or before):
            count -= 1
            size -= len(records[count].buf)
        if count > 0:
            taken = records if count == len(records) else records[:count]
            self._items.extend(taken)
            self._bytes += size
            times = [record.time_us for record in taken]
            if self._ordered:
                self._ordered = (not before or times[0] >= self._newest_us) and times == sorted(times)
                self._newest_us = times[-1]
            if (not before and not self._resting) or before < BATCH_RECORDS <= len(self._items):
                self._work.notify()
        return max(count, 0)

    def _run(self) -> None:
        items: list[Record] = []
        while True:
            with self._work:
                self._wait(more_likely=bool(items))
                items, size, ordered = self._items, self._bytes, self._ordered
                self._items, self._bytes, self._ordered = [], 0, True
                self._held = len(items)
                orders, self._orders = self._orders, []
                closed = self._closed
                self._room.notify_all()
            actions: list[Callable[[], None]] = []
            done = 0
            hand_on = partial(self._hand_on, ordered=ordered)
            for position, action in orders:  # each behind the records that were there when it came
                actions += [partial(hand_on, items[done:position]), action]
                done = position
            actions.append(partial(hand_on, items[done:]) if done else partial(hand_on, items, size))
            for action in actions:
                with Guard() as guard:  # the one thread that everything goes through must not end
                    action()
                if guard.error:
                    what = Event("writer failed; this is a bug in sipdump, please report it")
                    log.error(what, exc_info=guard.error)
            if closed:
                return

    def _wait(self, *, more_likely: bool) -> None:
        """Wait for something to do, and then for the batch to fill; the lock is held.

        Where records are likely to come, both are one: being woken twice costs as much as handing on a hundred.
        """
        if self._gather and more_likely and not (self._items or self._orders or self._closed):
            self._resting = True
            self._work.wait(self._gather)
            self._resting = False
            if self._items:
                return
        if not (self._items or self._orders or self._closed):
            due = self._dispatcher.wait()
            self._work.wait(None if due is None else min(due, _LOOK))
        if self._gather and 0 < len(self._items) < BATCH_RECORDS and not (self._orders or self._closed):
            self._work.wait(self._gather)

    def _hand_on(self, items: list[Record], size: int = BATCH_BYTES + 1, *, ordered: bool) -> None:
        """Hand on records, in order of time.

        Args:
            items: the records.
            size: bytes of their messages, where they are known: to look at each again would cost what dispatching does.
            ordered: whether they are in order of time as they are.
        """
        if not items:
            self._dispatcher.tick()
        if not ordered:
            items = in_order(items)
        if 0 < len(items) <= BATCH_RECORDS and size <= BATCH_BYTES:
            self._dispatcher.handle(items, size)
            with self._work:
                self._held = 0
            return
        at = 0
        while at < len(items):
            batch = items[at : at + BATCH_RECORDS]
            size = sum([len(record.buf) for record in batch])
            while size > BATCH_BYTES and len(batch) > 1:
                del batch[len(batch) // 2 :]
                size = sum([len(record.buf) for record in batch])
            self._dispatcher.handle(batch, size)
            at += len(batch)
            with self._work:
                if self._abandoned:
                    return
                self._held -= len(batch)


def in_order(records: list[Record]) -> list[Record]:
    """Return records in order of time, as far as their times can be compared.

    A server's processes each report what they handled, so a reply may arrive before its request. Records whose times
    are at most ``NEAR_US`` apart, one by one, change places among themselves; records with equal times keep theirs. So
    does a record with a time far from all others, of an old capture or a wrong clock.
    """
    times = [record.time_us for record in records]
    if sorted(times) == times:
        return records
    ordered = list(records)
    by_time = sorted(range(len(times)), key=times.__getitem__)
    begin = 0
    for end in range(1, len(by_time) + 1):
        if end == len(by_time) or times[by_time[end]] - times[by_time[end - 1]] > NEAR_US:
            near = by_time[begin:end]
            for place, index in zip(sorted(near), near, strict=True):
                ordered[place] = records[index]
            begin = end
    return ordered

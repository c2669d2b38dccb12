"""A lane: one backend with a thread and a backlog of its own, so that no backend waits for another.

What finds no room in the backlog is dropped for this backend alone, with a count and a reason.
"""

import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count, islice
from typing import Any, Literal

import attrs

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.guard import Guard
from sipdump_core.log import Event, log
from sipdump_core.pipeline.asker import Asker
from sipdump_core.pipeline.delivery import BACKOFF, CHECK_EVERY, FLUSH_EVERY, Delivery, likely_sizes
from sipdump_core.pipeline.numbers import LaneStats
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.threads import lasting

__all__ = ["Lane"]

_WATCH_EVERY = 0.5
_END_EVERY = 0.1

_LOOK_AHEAD = 64
"""Among how many commands a batch is looked for that shows whether the store works."""

_Command = tuple[Literal["open", "write", "seal", "flush", "check", "start", "stop"], Any]


@attrs.frozen(eq=False)
class _Waiting:
    """Records that wait to be written."""

    records: Sequence[Record]
    """A batch, if they were tried already."""
    size: int
    """Bytes of their messages."""
    since: float
    """When the first of them came, monotonic seconds."""


class Lane:
    """Runs one delivery in a thread.

    Args:
        delivery: takes the records to the backend.
        limit: how many records may wait.
        limit_bytes: how many bytes of messages may wait; one batch always may.
        clock: the time.
    """

    def __init__(self, delivery: Delivery, limit: int, limit_bytes: int, clock: Clock) -> None:
        self._delivery = delivery
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._backlog = self._bytes = 0
        self._commands: deque[_Command] = deque([("start", None)])
        self._changed = threading.Condition()
        self._last_flush = 0.0
        self._names = map(f"{secrets.token_hex(8)}-{{}}".format, count(1))
        self._asker = Asker(f"sipdump-{self.backend.name}-size", clock, delivery.size_is_late)
        self._stopped_at = 0.0
        self._thread = lasting(self._run, f"sipdump-{self.backend.name}")
        self._thread.start()

    @property
    def backend(self) -> Backend:
        """The backend."""
        return self._delivery.backend

    @property
    def losses(self) -> int:
        """How many segments were lost while they were open."""
        return self._delivery.losses

    def sizes(self, records: Sequence[Record]) -> Sequence[int]:
        """Return how many bytes each record will take in this backend's segment."""
        return self._asker.ask(lambda: self._delivery.sizes(records), lambda: likely_sizes(records))

    def preamble(self) -> int:
        """Return how many bytes this backend's segment begins with."""
        return self._asker.ask(self._delivery.preamble, lambda: 0)

    def open(self, segment: Segment) -> None:
        """Store the records that follow in a segment of this name, with the backend's own suffix."""
        self._put("open", segment)

    def seal(self) -> None:
        """Close the open segment after what was given so far."""
        self._put("seal", None)

    def write(self, batch: Sequence[Record], size: int, *, block: bool) -> None:
        """Store a batch.

        Args:
            batch: the records.
            size: bytes of their messages.
            block: wait while the backlog is full, as long as the backend makes progress; else drop at once.
        """
        count = len(batch)
        with self._changed:
            while self._backlog and (self._backlog + count > self._limit or self._bytes + size > self._limit_bytes):
                self._delivery.watch()
                if not block or not self._delivery.well or self._delivery.hurried:
                    self._delivery.drop(count, "backlog full")
                    return
                self._changed.wait(_WATCH_EVERY)
            self._backlog += count
            self._bytes += size
            self._commands.append(("write", _Waiting(batch, size, self._clock.monotonic())))
            self._changed.notify_all()

    def snapshot(self) -> LaneStats:
        """Return a copy of the numbers as they are now."""
        numbers = self._delivery.snapshot()
        numbers.backlog = self._backlog
        return numbers

    def flush(self) -> threading.Event:
        """Return an event that is set when everything given so far was stored, or given up, and flushed."""
        done = threading.Event()
        self._put("flush", done)
        return done

    def stop(self) -> None:
        """End after what was given; failing batches are tried once more and given up."""
        self._stopped_at = self._clock.monotonic()
        self._put("stop", None)
        self._asker.stop()
        self._delivery.hurry()

    def hurry(self) -> None:
        """Stop waiting: callers for room, failing batches for their next try."""
        self._delivery.hurry()

    def forget(self) -> None:
        """In a forked child: let go of what is open; it belongs to the parent."""
        self._delivery.forget()

    def join(self, timeout: float) -> bool:
        """Wait for the end, but no longer than the backend's ``stop_seconds`` for a call that does not return.

        Returns:
            True when all that was given before the end is stored, and the backend has ended. What still waits for one
            that does not return is counted as dropped.
        """
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            self._thread.join(min(left, _END_EVERY))
            if not self._thread.is_alive():
                return not self._delivery.lost
            if self._delivery.overdue(self._stopped_at):
                break
        with self._changed:
            self._commands.clear()
            self._commands.append(("stop", None))  # if it returns after all
            self._delivery.drop(self._backlog, "backend did not stop in time")
            self._backlog = 0
        self._delivery.abandon()
        return False

    def _put(self, verb: Any, argument: Any) -> None:
        with self._changed:
            self._commands.append((verb, argument))
            self._changed.notify_all()

    def _run(self) -> None:
        verb = ""
        while verb != "stop":
            verb, argument, idle = self._next()
            with Guard() as guard:
                self._do(verb, argument)
            if guard.error:  # not the backend's, which the delivery has caught
                what = "lane failed; this is a bug in sipdump, please report it"
                log.error(Event(what, backend=self.backend.name, operation=verb), exc_info=guard.error)
                if verb == "write":
                    self._delivery.drop(len(argument.records), type(guard.error).__name__)
            if verb == "write":
                self._delivered(argument, idle=idle)
            elif verb == "flush":
                argument.set()
            with self._changed:
                # not before it has caught up, or it would hold the others up at once again
                if self._backlog <= self._limit // 2:
                    self._delivery.caught_up()
                self._changed.notify_all()

    def _do(self, verb: str, argument: Any) -> None:
        if verb == "write":
            rest = self._delivery.deliver(self._named(argument.records), self._offer)
            self._delivery.drop(len(rest))
        elif verb == "flush":
            self._delivery.flush()
        elif verb == "start":
            self._delivery.start()
        elif verb == "open":
            self._delivery.begin(argument)
        elif verb == "seal":
            self._delivery.seal()
        elif verb == "check":
            self._delivery.check()
        else:
            self._delivery.end()

    def _next(self) -> tuple[str, Any, bool]:
        """Wait for a command; return it, and whether it was the last.

        Meanwhile, a start that failed is tried again, and the open segment is looked after.
        """
        delivery = self._delivery
        with self._changed:
            while not self._commands:
                idle = CHECK_EVERY if delivery.opened else None
                self._changed.wait(idle if delivery.started else BACKOFF[1])
                if not delivery.started and not self._commands:
                    self._commands.append(("start", None))
                elif delivery.opened and not self._commands:
                    self._commands.append(("check", None))
            verb, argument = self._commands.popleft()
            if verb == "write":
                argument = self._gather(argument)
            return verb, argument, not self._commands

    def _gather(self, first: _Waiting) -> _Waiting:
        """Make a batch of the size that the backend wants, as far as it can be had in time; the lock is held."""
        wanted, seconds = self._delivery.batching
        if isinstance(first.records, Batch) or not (wanted or seconds):
            return first
        records, size = list(first.records), first.size
        while len(records) < (wanted or self._limit):
            if self._commands:
                verb, more = self._commands[0]
                if verb != "write" or isinstance(more.records, Batch):
                    break
                self._commands.popleft()
                records += more.records
                size += more.size
            elif not self._wait_for_more(first.since + seconds - self._clock.monotonic()):
                break
        batch, rest = _cut(_Waiting(records, size, first.since), wanted)
        if rest:
            self._commands.appendleft(("write", rest))
        return batch

    def _wait_for_more(self, seconds: float) -> bool:
        """Wait for more records, but look after the segment; False when the batch is to go as it is."""
        full = 2 * self._backlog >= self._limit or 2 * self._bytes >= self._limit_bytes
        if seconds <= 0 or full or self._delivery.hurried:
            return False
        if not self._changed.wait(min(seconds, CHECK_EVERY)):
            self._changed.release()
            try:
                self._delivery.check()
            finally:
                self._changed.acquire()
        return True

    def _offer(self, store: Callable[[Batch], Sequence[int]]) -> None:
        """Have a batch stored that waits behind the one that is being delivered, if there is one."""
        with self._changed:
            places = [n for n, (verb, _) in enumerate(islice(self._commands, _LOOK_AHEAD)) if verb == "write"]
            if not places:
                return
            place = random.choice(places)  # noqa: S311 - any will do
            waiting, more = self._commands[place][1], None
            if not isinstance(waiting.records, Batch):
                waiting, more = _cut(waiting, self._delivery.batching[0])
            batch = self._named(waiting.records)
            tried: _Command = ("write", attrs.evolve(waiting, records=batch))
            self._commands[place] = tried
            if more:
                self._commands.insert(place + 1, ("write", more))
        rest = batch.part(store(batch))
        if len(rest) == len(batch):
            return
        left = _Waiting(rest, _size(rest), waiting.since)
        with self._changed:
            if tried in self._commands:  # else the end has come, and counted it as dropped
                at = self._commands.index(tried)
                del self._commands[at]
                if rest:
                    self._commands.insert(at, ("write", left))
                self._backlog -= len(batch) - len(rest)
                self._bytes -= waiting.size - left.size

    def _named(self, records: Sequence[Record]) -> Batch:
        """Return records as a batch, always the same once it is one."""
        return records if isinstance(records, Batch) else Batch(records, next(self._names))

    def _delivered(self, batch: _Waiting, *, idle: bool) -> None:
        now = self._clock.monotonic()
        if idle or now - self._last_flush >= FLUSH_EVERY:
            self._delivery.flush()
            self._last_flush = now
        with self._changed:
            self._backlog = max(0, self._backlog - len(batch.records))
            self._bytes -= batch.size


def _size(records: Sequence[Record]) -> int:
    """Return the bytes of their messages."""
    return sum([len(record.buf) for record in records])


def _cut(waiting: _Waiting, wanted: int) -> tuple[_Waiting, _Waiting | None]:
    """Divide records, if there are more than a batch should have."""
    if not 0 < wanted < len(waiting.records):
        return waiting, None
    now, later = waiting.records[:wanted], waiting.records[wanted:]
    size = _size(later)
    return _Waiting(now, waiting.size - size, waiting.since), _Waiting(later, size, waiting.since)

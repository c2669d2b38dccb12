"""A lane: one backend with a thread and a backlog of its own, so that no backend waits for another.

What finds no room in the backlog is dropped for this backend alone, with a count and a reason.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.guard import Guard
from sipdump_core.log import Event, log
from sipdump_core.pipeline.delivery import BACKOFF, CHECK_EVERY, Delivery, LaneStats
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.threads import lasting

__all__ = ["Lane"]

_FLUSH_EVERY = 0.05
_WATCH_EVERY = 0.5
_END_EVERY = 0.1

_Command = tuple[Literal["open", "write", "seal", "flush", "check", "start", "stop"], Any]


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
        self._lost = False
        self._commands: deque[_Command] = deque([("start", None)])
        self._changed = threading.Condition()
        self._last_flush = 0.0
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
        return self._delivery.sizes(records)

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
                    self._drop(count, "backlog full")
                    return
                self._changed.wait(_WATCH_EVERY)
            self._backlog += count
            self._bytes += size
            self._commands.append(("write", (batch, size)))
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
                return not self._lost
            if self._delivery.overdue(self._stopped_at):
                break
        with self._changed:
            self._commands.clear()
            self._commands.append(("stop", None))  # if it returns after all
            self._drop(self._backlog, "backend did not stop in time")
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
                    self._drop(len(argument[0]), type(guard.error).__name__)
            if verb == "write":
                self._delivered(*argument, idle=idle)
            elif verb == "flush":
                argument.set()
            with self._changed:
                # not before it has caught up, or it would hold the others up at once again
                if self._backlog <= self._limit // 2:
                    self._delivery.caught_up()
                self._changed.notify_all()

    def _do(self, verb: str, argument: Any) -> None:
        if verb == "write":
            rest = self._delivery.deliver(argument[0])
            self._drop(len(rest))
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
            return verb, argument, not self._commands

    def _delivered(self, batch: Sequence[Record], size: int, *, idle: bool) -> None:
        now = self._clock.monotonic()
        if idle or now - self._last_flush >= _FLUSH_EVERY:
            self._delivery.flush()
            self._last_flush = now
        with self._changed:
            self._backlog = max(0, self._backlog - len(batch))
            self._bytes -= size

    def _drop(self, count: int, reason: str = "") -> None:
        if count and self._delivery.hurried:
            self._lost = True
        self._delivery.drop(count, reason)

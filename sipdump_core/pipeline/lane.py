"""A lane: one backend with a thread and a backlog of its own, so that no backend waits for another.

What finds no room in the backlog is dropped for this backend alone, with a count and a reason.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.log import Event, log
from sipdump_core.pipeline.delivery import BACKOFF, Delivery, LaneStats
from sipdump_core.pipeline.spool import Spool
from sipdump_core.record import Record
from sipdump_core.segment import Segment

__all__ = ["Lane"]

STALL = 5.0
"""Seconds that one call may take before nobody waits for this backend any more, and stats call it stalled."""
_FLUSH_EVERY = 0.05

_Command = tuple[Literal["open", "write", "seal", "flush", "start", "stop"], Any]


class Lane:
    """Runs one backend in a thread.

    Args:
        backend: the backend.
        limit: how many records may wait.
        limit_bytes: how many bytes of messages may wait; one batch always may.
        clock: tells the time of state changes.
    """

    def __init__(self, backend: Backend, limit: int, limit_bytes: int, clock: Clock) -> None:
        self.backend = backend
        self._delivery = Delivery(backend, clock)
        self._stats = self._delivery.stats
        self._stopping = self._delivery.stopping
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._lost = False
        self._clock = clock
        self._commands: deque[_Command] = deque([("start", None)])
        self._changed = threading.Condition(self._delivery.lock)
        self._busy_since: float | None = None
        self._last_flush = 0.0
        self._thread = threading.Thread(target=self._run, name=f"sipdump-{backend.name}", daemon=True)
        self._thread.start()

    def size(self, record: Record) -> int:
        """Give the bytes that a record will take in this backend's segment."""
        try:
            size = max(0, int(self.backend.record_size(record)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the writer must not end, whatever a driver raises
            self._delivery.failed("record_size", error)
            return len(record.buf)
        self._delivery.worked("record_size")
        return size

    def open(self, segment: Segment) -> None:
        """Have the records that follow stored in a segment of this name (with the backend's own suffix)."""
        self._put("open", segment)

    def seal(self) -> None:
        """Close the open segment after what was given so far."""
        self._put("seal", None)

    def write(self, batch: Sequence[Record], size: int, *, block: bool) -> None:
        """Give a batch.

        Args:
            batch: the records.
            size: bytes of their messages.
            block: wait while the backlog is full, as long as the backend makes progress; else drop at once.
        """
        count = len(batch)
        with self._changed:
            while self._stats.backlog and (
                self._stats.backlog + count > self._limit or self._bytes + size > self._limit_bytes
            ):
                self._watch()
                if not block or self._stats.state != "ok" or self._stopping.is_set():
                    self._drop(count, "backlog full")
                    return
                self._changed.wait(STALL / 10)
            self._stats.backlog += count
            self._bytes += size
            self._commands.append(("write", (batch, size)))
            self._changed.notify_all()

    def snapshot(self) -> LaneStats:
        """Give a copy of the numbers as they are now."""
        with self._changed:
            self._watch()
        numbers = self._delivery.snapshot()
        return self.backend.combine(numbers) if isinstance(self.backend, Spool) else numbers

    def flush(self) -> threading.Event:
        """Give an event that is set when everything given so far was stored, or given up, and flushed."""
        done = threading.Event()
        self._put("flush", done)
        return done

    def stop(self) -> None:
        """Have the lane end after what it was given; failing batches are tried once more and given up."""
        self._put("stop", None)
        self._stopping.set()

    def hurry(self) -> None:
        """Wait for nothing any more: no caller for room, no failing batch for its next try."""
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        """Wait for the end, for one that is stalled no longer than ``STALL`` seconds.

        Returns:
            True when all that was given before the end is stored. What a backend that does not return keeps waiting
            is counted as dropped.
        """
        with self._changed:
            self._watch()
            stalled = self._stats.state == "stalled"
        self._thread.join(min(timeout, STALL) if stalled else timeout)
        if not self._thread.is_alive():
            return not self._lost
        with self._changed:
            self._commands.clear()
            self._commands.append(("stop", None))  # if it returns after all
            self._drop(self._stats.backlog, "backend did not stop in time")
            self._stats.backlog = 0
            self._delivery.set_state("stalled", "did not stop in time")
        log.error(Event("backend did not stop in time", backend=self.backend.name))
        return not self._lost

    def _put(self, verb: Any, argument: Any) -> None:
        with self._changed:
            self._commands.append((verb, argument))
            self._changed.notify_all()

    def _run(self) -> None:
        verb = ""
        while verb != "stop":
            verb, argument, idle = self._next()
            if verb == "write":
                rest = self._delivery.deliver(argument[0])
                self._drop(len(rest), self._stats.error.partition(":")[0])  # the error's kind
                self._delivered(*argument, idle=idle)
            elif verb == "flush":
                self._delivery.flush()
                argument.set()
            elif verb == "start":
                self._delivery.start()
            elif verb == "open":
                self._delivery.begin(argument)
            elif verb == "seal":
                self._delivery.seal()
            else:
                self._delivery.end()
            with self._changed:
                self._busy_since = None
                # not before it has caught up, or it would hold the others up at once again
                if self._stats.state == "stalled" and self._stats.backlog <= self._limit // 2:
                    self._delivery.set_state("ok", "")
                self._changed.notify_all()

    def _next(self) -> tuple[str, Any, bool]:
        """Wait for a command; give it, and whether it was the last. Without one, a start that failed is tried again."""
        with self._changed:
            while not self._commands:
                self._changed.wait(None if self._delivery.started else BACKOFF[1])
                if not self._delivery.started and not self._commands:
                    self._commands.append(("start", None))
            verb, argument = self._commands.popleft()
            self._busy_since = self._clock.monotonic()
            return verb, argument, not self._commands

    def _delivered(self, batch: Sequence[Record], size: int, *, idle: bool) -> None:
        now = self._clock.monotonic()
        if idle or now - self._last_flush >= _FLUSH_EVERY:
            self._delivery.flush()
            self._last_flush = now
        with self._changed:
            self._stats.backlog = max(0, self._stats.backlog - len(batch))
            self._bytes -= size

    def _watch(self) -> None:
        """See whether the call that is under way takes too long."""
        since = self._busy_since
        if self._stats.state == "ok" and since is not None and self._clock.monotonic() - since > STALL:
            self._delivery.set_state("stalled", "a call does not return")
            log.warning(Event("backend stalled: a call does not return", backend=self.backend.name))

    def _drop(self, count: int, reason: str) -> None:
        if count:
            with self._changed:
                self._lost = self._lost or self._stopping.is_set()
        self._delivery.drop(count, reason)

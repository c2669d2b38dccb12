"""A lane: one backend with a thread and a backlog of its own, so that no backend waits for another.

What a backend raises is counted, logged once in a while, and tried again: a storage error for as long as the backlog
lasts; any other exception of ``write`` a few times, and then record by record (one may be what it cannot digest). What
finds no room in the backlog is dropped for this backend alone, with a count and a reason.
"""

import threading
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from sipdump_core.backend import Backend
from sipdump_core.clock import Clock
from sipdump_core.errors import PartialWriteError, SegmentExistsError, StorageError, StorageFullError
from sipdump_core.log import Event, Limit, log
from sipdump_core.record import Record
from sipdump_core.segment import Segment

__all__ = ["Lane", "LaneStats"]

ATTEMPTS = 5
"""How often a batch is tried that raises what is no StorageError."""
STALL = 5.0
"""Seconds that one call may take before nobody waits for this backend any more, and stats call it stalled."""
_BACKOFF = (0.1, 10.0)
_FLUSH_EVERY = 0.05

_Command = tuple[Literal["open", "write", "seal", "flush", "start", "stop"], Any]


@attrs.define
class LaneStats:
    """What a backend did; counts are of records."""

    state: str = "ok"
    """ok, retrying (an error, see ``error``), stalled (a call does not return) or stopped."""
    since: float = 0.0
    """When the state began, seconds since the epoch."""
    error: str = ""
    """The last error, with its kind."""
    stored: int = 0
    backlog: int = 0
    dropped: Counter[str] = attrs.field(factory=Counter)
    """Records lost to this backend, by reason."""


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
        self.stats = LaneStats(since=clock.time())
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._lost = False
        self._clock = clock
        self._commands: deque[_Command] = deque()
        self._changed = threading.Condition(threading.RLock())
        self._stopping = threading.Event()
        self._busy_since: float | None = None
        self._segment: Segment | None = None
        self._started = False
        self._opened = False
        self._ill_since = 0.0
        self._dirty = False
        self._last_flush = 0.0
        self._log = Limit()
        self._thread = threading.Thread(target=self._run, name=f"sipdump-{backend.name}", daemon=True)
        self._thread.start()

    def size(self, record: Record) -> int:
        """Give the bytes that a record will take in this backend's segment."""
        try:
            return self.backend.record_size(record)
        except Exception as error:  # noqa: BLE001 - the writer must not end, whatever a driver raises
            self._failed("record_size", error)
            return len(record.buf)

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
            while self.stats.backlog and (
                self.stats.backlog + count > self._limit or self._bytes + size > self._limit_bytes
            ):
                self._watch()
                if not block or self.stats.state != "ok" or self._stopping.is_set():
                    self._drop(count, "backlog full")
                    return
                self._changed.wait(STALL / 10)
            self.stats.backlog += count
            self._bytes += size
            self._commands.append(("write", (batch, size)))
            self._changed.notify_all()

    def snapshot(self) -> LaneStats:
        """Give a copy of the numbers as they are now."""
        try:
            illness = self.backend.health()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises
            illness = f"health: {type(error).__name__}: {error}"
        with self._changed:
            self._watch()
            numbers = attrs.evolve(self.stats, dropped=Counter(self.stats.dropped))
            self._ill_since = (self._ill_since or self._clock.time()) if illness else 0.0
        if illness and numbers.state in ("ok", "stopped"):
            numbers.error = illness
            if numbers.state == "ok":
                numbers.state, numbers.since = "retrying", self._ill_since
        return numbers

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
        """Wait for the end.

        Returns:
            True when all that was given before the end is stored. What a backend that does not return keeps waiting
            is counted as dropped.
        """
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return not self._lost
        with self._changed:
            self._commands.clear()
            self._drop(self.stats.backlog, "backend did not stop in time")
            self.stats.backlog = 0
            self._set_state("stalled", "did not stop in time")
        log.error(Event("backend did not stop in time", backend=self.backend.name))
        return False

    def _put(self, verb: Any, argument: Any) -> None:
        with self._changed:
            self._commands.append((verb, argument))
            self._changed.notify_all()

    def _run(self) -> None:
        self._start()
        verb = ""
        while verb != "stop":
            verb, argument, idle = self._next()
            if verb == "write":
                self._deliver(argument[0])
                self._delivered(*argument, idle=idle)
            elif verb == "flush":
                self._flush()
                argument.set()
            elif verb == "start":
                self._start()
            elif verb == "open":
                self._segment = argument
            else:
                self._close()
            if verb == "stop":
                if self._started:
                    self._call("stop")
                self._set_state("stopped", self.stats.error)
            with self._changed:
                self._busy_since = None
                # not before it has caught up, or it would hold the others up at once again
                if self.stats.state == "stalled" and self.stats.backlog <= self._limit // 2:
                    self._set_state("ok", "")
                self._changed.notify_all()

    def _next(self) -> tuple[str, Any, bool]:
        """Wait for a command; give it, and whether it was the last. Without one, a start that failed is tried again."""
        with self._changed:
            while not self._commands:
                self._changed.wait(None if self._started else _BACKOFF[1])
                if not self._started and not self._commands:
                    self._commands.append(("start", None))
            verb, argument = self._commands.popleft()
            self._busy_since = self._clock.monotonic()
            return verb, argument, not self._commands

    def _delivered(self, batch: Sequence[Record], size: int, *, idle: bool) -> None:
        self._dirty = True
        now = self._clock.monotonic()
        if idle or now - self._last_flush >= _FLUSH_EVERY:
            self._flush()
            self._last_flush = now
        with self._changed:
            self.stats.backlog = max(0, self.stats.backlog - len(batch))
            self._bytes -= size

    def _flush(self) -> None:
        if self._dirty:
            self._dirty = not self._call("flush")

    def _start(self) -> BaseException | None:
        try:
            self.backend.start()
        except BaseException as error:  # noqa: BLE001 - see _try
            self._failed("start", error)
            return error
        self._started = True
        self._recovered()
        return None

    def _deliver(self, batch: Sequence[Record]) -> None:
        delay, ceiling = _BACKOFF
        attempt = 0
        while True:
            lasting = True  # what is raised before a record was looked at is no record's fault
            error = self._prepare()
            if error is None:
                attempt += 1
                error = self._try(batch)
                if error is None:
                    return
                lasting = isinstance(error, (StorageError, OSError))
                if isinstance(error, PartialWriteError):
                    batch = [record for at, record in enumerate(batch) if at in error.failed]
                    lasting = False
                elif lasting and not isinstance(error, StorageFullError):
                    self._close()  # what the segment has is good; go on in a fresh one
            if self._stopping.is_set() or (not lasting and attempt >= ATTEMPTS):
                if lasting or isinstance(error, PartialWriteError):
                    self._drop(len(batch), type(error).__name__)
                else:
                    self._sift(batch)
                return
            self._stopping.wait(delay)
            delay = min(2 * delay, ceiling)

    def _sift(self, batch: Sequence[Record]) -> None:
        """Store what can be stored of a batch that raises: halves of it, down to the record at fault."""
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]) if half else (batch,):
            error = self._prepare() or self._try(part)
            if error is not None and len(part) > 1:
                self._sift(part)
            elif error is not None:
                self._drop(1, type(error).__name__)

    def _prepare(self) -> BaseException | None:
        """Have the backend started, and a segment open."""
        if not self._started:
            error = self._start()
            if error is not None:
                return error
        if not self._opened:
            try:
                self._open()
            except BaseException as error:  # noqa: BLE001 - see _try
                self._failed("open", error)
                return error
        return None

    def _try(self, batch: Sequence[Record]) -> BaseException | None:
        failure: BaseException | None = None
        stored = len(batch)
        try:
            self.backend.write(batch)
        except PartialWriteError as error:
            stored -= len(error.failed.intersection(range(stored)))
            failure = error if stored < len(batch) else None
        except BaseException as error:  # noqa: BLE001 - whatever a driver raises, sys.exit too, stays in its lane
            failure, stored = error, 0
        with self._changed:
            self.stats.stored += stored
        if failure is not None:
            self._failed("write", failure)
        else:
            self._recovered()
        return failure

    def _recovered(self) -> None:
        with self._changed:
            recovered = self.stats.state == "retrying"
            if recovered:
                self._set_state("ok", "")
        if recovered:
            log.warning(Event("backend works again", backend=self.backend.name, stored=self.stats.stored))

    def _open(self) -> None:
        if self._segment is None:
            raise StorageError("open", self.backend.name, "no segment was named")
        segment = attrs.evolve(self._segment, suffix=self.backend.suffix)
        while True:
            try:
                self.backend.open(segment)
            except SegmentExistsError:
                segment = segment.next()
            else:
                self._opened = True
                self._segment = segment
                log.info(Event("segment opened", backend=self.backend.name, name=segment.name))
                return

    def _close(self) -> None:
        if self._opened:
            self._opened = False
            if self._call("close") and self._segment:
                log.info(Event("segment sealed", backend=self.backend.name, name=self._segment.name))

    def _call(self, operation: str) -> bool:
        try:
            getattr(self.backend, operation)()
        except BaseException as error:  # noqa: BLE001 - see _deliver
            self._failed(operation, error)
            return False
        return True

    def _failed(self, operation: str, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}"
        with self._changed:
            self._set_state("retrying", text)
        at = {}
        if not isinstance(error, StorageError):  # the driver's own fault: its author wants to see where
            last = traceback.extract_tb(error.__traceback__)[-1]
            at = {"at": f"{last.filename}:{last.lineno}"}
        fields: dict[str, Any] = {"backend": self.backend.name, "operation": operation, "error": text, **at}
        self._log.warn(operation, "backend failed", **fields)

    def _watch(self) -> None:
        """See whether the call that is under way takes too long."""
        since = self._busy_since
        if self.stats.state == "ok" and since is not None and self._clock.monotonic() - since > STALL:
            self._set_state("stalled", "a call does not return")
            log.warning(Event("backend stalled: a call does not return", backend=self.backend.name))

    def _set_state(self, state: str, error: str) -> None:
        if self.stats.state != state:
            self.stats.since = self._clock.time()
        self.stats.state = state
        self.stats.error = error

    def _drop(self, count: int, reason: str) -> None:
        if not count:
            return
        with self._changed:
            self.stats.dropped[reason] += count
            self._lost = self._lost or self._stopping.is_set()
        self._log.warn("drop", "records dropped", backend=self.backend.name, count=count, reason=reason)

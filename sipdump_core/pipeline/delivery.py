"""Delivery: makes one backend store what it is given, whatever it raises.

What a backend raises is counted, logged at most once a second, and tried again: a storage error for as long as somebody
waits for it; any other exception of ``write`` a few times, and then record by record (one record may be at fault).
"""

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import attrs

from sipdump_core.clock import Clock, local_iso
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.guard import Guard, labelled
from sipdump_core.errors import (
    PartialWriteError,
    SegmentExistsError,
    SegmentLostError,
    SipDumpError,
    StorageError,
    StorageFullError,
    kind_and_text,
    one_line,
)
from sipdump_core.log import Event, Limit, log
from sipdump_core.record import Record
from sipdump_core.segment import Segment

__all__ = ["BACKOFF", "CHECK_EVERY", "Delivery", "LaneStats", "Writer"]

ATTEMPTS = 5
"""How often a batch is tried if what it raises is no StorageError."""
BACKOFF = (0.1, 10.0)
"""Seconds before the second try, and at most."""
STALL = 5.0
"""Seconds that one call may take before nobody waits for this backend any more, and stats call it stalled."""
CHECK_EVERY = 0.5
"""Seconds between two looks whether the open segment is still good."""
_ANSWER = 1.0
"""Seconds that a caller of ``snapshot`` waits for the backend's own numbers."""
_NAMES = 1000
"""How many names in a row may be taken before that is the driver's fault."""
_APART = frozenset(("flush", "record_size"))
"""What may fail again and again while records are stored: only its own success shows that it works again."""


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
    distribution: str = ""
    """The distribution, with its version, that the driver came from."""
    counters: Mapping[str, int] = attrs.field(factory=dict)
    """The backend's own (``Backend.stats``)."""


class Writer(Protocol):
    """What a delivery writes to: a backend, or the spool before it. Its methods are those of ``Backend``."""

    @property
    def suffix(self) -> str:
        """What names of its segments end with."""

    def start(self) -> None:
        """Get ready."""

    def stop(self) -> None:
        """End what ``start`` began."""

    def open(self, segment: Segment) -> None:
        """Begin a segment."""

    def write(self, batch: Batch) -> None:
        """Store a batch."""

    def flush(self) -> None:
        """Make what was written visible."""

    def check(self) -> None:
        """Raise if the open segment is no longer good."""

    def close(self) -> None:
        """Seal the open segment."""

    def health(self) -> str:
        """Return what is wrong in the background."""

    def stats(self) -> Mapping[str, int]:
        """Return counters."""

    def forget(self) -> None:
        """Let go of what is open, in a forked child."""


class Delivery:
    """Writes to a backend, in one thread, and keeps its numbers, which any thread may ask for.

    Args:
        backend: the backend.
        clock: the time, for stalls and state changes.
        writer: what is written to instead, on the way to the backend.
    """

    def __init__(self, backend: Backend, clock: Clock, writer: Writer | None = None) -> None:
        self.backend = backend
        self.started = False
        self.losses = 0
        """How many segments were lost while they were open."""
        self._writer: Writer = writer or backend
        self._clock = clock
        site = getattr(backend, "site", None)
        self._stats = LaneStats(since=clock.time(), distribution=getattr(site, "distribution", ""))
        self._lock = threading.RLock()  # guards the numbers
        self._hurried = threading.Event()
        self._segment: Segment | None = None
        self._opened = False
        self._dirty = False
        self._checked = 0.0
        self._busy_since: float | None = None
        self._failing: set[str] = set()
        self._ill_since = 0.0
        self._asking: threading.Thread | None = None
        self._answer: tuple[str, Mapping[str, int]] = ("", {})
        self._log = Limit()

    # ---- for the thread that writes ----

    def start(self) -> BaseException | None:
        """Start the backend; return the error if that fails."""
        error = self._call("start")
        self.started = error is None
        return error

    def begin(self, segment: Segment) -> None:
        """Store what follows in a segment of this name, with the backend's own suffix."""
        self._segment = segment

    def deliver(self, records: Sequence[Record]) -> Sequence[Record]:
        """Store a batch, however often that must be tried.

        Returns:
            What is not stored because of ``hurry``; another try may store it. What the backend cannot digest is
            dropped, and not among it.
        """
        batch = records if isinstance(records, Batch) else Batch(records)
        delay, ceiling = BACKOFF
        attempt = 0
        while True:
            lasting = True  # what is raised before a record was looked at is no record's fault
            self.check()
            error = self._prepare()
            if error is None:
                attempt += 1
                error = self._write(batch)
                if error is None:
                    return ()
                lasting = isinstance(error, (StorageError, OSError))
                if isinstance(error, PartialWriteError):
                    failed = _failed(error, len(batch))
                    batch = batch.part(sorted(failed))
                    lasting = False
                elif lasting and not isinstance(error, StorageFullError):
                    self.seal()  # what the segment has is good; go on in a fresh one
            if lasting and self.hurried:
                return batch
            if not lasting and (attempt >= ATTEMPTS or self.hurried):
                if isinstance(error, PartialWriteError):
                    self.drop(len(batch), type(error).__name__)
                else:
                    self._sift(batch)
                return ()
            self.pause(delay)
            delay = min(2 * delay, ceiling)

    def flush(self) -> None:
        """Make visible what was stored since the last flush."""
        if self._dirty:
            self._dirty = self._call("flush") is not None

    @property
    def flushed(self) -> bool:
        """Whether all that was stored has been flushed."""
        return not self._dirty

    @property
    def opened(self) -> bool:
        """Whether a segment is open."""
        return self._opened

    def check(self) -> None:
        """Look, every ``CHECK_EVERY`` seconds, whether the open segment is still good; seal it if it is not."""
        now = self._clock.monotonic()
        if self._opened and now - self._checked >= CHECK_EVERY:
            self._checked = now
            if self._call("check") is not None:
                self.seal()

    def seal(self) -> None:
        """Close the open segment."""
        if self._opened:
            self._opened = False
            if self._call("close") is None and self._segment:
                log.info(Event("segment sealed", backend=self.backend.name, name=self._segment.name))

    def end(self) -> None:
        """Close the open segment and stop the backend."""
        self.seal()
        if self.started:
            self._call("stop")
        with self._lock:
            self._set_state("stopped", self._stats.error)

    def pause(self, seconds: float) -> None:
        """Wait, unless there is a hurry."""
        self._hurried.wait(seconds)

    # ---- for any thread ----

    @property
    def hurried(self) -> bool:
        """Whether ``hurry`` was called."""
        return self._hurried.is_set()

    def hurry(self) -> None:
        """Stop waiting for the next try of what fails."""
        self._hurried.set()

    @property
    def well(self) -> bool:
        """Whether the backend stores: it neither fails nor is stalled."""
        return self._stats.state == "ok"

    def watch(self) -> bool:
        """Return whether the call that is under way takes too long; from then on the state says so."""
        since = self._busy_since
        with self._lock:
            if self.well and since is not None and self._clock.monotonic() - since > STALL:
                self._set_state("stalled", "a call does not return")
                log.warning(Event("backend stalled: a call does not return", backend=self.backend.name))
            return self._stats.state == "stalled"

    def overdue(self, since: float) -> bool:
        """Return whether a call is under way that began before the end or at it, and takes too long.

        Args:
            since: when the end was asked for, on the clock's monotonic scale.
        """
        began = self._busy_since
        return began is not None and self._clock.monotonic() - max(began, since) > self.stop_seconds

    @property
    def stop_seconds(self) -> float:
        """Seconds that a call may take when all ends."""
        with Guard():
            return max(STALL, float(self.backend.stop_seconds))
        return STALL

    def caught_up(self) -> None:
        """End the state of a stall: the call has returned, and what waited meanwhile is stored."""
        with self._lock:
            if self._stats.state == "stalled":
                self._set_state("ok", "")

    def abandon(self) -> None:
        """Stop waiting for its end."""
        with self._lock:
            self._set_state("stalled", "did not stop in time")
        log.error(Event("backend did not stop in time", backend=self.backend.name))

    def forget(self) -> None:
        """In a forked child: let go of what is open; it belongs to the parent."""
        with Guard() as guard:
            self._named("forget")()
        if guard.error:
            log.warning(Event("backend failed", backend=self.backend.name, operation="forget", error=guard.text))

    def sizes(self, records: Sequence[Record]) -> Sequence[int]:
        """Return how many bytes each record will take in this backend's segment."""
        with Guard() as guard:
            sizes = [max(0, int(size)) for size in map(self.backend.record_size, records)]
            self._worked("record_size")
            return sizes
        if guard.error:
            self.failed("record_size", guard.error)
        return [len(record.buf) for record in records]

    def drop(self, count: int, reason: str = "") -> None:
        """Count records as lost, and log it.

        Args:
            count: how many.
            reason: why; by default the kind of the last error.
        """
        if not count:
            return
        with self._lock:
            reason = reason or self._stats.error.partition(":")[0]
            self._stats.dropped[reason] += count
        self._log.warn("drop", "records dropped", backend=self.backend.name, count=count, reason=reason)

    def snapshot(self) -> LaneStats:
        """Return a copy of the numbers as they are now, with the backend's own."""
        self.watch()
        asking = self._asking
        if asking is None or not asking.is_alive():
            asking = threading.Thread(target=self._ask, name=f"sipdump-{self.backend.name}-ask", daemon=True)
            with Guard() as guard:
                asking.start()
            self._asking = None if guard.error else asking
        if self._asking:
            asking.join(_ANSWER)
        illness, counters = self._answer
        if not self._asking:
            illness = "no thread can be started to ask for health() and stats()"
        elif asking.is_alive():
            illness = "health() or stats() does not return"
        with self._lock:
            self._ill_since = (self._ill_since or self._clock.time()) if illness else 0.0
            numbers = attrs.evolve(self._stats, dropped=Counter(self._stats.dropped), counters=counters)
        if illness and numbers.state in ("ok", "stopped"):
            numbers.error = illness
            if numbers.state == "ok":
                numbers.state, numbers.since = "retrying", self._ill_since
        return numbers

    def failed(self, operation: str, error: BaseException) -> None:
        """Note and log what was raised."""
        if isinstance(error, SegmentLostError):
            self._lost(error)
            return
        text = kind_and_text(error)
        with self._lock:
            self._failing.add(operation)
            self._set_state("retrying", text)
            since = local_iso(self._stats.since)
        fields: dict[str, Any] = {"backend": self.backend.name, "distribution": self._stats.distribution}
        fields |= {"operation": operation, "error": text, "since": since}
        if not isinstance(error, SipDumpError):  # the driver's own fault: its author wants to see where
            last = traceback.extract_tb(error.__traceback__)[-1]
            fields["at"] = f"{last.filename}:{last.lineno}"
        self._log.warn(operation, "backend failed", **fields)

    def _lost(self, error: SegmentLostError) -> None:
        """Count what a segment held that is gone; what follows goes into the next one."""
        with self._lock:
            self.losses += 1
            self._stats.stored -= min(error.records, self._stats.stored)
            self._stats.dropped[error.reason] += error.records
        if self._segment:
            self._segment = self._segment.next()
        fields = {"backend": self.backend.name, "path": error.target, "records": error.records}
        log.warning(Event("open segment is gone, what it held counts as dropped", **fields, reason=error.reason))

    def _worked(self, operation: str) -> None:
        """Note that a call succeeded: the backend works again, unless another one still fails."""
        if not self._failing:
            return
        with self._lock:
            self._failing &= _APART if operation not in _APART else self._failing - {operation}
            recovered = not self._failing and self._stats.state == "retrying"
            if recovered:
                self._set_state("ok", "")
        if recovered:
            log.warning(Event("backend works again", backend=self.backend.name, stored=self._stats.stored))

    def _set_state(self, state: str, error: str) -> None:
        """Set the state, and since when it holds; the lock is held."""
        if self._stats.state != state:
            self._stats.since = self._clock.time()
        self._stats.state = state
        self._stats.error = error

    def _ask(self) -> None:
        """Ask for health and counters; in a thread of its own, because it may wait for a call that hangs."""
        illness = ""
        counters: Mapping[str, int] = {}
        with Guard() as guard:
            illness = one_line(str(self._named("health")() or ""))
            counters = {str(name): int(value) for name, value in self._named("stats")().items()}
        self._answer = guard.text or illness, counters

    def _named(self, operation: str) -> Callable[..., Any]:
        """Return a method of the writer, as a crash report shows it."""
        return labelled(self.backend.name, f"{operation}()", getattr(self._writer, operation))

    def _call(self, operation: str, *args: Any) -> BaseException | None:
        """Call the writer; return what it raises, noted and logged."""
        with self._calling() as guard:
            self._named(operation)(*args)
        if guard.error:
            self.failed(operation, guard.error)
        elif operation in _APART or operation == "start":
            self._worked(operation)
        return guard.error

    @contextmanager
    def _calling(self) -> Iterator[Guard]:
        """Guard a call of the writer, and note since when it is under way."""
        self._busy_since = self._clock.monotonic()
        with Guard() as guard:
            yield guard
        self._busy_since = None

    def _prepare(self) -> BaseException | None:
        """See that the backend is started, and a segment open."""
        error = None if self.started else self.start()
        if error is None and not self._opened:
            with self._calling() as guard:
                self._open()
            if guard.error:
                self.failed("open", guard.error)
            error = guard.error
        return error

    def _open(self) -> None:
        if self._segment is None:
            raise StorageError("open", self.backend.name, "no segment was named")
        segment = attrs.evolve(self._segment, suffix=self._writer.suffix)
        for _ in range(_NAMES):
            self._segment = segment
            try:
                self._named("open")(segment)
            except SegmentExistsError:
                segment = segment.next()
            else:
                self._opened = True
                log.info(Event("segment opened", backend=self.backend.name, name=segment.name))
                return
        raise StorageError("open", segment.name, f"this name is taken, and {_NAMES - 1} before it")

    def _write(self, batch: Batch) -> BaseException | None:
        with self._calling() as guard:
            self._named("write")(batch)
        error = guard.error
        failed = _failed(error, len(batch)) if error else ()
        self._dirty = True
        with self._lock:
            self._stats.stored += len(batch) - len(failed)
        if error and failed:
            self.failed("write", error)
            return error
        self._worked("write")
        return None

    def _sift(self, batch: Batch) -> None:
        """Store what can be stored of a batch that raises: halves of it, down to the record at fault."""
        half = len(batch) // 2
        for part in (batch.part(range(half)), batch.part(range(half, len(batch)))) if half else (batch,):
            error = self._prepare() or self._write(part)
            if error is not None and len(part) > 1:
                self._sift(part)
            elif error is not None:
                self.drop(1, type(error).__name__)


def _failed(error: BaseException, count: int) -> frozenset[int]:
    """Return the indexes of the ``count`` records that an error of ``write`` leaves unstored: all if it names none."""
    every = frozenset(range(count))
    if not isinstance(error, PartialWriteError):
        return every
    try:
        return every.intersection(error.failed)
    except (AttributeError, TypeError):  # a driver's own subclass of it may have none, or no indexes
        return every

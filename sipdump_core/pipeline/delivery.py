"""Delivery: has one backend store what it is given, whatever it raises.

What a backend raises is counted, logged once in a while, and tried again: a storage error for as long as somebody
waits for it; any other exception of ``write`` a few times, and then record by record (one may be what it cannot
digest).
"""

import threading
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sipdump_core.clock import Clock, local_iso
from sipdump_core.drivers.base import Backend
from sipdump_core.errors import (
    PartialWriteError,
    SegmentExistsError,
    SipDumpError,
    StorageError,
    StorageFullError,
    kind_and_text,
    one_line,
)
from sipdump_core.log import Event, Limit, log
from sipdump_core.record import Record
from sipdump_core.segment import Segment

__all__ = ["BACKOFF", "Delivery", "LaneStats"]

ATTEMPTS = 5
"""How often a batch is tried that raises what is no StorageError."""
BACKOFF = (0.1, 10.0)
"""Seconds before the first next try, and at the most."""
_ANSWER = 1.0
"""Seconds that whoever asks for the numbers waits for what the backend says of itself."""
_NAMES = 1000
"""How many names in a row may be taken before that is the driver's fault."""
_APART = frozenset(("flush", "record_size"))
"""What may fail again and again while records are stored: only its own success says that it works again."""


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


class Delivery:
    """Calls a backend's writing methods, in one thread, and keeps its numbers.

    Args:
        backend: the backend.
        clock: tells the time of state changes.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.backend = backend
        self.stats = LaneStats(
            since=clock.time(), distribution=getattr(getattr(backend, "site", None), "distribution", "")
        )
        self.lock = threading.RLock()
        """Guards the numbers."""
        self.stopping = threading.Event()
        """Set: no failing call is waited for any more."""
        self.started = False
        self._clock = clock
        self._segment: Segment | None = None
        self._opened = False
        self._dirty = False
        self._failing: set[str] = set()
        self._ill_since = 0.0
        self._asking: threading.Thread | None = None
        self._answer: tuple[str, Mapping[str, int]] = ("", {})
        self._log = Limit()

    def start(self) -> BaseException | None:
        """Start the backend; give the error where that fails."""
        try:
            self.backend.start()
        except BaseException as error:  # noqa: BLE001 - see _try
            self.failed("start", error)
            return error
        self.started = True
        self.worked("start")
        return None

    def begin(self, segment: Segment) -> None:
        """Have what follows stored in a segment of this name (with the backend's own suffix)."""
        self._segment = segment

    def deliver(self, batch: Sequence[Record]) -> Sequence[Record]:
        """Store a batch, however often that must be tried.

        Returns:
            What is not stored because it is time to stop; a next try may store it. What the backend cannot digest is
            dropped, and not among it.
        """
        delay, ceiling = BACKOFF
        attempt = 0
        while True:
            lasting = True  # what is raised before a record was looked at is no record's fault
            error = self._prepare()
            if error is None:
                attempt += 1
                error = self._try(batch)
                if error is None:
                    return ()
                lasting = isinstance(error, (StorageError, OSError))
                if isinstance(error, PartialWriteError):
                    failed = _failed(error, len(batch))
                    batch = [record for at, record in enumerate(batch) if at in failed]
                    lasting = False
                elif lasting and not isinstance(error, StorageFullError):
                    self.seal()  # what the segment has is good; go on in a fresh one
            if lasting and self.stopping.is_set():
                return batch
            if not lasting and (attempt >= ATTEMPTS or self.stopping.is_set()):
                if isinstance(error, PartialWriteError):
                    self.drop(len(batch), type(error).__name__)
                else:
                    self._sift(batch)
                return ()
            self.stopping.wait(delay)
            delay = min(2 * delay, ceiling)

    def flush(self) -> None:
        """Make visible what was stored since the last flush."""
        if self._dirty:
            self._dirty = not self._call("flush")

    def seal(self) -> None:
        """Close the open segment."""
        if self._opened:
            self._opened = False
            if self._call("close") and self._segment:
                log.info(Event("segment sealed", backend=self.backend.name, name=self._segment.name))

    def end(self) -> None:
        """Close the open segment and stop the backend."""
        self.seal()
        if self.started:
            self._call("stop")
        self.set_state("stopped", self.stats.error)

    def snapshot(self) -> LaneStats:
        """Give a copy of the numbers as they are now, with what the backend itself says."""
        asking = self._asking
        if asking is None or not asking.is_alive():
            asking = self._asking = threading.Thread(
                target=self._ask, name=f"sipdump-{self.backend.name}-ask", daemon=True
            )
            asking.start()
        asking.join(_ANSWER)
        illness, counters = self._answer
        if asking.is_alive():
            illness = "health() or stats() does not return"
        with self.lock:
            self._ill_since = (self._ill_since or self._clock.time()) if illness else 0.0
            numbers = attrs.evolve(self.stats, dropped=Counter(self.stats.dropped), counters=counters)
        if illness and numbers.state in ("ok", "stopped"):
            numbers.error = illness
            if numbers.state == "ok":
                numbers.state, numbers.since = "retrying", self._ill_since
        return numbers

    def failed(self, operation: str, error: BaseException) -> None:
        """Note and log what a call raised."""
        text = kind_and_text(error)
        with self.lock:
            self._failing.add(operation)
            self.set_state("retrying", text)
            since = local_iso(self.stats.since)
        fields: dict[str, Any] = {"backend": self.backend.name, "distribution": self.stats.distribution}
        fields |= {"operation": operation, "error": text, "since": since}
        if not isinstance(error, SipDumpError):  # the driver's own fault: its author wants to see where
            last = traceback.extract_tb(error.__traceback__)[-1]
            fields["at"] = f"{last.filename}:{last.lineno}"
        self._log.warn(operation, "backend failed", **fields)

    def worked(self, operation: str) -> None:
        """Note that a call succeeded: the backend works again, unless another one fails still."""
        if not self._failing:
            return
        with self.lock:
            self._failing &= _APART if operation not in _APART else self._failing - {operation}
            recovered = not self._failing and self.stats.state == "retrying"
            if recovered:
                self.set_state("ok", "")
        if recovered:
            log.warning(Event("backend works again", backend=self.backend.name, stored=self.stats.stored))

    def drop(self, count: int, reason: str) -> None:
        """Count records as lost, and log it."""
        if not count:
            return
        with self.lock:
            self.stats.dropped[reason] += count
        self._log.warn("drop", "records dropped", backend=self.backend.name, count=count, reason=reason)

    def set_state(self, state: str, error: str) -> None:
        """Set the state, and since when it is."""
        with self.lock:
            if self.stats.state != state:
                self.stats.since = self._clock.time()
            self.stats.state = state
            self.stats.error = error

    def _ask(self) -> None:
        """Ask the backend for its health and its counters; in a thread, for it may wait for a call that hangs."""
        counters: Mapping[str, int] = {}
        try:
            illness = one_line(str(self.backend.health() or ""))
            counters = {str(name): int(value) for name, value in self.backend.stats().items()}
        except BaseException as error:  # noqa: BLE001 - see _try
            illness = kind_and_text(error)
        self._answer = illness, counters

    def _prepare(self) -> BaseException | None:
        """Have the backend started, and a segment open."""
        if not self.started:
            error = self.start()
            if error is not None:
                return error
        if not self._opened:
            try:
                self._open()
            except BaseException as error:  # noqa: BLE001 - see _try
                self.failed("open", error)
                return error
        return None

    def _open(self) -> None:
        if self._segment is None:
            raise StorageError("open", self.backend.name, "no segment was named")
        segment = attrs.evolve(self._segment, suffix=self.backend.suffix)
        for _ in range(_NAMES):
            self._segment = segment
            try:
                self.backend.open(segment)
            except SegmentExistsError:
                segment = segment.next()
            else:
                self._opened = True
                log.info(Event("segment opened", backend=self.backend.name, name=segment.name))
                return
        raise StorageError("open", segment.name, f"this name is taken, and {_NAMES - 1} before it")

    def _try(self, batch: Sequence[Record]) -> BaseException | None:
        failure: BaseException | None = None
        stored = len(batch)
        try:
            self.backend.write(batch)
        except BaseException as error:  # noqa: BLE001 - whatever a driver raises, sys.exit too, stays with it
            failed = _failed(error, len(batch))
            stored -= len(failed)
            failure = error if failed else None
        self._dirty = True
        with self.lock:
            self.stats.stored += stored
        if failure is not None:
            self.failed("write", failure)
        else:
            self.worked("write")
        return failure

    def _sift(self, batch: Sequence[Record]) -> None:
        """Store what can be stored of a batch that raises: halves of it, down to the record at fault."""
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]) if half else (batch,):
            error = self._prepare() or self._try(part)
            if error is not None and len(part) > 1:
                self._sift(part)
            elif error is not None:
                self.drop(1, type(error).__name__)

    def _call(self, operation: str) -> bool:
        try:
            getattr(self.backend, operation)()
        except BaseException as error:  # noqa: BLE001 - see _try
            self.failed(operation, error)
            return False
        if operation in _APART:
            self.worked(operation)
        return True


def _failed(error: BaseException, count: int) -> frozenset[int]:
    """Give which of ``count`` records an error of ``write`` leaves unstored, by index: all where it names none."""
    every = frozenset(range(count))
    if not isinstance(error, PartialWriteError):
        return every
    try:
        return every.intersection(error.failed)
    except (AttributeError, TypeError):  # a driver's own kind of it has none, or no indexes
        return every

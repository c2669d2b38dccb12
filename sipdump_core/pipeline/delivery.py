"""Delivery: makes one backend store what it is given, whatever it raises.

What a backend raises is counted, logged at most once a second, and tried again, for as long as somebody waits for it.
A batch that fails a few times although a segment can be opened is sifted: what its store refuses while it takes other
records goes to the dead letter. So does, after a while or at the end, what has nothing behind it that would tell,
unless anything says that the store is away.
"""

import math
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any, Literal

import attrs

from sipdump_core.clock import Clock, local_iso
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch, batching
from sipdump_core.drivers.folder import FolderBackend
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
from sipdump_core.pipeline.blame import is_outage, refused, unstored
from sipdump_core.pipeline.dead_letter import DeadLetter
from sipdump_core.pipeline.numbers import LaneStats
from sipdump_core.pipeline.sieve import AwayError, Offer, Sieve
from sipdump_core.pipeline.writer import Writer
from sipdump_core.record import Record
from sipdump_core.segment import Segment

__all__ = ["BACKOFF", "CHECK_EVERY", "FLUSH_EVERY", "Delivery"]

BACKOFF = (0.1, 10.0)
"""Seconds before the second try, and at most."""
STALL = 5.0
"""Seconds that one call may take before nobody waits for this backend any more, and stats call it stalled."""
CHECK_EVERY = 0.5
"""Seconds between two looks whether the open segment is still good."""
FLUSH_EVERY = 0.05
"""Seconds between two flushes under load."""
_ANSWER = 1.0
"""Seconds that a caller of ``snapshot`` waits for the backend's own numbers."""
_NAMES = 1000
"""How many names in a row may be taken before that is the driver's fault."""
_NO_REFUSAL = (StorageFullError, SegmentLostError)
"""Errors that are no record's fault."""
_SAME_SEGMENT = (StorageFullError, PartialWriteError)
"""Errors after which the same segment goes on."""
_TIMES_LARGER, _LARGER = 16, 8192
"""What a record takes in a segment is believed up to so many times its message, and so many bytes."""
_LATELY = 60.0
"""Seconds after a refusal within which others are likely."""
_QUICKER = 4
"""How much sooner single records are tried again then."""
_ALONE = 40.0
"""Seconds after which a few records that fail, with nothing behind them, are refused. With the longest pause between
two tries and the last tries of each record, that takes a minute."""
_FEW = 3
"""How many records are so few: where more fail, the store may be away."""
_SIGNS = frozenset(("start", "open", "flush", "check"))
"""What concerns no record: where it fails, the store is away."""
_APART = frozenset(("flush", "record_size"))
"""What may fail again and again while records are stored: only its own success shows that it works again."""


class Delivery:
    """Writes to a backend, in one thread, and keeps its numbers, which any thread may ask for.

    Args:
        backend: the backend.
        clock: the time, for stalls and state changes.
        writer: what is written to instead, on the way to the backend.
        dead: keeps what the store refuses; None: that is dropped.
        tries: how often a batch is tried, and then each of its records, before any of it is refused; 0: for ever.
        spooled: whether what is not stored at the end waits in a spool for the next start.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        writer: Writer | None = None,
        dead: DeadLetter | None = None,
        tries: int = 0,
        *,
        spooled: bool = False,
    ) -> None:
        self.backend = backend
        self.started = False
        self.losses = 0
        """How many segments were lost while they were open."""
        self.lost = False
        """Whether records were dropped at the end, or refused then although nothing shows that the store works."""
        self._writer: Writer = writer or backend
        self._clock = clock
        self._dead = dead
        self._tries = tries
        self._spooled = spooled
        self._since = 0.0
        """Since when the batch is tried, monotonic seconds."""
        self._away_at = -math.inf
        """When anything said that the store is away, monotonic seconds."""
        self._hurried_at = math.inf
        """When the end began, monotonic seconds."""
        self._away = False
        """Whether the store took nothing when a batch was last sifted."""
        self._refused_at = -_LATELY
        """When a record was last found that the store refuses, monotonic seconds."""
        site = getattr(backend, "site", None)
        self._stats = LaneStats(since=clock.time(), distribution=getattr(site, "distribution", ""))
        self._lock = threading.RLock()  # guards the numbers
        self._hurried = threading.Event()
        self._segment: Segment | None = None
        self._opened = False
        self._dirty = False
        self._checked = 0.0
        self._busy_since: float | None = None
        self._busy_with = ""
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

    def deliver(
        self,
        batch: Batch,
        offer: Offer = lambda _: None,
        wait: Callable[[], object] = lambda: None,
        stale: Callable[[], bool] = lambda: False,
    ) -> Batch:
        """Store a batch, however often that must be tried.

        Args:
            batch: the records.
            offer: stores a batch that waits behind this one, to see whether the store works at all.
            wait: called before each wait for another try.
            stale: returns, asked before each other try, whether the batch is to be given up.

        Returns:
            What is not stored because of ``hurry`` or ``stale``; another try may store it. What the store refuses for
            good is in the dead letter, and not among it.
        """
        delay, ceiling = BACKOFF
        self._since = self._clock.monotonic()
        tries = 0
        parted = False  # it has stored some of the batch, and named the others
        while True:
            self.check()
            error = self._prepare()
            if error is None:
                places, error = self._attempt(batch)
                if not places:
                    return Batch()
                partial = error if isinstance(error, PartialWriteError) else None
                parted |= bool(partial and len(places) < len(batch))
                batch = batch.part(places)
                tries += not isinstance(error, _NO_REFUSAL)
                enough = bool(self._tries) and (tries >= self._tries or (tries > 0 and self.hurried))
                if enough and partial and parted:
                    self._refuse(batch, partial)
                    return Batch()
                if enough or (tries and self._tries and self._suspects):
                    batch = self._sift(batch, offer)
                    if not batch:
                        return Batch()
            else:
                tries = 0  # an outage tells nothing of the records
            if self.hurried:
                return batch
            wait()
            self.pause(delay)
            if stale():
                return batch
            delay = min(2 * delay, ceiling)

    def flush(self) -> None:
        """Make visible what was stored since the last flush."""
        if self._dirty:
            self._dirty = self._call("flush") is not None

    @property
    def _suspects(self) -> bool:
        """Whether records were refused lately: then the next batch that fails need not be tried so often as a whole."""
        return self._clock.monotonic() - self._refused_at < _LATELY

    @property
    def batching(self) -> tuple[int, float]:
        """What batches the backend wants, see :func:`~sipdump_core.drivers.batch.batching`."""
        with Guard():
            return batching(self.backend)
        return 0, 0.0

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
                self._seal()
            self._look_after_dead("check")

    def seal(self) -> None:
        """Close the open segment, and its dead letter."""
        self._seal()
        self._look_after_dead("close")

    def _seal(self) -> None:
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
        self._hurried_at = min(self._hurried_at, self._clock.monotonic())
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
    def ending(self) -> bool:
        """Whether a call that ends a segment, or all, is under way."""
        return self._busy_since is not None and self._busy_with in ("close", "stop")

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
        self._look_after_dead("forget")

    def sizes(self, records: Sequence[Record]) -> Sequence[int]:
        """Return how many bytes each record will take in this backend's segment, as far as that can be believed."""
        with Guard() as guard:
            sizes = [max(0, int(size)) for size in map(self.backend.record_size, records)]
            for record, size in zip(records, sizes, strict=True):
                if size > _TIMES_LARGER * len(record.buf) + _LARGER:
                    raise ValueError(f"record_size() returned {size} for a message of {len(record.buf)} bytes")
            self._worked("record_size")
            return sizes
        if guard.error:
            self.failed("record_size", guard.error)
        return likely_sizes(records)

    def preamble(self) -> int:
        """Return how many bytes this backend's segment begins with."""
        with Guard():  # its lane reports what it raises, when it opens a segment
            return len(self.backend.preamble()) if isinstance(self.backend, FolderBackend) else 0
        return 0

    def size_is_late(self) -> None:
        """Note that the backend does not say in time how large a segment is."""
        error = StorageError("record_size", self.backend.name, "it takes too long; sizes are guessed")
        self.failed("record_size", error)

    def drop(self, count: int, reason: str = "") -> None:
        """Count records as lost, and log it.

        Args:
            count: how many.
            reason: why; by default the kind of the last error.
        """
        if not count:
            return
        self.lost |= self.hurried
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
        if operation in _SIGNS or is_outage(error):
            self._away_at = self._clock.monotonic()
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
            last = traceback.extract_tb(error.__traceback__, limit=-1)[-1]
            fields["at"] = f"{last.filename}:{last.lineno}"
        self._log.warn(operation, "backend failed", **fields)

    def _look_after_dead(self, operation: Literal["check", "close", "forget"]) -> None:
        """Check, seal or forget the dead letter; it is logged if that fails, and costs the backend nothing."""
        with Guard() as guard:
            if self._dead:
                getattr(self._dead, operation)()
        if guard.error:
            self._log.warn("dead", "dead letter failed", backend=self.backend.name, error=guard.text)

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
            self._log.warn("works", "backend works again", backend=self.backend.name, stored=self._stats.stored)

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
        with self._calling(operation) as guard:
            self._named(operation)(*args)
        if guard.error:
            self.failed(operation, guard.error)
        elif operation in _APART or operation == "start":
            self._worked(operation)
        return guard.error

    @contextmanager
    def _calling(self, operation: str) -> Iterator[Guard]:
        """Guard a call of the writer, and note since when it is under way."""
        self._busy_with = operation
        self._busy_since = self._clock.monotonic()
        with Guard() as guard:
            yield guard
        self._busy_since = None

    def _prepare(self) -> BaseException | None:
        """See that the backend is started, and a segment open."""
        error = None if self.started else self.start()
        if error is None and not self._opened:
            with self._calling("open") as guard:
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

    def _attempt(self, batch: Batch) -> tuple[Sequence[int], BaseException | None]:
        """Write a batch; return the places of what is neither stored nor refused, and why."""
        places: Sequence[int] = range(len(batch))
        while places:
            part = batch.part(places)
            error, failed = self._write(part)
            if error is None:
                break
            named = refused(error, part)
            if not named:
                if isinstance(error, (StorageError, OSError)) and not isinstance(error, _SAME_SEGMENT):
                    self._seal()  # what the segment has is good; go on in a fresh one
                return [places[at] for at in failed], error
            self._refuse(part.part(named), error)
            places = [places[at] for at in failed if at not in named]
        return (), None

    def _write(self, batch: Batch) -> tuple[BaseException | None, Sequence[int]]:
        """Call ``write`` once; return what it raises, and the places of what is not stored."""
        with self._calling("write") as guard:
            self._named("write")(batch)
        error = guard.error
        failed = unstored(error, batch) if error else ()
        self._dirty |= len(failed) < len(batch)
        self._away &= len(failed) == len(batch)
        with self._lock:
            self._stats.stored += len(batch) - len(failed)
        if error and failed and not refused(error, batch):
            self.failed("write", error)
            return error, failed
        self._worked("write")
        return error if failed else None, failed

    def _sift(self, batch: Batch, offer: Offer) -> Batch:
        """Store what can be stored of a batch that fails, and refuse what cannot; return what is undecided."""
        if self.hurried and self._away and not self._believed(len(batch), others_fail=False):  # it was asked enough
            return batch
        why: dict[int, BaseException] = {}

        def write(part: Batch) -> Sequence[int]:
            self.check()
            late = sieve.unproven and self.hurried and not believed(others_fail=False)
            if late or self._prepare() is not None:
                raise AwayError
            places, error = self._attempt(part)
            if places and error and (isinstance(error, _NO_REFUSAL) or (sieve.unproven and is_outage(error))):
                raise AwayError
            if places and error and part.whole == batch.whole:
                why.update((part.indexes[place], error) for place in places)
            return places

        delay = BACKOFF[0] / (_QUICKER if self._suspects else 1)
        delays = chain((delay * 2**n for n in range(7)), repeat(BACKOFF[1]))
        believed = partial(self._believed, len(batch))
        sieve = Sieve(batch, write, offer, lambda: self.pause(next(delays)), self._clock.monotonic, believed)
        places, decided = sieve.run(self._tries)
        self._away = not decided
        if not decided:
            return batch.part(places)
        for place in places:
            self._refuse(batch.part([place]), why[batch.indexes[place]])
            self._refused_at = self._clock.monotonic()
        self.lost |= bool(places) and sieve.unproven and self.hurried
        self._worked("write")
        return batch.part(())

    def _believed(self, count: int, others_fail: bool) -> bool:
        """Return whether it is the fault of so many records that they fail, though nothing shows that the store works.

        At the end the alternative is to drop them, so more is believed then.
        """
        now = self._clock.monotonic()
        if "flush" in self._failing:
            return False
        if self.hurried:
            return not self._spooled and self._away_at < self._hurried_at and now < self._hurried_at + STALL
        few = count <= _FEW and not others_fail
        return few and self._stats.stored > 0 and now - max(self._since, self._away_at) >= _ALONE

    def _refuse(self, part: Batch, error: BaseException) -> None:
        """Put what the store refuses into the dead letter."""
        reason = kind_and_text(error)
        fields: dict[str, Any] = {"backend": self.backend.name, "count": len(part), "reason": reason}
        with Guard() as guard:
            if self._dead and self._segment:
                kept = self._dead.put(self._segment, part, reason)
                with self._lock:
                    self._stats.refused += kept
                what = "the store refuses records; they are in the dead letter"
                self._log.warn("refused", what, **fields, path=self._dead.path)
                return
        self._log.warn("lost", "the store refuses records, and they cannot be kept", **fields, error=guard.text)
        self.drop(len(part), "refused")


def likely_sizes(records: Sequence[Record]) -> Sequence[int]:
    """Return how many bytes each record takes in a segment, as :meth:`sipdump_core.Backend.record_size` guesses it."""
    return [len(record.buf) + 256 for record in records]

"""Filters: what rewrites or drops records before anything stores them, and what happens when one fails.

It fails closed: whatever a filter does, no record goes on as it was before it.
"""

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue

import attrs

from sipdump_core.drivers.base import Filter
from sipdump_core.drivers.guard import Guard, labelled
from sipdump_core.log import Limit
from sipdump_core.record import Record

__all__ = ["BY_ITSELF", "FilterStats", "Filters"]

BY_ITSELF, FAILED, HANGS = "by the filter", "it failed", "it hangs"
"""Why records are dropped at a filter."""


@attrs.frozen
class FilterStats:
    """What a filter has done so far."""

    taken: int
    """Records that it was given."""
    changed: int
    """Records that it has rewritten."""
    dropped: Mapping[str, int]
    """Records that were dropped, by the reason: ``by the filter``, ``it failed``, ``it hangs``."""
    counters: Mapping[str, int]
    """What it counts itself."""


class Filters:
    """The filters that are switched on.

    Args:
        filters: in the order in which records go through those on the same side of the event route.
    """

    def __init__(self, filters: Sequence[Filter] = ()) -> None:
        self._steps = [_Step(each) for each in filters]
        self._before = [step for step in self._steps if step.filter.before_route]
        self._after = [step for step in self._steps if not step.filter.before_route]

    def before_route(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return what the event route may see."""
        return _through(self._before, records) if self._before else records

    def after_route(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return what may be stored of what has gone through :meth:`before_route`."""
        return _through(self._after, records) if self._after else records

    def all(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return what may be stored of records that have gone through no filter."""
        return self.after_route(self.before_route(records))

    def stats(self) -> dict[str, FilterStats]:
        """Return what each has done so far, by its name."""
        return {step.filter.name: step.stats() for step in self._steps}

    def close(self) -> None:
        """End the threads, except those that hang."""
        for step in self._steps:
            step.close()


def _through(steps: Sequence["_Step"], records: Sequence[Record]) -> Sequence[Record]:
    for step in steps:
        if not records:
            break
        records = step.run(records)
    return records


class _Step:
    """One filter, its counts, and the thread that it has if it may hang."""

    def __init__(self, filter_: Filter) -> None:
        self.filter = filter_
        self._apply = labelled(filter_.name, "apply()", filter_.apply)
        self._apart = None if filter_.prompt else _Apart(filter_.name, self._apply, filter_.seconds)
        self._counts = threading.Lock()
        self._taken = self._changed = 0
        self._dropped: Counter[str] = Counter()
        self._log = Limit()

    def run(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return what the filter returns; nothing where it fails."""
        with Guard() as guard:
            found = (self._apart or self._apply)(records)
            changed = _changed(found, records)
            self._count(len(records), changed, BY_ITSELF, len(records) - len(found))
            return found
        assert guard.error  # noqa: S101 - or it had returned
        reason = HANGS if isinstance(guard.error, _HangsError) else FAILED
        self._count(len(records), 0, reason, len(records))
        what = f"a filter {'hangs' if reason == HANGS else 'failed'}: its records are dropped, not stored unfiltered"
        self._log.warn(reason, what, filter=self.filter.name, count=len(records), error=_told(guard.error))
        return ()

    def stats(self) -> FilterStats:
        """Return what it has done so far."""
        counters: Mapping[str, int] = {}
        with Guard():
            counters = dict(self.filter.stats())
        with self._counts:
            return FilterStats(self._taken, self._changed, dict(self._dropped), counters)

    def close(self) -> None:
        """End the thread."""
        if self._apart:
            self._apart.close()

    def _count(self, taken: int, changed: int, reason: str, dropped: int) -> None:
        with self._counts:
            self._taken += taken
            self._changed += changed
            if dropped:
                self._dropped[reason] += dropped


def _changed(found: Sequence[Record], records: Sequence[Record]) -> int:
    """Return how many records a filter has rewritten.

    Raises:
        TypeError: it has returned something else than records, or more than it got.
    """
    if not isinstance(found, (list, tuple)) or len(found) > len(records):
        raise TypeError("apply() must return a list or tuple of records, at most as many as it was given")
    if not all(isinstance(record, Record) for record in found):
        raise TypeError("apply() must return nothing but records")
    if len(found) == len(records):
        return sum([new is not old for new, old in zip(found, records, strict=True)])
    known = set(map(id, records))
    return sum([id(record) not in known for record in found])


def _told(error: BaseException) -> str:
    """Return what failed and where, without the error's text: that may have the very bytes that were to be hidden."""
    if isinstance(error, _HangsError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


class _HangsError(Exception):
    """A filter has not returned in time."""


class _Call:
    """One call of a filter, in its thread."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.found: Sequence[Record] = ()
        self.error: BaseException | None = None
        self.done = threading.Event()

    def run(self, apply: Callable[[Sequence[Record]], Sequence[Record]]) -> None:
        with Guard() as guard:
            self.found = apply(self.records)
        self.error = guard.error
        self.done.set()


class _Apart:
    """Runs a filter in a thread of its own, one call after the other, and gives a call up that takes too long.

    Args:
        name: the filter's.
        apply: filters.
        seconds: how long it may take.
    """

    def __init__(self, name: str, apply: Callable[[Sequence[Record]], Sequence[Record]], seconds: float) -> None:
        self._apply = apply
        self._seconds = seconds
        self._line = threading.Lock()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._stuck: _Call | None = None
        self._thread = threading.Thread(target=self._run, name=f"sipdump-filter-{name}", daemon=True)
        self._started = False

    def __call__(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return what the filter returns, or raise what it raises.

        Raises:
            _HangsError: it has not returned in time, or an earlier call still has not.
        """
        with self._line:
            if self._stuck and not self._stuck.done.is_set():
                raise _HangsError("an earlier call has not returned yet")
            if not self._started:
                self._started = True
                self._thread.start()
            call = _Call(records)
            self._calls.put(call)
            if not call.done.wait(self._seconds):
                self._stuck = call
                raise _HangsError(f"it has not returned within {self._seconds:g} s")
        if call.error is not None:
            raise call.error
        return call.found

    def close(self) -> None:
        """End the thread after the call that is under way."""
        self._calls.put(None)

    def _run(self) -> None:
        while call := self._calls.get():
            call.run(self._apply)

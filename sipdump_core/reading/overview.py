"""The overview: what was stored over a span, in buckets of time.

Everything is read once, in bounded memory, and counted by the rules of :mod:`sipdump_core.reading.tally`, as
``sipdump-read stats`` does. Percentiles of a bucket are at most 1 % off.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs

from sipdump_core.calls.summary import iso_utc
from sipdump_core.drivers.query import Query
from sipdump_core.reading.lines import local_time
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import Shelved
from sipdump_core.reading.store import Store
from sipdump_core.reading.tally import Counting, Sketch, Tally
from sipdump_core.reading.when import AROUND

__all__ = ["Bucket", "Overview", "measure"]

BUCKETS = 120
"""At most."""
DEFAULT_US = 86_400_000_000
"""The span before the newest record, where none is asked for: a day."""
_STEPS = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 604_800)
"""Seconds of a bucket; each divides the next, so that buckets can be put together."""
_US = 1_000_000
_BYTES_A_RECORD = 500
"""Of a store that does not know how many records it holds: about as many as a message has in text."""
_HALVINGS = 40
_SLACK = 3
"""How many times as many messages are read as are wanted: those around the span, and what the estimate was wrong."""


@attrs.frozen
class Bucket:
    """A part of the span."""

    since_us: int
    """When it begins, microseconds since the epoch."""
    until_us: int
    """When it ends; what happened at this time is in the next one."""
    tally: Tally
    """What is counted in it."""


@attrs.frozen
class Overview:
    """The numbers of a span."""

    query: Query
    """What was asked, with the span that was read."""
    total: Tally
    """Everything; its delays are exact."""
    buckets: Sequence[Bucket]
    """The parts of the span, all as long, but for the first and the last; none where nothing was found."""
    calls: int
    """How many Call-IDs were read."""

    @property
    def step_s(self) -> int:
        """Seconds of a bucket."""
        return max((round((each.until_us - each.since_us) / _US) for each in self.buckets), default=0)

    def as_json(self) -> dict[str, Any]:
        """Return all numbers: of the whole span as ``sipdump-read stats --json`` has them, and of each bucket."""
        query = self.query
        return {
            "since": None if query.since_us is None else iso_utc(query.since_us),
            "until": None if query.until_us is None else iso_utc(query.until_us),
            "seconds": self.step_s,
            "total": _numbers(self.total),
            "buckets": [
                {"since": iso_utc(each.since_us), "until": iso_utc(each.until_us), **_numbers(each.tally)}
                for each in self.buckets
            ],
        }


def measure(
    store: Store,
    query: Query,
    searched: Searched,
    *,
    around: float = AROUND,
    most: int = 0,
    step: Callable[[], bool] = lambda: True,
) -> Overview:
    """Count what a store holds.

    Args:
        store: is asked; to end it from another thread, set its ``interrupted``: what was read by then is counted.
        query: which calls; without a span, the last day before the newest record.
        searched: takes down what was read, and what a reader has to know.
        around: seconds outside the span in which the rest of a call is looked for.
        most: messages that are wanted, about; of more, the span begins later. 0: any number. A question with filters
            keeps its span, because the store finds its answer without reading everything.
        step: is called after each call; when it returns False, what was counted so far is the result.
    """
    since_us, until_us = _span(store, query)
    filled = query.since_us is not None
    query = attrs.evolve(query, since_us=since_us, until_us=until_us)
    if most and not query.parts() and not query.states:
        since_us, around = _fitting(store, query, searched, around, most)
        query = attrs.evolve(query, since_us=since_us)
    timeline = _Timeline(since_us, until_us, filled=filled)
    counting = Counting(timeline.tallies, store.rules)
    calls = 0
    for found in store.find(query, searched, around=around, legs=False, most=_SLACK * most):
        counting.add(found)
        calls += 1
        if not step():
            searched.note(f"the numbers are those of the first {calls} calls that were read")
            break
    counting.finish()
    return Overview(query, timeline.total, timeline.buckets(), calls)


def _span(store: Store, query: Query) -> tuple[int, int]:
    """Return the span of a question, microseconds since the epoch; by default the last day that something was stored.

    It ends with the newest record, not now: a store may be a copy, and a crash may have left a segment open.
    """
    until_us = query.until_us
    if until_us is None:
        newest = store.newest_us()
        until_us = (store.now_us() if newest is None else newest) + 1  # where nothing can be read, say so
    since_us = until_us - DEFAULT_US if query.since_us is None else query.since_us
    return min(since_us, until_us), until_us


def _fitting(store: Store, query: Query, searched: Searched, around: float, most: int) -> tuple[int, float]:
    """Return when the newest part of a span begins that has not too many messages, and how far around it to read."""
    since_us, until_us = query.since_us or 0, query.until_us or 0
    spread = [_spread(one, query) for unit in store.chosen(query, searched) for one in unit.holdings]
    if _records_since(spread, since_us, until_us) <= most:
        return since_us, around
    low, high = since_us, until_us
    for _ in range(_HALVINGS):
        middle = (low + high) // 2
        low, high = (middle, high) if _records_since(spread, middle, until_us) > most else (low, middle)
    late = -(-high // _US) * _US
    if late >= until_us:  # the newest second alone has too many
        late = high
    when = local_time(late).strftime("%Y-%m-%d %H:%M:%S")
    total = round(_records_since(spread, since_us, until_us))
    searched.note(f"the span has about {total} messages, and {most} are read: this begins at {when}")
    return late, min(around, (until_us - late) / _US)


_Spread = tuple[float, float, float]
"""Begin and end, in microseconds since the epoch, and the number of records between them."""


def _spread(shelved: Shelved, query: Query) -> _Spread:
    stored = shelved.stored
    count = stored.records or stored.size / _BYTES_A_RECORD
    newest = None if shelved.backend.remote else shelved.newest_us
    end = stored.modified * _US if newest is None else newest
    begin = shelved.start
    if begin is None or shelved.slack is None or not begin * _US < end:  # its times mean nothing
        return float(query.since_us or 0), float(query.until_us or end), count
    return begin * _US, end, count


def _records_since(spread: Sequence[_Spread], since_us: int, until_us: int) -> float:
    """Return how many records there are about within a span, if each segment's are spread evenly."""
    found = 0.0
    for begin, end, count in spread:
        within = min(end, until_us) - max(begin, since_us)
        found += count * min(max(within, 0) / max(end - begin, 1), 1)
    return found


class _Timeline:
    """Tallies by time. Buckets are as short as there may be, and are put together when they become too many.

    Args:
        since_us: from when on it counts, microseconds since the epoch.
        until_us: what happened at this time and later is not counted.
        filled: whether buckets fill the whole span, also where there is nothing; else they reach from the first message
            to the last.
    """

    def __init__(self, since_us: int, until_us: int, *, filled: bool) -> None:
        self.total = Tally()
        self._since, self._until = since_us, until_us
        self._filled = filled
        self._steps = iter(_STEPS)
        self._tallies: dict[int, Tally] = {}
        """By their numbers since the origin."""
        # midnight is the beginning of a bucket
        offset = local_time(self._since).utcoffset() or timedelta()
        self._origin = -round(offset.total_seconds()) * _US
        self._step = next(self._steps) * _US
        self._first = self._last = self._number(self._since)
        if filled:
            self._last = self._number(self._until - 1)
            self._widen()

    def tallies(self, time_us: int) -> Sequence[Tally]:
        """Return what a moment counts in: nothing outside the span, else the whole and its bucket."""
        if not self._since <= time_us < self._until:
            return ()
        number = (time_us - self._origin) // self._step
        tally = self._tallies.get(number)
        if tally is None:
            tally = self._begun(time_us)
        return self.total, tally

    def buckets(self) -> list[Bucket]:
        """Return the buckets."""
        if not self._tallies:
            return []
        return [
            Bucket(max(begin, self._since), min(begin + self._step, self._until), self._tallies.get(number) or Tally())
            for number in range(self._first, self._last + 1)
            if (begin := self._origin + number * self._step) < self._until
        ]

    def _begun(self, time_us: int) -> Tally:
        number = self._number(time_us)
        if not self._filled:
            self._first = min(self._first, number) if self._tallies else number
            self._last = max(self._last, number) if self._tallies else number
            self._widen()
            number = self._number(time_us)
        return self._tallies.setdefault(number, Tally(Sketch))

    def _number(self, time_us: int) -> int:
        return (time_us - self._origin) // self._step

    def _widen(self) -> None:
        """Make buckets longer until they are not too many."""
        while self._last - self._first >= BUCKETS:
            wider = next(self._steps, 2 * self._step // _US) * _US
            times = wider // self._step
            tallies: dict[int, Tally] = {}
            for number, tally in self._tallies.items():
                tallies.setdefault(number // times, Tally(Sketch)).merge(tally)
            self._tallies, self._step = tallies, wider
            self._first, self._last = self._first // times, self._last // times


def _numbers(tally: Tally) -> dict[str, Any]:
    return {
        "messages": dict(tally.messages),
        "methods": dict(tally.methods.most_common()),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "sessions": tally.sessions(),
        "attempts": dict(tally.states.most_common()),
        "failures": {
            "status": {str(status or "none"): count for status, count in tally.failures.most_common()},
            "user_agent": dict(tally.failed_agents.most_common()),
            "destination": dict(tally.failed_targets.most_common()),
        },
        "registrations": tally.registrations(),
        "delays": tally.delays(),
    }

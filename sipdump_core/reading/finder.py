"""Finding calls: which Call-IDs match, all their messages, and their other legs.

First the messages that meet one filter name Call-IDs; then all messages of these Call-IDs are read, and each call is
judged as a whole. Where too many Call-IDs come up, or the question has no filter of messages, everything within the
span is read and sorted by call, on disk where it does not fit into memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import attrs

from sipdump_core.calls.call import Call
from sipdump_core.calls.legs import LegIndex, LegRules
from sipdump_core.calls.summary import Leg, Summary
from sipdump_core.drivers.query import Query, parse_grep
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.sorting import RecordSorter
from sipdump_core.record import Record

__all__ = ["AROUND", "Finder", "Found"]

AROUND = 600.0
"""Seconds before and after the span in which the other messages of its calls are looked for, by default."""
_MANY = 50_000
"""Call-IDs; with more, all that is stored within the span is read once instead."""
_LEGS_OF_CALLS = 10_000
_LEGS_OF_BYTES = 48 << 20
"""What is held in memory to look for other legs; of more, they are not looked for."""
_ROUNDS = 5
"""How many steps other legs are followed."""
_NEVER_US = 1 << 62
"""Later than any time."""


@attrs.frozen
class Found:
    """A call that matches."""

    call: Call
    summary: Summary
    """What happened in it."""

    @property
    def legs(self) -> Sequence[Leg]:
        """Other Call-IDs that belong to it, as far as they were looked for."""
        return self.summary.legs


class Finder:
    """One search.

    Args:
        read: yields the messages that are an answer to a question, in any order.
        query: the question.
        rules: what links the legs of a call.
        searched: takes down what a reader has to know.
        now_us: returns the time to which the ages of calls count, microseconds since the epoch; asked when all is read.
        around: seconds before and after the span.
        legs: whether other legs are looked for.
    """

    def __init__(
        self,
        read: Callable[[Query], Iterable[Record]],
        query: Query,
        rules: LegRules,
        searched: Searched,
        now_us: Callable[[], int],
        *,
        around: float,
        legs: bool,
    ) -> None:
        self._read = read
        self._query = query
        self._parts = query.parts()
        self._rules = rules
        self._searched = searched
        self._ask_now = now_us
        self._now_us: int | None = None
        self._around = around
        self._legs = legs
        self._index = LegIndex(rules)
        self._others: dict[str, Call] = {}
        self._named: dict[str, list[int]] = {}
        """Call-IDs whose messages name a call that was asked for, with the times of these messages."""

    def found(self) -> Iterator[Found]:
        """Yield the calls that match, in the order of their Call-IDs."""
        ids = self._query.call_ids or self._candidates()
        if ids is not None and not ids:
            return
        wide = attrs.evolve(self._span(self._query.since_us, self._query.until_us), call_ids=ids or frozenset[str]())
        records = self._read_with_named(self._query.call_ids) if self._reads_once() else self._read(wide)
        matching = (found for call in self._calls(records) if (found := self._judged(call)))
        if not self._legs:
            yield from matching
            return
        held: list[Found] = []
        size = 0
        for one in matching:
            held.append(one)
            size += sum(len(record.buf) for record in one.call.records)
            if len(held) > _LEGS_OF_CALLS or size > _LEGS_OF_BYTES:
                self._searched.note("these are too many calls to look for their other legs: narrow the question")
                yield from held
                yield from matching
                return
        self._follow([one.call for one in held])
        yield from map(self._linked, held)

    def others(self, found: Sequence[Found]) -> list[Found]:
        """Return the other legs of calls that were found, each once, the nearest first."""
        known = {one.call.call_id for one in found}
        ids = dict.fromkeys(leg.call_id for one in found for leg in one.legs if leg.call_id not in known)
        calls = (self._others[one] for one in ids if one in self._others)
        return [self._linked(Found(call, self._summary(call))) for call in calls]

    def _linked(self, found: Found) -> Found:
        legs = self._index.legs(found.call.call_id)
        return attrs.evolve(found, summary=attrs.evolve(found.summary, legs=legs))

    def _judged(self, call: Call) -> Found | None:
        """Return a call with its summary; None where it does not match."""
        query = self._query
        if query.since_us is not None or query.until_us is not None:
            span = Query(since_us=query.since_us, until_us=query.until_us)
            if not any(span.matches(record) for record in call.records):
                return None
        if not all(any(part.matches(record) for record in call.records) for part in self._parts):
            return None
        summary = self._summary(call)
        if query.states and summary.state not in query.states:
            return None
        if query.statuses and summary.status not in query.statuses:
            return None
        return Found(call, summary)

    def _summary(self, call: Call) -> Summary:
        """Return what happened in a call. The time it is now is found out only once a call depends on it."""
        if self._now_us is None:
            early, late = call.summary(call.newest_us), call.summary(_NEVER_US)
            if early == late:
                return early
            self._now_us = self._ask_now()
        return call.summary(self._now_us)

    def _reads_once(self) -> bool:
        """Return whether the messages that name a call are read together with its own: nothing limits either."""
        query, rules = self._query, self._rules
        usual = not (rules.headers or rules.patterns or rules.heuristic)
        return self._legs and usual and bool(query.call_ids) and query.since_us is None and query.until_us is None

    def _read_with_named(self, call_ids: frozenset[str]) -> Iterator[Record]:
        """Yield the messages of Call-IDs, and take down which others name them."""
        for record in self._read(Query(correlations=call_ids)):
            if record.call_id in call_ids:
                yield record
            elif record.call_id is not None:
                self._named.setdefault(record.call_id, []).append(record.time_us)

    def _candidates(self) -> set[str] | None:
        """Return the Call-IDs that one filter leaves; None where it leaves too many, or there is none."""
        driving = next(iter(self._parts), None)
        if driving is None:
            return None
        ids: set[str] = set()
        for record in self._read(driving):
            if record.call_id is not None:
                ids.add(record.call_id)
                if len(ids) > _MANY:
                    return None
        return ids

    def _linked_ids(self, span: Query, values: set[str], calls: Sequence[Call]) -> set[str]:
        """Return the Call-IDs whose messages name calls, or a value of theirs, within a span."""
        ids = {
            call_id for call_id, times in self._named.items() if any(span.within(time_us, time_us) for time_us in times)
        }
        self._named.clear()
        for query in self._wider(span, values, calls) if values else ():
            ids |= {record.call_id for record in self._read(query) if record.call_id is not None}
        return ids

    def _wider(self, span: Query, values: set[str], calls: Sequence[Call]) -> Iterator[Query]:
        """Yield the questions whose answers may belong to other legs of calls."""
        yield attrs.evolve(span, correlations=values)
        if self._rules.headers or self._rules.patterns:
            yield attrs.evolve(span, greps=map(parse_grep, values))
        if self._rules.heuristic:
            users = {user for call in calls if (user := call.summary().from_user)}
            if users:
                yield attrs.evolve(span, from_users=users, methods=["INVITE"])

    def _span(self, since_us: int | None, until_us: int | None) -> Query:
        """Return the question for all messages of a span, and of the time around it."""
        reach = int(self._around * 1_000_000)
        return Query(
            since_us=None if since_us is None else since_us - reach,
            until_us=None if until_us is None else until_us + reach,
        )

    def _calls(self, records: Iterable[Record]) -> Iterator[Call]:
        """Yield the calls that messages make, which may come in any order."""
        with RecordSorter(by_call=True) as sorter:
            for record in records:
                sorter.add(record)
            for call_id, its in groupby(sorter.sorted(), lambda record: record.call_id):
                if call_id is not None:
                    yield Call.of(its)

    def _follow(self, calls: Sequence[Call]) -> None:
        """Find the other legs of calls, and what they lead to, step by step."""
        for call in calls:
            self._index.add(call)
        known = {call.call_id for call in calls}
        asked = set(self._query.call_ids) if self._reads_once() else set[str]()
        fresh: Sequence[Call] = calls
        for _ in range(_ROUNDS):
            values = set[str]().union(*(self._index.values(call.call_id) for call in fresh)) - asked
            if not fresh or not (values or self._named):
                break
            asked |= values
            span = self._span(min(call.oldest_us for call in fresh), max(call.newest_us for call in fresh) + 1)
            ids = self._linked_ids(span, values, fresh) - known
            if len(ids) > _LEGS_OF_CALLS:
                self._searched.note(f"{len(ids)} other Call-IDs may be legs; they are not followed")
                break
            fresh = list(self._calls(self._read(attrs.evolve(span, call_ids=ids)))) if ids else []
            for call in fresh:
                known.add(call.call_id)
                self._others[call.call_id] = call
                self._index.add(call)
        for crowd in self._index.crowds:
            self._searched.note(f"{crowd.kind} {crowd.value} is on {crowd.call_ids} Call-IDs, and links nothing")

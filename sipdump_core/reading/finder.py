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

__all__ = ["Finder", "Found"]

_MANY = 50_000
"""Call-IDs; with more, all that is stored within the span is read once instead."""
_LEGS_OF_CALLS = 10_000
_LEGS_OF_BYTES = 48 << 20
"""What is held in memory to look for other legs; of more, they are not looked for."""
_ROUNDS = 5
"""How many steps other legs are followed."""


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
        self._now_us = now_us
        self._around = around
        self._legs = legs
        self._index = LegIndex(rules)
        self._others: dict[str, Call] = {}

    def found(self) -> Iterator[Found]:
        """Yield the calls that match, in the order of their Call-IDs."""
        ids = self._query.call_ids or self._candidates()
        if ids is not None and not ids:
            return
        wide = attrs.evolve(self._span(self._query.since_us, self._query.until_us), call_ids=ids or frozenset[str]())
        matching = (found for call in self._calls(wide) if (found := self._judged(call)))
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
        return [self._linked(Found(call, call.summary(self._now_us()))) for call in calls]

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
        summary = call.summary(self._now_us())
        if query.states and summary.state not in query.states:
            return None
        if query.statuses and summary.status not in query.statuses:
            return None
        return Found(call, summary)

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

    def _calls(self, query: Query) -> Iterator[Call]:
        """Read all messages of a question, and yield the calls that they make."""
        with RecordSorter(by_call=True) as sorter:
            for record in self._read(query):
                sorter.add(record)
            for call_id, records in groupby(sorter.sorted(), lambda record: record.call_id):
                if call_id is not None:
                    yield Call.of(records)

    def _follow(self, calls: Sequence[Call]) -> None:
        """Find the other legs of calls, and what they lead to, step by step."""
        for call in calls:
            self._index.add(call)
        known = {call.call_id for call in calls}
        asked: set[str] = set()
        fresh: Sequence[Call] = calls
        for _ in range(_ROUNDS):
            values = set[str]().union(*(self._index.values(call.call_id) for call in fresh)) - asked
            if not values or not fresh:
                break
            asked |= values
            span = self._span(min(call.oldest_us for call in fresh), max(call.newest_us for call in fresh) + 1)
            linked = (record.call_id for query in self._wider(span, values, fresh) for record in self._read(query))
            ids = {call_id for call_id in linked if call_id is not None} - known
            if len(ids) > _LEGS_OF_CALLS:
                self._searched.note(f"{len(ids)} other Call-IDs may be legs; they are not followed")
                break
            fresh = list(self._calls(attrs.evolve(span, call_ids=ids))) if ids else []
            for call in fresh:
                known.add(call.call_id)
                self._others[call.call_id] = call
                self._index.add(call)
        for crowd in self._index.crowds:
            self._searched.note(f"{crowd.kind} {crowd.value} is on {crowd.call_ids} Call-IDs, and links nothing")

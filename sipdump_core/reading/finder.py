"""Finding calls: which Call-IDs match, all their messages, and their other legs.

First the messages that meet one filter name Call-IDs; then all messages of these Call-IDs are read, and each call is
judged as a whole. Where too many Call-IDs come up, or the question has no filter of messages, everything within the
span is read and sorted by call, on disk where it does not fit into memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from sipdump_core.calls.call import Call
from sipdump_core.calls.legs import LegIndex, LegRules
from sipdump_core.calls.summary import Leg, Summary
from sipdump_core.drivers.query import ATTEMPT, Query, parse_grep
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.sorting import RecordSorter
from sipdump_core.record import Record

__all__ = ["Finder", "Found", "Judge"]

_MANY = 50_000
"""Call-IDs; with more, all that is stored within the span is read once instead."""
_LEGS_OF_CALLS = 10_000
_LEGS_OF_BYTES = 16 << 20
"""What is held in memory to look for other legs; of more, they are not looked for."""
_ROUNDS = 100
"""How many steps other legs are followed; each one asks the store again, and a call seldom has three."""
_NEVER_US = 1 << 62
"""Later than any time."""


class Found:
    """A call that matches.

    Args:
        call: the call.
        summary: what happened in it.
        keep: keep the call as it was worked out; otherwise it is made again of its records when it is asked for.
    """

    def __init__(self, call: Call, summary: Summary, *, keep: bool = True) -> None:
        self.records: Sequence[Record] = call.records
        """All its messages."""
        self.summary = summary
        """What happened in it."""
        self._call = call if keep else None

    @property
    def call(self) -> Call:
        """The call."""
        return self._call or Call.of(self.records)

    @property
    def legs(self) -> Sequence[Leg]:
        """Other Call-IDs that belong to it, as far as they were looked for."""
        return self.summary.legs


class Judge:
    """Tells which calls are an answer to a question: each filter is met by one of a call's messages within the span.

    Args:
        query: the question.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._span = Query(since_us=query.since_us, until_us=query.until_us)
        self.of_attempts = query.kinds == {ATTEMPT}
        """Whether the span is that of the calls' beginnings, so that the filters may be met later."""
        asked = attrs.evolve(query, since_us=None, until_us=None) if self.of_attempts else query
        self.parts = asked.parts()
        """The filters, a question each; the one that leaves fewest first."""

    def takes(self, call: Call) -> bool:
        """Return whether a call's messages are an answer, whatever became of it."""
        query, records = self._query, call.records
        if (query.since_us is not None or query.until_us is not None) and not any(map(self._span.matches, records)):
            return False
        if not all(any(map(part.matches, records)) for part in self.parts):
            return False
        kinds = query.kinds
        return not kinds or call.kind in kinds or (ATTEMPT in kinds and self._begins(call))

    def takes_outcome(self, summary: Summary) -> bool:
        """Return whether a call's state and the status that decided are an answer."""
        query = self._query
        if query.states and summary.state not in query.states:
            return False
        return not query.statuses or summary.status in query.statuses

    def _begins(self, call: Call) -> bool:
        """Return whether it is an attempt to call that began within the span."""
        if call.kind != "call" or not call.has_beginning:
            return False
        began = min(arrow.time_us for arrow in call.arrows)
        return self._span.within(began, began)


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
        self._judge = Judge(query)
        self._rules = rules
        self._searched = searched
        self._ask_now = now_us
        self._now_us: int | None = None
        self._around = around
        self._legs = legs
        self._index = LegIndex(rules)
        self._others: dict[str, Found] = {}
        self._held: dict[str, Found] = {}
        """Calls that match, before those are left out that are legs of others."""
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
            self._index.add(one.call)
            held.append(Found(one.call, one.summary, keep=False))  # all that was worked out would fill the memory
            size += sum(len(record.buf) for record in one.records)
            if len(held) > _LEGS_OF_CALLS or size > _LEGS_OF_BYTES:
                self._index = LegIndex(self._rules)
                self._searched.note("these are too many calls to look for their other legs: narrow the question")
                while held:
                    yield held.pop(0)
                yield from matching
                return
        self._follow(held)
        self._held = {one.summary.call_id: one for one in held} if self._judge.of_attempts else {}
        firsts = (one for one in held if not self._is_further_leg(one)) if self._judge.of_attempts else held
        yield from map(self._linked, firsts)

    def others(self, found: Sequence[Found]) -> list[Found]:
        """Return the other legs of calls that were found, each once, the nearest first."""
        known = {one.summary.call_id for one in found}
        ids = dict.fromkeys(leg.call_id for one in found for leg in one.legs if leg.call_id not in known)
        return [self._linked(self._others[one]) for one in ids if one in self._others]

    def _is_further_leg(self, found: Found) -> bool:
        """Return whether a call that began earlier has a value in common with this one."""
        mine = found.summary
        legs = [leg.call_id for leg in self._index.legs(mine.call_id) if leg.linked_to == mine.call_id]
        return any(
            (other.summary.began, other.summary.call_id) < (mine.began, mine.call_id) and _is_attempt(other)
            for other in (self._others.get(call_id) or self._held.get(call_id) for call_id in legs)
            if other
        )

    def _linked(self, found: Found) -> Found:
        found.summary = attrs.evolve(found.summary, legs=self._index.legs(found.summary.call_id))
        return found

    def _judged(self, call: Call) -> Found | None:
        """Return a call with its summary; None where it does not match."""
        if not self._judge.takes(call):
            return None
        summary = self._summary(call)
        return Found(call, summary) if self._judge.takes_outcome(summary) else None

    def _summary(self, call: Call) -> Summary:
        """Return what happened in a call. The time it is now is found out only once a call depends on it."""
        if self._now_us is None:
            if not call.ages(_NEVER_US):
                return call.summary(call.newest_us)
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
        driving = next(iter(self._judge.parts), None)
        if driving is None:
            return None
        if self._judge.of_attempts:
            wide = self._span(self._query.since_us, self._query.until_us)
            driving = attrs.evolve(driving, since_us=wide.since_us, until_us=wide.until_us)
        ids: set[str] = set()
        for record in self._read(driving):
            if record.call_id is not None:
                ids.add(record.call_id)
                if len(ids) > _MANY:
                    return None
        return ids

    def _linked_ids(self, span: Query, values: set[str], found: Sequence[Found]) -> set[str]:
        """Return the Call-IDs whose messages name calls, or a value of theirs, within a span."""
        ids = {
            call_id for call_id, times in self._named.items() if any(span.within(time_us, time_us) for time_us in times)
        }
        self._named.clear()
        for query in self._wider(span, values, found) if values else ():
            ids |= {record.call_id for record in self._read(query) if record.call_id is not None}
        return ids

    def _wider(self, span: Query, values: set[str], found: Sequence[Found]) -> Iterator[Query]:
        """Yield the questions whose answers may belong to other legs of calls."""
        yield attrs.evolve(span, correlations=values)
        if self._rules.headers or self._rules.patterns:
            yield attrs.evolve(span, greps=map(parse_grep, values))
        if self._rules.heuristic:
            users = {user for one in found if (user := one.summary.from_user)}
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
            yield from map(Call.of, sorter.calls())

    def _follow(self, found: Sequence[Found]) -> None:
        """Find the other legs of calls, which are in the index, and what they lead to, step by step."""
        known = {one.summary.call_id for one in found}
        asked = set(self._query.call_ids) if self._reads_once() else set[str]()
        fresh: Sequence[Found] = found
        for _ in range(_ROUNDS):
            values = set[str]().union(*(self._index.values(one.summary.call_id) for one in fresh)) - asked
            if not fresh or not (values or self._named):
                break
            asked |= values
            times = [record.time_us for one in fresh for record in one.records]
            span = self._span(min(times), max(times) + 1)
            ids = self._linked_ids(span, values, fresh) - known
            if len(ids) > _LEGS_OF_CALLS:
                self._searched.note(f"{len(ids)} other Call-IDs may be legs; they are not followed")
                break
            calls = self._calls(self._read(attrs.evolve(span, call_ids=ids))) if ids else ()
            fresh = []
            for call in calls:
                self._index.add(call)
                fresh.append(Found(call, self._summary(call), keep=False))
            known |= {one.summary.call_id for one in fresh}
            self._others |= {one.summary.call_id: one for one in fresh}
        else:
            self._searched.note(f"legs were followed {_ROUNDS} steps and no further")
        for crowd in self._index.crowds:
            self._searched.note(f"{crowd.kind} {crowd.value} is on {crowd.call_ids} Call-IDs, and links nothing")


def _is_attempt(found: Found) -> bool:
    return found.summary.kind == "call" and found.call.has_beginning

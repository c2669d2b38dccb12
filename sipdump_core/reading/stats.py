"""``sipdump-read stats``: how many messages and calls, what became of them, and how long it took.

What is counted, and by which rules, :mod:`sipdump_core.reading.tally` says.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from sipdump_core.calls.legs import LegRules
from sipdump_core.calls.message import Message
from sipdump_core.calls.summary import Summary
from sipdump_core.drivers.query import Query
from sipdump_core.reading.arguments import add_filters, add_store, query_of, whole_number
from sipdump_core.reading.finder import Found
from sipdump_core.reading.lines import as_json, counted, endpoint, local_time, printable
from sipdump_core.reading.session import Session
from sipdump_core.reading.tally import MANY_KEYS, OTHERS, Counting, Tally
from sipdump_core.record import Record

__all__ = ["Statistics", "add_stats", "stats"]

BY = ("method", "status", "ua", "from", "dst", "hour")
_TOP = 20


def add_stats(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stats``."""
    parser.usage = "%(prog)s [STORE] [FILTERS] [--by FIELD] [--top N] [--json]"
    add_store(parser)
    add_filters(parser)
    parser.add_argument("--by", choices=BY, help="also count by this")
    help_top = f"show the N most frequent; 0: all (default: {_TOP})"
    parser.add_argument("--top", type=whole_number, default=_TOP, metavar="N", help=help_top)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=stats)


def stats(args: argparse.Namespace) -> int:
    """Count and measure."""
    with Session(args) as session:
        query = query_of(args, session.now)
        counted = Statistics(args.by, query)
        found = session.store.find(query, session.searched, around=args.around, legs=False)
        for one in session.shown(found):
            counted.add(one)
        if counted.calls:
            result = counted.result(args.top)
            if args.json:
                print(as_json(result, indent=2))
            else:
                _print(result)
        elif args.json:
            print("{}")
        return session.report(bool(counted.calls))


@attrs.define
class Group:
    """What is counted for one value of ``--by``."""

    messages: int = 0
    calls: int = 0
    answered: int = 0
    failed: int = 0


class Statistics:
    """Counts calls, one after the other.

    Args:
        by: what groups are made by, one of ``BY``; None: none.
        span: a question whose span counts: messages, requests and attempts outside it are passed over.
        rules: what links the legs of a call.
    """

    def __init__(self, by: str | None = None, span: Query | None = None, rules: LegRules | None = None) -> None:
        self.calls = 0
        """Call-IDs of any kind."""
        self._by = by
        self._span = span or Query()
        self._kinds: Counter[str] = Counter()
        self._states: Counter[str] = Counter()
        self._groups: dict[str, Group] = {}
        self._tally = Tally()
        self._counting = Counting(self._tallies, rules)

    def add(self, found: Found) -> None:
        """Count a call."""
        summary = found.summary
        self.calls += 1
        self._kinds[summary.kind] += 1
        self._states[f"{summary.kind} {summary.state}"] += 1
        self._counting.add(found)
        if self._by:
            self._add_groups(summary, found.call.sightings)

    def result(self, top: int = 0) -> dict[str, Any]:
        """Return all numbers, those of the ``top`` largest groups; 0: of all. Nothing can be added after that."""
        self._counting.finish()
        groups = sorted(self._groups.items(), key=lambda item: (-item[1].messages, -item[1].calls, item[0]))
        result: dict[str, Any] = {
            "messages": dict(self._tally.messages),
            "kinds": dict(self._kinds.most_common()),
            "states": dict(self._states.most_common()),
            "sessions": self._tally.sessions(),
            "registrations": self._tally.registrations(),
            "delays": self._tally.delays(),
        }
        if self._by:
            rows = [{self._by: key, **attrs.asdict(group)} for key, group in groups]
            result["by"] = rows[:top] if top else rows
        return result

    def _tallies(self, time_us: int) -> Sequence[Tally]:
        return (self._tally,) if _is_in(self._span, time_us) else ()

    def _add_groups(self, summary: Summary, messages: Iterable[tuple[Record, Message]]) -> None:
        for record, message in messages:
            if not _is_in(self._span, record.time_us):
                continue
            key = self._key_of(record, message)
            if key is not None:
                self._group(key).messages += 1
        keys: Mapping[str, str | None] = {
            "from": summary.from_user,
            "dst": summary.dst,
            "hour": _hour(summary.began),
        }
        key = keys.get(self._by or "")
        if summary.kind == "call" and key is not None:
            group = self._group(key)
            group.calls += 1
            group.answered += summary.state in ("answered", "ended")
            group.failed += summary.state in ("failed", "timed-out")

    def _key_of(self, record: Record, message: Message) -> str | None:
        if self._by == "method":
            return message.method
        if self._by == "status":
            return None if message.status is None else str(message.status)
        if self._by == "ua":
            return message.user_agent
        if self._by == "from":
            return message.from_.user
        if self._by == "dst":
            return endpoint(record.dst_ip, record.dst_port)
        return _hour(record.time_us)

    def _group(self, key: str) -> Group:
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= MANY_KEYS:
                key = OTHERS
            group = self._groups.setdefault(key, Group())
        return group


def _is_in(span: Query, time_us: int) -> bool:
    return span.within(time_us, time_us)


def _hour(time_us: int) -> str:
    return local_time(time_us).strftime("%Y-%m-%dT%H:00%z")


def _print(result: Mapping[str, Any]) -> None:
    for line in _lines(result):
        print(printable(line))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    messages = result["messages"]
    requests, replies = counted(messages.get("requests", 0), "request"), messages.get("replies", 0)
    yield f"messages    {requests}, {counted(replies, 'reply', 'replies')}"
    yield "Call-IDs    " + ", ".join(f"{count} {kind}" for kind, count in result["kinds"].items())
    for state, count in result["states"].items():
        yield f"            {count:>8} {state}"
    sessions = result["sessions"]
    if sessions["attempts"]:
        yield f"sessions    {counted(sessions['attempts'], 'attempt')}, {sessions['answered']} answered"
        texts = {"asr": "answer seizure ratio (ASR)", "ner": "network effectiveness ratio (NER)",
                 "ser": "session establishment ratio (SER)", "seer": "session establishment effectiveness (SEER)",
                 "isa": "ineffective session attempts (ISA)", "scr": "session completion ratio (SCR)"}  # fmt: skip
        for name, text in texts.items():
            if sessions[name] is not None:
                yield f"            {sessions[name]:>8.2f} % {text}"
    registrations = result["registrations"]
    if registrations["requests"]:
        yield f"REGISTER    {counted(registrations['requests'], 'request')} answered"
        yield f"            {registrations['accepted']:>8} accepted, of {counted(registrations['users'], 'user')}"
        yield f"            {registrations['ira']:>8.2f} % ineffective registration attempts (IRA)"
    texts = {"rrd": "registration request delay (RRD)", "pdd": "post-dial delay (PDD), of all",
             "srd": "session request delay (SRD)", "srd_failed": "session request delay, failed",
             "setup": "from INVITE to the answer", "sdd": "session disconnect delay (SDD)",
             "sdt": "session duration (SDT)"}  # fmt: skip
    if any(result["delays"].values()):
        yield f"seconds     {'count':>8} {'mean':>9} {'p50':>9} {'p95':>9} {'p99':>9} {'max':>9}"
    for name, text in texts.items():
        found = result["delays"][name]
        if found:
            numbers = " ".join(f"{found[each]:>9.3f}" for each in ("mean", "p50", "p95", "p99", "max"))
            yield f"            {found['count']:>8} {numbers}  {text}"
    if "by" in result:
        rows = result["by"]
        by = next(iter(rows[0])) if rows else ""
        yield ""
        columns = ["messages", "calls", "answered", "failed"] if any(row["calls"] for row in rows) else ["messages"]
        yield " ".join(f"{column:>8}" for column in columns) + f"  {by}"
        for row in rows:
            yield " ".join(f"{row[column]:>8}" for column in columns) + f"  {row[by]}"

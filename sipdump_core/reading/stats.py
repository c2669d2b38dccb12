"""``sipdump-read stats``: how many messages and calls, what became of them, and how long it took.

Ratios and delays are those of RFC 6076 ("Basic Telephony SIP End-to-End Performance Metrics"), measured where the first
hop was seen. Delays are in seconds. A call is one attempt, however often its caller was challenged; one whose beginning
was not seen is none.
"""

import argparse
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from sipdump_core.calls.call import Call
from sipdump_core.calls.message import Message
from sipdump_core.calls.summary import Summary
from sipdump_core.calls.transactions import Transaction, is_success
from sipdump_core.reading.arguments import add_filters, add_store, query_of, whole_number
from sipdump_core.reading.finder import Found
from sipdump_core.reading.lines import as_json, counted, endpoint, local_time, printable
from sipdump_core.reading.session import Session
from sipdump_core.record import Record

__all__ = ["Statistics", "add_stats", "stats"]

BY = ("method", "status", "ua", "from", "dst", "hour")
_TOP = 20
_MANY_KEYS = 100_000
_CHALLENGED = frozenset((401, 402, 407))
"""RFC 6076, section 4.3.2: these are not failures."""
_REACHED = frozenset((480, 486, 600, 603))
"""Section 4.7: these show that the callee was reached."""
_INEFFECTIVE = frozenset((408, 500, 503, 504))
"""Section 4.8: these show that a server failed or is overloaded."""


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
        counted = Statistics(args.by)
        found = session.store.find(query_of(args, session.now), session.searched, around=args.around, legs=False)
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


class Delays:
    """Delays, for their percentiles."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, seconds: float | None) -> None:
        """Take down a delay, if there is one."""
        if seconds is not None:
            self._values.append(seconds)

    def result(self) -> dict[str, float | int] | None:
        """Return count, mean and percentiles in seconds; None where there is none."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        at = {f"p{p}": ordered[max(math.ceil(len(ordered) * p / 100) - 1, 0)] for p in (50, 95, 99)}
        mean = round(math.fsum(ordered) / len(ordered), 6)
        return {"count": len(ordered), "mean": mean, **at, "max": ordered[-1]}


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
    """

    def __init__(self, by: str | None = None) -> None:
        self.calls = 0
        """Call-IDs of any kind."""
        self._by = by
        self._messages: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._states: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._registers: Counter[str] = Counter()
        self._groups: dict[str, Group] = {}
        self._delays = {name: Delays() for name in ("rrd", "srd", "srd_failed", "sdd", "sdt", "setup")}

    def add(self, found: Found) -> None:
        """Count a call."""
        summary = found.summary
        self.calls += 1
        self._kinds[summary.kind] += 1
        self._states[f"{summary.kind} {summary.state}"] += 1
        call = found.call
        for transaction in call.first_hops:
            self._add_transaction(transaction)
        if summary.kind == "call" and _has_begun(call):
            self._add_session(summary)
        for _, message in call.sightings:
            self._messages["requests" if message.method else "replies"] += 1
        if self._by:
            self._add_groups(summary, call.sightings)

    def result(self, top: int = 0) -> dict[str, Any]:
        """Return all numbers, those of the ``top`` largest groups; 0: of all."""
        groups = sorted(self._groups.items(), key=lambda item: (-item[1].messages, -item[1].calls, item[0]))
        result: dict[str, Any] = {
            "messages": dict(self._messages),
            "kinds": dict(self._kinds.most_common()),
            "states": dict(self._states.most_common()),
            "sessions": self._ratios(),
            "registrations": self._registrations(),
            "delays": {name: delays.result() for name, delays in self._delays.items()},
        }
        if self._by:
            rows = [{self._by: key, **attrs.asdict(group)} for key, group in groups]
            result["by"] = rows[:top] if top else rows
        return result

    def _add_transaction(self, transaction: Transaction) -> None:
        request, final = transaction.request, transaction.final
        took = (final.time_us - request.time_us) / 1e6 if request and final else None
        if transaction.method == "BYE" and final and is_success(final):
            self._delays["sdd"].add(took)
        elif transaction.method == "REGISTER" and final:
            status = final.message.status or 0
            self._registers["requests"] += 1
            self._registers["ineffective"] += status >= 400 and status not in _CHALLENGED
            if is_success(final):
                self._delays["rrd"].add(took)

    def _add_session(self, summary: Summary) -> None:
        status, attempts = summary.status or 0, self._attempts
        answered = 200 <= status < 300
        attempts["attempts"] += 1
        attempts["answered"] += answered
        attempts["redirected"] += 300 <= status < 400
        attempts["reached"] += answered or status in _REACHED
        attempts["ineffective"] += status in _INEFFECTIVE
        attempts["completed"] += answered and summary.state == "ended"
        if answered:
            self._delays["srd"].add(summary.post_dial_delay)
            self._delays["setup"].add(summary.setup_time)
            self._delays["sdt"].add(summary.duration)
        elif status >= 400 and status not in _CHALLENGED and summary.ended is not None:
            rang = summary.post_dial_delay  # the first sign counts, be it a provisional reply or the failure
            self._delays["srd_failed"].add((summary.ended - summary.began) / 1e6 if rang is None else rang)

    def _ratios(self) -> dict[str, float | int | None]:
        """Return the ratios of RFC 6076 in percent: section 4.6 SER, 4.7 SEER, 4.8 ISA, 4.9 SCR."""
        attempts = self._attempts
        serious = attempts["attempts"] - attempts["redirected"]
        return {
            "attempts": attempts["attempts"],
            "answered": attempts["answered"],
            "ser": _percent(attempts["answered"], serious),
            "seer": _percent(attempts["reached"], serious),
            "isa": _percent(attempts["ineffective"], attempts["attempts"]),
            "scr": _percent(attempts["completed"], attempts["attempts"]),
        }

    def _registrations(self) -> dict[str, float | int | None]:
        """Return the registration ratio of RFC 6076 in percent: section 4.2 IRA."""
        requests = self._registers["requests"]
        return {"requests": requests, "ira": _percent(self._registers["ineffective"], requests)}

    def _add_groups(self, summary: Summary, messages: Iterable[tuple[Record, Message]]) -> None:
        for record, message in messages:
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
            if len(self._groups) >= _MANY_KEYS:  # strangers make up names without end
                key = "others"
            group = self._groups.setdefault(key, Group())
        return group


def _has_begun(call: Call) -> bool:
    """Return whether the beginning of a call was seen: an INVITE without a To-tag, or what answered it."""
    for transaction in call.first_hops:
        if transaction.method == "INVITE":
            request = transaction.request
            if request is None or request.message.to.tag is None:
                return True
    return False


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


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
        texts = {"ser": "session establishment ratio (SER)", "seer": "session establishment effectiveness (SEER)",
                 "isa": "ineffective session attempts (ISA)", "scr": "session completion ratio (SCR)"}  # fmt: skip
        for name, text in texts.items():
            if sessions[name] is not None:
                yield f"            {sessions[name]:>8.2f} % {text}"
    registrations = result["registrations"]
    if registrations["requests"]:
        yield f"REGISTER    {counted(registrations['requests'], 'request')} answered"
        yield f"            {registrations['ira']:>8.2f} % ineffective registration attempts (IRA)"
    texts = {"rrd": "registration request delay (RRD)", "srd": "session request delay (SRD)",
             "srd_failed": "session request delay, failed", "setup": "from INVITE to the answer",
             "sdd": "session disconnect delay (SDD)", "sdt": "session duration (SDT)"}  # fmt: skip
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

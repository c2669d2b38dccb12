"""What is counted of calls, and where: the numbers of ``sipdump-read stats`` and of the overview.

Ratios and delays are those of RFC 6076 ("Basic Telephony SIP End-to-End Performance Metrics"), measured where the first
hop was seen, and the answer seizure ratio (ITU-T E.411) and network effectiveness ratio (ITU-T E.425). Delays are in
seconds. A message, a request and an attempt count in the span in which they began.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from sipdump_core.calls.legs import LegRules
from sipdump_core.calls.message import Message
from sipdump_core.calls.transactions import Transaction, is_success
from sipdump_core.reading.attempts import Attempt, Attempts
from sipdump_core.reading.finder import Found

__all__ = ["CHALLENGED", "Counting", "Delays", "Measure", "Sketch", "Tally", "add_bounded", "percent"]

CHALLENGED = frozenset((401, 402, 407))
"""RFC 6076, section 4.3.2: these are not failures."""
MANY_KEYS = 100_000
"""Strangers make up names without end; of more, the rest is counted as :data:`OTHERS`."""
OTHERS = "others"
_PERCENTILES = (50, 95, 99)


class Measure(Protocol):
    """Takes down delays, for their percentiles."""

    def add(self, seconds: float | None) -> None:
        """Take down a delay, if there is one."""

    def result(self) -> dict[str, float | int] | None:
        """Return count, mean, percentiles and maximum, in seconds; None where there is none."""


class Delays:
    """Keeps all delays: percentiles are exact."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, seconds: float | None) -> None:
        """See :meth:`Measure.add`."""
        if seconds is not None:
            self._values.append(seconds)

    def result(self) -> dict[str, float | int] | None:
        """See :meth:`Measure.result`."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        at = {f"p{p}": ordered[_rank(len(ordered), p)] for p in _PERCENTILES}
        mean = round(math.fsum(ordered) / len(ordered), 6)
        return {"count": len(ordered), "mean": mean, **at, "max": ordered[-1]}


class Sketch:
    """Counts delays in classes, each 2 % wide: a percentile is at most 1 % off, and memory is bounded.

    The classes are those of DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019): powers of one base. From a microsecond
    to a year there are 1,570.
    """

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self._count = 0
        self._sum = self._max = 0.0

    def add(self, seconds: float | None) -> None:
        """See :meth:`Measure.add`."""
        if seconds is None:
            return
        self._classes[math.ceil(math.log(max(seconds, _LEAST_S)) / _LOG_BASE)] += 1
        self._count += 1
        self._sum += seconds
        self._max = max(self._max, seconds)

    def result(self) -> dict[str, float | int] | None:
        """See :meth:`Measure.result`."""
        if not self._count:
            return None
        at = {f"p{p}": min(self._at(_rank(self._count, p)), self._max) for p in _PERCENTILES}
        return {"count": self._count, "mean": round(self._sum / self._count, 6), **at, "max": self._max}

    def merge(self, other: "Sketch") -> None:
        """Add what another one has taken down."""
        self._classes.update(other._classes)
        self._count += other._count
        self._sum += other._sum
        self._max = max(self._max, other._max)

    def _at(self, rank: int) -> float:
        for number in sorted(self._classes):
            rank -= self._classes[number]
            if rank < 0:
                break
        return round(2 * _BASE**number / (_BASE + 1), 6)


_BASE = 1.02
_LOG_BASE = math.log(_BASE)
_LEAST_S = 1e-6


class Tally:
    """What is counted of one span of time.

    Args:
        measure: makes what delays are taken down in.
    """

    def __init__(self, measure: Callable[[], Measure] = Delays) -> None:
        self.messages: Counter[str] = Counter()
        """Messages: ``requests`` and ``replies``."""
        self.methods: Counter[str] = Counter()
        """Requests by method."""
        self.statuses: Counter[int] = Counter()
        """Replies by status."""
        self.states: Counter[str] = Counter()
        """Attempts by what became of them."""
        self.failures: Counter[int] = Counter()
        """Attempts that failed, were refused or timed out, by the final answer; 0: there was none."""
        self.failed_agents: Counter[str] = Counter()
        """The same by the caller's User-Agent; empty: it had none."""
        self.failed_targets: Counter[str] = Counter()
        """The same by the address of what answered, or of what was tried last."""
        self._attempts: Counter[str] = Counter()
        self._registers: Counter[str] = Counter()
        self._users: set[int] = set()
        self._delays = {name: measure() for name in ("rrd", "srd", "srd_failed", "pdd", "sdd", "sdt", "setup")}

    def add_message(self, message: Message) -> None:
        """Count a message."""
        if message.method:
            self.messages["requests"] += 1
            add_bounded(self.methods, message.method)
        else:
            self.messages["replies"] += 1
            if message.status is not None:
                self.statuses[message.status] += 1

    def add_transaction(self, transaction: Transaction) -> None:
        """Count a transaction at its first hop."""
        request, final = transaction.request, transaction.final
        took = (final.time_us - request.time_us) / 1e6 if request and final else None
        if transaction.method == "BYE" and final and is_success(final):
            self._delays["sdd"].add(took)
        elif transaction.method == "REGISTER":
            status = (final.message.status or 0) if final else 0
            self._registers["requests"] += status > 0
            self._registers["unanswered"] += not status
            self._registers["accepted"] += 200 <= status < 300
            self._registers["challenged"] += status in CHALLENGED
            self._registers["ineffective"] += status >= 400 and status not in CHALLENGED
            if final and is_success(final):
                self._delays["rrd"].add(took)
                self._add_user(transaction.first.message)

    def add_attempt(self, attempt: Attempt) -> None:
        """Count an attempt to call."""
        attempts = self._attempts
        attempts["attempts"] += 1
        attempts["answered"] += attempt.answered
        attempts["redirected"] += attempt.redirected
        attempts["reached"] += attempt.reached
        attempts["delivered"] += attempt.delivered
        attempts["ineffective"] += attempt.ineffective
        attempts["completed"] += attempt.answered and attempt.state == "ended"
        self.states[attempt.state] += 1
        self._delays["pdd"].add(attempt.delay_s)
        if attempt.answered:
            self._delays["srd"].add(attempt.rang_s)
            self._delays["setup"].add(attempt.setup_s)
            self._delays["sdt"].add(attempt.duration_s)
        elif attempt.failed:
            self._delays["srd_failed"].add(attempt.delay_s)
        if attempt.state in FAILURES:
            self.failures[attempt.status or 0] += 1
            add_bounded(self.failed_agents, attempt.agent or "")
            add_bounded(self.failed_targets, attempt.target)

    def sessions(self) -> dict[str, float | int | None]:
        """Return attempts, and their ratios in percent: ASR (E.411), NER (E.425), and of RFC 6076 SER (section 4.6),
        SEER (4.7), ISA (4.8) and SCR (4.9)."""
        attempts = self._attempts
        serious = attempts["attempts"] - attempts["redirected"]
        return {
            "attempts": attempts["attempts"],
            "answered": attempts["answered"],
            "asr": percent(attempts["answered"], attempts["attempts"]),
            "ner": percent(attempts["delivered"], attempts["attempts"]),
            "ser": percent(attempts["answered"], serious),
            "seer": percent(attempts["reached"], serious),
            "isa": percent(attempts["ineffective"], attempts["attempts"]),
            "scr": percent(attempts["completed"], attempts["attempts"]),
        }

    def registrations(self) -> dict[str, float | int | None]:
        """Return REGISTER requests that were answered, and what they got; the registration ratio of RFC 6076 in percent
        (section 4.2, IRA); and how many users were accepted, at most :data:`MANY_KEYS`."""
        registers = self._registers
        found = {name: registers[name] for name in ("requests", "accepted", "challenged", "unanswered")}
        found["failed"] = registers["ineffective"]
        return {**found, "users": len(self._users), "ira": percent(registers["ineffective"], registers["requests"])}

    def delays(self) -> dict[str, dict[str, float | int] | None]:
        """Return the delays by their names, see :meth:`Measure.result`."""
        return {name: delays.result() for name, delays in self._delays.items()}

    def merge(self, other: "Tally") -> None:
        """Add what was counted of another span; both take down delays in sketches."""
        for mine, theirs in zip(self._counters(), other._counters(), strict=True):
            mine.update(theirs)
        self._users |= other._users
        for name, delays in self._delays.items():
            more = other._delays[name]
            if isinstance(delays, Sketch) and isinstance(more, Sketch):
                delays.merge(more)

    def _counters(self) -> "Sequence[Counter[Any]]":
        return (
            self.messages, self.methods, self.statuses, self.states, self.failures, self.failed_agents,
            self.failed_targets, self._attempts, self._registers,
        )  # fmt: skip

    def _add_user(self, message: Message) -> None:
        """Note who was registered: the address of record is in To (RFC 3261, section 10.2)."""
        if len(self._users) < MANY_KEYS:
            self._users.add(hash((message.to.user, message.to.host.lower())))


FAILURES = frozenset(("failed", "refused", "timed-out"))
"""States of attempts that failed. Where the caller gave up, or never answered a challenge, is no failure."""


class Counting:
    """Counts calls, one after the other, each in the tallies of its times.

    Args:
        tallies: returns what a moment counts in, microseconds since the epoch; nothing where it is not asked for.
        rules: what links the legs of a call.
    """

    def __init__(self, tallies: Callable[[int], Iterable[Tally]], rules: LegRules | None = None) -> None:
        self._tallies = tallies
        self._attempts = Attempts(rules)

    def add(self, found: Found) -> None:
        """Count a call. Its Call-ID is another one each time."""
        tallies = self._tallies
        call, summary = found.call, found.summary
        for record, message in call.sightings:
            for tally in tallies(record.time_us):
                tally.add_message(message)
        for transaction in call.first_hops:
            for tally in tallies(transaction.first.time_us):
                tally.add_transaction(transaction)
        if summary.kind == "call" and call.has_beginning:
            self._attempts.add(call, summary)

    def finish(self) -> None:
        """Count the attempts: which calls are legs of others is known only now."""
        for attempt in self._attempts.once():
            for tally in self._tallies(attempt.began_us):
                tally.add_attempt(attempt)


def add_bounded(counter: Counter[str], key: str) -> None:
    """Count a key that strangers choose."""
    counter[key if key in counter or len(counter) < MANY_KEYS else OTHERS] += 1


def percent(part: int, whole: int) -> float | None:
    """Return a part in percent; None of nothing."""
    return round(100 * part / whole, 2) if whole else None


def _rank(count: int, p: int) -> int:
    return max(math.ceil(count * p / 100) - 1, 0)

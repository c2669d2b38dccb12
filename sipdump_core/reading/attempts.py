"""Attempts: each call that somebody began counts once, over challenges, redirections, forks and legs."""

from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from sipdump_core.calls.call import Call
from sipdump_core.calls.legs import CROWD, LegRules
from sipdump_core.calls.summary import Summary
from sipdump_core.reading.sorting import Sorter

__all__ = ["Attempt", "Attempts"]

_RUN_BYTES = 8 << 20
_NOT_FAILED = frozenset((401, 402, 407))
"""Challenges are no failures (RFC 6076, section 4.3.2)."""
_DELIVERED = frozenset((480, 486, 600, 603))
"""Answers of a user or his terminal: not there, busy, declined. The network did its part (ITU-T E.425, NER; RFC 6076,
section 4.7, SEER, names the same)."""
_NO_ANSWER = frozenset((None, 408, 487))
"""What becomes of a call that rings until somebody gives up."""
_INEFFECTIVE = frozenset((408, 500, 503, 504))
"""A server failed or is overloaded (RFC 6076, section 4.8)."""


class Attempt(NamedTuple):
    """What is counted of one attempt to call. It is plain, so that masses of them can be sorted on disk."""

    began_us: int
    """When it began, microseconds since the epoch."""
    state: str
    status: int | None
    rang_s: float | None
    """Seconds from the first INVITE to the first 101 to 199, else to the 2xx."""
    setup_s: float | None
    """Seconds from the first INVITE to the 2xx."""
    duration_s: float | None
    """Seconds from the 2xx to the BYE."""
    final_s: float | None
    """Seconds from the first message to the final answer that refused it."""
    agent: str | None
    """The caller's User-Agent."""
    target: str
    """The address of what answered, or of what was tried last."""

    @classmethod
    def of(cls, call: Call, summary: Summary) -> "Attempt":
        """Return what is counted of a call."""
        status = summary.status or 0
        refused = status >= 400 and summary.ended is not None
        return cls(
            began_us=summary.began,
            state=summary.state,
            status=summary.status,
            rang_s=summary.post_dial_delay,
            setup_s=summary.setup_time,
            duration_s=summary.duration,
            final_s=(summary.ended - summary.began) / 1e6 if refused and summary.ended is not None else None,
            agent=_agent(call),
            target=summary.dst,
        )

    @property
    def answered(self) -> bool:
        """Whether it got a 2xx."""
        return 200 <= (self.status or 0) < 300

    @property
    def redirected(self) -> bool:
        """Whether a 3xx was the last word."""
        return 300 <= (self.status or 0) < 400

    @property
    def failed(self) -> bool:
        """Whether a 4xx to 6xx was the last word, and no challenge."""
        return (self.status or 0) >= 400 and self.status not in _NOT_FAILED

    @property
    def reached(self) -> bool:
        """Whether it counts as effective for SEER (RFC 6076, section 4.7)."""
        return self.answered or self.status in _DELIVERED

    @property
    def ineffective(self) -> bool:
        """Whether it counts for ISA (RFC 6076, section 4.8)."""
        return self.status in _INEFFECTIVE

    @property
    def delivered(self) -> bool:
        """Whether it counts as effective for NER: answered, user busy, no answer though it rang, or refused by the
        user or his terminal (ITU-T E.425)."""
        rang_in_vain = (
            self.rang_s is not None and self.status in _NO_ANSWER and self.state not in ("calling", "ringing")
        )
        return self.reached or rang_in_vain

    @property
    def delay_s(self) -> float | None:
        """The post-dial delay in seconds: to the first 101 to 199, else to the 2xx or the failure (RFC 6076, sections
        4.3.1 and 4.3.2); None while there is none of these."""
        return self.final_s if self.rang_s is None and self.failed else self.rang_s


class Attempts:
    """Collects the attempts among calls, in bounded memory.

    A call is a further leg, and no attempt of its own, where its messages have a value in common with a call that began
    earlier: see :mod:`sipdump_core.calls.legs`.

    Args:
        rules: what links legs.
    """

    def __init__(self, rules: LegRules | None = None) -> None:
        self._rules = rules or LegRules()
        self._attempts = Sorter(_RUN_BYTES)
        """By Call-ID."""
        self._links = Sorter(_RUN_BYTES)
        """By value and beginning: the calls that have a value."""
        self._evidence = False
        """Whether any call names another one."""

    def add(self, call: Call, summary: Summary) -> None:
        """Add a call whose beginning was seen. Its Call-ID is another one each time.

        Raises:
            StorageError: the temporary folder has no room.
        """
        call_id, attempt = call.call_id, Attempt.of(call, summary)
        self._attempts.add(call_id, tuple(attempt), len(call_id) + len(attempt.agent or "") + 200)
        links = {("id", call_id)}
        for record, message in call.sightings:
            for kind, value in self._rules.evidence(record, message):
                links.add((kind if kind in ("session-id", "icid") else "id", value))
        self._evidence |= len(links) > 1
        for link in links:
            self._links.add((*link, summary.began, call_id), None, len(link[1]) + len(call_id))

    def once(self) -> Iterator[Attempt]:
        """Yield each attempt once, in the order of their Call-IDs; nothing can be added after that."""
        with self._attempts, self._links, Sorter(_RUN_BYTES) as legs:
            if self._evidence:
                for call_id in self._further_legs():
                    legs.add(call_id, None, len(call_id))
            # a leg comes before the attempt of its Call-ID, which it rules out
            last_leg = None
            for call_id, row in merge(legs.sorted(), self._attempts.sorted(), key=itemgetter(0)):
                if row is None:
                    last_leg = call_id
                elif call_id != last_leg:
                    yield Attempt(*row)

    def _further_legs(self) -> Iterator[str]:
        by_value = groupby(self._links.sorted(), key=lambda item: item[0][:2])
        for _, items in by_value:
            found: list[str] = []
            for (*_, call_id), _ in items:
                found.append(call_id)
                if len(found) > CROWD:
                    break
            if len(found) <= CROWD:
                yield from found[1:]


def _agent(call: Call) -> str | None:
    """Return the User-Agent of the first INVITE on the first hop."""
    for transaction in call.first_hops:
        if transaction.method == "INVITE" and transaction.request:
            return transaction.request.message.header("user-agent")
    return None

"""What happened under one Call-ID, worked out from its arrows (RFC 3261)."""

from collections.abc import Sequence
from functools import cached_property

import attrs

from sipdump_core.calls.arrows import Arrow, Sighting, fold, party
from sipdump_core.calls.order import put_in_order
from sipdump_core.calls.transactions import MAX_HOPS, Transaction, Transactions, is_success

__all__ = ["PATIENCE_US", "Outcome", "Story"]

PATIENCE_US = 180_000_000
"""How long an INVITE may ring: the least that proxies wait (Timer C, RFC 3261, section 16.6)."""

_ANSWER_US = 32_000_000
"""How long other messages may wait for their answer: 64 times T1 (Timers B, F and H)."""

_KINDS = {
    "INVITE": "call", "ACK": "call", "BYE": "call", "CANCEL": "call", "PRACK": "call", "UPDATE": "call",
    "INFO": "call", "REGISTER": "register", "SUBSCRIBE": "subscribe", "NOTIFY": "subscribe", "PUBLISH": "publish",
    "MESSAGE": "message", "OPTIONS": "options",
}  # fmt: skip


@attrs.frozen
class Outcome:
    """What became of a call."""

    state: str
    decided: Arrow | None = None
    """The final answer that decided."""
    ended_us: int | None = None
    bye: Arrow | None = None
    """The BYE that ended it."""
    duration_us: int | None = None


class Story:
    """What happened under one Call-ID.

    Args:
        sightings: its records with their messages, at least one.
    """

    def __init__(self, sightings: Sequence[Sighting]) -> None:
        self.arrows, self.clocks = put_in_order(fold(sightings))
        self.transactions = Transactions(self.arrows)
        self._outcomes: dict[int, Outcome] = {}
        """By the time; the same ones are asked for again and again."""

    @cached_property
    def kind(self) -> str:
        """What the Call-ID is used for, by the first request's method; a dialog seen from its middle is a call."""
        first = next((arrow for arrow in self.arrows if arrow.message.method), self.arrows[0])
        method = first.message.method or first.message.cseq_method or ""
        kind = _KINDS.get(method, "other")
        if method == "INFO" and first.message.to.tag is None:  # not in a call, against RFC 6086
            return "other"
        if kind != "call" and first.message.to.tag is not None:
            methods = {transaction.method for transaction in self.transactions.all}
            if first.message.method is not None and not methods.isdisjoint(("INVITE", "BYE")):
                return "call"
        return kind

    @cached_property
    def tries(self) -> list[list[Transaction]]:
        """The transactions that decide, grouped by CSeq, as seen on the first hop.

        For a call these are the initial INVITEs, which have no To-tag; otherwise all with the first request's method.
        """
        by_number: dict[object, list[Transaction]] = {}
        method = "INVITE" if self.kind == "call" else self._first_method
        for transaction in self.transactions.all:
            if transaction.method == method and (self.kind != "call" or self._is_initial(transaction)):
                by_number.setdefault((transaction.number, party(transaction.first.message)), []).append(transaction)
        tries: list[list[Transaction]] = []
        for group in by_number.values():
            origins = self.transactions.origins(group)
            earlier = tries[-1] if tries else ()
            if not any(self.transactions.carries_on(one, origins[0]) for one in earlier):
                tries.append(origins)
        return tries

    @property
    def initial(self) -> Arrow:
        """The initial request at its first hop; the first message if that was not seen."""
        requests = (transaction.request for group in self.tries for transaction in group)
        first = next((request for request in requests if request), None)
        return first or next((arrow for arrow in self.arrows if arrow.message.method), self.arrows[0])

    @property
    def opening(self) -> Arrow:
        """The message whose From is the caller: the initial request, or an answer to it if only that was seen."""
        seen = [transaction.first for group in self.tries for transaction in group]
        return seen[0] if seen and all(one.message.status is not None for one in seen) else self.initial

    @cached_property
    def answer(self) -> Arrow | None:
        """The first 2xx that the caller got; if it was not seen there, the first on any hop."""
        if self.kind != "call":
            return None
        for transactions in ([one for group in self.tries for one in group], self._all_tries):
            got = [reply for one in transactions for reply in one.replies if is_success(reply)]
            if got:
                return min(got, key=lambda arrow: arrow.time_us)
        return None

    @cached_property
    def byes(self) -> list[Arrow]:
        """Each BYE at its first hop."""
        found = (one for one in self.transactions.all if one.method == "BYE" and self.transactions.is_first(one))
        return [one.request for one in found if one.request]

    def outcome(self, now_us: int) -> Outcome:
        """Return what became of it.

        Args:
            now_us: the time that ages are counted to, microseconds since the epoch.
        """
        found = self._outcomes.get(now_us)
        if found is None:
            found = self._outcomes[now_us] = self._outcome(now_us)
        return found

    def _outcome(self, now_us: int) -> Outcome:
        if self.kind == "call":
            if self.answer:
                return self._answered(self.answer)
            if not self.tries:
                return self._of_the_middle()
        if not self.tries:
            return Outcome("done")
        finals = self._finals
        pending = [one for one in self.tries[-1] if not one.finals]
        young = [
            one for one in pending if not self._cancel(one) and now_us - self._last_signs[one.key[1:]] < PATIENCE_US
        ]
        if finals and not young:
            last = max(finals, key=lambda arrow: arrow.time_us)
            return Outcome(self._state_of(last), last, last.time_us)
        if self.byes:
            return Outcome("ended", None, self.byes[0].time_us, self.byes[0])
        cancel = next((found for one in pending if (found := self._cancel(one))), None)
        if cancel and not young:
            return Outcome("cancelled", None, cancel.time_us)
        if not young:
            return Outcome("timed-out")
        return Outcome("ringing" if any(one.provisionals for one in self._latest_on_all_hops) else "calling")

    def gaps(self, now_us: int) -> list[str]:
        """Return what seems to be missing.

        Args:
            now_us: as of :meth:`outcome`.
        """
        found: dict[str, None] = {}
        outcome = self.outcome(now_us)
        if self.kind == "call" and not any(one.request for group in self.tries for one in group):
            found["no INVITE seen"] = None
        acknowledged = {ack.message.cseq for ack in self.transactions.acks}
        for one in self._first_hops:
            final = one.final
            if one.request is None and one.method and one.method != "INVITE":
                found[f"no {one.method} seen"] = None
            if one.method == "INVITE":
                if final is None:
                    waited = now_us - one.last_us >= _ANSWER_US and outcome.state in ("answered", "cancelled")
                    if waited or outcome.state in ("ended", "timed-out"):
                        found["no final answer to INVITE seen"] = None
                elif one.number not in acknowledged and now_us - final.time_us >= _ANSWER_US:
                    found["no ACK seen"] = None
            elif final is None and one.method != "ACK" and now_us - one.last_us >= _ANSWER_US:
                found[f"no answer to {one.method or 'a request'} seen"] = None
        if outcome.state == "answered":
            found["no BYE seen"] = None
        return list(found)

    def path(self, outcome: Outcome) -> list[str]:
        """Return the addresses from the caller to what answered, or to what was tried last."""
        transaction = self._decisive(outcome)
        if transaction is None:
            return list(dict.fromkeys((self.initial.src, self.initial.dst)))
        status = outcome.decided.message.status if outcome.decided else None
        tag = outcome.decided.message.to.tag if outcome.decided else None
        passed = {transaction.key}
        addresses = [transaction.src, transaction.dst]
        while len(passed) <= MAX_HOPS:
            children = [one for one in self.transactions.continued(transaction) if one.key not in passed]
            if not children:
                break
            alike = [one for one in children if any(reply.message.status == status for reply in one.finals)]
            same = [one for one in alike if any(reply.message.to.tag == tag for reply in one.finals)]
            transaction = (same or alike or children)[-1]
            passed.add(transaction.key)
            addresses += [transaction.src, transaction.dst]
        return [one for number, one in enumerate(addresses) if number == 0 or one != addresses[number - 1]]

    def delays_us(self) -> tuple[int | None, int | None]:
        """Return a call's post-dial delay and its setup time, in microseconds (RFC 6076, sections 4.3 and 4.3.1)."""
        if self.kind != "call" or not self.tries:
            return None, None
        sent = [one.request.time_us for one in self.tries[0] if one.request]
        if not sent:
            return None, None
        got = [one for group in self.tries for one in group]
        rang = [reply.time_us for one in got for reply in one.provisionals]
        answered = [reply.time_us for one in got for reply in one.finals if is_success(reply)]
        setup = max(0, min(answered) - min(sent)) if answered else None
        return (max(0, min(rang) - min(sent)) if rang else setup), setup

    def described(self) -> tuple[list[str], list[str]]:
        """Return a call's codecs and the addresses of its media."""
        if self.kind != "call":
            return [], []
        media = dict.fromkeys(one for arrow in self.arrows if (sdp := arrow.message.sdp) for one in sdp.addresses)
        offer, answer = self._offer_and_answer()
        chosen = answer or offer
        return chosen.message.sdp.codecs if chosen and chosen.message.sdp else [], list(media)

    def release(self) -> list[str]:
        """Return the Reason headers of BYE, CANCEL and final answers (RFC 3326), each once, in order."""
        found: dict[str, None] = {}
        for arrow in self.arrows:
            message = arrow.message
            if message.method in ("BYE", "CANCEL") or (message.status or 0) >= 300:
                found.update(dict.fromkeys(message.values("reason")))
        return list(found)

    @property
    def _first_method(self) -> str:
        first = next((arrow for arrow in self.arrows if arrow.message.method), self.arrows[0])
        return first.message.method or first.message.cseq_method or ""

    @cached_property
    def _initial_numbers(self) -> set[tuple[str, int | None]]:
        """Sender and CSeq of the initial INVITEs."""
        invites = [one for one in self.transactions.all if one.method == "INVITE"]
        requests = [one for one in invites if one.request and not _in_dialog(one.request)]
        sent = {(party(one.first.message), one.number) for one in requests}
        if sent:
            return sent
        later = {one.number for one in invites if one.request}
        numbers = [one.number for one in invites if not one.request and one.number not in later]
        first = min((number for number in numbers if number is not None), default=None)
        if later and first is not None and first > min((one for one in later if one is not None), default=first):
            return set()
        return {(party(one.first.message), first) for one in invites if one.number == first and not one.request}

    def _is_initial(self, transaction: Transaction) -> bool:
        if transaction.request:
            return not _in_dialog(transaction.request)
        return (party(transaction.first.message), transaction.number) in self._initial_numbers

    @property
    def _all_tries(self) -> list[Transaction]:
        """The initial INVITEs on all hops."""
        return [one for one in self.transactions.all if one.method == "INVITE" and self._is_initial(one)]

    @property
    def _latest_on_all_hops(self) -> list[Transaction]:
        latest = self.tries[-1][0]
        return [one for one in self.transactions.all if one.key[1:] == latest.key[1:]]

    @property
    def _finals(self) -> list[Arrow]:
        """The final answers to the latest try."""
        return [final for one in self.tries[-1] if (final := one.final)]

    @cached_property
    def _first_hops(self) -> list[Transaction]:
        """Each transaction at its first hop."""
        groups: dict[object, list[Transaction]] = {}
        for one in self.transactions.all:
            groups.setdefault((one.method, one.number, party(one.first.message)), []).append(one)
        return [origin for group in groups.values() for origin in self.transactions.origins(group)]

    def _cancel(self, transaction: Transaction) -> Arrow | None:
        via, number, _ = transaction.key
        cancel = self.transactions.get((via, number, "CANCEL"))
        return cancel.first if cancel else None

    @cached_property
    def _last_signs(self) -> dict[object, int]:
        """When each try last showed a sign of life: its request or a 101 to 199 on any hop. By CSeq."""
        found: dict[object, int] = {}
        for one in self.transactions.all:
            signs = [arrow.times[-1] for arrow in (one.first, *one.provisionals)]
            found[one.key[1:]] = max(*signs, found.get(one.key[1:], signs[0]))
        return found

    def _answered(self, answer: Arrow) -> Outcome:
        """Return what became of an answered call: it ended when all its dialogs did."""
        answers: dict[str | None, Arrow] = {}
        for group in self.tries:
            for one in group:
                for reply in one.finals:
                    if is_success(reply):
                        answers.setdefault(reply.message.to.tag, reply)
        answers = answers or {answer.message.to.tag: answer}
        byes: dict[str | None, Arrow] = {}
        strays: list[Arrow] = []
        for bye in self.byes:
            tags = {bye.message.from_.tag, bye.message.to.tag, None}
            matched = [tag for tag in answers if tag in tags]
            for tag in matched:
                byes.setdefault(tag, bye)
            if not matched:
                strays.append(bye)
        if len(byes) < len(answers) and not strays:
            return Outcome("answered", answer)
        ends = [(bye, answers[tag]) for tag, bye in byes.items()] or [(strays[0], answer)]
        bye, began = max(ends, key=lambda pair: pair[0].time_us)
        return Outcome("ended", answer, bye.time_us, bye, max(0, bye.time_us - began.time_us))

    def _of_the_middle(self) -> Outcome:
        """Return what became of a call whose beginning was not seen."""
        if self.byes:
            return Outcome("ended", None, self.byes[0].time_us, self.byes[0])
        if any(one.method == "BYE" for one in self.transactions.all):
            bye = next(one for one in self.transactions.all if one.method == "BYE")
            return Outcome("ended", None, bye.first.time_us)
        if all(one.method == "CANCEL" for one in self.transactions.all) and self.transactions.all:
            return Outcome("cancelled", None, self.transactions.all[0].first.time_us)
        answers = (one.final for one in self.transactions.all if one.method == "INVITE")
        return Outcome("answered", next((answer for answer in answers if answer and is_success(answer)), None))

    def _state_of(self, final: Arrow) -> str:
        status = final.message.status or 0
        if status < 300:
            return self._registered(final) if self.kind == "register" else "done"
        if status in (401, 407):
            return "challenged"
        if status == 487:
            return "cancelled"
        return "failed" if status == 408 or 500 <= status < 600 else "refused"

    def _registered(self, final: Arrow) -> str:
        transaction = self.transactions.get(final.key)
        request = transaction.request if transaction else None
        asked = (request or final).message
        default = asked.expires
        expiries = [default if contact.expires is None else contact.expires for contact in asked.contacts]
        if not expiries:
            return "done"
        return "unregistered" if all(expiry == 0 for expiry in expiries) else "registered"

    def _decisive(self, outcome: Outcome) -> Transaction | None:
        """Return the first hop's transaction of the answer that decided; else the latest try, or any."""
        if outcome.decided:
            found = self.transactions.get(outcome.decided.key)
            if found and any(found in group for group in self.tries):
                return found
        if self.tries:
            return self.tries[-1][-1]
        return self._first_hops[0] if self._first_hops else None

    def _offer_and_answer(self) -> tuple[Arrow | None, Arrow | None]:
        """Return the messages with the offer and the answer of the first exchange (RFC 3264)."""
        if self.answer and self.answer.message.sdp and self.initial.message.sdp:
            return self.initial, self.answer
        for group in reversed(self.tries):
            for one in sorted(group, key=lambda one: one.final is not None and is_success(one.final), reverse=True):
                replies = [reply for reply in one.replies if reply.message.sdp]
                replies.sort(key=is_success)
                if one.request and one.request.message.sdp:
                    return one.request, replies[-1] if replies else None
                if replies:
                    acks = (ack for ack in self.transactions.acks if ack.message.cseq == one.number)
                    return replies[-1], next((ack for ack in acks if ack.message.sdp), None)
        return None, None


def _in_dialog(request: Arrow) -> bool:
    return request.message.to.tag is not None

"""The order in which messages were sent: by time, and by causality where time contradicts it.

A reply follows its request, a forwarded request follows the one that came in, an ACK follows the answer. If nodes say
otherwise, their clocks differ; the contradictions show by how much, as in NTP.
"""

import heapq
from collections.abc import Iterable, Sequence

from sipdump_core.calls.arrows import Arrow, TransactionKey, party

__all__ = ["put_in_order"]

Edge = tuple[Arrow, Arrow]
Bounds = dict[tuple[str, str], int]


def put_in_order(arrows: list[Arrow]) -> tuple[list[Arrow], dict[str, int]]:
    """Return arrows in the order in which they were sent, and how far each node's clock is ahead of the first one's.

    Args:
        arrows: in order of their times; corrected where the clocks of nodes contradict each other.

    Returns:
        The arrows, and microseconds by node, of nodes whose clocks contradict the first one's only.
    """
    if len(arrows) < 2:
        return arrows, {}
    edges = list(_causes(arrows))
    corrections: dict[str, int] = {}
    if len({node for arrow in arrows for node in arrow.nodes}) > 1:
        corrections = _corrections(_sorted(arrows, edges)[0], arrows, edges)
        if corrections:
            for arrow in arrows:
                arrow.shift(corrections)
            arrows = sorted(arrows, key=lambda arrow: arrow.time_us)
    return _sorted(arrows, edges), {node: -correction for node, correction in corrections.items()}


def _causes(arrows: Sequence[Arrow]) -> list[Edge]:
    """Return pairs of arrows, cause and effect. No arrow is the effect of more than a few."""
    requests: dict[TransactionKey, Arrow] = {}
    replies: dict[object, Arrow] = {}
    passed_on: dict[object, Arrow] = {}
    for arrow in arrows:
        message = arrow.message
        if message.status is None:
            requests.setdefault(arrow.key, arrow)
        else:
            replies.setdefault((arrow.key, message.status, message.to.tag), arrow)
            if arrow.parent and message.status != 100:  # each hop makes its own (RFC 3261, section 16.2)
                passed_on.setdefault((arrow.parent, message.status, message.to.tag), arrow)
    finals: dict[TransactionKey, Arrow] = {}
    answers: dict[object, Arrow] = {}
    for arrow in replies.values():
        status = arrow.message.status or 0
        if status >= 200:
            finals.setdefault(arrow.key, arrow)
        if 200 <= status < 300 and (arrow.parent is None or arrow.parent not in requests):
            answers.setdefault((arrow.message.cseq, arrow.message.to.tag), arrow)
    began = _beginnings(requests.values())
    edges: list[Edge] = []
    for arrow in arrows:
        message = arrow.message
        via, number, method = arrow.key
        causes: list[Arrow | None]
        if message.status is not None:
            causes = [requests.get(arrow.key), passed_on.get((arrow.key, message.status, message.to.tag))]
        else:
            causes = [requests.get(arrow.parent) if arrow.parent else None, began.get(message.to.tag)]
            if method == "ACK":
                refused = finals.get((via, number, "INVITE"))
                causes.append(refused or answers.get((number, message.to.tag)))
            elif method == "CANCEL":
                causes.append(requests.get((via, number, "INVITE")))
        edges += [(cause, arrow) for cause in causes if cause is not None and cause is not arrow]
    return edges + _tries(requests, finals)


def _beginnings(requests: Iterable[Arrow]) -> dict[str | None, Arrow]:
    """Return an initial request of each who sent one, by the sender's tag: the other side's requests follow it."""
    found: dict[str | None, Arrow] = {}
    for arrow in requests:
        sender = arrow.message.from_.tag
        if sender and arrow.message.to.tag is None:
            found.setdefault(sender, arrow)
    return found


def _tries(requests: dict[TransactionKey, Arrow], finals: dict[TransactionKey, Arrow]) -> list[Edge]:
    """Return each party's requests in the order of CSeq, and each challenge before the try that follows it."""
    parties: dict[str, dict[int, Arrow]] = {}
    for arrow in requests.values():
        message = arrow.message
        if message.cseq is None or message.method in ("ACK", "CANCEL") or (arrow.parent and arrow.parent in requests):
            continue
        parties.setdefault(party(message), {}).setdefault(message.cseq, arrow)
    edges: list[Edge] = []
    for requests_of_one in parties.values():
        before: Arrow | None = None
        for _, arrow in sorted(requests_of_one.items()):
            if before is not None:
                final = finals.get(before.key)
                tried_again = final is not None and final.message.status in (401, 407, 422, 423)
                edges.append((final if final and tried_again else before, arrow))
            before = arrow
    return edges


def _sorted(arrows: list[Arrow], edges: list[Edge]) -> list[Arrow]:
    """Return arrows ordered by causality, then by time."""
    place = {id(arrow): number for number, arrow in enumerate(arrows)}
    if all(place[id(cause)] < place[id(effect)] for cause, effect in edges):
        return arrows
    waits = [0] * len(arrows)
    effects: list[list[int]] = [[] for _ in arrows]
    for cause, effect in edges:
        waits[place[id(effect)]] += 1
        effects[place[id(cause)]].append(place[id(effect)])
    ready = [number for number, count in enumerate(waits) if count == 0]
    done = [False] * len(arrows)
    found: list[Arrow] = []
    earliest = 0
    while len(found) < len(arrows):
        if not ready:  # a circle, which no real traffic has: the earliest goes first
            while done[earliest]:
                earliest += 1
            ready = [earliest]
        number = heapq.heappop(ready)
        if done[number]:
            continue
        done[number] = True
        found.append(arrows[number])
        for effect_number in effects[number]:
            waits[effect_number] -= 1
            if waits[effect_number] == 0:
                heapq.heappush(ready, effect_number)
    return found


def _corrections(first: Arrow, arrows: Sequence[Arrow], edges: Sequence[Edge]) -> dict[str, int]:
    """Return the microseconds to add to each node's clock so that no effect precedes its cause."""
    least = _bounds(arrows, edges)
    known = {next(iter(first.node_times)): 0}
    waiting = list(known)
    nodes = {node for pair in least for node in pair}
    while waiting:
        reference = waiting.pop(0)
        for node in sorted(nodes - known.keys()):
            low, high = least.get((reference, node)), least.get((node, reference))
            if low is None and high is None:
                continue
            known[node] = known[reference] + _between(low, None if high is None else -high)
            waiting.append(node)
    return {node: correction for node, correction in known.items() if correction}


def _bounds(arrows: Sequence[Arrow], edges: Sequence[Edge]) -> Bounds:
    """Return the least correction of each second node's clock against the first one's."""
    least: Bounds = {}

    def see(node: str, time: int, later_node: str, later: int) -> None:
        if node != later_node:
            pair = (node, later_node)
            least[pair] = max(least.get(pair, time - later), time - later)

    for cause, effect in edges:
        for node, time in cause.node_times.items():
            for later_node, later in effect.node_times.items():
                see(node, time, later_node, later)
    for arrow in arrows:
        if len(arrow.node_times) > 1:
            sent = {record.flow.node for record in arrow.records if record.flow.tag == "snd"}
            received = {record.flow.node for record in arrow.records if record.flow.tag == "rcv"} - sent
            for node in sent:
                for later_node in received:
                    see(node, arrow.node_times[node], later_node, arrow.node_times[later_node])
    return least


def _between(low: int | None, high: int | None) -> int:
    """Return a correction within two bounds: 0 if they allow it, else the middle as in NTP, or the only bound."""
    if (low is None or low <= 0) and (high is None or high >= 0):
        return 0
    if low is not None and high is not None:
        return (low + high) // 2
    return low if low is not None else high or 0

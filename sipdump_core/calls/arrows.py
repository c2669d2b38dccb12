"""Arrows: each message once per hop, however often it was sent and however many nodes saw it.

The topmost Via identifies a hop: every server adds its own to a request and removes it from the reply. A request, its
retransmissions and its replies share it on one hop and have another on the next (RFC 3261, sections 16.6, 16.7 and
17.2.3). Two records are one arrow if Via, CSeq, tags and addresses are the same.
"""

from collections.abc import Iterable, Sequence

from sipdump_core.calls.message import Message, Via
from sipdump_core.record import Flow, Record

__all__ = ["DUPLICATE_US", "Arrow", "Sighting", "TransactionKey", "address", "fold", "party"]

DUPLICATE_US = 10_000
"""Bytes that the same node sees again on the same hop within this time were stored twice, not sent twice: the first
retransmission comes after T1, 500 ms (RFC 3261, section 17.1.1.1)."""

TransactionKey = tuple[str, int | None, str | None]
"""Key of the topmost Via, CSeq's number and method. ACK and CANCEL are transactions of their own."""

Sighting = tuple[Record, Message]
Endpoint = tuple[str, int]


class Arrow:
    """One message on one hop."""

    __slots__ = (
        "copies", "dst", "key", "message", "node_times", "nodes", "parent", "records", "src", "time_us", "times",
    )  # fmt: skip

    message: Message
    records: Sequence[Record]
    """Its records in order of time: one from each node that saw it, for each transmission."""
    src: str
    """Where it was sent from, as ``192.0.2.1:5060``."""
    dst: str
    """Where it was sent to."""
    time_us: int
    """When it was first sent, in microseconds since the epoch: the first sighting, corrected if the clocks of nodes
    contradict each other."""
    times: list[int]
    """When it was sent each time; the first one is ``time_us``."""
    copies: int
    """How often it was sent: 1, and one more for each retransmission."""
    nodes: list[str]
    """The nodes that saw it, the sender's first."""
    node_times: dict[str, int]
    """When each node first saw it, by its own clock."""
    key: TransactionKey
    """Its transaction."""
    parent: TransactionKey | None
    """The transaction that it continues, on the previous hop; None if the message has only one Via."""

    def __init__(self, sightings: Sequence[Sighting], endpoints: "_Endpoints") -> None:
        flow = sightings[0][0].flow
        self.message = message = sightings[0][1]
        self.key, self.parent = _keys(message)
        if len(sightings) == 1:
            time_us = sightings[0][0].time_us
            self.records = [sightings[0][0]]
            self.times = [time_us]
            self.node_times, self.nodes = {flow.node: time_us}, [flow.node]
            self.src = endpoints.named(flow.src_ip, flow.src_port)
            self.dst = endpoints.named(flow.dst_ip, flow.dst_port)
        else:
            self.records = [record for record, _ in sightings]
            self.times = [self.records[0].time_us, *_transmissions(sightings)[1:]]
            self.node_times = {}
            for record in self.records:
                self.node_times.setdefault(record.flow.node, record.time_us)
            sent = [record.flow.node for record in self.records if record.flow.tag == "snd"]
            self.nodes = list(dict.fromkeys((*sent, *self.node_times)))
            sender = _seen_as("snd", sightings) or flow
            receiver = _seen_as("rcv", sightings) or flow
            self.src = endpoints.named(sender.src_ip, sender.src_port)
            self.dst = endpoints.named(receiver.dst_ip, receiver.dst_port)
        self.time_us = self.times[0]
        self.copies = len(self.times)

    def __repr__(self) -> str:
        return f"<Arrow {self.message.label!r} {self.src} -> {self.dst}>"

    def shift(self, corrections: dict[str, int]) -> None:
        """Correct its times by adding to each node's clock, in microseconds."""
        first = min(time + corrections.get(node, 0) for node, time in self.node_times.items())
        self.times = [time - self.time_us + first for time in self.times]
        self.time_us = first


def fold(sightings: Iterable[Sighting]) -> list[Arrow]:
    """Return the arrows of one Call-ID's messages, in order of their stored times."""
    groups: dict[tuple[object, object], list[Sighting]] = {}
    by_time = sorted(sightings, key=_time)
    for sighting in by_time:
        flow = sighting[0].flow
        ends = (flow.src_ip, flow.src_port, flow.dst_ip, flow.dst_port) if flow.proto == "udp" else _hosts(flow)
        groups.setdefault((ends, _identity(sighting[1])), []).append(sighting)
    found = list(groups.values())
    nodes = {record.flow.node for record, _ in by_time}
    if len(nodes) > 1:
        found = _across_nat(groups)
    endpoints = _Endpoints(found)
    arrows = [Arrow(group, endpoints) for group in found]
    arrows.sort(key=lambda arrow: arrow.time_us)
    return arrows


def address(ip: str, port: int) -> str:
    """Return address and port as text, as ``192.0.2.1:5060`` and ``[2001:db8::1]:5060``."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


class _Endpoints:
    """Names the ends of arrows, so that a server stays one participant whatever ports its connections use.

    One side of a connection may see an ephemeral port where the other sees the listening port. If ``sent-by`` in the
    topmost Via has the address that the request came from, or its reply went to, its port is the listening one.
    """

    def __init__(self, groups: Iterable[Sequence[Sighting]]) -> None:
        self._same: dict[Endpoint, Endpoint] = {}
        self._names: dict[Endpoint, str] = {}
        for group in groups:
            record, message = group[0]
            flow = record.flow
            if flow.proto == "udp":
                continue
            source, target = (flow.src_ip, flow.src_port), (flow.dst_ip, flow.dst_port)
            if len(group) > 1:
                sender, receiver = _seen_as("snd", group) or flow, _seen_as("rcv", group) or flow
                source, target = (sender.src_ip, sender.src_port), (receiver.dst_ip, receiver.dst_port)
            via = message.via  # who sent the request, and gets its replies
            if via.port and via.host == (source[0] if message.status is None else target[0]):
                if message.status is None:
                    source = (via.host, via.port)
                else:
                    target = (via.host, via.port)
            for record, _ in group:
                seen = record.flow
                if seen.src_port != source[1] or seen.dst_port != target[1]:
                    self._join((seen.src_ip, seen.src_port), source)
                    self._join((seen.dst_ip, seen.dst_port), target)

    def named(self, ip: str, port: int) -> str:
        """Return the name of an end, as :func:`address` makes it."""
        end = (ip, port)
        name = self._names.get(end)
        if name is None:
            name = self._names[end] = address(*self._same.get(end, end))
        return name

    def _join(self, seen: Endpoint, known: Endpoint) -> None:
        if seen != known and seen[0] == known[0] and known not in self._same:
            self._same.setdefault(seen, known)


def _time(sighting: Sighting) -> tuple[int, str]:
    """Order by time; the node decides between equal ones, so that the order of records makes no difference."""
    return sighting[0].time_us, sighting[0].flow.node


def _hosts(flow: Flow) -> tuple[str, str]:
    return flow.src_ip, flow.dst_ip


def _identity(message: Message) -> object:
    """Return what a message and its retransmissions have in common on one hop."""
    via, to_tag = message.via, message.to.tag
    status = message.status
    if status is not None:
        identity = (status, message.cseq, message.cseq_method, via.key, to_tag)
        if 100 < status < 200:  # provisional replies with one status may differ (RFC 3262)
            return *identity, message.header("rseq"), message.buf[message.head_end :]
        return identity
    if message.method is None:
        return message.buf
    identity_of_request = (message.method, message.cseq, via.key, to_tag)
    if via.unique:
        return identity_of_request
    return *identity_of_request, message.request_uri, message.from_.tag  # RFC 2543, see RFC 3261, section 17.2.3


def _keys(message: Message) -> tuple[TransactionKey, TransactionKey | None]:
    vias = message.vias
    number = message.cseq
    method = "ACK" if message.method == "ACK" else message.cseq_method
    key = (_hop_key(vias[0], message) if vias else "", number, method)
    return key, (_hop_key(vias[1], message), number, method) if len(vias) > 1 else None


def _hop_key(via: Via, message: Message) -> str:
    if via.unique:
        return via.key
    return f"{via.key} {party(message)}"  # RFC 2543: both sides may use one CSeq


def party(message: Message) -> str:
    """Return who sent a request, or the request that a reply answers: the From-tag, else the URI (RFC 2543)."""
    return message.from_.tag or message.from_.uri


def _seen_as(tag: str, sightings: Sequence[Sighting]) -> Flow | None:
    return next((record.flow for record, _ in sightings if record.flow.tag == tag), None)


def _transmissions(sightings: Sequence[Sighting]) -> list[int]:
    """Return when a message was sent each time, as the observer that saw it most often has it."""
    seen: dict[tuple[str, str], list[int]] = {}
    last: dict[tuple[str, str], tuple[int, bytes]] = {}
    for record, _ in sightings:
        observer = (record.flow.node, record.flow.tag)
        before = last.get(observer)
        if before is None or record.time_us - before[0] > DUPLICATE_US or record.buf != before[1]:
            seen.setdefault(observer, []).append(record.time_us)
        last[observer] = record.time_us, record.buf
    return max(seen.values(), key=len)


def _across_nat(groups: dict[tuple[object, object], list[Sighting]]) -> list[list[Sighting]]:
    """Join what one node sent and another received under translated addresses (NAT).

    What a load balancer without a Via of its own passed on is two hops, and stays two arrows.
    """
    alike: dict[object, list[list[Sighting]]] = {}
    for (_, identity), group in groups.items():
        alike.setdefault(identity, []).append(group)
    found: list[list[Sighting]] = []
    for same in alike.values():
        if len(same) == 2 and (joined := _joined(*same)):
            found.append(joined)
        else:
            found += same
    return found


def _joined(one: list[Sighting], other: list[Sighting]) -> list[Sighting] | None:
    tags = [{record.flow.tag for record, _ in group} for group in (one, other)]
    if tags == [{"rcv"}, {"snd"}]:
        one, other = other, one
    elif tags != [{"snd"}, {"rcv"}]:
        return None
    sent, received = one[0][0].flow, other[0][0].flow
    if sent.node == received.node or sent.dst_ip == received.src_ip or sent.src_ip == received.dst_ip:
        return None
    return sorted(one + other, key=_time)

"""Arrows: each message once a hop, however often it was sent there and however many nodes saw it.

A hop's messages are known by the topmost Via, which every server on the way puts on and takes off again: a request, its
retransmissions and its replies have the same one on one hop, and another one on the next (RFC 3261, sections 16.6, 16.7
and 17.2.3). So two records are one arrow where Via, CSeq, tags and addresses are the same.
"""

from collections.abc import Iterable, Sequence

from sipdump_core.calls.message import Message, Via
from sipdump_core.record import Flow, Record

__all__ = ["DUPLICATE_US", "Arrow", "Sighting", "TransactionKey", "address", "fold", "party"]

DUPLICATE_US = 10_000
"""The same bytes seen again on the same hop by the same node within this time were stored twice, not sent twice: the
first retransmission comes after T1, 500 ms (RFC 3261, section 17.1.1.1)."""

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
    """What was stored of it, in order of time: by each node that saw it, and each retransmission."""
    src: str
    """Where it was sent from, as ``192.0.2.1:5060``."""
    dst: str
    """Where it was sent to."""
    time_us: int
    """When it was first sent, in microseconds since the epoch: the first sighting, corrected where the clocks of nodes
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
    """The transaction that it continues: that of the hop before; None where the message has one Via only."""

    def __init__(self, sightings: Sequence[Sighting], endpoints: "_Endpoints") -> None:
        flow = sightings[0][0].flow
        self.message = message = sightings[0][1]
        self.key, self.parent = _keys(message)
        if len(sightings) == 1:
            time_us = sightings[0][0].time_us
            self.records = [sightings[0][0]]
            self.times = [time_us]
            self.node_times = {flow.node: time_us}
            self.src, self.dst = (
                endpoints.named(flow.src_ip, flow.src_port),
                endpoints.named(flow.dst_ip, flow.dst_port),
            )
        else:
            self.records = [record for record, _ in sightings]
            self.times = _transmissions(sightings)
            self.node_times = {}
            for record in self.records:
                self.node_times.setdefault(record.flow.node, record.time_us)
            sender = _seen_as("snd", sightings) or flow
            receiver = _seen_as("rcv", sightings) or flow
            self.src = endpoints.named(sender.src_ip, sender.src_port)
            self.dst = endpoints.named(receiver.dst_ip, receiver.dst_port)
        self.time_us = self.times[0]
        self.copies = len(self.times)
        self.nodes = list(self.node_times)

    def __repr__(self) -> str:
        return f"<Arrow {self.message.label!r} {self.src} -> {self.dst}>"

    @property
    def src_ip(self) -> str:
        """The address that it was sent from, without its port."""
        return self.src.rpartition(":")[0]

    @property
    def dst_ip(self) -> str:
        """The address that it was sent to, without its port."""
        return self.dst.rpartition(":")[0]

    def shift(self, corrections: dict[str, int]) -> None:
        """Correct its times by what is to be added to each node's clock, in microseconds."""
        first = min(time + corrections.get(node, 0) for node, time in self.node_times.items())
        self.times = [time - self.time_us + first for time in self.times]
        self.time_us = first


def fold(sightings: Iterable[Sighting]) -> list[Arrow]:
    """Return the arrows of one Call-ID's messages, in order of their stored times."""
    groups: dict[object, list[Sighting]] = {}
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
    """Names the ends of arrows, so that a server is one participant whatever ports its connections have.

    Of a connection, one side may see an ephemeral port where the other sees the port that is listened on. The topmost
    Via of a request says which that is, where its ``sent-by`` has the address that the request came from.
    """

    def __init__(self, groups: Iterable[Sequence[Sighting]]) -> None:
        self._same: dict[Endpoint, Endpoint] = {}
        self._names: dict[Endpoint, str] = {}
        for group in groups:
            flow = group[0][0].flow
            if flow.proto == "udp":
                continue
            message = group[0][1]
            sender, receiver = _seen_as("snd", group) or flow, _seen_as("rcv", group) or flow
            source, target = (sender.src_ip, sender.src_port), (receiver.dst_ip, receiver.dst_port)
            via = message.via
            if message.status is None and via.host == source[0] and via.port:
                source = (via.host, via.port)
            for record, _ in group:
                seen = record.flow
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


def _time(sighting: Sighting) -> int:
    return sighting[0].time_us


def _hosts(flow: Flow) -> tuple[str, str]:
    return flow.src_ip, flow.dst_ip


def _identity(message: Message) -> object:
    """Return what a message and its retransmissions have in common on one hop."""
    via, to_tag = message.via, message.to.tag
    status = message.status
    if status is not None:
        identity = (status, message.cseq, message.cseq_method, via.key, to_tag)
        if 100 < status < 200:  # several provisional replies of one status may say different things (RFC 3262)
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
    return f"{via.key} {party(message)}"  # RFC 2543: else both sides' requests of one CSeq would be one transaction


def party(message: Message) -> str:
    """Return what tells who sent a request, or whose request a reply answers: the From-tag, else the URI (RFC 2543)."""
    return message.from_.tag or message.from_.uri


def _seen_as(tag: str, sightings: Sequence[Sighting]) -> Flow | None:
    return next((record.flow for record, _ in sightings if record.flow.tag == tag), None)


def _transmissions(sightings: Sequence[Sighting]) -> list[int]:
    """Return when a message was sent: each observer's sightings are counted, the one that saw most is right."""
    seen: dict[tuple[str, str], list[int]] = {}
    last: dict[tuple[str, str], tuple[int, bytes]] = {}
    for record, _ in sightings:
        observer = (record.flow.node, record.flow.tag)
        before = last.get(observer)
        if before is None or record.time_us - before[0] > DUPLICATE_US or record.buf != before[1]:
            seen.setdefault(observer, []).append(record.time_us)
        last[observer] = record.time_us, record.buf
    return max(seen.values(), key=len)


def _across_nat(groups: dict[object, list[Sighting]]) -> list[list[Sighting]]:
    """Join what one node sent and another one received under other addresses, because they were translated between.

    What a server without a Via of its own passed on (a load balancer) is two hops: it stays two arrows.
    """
    alike: dict[object, list[list[Sighting]]] = {}
    for (_, identity), group in groups.items():  # type: ignore[misc]  # keys are pairs
        alike.setdefault(identity, []).append(group)  # type: ignore[has-type]
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

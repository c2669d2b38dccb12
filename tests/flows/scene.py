"""Builds the records of a call flow: messages on their way over hosts, as the hosts that are watched store them.

Time is simple, so that answers can be worked out by hand: a message takes a millisecond a hop, and a host none.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count, pairwise
from typing import Any, NamedTuple

import attrs

from sipdump_core.record import Record

__all__ = ["LINK_US", "Flow", "Host", "Request", "Scene", "Sent", "answer", "sdp"]

LINK_US = 1000
START_US = int(datetime.fromisoformat("2026-11-22T10:32:00+00:00").timestamp()) * 1_000_000
PARTS = {"call_id": "flow@192.0.2.10"}


class Host(NamedTuple):
    """Something with an address that sends and receives."""

    ip: str
    port: int = 5060

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


class Flow(NamedTuple):
    """A call flow with its answer."""

    name: str
    source: str
    """Where it is described."""
    records: Sequence[Record]
    """In order of their times."""
    answers: Mapping[str, Mapping[str, Any]]
    """The JSON of each Call-ID, worked out by hand."""
    now_us: int | None = None
    """The time that ages are counted to; None: that of the newest record."""
    headers: Sequence[str] = ()
    """Headers that the operator names for legs."""
    heuristic: bool = False
    clocks: Mapping[str, int] = {}
    """How far the clocks of nodes are ahead, in microseconds."""
    of_nodes: bool = False
    """Whether its answer can only be worked out if it is known which node saw what."""


@attrs.frozen
class Request:
    """A request that was sent."""

    method: str
    cseq: int
    path: Sequence[Host]
    vias: Sequence[str]
    """One a hop, in the order of the path."""
    head: str
    """From, To, Call-ID as they are in the request."""
    to: str
    lines: Sequence[bytes]
    """The message on each hop."""


@attrs.frozen
class Sent:
    """A reply that was sent."""

    path: Sequence[Host]
    lines: Sequence[bytes]


def sdp(ip: str, port: int, *codecs: str, mode: str = "sendrecv") -> str:
    """Return a session description of one audio stream."""
    types = {"PCMU": 0, "PCMA": 8, "opus": 96, "telephone-event": 101}
    formats = " ".join(str(types[codec]) for codec in codecs)
    maps = "".join(
        f"a=rtpmap:{types[codec]} {codec}/{48000 if codec == 'opus' else 8000}{'/2' if codec == 'opus' else ''}\r\n"
        for codec in codecs
    )
    return (
        f"v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP {formats}\r\n"
        f"{maps}a={mode}\r\n"
    )


class Scene:
    """The messages of one Call-ID.

    Args:
        watched: the hosts that store what they send and receive, with their nodes' names.
        call_id: the Call-ID.
        caller, callee: users, as in ``sip:alice@example.com``.
        skew_us: by how much nodes' clocks are ahead.
        proto: the transport.
    """

    def __init__(
        self,
        watched: Mapping[Host, str],
        call_id: str = PARTS["call_id"],
        *,
        caller: str = "alice",
        callee: str = "bob",
        skew_us: Mapping[str, int] | None = None,
        proto: str = "udp",
    ) -> None:
        self.call_id = call_id
        self.caller = caller
        self.callee = callee
        self.proto = proto
        self.ports: dict[tuple[Host, Host], int] = {}
        """The ephemeral port of the first host's connection to the second, as the one who receives sees it."""
        self.now = START_US
        self.records: list[Record] = []
        self._watched = watched
        self._skew = skew_us or {}
        self._branches = count(1)

    def at(self, milliseconds: float) -> "Scene":
        """Set the time, in milliseconds since 10:32:00; what is sent next leaves its sender then."""
        self.now = START_US + round(milliseconds * 1000)
        return self

    def request(
        self,
        method: str,
        *path: Host,
        cseq: int = 1,
        to_tag: str | None = None,
        from_tag: str = "a1",
        by_callee: bool = False,
        uri: str | None = None,
        headers: Sequence[str] = (),
        body: str = "",
        content_type: str = "application/sdp",
        below: Request | None = None,
        branch: str = "z9hG4bK",
        lost_after: int | None = None,
    ) -> Request:
        """Send a request along a path.

        Args:
            to_tag: that of the other side, once there is a dialog.
            from_tag: that of the sender.
            by_callee: whether From and To change places.
            below: the request that it continues: another branch of a fork, from where that one is.
            branch: what branches begin with; empty: no branch at all (RFC 2543).
            lost_after: the number of hops after which nobody stores it any more.
        """
        sender, target = (self.callee, self.caller) if by_callee else (self.caller, self.callee)
        from_ = f"<sip:{sender}@example.com>" + (f";tag={from_tag}" if from_tag else "")
        to = f"<sip:{target}@example.com>"
        head = f"From: {from_}\r\n"
        vias = list(below.vias) if below else []
        start = f"{method} {uri or f'sip:{target}@example.com'} SIP/2.0\r\n"
        kept = f"Call-ID: {self.call_id}\r\nCSeq: {cseq} {method}\r\n"
        to_line = f"To: {to}" + (f";tag={to_tag}" if to_tag else "") + "\r\n"
        more = "".join(f"{header}\r\n" for header in headers)
        if method in ("INVITE", "SUBSCRIBE", "REFER", "UPDATE"):
            more = f"Contact: <sip:{sender}@{path[0]}>\r\n{more}"
        if body:
            more += f"Content-Type: {content_type}\r\n"
        more += f"Content-Length: {len(body)}\r\n\r\n{body}"
        lines = []
        for number, (src, dst) in enumerate(pairwise(path)):
            vias.append(self._via(src, branch))
            forwards = f"Max-Forwards: {71 - len(vias)}\r\n"
            line = (start + _stack(vias) + forwards + head + to_line + kept + more).encode()
            lines.append(line)
            self._hop(src, dst, line, stored=lost_after is None or number < lost_after)
        whole_path = [*below.path, *path[1:]] if below else list(path)
        whole_lines = [*below.lines, *lines] if below else lines
        return Request(method, cseq, whole_path, vias, head, to + (f";tag={to_tag}" if to_tag else ""), whole_lines)

    def hop(self, method: str, request: Request, number: int = 0, to_tag: str | None = None, headers: str = "") -> None:
        """Send what goes one hop with the branch of a request: CANCEL, or ACK of a reply other than 2xx."""
        to = request.to + (f";tag={to_tag}" if to_tag and ";tag=" not in request.to else "")
        start = request.lines[number].split(b"\r\n")[0].split(b" ", 1)[1].decode()
        line = (
            f"{method} {start}\r\n{_stack([request.vias[number]])}Max-Forwards: 70\r\n{request.head}To: {to}\r\n"
            f"Call-ID: {self.call_id}\r\nCSeq: {request.cseq} {method}\r\n{headers}Content-Length: 0\r\n\r\n"
        ).encode()
        self._hop(request.path[number], request.path[number + 1], line)

    def reply(
        self,
        request: Request,
        status: str,
        *,
        to_tag: str | None = "b1",
        at: int | None = None,
        until: int = 0,
        headers: Sequence[str] = (),
        body: str = "",
        method: str | None = None,
        lost_after: int | None = None,
    ) -> Sent:
        """Send a reply back along a request's path.

        Args:
            status: as ``180 Ringing``.
            at: the index in the path of the host that answers; the last one by default.
            until: the index in the path of the host that keeps it.
            method: the method in CSeq, where it is a reply to the CANCEL of the request.
            lost_after: the number of hops after which nobody stores it any more.
        """
        last = len(request.path) - 1 if at is None else at
        to = request.to + (f";tag={to_tag}" if to_tag and ";tag=" not in request.to else "")
        more = "".join(f"{header}\r\n" for header in headers)
        if status[0] == "2" and request.method == "INVITE" and not method:
            more = f"Contact: <sip:{self.callee}@{request.path[last]}>\r\n{more}"
        if body:
            more += "Content-Type: application/sdp\r\n"
        lines = []
        for number, hop in enumerate(range(last, until, -1)):
            line = (
                f"SIP/2.0 {status}\r\n{_stack(request.vias[:hop])}{request.head}To: {to}\r\nCall-ID: {self.call_id}\r\n"
                f"CSeq: {request.cseq} {method or request.method}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
            lines.append(line)
            self._hop(request.path[hop], request.path[hop - 1], line, stored=lost_after is None or number < lost_after)
        return Sent([*reversed(request.path[until : last + 1])], lines)

    def again(self, sent: Request | Sent, hop: int = 0) -> None:
        """Send a message again on one hop, as it was."""
        self._hop(sent.path[hop], sent.path[hop + 1], sent.lines[hop])

    def done(self) -> list[Record]:
        """Return the records in order of their times."""
        return sorted(self.records, key=lambda record: record.time_us)

    def _via(self, src: Host, branch: str) -> str:
        number = next(self._branches)
        value = f"SIP/2.0/{self.proto.upper()} {src}"
        return value + (f";branch={branch}{number:02}{self.call_id[:4]}" if branch else "")

    def _hop(self, src: Host, dst: Host, line: bytes, stored: bool = True) -> None:
        if stored and src in self._watched:
            self._store("snd", self._watched[src], src, dst, line)
        self.now += LINK_US
        if stored and dst in self._watched:
            self._store("rcv", self._watched[dst], src, dst, line)

    def _store(self, tag: str, node: str, src: Host, dst: Host, line: bytes) -> None:
        src_port, dst_port = src.port, dst.port
        if tag == "rcv":  # it knows the ports of the connection; a sender names those of Via and URI
            src_port, dst_port = self.ports.get((src, dst), src_port), self.ports.get((dst, src), dst_port)
        record = Record.of(
            line, time_us=self.now + self._skew.get(node, 0), tag=tag, pid=2738, procno=2, proto=self.proto,
            af="ipv6" if ":" in src.ip else "ipv4", src_ip=src.ip, src_port=src_port, dst_ip=dst.ip,
            dst_port=dst_port, node=node,
        )  # fmt: skip
        self.records.append(record)


def answer(**fields: Any) -> dict[str, Any]:
    """Return the JSON of a call between alice and bob, with what is given changed."""
    usual: dict[str, Any] = {
        "call_id": PARTS["call_id"], "kind": "call", "began": None, "ended": None, "state": "ended", "status": None,
        "reason": None, "warning": None, "release": [], "from_user": "alice", "from_uri": "sip:alice@example.com",
        "to_user": "bob", "to_uri": "sip:bob@example.com", "request_uri": "sip:bob@example.com", "src": None,
        "dst": None, "hops": [], "nodes": [], "messages": 0, "retransmissions": 0, "post_dial_delay": None,
        "setup_time": None, "duration": None, "ended_by": None, "codecs": [], "media": [], "legs": [], "gaps": [],
    }  # fmt: skip
    assert fields.keys() <= usual.keys()
    usual.update(fields)
    for key in ("began", "ended"):
        if usual[key] is not None:
            usual[key] = f"2026-11-22T{usual[key]}Z"
    if usual["hops"]:
        usual["hops"] = [str(host) for host in usual["hops"]]
        usual["src"], usual["dst"] = usual["hops"][0], usual["hops"][-1]
    return usual


def _stack(vias: Sequence[str]) -> str:
    return "".join(f"Via: {via}\r\n" for via in reversed(vias))

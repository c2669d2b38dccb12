"""Whether a HEP sender sent or received a message: HEP does not say it.

In most cases the addresses tell: one of the two is the sender's own. Where both are (everything runs on one host) or
neither is, the endpoints and the messages tell: what talks to several others is the server, not its client; a request
whose top Via names the sender was sent by it, and a response with such a Via came back to it; a relayed request carries
the Via of the one that was received; a response goes the other way than its request.
"""

import socket
from collections.abc import Callable, Iterable

import attrs

from sipdump_core.cache import Cache, Weighed
from sipdump_core.net.address import canonical_ip
from sipdump_core.sources.top_via import Via, is_reply, top_via

__all__ = ["Direction", "Endpoint", "Local", "Question", "Sender"]

Endpoint = tuple[str, int]
"""An address in canonical form, empty where it is not known, and a port."""
Sender = tuple[str, int, str]
"""A HEP sender: its address and port, and the capture node."""

_EPHEMERAL = 32768
"""From here up Linux takes the ports of connections that a program opens (ip(7), ip_local_port_range)."""
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - what a server reports that is bound to all addresses
_SETTLED = 8
_ATTENTION = 1000
_ENTRY = 200
"""Bytes that an entry of what is remembered takes without its key, rather more."""
_LONGEST_ADDRESS = 45  # inet(3): INET6_ADDRSTRLEN


@attrs.define
class Question:
    """What is asked of a flow's messages where its addresses do not tell, or where these messages tell more."""

    sender: Sender
    src: Endpoint
    dst: Endpoint
    shared: bool
    """Both addresses are the sender's own; else neither is."""
    datagrams: bool
    """Ports stay the same, as they do over UDP; a stream's is a new one for each connection that is opened."""
    known: str = ""
    """The tag, where the addresses tell: the requests are noted, as they may be relayed where addresses do not."""
    settled: bool = False
    """Whether it need not be asked any more: of two endpoints the same one stays the sender's."""
    _tag: str = ""
    _streak: int = 0

    def note(self, tag: str, *, attention: bool = False) -> None:
        """Note an answer; with attention, that more are wanted."""
        self._streak = self._streak + 1 if tag == self._tag else 1
        self._tag = tag
        self.settled = self._streak >= _SETTLED and not attention


class Local:
    """What counts as any HEP sender's own, and which addresses are this machine's.

    Args:
        local: endpoints that are the HEP senders' own; with port 0, whatever the port.
    """

    def __init__(self, local: Iterable[Endpoint]) -> None:
        given = set(local)
        self.hosts = {*_WILDCARDS, *(host for host, port in given if not port)}
        self.endpoints = {endpoint for endpoint in given if endpoint[1]}
        self._ours: Cache[str, bool] = Cache(1000)

    def owns(self, peer: str, host: str) -> bool:
        """Return whether an address is that of the HEP sender at ``peer``."""
        if host == peer or host in self.hosts or _is_loopback(host):
            return True
        return self.is_ours(host) and self.is_ours(peer)  # what runs on this machine has all its addresses

    def is_ours(self, host: str) -> bool:
        """Return whether an address is one of this machine's; a name, as a Via may have, is not."""
        known = self._ours.get(host)
        if known is None:
            known = is_ours(host) if _is_address(host) else False
            if len(host) <= _LONGEST_ADDRESS:
                self._ours.keep(host, known)
        return known


class Direction:
    """Finds out who sent what of one HEP peer, and remembers what that needs, in bounded memory.

    Args:
        local: what counts as any sender's own.
        learned: called when something was learned that earlier answers may contradict.
        charge: told by how many bytes what is remembered has grown, or shrunk.
    """

    def __init__(self, local: Local, learned: Callable[[], None], charge: Callable[[int], None]) -> None:
        self._local = local
        self._learned = learned
        self._own: Weighed[tuple[Sender, Endpoint], bool] = Weighed(charge, _ENTRY)
        """Endpoints that are certain to be their sender's."""
        self._guesses: Weighed[Sender, bool] = Weighed(charge, _ENTRY)
        """Senders with answers that rest on less."""
        self._partners: Weighed[tuple[Sender, Endpoint], Endpoint] = Weighed(charge, _ENTRY)
        """The first endpoint that another one was seen to talk to."""
        self._hubs: Weighed[tuple[Sender, Endpoint], bool] = Weighed(charge, _ENTRY)
        """Endpoints that talk to several others."""
        self._ends: Weighed[tuple[Sender, Endpoint, Endpoint], Endpoint] = Weighed(charge, _ENTRY)
        """Of two endpoints the sender's own."""
        self._requests: Weighed[tuple[Sender, bytes], str] = Weighed(charge, _ENTRY, 50_000)
        """The tags of requests, by the branch of their top Via."""
        self._attention: Weighed[Sender, int] = Weighed(charge, _ENTRY)
        """Senders with a message that nothing has told of, and how many of their requests are yet to be noted."""

    def of_flow(self, sender: Sender, src: Endpoint, dst: Endpoint, *, datagrams: bool) -> str | Question:
        """Return ``snd`` or ``rcv``, or what is to be asked of each message."""
        host, port, _ = sender
        owns_src, owns_dst = self._local.owns(host, src[0]), self._local.owns(host, dst[0])
        if (owns_src and src[1] == port) or (owns_dst and dst[1] == port):  # HEP comes from the socket for SIP
            self._learn(sender, (host, port))
        shared = owns_src and owns_dst
        # on one host, the kernel chooses the address that HEP comes from by that of the daemon
        near = "" if shared and (_is_loopback(host) or self._local.is_ours(host)) else host
        steps = (
            (src in self._local.endpoints, dst in self._local.endpoints),
            (src[0] in _WILDCARDS, dst[0] in _WILDCARDS),
            (owns_src and src[1] == port, owns_dst and dst[1] == port),
            (src[0] == near or src[0] in self._local.hosts, dst[0] == near or dst[0] in self._local.hosts),
            (owns_src, owns_dst),
            (src[1] == port, dst[1] == port),
        )
        for of_src, of_dst in steps:
            if of_src != of_dst:
                own = src if of_src else dst
                if datagrams or own[1] < _EPHEMERAL:
                    self._learn(sender, own)
                tag = "snd" if of_src else "rcv"
                return Question(sender, src, dst, shared, datagrams, tag) if shared else tag
        of_src, of_dst = self._is_own(sender, src), self._is_own(sender, dst)
        if of_src == of_dst and shared and datagrams and src != dst:
            self._note_partners(sender, src, dst)
            of_src, of_dst = (sender, src) in self._hubs, (sender, dst) in self._hubs
            self._guesses.keep(sender, True)
        if of_src != of_dst:
            tag = "snd" if of_src else "rcv"
            return Question(sender, src, dst, shared, datagrams, tag) if shared else tag
        return Question(sender, src, dst, shared, datagrams)

    def of_message(self, question: Question, buf: bytes) -> str:
        """Return ``snd`` or ``rcv``; an empty text where the message does not tell either."""
        sender, src, dst = question.sender, question.src, question.dst
        via, reply = top_via(buf), is_reply(buf)
        if question.known:
            left = self._attention.get(sender, 0)
            if left:
                self._attention.keep(sender, left - 1)
            question.note(question.known, attention=left > 0)
            self._note_request(sender, via, question.known, reply=reply)
            return question.known
        self._guesses.keep(sender, True)
        if self._is_own(sender, src) and self._is_own(sender, dst):
            return self._to_itself(sender, via, buf)
        tag = self._of_shared(question, via, reply=reply) if question.shared else self._of_others(question, via, reply)
        question.note(tag)
        if tag:
            self._ends.keep(_pair(sender, src, dst), src if tag == "snd" else dst)
            self._note_request(sender, via, tag, reply=reply)
        return tag

    def _note_request(self, sender: Sender, via: Via | None, tag: str, *, reply: bool) -> None:
        if via and via.branch and not reply:
            self._requests.keep((sender, via.branch), tag)

    def _of_others(self, question: Question, via: Via | None, reply: bool) -> str:
        """Return the tag where neither address is the sender's: only a Via of its own tells that one of them is."""
        sender, src, dst = question.sender, question.src, question.dst
        if via and (self._is_own(sender, via.sent_by) or self._local.owns(sender[0], via.sent_by[0])):
            own = dst if reply else src
            if question.datagrams or own[1] < _EPHEMERAL:
                self._learn(sender, own)
        else:
            known = self._ends.get(_pair(sender, src, dst))
            if known is None:
                return ""
            own = known
        return "snd" if own == src else "rcv"

    def _of_shared(self, question: Question, via: Via | None, *, reply: bool) -> str:
        sender, src, dst = question.sender, question.src, question.dst
        if via:
            if self._is_own(sender, via.sent_by) or (sender, via.sent_by) in self._hubs:
                return "rcv" if reply else "snd"
            of_request = self._requests.get((sender, via.branch))
            if not of_request and (before := self._requests.get((sender, via.next_branch))):
                if before == "rcv":  # it was relayed by the sender; what the sender has sent, by another one
                    self._learn(sender, via.sent_by)
                of_request = "snd" if before == "rcv" else "rcv"
            if of_request:
                return of_request if not reply else "rcv" if of_request == "snd" else "snd"
        own = self._ends.get(_pair(sender, src, dst))
        if own:
            return "snd" if own == src else "rcv"
        if not self._attention.get(sender):  # it may have been relayed from where the addresses told
            self._attention.keep(sender, _ATTENTION)
            self._learned()
        # what is seen first of a transaction is, as a rule, what another one has sent
        return "rcv" if via and not reply else ""

    def _to_itself(self, sender: Sender, via: Via | None, buf: bytes) -> str:
        """Return the tag of what a server sends to itself, and reports twice."""
        line = buf[:100].partition(b"\r")[0]
        key = (sender, line + b"\n" + (via.branch if via else b""))
        return self._requests.keep(key, "rcv" if self._requests.get(key) == "snd" else "snd")

    def _note_partners(self, sender: Sender, src: Endpoint, dst: Endpoint) -> None:
        for one, other in ((src, dst), (dst, src)):
            if self._is_own(sender, other):  # a server may have several endpoints, and a peer may talk to all
                continue
            known = self._partners.get((sender, one))
            if known is None or self._is_own(sender, known):
                self._partners.keep((sender, one), other)
            elif known != other and (sender, one) not in self._hubs:
                self._hubs.keep((sender, one), True)
                self._revise(sender)

    def _learn(self, sender: Sender, end: Endpoint) -> None:
        if (sender, end) not in self._own:
            self._own.keep((sender, end), True)
            self._revise(sender)

    def _revise(self, sender: Sender) -> None:
        if self._guesses.pop(sender, False):
            self._learned()

    def _is_own(self, sender: Sender, end: Endpoint) -> bool:
        if end in self._local.endpoints or (sender, end) in self._own:
            return True
        wildcard = any((sender, (host, end[1])) in self._own for host in _WILDCARDS)
        return wildcard and self._local.owns(sender[0], end[0])


def _is_loopback(host: str) -> bool:
    return host == "::1" or (host.startswith("127.") and _is_address(host))


def _is_address(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


def is_ours(host: str) -> bool:
    """Return whether an address is one of this machine's: to reach it, the kernel would send from the same address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, 9))  # sends nothing
            return canonical_ip(sock.getsockname()[0])[1] == host
    except (OSError, ValueError):
        return False


def _pair(sender: Sender, one: Endpoint, other: Endpoint) -> tuple[Sender, Endpoint, Endpoint]:
    return (sender, one, other) if one <= other else (sender, other, one)

"""HEP, the Homer encapsulation protocol, versions 1, 2 and 3: from packets to records.

Sources: the HEP3 specification (draft of the SIPCAPTURE project), and what Kamailio, OpenSIPS, Asterisk, FreeSWITCH and
heplify really send.
"""

import hmac
import re
import struct
from collections import Counter
from collections.abc import Sequence
from functools import partial

from sipdump_core.cache import Memory
from sipdump_core.errors import FormatError
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Flow, Record, new_record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.sources.compression import first_bytes, inflate, is_compressed
from sipdump_core.sources.direction import Endpoint, Local, Question
from sipdump_core.sources.hep_addresses import one_family, read_address
from sipdump_core.sources.hep_chunks import (
    AGENT,
    AUTH,
    COMPRESSED,
    CORRELATION,
    DPORT,
    DST4,
    DST6,
    FAMILY,
    FRAME_MAX,
    MAGICS,
    MICROS,
    NODE,
    NUMBERS,
    PAYLOAD,
    PROTO,
    SECONDS,
    SPORT,
    SRC4,
    SRC6,
    TYPE,
    may_have_key,
    read_chunks,
)
from sipdump_core.sources.hep_peers import MICROS_HEAD, PEER_BYTES, Layout, Open, Peer
from sipdump_core.sources.sip_stream import begins_message, is_usual, split_messages
from sipdump_core.sources.top_via import websocket

__all__ = ["FRAME_MAX", "MICROS_END", "HepDecoder", "is_tls"]

_TLS = re.compile(rb"\x16(?:\x03[\x00-\x04]|\xfe[\xfd-\xff])")  # a handshake of TLS or DTLS
_MAX_AGENTS = 1000
_MAX_TEXT = 200
_MAX_TROUBLED = 10_000
_MAX_FAULTS = 100
_MEMORY = 64 << 20
_FRAME_HEAD = 1024  # of a frame; its key, as senders lay it out, is there
_TYPE_UNKNOWN, _TYPE_SIP = 0, 1
MICROS_END = 1_000_000
_BEGIN = re.compile(rb"[\r\n]*(?:SIP/\d|[\w.!%*+`'~-]+ )", re.IGNORECASE)  # of a message (RFC 3261, token)
_BEGIN_KNOWN = re.compile(
    rb"[\r\n]*(?:SIP/\d|(?:INVITE|ACK|BYE|CANCEL|REGISTER|OPTIONS|PRACK|UPDATE|SUBSCRIBE|NOTIFY|PUBLISH|MESSAGE|INFO"
    rb"|REFER) )"
)
# HEP's numbers for transports: the IP protocol; 6 and 22 (TLS) may be WebSocket from Kamailio, OpenSIPS has 50 and 51
_PROTOS = {17: "udp", 6: "tcp", 132: "sctp", 22: "tls", 50: "ws", 51: "wss"}
_STREAMS = ("tcp", "tls")
_FAMILIES_V6 = (10, 28, 30)  # AF_INET6 on Linux, FreeBSD and macOS
_FAMILIES = (2, *_FAMILIES_V6)


class HepDecoder:
    """Decodes packets, and counts what it meets.

    Args:
        options: the HEP source's options.
        table: where capture agents are listed.
    """

    def __init__(self, options: HepOptions, table: ProcessTable) -> None:
        self.counts: Counter[str] = Counter()
        """Packets by what became of them: ``auth_failed``, ``not_sip``, ``keepalive``. Besides, ``records``;
        ``time_replaced``, packets whose time was missing, impossible or out of the window; ``bad_chunks``, packets with
        an address or a number that cannot be read, and so counts as missing."""
        self.troubles: Counter[tuple[str, str]] = Counter()
        """What should be known of senders, with their addresses: ``auth_failed``, ``time_replaced``, ``tls``; who logs
        them takes them out."""
        self._options = options
        self._key = options.auth_key.encode("utf-8", "surrogateescape")
        self._window = options.time_window * 1_000_000
        self._local = Local(given.value for given in options.local)
        self._table = table
        self._peers: Memory[tuple[str, int], Peer] = Memory(_MEMORY, _MEMORY // 2)
        self._agents: set[tuple[str, ...]] = set()

    def decode(self, data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        """Decode one packet.

        Args:
            data: the packet, whole.
            peer: address and port of its sender.
            now_us: the receive time, microseconds since the epoch.

        Returns:
            The record. None where the packet holds no SIP message or its auth key is wrong; several where the payload
            is a piece of a stream with several messages, or the packet holds several frames.

        Raises:
            FormatError: it is no HEP packet, or a damaged one.
        """
        magic = data[:4]
        if magic not in MAGICS and is_compressed(data):  # heplify's payload_zip: the whole frame is
            if self._key and not self._has_key_inside(data):
                return self._refuse(peer)
            data = inflate(data, max(FRAME_MAX, self._options.max_message))
            magic = data[:4]
        if magic in MAGICS:
            records = self._again(data, peer, now_us) or self._frames(data, peer, now_us)
        elif magic[:1] in (b"\x01", b"\x02"):
            records = self._version12(data, peer, now_us)
        else:
            if is_tls(data):
                self.trouble("tls", peer)
            raise FormatError(f"no HEP packet: it begins with {magic!r}")
        if records:
            self.counts["records"] += len(records)
        return records

    def trouble(self, what: str, peer: tuple[str, int]) -> None:
        """Note what should be known of a sender; not of more than ten thousand, though."""
        if len(self.troubles) < _MAX_TROUBLED:
            self.troubles[what, peer[0]] += 1

    def _again(self, data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        """Decode a packet that differs from an earlier one of its peer in time and payload only; others are none."""
        known_peer = self._peers.get(peer)
        if known_peer is None:
            return ()
        known_peer.used = True
        layout = known_peer.layouts.get(data[12:13])
        if layout is None or len(data) < layout.struct.size:
            return ()
        magic, total, before, seconds, head, micros, after, length = layout.struct.unpack_from(data)
        key = (before, after)
        known = layout.flows.get(key)
        start = layout.struct.size
        if known is None or magic not in MAGICS or total != len(data) or total - start + 6 != length:
            return ()
        if head != MICROS_HEAD:
            return ()
        buf = data[start:]
        if not buf or _is_keepalive(buf):
            return ()
        layout.hits += 1
        time_us = self._time(seconds, micros, peer, now_us)
        return self._ask_known(known_peer, layout, key, time_us, buf)

    def _ask_known(
        self, peer: Peer, layout: Layout, key: tuple[bytes, bytes], time_us: int, buf: bytes
    ) -> Sequence[Record]:
        """Make the records of a payload whose flow a layout has, under this key."""
        flow, link = layout.flows[key]
        if isinstance(flow, Open):
            if flow.question or flow.flow.proto in _STREAMS:
                return self._ask(peer, flow, time_us, buf, link)
            flow = flow.flow
            layout.flows[key] = (flow, link)
        return (new_record(time_us, flow, buf, link),)

    def _ask(self, peer: Peer, flow: Flow | Open, time_us: int, buf: bytes, link: str = "") -> Sequence[Record]:
        """Make the records of a payload that may hold several messages, and ask each for its tag and transport."""
        if isinstance(flow, Flow):
            return (new_record(time_us, flow, buf, link),)
        base = flow.flow
        if base.proto not in _STREAMS or is_usual(buf):
            shown = flow.variant(self._tag(peer, flow, buf), base.proto) if flow.question else base
            return (new_record(time_us, shown, buf, link),)
        return [
            new_record(
                time_us, flow.variant(self._tag(peer, flow, message), websocket(message) or base.proto), message, link
            )
            for message in split_messages(buf)
        ]

    def _tag(self, peer: Peer, flow: Open, message: bytes) -> str:
        if flow.question is None:
            return flow.flow.tag
        tag = peer.direction.of_message(flow.question, message) or self._options.tag
        if flow.question.settled:
            flow.flow, flow.question = flow.variant(tag, flow.flow.proto), None
        return tag

    def forget(self, peer: tuple[str, int]) -> None:
        """Forget what is known of a peer: its connection has ended."""
        self._peers.forget(peer)

    def _meet(self, peer: tuple[str, int]) -> Peer:
        known = self._peers.get(peer)
        if known is None:
            return self._peers.begin(peer, Peer(self._local, partial(self._peers.charge, peer)), PEER_BYTES)
        known.used = True
        return known

    def _has_key_inside(self, data: bytes) -> bool:
        """Return whether the key stands in a compressed frame, after inflating no more of it than must be."""
        return any(may_have_key(first_bytes(data, size), self._key) for size in (_FRAME_HEAD, FRAME_MAX))

    def _frames(self, data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        """Decode a frame and those that follow it; one that is damaged costs the others nothing."""
        total = int.from_bytes(data[4:6], "big")
        if total < 6 or not data.startswith(MAGICS, total):
            return self._version3(data, peer, now_us)
        records: list[Record] = []
        fault: FormatError | None = None
        at, faults = 0, 0
        while data.startswith(MAGICS, at) and faults < _MAX_FAULTS:
            total = int.from_bytes(data[at + 4 : at + 6], "big")
            end = at + total if total >= 6 and data.startswith(MAGICS, at + total) else len(data)
            try:
                records += self._version3(data[at:end], peer, now_us)
            except FormatError as error:
                fault = error
                faults += 1
            at = end
        if fault and not records:
            raise fault
        if faults:
            self.counts["malformed"] += faults
        return records

    def _version3(self, data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        if self._key and not may_have_key(data, self._key):
            return self._refuse(peer)
        chunks = read_chunks(data)
        get = chunks.get
        if self._key and not hmac.compare_digest(get(AUTH, b""), self._key):
            return self._refuse(peer)
        kind = get(TYPE)
        if kind and kind[0] not in (_TYPE_SIP, _TYPE_UNKNOWN):
            self.counts["not_sip"] += 1
            return ()
        buf = get(PAYLOAD)
        if not buf and COMPRESSED in chunks:
            buf = inflate(chunks[COMPRESSED], self._options.max_message)
        if not buf or _is_keepalive(buf):
            self.counts["keepalive"] += 1
            return ()
        if kind == b"\0" and not begins_message(buf):
            self.counts["not_sip"] += 1
            return ()
        key = (
            get(FAMILY), get(PROTO), get(SRC4), get(DST4), get(SRC6), get(DST6),
            get(SPORT), get(DPORT), get(AGENT), get(NODE),
        )  # fmt: skip
        link = _clean(chunks[CORRELATION]) if CORRELATION in chunks else ""
        known = self._meet(peer)
        flow = known.flows.get(key)
        if flow is None:
            flow, whole = self._flow3(chunks, peer, known)
            if not whole:
                self.counts["bad_chunks"] += 1  # each of them, so it is not remembered
                return self._ask(known, flow, self._time3(chunks, peer, now_us), buf, link)
            known.flows.keep(key, flow)
        if buf is get(PAYLOAD) and kind != b"\0" and int.from_bytes(data[4:6], "big") == len(data):
            known.learn(data, chunks, flow, link)
        return self._ask(known, flow, self._time3(chunks, peer, now_us), buf, link)

    def _refuse(self, peer: tuple[str, int]) -> Sequence[Record]:
        self.counts["auth_failed"] += 1
        self.trouble("auth_failed", peer)
        return ()

    def _time3(self, chunks: dict[int, bytes], peer: tuple[str, int], now_us: int) -> int:
        seconds = chunks.get(SECONDS)
        micros = int.from_bytes(chunks.get(MICROS, b""), "big")
        return self._time(int.from_bytes(seconds, "big") if seconds else -1, micros, peer, now_us)

    def _flow3(self, chunks: dict[int, bytes], peer: tuple[str, int], known: Peer) -> tuple[Flow | Open, bool]:
        """Make the flow of a packet; say whether all that it says of it can be read."""
        number = {kind: int.from_bytes(chunks.get(kind, b""), "big") for kind in (FAMILY, PROTO, SPORT, DPORT)}
        v6 = SRC6 in chunks or DST6 in chunks
        v6 = v6 and (number[FAMILY] in _FAMILIES_V6 or not (SRC4 in chunks or DST4 in chunks))
        src, whole_src = _end(chunks, (SRC6, SRC4) if v6 else (SRC4, SRC6))
        dst, whole_dst = _end(chunks, (DST6, DST4) if v6 else (DST4, DST6))
        whole = whole_src and whole_dst and b"" not in map(chunks.get, NUMBERS)
        agent = chunks.get(AGENT)
        name = _clean(chunks.get(NODE, b""))
        agent_id = str(int.from_bytes(agent, "big")) if agent else ""
        ends = (src, number[SPORT]), (dst, number[DPORT])
        return self._flow(peer, known, number[PROTO], *ends, agent_id, name, v6=v6), whole

    def _version12(self, data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        """Versions 1 and 2: fixed headers, in version 2 with a time; no auth key, no type: SIP is meant."""
        if len(data) < 16:
            raise FormatError(f"HEP packet of {len(data)} bytes: too short")
        version, length, family, proto, sport, dport = struct.unpack_from(">BBBBHH", data)
        size = 16 if family in _FAMILIES_V6 else 4
        plain = 8 + 2 * size
        if family not in _FAMILIES or length < plain or len(data) < length:
            raise FormatError(f"HEP version {version} packet with the address family {family} and a header of {length}")
        if self._key:
            return self._refuse(peer)
        seconds, micros, agent, start = -1, 0, "", length
        if version == 2:
            if len(data) < plain + 10:
                raise FormatError("HEP version 2 packet without its time")
            if length < plain + 12:
                start = _start2(data, plain + 10)
            seconds, micros, agent = self._time2(data, plain, now_us)
        buf = data[start:]
        if not buf or _is_keepalive(buf):
            self.counts["keepalive"] += 1
            return ()
        key = (data[2:plain], agent)
        known = self._meet(peer)
        flow = known.flows.get(key)
        if flow is None:
            src, dst = (read_address(data[at : at + size], v6=size == 16) for at in (8, 8 + size))
            flow = self._flow(peer, known, proto, (src, sport), (dst, dport), agent, "", v6=size == 16)
            known.flows.keep(key, flow)
        time_us = now_us if version == 1 else self._time(seconds, micros, peer, now_us)
        return self._ask(known, flow, time_us, buf)

    def _time2(self, data: bytes, at: int, now_us: int) -> tuple[int, int, str]:
        """Read the time and the agent's id of version 2; Kamailio writes them in its host's byte order.

        The right order is the one that makes a possible time or, where both do, the time that is nearer.
        """
        readings = [struct.unpack_from(order + "IIH", data, at) for order in "<>"]
        seconds, micros, agent = min(
            readings, key=lambda one: (one[1] >= MICROS_END, abs(one[0] * 1_000_000 + one[1] - now_us))
        )
        return seconds, micros, str(agent)

    def _flow(
        self,
        peer: tuple[str, int],
        known: Peer,
        number: int,
        src: Endpoint,
        dst: Endpoint,
        agent: str,
        name: str,
        *,
        v6: bool,
    ) -> Flow | Open:
        """Make a flow; of an address that is missing, the unspecified one stands in its place."""
        node = name or agent
        self._list_agent(peer, agent, name)
        proto = _PROTOS.get(number, "none")
        sender = (peer[0].partition("%")[0], peer[1], node)
        tag = known.direction.of_flow(sender, src, dst, datagrams=proto not in _STREAMS)
        question = tag if isinstance(tag, Question) else None
        shown = (tag.known or self._options.tag) if isinstance(tag, Question) else tag
        hosts = one_family(src[0], dst[0], v6=v6)
        af = "ipv6" if ":" in hosts[0] else "ipv4"
        flow = Flow(shown, 0, 0, proto, af, hosts[0], src[1], hosts[1], dst[1], node)
        return Open(flow, question) if question or proto in _STREAMS else flow

    def _list_agent(self, peer: tuple[str, int], agent: str, name: str) -> None:
        who = (peer[0], agent, name)
        if who not in self._agents and len(self._agents) < _MAX_AGENTS:
            self._agents.add(who)
            parts = [
                "HEP agent",
                f"id={agent}" if agent else "",
                f"node={name}" if name else "",
                f"peer={peer[0]}",
            ]
            self._table.enter(0, " ".join(filter(None, parts)))

    def _time(self, seconds: int, micros: int, peer: tuple[str, int], now_us: int) -> int:
        """Return a packet's time in µs; the receive time where it is missing, impossible or out of the window."""
        time_us = seconds * 1_000_000 + micros
        if seconds >= 0 and micros < MICROS_END and (not self._window or abs(time_us - now_us) <= self._window):
            return time_us
        self.counts["time_replaced"] += 1
        self.trouble("time_replaced", peer)
        return now_us


def is_tls(data: bytes) -> bool:
    """Return whether data begins a handshake of TLS or DTLS (RFC 8446, section 5.1; RFC 6347, section 4.1)."""
    return _TLS.match(data) is not None


def _start2(data: bytes, at: int) -> int:
    """Return where the payload of version 2 begins, whose header without padding ends at ``at``.

    Kamailio's header length leaves the time out, and 2 bytes of padding behind it; others do not pad.
    """
    padded = _BEGIN.match(data, at + 2) is not None
    if _BEGIN.match(data, at):  # so do the last letters of a method, and padding that is letters
        padded = padded and _BEGIN_KNOWN.match(data, at + 2) is not None and not _BEGIN_KNOWN.match(data, at)
    elif not padded:
        padded = b"\0" in data[at : at + 2]
    return at + 2 if padded else at


def _end(chunks: dict[int, bytes], kinds: tuple[int, int]) -> tuple[str, bool]:
    """Read an address from the first of these chunks that has one; return it, and whether none was unreadable."""
    address, whole = "", True
    for kind in kinds:
        if not address and kind in chunks:
            address = read_address(chunks[kind], v6=kind in (SRC6, DST6))
            whole = whole and address != ""
    return address, whole


def _is_keepalive(buf: bytes) -> bool:
    """Whether it is only line ends or NULs (RFC 5626, section 3.5.1), which Kamailio's sipdump records neither."""
    return buf[0] in b"\r\n\0" and not buf.strip(b"\r\n\0")


def _clean(raw: bytes) -> str:
    text = raw.strip(b"\0")[: 4 * _MAX_TEXT].decode("utf-8", "replace")  # a character has 4 bytes at most
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_TEXT])

"""HEP, the Homer encapsulation protocol, versions 1, 2 and 3: from packets to records.

Sources: the HEP3 specification (draft of the SIPCAPTURE project), and what Kamailio, OpenSIPS, Asterisk, FreeSWITCH and
heplify really send.
"""

import hmac
import re
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from sipdump_core.cache import Cache
from sipdump_core.errors import FormatError
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Flow, Record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.sources.compression import inflate, is_compressed
from sipdump_core.sources.direction import Direction, Endpoint, Question, Sender
from sipdump_core.sources.hep_addresses import one_family, read_address
from sipdump_core.sources.sip_stream import begins_message, is_usual, split_messages
from sipdump_core.sources.top_via import websocket

__all__ = ["FRAME_MAX", "HepDecoder", "is_tls"]

FRAME_MAX = 65535
"""The longest HEP3 frame, header included: its length is a 16-bit number."""

_MAGICS = (b"HEP3", b"EEP3")
_CHUNK = struct.Struct(">HHH")
_TLS = re.compile(rb"\x16(?:\x03[\x00-\x04]|\xfe[\xfd-\xff])")  # a handshake of TLS or DTLS
_MAX_AGENTS = 10_000
_TYPE_UNKNOWN, _TYPE_SIP = 0, 1
_MICROS_END = 1_000_000
_BEGIN = re.compile(rb"[\r\n]*(?:SIP/\d|[\w.!%*+`'~-]+ )", re.IGNORECASE)  # of a message (RFC 3261, token)
_BEGIN_KNOWN = re.compile(
    rb"[\r\n]*(?:SIP/\d|(?:INVITE|ACK|BYE|CANCEL|REGISTER|OPTIONS|PRACK|UPDATE|SUBSCRIBE|NOTIFY|PUBLISH|MESSAGE|INFO"
    rb"|REFER) )"
)
_TIME_CHUNKS = re.compile(rb"\x00\x00\x00\x09\x00\x0a.{4}\x00\x00\x00\x0a\x00\x0a.{4}", re.DOTALL)
_LEARN_LIMIT = 100
# HEP's numbers for transports: the IP protocol; 6 and 22 (TLS) may be WebSocket from Kamailio, OpenSIPS has 50 and 51
_PROTOS = {17: "udp", 6: "tcp", 132: "sctp", 22: "tls", 50: "ws", 51: "wss"}
_STREAMS = ("tcp", "tls")
_FAMILIES_V6 = (10, 28, 30)  # AF_INET6 on Linux, FreeBSD and macOS
_FAMILIES = (2, *_FAMILIES_V6)

# chunk types of the generic vendor, 0
_FAMILY, _PROTO, _SRC4, _DST4, _SRC6, _DST6, _SPORT, _DPORT, _SECONDS, _MICROS, _TYPE, _AGENT = range(1, 13)
_SIZES = {_FAMILY: 1, _PROTO: 1, _SPORT: 2, _DPORT: 2, _SECONDS: 4, _MICROS: 4, _TYPE: 1, _AGENT: 4}
_KEEPALIVE, _AUTH, _PAYLOAD, _COMPRESSED, _CORRELATION, _VLAN, _NODE = range(13, 20)


@attrs.define
class _Open:
    """What a flow's messages have in common where each of them has a say in its tag, its transport, or both."""

    flow: Flow
    question: Question | None
    """What tells the tag; None where ``flow`` has it."""
    variants: dict[tuple[str, str], Flow] = attrs.field(factory=dict)
    """The flow with another tag or transport."""

    def variant(self, tag: str, proto: str) -> Flow:
        """Return the flow with a tag and a transport; the same for the same ones."""
        if tag == self.flow.tag and proto == self.flow.proto:
            return self.flow
        found = self.variants.get((tag, proto))
        if found is None:
            found = self.variants[tag, proto] = attrs.evolve(self.flow, tag=tag, proto=proto)
        return found


@attrs.define
class _Layout:
    """How all of a peer's packets are laid out: everything but time and payload identifies the flow."""

    struct: struct.Struct
    hits: int
    learned: int
    flows: Cache[tuple[bytes, bytes, bytes], tuple[Flow | _Open, str]] = attrs.field(factory=Cache)
    """Each flow with the correlation id."""


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
        self._direction = Direction([given.value for given in options.local], self._forget)
        self._table = table
        self._flows: Cache[tuple[Any, ...], Flow | _Open] = Cache()
        self._epochs: Cache[tuple[str, int], int] = Cache()
        """How often a peer's flows have been forgotten."""
        self._layouts: Cache[tuple[tuple[str, int], bytes], _Layout] = Cache()
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
        if magic not in _MAGICS and is_compressed(data):  # heplify's payload_zip: the whole frame is
            data = inflate(data, max(FRAME_MAX, self._options.max_message))
            magic = data[:4]
        if magic in _MAGICS:
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
        if len(self.troubles) < _MAX_AGENTS:
            self.troubles[what, peer[0]] += 1

    def _again(self, data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        """Decode a packet that differs from an earlier one of its peer in time and payload only; others are none."""
        layout = self._layouts.get((peer, data[12:13]))
        if layout is None or len(data) < layout.struct.size:
            return ()
        magic, total, before, seconds, between, micros, after, length = layout.struct.unpack_from(data)
        key = (before, between, after)
        known = layout.flows.get(key)
        start = layout.struct.size
        if known is None or magic not in _MAGICS or total != len(data) or total - start + 6 != length:
            return ()
        buf = data[start:]
        if not buf or _is_keepalive(buf):
            return ()
        layout.hits += 1
        time_us = self._time(seconds, micros, peer, now_us)
        flow, link = known
        if isinstance(flow, _Open):
            if flow.question or flow.flow.proto in _STREAMS:
                return self._ask(flow, time_us, buf, link)
            flow = flow.flow
            layout.flows[key] = (flow, link)
        return (Record(time_us, flow, buf, link),)

    def _ask(self, flow: Flow | _Open, time_us: int, buf: bytes, link: str = "") -> Sequence[Record]:
        """Make the records of a payload that may hold several messages, and ask each for its tag and transport."""
        if isinstance(flow, Flow):
            return (Record(time_us, flow, buf, link),)
        base = flow.flow
        if base.proto not in _STREAMS or is_usual(buf):
            shown = flow.variant(self._tag(flow, buf), base.proto) if flow.question else base
            return (Record(time_us, shown, buf, link),)
        return [
            Record(time_us, flow.variant(self._tag(flow, message), websocket(message) or base.proto), message, link)
            for message in split_messages(buf)
        ]

    def _tag(self, flow: _Open, message: bytes) -> str:
        if flow.question is None:
            return flow.flow.tag
        tag = self._direction.of_message(flow.question, message) or self._options.tag
        if flow.question.settled:
            flow.flow, flow.question = flow.variant(tag, flow.flow.proto), None
        return tag

    def _forget(self, sender: Sender) -> None:
        """Forget a sender's flows: what was learned of it may change their tags."""
        peer = sender[:2]
        self._epochs.keep(peer, self._epochs.get(peer, 0) + 1)
        for family in _FAMILIES:
            self._layouts.pop((peer, bytes([family])), None)

    def _learn(
        self, data: bytes, peer: tuple[str, int], chunks: dict[int, bytes], flow: Flow | _Open, link: str
    ) -> None:
        """Remember a packet's layout, if its time is in one piece and its payload at its end."""
        key = (peer, data[12:13])  # the family: a server's IPv4 and IPv6 traffic are of two layouts
        if data[12] not in _FAMILIES:
            return
        layout = self._layouts.get(key)
        if layout is not None and layout.learned > _LEARN_LIMIT and layout.hits < layout.learned:
            return  # something else varies from packet to packet, a correlation id say
        found = _TIME_CHUNKS.search(data, 6, 200)
        start = len(data) - len(chunks[_PAYLOAD])
        if found is None or found.end() + 6 > start or data[start - 6 : start - 2] != b"\0\0\0\x0f":
            return
        seconds, micros = found.start() + 6, found.end() - 4
        # The proof: with other bytes in these places, just these three chunks are others.
        other = bytearray(data)
        for place in (*range(seconds, seconds + 4), *range(micros, micros + 4)):
            other[place] ^= 0xFF
        other[start:] = bytes(len(data) - start)
        changed = {_SECONDS: bytes(other[seconds : seconds + 4]), _MICROS: bytes(other[micros : micros + 4])}
        if _chunks(bytes(other)) != {**chunks, **changed, _PAYLOAD: bytes(other[start:])}:
            return
        shape = struct.Struct(f">4sH{seconds - 6}sI6sI{start - 2 - found.end()}sH")
        if layout is None or layout.struct.format != shape.format:
            hits, learned = (layout.hits, layout.learned) if layout else (0, 0)
            layout = self._layouts.keep(key, _Layout(shape, hits, learned))
        layout.learned += 1
        _, _, before, _, between, _, after, _ = shape.unpack_from(data)
        layout.flows.keep((before, between, after), (flow, link))

    def _frames(self, data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        """Decode a frame and those that follow it; one that is damaged costs the others nothing."""
        total = int.from_bytes(data[4:6], "big")
        if total < 6 or not data.startswith(_MAGICS, total):
            return self._version3(data, peer, now_us)
        records: list[Record] = []
        faults = []
        while data:
            total = int.from_bytes(data[4:6], "big")
            try:
                records += self._version3(data, peer, now_us)
            except FormatError as error:
                faults.append(error)
            data = data[total:] if total >= 6 and data.startswith(_MAGICS, total) else b""
        if faults and not records:
            raise faults[0]
        if faults:
            self.counts["malformed"] += len(faults)
        return records

    def _version3(self, data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        chunks = _chunks(data)
        get = chunks.get
        if self._key and not hmac.compare_digest(get(_AUTH, b""), self._key):
            return self._refuse(peer)
        kind = get(_TYPE)
        if kind and kind[0] not in (_TYPE_SIP, _TYPE_UNKNOWN):
            self.counts["not_sip"] += 1
            return ()
        buf = get(_PAYLOAD)
        if not buf and _COMPRESSED in chunks:
            buf = inflate(chunks[_COMPRESSED], self._options.max_message)
        if not buf or _is_keepalive(buf):
            self.counts["keepalive"] += 1
            return ()
        if kind == b"\0" and not begins_message(buf):
            self.counts["not_sip"] += 1
            return ()
        key = (
            peer, self._epochs.get(peer), get(_FAMILY), get(_PROTO), get(_SRC4), get(_DST4), get(_SRC6), get(_DST6),
            get(_SPORT), get(_DPORT), get(_AGENT), get(_NODE),
        )  # fmt: skip
        link = _clean(chunks[_CORRELATION]) if _CORRELATION in chunks else ""
        flow = self._flows.get(key)
        if flow is None:
            flow, whole = self._flow3(chunks, peer)
            if not whole:
                self.counts["bad_chunks"] += 1  # each of them, so it is not remembered
                return self._ask(flow, self._time3(chunks, peer, now_us), buf, link)
            self._flows.keep(key, flow)
        if buf is get(_PAYLOAD) and kind != b"\0" and int.from_bytes(data[4:6], "big") == len(data):
            self._learn(data, peer, chunks, flow, link)
        return self._ask(flow, self._time3(chunks, peer, now_us), buf, link)

    def _refuse(self, peer: tuple[str, int]) -> Sequence[Record]:
        self.counts["auth_failed"] += 1
        self.trouble("auth_failed", peer)
        return ()

    def _time3(self, chunks: dict[int, bytes], peer: tuple[str, int], now_us: int) -> int:
        seconds = chunks.get(_SECONDS)
        micros = int.from_bytes(chunks.get(_MICROS, b""), "big")
        return self._time(int.from_bytes(seconds, "big") if seconds else -1, micros, peer, now_us)

    def _flow3(self, chunks: dict[int, bytes], peer: tuple[str, int]) -> tuple[Flow | _Open, bool]:
        """Make the flow of a packet; say whether all that it says of it can be read."""
        number = {kind: int.from_bytes(chunks.get(kind, b""), "big") for kind in (_FAMILY, _PROTO, _SPORT, _DPORT)}
        v6 = _SRC6 in chunks or _DST6 in chunks
        v6 = v6 and (number[_FAMILY] in _FAMILIES_V6 or not (_SRC4 in chunks or _DST4 in chunks))
        src, whole_src = _end(chunks, (_SRC6, _SRC4) if v6 else (_SRC4, _SRC6))
        dst, whole_dst = _end(chunks, (_DST6, _DST4) if v6 else (_DST4, _DST6))
        whole = whole_src and whole_dst and b"" not in map(chunks.get, _SIZES)
        agent = chunks.get(_AGENT)
        name = _clean(chunks.get(_NODE, b""))
        agent_id = str(int.from_bytes(agent, "big")) if agent else ""
        ends = (src, number[_SPORT]), (dst, number[_DPORT])
        return self._flow(peer, number[_PROTO], *ends, agent_id, name, v6=v6), whole

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
        key = (peer, self._epochs.get(peer), data[2:plain], agent)
        flow = self._flows.get(key)
        if flow is None:
            src, dst = (read_address(data[at : at + size], v6=size == 16) for at in (8, 8 + size))
            flow = self._flow(peer, proto, (src, sport), (dst, dport), agent, "", v6=size == 16)
            self._flows.keep(key, flow)
        time_us = now_us if version == 1 else self._time(seconds, micros, peer, now_us)
        return self._ask(flow, time_us, buf)

    def _time2(self, data: bytes, at: int, now_us: int) -> tuple[int, int, str]:
        """Read the time and the agent's id of version 2; Kamailio writes them in its host's byte order.

        The right order is the one that makes a possible time or, where both do, the time that is nearer.
        """
        readings = [struct.unpack_from(order + "IIH", data, at) for order in "<>"]
        seconds, micros, agent = min(
            readings, key=lambda one: (one[1] >= _MICROS_END, abs(one[0] * 1_000_000 + one[1] - now_us))
        )
        return seconds, micros, str(agent)

    def _flow(
        self,
        peer: tuple[str, int],
        number: int,
        src: Endpoint,
        dst: Endpoint,
        agent: str,
        name: str,
        *,
        v6: bool,
    ) -> Flow | _Open:
        """Make a flow; of an address that is missing, the unspecified one stands in its place."""
        node = name or agent
        self._list_agent(peer, agent, name)
        proto = _PROTOS.get(number, "none")
        sender = (peer[0].partition("%")[0], peer[1], node)
        tag = self._direction.of_flow(sender, src, dst, datagrams=proto not in _STREAMS)
        question = tag if isinstance(tag, Question) else None
        shown = (tag.known or self._options.tag) if isinstance(tag, Question) else tag
        hosts = one_family(src[0], dst[0], v6=v6)
        af = "ipv6" if ":" in hosts[0] else "ipv4"
        flow = Flow(shown, 0, 0, proto, af, hosts[0], src[1], hosts[1], dst[1], node)
        return _Open(flow, question) if question or proto in _STREAMS else flow

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
        if seconds >= 0 and micros < _MICROS_END and (not self._window or abs(time_us - now_us) <= self._window):
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


def _chunks(data: bytes) -> dict[int, bytes]:
    """Return the generic chunks of a HEP3 frame by type; the last of those that come twice. Others are skipped."""
    total = int.from_bytes(data[4:6], "big")
    if not 6 <= total <= len(data):
        raise FormatError(f"HEP3 frame says {total} bytes, {len(data)} came")
    chunks: dict[int, bytes] = {}
    unpack = _CHUNK.unpack_from
    at, last = 6, total - 6
    while at <= last:
        vendor, kind, length = unpack(data, at)
        end = at + length
        if length < 6 or end > total:
            raise FormatError(f"HEP3 chunk {kind:#x} at offset {at} says {length} bytes, {total - at} are left")
        if not vendor:
            size = _SIZES.get(kind, length - 6)
            # of a number that is too long the first bytes count, as in Kamailio; one that is too short is not there
            chunks[kind] = data[at + 6 : at + 6 + size] if size <= length - 6 else b""
        at = end
    if at != total:
        raise FormatError(f"HEP3 frame ends with {total - at} stray bytes")
    return chunks


def _end(chunks: dict[int, bytes], kinds: tuple[int, int]) -> tuple[str, bool]:
    """Read an address from the first of these chunks that has one; return it, and whether none was unreadable."""
    address, whole = "", True
    for kind in kinds:
        if not address and kind in chunks:
            address = read_address(chunks[kind], v6=kind in (_SRC6, _DST6))
            whole = whole and address != ""
    return address, whole


def _is_keepalive(buf: bytes) -> bool:
    """Whether it is only line ends or NULs (RFC 5626, section 3.5.1), which Kamailio's sipdump records neither."""
    return buf[0] in b"\r\n\0" and not buf.strip(b"\r\n\0")


def _clean(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip("\0")
    return "".join(c if c.isprintable() else "?" for c in text)[:200]

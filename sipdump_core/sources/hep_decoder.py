"""HEP, the Homer encapsulation protocol, versions 1, 2 and 3: from packets to records.

Sources: the HEP3 specification (draft of the SIPCAPTURE project), and what Kamailio, OpenSIPS, Asterisk, FreeSWITCH and
heplify really send.
"""

import hmac
import re
import socket
import struct
import zlib
from collections import Counter
from typing import Any

import attrs

from sipdump_core.cache import Cache
from sipdump_core.errors import FormatError
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Flow, Record
from sipdump_core.settings.hep import HepOptions

__all__ = ["FRAME_MAX", "HepDecoder", "inflate"]

FRAME_MAX = 65535
"""The longest HEP3 frame, header included: its length is a 16-bit number."""

_MAGICS = (b"HEP3", b"EEP3")
_CHUNK = struct.Struct(">HHH")
_GZIP = b"\x1f\x8b"
_MAX_AGENTS = 10_000
_TYPE_SIP = 1
_TIME_CHUNKS = re.compile(rb"\x00\x00\x00\x09\x00\x0a.{4}\x00\x00\x00\x0a\x00\x0a.{4}", re.DOTALL)
_LEARN_LIMIT = 100
# HEP's numbers for transports: the IP protocol; 22 (TLS) also for WS and WSS from Kamailio, 50 and 51 from OpenSIPS
_PROTOS = {17: "udp", 6: "tcp", 132: "sctp", 22: "tls", 50: "ws", 51: "wss"}
_FAMILIES_V6 = (10, 28, 30)  # AF_INET6 on Linux, FreeBSD and macOS

# chunk types of the generic vendor, 0
_FAMILY, _PROTO, _SRC4, _DST4, _SRC6, _DST6, _SPORT, _DPORT, _SECONDS, _MICROS, _TYPE, _AGENT = range(1, 13)
_SIZES = {_FAMILY: 1, _PROTO: 1, _SPORT: 2, _DPORT: 2, _SECONDS: 4, _MICROS: 4, _TYPE: 1, _AGENT: 4}
_KEEPALIVE, _AUTH, _PAYLOAD, _COMPRESSED, _CORRELATION, _VLAN, _NODE = range(13, 20)


@attrs.define
class _Layout:
    """How all of a peer's packets are laid out: everything but time and payload identifies the flow."""

    struct: struct.Struct
    hits: int
    learned: int
    flows: Cache[tuple[bytes, bytes, bytes], Flow] = attrs.field(factory=Cache)


class HepDecoder:
    """Decodes packets, and counts what it meets.

    Args:
        options: the HEP source's options.
        table: where capture agents are listed.
    """

    def __init__(self, options: HepOptions, table: ProcessTable) -> None:
        self.counts: Counter[str] = Counter()
        """Packets by what became of them: ``records``, ``auth_failed``, ``not_sip``, ``keepalive``; ``time_replaced``
        counts records whose time was out of the window."""
        self._options = options
        self._key = options.auth_key.encode("utf-8", "surrogateescape")
        self._window = options.time_window * 1_000_000
        self._local = {given.value for given in options.local}
        self._table = table
        self._flows: Cache[tuple[Any, ...], Flow] = Cache()
        self._layouts: Cache[tuple[tuple[str, int], bytes], _Layout] = Cache()
        self._agents: set[tuple[str, ...]] = set()

    def decode(self, data: bytes, peer: tuple[str, int], now_us: int) -> Record | None:
        """Decode one packet.

        Args:
            data: the packet, whole.
            peer: address and port of its sender.
            now_us: the receive time, microseconds since the epoch.

        Returns:
            The record, or None where the packet holds no SIP message or its auth key is wrong.

        Raises:
            FormatError: it is no HEP packet, or a damaged one.
        """
        if data[:2] == _GZIP:  # heplify's payload_zip: the whole frame is compressed
            data = inflate(data, FRAME_MAX)
        magic = data[:4]
        if magic in _MAGICS:
            record = self._again(data, peer, now_us) or self._version3(data, peer, now_us)
        elif magic[:1] in (b"\x01", b"\x02"):
            record = self._version12(data, peer, now_us)
        else:
            raise FormatError(f"no HEP packet: it begins with {magic!r}")
        if record is not None:
            self.counts["records"] += 1
        return record

    def _again(self, data: bytes, peer: tuple[str, int], now_us: int) -> Record | None:
        """Decode a packet that differs from an earlier one of its peer in time and payload only; None for others."""
        layout = self._layouts.get((peer, data[12:13]))
        if layout is None or len(data) < layout.struct.size:
            return None
        magic, total, before, seconds, between, micros, after, length = layout.struct.unpack_from(data)
        flow = layout.flows.get((before, between, after))
        start = layout.struct.size
        if flow is None or magic not in _MAGICS or total > len(data) or total - start + 6 != length:
            return None
        buf = data[start:total]
        if not buf or _is_keepalive(buf):
            return None
        layout.hits += 1
        return Record(self._sane(seconds * 1_000_000 + micros, now_us), flow, buf)

    def _learn(self, data: bytes, peer: tuple[str, int], chunks: dict[int, bytes], flow: Flow) -> None:
        """Remember a packet's layout, if its time is in one piece and its payload at its end."""
        key = (peer, data[12:13])  # the family: a server's IPv4 and IPv6 traffic are of two layouts
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
        layout.flows.keep((before, between, after), flow)

    def _version3(self, data: bytes, peer: tuple[str, int], now_us: int) -> Record | None:
        chunks = _chunks(data)
        get = chunks.get
        if self._key and not hmac.compare_digest(get(_AUTH, b""), self._key):
            self.counts["auth_failed"] += 1
            return None
        kind = get(_TYPE)
        if kind is not None and int.from_bytes(kind, "big") != _TYPE_SIP:
            self.counts["not_sip"] += 1
            return None
        buf = get(_PAYLOAD)
        if buf is None and _COMPRESSED in chunks:
            buf = inflate(chunks[_COMPRESSED], self._options.max_message)
        if not buf or _is_keepalive(buf):
            self.counts["keepalive"] += 1
            return None
        key = (
            peer, get(_FAMILY), get(_PROTO), get(_SRC4), get(_DST4), get(_SRC6), get(_DST6), get(_SPORT), get(_DPORT),
            get(_AGENT), get(_NODE),
        )  # fmt: skip
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows.keep(key, self._flow3(chunks, peer))
        if _PAYLOAD in chunks and int.from_bytes(data[4:6], "big") == len(data):
            self._learn(data, peer, chunks, flow)
        seconds = get(_SECONDS)
        time_us = -1 if seconds is None else int.from_bytes(seconds, "big") * 1_000_000
        return Record(self._sane(time_us + int.from_bytes(get(_MICROS, b""), "big"), now_us), flow, buf)

    def _flow3(self, chunks: dict[int, bytes], peer: tuple[str, int]) -> Flow:
        number = {kind: int.from_bytes(chunks.get(kind, b""), "big") for kind in (_FAMILY, _PROTO, _SPORT, _DPORT)}
        has_v6 = _SRC6 in chunks or _DST6 in chunks
        if has_v6 and (number[_FAMILY] in _FAMILIES_V6 or not (_SRC4 in chunks or _DST4 in chunks)):
            family, size, src, dst = socket.AF_INET6, 16, _SRC6, _DST6
        else:
            family, size, src, dst = socket.AF_INET, 4, _SRC4, _DST4
        addresses = [chunks.get(kind, b"").ljust(size, b"\0")[:size] for kind in (src, dst)]
        agent = chunks.get(_AGENT)
        name = _clean(chunks.get(_NODE, b""))
        agent_id = str(int.from_bytes(agent, "big")) if agent else ""
        return self._flow(peer, family, number[_PROTO], addresses, (number[_SPORT], number[_DPORT]), agent_id, name)

    def _version12(self, data: bytes, peer: tuple[str, int], now_us: int) -> Record | None:
        """Versions 1 and 2: fixed headers, in version 2 with a time; no auth key, no type: SIP is meant."""
        if len(data) < 16:
            raise FormatError(f"HEP packet of {len(data)} bytes: too short")
        version, length, family, proto, sport, dport = struct.unpack_from(">BBBBHH", data)
        size = 16 if family in _FAMILIES_V6 else 4
        plain = 8 + 2 * size
        if family not in (2, *_FAMILIES_V6) or length < plain or len(data) < length:
            raise FormatError(f"HEP version {version} packet with the address family {family} and a header of {length}")
        if self._key:
            self.counts["auth_failed"] += 1
            return None
        time_us, agent, start = -1, "", length
        if version == 2:
            if len(data) < plain + 10:
                raise FormatError("HEP version 2 packet without its time")
            if length == plain:
                # Kamailio's header length leaves the time out, and 2 bytes of padding behind it; others do not pad
                start = plain + (10 if data[plain + 10 : plain + 12].isalpha() else 12)
            for order in "<>":  # Kamailio writes its host's byte order
                seconds, micros, number = struct.unpack_from(order + "IIH", data, plain)
                agent = agent or str(number)
                if abs(seconds * 1_000_000 + micros - now_us) <= (self._window or 86_400_000_000):
                    time_us, agent = seconds * 1_000_000 + micros, str(number)
                    break
        buf = data[start:]
        if not buf or _is_keepalive(buf):
            self.counts["keepalive"] += 1
            return None
        key = (peer, data[2:plain], agent)
        flow = self._flows.get(key)
        if flow is None:
            addresses = [data[8 : 8 + size], data[8 + size : plain]]
            kind = socket.AF_INET6 if size == 16 else socket.AF_INET
            flow = self._flows.keep(key, self._flow(peer, kind, proto, addresses, (sport, dport), agent, ""))
        return Record(self._sane(time_us, now_us, missing=version == 1), flow, buf)

    def _flow(
        self,
        peer: tuple[str, int],
        family: socket.AddressFamily,
        proto: int,
        addresses: list[bytes],
        ports: tuple[int, int],
        agent: str,
        name: str,
    ) -> Flow:
        af = "ipv4" if family == socket.AF_INET else "ipv6"
        src, dst = (socket.inet_ntop(family, address) for address in addresses)
        self._list_agent(peer, agent, name)
        tag = self._tag(peer, (src, ports[0]), (dst, ports[1]))
        return Flow(tag, 0, 0, _PROTOS.get(proto, "none"), af, src, ports[0], dst, ports[1], name or agent)

    def _tag(self, peer: tuple[str, int], src: tuple[str, int], dst: tuple[str, int]) -> str:
        """Return whether the HEP sender sent or received the message; a step decides when just one side matches."""
        own = {peer[0].partition("%")[0], *self._local}
        for matches in (
            lambda side: side[0] in own and side[1] == peer[1],
            lambda side: side[0] in own,
            lambda side: side[1] == peer[1],
        ):
            is_src, is_dst = matches(src), matches(dst)
            if is_src != is_dst:
                return "snd" if is_src else "rcv"
        return self._options.tag

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

    def _sane(self, time_us: int, now_us: int, *, missing: bool = False) -> int:
        if time_us >= 0 and (not self._window or abs(time_us - now_us) <= self._window):
            return time_us
        if not missing:
            self.counts["time_replaced"] += 1
        return now_us


def inflate(data: bytes, limit: int) -> bytes:
    """Decompress zlib, gzip or raw deflate data, whichever it is, to at most ``limit`` bytes.

    Raises:
        FormatError: it is none of these, is damaged, or would grow past the limit.
    """
    for wbits in (
        zlib.MAX_WBITS | 32,
        -zlib.MAX_WBITS,
    ):  # zlib or gzip by their headers; raw deflate has none
        machine = zlib.decompressobj(wbits)
        try:
            out = machine.decompress(data, limit + 1)
        except zlib.error:
            continue
        if len(out) > limit:
            raise FormatError(f"compressed data grows past {limit} bytes")
        if machine.eof:
            return out
    raise FormatError("compressed data is neither zlib, gzip nor raw deflate, or is cut")


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
            if length - 6 > _SIZES.get(kind, FRAME_MAX):
                raise FormatError(f"HEP3 chunk {kind:#x} at offset {at} is {length - 6} bytes, not {_SIZES[kind]}")
            chunks[kind] = data[at + 6 : end]
        at = end
    if at != total:
        raise FormatError(f"HEP3 frame ends with {total - at} stray bytes")
    return chunks


def _is_keepalive(buf: bytes) -> bool:
    """Whether it is only line ends or NULs (RFC 5626, section 3.5.1), which Kamailio's sipdump records neither."""
    return buf[0] in b"\r\n\0" and not buf.strip(b"\r\n\0")


def _clean(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip("\0")
    return "".join(c if c.isprintable() else "?" for c in text)[:200]

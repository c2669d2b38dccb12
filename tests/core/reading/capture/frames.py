"""Makes packets and capture files, byte by byte, as the standards have them."""

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sipdump_core.calls.message import Message
from sipdump_core.record import Record

ETHERNET, NULL, RAW, LOOP, SLL, SLL2, LINK_IPV4, LINK_IPV6 = 1, 0, 101, 108, 113, 276, 228, 229
IPV4, IPV6 = 0x0800, 0x86DD
UDP, TCP = 17, 6
SYN, FIN, RST, ACK = 2, 1, 4, 16
A, B = "192.0.2.1", "198.51.100.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
BASE_US = 1_795_386_431_000_000


def message(call_id: str = "one@a", body: str = "", *, length: bool = True, method: str = "OPTIONS") -> bytes:
    content_length = f"Content-Length: {len(body)}\r\n" if length else ""
    return (
        f"{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {A}:5060;branch=z9hG4bK{call_id}\r\n"
        f"From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: {call_id}\r\n"
        f"CSeq: 1 {method}\r\n{content_length}\r\n{body}"
    ).encode()


def addresses(src: str, dst: str) -> tuple[bytes, bytes]:
    family = socket.AF_INET6 if ":" in src else socket.AF_INET
    return socket.inet_pton(family, src), socket.inet_pton(family, dst)


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def udp(data: bytes, src_port: int = 5060, dst_port: int = 5060) -> bytes:
    return struct.pack(">HHHH", src_port, dst_port, len(data) + 8, 0) + data


def tcp(sequence: int, data: bytes = b"", flags: int = ACK, src_port: int = 5070, dst_port: int = 5060) -> bytes:
    return struct.pack(">HHIIBBHHH", src_port, dst_port, sequence & 0xFFFFFFFF, 0, 5 << 4, flags, 65535, 0, 0) + data


def ipv4(
    payload: bytes,
    proto: int = UDP,
    src: str = A,
    dst: str = B,
    *,
    ident: int = 0,
    offset: int = 0,
    more: bool = False,
    options: bytes = b"",
) -> bytes:
    length = 20 + len(options) + len(payload)
    fragment = (0x2000 if more else 0) | offset // 8
    head = struct.pack(">BBHHHBBH", 4 << 4 | (20 + len(options)) // 4, 0, length, ident, fragment, 64, proto, 0)
    head += b"".join(addresses(src, dst)) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(payload: bytes, following: int = UDP, src: str = A6, dst: str = B6) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(payload), following, 64) + b"".join(addresses(src, dst)) + payload


def fragments4(payload: bytes, size: int, ident: int = 7, proto: int = UDP) -> list[bytes]:
    return [
        ipv4(payload[at : at + size], proto, ident=ident, offset=at, more=at + size < len(payload))
        for at in range(0, len(payload), size)
    ]


def fragments6(payload: bytes, size: int, ident: int = 7, proto: int = UDP) -> list[bytes]:
    return [
        ipv6(
            struct.pack(">BBHI", proto, 0, at | (at + size < len(payload)), ident) + payload[at : at + size], 44
        )
        for at in range(0, len(payload), size)
    ]  # fmt: skip


def ethernet(packet: bytes, kind: int | None = None, tags: Sequence[int] = ()) -> bytes:
    kind = (IPV4 if packet[0] >> 4 == 4 else IPV6) if kind is None else kind
    return (
        b"\x02" * 6
        + b"\x04" * 6
        + b"".join(struct.pack(">HH", tag, 100) for tag in tags)
        + struct.pack(">H", kind)
        + packet
    )


def linked(linktype: int, packet: bytes) -> bytes:
    """Put an IP packet into a frame of a link type."""
    four = packet[0] >> 4 == 4
    kind = IPV4 if four else IPV6
    if linktype == ETHERNET:
        return ethernet(packet)
    if linktype == SLL:
        return struct.pack(">HHH8sH", 0, 1, 6, b"\x02" * 8, kind) + packet
    if linktype == SLL2:
        return struct.pack(">HHIHBB8s", kind, 0, 1, 1, 0, 6, b"\x02" * 8) + packet
    if linktype == NULL:
        return struct.pack("<I", 2 if four else 30) + packet
    if linktype == LOOP:
        return struct.pack(">I", 2 if four else 24) + packet
    return packet


class Packet(NamedTuple):
    frame: bytes
    time_us: int = BASE_US
    captured: int | None = None
    """Bytes that were captured; None: all."""
    comment: str = ""


def at(frames: Iterable[bytes]) -> list[Packet]:
    """Give frames times, a millisecond apart."""
    return [Packet(frame, BASE_US + number * 1000) for number, frame in enumerate(frames)]


def pcap(packets: Iterable[Packet], linktype: int = ETHERNET, order: str = "<", *, nanoseconds: bool = False) -> bytes:
    magic, unit = (0xA1B23C4D, 1000) if nanoseconds else (0xA1B2C3D4, 1)
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, linktype)
    for frame, time_us, captured, _ in packets:
        seconds, micros = divmod(time_us, 1_000_000)
        part = frame[:captured]
        data += struct.pack(order + "IIII", seconds, micros * unit, len(part), len(frame)) + part
    return data


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(linktype: int = ETHERNET, order: str = "<", options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, 262144) + options)


def enhanced(packet: Packet, order: str = "<", number: int = 0, units: int = 1_000_000) -> bytes:
    ticks = packet.time_us * units // 1_000_000
    part = packet.frame[: packet.captured]
    body = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(part), len(packet.frame))
    body += part + bytes(-len(part) % 4)
    if packet.comment:
        body += option(order, 1, packet.comment.encode()) + bytes(4)
    return block(order, 6, body)


def websocket(data: bytes, *, mask: bytes = b"", opcode: int = 1, final: bool = True) -> bytes:
    """Return a frame of RFC 6455, section 5.2."""
    length = len(data)
    head = bytes([0x80 * final | opcode])
    masked = 0x80 if mask else 0
    if length < 126:
        head += bytes([masked | length])
    elif length < 65536:
        head += bytes([masked | 126]) + struct.pack(">H", length)
    else:
        head += bytes([masked | 127]) + struct.pack(">Q", length)
    if mask:
        data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    return head + mask + data


def call_ids(records: Iterable[Record]) -> list[str | None]:
    return [Message(record.buf).call_id for record in records]

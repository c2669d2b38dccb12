"""HEP packets for tests."""

import socket
import struct
from typing import Any

SIP = b"OPTIONS sip:x SIP/2.0\r\nCall-ID: 1\r\n\r\n"


def chunk(kind: int, value: bytes, vendor: int = 0) -> bytes:
    return struct.pack(">HHH", vendor, kind, len(value) + 6) + value


def frame(*chunks: bytes, magic: bytes = b"HEP3") -> bytes:
    body = b"".join(chunks)
    return magic + struct.pack(">H", len(body) + 6) + body


def hep3(
    buf: bytes | None = SIP,
    *,
    src: tuple[str, int] = ("192.0.2.1", 5060),
    dst: tuple[str, int] = ("192.0.2.2", 5070),
    proto: int = 17,
    seconds: int = 1_795_386_431,
    micros: int = 765_284,
    kind: int = 1,
    extra: tuple[bytes, ...] = (),
    **fields: Any,
) -> bytes:
    """Make a HEP3 packet as Kamailio's siptrace lays it out."""
    v6 = ":" in src[0]
    family = socket.AF_INET6 if v6 else socket.AF_INET
    chunks = [
        chunk(1, bytes([10 if v6 else 2])),
        chunk(2, bytes([proto])),
        chunk(5 if v6 else 3, socket.inet_pton(family, src[0])),
        chunk(6 if v6 else 4, socket.inet_pton(family, dst[0])),
        chunk(7, struct.pack(">H", src[1])),
        chunk(8, struct.pack(">H", dst[1])),
        chunk(9, struct.pack(">I", seconds)),
        chunk(10, struct.pack(">I", micros)),
        chunk(11, bytes([kind])),
        *extra,
    ]
    if buf is not None:
        chunks.append(chunk(15, buf))
    return frame(*chunks)


def hep12(
    version: int,
    buf: bytes = SIP,
    *,
    src: tuple[str, int] = ("192.0.2.1", 5060),
    dst: tuple[str, int] = ("192.0.2.2", 5070),
    proto: int = 17,
    time: tuple[int, int, int] = (1_795_386_431, 765_284, 77),
    order: str = "<",
    padding: bytes = b"\0\0",
    counted: bool = False,
) -> bytes:
    """Make a packet of version 1 or 2: by default version 2 as Kamailio writes it."""
    v6 = ":" in src[0]
    family = socket.AF_INET6 if v6 else socket.AF_INET
    addresses = socket.inet_pton(family, src[0]) + socket.inet_pton(family, dst[0])
    tail = struct.pack(order + "IIH", *time) + padding if version == 2 else b""
    length = 8 + len(addresses) + (len(tail) if counted else 0)
    head = struct.pack(">BBBBHH", version, length, 10 if v6 else 2, proto, src[1], dst[1])
    return head + addresses + tail + buf

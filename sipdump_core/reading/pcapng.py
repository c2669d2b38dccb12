"""pcapng: the packets of a pcap file, each with a comment that says who handled it.

Source: IETF draft-ietf-opsawg-pcapng, "PCAP Now Generic (pcapng) Capture File Format".
"""

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from sipdump_core.record import Record
from sipdump_core.version import VERSION

__all__ = ["write_pcapng"]

_SECTION, _INTERFACE, _NAMES, _PACKET = 0x0A0D0D0A, 1, 4, 6
_ORDER = 0x1A2B3C4D
_COMMENT, _APPLICATION, _RESOLUTION = 1, 4, 9
_END, _NAME_IPV4, _NAME_IPV6 = 0, 1, 2
_FILE_HEADER = struct.Struct("<IHHiIII")
_PACKET_HEADER = struct.Struct("<IIII")


def write_pcapng(path: str, pcap: str, records: Iterable[Record], names: Mapping[str, str]) -> None:
    """Write a pcapng file.

    Args:
        path: the new file.
        pcap: a pcap file with one packet for each record, little-endian, times in microseconds.
        records: the records, in the order of the packets.
        names: names by address, for a name resolution block.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: there are more or fewer packets than records.
    """
    with open(path, "wb") as out, open(pcap, "rb") as file:
        _, _, _, _, _, snaplen, linktype = _FILE_HEADER.unpack(file.read(_FILE_HEADER.size))
        section = struct.pack("<IHHq", _ORDER, 1, 0, -1) + _options([(_APPLICATION, f"sipdump {VERSION}".encode())])
        out.write(_block(_SECTION, section))
        out.write(_block(_INTERFACE, struct.pack("<HHI", linktype, 0, snaplen) + _options([(_RESOLUTION, b"\x06")])))
        if names:
            out.write(_block(_NAMES, _resolutions(names)))
        for record, (seconds, micros, length, data) in zip(records, _packets(file), strict=True):
            time_us = seconds * 1_000_000 + micros
            head = struct.pack("<IIIII", 0, time_us >> 32, time_us & 0xFFFFFFFF, len(data), length)
            out.write(_block(_PACKET, head + _padded(data) + _options([(_COMMENT, _comment(record).encode())])))


def _packets(file: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    while head := file.read(_PACKET_HEADER.size):
        seconds, micros, captured, length = _PACKET_HEADER.unpack(head)
        yield seconds, micros, length, file.read(captured)


def _comment(record: Record) -> str:
    node = f" node={record.node}" if record.node else ""
    return f"tag={record.tag} proto={record.proto} pid={record.pid} procno={record.procno}{node}"


def _resolutions(names: Mapping[str, str]) -> bytes:
    found = b""
    for address, name in names.items():
        try:
            packed = ipaddress.ip_address(address.strip("[]")).packed
        except ValueError:
            continue  # with a port: a host has one name here
        kind = _NAME_IPV4 if len(packed) == 4 else _NAME_IPV6
        value = packed + name.encode() + b"\0"
        found += struct.pack("<HH", kind, len(value)) + _padded(value)
    return found + struct.pack("<HH", _END, 0)


def _options(options: Iterable[tuple[int, bytes]]) -> bytes:
    body = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options)
    return body + struct.pack("<HH", _END, 0)


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)

"""The pcap backend and the P-KSR-SIPDump header."""

import io
import socket
import struct
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.record import Record
from sipdump_core.testing import Contract
from sipdump_pcap import HeaderTransform, PcapBackend
from sipdump_pcap.frame import SNAPLEN
from tests.support import OPTIONS, record


class TestContract(Contract):
    backend_class = PcapBackend


def pcap(*transforms: HeaderTransform) -> PcapBackend:
    return PcapBackend(NoOptions(), Site("/nonexistent", "", transforms=transforms))


def with_header(one: Record) -> list[bytes]:
    return HeaderTransform(NoOptions()).apply([one], [one.buf])


def decode(data: bytes) -> list[Record]:
    file = io.BytesIO(data)
    file.name = "memory"
    return list(pcap().decode(file))


def packets(data: bytes) -> list[tuple[int, int, int, int, bytes]]:
    found = []
    at = 0
    while at < len(data):
        head = struct.unpack_from("=IIII", data, at)
        found.append((*head, data[at + 16 : at + 16 + head[2]]))
        at += 16 + head[2]
    return found


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071, the plain way."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_file_header_is_kamailios() -> None:
    assert pcap().preamble() == struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


def test_an_ipv4_packet() -> None:
    ((seconds, micros, kept, full, frame),) = packets(pcap().encode([record(b"hello")]))
    assert (seconds, micros, kept, full) == (1795386431, 765284, 47, 47)
    assert frame[:14] == bytes(12) + b"\x08\x00"
    assert frame[14:24] == b"\x45\x00\x00\x21\x00\x00\x00\x00\x80\x11"
    assert ones_complement_sum(frame[14:34]) == 0xFFFF
    assert frame[26:34] == b"\x7f\0\0\1\x7f\0\0\1"
    assert frame[34:] == struct.pack(">HHHH", 5999, 5070, 13, 0) + b"hello"


@settings(max_examples=200, deadline=None)
@given(
    st.ip_addresses(v=6), st.ip_addresses(v=6), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=200)
)
def test_an_ipv6_packet_has_a_right_udp_checksum(src: object, dst: object, sport: int, dport: int, buf: bytes) -> None:
    one = record(buf, af="ipv6", src_ip=str(src), dst_ip=str(dst), src_port=sport, dst_port=dport)
    (*_, frame) = packets(pcap().encode([one]))[0]
    assert frame[14:22] == b"\x60\0\0\0" + struct.pack(">HBB", len(buf) + 8, 17, 0)
    pseudo = frame[22:54] + struct.pack(">II", len(buf) + 8, 17)
    assert ones_complement_sum(pseudo + frame[54:]) == 0xFFFF
    assert frame[60:62] != b"\0\0"


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65493))
def test_an_ipv4_packet_has_a_right_header_checksum(src: object, dst: object, length: int) -> None:
    one = record(bytes(length), src_ip=str(src), dst_ip=str(dst))
    (*_, frame) = packets(pcap().encode([one]))[0]
    assert ones_complement_sum(frame[14:34]) == 0xFFFF


@pytest.mark.parametrize("length", [65493, 65494, 65507, 65508, 100_000, 1 << 20])
@pytest.mark.parametrize("af", ["ipv4", "ipv6"])
def test_a_long_message_is_cut_and_its_true_length_told(af: str, length: int) -> None:
    headers = 42 if af == "ipv4" else 62
    ip = {"src_ip": "127.0.0.1"} if af == "ipv4" else {"src_ip": "::1"}
    one = record(bytes(range(256)) * 4097, af=af, **ip, dst_ip=ip["src_ip"])
    one = attrs.evolve(one, buf=one.buf[:length])
    backend = pcap()
    ((_, _, kept, full, frame), (*_, after)) = packets(backend.encode([one, record(b"next")]))
    assert full == headers + length
    assert kept == len(frame) == min(full, SNAPLEN)
    assert frame[headers:] == one.buf[: kept - headers]
    assert after.endswith(b"next")
    datagram = min(length + 8, 65515 if af == "ipv4" else 65535)
    assert frame[headers - 4 : headers - 2] == datagram.to_bytes(2, "big")
    if af == "ipv4":
        assert frame[16:18] == (datagram + 20).to_bytes(2, "big")
        assert ones_complement_sum(frame[14:34]) == 0xFFFF
    else:
        assert frame[18:20] == datagram.to_bytes(2, "big")
    assert backend.stats()["cut"] == (full > SNAPLEN)
    assert backend.record_size(one) == 16 + kept


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "fraction"), [(0xA1B2C3D4, 765284), (0xA1B23C4D, 765284_999)])
def test_either_byte_order_and_resolution_is_read(order: str, magic: int, fraction: int) -> None:
    frame = packets(pcap().encode([record()]))[0][4]
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
    data += struct.pack(order + "IIII", 1795386431, fraction, len(frame), len(frame)) + frame
    (found,) = decode(data)
    assert (found.time_us, found.buf) == (1_795_386_431_765_284, OPTIONS)


@pytest.mark.parametrize("cut", range(1, 300, 7))
def test_a_torn_tail_costs_only_the_torn_packet(cut: int) -> None:
    data = pcap().preamble() + pcap().encode([record()] * 2)
    size = pcap().record_size(record())
    assert len(decode(data[:-cut])) == 1 - (cut > size)


def test_other_packets_and_other_files_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    one = pcap().encode([record()])
    arp = struct.pack("=IIII", 0, 0, 42, 42) + bytes(12) + b"\x08\x06" + bytes(28)
    tcp = one[: 16 + 23] + b"\x06" + one[16 + 24 :]
    short = struct.pack("=IIII", 0, 0, 5, 5) + b"short"
    assert [r.buf for r in decode(pcap().preamble() + arp + tcp + short + one)] == [OPTIONS]
    assert decode(b"") == []
    assert decode(b"#!/bin/sh\n" * 10) == []
    assert "not a pcap file" in caplog.text


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_can_be_read(data: bytes) -> None:
    for found in decode(pcap().preamble() + data):
        assert isinstance(found, Record)


def test_the_header_stands_behind_the_first_line() -> None:
    (out,) = with_header(record(proto="tls", tag="snd"))
    first, _, rest = OPTIONS.partition(b"\r\n")
    assert out == first + b"\r\nP-KSR-SIPDump: tls pid=2738 pno=2\r\n" + rest


def test_a_message_without_a_line_end_stays_as_it_is() -> None:
    assert with_header(record(b"garbage")) == [b"garbage"]


@pytest.mark.parametrize("message", [OPTIONS, OPTIONS.replace(b"\r\n", b"\n"), b"\n", b"x\r\n"])
def test_reading_takes_the_header_out_again_and_believes_it(message: bytes) -> None:
    one = record(message, proto="wss", tag="rcv")
    (found,) = decode(pcap().preamble() + pcap(HeaderTransform(NoOptions())).encode([one]))
    assert found == attrs.evolve(one, flow=attrs.evolve(one.flow, tag="pcap"))


def test_a_header_line_of_the_message_itself_is_left_alone() -> None:
    message = OPTIONS.replace(b"Via:", b"P-KSR-SIPDump: quic pid=x\r\nVia:")
    (found,) = decode(pcap().preamble() + pcap().encode([record(message)]))
    assert found.buf == message


def test_addresses_of_a_file(tmp_path: Path) -> None:
    data = pcap().encode([record(af="ipv6", src_ip="2001:db8::5", dst_ip="2001:db8:0:1::6")])
    frame = packets(data)[0][4]
    assert socket.inet_ntop(socket.AF_INET6, frame[22:38]) == "2001:db8::5"
    assert socket.inet_ntop(socket.AF_INET6, frame[38:54]) == "2001:db8:0:1::6"

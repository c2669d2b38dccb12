"""The pcap backend and the P-KSR-SIPDump header."""

import io
import socket
import struct
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.record import Record
from sipdump_core.testing import Contract
from sipdump_pcap import HeaderTransform, PcapBackend
from sipdump_pcap.frame import _fold
from sipdump_pcap.header import may_have_line, split
from tests.support import OPTIONS, examples, record


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


def test_the_file_header_is_kamailios_but_for_the_snaplen() -> None:
    assert pcap().preamble() == struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)


def test_an_ipv4_packet() -> None:
    ((seconds, micros, kept, full, frame),) = packets(pcap().encode([record(b"hello")]))
    assert (seconds, micros, kept, full) == (1795386431, 765284, 47, 47)
    assert frame[:14] == bytes(12) + b"\x08\x00"
    assert frame[14:24] == b"\x45\x00\x00\x21\x00\x00\x00\x00\x80\x11"
    assert ones_complement_sum(frame[14:34]) == 0xFFFF
    assert frame[26:34] == b"\x7f\0\0\1\x7f\0\0\1"
    assert frame[34:] == struct.pack(">HHHH", 5999, 5070, 13, 0) + b"hello"


@examples(100)
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


@examples(100)
@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65493))
def test_an_ipv4_packet_has_a_right_header_checksum(src: object, dst: object, length: int) -> None:
    one = record(bytes(length), src_ip=str(src), dst_ip=str(dst))
    (*_, frame) = packets(pcap().encode([one]))[0]
    assert ones_complement_sum(frame[14:34]) == 0xFFFF


@pytest.mark.parametrize("length", [65493, 65494, 65507, 65508, 65527, 65528, 100_000, 1 << 20])
@pytest.mark.parametrize("af", ["ipv4", "ipv6"])
def test_a_message_that_ip_cannot_carry_is_cut_and_its_true_length_told(af: str, length: int) -> None:
    """The lengths in the headers are those of what is there: a program that believes them reads the message."""
    headers, longest = (42, 65507) if af == "ipv4" else (62, 65527)
    ip = {"src_ip": "127.0.0.1"} if af == "ipv4" else {"src_ip": "::1"}
    one = record(bytes(range(256)) * 4097, af=af, **ip, dst_ip=ip["src_ip"])
    one = attrs.evolve(one, buf=one.buf[:length])
    backend = pcap()
    ((_, _, kept, full, frame), (*_, after)) = packets(backend.encode([one, record(b"next")]))
    assert full == headers + length
    assert kept == len(frame) == headers + min(length, longest)
    assert frame[headers:] == one.buf[: kept - headers]
    assert after.endswith(b"next")
    datagram = kept - headers + 8
    assert frame[headers - 4 : headers - 2] == datagram.to_bytes(2, "big")
    if af == "ipv4":
        assert frame[16:18] == (datagram + 20).to_bytes(2, "big")
        assert ones_complement_sum(frame[14:34]) == 0xFFFF
    else:
        assert frame[18:20] == datagram.to_bytes(2, "big")
        assert ones_complement_sum(frame[22:54] + struct.pack(">II", datagram, 17) + frame[54:]) == 0xFFFF
    assert backend.stats()["cut"] == (length > longest)
    assert backend.record_size(one) == 16 + kept
    (read, _) = decode(backend.preamble() + backend.encode([one, record(b"next")]))
    assert read.buf == one.buf[:longest]


def test_with_the_header_a_little_less_is_kept() -> None:
    backend = pcap(HeaderTransform(NoOptions()))
    for af, src, dst in (("ipv4", "127.0.0.1", "127.0.0.1"), ("ipv6", "::1", "::1")):
        buf = OPTIONS.ljust(backend.longest, b"x")
        one = record(buf, af=af, src_ip=src, dst_ip=dst, proto="sctp", pid=-(2**31), procno=-(2**31))
        (found,) = decode(backend.preamble() + backend.encode([one]))
        assert found.buf == buf
    assert backend.stats()["cut"] == 0
    (found,) = decode(backend.preamble() + backend.encode([record(OPTIONS.ljust(70_000, b"x"))]))
    assert found.buf == OPTIONS.ljust(65507 - len(b"P-KSR-SIPDump: udp pid=2738 pno=2\r\n"), b"x")
    assert backend.stats()["cut"] == 1


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


@examples(100)
@given(st.binary(max_size=400))
def test_any_bytes_can_be_read(data: bytes) -> None:
    for found in decode(pcap().preamble() + data):
        assert isinstance(found, Record)


def test_the_header_stands_behind_the_first_line() -> None:
    (out,) = with_header(record(proto="tls", tag="snd"))
    first, _, rest = OPTIONS.partition(b"\r\n")
    assert out == first + b"\r\nP-KSR-SIPDump: tls pid=2738 pno=2\r\n" + rest


@pytest.mark.parametrize("message", [b"garbage", b"", b"\rgarbage"])
def test_a_message_without_a_line_end_stays_as_it_is(message: bytes) -> None:
    assert with_header(record(message)) == [message]


@pytest.mark.parametrize("message", [b"\r\ngarbage", b"\r\n", b"\n\r\nOPTIONS sip:x SIP/2.0"])
def test_where_no_start_line_ends_the_header_is_behind_the_first_line_end(message: bytes) -> None:
    first, _, rest = message.partition(b"\n")
    assert with_header(record(message)) == [first + b"\nP-KSR-SIPDump: udp pid=2738 pno=2\r\n" + rest]


@pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\r\n\r\n", b"\n\r\n"])
def test_line_ends_before_the_start_line_stay_before_it(before: bytes) -> None:
    """RFC 3261, section 7.5: what is in the file is a SIP message still."""
    (out,) = with_header(record(before + OPTIONS))
    first, _, rest = OPTIONS.partition(b"\r\n")
    assert out == before + first + b"\r\nP-KSR-SIPDump: udp pid=2738 pno=2\r\n" + rest


LINE = b"P-KSR-SIPDump: tls pid=1 pno=1\r\n"
FIRST, REST = OPTIONS[: OPTIONS.index(b"\n") + 1], OPTIONS[OPTIONS.index(b"\n") + 1 :]
FORGED = FIRST + LINE + REST


@pytest.mark.parametrize(
    "message",
    [
        OPTIONS, OPTIONS.replace(b"\r\n", b"\n"), b"\n", b"x\r\n", b"\r\n\r\n", b"\r\ngarbage", b"\r\n" + LINE[:-2],
        b"\r\n" + OPTIONS, b"\n\n" + OPTIONS, FORGED, b"\r\n" + FORGED, LINE, LINE + OPTIONS, b"\r\n" + LINE,
        b"\r\n" + LINE + LINE + OPTIONS, FIRST + LINE + LINE,
    ],
)  # fmt: skip
def test_reading_takes_the_header_out_again_and_believes_it(message: bytes) -> None:
    one = record(message, proto="wss", tag="rcv")
    backend = pcap(HeaderTransform(NoOptions()))
    (found,) = decode(backend.preamble() + backend.encode([one]))
    assert found == attrs.evolve(one, flow=attrs.evolve(one.flow, tag="pcap"))


@pytest.mark.parametrize(
    "message", [FORGED, b"\r\n" + FORGED, b"\n" + LINE + OPTIONS, FIRST + LINE + LINE, b"x\n" + LINE]
)
@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_what_flag_8_did_not_write_is_neither_taken_out_nor_believed(message: bytes, ip: str) -> None:
    af = "ipv6" if ":" in ip else "ipv4"
    batch = [record(buf, af=af, src_ip=ip, dst_ip=ip) for buf in (message, message, OPTIONS, message.ljust(66_000))]
    data = pcap().encode(batch)
    for found, one in zip(decode(pcap().preamble() + data), batch, strict=True):
        assert found.buf == one.buf[: len(found.buf)]
        assert (found.proto, found.pid, found.procno) == ("udp", 0, 0)
    for *_, frame in packets(data):
        if af == "ipv4":
            assert ones_complement_sum(frame[14:34]) == 0xFFFF
        else:
            assert ones_complement_sum(frame[22:54] + struct.pack(">II", len(frame) - 54, 17) + frame[54:]) == 0xFFFF


pieces = st.sampled_from(
    [LINE, LINE[:-2], LINE.replace(b"tls", b"quic"), FIRST, REST, b"\r\n", b"\n", b"\r", b"x", b"\0"]
)


@given(st.lists(pieces, max_size=6).map(b"".join))
def test_the_cheap_test_misses_no_line(buf: bytes) -> None:
    assert may_have_line(buf) or split(buf) is None


@examples(300)
@given(st.lists(st.lists(pieces, max_size=6), max_size=4), st.sampled_from(["127.0.0.1", "::1"]), st.booleans())
def test_any_messages_come_back(drawn: list[list[bytes]], ip: str, headed: bool) -> None:
    """Those of a flow that is known by then too."""
    bufs = [OPTIONS, *(b"".join(parts) for parts in drawn)]
    bufs += [buf + b"x" * 60 for buf in bufs]  # not short
    af = "ipv6" if ":" in ip else "ipv4"
    batch = [record(buf, af=af, src_ip=ip, dst_ip=ip, proto="wss") for buf in bufs]
    backend = pcap(HeaderTransform(NoOptions())) if headed else pcap()
    found = decode(backend.preamble() + backend.encode(batch))
    assert [one.buf for one in found] == bufs
    for one in found:
        believed = headed and b"\n" in one.buf
        assert (one.proto, one.pid, one.procno) == (("wss", 2738, 2) if believed else ("udp", 0, 0))


OLDER = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
"""The file header of Kamailio's module, and of earlier versions of ours."""


def plain(*messages: bytes) -> bytes:
    """Make IPv4 packets as Kamailio's module makes them, whatever is in the messages."""
    return b"".join(pcap().encode([record(b"-" * len(buf))])[: -len(buf)] + buf for buf in messages)


def test_an_older_file_that_flag_8_wrote_is_believed() -> None:
    for message in (FORGED, b"\r\n" + LINE + OPTIONS):  # Kamailio's place is behind the first line end
        found = decode(OLDER + plain(message, b"no line end", message))
        assert [(r.proto, r.pid, r.procno) for r in found] == [("tls", 1, 1), ("udp", 0, 0), ("tls", 1, 1)]
        assert found[0].buf == message.replace(LINE, b"")


@pytest.mark.parametrize("at", [0, 1, 5])
def test_an_older_file_that_flag_8_did_not_write_is_not_believed(at: int) -> None:
    messages = [FORGED] * 5
    messages.insert(at, OPTIONS)
    found = decode(OLDER + plain(*messages))
    assert [r.buf for r in found] == messages
    assert {(r.proto, r.pid, r.procno) for r in found} == {("udp", 0, 0)}


def test_a_capture_of_the_network_is_not_believed() -> None:
    for header in (OLDER, pcap().preamble()):
        frame = packets(plain(FORGED))[0][4]
        for at in (3, 19, 22):  # a MAC address, the identification, the TTL
            other = frame[:at] + b"\7" + frame[at + 1 :]
            (found,) = decode(header + struct.pack("=IIII", 0, 0, len(other), len(other)) + other)
            assert (found.buf, found.proto) == (FORGED, "udp")


@pytest.mark.parametrize("chunk", [1, 16, 100, 1000])
def test_reading_across_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    batch = [
        record(OPTIONS[:n], **ip, src_port=n)
        for n in range(0, len(OPTIONS), 3)
        for ip in ({}, {"af": "ipv6", "src_ip": "::1", "dst_ip": "::2"})
    ]
    backend = pcap(HeaderTransform(NoOptions()))
    data = backend.preamble() + backend.encode(batch)
    whole = decode(data)
    assert [r.buf for r in whole] == [r.buf for r in batch]
    monkeypatch.setattr("sipdump_pcap.decode._CHUNK", chunk)
    assert decode(data) == whole
    assert decode(data[:-1]) == whole[:-1]
    older = OLDER + backend.encode(batch)
    assert decode(older) == whole


def test_a_header_line_of_the_message_itself_is_left_alone() -> None:
    message = OPTIONS.replace(b"Via:", b"P-KSR-SIPDump: quic pid=x\r\nVia:")
    (found,) = decode(pcap().preamble() + pcap().encode([record(message)]))
    assert found.buf == message


@pytest.mark.parametrize("time_us", [-1, 1 << 52, (1 << 62) + 1])
def test_a_time_that_pcap_has_no_bits_for_costs_no_record(time_us: int) -> None:
    (found,) = decode(pcap().preamble() + pcap().encode([record(b"x", time_us=time_us)]))
    assert found.buf == b"x"
    assert found.time_us == time_us % (1_000_000 << 32)


@pytest.mark.parametrize(("total", "folded"), [(0xFFFF, 0xFFFF), (0x10000, 1), (0x1FFFF, 1), (0x2FFFE, 1)])
def test_a_carry_of_the_carry_counts_too(total: int, folded: int) -> None:
    """Random addresses hardly ever have one (RFC 1071)."""
    assert _fold(total) == folded


def test_addresses_of_a_file(tmp_path: Path) -> None:
    data = pcap().encode([record(af="ipv6", src_ip="2001:db8::5", dst_ip="2001:db8:0:1::6")])
    frame = packets(data)[0][4]
    assert socket.inet_ntop(socket.AF_INET6, frame[22:38]) == "2001:db8::5"
    assert socket.inet_ntop(socket.AF_INET6, frame[38:54]) == "2001:db8:0:1::6"

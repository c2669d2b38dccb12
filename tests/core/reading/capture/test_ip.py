"""From frames to what UDP and TCP carry: link layers, fragments, tunnels."""

import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.reading.capture.ip import Datagram, Reassembler, network, segment
from tests.core.reading.capture import frames
from tests.core.reading.capture.frames import (
    ETHERNET,
    IPV4,
    IPV6,
    LINK_IPV4,
    LINK_IPV6,
    LOOP,
    NULL,
    RAW,
    SLL,
    SLL2,
    fragments4,
    fragments6,
    ipv4,
    ipv6,
    linked,
    message,
    udp,
)

DATA = message(body="x" * 3000)


def taken(linktype: int, *frames_: bytes, reassembler: Reassembler | None = None) -> list[Datagram]:
    reassembler = reassembler or Reassembler()
    found = []
    for number, frame in enumerate(frames_):
        kind, at = network(linktype, frame)
        datagram = reassembler.take(kind, frame, at, number)
        if datagram:
            found.append(datagram)
    return found


def payloads(linktype: int, *frames_: bytes) -> list[bytes]:
    return [found.data for datagram in taken(linktype, *frames_) if (found := segment(datagram))]


@pytest.mark.parametrize("linktype", [ETHERNET, SLL, SLL2, NULL, LOOP, RAW, 12, 14])
@pytest.mark.parametrize("packet", [ipv4(udp(DATA)), ipv6(udp(DATA))], ids=["ipv4", "ipv6"])
def test_link_types(linktype: int, packet: bytes) -> None:
    assert payloads(linktype, linked(linktype, packet)) == [DATA]


def test_link_types_of_one_version() -> None:
    assert payloads(LINK_IPV4, ipv4(udp(DATA))) == payloads(LINK_IPV6, ipv6(udp(DATA))) == [DATA]


@pytest.mark.parametrize("family", [2, 10, 24, 28, 30])
@pytest.mark.parametrize("order", ["<", ">"])
def test_families_of_the_systems_that_capture(family: int, order: str) -> None:
    packet = ipv4(udp(DATA)) if family == 2 else ipv6(udp(DATA))
    assert payloads(NULL, struct.pack(order + "I", family) + packet) == [DATA]


@pytest.mark.parametrize("tags", [(0x8100,), (0x88A8, 0x8100), (0x9100, 0x8100), (0x8100, 0x8100, 0x8100)])
def test_vlans(tags: tuple[int, ...]) -> None:
    assert payloads(ETHERNET, frames.ethernet(ipv4(udp(DATA)), tags=tags)) == [DATA]


def test_vlans_of_sll2() -> None:
    packet = ipv4(udp(DATA))
    tagged = struct.pack(">HHIHBB8s", 0x8100, 0, 1, 1, 0, 6, b"\x02" * 8) + struct.pack(">HH", 100, 0x0800) + packet
    assert payloads(SLL2, tagged) == [DATA]


@pytest.mark.parametrize(("packet", "ppp"), [(ipv4(udp(DATA)), 0x21), (ipv6(udp(DATA)), 0x57)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("tags", [(), (0x8100,)])
def test_pppoe_and_mpls(packet: bytes, ppp: int, tags: tuple[int, ...]) -> None:
    session = struct.pack(">BBHHH", 0x11, 0, 1, len(packet) + 2, ppp)
    assert payloads(ETHERNET, frames.ethernet(session + packet, 0x8864, tags)) == [DATA]
    assert payloads(ETHERNET, frames.ethernet(session[:-2] + b"\xc0\x21" + packet, 0x8864, tags)) == []  # LCP
    labels = struct.pack(">II", 100 << 12 | 64, 200 << 12 | 1 << 8 | 64)
    assert payloads(ETHERNET, frames.ethernet(labels + packet, 0x8847, tags)) == [DATA]
    assert payloads(ETHERNET, frames.ethernet(labels[:4], 0x8847, tags)) == []  # cut


def test_what_is_no_ip() -> None:
    assert payloads(ETHERNET, frames.ethernet(b"\x00" * 28, 0x0806), b"", b"short") == []
    assert payloads(147, ipv4(udp(DATA))) == []
    assert network(ETHERNET, b"x" * 13) == (0, 0)


def test_padding_and_options_are_left_out() -> None:
    assert payloads(ETHERNET, frames.ethernet(ipv4(udp(b"hi"), options=b"\x01" * 8)) + bytes(18)) == [b"hi"]


@pytest.mark.parametrize("header", [0, 43, 60])
def test_extension_headers(header: int) -> None:
    extension = struct.pack(">BB6x", 17, 0)
    assert payloads(RAW, ipv6(extension + udp(DATA), header)) == [DATA]
    authentication = struct.pack(">BB10x", 17, 1)
    assert payloads(RAW, ipv6(authentication + udp(DATA), 51)) == [DATA]


def test_a_packet_that_the_network_card_cuts_later() -> None:
    packet = bytearray(ipv4(udp(DATA)))
    packet[2:4] = b"\0\0"
    assert payloads(RAW, bytes(packet)) == [DATA]


@pytest.mark.parametrize("cut", [fragments4, fragments6])
def test_fragments_in_any_order(cut: object) -> None:
    parts = cut(udp(DATA), 1200)  # type: ignore[operator]  # one of two functions
    assert len(parts) == 3
    for order in itertools.permutations(parts):
        assert payloads(RAW, *order) == [DATA]


@pytest.mark.parametrize("cut", [fragments4, fragments6])
def test_fragments_that_overlap_or_come_twice(cut: object) -> None:
    small, large = cut(udp(DATA), 800), cut(udp(DATA), 1600)  # type: ignore[operator]  # one of two functions
    assert payloads(RAW, small[0], small[0], *reversed(large), small[1]) == [DATA]
    assert payloads(RAW, small[0], *large[1:], small[1], small[1]) == [DATA]


def test_missing_fragments_are_counted() -> None:
    reassembler = Reassembler()
    parts = fragments4(udp(DATA), 1200)
    assert taken(RAW, *parts[:2], *fragments4(udp(DATA), 1200, ident=8)[1:], reassembler=reassembler) == []
    reassembler.finish()
    assert reassembler.incomplete == 2


def test_fragments_of_two_packets_do_not_mix() -> None:
    one, two = fragments4(udp(DATA), 1200, 1), fragments4(udp(DATA.replace(b"x", b"y")), 1200, 2)
    mixed = [part for pair in zip(one, two, strict=True) for part in pair]
    assert payloads(RAW, *mixed) == [DATA, DATA.replace(b"x", b"y")]


def test_an_identification_is_used_again() -> None:
    reassembler = Reassembler()
    first, *rest = fragments4(udp(DATA), 1200)
    assert reassembler.take(IPV4, first, 0, 0) is None
    later = 61_000_000
    assert reassembler.take(IPV4, rest[0], 0, later) is None  # the first one is too old
    assert reassembler.take(IPV4, rest[1], 0, later) is None
    found = reassembler.take(IPV4, first, 0, later)
    assert found is not None
    assert found.data == udp(DATA)
    assert reassembler.incomplete == 1


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(ipv4(udp(DATA)), 4), ipv4(ipv6(udp(DATA)), 41), ipv6(ipv4(udp(DATA)), 4), ipv6(ipv6(udp(DATA)), 41),
        ipv4(struct.pack(">HH", 0, IPV4) + ipv4(udp(DATA)), 47),
        ipv4(struct.pack(">HHIII", 0xB000, IPV6, 0, 1, 2) + ipv6(udp(DATA)), 47),
        ipv4(ipv4(ipv4(udp(DATA)), 4), 4),
    ],
)  # fmt: skip
def test_tunnels(packet: bytes) -> None:
    assert payloads(RAW, packet) == [DATA]


def test_a_fragmented_tunnel() -> None:
    outer = fragments4(ipv4(udp(DATA)), 1200, proto=4)
    assert payloads(RAW, *outer) == [DATA]


def test_tunnels_without_end() -> None:
    packet = udp(DATA)
    for _ in range(40):
        packet = ipv4(packet, 4 if packet[0] >> 4 == 4 else 17)
    assert payloads(RAW, packet) == []


def test_what_was_cut_is_known_to_be() -> None:
    whole = ipv4(udp(DATA))
    (datagram,) = taken(RAW, whole[:-100])
    assert (datagram.missing, len(datagram.data)) == (100, len(udp(DATA)) - 100)
    (datagram,) = taken(RAW, ipv6(udp(DATA))[:-1])
    assert datagram.missing == 1
    reassembler = Reassembler()
    for length in range(len(ipv6(udp(b"")))):
        taken(RAW, ipv6(udp(b""))[:length], whole[: min(length, 19)], reassembler=reassembler)
    assert reassembler.unreadable > 20


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_damaged_packets_raise_nothing(seed: int, flips: int) -> None:
    draw = random.Random(seed)
    reassembler = Reassembler()
    for packet in (*fragments4(udp(DATA), 1200), *fragments6(udp(DATA), 1200), ipv4(ipv6(udp(DATA)), 41)):
        damaged = bytearray(packet)
        for _ in range(flips):
            damaged[draw.randrange(60)] = draw.randrange(256)
        for linktype in (RAW, ETHERNET, NULL, SLL2):
            kind, at = network(linktype, bytes(damaged))
            datagram = reassembler.take(kind, bytes(damaged), at, 0)
            if datagram:
                segment(datagram)

"""pcap and pcapng files, of either byte order and any resolution of time."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.errors import FormatError
from sipdump_core.reading.capture.packets import Packet, is_capture, packets
from tests.core.reading.capture import frames
from tests.core.reading.capture.frames import BASE_US, ETHERNET, RAW, at, enhanced, interface, option, pcap, section

FRAME = frames.ethernet(frames.ipv4(frames.udp(frames.message())))


def read(data: bytes) -> list[Packet]:
    return list(packets(io.BytesIO(data)))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap(order: str, nanoseconds: bool) -> None:
    data = pcap(at([FRAME, FRAME]), ETHERNET, order, nanoseconds=nanoseconds)
    assert is_capture(data)
    assert read(data) == [
        Packet(ETHERNET, BASE_US, FRAME, len(FRAME)), Packet(ETHERNET, BASE_US + 1000, FRAME, len(FRAME)),
    ]  # fmt: skip


def test_a_link_type_with_the_length_of_check_sequences() -> None:
    assert read(pcap(at([FRAME]), 0x1000_0000 | RAW))[0].linktype == RAW


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng(order: str) -> None:
    packet = frames.Packet(FRAME, BASE_US + 7, comment="from the lab")
    data = section(order) + interface(RAW, order) + interface(ETHERNET, order) + enhanced(packet, order, 1)
    assert read(data) == [Packet(ETHERNET, BASE_US + 7, FRAME, len(FRAME), "from the lab")]


@pytest.mark.parametrize(
    ("resolution", "units"), [(b"\x03", 10**3), (b"\x06", 10**6), (b"\x09", 10**9), (b"\x94", 2**20)]
)
def test_resolutions_of_time(resolution: bytes, units: int) -> None:
    data = section() + interface(options=option("<", 9, resolution)) + enhanced(frames.Packet(FRAME), units=units)
    assert read(data)[0].time_us == BASE_US


def test_an_offset_of_time() -> None:
    options = option("<", 14, struct.pack("<q", 3600))
    assert read(section() + interface(options=options) + enhanced(frames.Packet(FRAME)))[0].time_us == (
        BASE_US + 3600 * 1_000_000
    )


def test_impossible_times_are_clamped() -> None:
    early = section() + interface(options=option("<", 14, struct.pack("<q", -(1 << 62))))
    late = section() + interface(options=option("<", 9, b"\x00"))
    assert read(early + enhanced(frames.Packet(FRAME)))[0].time_us == 0
    assert read(late + enhanced(frames.Packet(FRAME)))[0].time_us == (1 << 32) * 1_000_000 - 1


def test_several_sections_have_interfaces_of_their_own() -> None:
    one = section("<") + interface(ETHERNET, "<") + enhanced(frames.Packet(FRAME), "<")
    two = section(">") + interface(RAW, ">") + enhanced(frames.Packet(FRAME[14:], BASE_US + 1), ">")
    assert [(each.linktype, each.time_us) for each in read(one + two)] == [(ETHERNET, BASE_US), (RAW, BASE_US + 1)]


def test_old_and_simple_packet_blocks() -> None:
    high, low = BASE_US >> 32, BASE_US & 0xFFFFFFFF
    padded = FRAME + bytes(-len(FRAME) % 4)
    old = frames.block("<", 2, struct.pack("<HHIIII", 0, 0, high, low, len(FRAME), len(FRAME)) + padded)
    simple = frames.block("<", 3, struct.pack("<I", len(FRAME)) + padded)
    assert [(each.time_us, each.data) for each in read(section() + interface() + old + simple)] == [
        (BASE_US, FRAME), (0, FRAME),
    ]  # fmt: skip


def test_unknown_blocks_and_interfaces_are_passed_over() -> None:
    statistics = frames.block("<", 5, bytes(12))
    data = (
        section() + interface() + statistics + enhanced(frames.Packet(FRAME), number=9) + enhanced(frames.Packet(FRAME))
    )
    assert len(read(data)) == 1


@pytest.mark.parametrize("whole", [pcap(at([FRAME] * 2)), section() + interface() + enhanced(frames.Packet(FRAME)) * 2])
def test_a_torn_tail_ends_the_file(whole: bytes) -> None:
    assert len(read(whole)) == 2
    assert len(read(whole[:-1])) == 1
    for length in range(4, len(whole), 7):
        assert len(read(whole[:length])) <= 2


def test_a_packet_that_was_cut_says_so() -> None:
    (packet,) = read(pcap([frames.Packet(FRAME, captured=60)]))
    assert (len(packet.data), packet.length) == (60, len(FRAME))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"PK\x03\x04", b"hello, world",
        pcap([]) + struct.pack("<IIII", 1, 0, 1 << 30, 1 << 30),
        section() + struct.pack("<II", 6, 1 << 30),
        section() + struct.pack("<II", 6, 8),
        section() + struct.pack("<II", 6, 13),
        section() + frames.block("<", 1, b""),
    ],
)  # fmt: skip
def test_damage_is_named(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"damaged|neither"):
        read(data)


PIECES = st.lists(
    st.sampled_from([section("<"), section(">"), interface(), interface(order=">"), enhanced(frames.Packet(FRAME))])
    | st.binary(max_size=40),
    max_size=8,
)


@given(PIECES, st.sampled_from([b"", pcap([]), pcap([], order=">"), section(), section(">")]))
def test_nothing_but_a_format_error_is_raised(pieces: list[bytes], head: bytes) -> None:
    try:
        for packet in packets(io.BytesIO(head + b"".join(pieces))):
            assert 0 <= packet.time_us < (1 << 32) * 1_000_000
    except FormatError:
        pass

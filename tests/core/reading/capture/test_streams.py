"""SIP in TCP connections: put in order, cut into messages, taken out of WebSocket."""

import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.reading.capture.framing import Framing
from sipdump_core.reading.capture.streams import Stream
from tests.core.reading.capture.frames import FIN, RST, SYN, message, websocket

ONE, TWO, THREE = message("one@a", "hello\r\n"), message("two@a"), message("three@a", "=" * 5000)
ALL = ONE + TWO + THREE
MASK = b"\x11\x22\x33\x44"
UPGRADE = (
    b"GET /sip HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Protocol: sip\r\n\r\n"
)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def segments(data: bytes, size: int, start: int = 1000) -> list[tuple[int, bytes]]:
    return [(start + at, data[at : at + size]) for at in range(0, len(data), size)]


def taken(parts: Sequence[tuple[int, bytes]], stream: Stream | None = None, *, finish: bool = True) -> list[bytes]:
    stream = stream or Stream()
    found = []
    for number, (sequence, data) in enumerate(parts):
        found += [found for _, found in stream.take(sequence & 0xFFFFFFFF, 0, data, 0, number)]
    if finish:
        found += [found for _, found in stream.finish()]
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1460, 100_000])
def test_messages_and_segments_need_not_agree(size: int) -> None:
    assert taken(segments(ALL, size)) == [ONE, TWO, THREE]


def test_a_message_is_out_as_soon_as_it_is_whole() -> None:
    assert taken([(0, ONE), (len(ONE), TWO[:-1])], finish=False) == [ONE]


def test_line_ends_between_messages_belong_to_none() -> None:
    assert taken(segments(b"\r\n\r\n" + ONE + b"\r\n\r\n" + TWO + b"\r\n", 50)) == [ONE, TWO]


def test_segments_out_of_order_and_twice() -> None:
    parts = segments(ALL, 400)
    draw = random.Random(3)
    for _ in range(50):
        mixed = parts[1:] + draw.sample(parts, 5)
        draw.shuffle(mixed)
        assert taken([parts[0], *mixed]) == [ONE, TWO, THREE]


def test_retransmissions_that_overlap() -> None:
    parts = segments(ALL, 400)
    again = [(1000 + at, ALL[at : at + 777]) for at in range(0, len(ALL), 300)]
    mixed = [part for pair in zip(parts, again, strict=False) for part in pair] + again[len(parts) :]
    assert taken(mixed) == [ONE, TWO, THREE]


def test_sequence_numbers_wrap() -> None:
    for start in range((1 << 32) - len(ALL) - 1, (1 << 32) + 1, 97):
        assert taken(segments(ALL, 300, start)) == [ONE, TWO, THREE]
    parts = segments(ALL, 300, (1 << 32) - 900)
    assert taken([parts[0], *reversed(parts[1:])]) == [ONE, TWO, THREE]


def test_a_gap_costs_what_it_hits() -> None:
    stream = Stream()
    data = ONE + TWO + ONE + TWO
    hole = len(ONE) + 60
    assert taken([(0, data[:hole]), (hole + 20, data[hole + 20 :])], stream) == [ONE, ONE, TWO]
    assert (stream.lost, stream.truncated) == (20, 1)


def test_a_gap_that_many_segments_wait_behind_is_given_up() -> None:
    stream = Stream()
    waiting = segments(ONE * 300, 200, 5000)
    assert len(taken([(0, ONE), *waiting], stream, finish=False)) > 100
    assert stream.lost == 5000 - len(ONE)


def test_a_segment_that_is_late_comes_after_the_last_one() -> None:
    stream = Stream()
    found = []
    for number, (flags, sequence, data) in enumerate(
        [(SYN, 999, b""), (0, 1000, ONE), (FIN, 1000 + len(ONE + TWO), THREE), (0, 1000 + len(ONE), TWO)]
    ):
        found += list(stream.take(sequence, flags, data, 0, number))
    assert [data for _, data in found] == [ONE, TWO, THREE]
    assert [when for when, _ in found] == [1, 3, 3]  # the packet that completed it


def test_a_repeated_syn_begins_nothing_anew() -> None:
    stream = Stream()
    found = []
    for sequence, flags, data in [(999, SYN, b""), (1000, 0, ONE), (999, SYN, b""), (1000 + len(ONE), 0, TWO)]:
        found += [data for _, data in stream.take(sequence, flags, data, 0, 0)]
    assert found == [ONE, TWO]


def test_another_connection_between_the_same_ports() -> None:
    stream = Stream()
    parts = [(999, SYN, b""), (1000, 0, ONE), (1000 + len(ONE), 0, TWO[:50]), (0, RST, b""), (70_000, SYN, b"")]
    found = []
    for sequence, flags, data in [*parts, (70_001, 0, THREE)]:
        found += [data for _, data in stream.take(sequence, flags, data, 0, 0)]
    assert found == [ONE, THREE]
    assert stream.truncated == 1


def test_a_capture_that_begins_in_the_middle() -> None:
    assert taken(segments(ONE[80:] + TWO + THREE, 500)) == [TWO, THREE]
    assert taken(segments(b"\x00\xff" * 3000 + b"\r\n" + TWO, 500)) == [TWO]


def test_a_keep_alive_of_tcp_repeats_a_byte() -> None:
    assert taken([(1000, ONE), (999 + len(ONE), b"\0"), (1000 + len(ONE), TWO)]) == [ONE, TWO]


def test_without_content_length_the_next_start_line_ends_it() -> None:
    one, two = message("one@a", "hello\r\n", length=False), message("two@a", "bye", length=False)
    assert taken([(0, one + two)]) == [one, two]


def test_a_segment_that_was_cut() -> None:
    stream = Stream()
    found = [data for _, data in stream.take(0, 0, ONE + THREE[:300], len(THREE) - 300, 0)]
    found += [data for _, data in stream.take(len(ONE + THREE), 0, TWO, 0, 1)]
    assert found == [ONE, THREE[:300], TWO]
    assert stream.truncated == 1


def test_what_is_no_sip_is_passed_over() -> None:
    http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n"
    assert taken(segments(http + ONE, 13)) == [ONE]
    huge = b"INVITE sip:b SIP/2.0\r\nCall-ID: x\r\nContent-Length: 999999999\r\n\r\n\r\n"
    assert taken(segments(huge + ONE, 200)) == [ONE]


@pytest.mark.parametrize("mask", [b"", MASK])
@pytest.mark.parametrize("size", [1, 9, 5000])
@pytest.mark.parametrize("handshake", [b"", UPGRADE, SWITCHING])
def test_websocket(mask: bytes, size: int, handshake: bytes) -> None:
    large = message("large@a", "x" * 70_000)
    data = handshake + b"".join(websocket(each, mask=mask) for each in (ONE, TWO, large))
    stream = Stream()
    if not handshake and size == 1:  # bytes that tell nothing are no beginning
        data = websocket(ONE, mask=mask) + data
    found = taken(segments(data, size), stream)
    assert found[-3:] == [ONE, TWO, large]
    assert stream.proto == "ws"


def test_websocket_messages_in_several_frames() -> None:
    data = (
        UPGRADE
        + websocket(THREE[:100], mask=MASK, final=False)
        + websocket(b"ping", mask=MASK, opcode=9)
        + websocket(THREE[100:4000], mask=MASK, opcode=0, final=False)
        + websocket(THREE[4000:], mask=MASK, opcode=0)
        + websocket(TWO, mask=MASK, opcode=2)
        + websocket(b"\r\n\r\n", mask=MASK)
        + websocket(b"\x03\xe8", mask=MASK, opcode=8)
    )
    assert taken(segments(data, 333)) == [THREE, TWO]


def test_websocket_behind_a_gap() -> None:
    first, second, third = (websocket(each, mask=MASK) for each in (ONE, THREE, TWO))
    start = len(UPGRADE + first)
    parts = [(0, UPGRADE + first), (start, second[:1000]), (start + 2000, second[2000:]), (start + len(second), third)]
    assert taken(parts) == [ONE, TWO]


def test_plain_sip_after_websocket_between_the_same_ports() -> None:
    stream = Stream()
    found = []
    for sequence, flags, data in [
        (9, SYN, b""), (10, 0, UPGRADE + websocket(ONE, mask=MASK)), (99_999, SYN, b""), (100_000, 0, TWO),
    ]:  # fmt: skip
        found += [data for _, data in stream.take(sequence, flags, data, 0, 0)]
    assert found == [ONE, TWO]
    assert stream.proto == "tcp"


@given(
    st.lists(
        st.tuples(st.integers(0, 5000), st.binary(max_size=50) | st.sampled_from([ONE, TWO, UPGRADE])), max_size=20
    )
)
def test_of_any_segments_no_byte_comes_twice(parts: list[tuple[int, bytes]]) -> None:
    assert sum(map(len, taken(parts))) <= sum(len(data) for _, data in parts)


@given(
    st.lists(
        st.sampled_from([ONE, b"\x81", b"\x82\x7f", b"\r\n", b"A b SIP/2.0\n", b"GET ", UPGRADE, b"\0" * 9]),
        max_size=20,
    )
)
def test_no_byte_is_looked_at_for_ever(pieces: list[bytes]) -> None:
    framing = Framing()
    found = [message for piece in pieces for message in framing.take(piece)]
    framing.end()
    assert sum(map(len, found)) <= sum(map(len, pieces))


@pytest.mark.parametrize(
    "unit",
    [
        b"A b SIP/2.0\r\n", b"\n", b"A ", b"x", b"GET / HTTP/1.1\r\n", b"\x81\x7f\0\0\0\0\0\x0f\xff\xff",
        websocket(b"A b SIP/2.0\r\n", opcode=1, final=False), b"A b SIP/2.0\r\nContent-Length: 60000\r\n\r\n",
    ],
    ids=["start lines", "line ends", "words", "bytes", "http", "large frames", "unfinished frames", "bodies"],
)  # fmt: skip
def test_hostile_bytes_take_linear_time(unit: bytes) -> None:
    def spent(count: int) -> float:
        framing, began = Framing(), time.process_time()
        for piece in [unit * 5] * count:
            list(framing.take(piece))
        return time.process_time() - began

    spent(200)
    # a loaded machine may slow down one of them; where time grows with the square, each time it takes 64 times as long
    assert any(spent(16_000) < 16 * max(spent(2_000), 0.01) for _ in range(3))

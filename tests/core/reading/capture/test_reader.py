"""Captures become records: addresses, times, transports, and what is missing."""

import contextlib
import io
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.errors import FormatError
from sipdump_core.reading.capture.reader import CaptureCounts, read_capture
from sipdump_core.record import Record
from tests.core.reading.capture import frames
from tests.core.reading.capture.frames import A6, BASE_US, RAW, A, B, at, call_ids, ipv4, ipv6, message, pcap, tcp, udp


def read(data: bytes, node: str = "") -> tuple[list[Record], CaptureCounts]:
    counts = CaptureCounts()
    return list(read_capture(io.BytesIO(data), counts, node=node)), counts


def raw(packets: Iterable[bytes]) -> bytes:
    return pcap(at(packets), RAW)


def test_a_record_of_udp() -> None:
    (record,), counts = read(raw([ipv4(udp(message(), 5070, 5080))]), "lab")
    assert record == Record.of(
        message(), time_us=BASE_US, tag="cap", src_ip=A, src_port=5070, dst_ip=B, dst_port=5080, node="lab"
    )
    assert counts.whole
    assert (counts.packets, counts.records) == (1, 1)


def test_a_record_of_ipv6() -> None:
    (record,), _ = read(raw([ipv6(udp(message()))]))
    assert (record.af, record.src_ip) == ("ipv6", A6)


def test_a_record_of_tcp_has_the_time_of_the_packet_that_completed_it() -> None:
    data = message(body="x" * 2000)
    (record,), _ = read(raw([ipv4(tcp(1000, data[:1500]), 6), ipv4(tcp(2500, data[1500:]), 6)]))
    assert (record.proto, record.time_us, record.buf, record.src_port) == ("tcp", BASE_US + 1000, data, 5070)


def test_both_directions_are_streams_of_their_own() -> None:
    there, back = message("a@x"), message("b@x")
    packets = [
        ipv4(tcp(5, there[:40]), 6), ipv4(tcp(900, back, src_port=5060, dst_port=5070), 6, B, A),
        ipv4(tcp(45, there[40:]), 6),
    ]  # fmt: skip
    records, _ = read(raw(packets))
    assert [(record.call_id, record.src_ip) for record in records] == [("b@x", B), ("a@x", A)]


def test_websocket_is_named() -> None:
    (record,), _ = read(raw([ipv4(tcp(5, frames.websocket(message(), mask=b"abcd")), 6)]))
    assert record.proto == "ws"


def test_messages_behind_a_gap_come_at_the_end() -> None:
    one, two, three = (message(f"{n}@x") for n in range(3))
    packets = [ipv4(tcp(0, one), 6), ipv4(tcp(2 * len(one), three), 6), ipv4(udp(two))]
    records, counts = read(raw(packets))
    assert call_ids(records) == ["0@x", "1@x", "2@x"]
    assert [record.time_us - BASE_US for record in records] == [0, 2000, 1000]
    assert counts.lost == len(one)
    assert not counts.whole


def test_what_is_no_sip_is_no_record() -> None:
    rtp = b"\x80\x08" + bytes(160)
    records, counts = read(raw([ipv4(udp(rtp)), ipv4(udp(b"\r\n\r\n")), ipv4(b"ping", 1), ipv4(udp(message()))]))
    assert len(records) == 1
    assert (counts.packets, counts.other) == (4, 3)


def test_a_message_that_was_cut_is_kept_and_counted() -> None:
    data = message(body="x" * 500)
    cut = [frames.Packet(ipv4(udp(data)), captured=300), frames.Packet(ipv4(tcp(0, data), 6), captured=300)]
    records, counts = read(pcap(cut, RAW))
    assert [record.buf for record in records] == [data[: 300 - 28], data[: 300 - 40]]
    assert (counts.truncated, counts.lost) == (2, 0)


def test_packets_that_were_cut_in_their_headers() -> None:
    _, counts = read(pcap([frames.Packet(ipv6(udp(message())), captured=4)] * 3, RAW))
    assert counts.unreadable == 3


def test_fragments_that_are_missing() -> None:
    parts = frames.fragments4(udp(message(body="x" * 3000)), 1200)
    records, counts = read(raw([*parts[1:], *frames.fragments4(udp(message()), 200, ident=9)]))
    assert (len(records), counts.incomplete) == (1, 1)


def test_more_connections_than_are_kept_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.reading.capture.reader._MAX_CONNECTIONS", 10)
    packets = [ipv4(tcp(0, message(f"{port}@x"), src_port=port), 6) for port in range(1000, 1100)]
    behind = message("behind@x")
    records, counts = read(raw([ipv4(tcp(0, b"x", src_port=7), 6), ipv4(tcp(90, behind, src_port=7), 6), *packets]))
    assert len(records) == 101
    assert "behind@x" in call_ids(records)
    assert counts.lost == 89


def test_comments_of_ours_are_believed_where_they_make_sense() -> None:
    def one(comment: str) -> Record:
        packet = frames.Packet(ipv4(udp(message())), comment=comment)
        (record,), _ = read(frames.section() + frames.interface(RAW) + frames.enhanced(packet), "lab")
        return record

    record = one("tag=snd proto=wss pid=2738 procno=4 node=fra-1")
    assert (record.tag, record.proto, record.pid, record.procno, record.node) == ("snd", "wss", 2738, 4, "fra-1")
    for comment in ("tag=snd", "tag=snd proto=nosuch pid=1 procno=2", "my notes"):
        record = one(comment)
        assert (record.tag, record.proto, record.pid, record.node) == ("cap", "udp", 0, "lab")


@given(st.integers(0, 2**32), st.sampled_from([pcap, "ng"]))
def test_damaged_captures_raise_nothing_but_format_errors(seed: int, kind: object) -> None:
    draw = random.Random(seed)
    packets = at([
        frames.ethernet(ipv4(udp(message()))), frames.ethernet(ipv4(tcp(0, message()), 6)),
        *map(frames.ethernet, frames.fragments6(udp(message(body="x" * 999)), 512)),
        frames.ethernet(ipv4(tcp(len(message()), frames.websocket(message(), mask=b"abcd")), 6)),
    ])  # fmt: skip
    if kind == "ng":
        data = bytearray(frames.section() + frames.interface() + b"".join(map(frames.enhanced, packets)))
    else:
        data = bytearray(pcap(packets))
    for _ in range(draw.randrange(1, 30)):
        data[draw.randrange(4, len(data))] = draw.randrange(256)
    with contextlib.suppress(FormatError):
        read(bytes(data))

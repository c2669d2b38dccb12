"""Decoding HEP."""

import gc
import gzip
import struct
import tracemalloc
import weakref
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.errors import FormatError
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.sources import hep_decoder
from sipdump_core.sources.compression import inflate
from sipdump_core.sources.hep_decoder import HepDecoder
from tests.hep import SIP, chunk, frame, hep3, hep12
from tests.support import examples

PEER = ("192.0.2.1", 5060)
NOW = 1_795_386_432_000_000


def decoder(**options: object) -> HepDecoder:
    return HepDecoder(HepOptions(**options), ProcessTable(0))  # type: ignore[arg-type]  # a test's shorthand


def decode(data: bytes, peer: tuple[str, int] = PEER, **options: object) -> Record:
    (record,) = decoder(**options).decode(data, peer, NOW)
    return record


def test_a_packet_as_kamailio_sends_it() -> None:
    one = decode(hep3(extra=(chunk(12, struct.pack(">I", 77)), chunk(17, b"corr"))))
    assert (one.time_us, one.tag, one.pid, one.procno, one.proto, one.af) == (
        1_795_386_431_765_284, "snd", 0, 0, "udp", "ipv4",
    )  # fmt: skip
    assert (one.src_ip, one.src_port, one.dst_ip, one.dst_port) == ("192.0.2.1", 5060, "192.0.2.2", 5070)
    assert (one.buf, one.node) == (SIP, "77")


def test_strangers_fill_neither_the_table_nor_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hep_decoder, "_MAX_AGENTS", 3)
    monkeypatch.setattr(hep_decoder, "_MAX_TROUBLED", 3)
    table = ProcessTable(0)
    made = HepDecoder(HepOptions(), table)
    for number in range(10):
        made.decode(hep3(extra=(chunk(12, struct.pack(">I", number)),)), (f"192.0.2.{number}", 5060), NOW)
    assert table.render().count("HEP agent") == 3
    strict = decoder(auth_key="sekret")
    for number in range(10):
        assert not strict.decode(hep3(), (f"192.0.2.{number}", 5060), NOW)
    assert len(strict.troubles) == 3
    assert strict.counts["auth_failed"] == 10


def test_the_correlation_id_travels_with_each_record() -> None:
    """Also where packets are decoded by what was learned of earlier ones."""
    ids = [b"leg-1", b"leg-1", b"leg-2", None, b"leg-1", b"", None, b"a\nb\xff", b"leg-2"]
    packets = [hep3(extra=(chunk(17, each),) if each is not None else ()) for each in ids]
    one = decoder()
    records = [record for packet in packets for record in one.decode(packet, PEER, NOW)]
    expected = ["leg-1", "leg-1", "leg-2", "", "leg-1", "", "", "a?b\ufffd", "leg-2"]
    assert [record.correlation_id for record in records] == expected
    assert len({id(record.flow) for record in records}) == 1, "it is no part of the flow"


def test_all_messages_of_a_payload_have_its_correlation_id() -> None:
    message = b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n"
    records = decoder().decode(hep3(message * 2, proto=6, extra=(chunk(17, b"leg"),)), PEER, NOW)
    assert [record.correlation_id for record in records] == ["leg", "leg"]


def test_ipv6_and_the_node_name() -> None:
    one = decode(hep3(src=("2001:db8::1", 1), dst=("::1", 2), extra=(chunk(12, b"\0\0\0\7"), chunk(19, b"edge-1"))))
    assert (one.af, one.src_ip, one.dst_ip, one.node) == ("ipv6", "2001:db8::1", "::1", "edge-1")


@pytest.mark.parametrize(
    ("number", "proto"),
    [(17, "udp"), (6, "tcp"), (132, "sctp"), (22, "tls"), (50, "ws"), (51, "wss"), (99, "none")],
)
def test_transports(number: int, proto: str) -> None:
    assert decode(hep3(proto=number)).proto == proto


@pytest.mark.parametrize(
    ("src", "dst", "peer", "local", "tag"),
    [
        (("10.0.0.5", 5060), ("10.0.0.9", 5060), ("10.0.0.5", 5060), (), "snd"),
        (("10.0.0.9", 5060), ("10.0.0.5", 5060), ("10.0.0.5", 5060), (), "rcv"),
        # one address: the port decides
        (("127.0.0.1", 5060), ("127.0.0.1", 5070), ("127.0.0.1", 5070), (), "rcv"),
        (("127.0.0.1", 5070), ("127.0.0.1", 5060), ("127.0.0.1", 5070), (), "snd"),
        # the HEP socket has another port: the address alone decides
        (("10.0.0.5", 5060), ("10.0.0.9", 5060), ("10.0.0.5", 40000), (), "snd"),
        # IPv6 traffic reported from an IPv4 socket: the port alone
        (("2001:db8::5", 5060), ("2001:db8::9", 40000), ("10.0.0.5", 5060), (), "snd"),
        (("2001:db8::9", 40000), ("2001:db8::5", 5060), ("10.0.0.5", 5060), (), "rcv"),
        # both or neither side match at every step
        (("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 40000), (), "hep"),
        (("10.0.0.7", 5060), ("10.0.0.9", 5060), ("10.0.0.5", 5060), (), "hep"),
        # an address declared as the sender's own
        (("10.0.0.7", 5060), ("10.0.0.9", 5060), ("10.0.0.5", 5060), ("10.0.0.7",), "snd"),
        (("2001:db8::9", 1), ("2001:db8::7", 2), ("10.0.0.5", 3), ("2001:db8:0::7",), "rcv"),
        (("10.0.0.7", 5060), ("10.0.0.5", 5060), ("10.0.0.5", 5061), ("10.0.0.7",), "hep"),
    ],
)
def test_the_tag(
    src: tuple[str, int], dst: tuple[str, int], peer: tuple[str, int], local: tuple[str, ...], tag: str
) -> None:
    assert decode(hep3(src=src, dst=dst), peer, local=local).tag == tag


def test_the_default_tag_is_an_option() -> None:
    assert decode(hep3(), ("10.0.0.1", 1), tag="sniffed").tag == "sniffed"


def test_one_flow_is_shared_and_told_apart_by_peer() -> None:
    one = decoder()
    packets = [one.decode(hep3(), peer, NOW) for peer in (PEER, PEER, ("192.0.2.2", 5070))]
    first, second, third = (record for records in packets for record in records)
    assert first.flow is second.flow
    assert (first.tag, third.tag) == ("snd", "rcv")


@pytest.mark.parametrize(
    "packed",
    [zlib.compress(SIP), gzip.compress(SIP), zlib.compress(SIP)[2:-4]],
    ids=["zlib", "gzip", "deflate"],
)
def test_a_compressed_payload(packed: bytes) -> None:
    assert decode(hep3(None, extra=(chunk(16, packed),))).buf == SIP


def test_a_compressed_payload_beside_an_empty_one() -> None:
    assert decode(hep3(b"", extra=(chunk(16, zlib.compress(SIP)),))).buf == SIP


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_compressed_frame(compress: Any, level: int) -> None:
    assert decode(compress(hep3(), level)).buf == SIP


def test_several_frames_in_one_datagram() -> None:
    first, second = hep3(), hep3(b"second")
    for data in (
        first + second,
        gzip.compress(first + second),
        gzip.compress(first) + gzip.compress(second),
        first + second + b"tail",
    ):
        one = decoder()
        for _ in range(2):
            assert [record.buf for record in one.decode(data, PEER, NOW)] == [SIP, b"second"]
        assert one.counts == {"records": 4}


def test_a_damaged_frame_costs_the_others_of_its_datagram_nothing() -> None:
    good, bad = hep3(), frame(b"\0")
    for data in (good + bad, bad + good, good[:4] + b"\xff\xff" + good[6:]):
        one = decoder()
        if good in data:
            assert [record.buf for record in one.decode(data, PEER, NOW)] == [SIP]
            assert one.counts == {"records": 1, "malformed": 1}
        else:
            with pytest.raises(FormatError):
                one.decode(data, PEER, NOW)
    with pytest.raises(FormatError):
        decoder().decode(bad + bad, PEER, NOW)


def test_gzip_members_are_one_payload() -> None:
    packed = gzip.compress(SIP[:20]) + gzip.compress(SIP[20:])
    assert decode(hep3(None, extra=(chunk(16, packed),))).buf == SIP
    with pytest.raises(FormatError, match="grows past 1024 bytes"):
        inflate(gzip.compress(bytes(600)) * 2, 1024)


def test_what_inflates_too_far_is_refused() -> None:
    bomb = zlib.compress(bytes(50 << 20))
    with pytest.raises(FormatError, match="grows past 1048576 bytes"):
        decode(hep3(None, extra=(chunk(16, bomb),)))
    long = b"".join(b"<note>%d</note>" % n for n in range(5000))
    assert decode(hep3(None, extra=(chunk(16, zlib.compress(long, 9)),))).buf == long
    with pytest.raises(FormatError, match="grows past"):
        inflate(gzip.compress(bytes(70000)), 65535)


@pytest.mark.parametrize("size", [10_000, 60_000, 500_000])
def test_what_inflates_more_than_a_hundredfold_is_refused(size: int) -> None:
    """Within all limits of size, a small bomb would cost a thousand times what it costs to send."""
    bomb = zlib.compress(bytes(size), 9)
    for data in (hep3(None, extra=(chunk(16, bomb),)), bomb, gzip.compress(bytes(size))):
        with pytest.raises(FormatError, match="grows past"):
            decoder(max_message=1 << 20).decode(data, PEER, NOW)
    assert inflate(zlib.compress(bytes(4000)), 65535) == bytes(4000)


@pytest.mark.parametrize("data", [b"", b"xyz", zlib.compress(SIP)[:-7], b"\x1f\x8b", SIP])
def test_what_does_not_inflate(data: bytes) -> None:
    with pytest.raises(FormatError, match="neither zlib"):
        inflate(data, 1000)


def test_other_vendors_chunks_are_skipped() -> None:
    one = decode(hep3(extra=(chunk(15, b"not the payload", vendor=9), chunk(11, b"\5", vendor=1), chunk(999, b""))))
    assert one.buf == SIP


@pytest.mark.parametrize("kind", [5, 0x32, 100])
def test_what_is_not_sip_is_counted(kind: int) -> None:
    one = decoder()
    assert one.decode(hep3(kind=kind), PEER, NOW) == ()
    assert one.counts == {"not_sip": 1}


@pytest.mark.parametrize("buf", [b"\r\n\r\n", b"\0", b"\r\n", b"\0\0\0\0", b"", None])
def test_keepalives_are_counted(buf: bytes | None) -> None:
    one = decoder()
    assert one.decode(hep3(buf, extra=(chunk(13, b"\0\x1e"),)), PEER, NOW) == ()
    assert one.counts == {"keepalive": 1}


def test_garbage_payload_is_kept() -> None:
    assert decode(hep3(b"\r\n garbage \0\xff")).buf == b"\r\n garbage \0\xff"


@pytest.mark.parametrize("given_key", [None, b"", b"wrong", b"sekre", b"sekret1"])
def test_a_wrong_auth_key_is_counted(given_key: bytes | None) -> None:
    one = decoder(auth_key="sekret")
    extra = () if given_key is None else (chunk(14, given_key),)
    assert one.decode(hep3(extra=extra), PEER, NOW) == ()
    assert one.decode(hep12(2), PEER, NOW) == ()
    assert one.counts == {"auth_failed": 2}
    assert decode(hep3(extra=(chunk(14, b"sekret"),)), auth_key="sekret").buf == SIP
    assert decode(hep3(extra=extra)).buf == SIP


@pytest.mark.parametrize("seconds", [0, 1_795_386_432 - 86402, 1_795_386_432 + 86402, 4_294_967_295])
def test_a_mad_clock_gets_the_receive_time(seconds: int) -> None:
    one = decoder()
    (record,) = one.decode(hep3(seconds=seconds, micros=0), PEER, NOW)
    assert record.time_us == NOW
    assert one.counts["time_replaced"] == 1
    assert decode(hep3(seconds=seconds, micros=0), time_window=0).time_us == seconds * 1_000_000


def test_a_sane_clock_is_believed() -> None:
    assert decode(hep3(seconds=1_795_386_432 - 86400, micros=0)).time_us == NOW - 86_400_000_000
    assert decode(hep3(seconds=1_795_386_432 - 11, micros=0), time_window=10).time_us == NOW


def test_without_a_time_the_receive_time_counts() -> None:
    assert decode(frame(chunk(15, SIP))).time_us == NOW


def test_without_addresses_there_are_zeros() -> None:
    one = decode(frame(chunk(15, SIP)))
    assert (one.af, one.src_ip, one.src_port, one.proto) == ("ipv4", "0.0.0.0", 0, "none")


def test_an_ipv6_address_of_four_bytes_is_missing() -> None:
    # FreeSWITCH copies four bytes of it: the rest is not known
    one = decode(frame(chunk(1, b"\n"), chunk(5, b"\x20\x01\x0d\xb8"), chunk(6, bytes(16)), chunk(15, SIP)))
    assert (one.af, one.src_ip) == ("ipv6", "::")


MAPPED = bytes(10) + b"\xff\xff"


@pytest.mark.parametrize(
    ("family", "src", "dst", "expected"),
    [
        # mapped IPv4 is IPv4, in a chunk for IPv6 and in one for IPv4
        (10, (5, MAPPED + b"\xc0\0\2\1"), (6, MAPPED + b"\xc0\0\2\2"), ("ipv4", "192.0.2.1", "192.0.2.2")),
        (2, (3, MAPPED + b"\xc0\0\2\1"), (4, MAPPED + b"\xc0\0\2\2"), ("ipv4", "192.0.2.1", "192.0.2.2")),
        # other 16 bytes are IPv6, wherever
        (10, (3, b"\x20\1" + bytes(13) + b"\1"), (4, b"\x20\1" + bytes(13) + b"\2"), ("ipv6", "2001::1", "2001::2")),
        # one end is missing or unspecified: the other one's family
        (10, (5, bytes(16)), (6, MAPPED + b"\xc0\0\2\2"), ("ipv4", "0.0.0.0", "192.0.2.2")),
        (2, (3, bytes(4)), (4, b"\x20\1" + bytes(13) + b"\2"), ("ipv6", "::", "2001::2")),
        # each end in a chunk of the other family's
        (2, (3, b"\xc0\0\2\1"), (6, MAPPED + b"\xc0\0\2\2"), ("ipv4", "192.0.2.1", "192.0.2.2")),
        (10, (5, MAPPED + b"\xc0\0\2\1"), (4, b"\xc0\0\2\2"), ("ipv4", "192.0.2.1", "192.0.2.2")),
        (10, (5, b"\x20\1" + bytes(13) + b"\1"), (4, b"\x20\1" + bytes(13) + b"\2"), ("ipv6", "2001::1", "2001::2")),
        # truly of both families: nothing is lost
        (10, (5, MAPPED + b"\xc0\0\2\1"), (6, b"\x20\1" + bytes(13) + b"\2"), ("ipv6", "::ffff:192.0.2.1", "2001::2")),
    ],
)
def test_addresses(family: int, src: tuple[int, bytes], dst: tuple[int, bytes], expected: tuple[str, str, str]) -> None:
    one = decode(frame(chunk(1, bytes([family])), chunk(*src), chunk(*dst), chunk(15, SIP)))
    assert (one.af, one.src_ip, one.dst_ip) == expected


@pytest.mark.parametrize("size", [0, 1, 3, 5, 8, 15, 17])
@pytest.mark.parametrize("kind", [3, 5])
def test_an_address_of_an_impossible_size_is_missing_and_counted(kind: int, size: int) -> None:
    one = decoder()
    packet = frame(chunk(kind, b"\1\2\3\4\5" * 4)[:4] + struct.pack(">H", size + 6) + b"\1" * size, chunk(15, SIP))
    for count in (1, 2):
        (record,) = one.decode(packet, PEER, NOW)
        assert record.flow.src_ip == ("0.0.0.0" if kind == 3 else "::")
        assert one.counts["bad_chunks"] == count


def test_mapped_addresses_in_version_2() -> None:
    one = decode(hep12(2, src=("::ffff:192.0.2.1", 5060), dst=("::ffff:192.0.2.2", 5070)))
    assert (one.af, one.src_ip, one.dst_ip, one.tag) == ("ipv4", "192.0.2.1", "192.0.2.2", "snd")


@pytest.mark.parametrize(
    ("kind", "value", "name", "expected"),
    [
        (7, b"\1\2\3", "src_port", 258),
        (8, b"\1\2\3\4", "dst_port", 258),
        (2, b"\x06\0", "proto", "tcp"),
        (12, b"\0\0\0\7\0", "node", "7"),
        (7, b"\1", "src_port", 0),
        (8, b"", "dst_port", 0),
        (2, b"", "proto", "none"),
        (12, b"\0\7", "node", ""),
    ],
)
def test_of_a_number_that_is_too_long_the_first_bytes_count_and_one_too_short_is_missing(
    kind: int, value: bytes, name: str, expected: object
) -> None:
    one = decoder()
    (record,) = one.decode(hep3(extra=(chunk(kind, value),)), PEER, NOW)
    assert getattr(record, name) == expected
    short = len(value) < {7: 2, 8: 2, 2: 1, 12: 4}[kind]
    assert one.counts["bad_chunks"] == short


def test_a_time_that_is_too_short_is_missing() -> None:
    assert decode(hep3(extra=(chunk(9, b"\1\2\3"),))).time_us == NOW
    assert decode(hep3(extra=(chunk(9, struct.pack(">I", 1_795_386_431) + b"\0"),))).time_us == 1_795_386_431_765_284


@pytest.mark.parametrize("micros", [1_000_000, 0xFFFFFFFF])
@pytest.mark.parametrize("window", [0, 86400])
def test_impossible_microseconds_are_a_bad_time(micros: int, window: int) -> None:
    one = decoder(time_window=window)
    for data in (hep3(micros=3), hep3(micros=micros), hep12(2, time=(1_795_386_431, micros, 1))):
        (record,) = one.decode(data, PEER, NOW)
        assert record.time_us == (NOW if data != hep3(micros=3) else 1_795_386_431_000_003)
    assert one.counts["time_replaced"] == 2
    assert one.troubles == {("time_replaced", PEER[0]): 2}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("time_", [(1_571_254_062, 44_436, 1), (1_621_417_841, 225_075, 65535), (1_795_000_000, 0, 9)])
def test_version_2_with_a_window_of_0_takes_all_times(order: str, time_: tuple[int, int, int]) -> None:
    one = decode(hep12(2, time=time_, order=order), time_window=0)
    assert (one.time_us, one.node) == (time_[0] * 1_000_000 + time_[1], str(time_[2]))


@pytest.mark.parametrize("length", [16, 17, 24, 25, 26, 27])
@pytest.mark.parametrize(("padding", "buf"), [(b"", SIP), (b"\0\0", SIP), (b"ab", SIP), (b"\0\0", b"{}"), (b"", b"{}")])
def test_version_2_does_not_believe_a_header_length_that_is_too_short(length: int, padding: bytes, buf: bytes) -> None:
    data = bytearray(hep12(2, buf, padding=padding))
    data[1] = length
    one = decode(bytes(data))
    assert (one.buf, one.node) == (buf, "77")


@pytest.mark.parametrize(
    "buf", [b"\nOPTIONS sip:x SIP/2.0\n\n", b"\r\nno SIP", b"<xml/>", b"\xe8 sip:x SIP/2.0\r\n\r\n"]
)
@pytest.mark.parametrize("padding", [b"", b"\0\0", b"\x17\0"])
def test_version_2_loses_nothing_of_what_does_not_begin_as_a_message(buf: bytes, padding: bytes) -> None:
    assert decode(hep12(2, buf, padding=padding)).buf == buf


@pytest.mark.parametrize(
    "start", [b"!interesting-Method", b"%ae", b"\r\n\r\nOPTIONS", b"\r\nOPTIONS", b"X", b"'", b"OPTIONS", b"-a", b"0"]
)
@pytest.mark.parametrize("padding", [b"", b"\0\0", b"\x17\x99", b"\xff\0"])
def test_version_2_loses_nothing_of_a_message(start: bytes, padding: bytes) -> None:
    buf = start + b" sip:x SIP/2.0\r\nCall-ID: 1\r\n\r\n"
    assert decode(hep12(2, buf, padding=padding)).buf == buf


def test_type_0_with_sip_is_sip() -> None:
    one = decoder()
    assert len(one.decode(hep3(kind=0), PEER, NOW)) == 1
    assert one.decode(hep3(b'{"event": "SIP/2.0 200 OK"}', kind=0), PEER, NOW) == ()
    assert len(one.decode(hep3(b"SIP/2.0 200 OK\r\n\r\n", kind=0), PEER, NOW)) == 1
    assert len(one.decode(hep3(b"OPTIONS  sip:x  SIP/2.0 \r\n\r\n", kind=0), PEER, NOW)) == 1
    assert one.counts == {"records": 3, "not_sip": 1}


@pytest.mark.parametrize(("number", "expected"), [(6, "ws"), (22, "ws"), (17, "udp"), (50, "ws"), (51, "wss")])
def test_websocket_is_what_the_top_via_says(number: int, expected: str) -> None:
    """Kamailio reports 22 for what came over WebSocket, and 6 or 22 for what went out."""
    request = b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/WS df7.invalid:5060;branch=z9\r\nVia: SIP/2.0/TCP a\r\n\r\n"
    for buf in (request, request.replace(b"OPTIONS sip:x SIP/2.0", b"SIP/2.0 200 OK"), request.replace(b"/WS", b"/ws")):
        assert decode(hep3(buf, proto=number)).proto == expected
    one = decoder()
    protos = [
        one.decode(hep3(request.replace(b"/WS", transport), proto=22), PEER, NOW)[0].flow.proto
        for transport in (b"/TLS", b"/WSS", b"/TLS", b"/WS")
    ]
    assert protos == ["tls", "wss", "tls", "ws"]


@pytest.mark.parametrize("number", [6, 22])
def test_several_messages_in_one_payload_of_a_stream(number: int) -> None:
    first, second = SIP.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"), SIP
    one = decoder()
    for _ in range(3):
        records = one.decode(hep3(first + second, proto=number), PEER, NOW)
        assert [record.buf for record in records] == [first, second]
        assert records[0].flow is records[1].flow
    assert one.counts == {"records": 6}
    assert decode(hep3(first + second)).buf == first + second, "a datagram is one message"


def test_hostile_text_cannot_forge_lines() -> None:
    one = decode(hep3(extra=(chunk(19, b"n\n\xff\0" + b"x" * 500),)))
    assert one.node.isprintable()
    assert len(one.node) == 200


def test_agents_are_listed_once() -> None:
    table = ProcessTable(0)
    one = HepDecoder(HepOptions(), table)
    for port in range(5):
        one.decode(
            hep3(src=("192.0.2.1", port), extra=(chunk(12, b"\0\0\0\7"), chunk(19, b"e1"))), ("192.0.2.1", port), NOW
        )
    one.decode(hep12(1), ("192.0.2.9", 1), NOW)
    assert table.render().splitlines()[3:] == [
        "nrprocs: 2",
        "process: 0 0 HEP agent id=7 node=e1 peer=192.0.2.1",
        "process: 1 0 HEP agent peer=192.0.2.9",
    ]


def test_version_1() -> None:
    one = decode(hep12(1))
    assert (one.time_us, one.buf, one.src_ip, one.dst_port, one.proto, one.node) == (
        NOW,
        SIP,
        "192.0.2.1",
        5070,
        "udp",
        "",
    )
    six = decode(hep12(1, src=("2001:db8::1", 5), dst=("::1", 6), proto=6))
    assert (six.af, six.src_ip, six.proto, six.buf) == ("ipv6", "2001:db8::1", "tcp", SIP)


@pytest.mark.parametrize("src", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("padding", "counted"),
    [(b"\0\0", False), (b"\x17\x99", False), (b"", False), (b"\0\0", True), (b"", True)],
)
def test_version_2(src: str, order: str, padding: bytes, counted: bool) -> None:
    dst = "::1" if ":" in src else "192.0.2.2"
    one = decode(hep12(2, src=(src, 5060), dst=(dst, 5070), order=order, padding=padding, counted=counted))
    assert (one.time_us, one.buf, one.src_ip, one.node) == (1_795_386_431_765_284, SIP, src, "77")


def test_version_2_with_a_mad_clock() -> None:
    one = decoder()
    (record,) = one.decode(hep12(2, time=(5, 5, 77)), PEER, NOW)
    assert (record.time_us, record.node) == (NOW, "77")
    assert one.counts["time_replaced"] == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"H",
        b"HEP",
        b"HEP3",
        b"HEP3\0",
        b"HEP3\0\5",
        b"HEP3\xff\xff",
        b"HEP4" + hep3()[4:],
        b"\x03\x10" + bytes(20),
        hep3()[:-1],
        frame(b"\0"),
        frame(struct.pack(">HHH", 0, 15, 5) + SIP),
        frame(struct.pack(">HHH", 0, 15, 0)),
        frame(struct.pack(">HHH", 0, 15, 65535) + SIP),
        b"\x01",
        hep12(1)[:15],
        hep12(2)[:20],
        b"\x01\x08" + hep12(1)[2:],
        b"\x01\xff" + hep12(1)[2:],
        b"\x01\x10\x63" + hep12(1)[3:],
        SIP,
        b"\x1f\x8b\x08",
        gzip.compress(b"no hep", mtime=0),
    ],
)
def test_a_malformed_packet_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decoder().decode(data, PEER, NOW)


@examples(200)
@given(st.data())
def test_any_bytes_give_a_record_nothing_or_a_format_error(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([hep3(), hep12(1), hep12(2), gzip.compress(hep3(), mtime=0), b""]))
    raw = bytearray(base)
    for _ in range(data.draw(st.integers(0, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] + data.draw(st.binary(max_size=20))
    try:
        records = decoder().decode(bytes(raw), PEER, NOW)
    except FormatError:
        return
    assert all(isinstance(record, Record) for record in records)


def hog(number: int, kind: str) -> bytes:
    """Make a packet that is dear to remember."""
    long = b"%08d" % number + bytes(60_000)
    extra = {"vendor": chunk(5, long, vendor=7), "node": chunk(19, long), "link": chunk(17, long)}
    via = b"Via: SIP/2.0/UDP 127.0.0.1:%d;branch=%s\r\n" % (number + 1, b"%08d" % number + b"z" * 60_000)
    if kind != "branch":
        return hep3(extra=(extra[kind],))
    return hep3(b"BYE sip:x SIP/2.0\r\n" + via + b"\r\n", src=("127.0.0.1", number + 1), dst=("127.0.0.1", 9))


@pytest.mark.parametrize("kind", ["vendor", "node", "link", "branch"])
@pytest.mark.parametrize("peers", [1, 100])
def test_memory_is_bounded_in_bytes_over_all_peers(kind: str, peers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hep_decoder, "_MEMORY", 1 << 20)
    one = decoder()
    host = "127.0.0.1" if kind == "branch" else "192.0.2.77"
    tracemalloc.start()
    try:
        for number in range(100):
            one.decode(hog(number, kind), (host, number % peers), NOW)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert one._peers.size <= 1 << 20
    assert held < 2 << 20, "100 packets brought 6 MB"


def test_a_peer_is_forgotten_and_strangers_cost_a_regular_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hep_decoder, "_MEMORY", 1 << 20)
    one = decoder()
    (first,) = one.decode(hep3(), PEER, NOW)
    for number in range(100):
        one.decode(hog(number, "node"), ("192.0.2.77", number), NOW)
        (again,) = one.decode(hep3(), PEER, NOW)
        assert again.flow is first.flow
    known = weakref.ref(one._peers[PEER])
    one.forget(PEER)
    assert known() is None, "it waits for no garbage collector"
    for number in range(100):
        one.forget(("192.0.2.77", number))
    assert (one._peers.size, len(one._peers)) == (0, 0)


def test_the_key_is_looked_at_before_anything_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def dear(*_: object) -> Any:
        raise AssertionError("a stranger caused this")

    one = decoder(auth_key="sekret")
    stranger = hep3(extra=(chunk(14, b"wrong!"), chunk(16, zlib.compress(SIP))))
    with monkeypatch.context() as patched:
        for name in ("read_chunks", "inflate", "top_via", "split_messages"):
            patched.setattr(hep_decoder, name, dear, raising=False)
        for data in (stranger, zlib.compress(stranger), gzip.compress(stranger), stranger * 3, stranger[:-1]):
            assert not one.decode(data, PEER, NOW)
    assert set(one.counts) == {"auth_failed"}
    assert not one._peers
    friend = hep3(extra=(chunk(14, b"wrong!", vendor=3), chunk(14, b"sekret")))
    for data in (friend, zlib.compress(friend), gzip.compress(friend)):
        assert [record.buf for record in one.decode(data, PEER, NOW)] == [SIP]
    last = hep3(SIP, extra=(chunk(19, b"n" * 3000), chunk(14, b"sekret")))
    assert len(one.decode(gzip.compress(last), PEER, NOW)) == 1, "the key may stand late"


def test_a_frame_is_cut_out_of_its_datagram_before_its_key_is_looked_for() -> None:
    one = decoder(auth_key="sekret")
    good, bad = hep3(extra=(chunk(14, b"sekret"),)), hep3(b"bad", extra=(chunk(14, b"wrong!"),))
    assert [record.buf for record in one.decode(bad + good + bad, PEER, NOW)] == [SIP]
    assert one.counts == {"auth_failed": 2, "records": 1}


variations = st.fixed_dictionaries(
    {
        "buf": st.sampled_from([SIP, b"x", b"\r\n\r\n", b"", b"y" * 300]),
        "src": st.sampled_from([("192.0.2.1", 5060), ("192.0.2.1", 5061), ("2001:db8::1", 5060)]),
        "seconds": st.sampled_from([1_795_386_431, 1_795_386_430, 0]),
        "micros": st.integers(0, 999_999),
        "kind": st.sampled_from([1, 1, 1, 5]),
        "extra": st.sampled_from(
            [
                (),
                (chunk(12, b"\0\0\0\7"),),
                (chunk(14, b"sekret"),),
                (chunk(14, b"wrong!"),),
                (chunk(19, b"node"), chunk(17, b"corr")),
                (chunk(15, b"another payload"),),
                (chunk(9, b"\0\0\0\1"),),
            ]
        ),
    }
)


@examples(150)
@given(st.lists(variations, min_size=1, max_size=12), st.sampled_from(["", "sekret"]), st.integers(-3, 3))
def test_what_came_before_changes_nothing(drawn: list[dict[str, Any]], key: str, cut: int) -> None:
    """The decoder remembers layouts; each packet must decode as by a decoder that has seen none."""
    old = decoder(auth_key=key)
    for values in drawn:
        dst = ("::1", 1) if ":" in values["src"][0] else ("192.0.2.9", 1)
        data = hep3(dst=dst, **values)
        for packet in (data, data + b"tail", data[:cut] if cut < 0 else data[:4] + b"\0" + data[5:]):
            results: list[object] = []
            for one in (old, decoder(auth_key=key)):
                try:
                    results.append(list(one.decode(packet, PEER, NOW)))
                except FormatError:
                    results.append(FormatError)
            assert results[0] == results[1]

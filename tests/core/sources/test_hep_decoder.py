"""Decoding HEP."""

import gzip
import struct
import time
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipdump_core.errors import FormatError
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.sources.hep import split_frames
from sipdump_core.sources.hep_decoder import HepDecoder, inflate
from tests.hep import SIP, chunk, frame, hep3, hep12

PEER = ("192.0.2.1", 5060)
NOW = 1_795_386_432_000_000


def decoder(**options: object) -> HepDecoder:
    return HepDecoder(HepOptions(**options), ProcessTable(0))  # type: ignore[arg-type]  # a test's shorthand


def decode(data: bytes, peer: tuple[str, int] = PEER, **options: object) -> Record:
    record = decoder(**options).decode(data, peer, NOW)
    assert record is not None
    return record


def test_a_packet_as_kamailio_sends_it() -> None:
    one = decode(hep3(extra=(chunk(12, struct.pack(">I", 77)), chunk(17, b"corr"))))
    assert (one.time_us, one.tag, one.pid, one.procno, one.proto, one.af) == (
        1_795_386_431_765_284, "snd", 0, 0, "udp", "ipv4",
    )  # fmt: skip
    assert (one.src_ip, one.src_port, one.dst_ip, one.dst_port) == ("192.0.2.1", 5060, "192.0.2.2", 5070)
    assert (one.buf, one.node) == (SIP, "77")


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
    first, second, third = (one.decode(hep3(), peer, NOW) for peer in (PEER, PEER, ("192.0.2.2", 5070)))
    assert first
    assert second
    assert third
    assert first.flow is second.flow
    assert (first.tag, third.tag) == ("snd", "rcv")


@pytest.mark.parametrize(
    "packed",
    [zlib.compress(SIP), gzip.compress(SIP), zlib.compress(SIP)[2:-4]],
    ids=["zlib", "gzip", "deflate"],
)
def test_a_compressed_payload(packed: bytes) -> None:
    assert decode(hep3(None, extra=(chunk(16, packed),))).buf == SIP


def test_a_compressed_frame() -> None:
    assert decode(gzip.compress(hep3())).buf == SIP


def test_what_inflates_too_far_is_refused() -> None:
    bomb = zlib.compress(bytes(50 << 20))
    with pytest.raises(FormatError, match="grows past 1048576 bytes"):
        decode(hep3(None, extra=(chunk(16, bomb),)))
    assert len(decode(hep3(None, extra=(chunk(16, zlib.compress(b"x" * 70000)),))).buf) == 70000
    with pytest.raises(FormatError, match="grows past"):
        inflate(gzip.compress(bytes(70000)), 65535)


@pytest.mark.parametrize("data", [b"", b"xyz", zlib.compress(SIP)[:-7], b"\x1f\x8b", SIP])
def test_what_does_not_inflate(data: bytes) -> None:
    with pytest.raises(FormatError, match="neither zlib"):
        inflate(data, 1000)


def test_other_vendors_chunks_are_skipped() -> None:
    one = decode(hep3(extra=(chunk(15, b"not the payload", vendor=9), chunk(11, b"\5", vendor=1), chunk(999, b""))))
    assert one.buf == SIP


@pytest.mark.parametrize("kind", [0, 5, 0x32, 100])
def test_what_is_not_sip_is_counted(kind: int) -> None:
    one = decoder()
    assert one.decode(hep3(kind=kind), PEER, NOW) is None
    assert one.counts == {"not_sip": 1}


@pytest.mark.parametrize("buf", [b"\r\n\r\n", b"\0", b"\r\n", b"\0\0\0\0", b"", None])
def test_keepalives_are_counted(buf: bytes | None) -> None:
    one = decoder()
    assert one.decode(hep3(buf, extra=(chunk(13, b"\0\x1e"),)), PEER, NOW) is None
    assert one.counts == {"keepalive": 1}


def test_garbage_payload_is_kept() -> None:
    assert decode(hep3(b"\r\n garbage \0\xff")).buf == b"\r\n garbage \0\xff"


@pytest.mark.parametrize("given_key", [None, b"", b"wrong", b"sekre", b"sekret1"])
def test_a_wrong_auth_key_is_counted(given_key: bytes | None) -> None:
    one = decoder(auth_key="sekret")
    extra = () if given_key is None else (chunk(14, given_key),)
    assert one.decode(hep3(extra=extra), PEER, NOW) is None
    assert one.decode(hep12(2), PEER, NOW) is None
    assert one.counts == {"auth_failed": 2}
    assert decode(hep3(extra=(chunk(14, b"sekret"),)), auth_key="sekret").buf == SIP
    assert decode(hep3(extra=extra)).buf == SIP


@pytest.mark.parametrize("seconds", [0, 1_795_386_432 - 86402, 1_795_386_432 + 86402, 4_294_967_295])
def test_a_mad_clock_gets_the_receive_time(seconds: int) -> None:
    one = decoder()
    record = one.decode(hep3(seconds=seconds, micros=0), PEER, NOW)
    assert record
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


def test_an_ipv6_address_of_four_bytes_is_filled_up() -> None:
    # FreeSWITCH copies four bytes of it
    one = decode(frame(chunk(1, b"\n"), chunk(5, b"\x20\x01\x0d\xb8"), chunk(6, bytes(16)), chunk(15, SIP)))
    assert (one.af, one.src_ip) == ("ipv6", "2001:db8::")


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
    record = one.decode(hep12(2, time=(5, 5, 77)), PEER, NOW)
    assert record
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
        frame(chunk(7, b"\1\0\0\0"), chunk(15, SIP)),
        b"\x01",
        hep12(1)[:15],
        hep12(2)[:20],
        b"\x01\x08" + hep12(1)[2:],
        b"\x01\xff" + hep12(1)[2:],
        b"\x01\x10\x63" + hep12(1)[3:],
        hep3(extra=(chunk(12, b"\x01" * 4000),)),
        hep3(extra=(chunk(9, bytes(8)),)),
        hep3(extra=(chunk(2, b"\0\x11"),)),
        SIP,
        b"\x1f\x8b\x08",
        gzip.compress(b"no hep", mtime=0),
    ],
)
def test_a_malformed_packet_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decoder().decode(data, PEER, NOW)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_bytes_give_a_record_nothing_or_a_format_error(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([hep3(), hep12(1), hep12(2), gzip.compress(hep3(), mtime=0), b""]))
    raw = bytearray(base)
    for _ in range(data.draw(st.integers(0, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] + data.draw(st.binary(max_size=20))
    try:
        record = decoder().decode(bytes(raw), PEER, NOW)
    except FormatError:
        return
    assert record is None or isinstance(record, Record)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=8), st.integers(1, 50))
def test_a_stream_is_cut_into_its_frames_however_it_arrives(bufs: list[bytes], step: int) -> None:
    stream = b"".join(frame(chunk(15, buf)) for buf in bufs)
    buffer = bytearray()
    found: list[bytes | FormatError] = []
    for at in range(0, len(stream), step):
        buffer += stream[at : at + step]
        found += split_frames(buffer)
    assert found == [frame(chunk(15, buf)) for buf in bufs]
    assert not buffer


def test_garbage_that_looks_like_frames_is_passed_over_quickly() -> None:
    buffer = bytearray(b"HEP3\0\0" * 100_000 + hep3())
    start = time.process_time()
    found = list(split_frames(buffer))
    assert time.process_time() - start < 5
    assert [type(f) for f in found] == [FormatError, bytes]


def test_a_stream_goes_on_behind_garbage() -> None:
    buffer = bytearray(hep3() + b"garbage HE" + hep3() + b"HEP3\0\1" + hep3() + b"x" * 1000)
    found = list(split_frames(buffer))
    assert [f for f in found if isinstance(f, bytes)] == [hep3()] * 3
    assert sum(isinstance(f, FormatError) for f in found) == 3
    assert len(buffer) < 6


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b"HEP3", b"EEP3", b"HEP3\0\6", hep3()])), max_size=10)
)
def test_any_stream_ends_and_memory_is_bounded(parts: list[bytes]) -> None:
    buffer = bytearray()
    for part in parts:
        buffer += part
        for _ in split_frames(buffer):
            pass
        assert len(buffer) <= 65535


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


@settings(max_examples=300, deadline=None)
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
                    results.append(one.decode(packet, PEER, NOW))
                except FormatError:
                    results.append(FormatError)
            assert results[0] == results[1]

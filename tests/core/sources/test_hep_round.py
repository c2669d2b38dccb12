"""Decoding a round of packets: the same as decoding them one by one."""

import gzip
import mmap
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.sources.hep_round import Address, RoundDecoder
from tests.hep import SIP, chunk, hep3, hep12
from tests.support import examples

PEERS = [("192.0.2.1", 5060), ("192.0.2.1", 5061), ("2001:db8::1", 9)]
NOW = 1_795_386_432_000_000
STRIDE = 8192
SLOTS = 16

Packet = tuple[Address, bytes]
Outcome = list[Record | tuple[Address, str]]


class Rounds:
    """Decodes in rounds, from one buffer that is used again and again."""

    def __init__(self, **options: Any) -> None:
        self.decoder = RoundDecoder(HepOptions(**options), ProcessTable(0))
        self.buffer = mmap.mmap(-1, SLOTS * STRIDE)

    def decode(self, packets: Sequence[Packet]) -> tuple[list[Record], list[tuple[Address, str]]]:
        places = range(0, SLOTS * STRIDE, STRIDE)
        for (_, data), at in zip(packets, places, strict=False):
            self.buffer[at : at + len(data)] = data  # what was there before stays behind it, as with the kernel
        faults: list[tuple[Address, str]] = []
        spans = ((peer, at, len(data)) for (peer, data), at in zip(packets, places, strict=False))

        def refuse(peer: Address, error: Exception) -> None:
            faults.append((peer, str(error)))

        return self.decoder.decode_round(self.buffer, spans, NOW, refuse), faults


class OneByOne:
    def __init__(self, **options: Any) -> None:
        self.decoder = RoundDecoder(HepOptions(**options), ProcessTable(0))

    def decode(self, packets: Sequence[Packet]) -> tuple[list[Record], list[tuple[Address, str]]]:
        records: list[Record] = []
        faults: list[tuple[Address, str]] = []
        for peer, data in packets:
            try:
                records += self.decoder.decode(data, peer, NOW)
            except Exception as error:  # noqa: BLE001 - whatever it is, both must say it
                faults.append((peer, str(error)))
        return records, faults


def _damaged(drawn: tuple[bytes, int, int, bytes]) -> bytes:
    data, at, length, other = drawn
    at %= len(data) + 1
    return data[:at] + other + data[at + length :]


_RESPONSE = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\n\r\n"
usual = st.builds(
    lambda **values: hep3(dst=("::1", 1) if ":" in values["src"][0] else ("192.0.2.1", 5062), **values),
    buf=st.sampled_from([SIP, SIP, _RESPONSE, SIP * 3, b"x", b"\r\n\r\n", b"\n" + SIP, b"\0", b"", b"y" * 3000]),
    src=st.sampled_from([("192.0.2.1", 5060), ("192.0.2.1", 5061), ("2001:db8::1", 5060), ("198.51.100.1", 7)]),
    proto=st.sampled_from([17, 17, 17, 6, 22]),
    seconds=st.sampled_from([NOW // 1_000_000, NOW // 1_000_000, 0, 2**32 - 1]),
    micros=st.sampled_from([0, 5, 999_999, 1_000_000, 2**32 - 1]),
    kind=st.sampled_from([1, 1, 1, 1, 0, 5]),
    extra=st.sampled_from(
        [
            (),
            (),
            (chunk(12, b"\0\0\0\7"),),
            (chunk(14, b"sekret"),),
            (chunk(14, b"wrong!"),),
            (chunk(19, b"node"), chunk(17, b"corr")),
            (chunk(17, b"other"),),
            (chunk(15, b"another payload"),),
            (chunk(9, b"\0\0\0\1"),),
        ]
    ),
)
odd = st.one_of(
    st.builds(_damaged, st.tuples(usual, st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3))),
    st.builds(lambda data, cut: data[:cut], usual, st.integers(0, 200)),
    st.builds(lambda *both: b"".join(both), usual, usual),
    st.builds(lambda data, tail: data + tail, usual, st.binary(min_size=1, max_size=4)),
    st.builds(gzip.compress, usual),
    st.builds(hep12, st.sampled_from([1, 2])),
    st.binary(max_size=30),
)
packets = st.tuples(st.sampled_from(PEERS), st.one_of(usual, usual, usual, odd))


@examples(150)
@given(
    st.lists(st.lists(packets, max_size=SLOTS), min_size=1, max_size=4),
    st.sampled_from(["", "", "sekret"]),
    st.sampled_from([86400, 0]),
)
def test_a_round_decodes_as_its_packets_one_by_one(rounds: list[list[Packet]], key: str, window: int) -> None:
    one, other = Rounds(auth_key=key, time_window=window), OneByOne(auth_key=key, time_window=window)
    for packets in (*rounds, *rounds):  # what is known by then is decoded another way
        assert one.decode(packets) == other.decode(packets)
    assert one.decoder.counts == other.decoder.counts
    assert one.decoder.troubles == other.decoder.troubles


@pytest.mark.parametrize("interleaved", [False, True])
def test_what_is_usual_takes_the_quick_way(interleaved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = [("192.0.2.1", 5060), ("192.0.2.9", 5)][: 1 + interleaved]
    packets = [
        (peer, hep3(SIP + b"%d" % n, src=src, dst=dst))
        for n in range(4)
        for peer in peers
        for src, dst in ((("192.0.2.1", 5060), ("192.0.2.9", 5)), (("2001:db8::1", 5060), ("2001:db8::9", 5)))
    ]
    rounds = Rounds()
    first = rounds.decode(packets[:4])
    monkeypatch.setattr(rounds.decoder, "decode", None)
    again = rounds.decode(packets)
    assert (len(first[0]), len(again[0]), first[1], again[1]) == (4, len(packets), [], [])
    assert rounds.decoder.counts == {"records": 4 + len(packets)}


@pytest.mark.parametrize("proto", [6, 22])
def test_streams_and_what_must_be_asked_take_the_quick_way(proto: int, monkeypatch: pytest.MonkeyPatch) -> None:
    message = b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n"
    known = (("192.0.2.1", 5060), hep3(message, proto=proto))
    asked = (("192.0.2.3", 999), hep3(message, dst=("192.0.2.1", 1)))
    rounds = Rounds()
    rounds.decode([known, asked])
    monkeypatch.setattr(rounds.decoder, "decode", None)
    again = (known[0], hep3(message * 2, proto=proto))
    records, faults = rounds.decode([known, again, asked, again])
    assert ([record.buf for record in records], faults) == ([message] * 6, [])
    assert [record.tag for record in records] == ["snd"] * 3 + ["hep"] + ["snd"] * 2


def test_records_keep_what_they_have_when_the_buffer_is_used_again() -> None:
    rounds = Rounds()
    bufs = [SIP + b"%d" % n for n in range(8)]
    found = [rounds.decode([(PEERS[0], hep3(buf))] * 3)[0] for buf in bufs]
    assert [record.buf for records in found for record in records] == [buf for buf in bufs for _ in range(3)]
    assert {type(record.buf) for records in found for record in records} == {bytes}


def test_what_is_left_in_the_buffer_from_longer_packets_is_not_read() -> None:
    rounds = Rounds()
    whole = hep3(SIP)
    rounds.decode([(PEERS[0], whole)] * 2)
    for size in range(len(whole)):
        records, faults = rounds.decode([(PEERS[0], whole[:size])])
        assert (records, len(faults)) == ([], 1)


def test_a_replaced_time_is_counted_on_the_quick_way_too() -> None:
    rounds = Rounds()
    for _ in range(2):
        rounds.decode([(PEERS[0], hep3())])
    records, _ = rounds.decode([(PEERS[0], hep3(seconds=5)), (PEERS[0], hep3(micros=1_000_000))])
    assert [record.time_us for record in records] == [NOW, NOW]
    assert rounds.decoder.counts["time_replaced"] == 2
    assert rounds.decoder.troubles == {("time_replaced", PEERS[0][0]): 2}


def test_a_wrong_key_is_refused_behind_right_ones() -> None:
    rounds = Rounds(auth_key="sekret")
    right, wrong = (hep3(extra=(chunk(14, key),)) for key in (b"sekret", b"wrong!"))
    records, faults = rounds.decode([(PEERS[0], right), (PEERS[0], right), (PEERS[0], wrong), (PEERS[0], right)])
    assert (len(records), faults, rounds.decoder.counts["auth_failed"]) == (3, [], 1)


def test_a_length_that_lies_is_malformed() -> None:
    rounds = Rounds()
    data = hep3()
    rounds.decode([(PEERS[0], data)] * 2)
    lies = data[:4] + struct.pack(">H", len(data) + 1) + data[6:]
    fault = f"HEP3 frame says {len(data) + 1} bytes, {len(data)} came"
    assert rounds.decode([(PEERS[0], lies)]) == ([], [(PEERS[0], fault)])

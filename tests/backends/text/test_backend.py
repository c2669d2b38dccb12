"""The text backend."""

import io
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import disorder
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.testing import Contract
from sipdump_text import TextBackend
from sipdump_text.decode import TRAILER
from tests.support import OPTIONS, examples, record


class TestContract(Contract):
    backend_class = TextBackend


def text() -> TextBackend:
    return TextBackend(NoOptions(), Site("/nonexistent", ""))


def decode(data: bytes) -> list[Record]:
    file = io.BytesIO(data)
    file.name = "memory"
    return list(text().decode(file))


def test_a_record_is_as_kamailio_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert text().encode([record(b"OPTIONS x\r\n\r\n")]) == (
        b"====================\ntag: rcv\npid: 2738\nprocess: 2\ntime: 1795386431.765284\n"
        b"date: Sun Nov 22 22:27:11 2026\nproto: udp ipv4\nsrcip: 127.0.0.1\nsrcport: 5999\ndstip: 127.0.0.1\n"
        b"dstport: 5070\n~~~~~~~~~~~~~~~~~~~~\nOPTIONS x\r\n\r\n||||||||||||||||||||\n"
    )


@pytest.mark.parametrize(
    ("zone", "date"),
    [("Europe/Berlin", b"Sun Oct 25 02:30:00 2026"), ("America/New_York", b"Sat Oct 24 21:30:00 2026")],
)
def test_the_date_is_local_time_through_the_change_of_clocks(
    monkeypatch: pytest.MonkeyPatch, zone: str, date: bytes
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    moment = 1_792_891_800
    before, after = (text().encode([record(b"x", time_us=(moment + s) * 1_000_000)]) for s in (0, 3600))
    assert b"date: " + date + b"\n" in before
    assert b"time: 1792891800.000000" in before
    assert b"time: 1792895400.000000" in after


def test_a_day_of_one_digit_is_padded_with_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert b"\ndate: Thu Jan  1 00:00:00 1970\n" in text().encode([record(b"x", time_us=0)])


def test_a_time_before_1970_is_written_as_any_other() -> None:
    assert b"\ntime: -1.999999\n" in text().encode([record(b"x", time_us=-1)])
    assert b"\ntime: -2.000005\n" in text().encode([record(b"x", time_us=0), record(b"x", time_us=-1_999_995)])


def test_flows_of_one_identity_after_another_are_told_apart() -> None:
    backend = text()
    for n in range(20_500):  # past the cache's limit
        one = record(b"x", src_port=n)
        assert f"srcport: {n}\n".encode() in backend.encode([one])


def test_the_body_may_hold_a_whole_record_when_content_length_is_right() -> None:
    inner = text().encode([record(OPTIONS)])
    outer = b"MESSAGE sip:x SIP/2.0\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner
    batch = [record(outer), record(OPTIONS)]
    assert decode(text().encode(batch)) == batch


def test_content_length_of_another_header_name_does_not_count() -> None:
    message = b"MESSAGE sip:x SIP/2.0\r\nX-Content-Length: 1\r\nContent-length : 4\r\n\r\nabcd"
    assert decode(text().encode([record(message)])) == [record(message)]


@pytest.mark.parametrize("cut", range(1, 420, 7))
def test_a_torn_tail_costs_only_the_torn_record(cut: int) -> None:
    data = text().encode([record(OPTIONS)] * 3)
    whole = decode(data[:-cut])
    lost = -(-cut // (len(data) // 3))
    assert whole == [record(OPTIONS)] * (3 - lost)


def test_garbage_between_records_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    good = text().encode([record(OPTIONS)])
    assert decode(b"garbage" + good + good) == [record(OPTIONS)] * 2
    assert "not a whole record" in caplog.text
    assert "bytes=7" in caplog.text


def test_a_record_with_an_impossible_header_is_passed_over() -> None:
    good = text().encode([record(OPTIONS)])
    assert decode(good + good.replace(b"srcip: 127.0.0.1", b"srcip: 127.0.0.999") + good) == [record(OPTIONS)] * 2


def test_reading_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_text.decode._CHUNK", 700)
    monkeypatch.setattr("sipdump_text.decode.HEADER_LIMIT", 600)
    batch = [record(b"MESSAGE x SIP/2.0\r\n\r\n" + b"y" * n) for n in range(0, 3000, 37)]
    assert decode(text().encode(batch)) == batch


def test_a_megabyte_message() -> None:
    batch = [record(os.urandom(1 << 20)), record(OPTIONS)]
    assert decode(text().encode(batch)) == batch


def test_a_hostile_file_is_read_in_bounded_time() -> None:
    start = time.process_time()
    decode(b"====================\n" * 200_000)
    decode(text().encode([record(OPTIONS)])[:-21] + b"||||||||||||||||||||\n" * 100_000 + b"x")
    assert time.process_time() - start < 30


fields = st.fixed_dictionaries(
    {
        "time_us": st.integers(0, 4_000_000_000_000_000),
        "tag": st.text(
            st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=30
        ),
        "pid": st.integers(0, 2**31 - 1),
        "procno": st.integers(0, 2**31 - 1),
        "proto": st.sampled_from(["udp", "tcp", "tls", "sctp", "ws", "wss", "none"]),
        "src_port": st.integers(0, 65535),
        "dst_port": st.integers(0, 65535),
    }
)
addresses = st.one_of(
    st.tuples(st.just("ipv4"), st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.just("ipv6"), st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
messages = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda head, body: b"MESSAGE sip:x SIP/2.0\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        st.sampled_from([b"", b"X: ====================\r\n", b"l: 7\r\n", b"tag: rcv\r\n"]),
        st.one_of(
            st.binary(max_size=100), st.sampled_from([b"|" * 20 + b"\n", b"=" * 20 + b"\ntag: ", b"~" * 20 + b"\n"])
        ),
    ),
)


@examples(150)
@given(st.lists(st.tuples(fields, addresses, messages), min_size=1, max_size=5))
def test_round_trip(drawn: list[tuple[dict[str, Any], tuple[str, Any, Any], bytes]]) -> None:
    batch = [Record.of(buf, **values, af=af, src_ip=str(src), dst_ip=str(dst)) for values, (af, src, dst), buf in drawn]
    assert decode(text().encode(batch)) == batch


@examples(100)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=50),
            st.sampled_from([b"=" * 20 + b"\n", b"|" * 20 + b"\n", b"~" * 20 + b"\n", text().encode([record()])]),
        )
    )
)
def test_any_bytes_can_be_read(parts: list[bytes]) -> None:
    for found in decode(b"".join(parts)):
        assert isinstance(found, Record)


pieces = st.sampled_from(
    [
        b"=" * 20 + b"\n", b"|" * 20 + b"\n", b"~" * 20 + b"\n", b"\ntime: ", b"\r\n\r\n", b"\n\n", b"\n\r\n", b"x",
        b"l: 30\r\n", b"Content-Length: 4\r\n", text().encode([record()]), text().encode([record(tag="snd")])[:-9],
    ]
)  # fmt: skip
lengths = st.sampled_from([b"", b"Content-Length: %d\r\n", b"content-length :%d\n", b"l:\r\n %d\r\n", b"L: %d \r\n"])


@st.composite
def odd_messages(draw: st.DrawFn) -> bytes:
    """Draw a message whose body has separators and records in it, and whose Content-Length may be wrong."""
    body = b"".join(draw(st.lists(pieces, max_size=4)))
    length = draw(lengths)
    if length:
        length %= draw(st.sampled_from([0, 3, len(body), len(body) + 21, len(body) + len(text().encode([record()]))]))
    return (
        b"INVITE sip:x SIP/2.0\r\n" + draw(st.sampled_from([b"", b"Via: x\r\n", b"C: x\n"])) + length + b"\r\n" + body
    )


@st.composite
def odd_files(draw: st.DrawFn) -> bytes:
    """Draw a file of records, some with a byte replaced or removed, and perhaps without its end."""
    data = b""
    for message, tag in draw(st.lists(st.tuples(odd_messages(), st.sampled_from(["rcv", "snd"])), max_size=8)):
        one = text().encode([record(message, tag=tag)])
        at = draw(st.integers(0, 10 * len(one)))  # most stay as they are
        replacement = draw(st.sampled_from([b"", b"_", b" ", b"\n", b"7"]))
        data += one[:at] + (replacement + one[at + 1 :] if at < len(one) else b"")
    return data[: len(data) - draw(st.sampled_from([0, 0, 1, 30, 200]))]


@examples(200)
@given(odd_files(), st.sampled_from([97, 700, 2000, 1 << 20]))
def test_the_quick_reader_finds_what_the_careful_one_finds(data: bytes, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sipdump_text.decode._CHUNK", chunk)
        patch.setattr("sipdump_text.decode.HEADER_LIMIT", 600)
        quick = decode(data)
        patch.setattr("sipdump_text.decode._quick", lambda *_: iter(()))
        assert quick == decode(data)


def test_the_quick_reader_reads_a_plain_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """All records of a window but the first of a flow, and the last, which nothing follows."""
    batch = [record(OPTIONS, time_us=1_795_386_431_000_000 + n * 400_000) for n in range(100)]
    from sipdump_text import decode as module

    careful = Mock(wraps=module._find_record)
    monkeypatch.setattr(module, "_find_record", careful)
    assert decode(text().encode(batch)) == batch
    assert careful.call_count == 2


def test_files_are_made_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    from sipdump_core.segment import Segment

    old = os.umask(0o077)
    try:
        for mode in (0o640, 0o600, 0o664):
            backend = TextBackend(NoOptions(), Site(str(tmp_path), f"{mode}-", mode))
            backend.open(Segment(f"{mode}-", "2026-11-22--23-31-00", 0, ".data"))
            backend.write([record()])
            backend.close()
            assert (tmp_path / f"{mode}-2026-11-22--23-31-00.data").stat().st_mode & 0o777 == mode
    finally:
        os.umask(old)


def test_of_a_message_that_may_be_read_as_other_records_no_order_is_kept(tmp_path: Path) -> None:
    """Readers skip by time where the order is known; what such a message holds has any time."""
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    segment = Segment("p-", "2026-11-22--00-00-00", 0, ".data")
    backend.open(segment)
    with (tmp_path / segment.name).open("rb") as file:
        backend.write([record(b"plain")])
        if disorder(file.fileno()) is None:
            pytest.skip("the file system has no extended attributes")
        backend.write([record(b"in" + TRAILER + b"side")])
        assert disorder(file.fileno()) is None
        backend.write([record(b"plain")])
        assert disorder(file.fileno()) is None
    backend.close()

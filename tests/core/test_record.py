"""Records, and the headers found in them."""

import copy
import pickle
import re
import weakref
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core import sip
from sipdump_core.record import Flow, Record, new_record
from tests.support import OPTIONS, examples, record


def test_a_record_gives_its_flows_fields() -> None:
    one = record(node="n1")
    for field in attrs.fields(Flow):
        assert getattr(one, field.name) == getattr(one.flow, field.name)


def test_a_record_never_changes() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        record().buf = b"x"  # type: ignore[misc]  # that is the point
    assert pickle.loads(pickle.dumps(record())) == record()


def test_a_record_that_is_made_fast_is_like_any_other() -> None:
    plain = Record(5, record().flow, OPTIONS, "leg")
    fast = new_record(5, plain.flow, OPTIONS, "leg")
    assert type(fast) is Record
    assert (fast, hash(fast), repr(fast)) == (plain, hash(plain), repr(plain))
    assert new_record(5, plain.flow, OPTIONS) == Record(5, plain.flow, OPTIONS)
    assert pickle.loads(pickle.dumps(fast)) == copy.copy(fast) == plain
    assert attrs.evolve(fast, buf=b"x") == attrs.evolve(plain, buf=b"x")
    assert weakref.ref(fast)() is fast
    assert fast.call_id == "c1@192.0.2.1"
    assert pickle.loads(pickle.dumps(fast)) == plain, "with what it has found"
    assert not hasattr(fast, "__dict__")
    for name in ("buf", "time_us", "call_id", "other"):
        with pytest.raises(AttributeError):
            setattr(fast, name, b"x")
        with pytest.raises(AttributeError):
            delattr(fast, name)


def test_a_call_id_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = record(b"x")
    assert one.call_id is None
    monkeypatch.setattr(sip, "call_id", None)
    assert one.call_id is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tag", "a\nb"),
        ("tag", "a\x7f"),
        ("tag", "\ud800"),
        ("node", "a\0"),
        ("proto", "quic"),
        ("af", "ipx"),
        ("src_ip", "localhost"),
        ("src_ip", "::1"),
        ("dst_ip", "1.2.3"),
        ("dst_ip", "1.2.3.4\n"),
        ("src_port", -1),
        ("dst_port", 65536),
    ],
)
def test_a_field_that_would_forge_or_break_a_file_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        record(**{field: value})


def test_addresses_become_canonical() -> None:
    one = record(af="ipv6", src_ip="2001:DB8:0:0:0::1", dst_ip="0:0:0:0:0:0:0:1")
    assert (one.src_ip, one.dst_ip) == ("2001:db8::1", "::1")


@pytest.mark.parametrize(
    ("message", "call_id"),
    [
        (OPTIONS, "c1@192.0.2.1"),
        (b"OPTIONS x SIP/2.0\r\ncAlL-iD:abc\r\n\r\n", "abc"),
        (b"OPTIONS x SIP/2.0\r\ni : abc\r\n\r\n", "abc"),
        (b"OPTIONS x SIP/2.0\nCall-ID: abc\n\n", "abc"),
        (b"OPTIONS x SIP/2.0\r\nCall-ID:\r\n  abc@x\r\nTo: y\r\n\r\n", "abc@x"),
        (b"OPTIONS x SIP/2.0\r\nCall-ID: abc", "abc"),
        (b"OPTIONS x SIP/2.0\r\nCall-ID: \r\nTo: y\r\n\r\n", None),
        (b"OPTIONS x SIP/2.0\r\nX-Call-ID: abc\r\n\r\n", None),
        (b"OPTIONS x SIP/2.0\r\nTo: y\r\n\r\nCall-ID: abc\r\n", None),
        (b"", None),
        (b"Call-ID: first line\r\n\r\n", None),
        (b"OPTIONS x SIP/2.0\r\nCall-ID: \xff\r\n\r\n", "\\xff"),
    ],
)
def test_call_id(message: bytes, call_id: str | None) -> None:
    assert record(message).call_id == call_id


_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_VALUE = rb"[ \t]*:((?:[^\r\n]|\r?\n[ \t]|\r(?!\n))*)"
_CALL_ID = re.compile(rb"\n(?:call-id|i)" + _VALUE, re.IGNORECASE)
_CONTENT_LENGTH = re.compile(
    rb"\n(?:content-length|l)[ \t]*:[ \t]*(?:\r?\n[ \t]+)?(\d{1,10})[ \t]*(?=\r?\n|$)", re.IGNORECASE
)


def call_id_by_the_rules(buf: bytes) -> str | None:
    """Find the Call-ID in the plainest way; a value runs on over line ends that are followed by white space."""
    found = _CALL_ID.search(buf)
    if found is None:
        return None
    empty = len(buf) - len(buf.lstrip(b"\r\n"))
    blank = _BLANK_LINE.search(buf, max(0, empty - 1))
    if blank is not None and found.start() > blank.start():
        return None
    return b" ".join(found[1].split()).decode("utf-8", "backslashreplace") or None


_WORDS = [*(b"\r\n \t:;ix"[at : at + 1] for at in range(8)), b"\r\n", b"\n\r\n", b"\nCall-ID", b"\r\ncall-id:", b"\ni:"]
_WORDS += [b"\r\nI", b"OPTIONS x SIP/2.0", b"\xff", b"\r\nL:", b"\nContent-LENGTH:", b"12"]


@given(st.lists(st.sampled_from(_WORDS), max_size=12).map(b"".join))
@examples(500)
def test_headers_are_found_as_by_the_rules(buf: bytes) -> None:
    assert sip.call_id(buf) == call_id_by_the_rules(buf)
    blank = _BLANK_LINE.search(buf)
    assert sip.header_end(buf) == (blank.end() if blank else -1)
    length = _CONTENT_LENGTH.search(buf)
    assert sip.content_length(buf, 0, len(buf)) == (int(length[1]) if length else None)


def test_a_length_without_end_is_none() -> None:
    for digits, length in ((10, 9_999_999_999), (11, None), (5000, None)):
        head = b"X x SIP/2.0\r\nContent-Length: %b\r\n\r\n" % (b"9" * digits)
        assert sip.content_length(head, 0, len(head)) == length
        assert [found[2] for found in sip.content_lengths(head)] == ([length] if length else [])


@given(st.binary(max_size=200))
def test_any_bytes_have_headers_within_them(data: bytes) -> None:
    end = sip.header_end(data)
    assert end == -1 or data[:end].endswith((b"\n\n", b"\n\r\n"))
    assert (sip.content_length(data, 0, max(end, 0)) or 0) >= 0
    for buf in (data, b"X\r\n" + data):
        assert sip.call_id(buf) != ""

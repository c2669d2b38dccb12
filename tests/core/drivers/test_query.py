"""Questions match what the messages say, also where that is no text."""

import pytest

from sipdump_core.drivers.query import Query, parse_endpoint
from sipdump_core.record import Record


def record(call_id: bytes, user: bytes = b"alice") -> Record:
    buf = b"OPTIONS sip:b SIP/2.0\r\nFrom: <sip:" + user + b"@a>;tag=1\r\nCall-ID: " + call_id + b"\r\n\r\n"
    return Record.of(buf, time_us=1, src_ip="192.0.2.1", src_port=1, dst_ip="192.0.2.2", dst_port=2)


@pytest.mark.parametrize(
    "call_id",
    [b"ab\x9bcdefghijkl@h", b"\xffcd@h", b"ab\\x9bcdefghijkl@h", b"ab\\cdef", b"a \t bc", b"\x1b[2Jab", b"\xfc\xfc"],
)
def test_a_call_id_that_was_read_is_found(call_id: bytes) -> None:
    one = record(call_id)
    assert one.call_id
    query = Query(call_ids=one.call_id)
    assert all(needle in one.buf for needle in query.needles)
    assert query.matches(one)


def test_bytes_of_a_command_line_are_found() -> None:
    typed = b"ab\x9bcdefghijkl@h".decode("utf-8", "surrogateescape")  # as Python has them in sys.argv
    assert Query(call_ids=typed).matches(record(b"ab\x9bcdefghijkl@h"))
    assert Query(users=typed.partition("@")[0]).matches(record(b"x", b"ab\x9bcdefghijkl"))
    assert Query(greps=typed).matches(record(b"ab\x9bcdefghijkl@h"))
    assert not Query(call_ids=typed).matches(record(b"ab\x9ccdefghijkl@h"))


def test_a_mapped_address_is_ipv4() -> None:
    assert parse_endpoint("::ffff:192.0.2.1") == parse_endpoint("192.0.2.1")
    assert parse_endpoint("[::FFFF:192.0.2.1]:5060") == parse_endpoint("192.0.2.1:5060")
    assert parse_endpoint("::ffff:0:0/96").network.version == 6

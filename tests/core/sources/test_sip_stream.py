"""Cutting a piece of a stream into messages."""

import pytest

from sipdump_core.sources.sip_stream import begins_message, split_messages

REQUEST = b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n"
REPLY = b"SIP/2.0 200 OK\r\nl: 4\r\n\r\nbody"
LF_REQUEST, LF_REPLY = REQUEST.replace(b"\r", b""), REPLY.replace(b"\r", b"")
NOTIFY = b"NOTIFY sip:x SIP/2.0\r\nl: 16\r\n\r\nSIP/2.0 200 OK\r\n"


@pytest.mark.parametrize(
    ("buf", "messages"),
    [
        (REQUEST, [REQUEST]),
        (REQUEST + REPLY + REQUEST, [REQUEST, REPLY, REQUEST]),
        (REPLY + b"\r\n\r\n" + REQUEST, [REPLY, REQUEST]),
        (b"\r\n" + REPLY + REQUEST, [b"\r\n" + REPLY, REQUEST]),
        (REQUEST + REPLY[:-2], [REQUEST, REPLY[:-2]]),
        (REQUEST + REQUEST[:-6], [REQUEST, REQUEST[:-6]]),
        # no message follows: nothing is cut off
        (REPLY + b"more SIP/2.0", [REPLY + b"more SIP/2.0"]),
        (REQUEST + b"\r\n", [REQUEST + b"\r\n"]),
        # a message in the body of another one, and one without Content-Length, which on a stream has no end
        (NOTIFY, [NOTIFY]),
        (b"A sip:x SIP/2.0\r\n\r\n" + REQUEST, [b"A sip:x SIP/2.0\r\n\r\n" + REQUEST]),
        (LF_REQUEST + LF_REPLY, [LF_REQUEST, LF_REPLY]),
        (REQUEST + b"invite sip:x sip/2.0\r\nl: 0\r\n\r\n", [REQUEST, b"invite sip:x sip/2.0\r\nl: 0\r\n\r\n"]),
        (b"", [b""]),
        (b"garbage", [b"garbage"]),
    ],
    ids=range(14),
)  # fmt: skip
def test_messages(buf: bytes, messages: list[bytes]) -> None:
    assert list(split_messages(buf)) == messages


def test_many_messages_cost_linear_time() -> None:
    assert list(split_messages(REQUEST * 2000)) == [REQUEST] * 2000


def test_start_lines() -> None:
    assert begins_message(b"\r\n" + REQUEST)
    assert begins_message(REPLY)
    assert not begins_message(b'{"sip": "SIP/2.0 200 OK"}')
    assert not begins_message(b"GET / HTTP/1.1\r\n")

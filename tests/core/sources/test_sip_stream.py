"""Cutting a piece of a stream into messages."""

import pytest

from sipdump_core.sources.sip_stream import begins_message, is_usual, split_messages

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
        (LF_REQUEST + REQUEST, [LF_REQUEST, REQUEST]),
        (REQUEST + LF_REQUEST, [REQUEST, LF_REQUEST]),
        (REQUEST + b"\0\0\r\n" + REQUEST, [REQUEST, REQUEST]),
        (REQUEST + REQUEST.replace(b"2.0", b"2.0 "), [REQUEST, REQUEST.replace(b"2.0", b"2.0 ")]),
        (REQUEST + b"invite sip:x sip/2.0\r\nl: 0\r\n\r\n", [REQUEST, b"invite sip:x sip/2.0\r\nl: 0\r\n\r\n"]),
        (b"", [b""]),
        (b"garbage", [b"garbage"]),
    ],
    ids=range(18),
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


VIA = b"\r\nVia: SIP/2.0/TCP a;branch=b\r\n"
USUAL = REQUEST.replace(b"\r\n", VIA, 1)
BODY = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP a\r\n\r\n"


@pytest.mark.parametrize(
    ("buf", "usual"),
    [
        (USUAL, True),
        (USUAL.replace(b"h: 0", b"h: 4") + b"body", True),
        (USUAL.replace(b"h: 0", b"h: %d" % len(BODY)) + BODY, True),
        (USUAL.replace(b"Content-Length: 0\r\n", b""), True),
        (USUAL.replace(b"Content-Length: 0", b"l: 4") + b"body", True),
        (USUAL + b"\r\n\r\n", True),  # as split_messages has it: line ends behind the last message stay with it
        (USUAL + USUAL, False),
        (USUAL.replace(b"h: 0", b"h: %d" % len(USUAL)) + USUAL + USUAL, False),
        (USUAL.replace(b"Content-Length: 0", b"l: 0") + USUAL.replace(b"h: 0", b"h: 4") + b"body", False),
        (USUAL + LF_REPLY, False),
        (USUAL.replace(b"\r", b"") + USUAL, False),
        (USUAL.replace(b"/TCP", b"/WS"), False),
        (USUAL.replace(VIA, b"\r\nv: SIP/2.0/WSS a\r\n"), False),
        (USUAL.replace(VIA, b"\r\nVia: SIP/2.0/WS a" + VIA), False),
        (b"\r\n\r\n" + USUAL, False),
        (REQUEST, False),
        (b"", False),
        (USUAL[:-2], False),
    ],
    ids=range(18),
)
def test_a_quick_look(buf: bytes, usual: bool) -> None:
    assert is_usual(buf) == usual
    if usual:
        assert list(split_messages(buf)) == [buf]

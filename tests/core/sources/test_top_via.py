"""Reading the top Via."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.sources.top_via import Via, is_reply, top_via, websocket

START = b"OPTIONS sip:x SIP/2.0\r\n"


@pytest.mark.parametrize(
    ("headers", "via"),
    [
        (
            b"Via: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1;rport\r\n",
            Via("udp", ("192.0.2.1", 5070), b"z9hG4bK1", b""),
        ),
        (b"To: x\r\nv:SIP/2.0/tls EXAMPLE.com\r\n", Via("tls", ("example.com", 5061), b"", b"")),
        (b"VIA : SIP/2.0/WS x.invalid ;Branch=a\r\n", Via("ws", ("x.invalid", 80), b"a", b"")),
        (b"Via: SIP/2.0/TCP [2001:DB8::1]\r\n", Via("tcp", ("2001:db8::1", 5060), b"", b"")),
        (b"Via: SIP/2.0/UDP 1.2.3.4;branch=a, SIP/2.0/TCP b;branch=c\r\n", Via("udp", ("1.2.3.4", 5060), b"a", b"c")),
        (
            b"Via: SIP/2.0/UDP 1.2.3.4;branch=a\r\nMax-Forwards: 1\r\nVia: SIP/2.0/TCP b;branch=c\r\n",
            Via("udp", ("1.2.3.4", 5060), b"a", b"c"),
        ),
        # RFC 4475, section 3.1.1.1
        (b"v:  SIP  / 2.0\r\n / UDP 192.0.2.2 : 5061 ;\r\n branch = a\r\n", Via("udp", ("192.0.2.2", 5061), b"a", b"")),
    ],
)
def test_the_top_via(headers: bytes, via: Via) -> None:
    assert top_via(START + headers + b"\r\n") == via


def test_without_a_via() -> None:
    assert top_via(START + b"To: x\r\n\r\nVia: SIP/2.0/UDP 1.2.3.4\r\n") is None
    assert top_via(b"") is None


@pytest.mark.parametrize(("transport", "proto"), [(b"WS", "ws"), (b"wss", "wss"), (b"TCP", ""), (b"WSX", "")])
def test_websocket(transport: bytes, proto: str) -> None:
    assert websocket(START + b"Via: SIP/2.0/" + transport + b" x.invalid;branch=1\r\n\r\n") == proto


def test_replies() -> None:
    assert is_reply(b"\r\nsip/2.0 200 OK\r\n")
    assert not is_reply(START)
    assert not is_reply(b"SIPX sip:a SIP/2.0\r\n")


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for buf in (data, START + b"Via: SIP/2.0/UDP " + data, START + b"v:" + data):
        via = top_via(buf)
        assert websocket(buf) in (("", via.transport) if via else ("",))
        if via:
            assert via.transport == via.transport.lower()
            assert via.sent_by[0]


@pytest.mark.parametrize(
    "piece", [b"\nv:", b"\nVia: SIP/2.0/UDP", b"\r\n ", b"\nv: SIP/2.0/UDP a ", b"\nVia: SIP/2.0/UDP a;branch=\r\n "]
)
def test_hostile_headers_cost_linear_time(piece: bytes) -> None:
    began = time.process_time()
    top_via(START + piece * (60_000 // len(piece)))
    top_via(START + b"Via:" + piece * (60_000 // len(piece)))
    assert time.process_time() - began < 1

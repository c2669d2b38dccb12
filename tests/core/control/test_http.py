"""JSON-RPC over HTTP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.control.http import HttpRequest, known_hosts, take_http
from sipdump_core.errors import RpcFault

BODY = b'{"jsonrpc": "2.0", "method": "m", "id": 1}'


def http(head: str, body: bytes = BODY, *hosts: str) -> HttpRequest:
    """Take a request; of the two headers that every one must have, add what is missing."""
    lines = head.split("\n")
    for line in ("Host: localhost", "Content-Type: application/json"):
        if f"{line.partition(':')[0]}:" not in head:
            lines.append(line)
    buffer = bytearray("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    found = take_http(buffer, known_hosts(*hosts))
    assert found is not None
    return found


def status(found: HttpRequest) -> int:
    return found.error.code if found.error else 200


def test_http() -> None:
    found = http(f"POST /RPC HTTP/1.1\nHost: localhost\nContent-Length: {len(BODY)}")
    assert (found.method, found.args, found.error, found.close) == ("m", [], None, False)
    head, _, body = found.success([1], array=False).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK", b"Content-Type: application/json", b"Content-Length: %d" % len(body),
    ]  # fmt: skip
    assert found.failure(RpcFault(500, "command m not found")).startswith(b"HTTP/1.1 500 Method Not Found\r\n")
    assert found.failure(RpcFault(400, "a\r\nSet-Cookie: é")).startswith(b"HTTP/1.1 400 a??Set-Cookie: ?\r\nContent-T")
    assert http(f"POST /RPC HTTP/1.0\nContent-Length: {len(BODY)}").close
    assert http(f"POST /RPC HTTP/1.1\nConnection: Close\nContent-Length: {len(BODY)}").close


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("GET /RPC HTTP/1.1", 405),
        ("GET / HTTP/1.1", 404),
        ("POST /RPCx HTTP/1.1\nContent-Length: 0", 404),
        ("POST /RPC HTTP/1.1\nContent-Length: 0\nOrigin: http://example.com", 403),
        ("POST /RPC HTTP/1.1\nContent-Length: 99999999999999999999", 413),
        ("POST /RPC HTTP/1.1\nContent-Length: 65536", 413),
        ("POST /RPC HTTP/1.1\nContent-Length: -1", 400),
        ("POST /RPC HTTP/1.1\nContent-Length: 1\nContent-Length: 2", 400),
        ("POST /RPC HTTP/1.1\nTransfer-Encoding: chunked", 501),
        ("POST /RPC HTTP/2.0", 400),
        ("nonsense", 400),
        ("POST /RPC HTTP/1.1\n folded: x", 400),
        ("POST /RPC HTTP/1.1\nno colon", 400),
        ("POST /RPC HTTP/1.1\nContent-Length: 2", 400),
        ("POST /RPC HTTP/1.1\nHost: localhost\nHost: localhost", 400),
        ("POST /RPC HTTP/1.1\nContent-Type: application/json\nContent-Type: text/plain", 400),
    ],
)
def test_http_refusals(head: str, code: int) -> None:
    found = http(head, b"{}")
    assert found.error is not None
    assert found.failure(found.error).startswith(b"HTTP/1.1 %d " % code)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:8088", "localhost.", "127.0.0.1", "127.0.0.1:8088", "127.9.9.9", "[::1]", "[::1]:80",
        "[0:0:0:0:0:0:0:1]:80", "[::ffff:127.0.0.1]:80", "sip1.example.com", "SIP1.Example.com:8088", "192.0.2.5:1",
        "[2001:DB8::5]:1",
    ],
)  # fmt: skip
def test_hosts_that_only_this_machine_has(host: str) -> None:
    head = f"POST /RPC HTTP/1.1\nHost: {host}\nContent-Length: {len(BODY)}"
    assert status(http(head, BODY, "sip1.example.com", "192.0.2.5", "2001:db8::5")) == 200


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:8088", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost.x",
        "127.0.0.1@evil.example", "localhost:8088:evil", "localhost:x", "192.0.2.6", "0.0.0.0:8088", "[::]", "::1",
        "[2001:db8::6]", "2130706433", "0x7f.1", "localhost/", "localhost evil.example", "127.0.0.1, evil.example",
    ],
)  # fmt: skip
def test_other_hosts_are_refused(host: str) -> None:
    """A name that a stranger's name server resolves to 127.0.0.1 (DNS rebinding) gives his page no way in."""
    head = f"POST /RPC HTTP/1.1\nHost: {host}\nContent-Length: {len(BODY)}"
    found = http(head, BODY, "sip1.example.com", "192.0.2.5")
    assert status(found) == 403
    assert found.error is not None
    assert b"the Host header must be localhost" in found.failure(found.error)


def test_a_request_without_a_host_is_refused() -> None:
    for version in ("1.0", "1.1"):
        request = f"POST /RPC HTTP/{version}\r\nContent-Type: application/json\r\n\r\n"
        found = take_http(bytearray(request.encode()))
        assert found is not None
        assert status(found) == 400


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/json-rpc", 200),
        ("application/jsonrequest", 200),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
        ("", 415),
    ],
)
def test_the_body_must_be_said_to_be_json(kind: str, expected: int) -> None:
    head = f"POST /RPC HTTP/1.1\nContent-Type: {kind}\nContent-Length: {len(BODY)}"
    assert status(http(head)) == expected


def test_a_request_without_a_content_type_is_refused() -> None:
    found = take_http(bytearray(b"POST /RPC HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    assert found is not None
    assert status(found) == 415


def test_http_head_without_end() -> None:
    buffer = bytearray(b"POST /RPC HTTP/1.1\r\n")
    assert take_http(buffer) is None
    buffer += b"X-A: b\r\n" * 3000
    found = take_http(buffer)
    assert found is not None
    assert found.close
    assert found.error is not None
    assert found.error.code == 431


@given(st.binary(max_size=300))
def test_any_http_bytes(data: bytes) -> None:
    found = take_http(bytearray(b"POST /RPC HTTP/1.1\r\n" + data + b"\r\n\r\n"))
    if found is None:  # its body is yet to come
        assert b"content-length" in data.lower()
    else:
        assert found.failure(found.error or RpcFault(500, "x")).startswith(b"HTTP/1.1 ")

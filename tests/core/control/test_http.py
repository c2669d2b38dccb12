"""JSON-RPC over HTTP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.control.http import HttpRequest, take_http
from sipdump_core.errors import RpcFault

BODY = b'{"jsonrpc": "2.0", "method": "m", "id": 1}'


def http(head: str, body: bytes = BODY) -> HttpRequest:
    buffer = bytearray(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    found = take_http(buffer)
    assert found is not None
    return found


def test_http() -> None:
    found = http(f"POST /RPC HTTP/1.1\nHost: x\nContent-Length: {len(BODY)}")
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
    ("head", "status"),
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
    ],
)
def test_http_refusals(head: str, status: int) -> None:
    found = http(head, b"{}")
    assert found.error is not None
    assert found.failure(found.error).startswith(b"HTTP/1.1 %d " % status)


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

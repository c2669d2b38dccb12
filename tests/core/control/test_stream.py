"""Control connections: good clients, and hostile ones, which must neither hold up nor end the daemon."""

import contextlib
import json
import select
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.control import server
from sipdump_core.control.binrpc import encode_values
from sipdump_core.control.commands import Rpc
from sipdump_core.net.address import Address, bind_inet
from tests.core.control.clients import Start, connect, packet, read_all, works
from tests.support import wait_for


def http(where: Address, body: bytes, head: str = "POST /RPC HTTP/1.1", host: str = "localhost") -> tuple[bytes, Any]:
    more = f"Host: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with connect(where) as sock:
        sock.sendall(f"{head}\r\nConnection: close\r\n{more}\r\n\r\n".encode() + body)
        answer, _, content = read_all(sock).partition(b"\r\n\r\n")
        return answer.split(b"\r\n")[0], content


def test_json_by_http(start: Start, rpc: Rpc) -> None:
    (where,) = start(jsonrpc=("http:127.0.0.1:0",)).addresses
    status, body = http(where, b'{"jsonrpc": "2.0", "method": "sipdump.enable", "params": ["0"], "id": 1}')
    assert status == b"HTTP/1.1 200 OK"
    assert json.loads(body)["result"] == {"oldval": 1, "newval": 0}
    assert http(where, b'{"jsonrpc": "2.0", "method": "x"}')[0] == b"HTTP/1.1 500 Method Not Found"
    assert http(where, b"", "GET /RPC HTTP/1.1")[0] == b"HTTP/1.1 405 Method Not Allowed"
    with connect(where) as sock:  # kept alive, and pipelined
        body = b'{"jsonrpc": "2.0", "method": "core.echo", "id": 1}'
        head = b"POST /RPC HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        one = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        sock.sendall(one * 3)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).count(b"HTTP/1.1 200 OK") == 3


def test_which_hosts_http_answers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that is listened on, also where that is all of them; and the name that it was configured by."""
    echo = b'{"jsonrpc": "2.0", "method": "core.version", "id": 1}'
    ok, no = b"HTTP/1.1 200 OK", b"HTTP/1.1 403 Forbidden"
    everywhere, named = start(jsonrpc=("http:0.0.0.0:0", "http:localhost:0")).addresses
    for host, expected in (("127.0.0.1", ok), ("localhost:99", ok), ("evil.example", no), ("192.0.2.1", no)):
        assert http(everywhere, echo, host=host)[0] == expected
        assert http(named, echo, host=host)[0] == expected
    monkeypatch.setattr(server, "bind_inet", lambda host, port, kind: bind_inet("127.0.0.1", port, kind))
    (mine,) = start(jsonrpc=("http:SIP1.example.com:0",)).addresses
    mine = mine._replace(host="127.0.0.1")
    assert http(mine, echo, host="sip1.example.com:8088")[0] == ok
    assert http(mine, echo, host="sip2.example.com:8088")[0] == no


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"bad request: corrupted packet"),
        (b"\xa1\x0f\xff\xff\xff\xff", b""),  # half a head: nothing can be said
        (b"\xa1\x0f\x7f\xff\xff\xffabcd" + b"x" * 100_000, b"bad request: corrupted packet"),
        (b"\x00" * 300_000, b"bad request: corrupted packet"),
        (packet("core.echo")[:1] + b"\xff" * 70_000, b"bad request: corrupted packet"),
        (b"\xa1\x03\x00abcd", b"bad request method: end of packet encountered"),
    ],
    ids=range(6),
)
def test_garbage_gets_a_fault_and_a_closed_connection(start: Start, tmp_path: Path, data: bytes, said: bytes) -> None:
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    with connect(ctl.addresses[0]) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        answer = read_all(sock)
    assert said in answer
    assert bool(said) == bool(answer)
    assert works(ctl)


def test_deep_nesting(start: Start, tmp_path: Path) -> None:
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    body = encode_values(["core.echo", "x"]) + b"\x03\x25a\0" * 15_000
    with connect(ctl.addresses[0]) as sock:
        sock.sendall(b"\xa1\x07" + len(body).to_bytes(2, "big") + b"abcd" + body)
        assert sock.recv(100) == bytes.fromhex("a1130361626364217800")
    assert works(ctl)


@pytest.mark.parametrize("half", [b"", b"\xa1\x07", packet("core.echo", "x")[:-1]])
def test_half_open_clients_time_out(start: Start, tmp_path: Path, half: bytes) -> None:
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), request_timeout=1, idle_timeout=1)
    with connect(ctl.addresses[0]) as sock:
        sock.sendall(half)
        assert works(ctl)
        assert read_all(sock) == b""


def test_a_client_that_drips_times_out(start: Start) -> None:
    """Slowloris: every byte that comes must not win it more time."""
    (where,) = start(jsonrpc=("http:127.0.0.1:0",), request_timeout=1, idle_timeout=3600).addresses
    began = time.monotonic()
    with connect(where) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in b"POST /RPC HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000:
            sock.sendall(bytes([byte]))
            if select.select([sock], [], [], 0.05)[0]:
                assert sock.recv(100) == b""
                break
    assert time.monotonic() - began < 40


def test_a_client_that_never_reads_its_answers(start: Start, tmp_path: Path) -> None:
    """It is not read from either, so it fills its own buffers and not the daemon's, and times out."""
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), request_timeout=1)
    with connect(ctl.addresses[0]) as sock:
        one = packet("core.echo", "x" * 60_000)
        sock.setblocking(False)
        sent = 0

        def refused() -> bool:
            nonlocal sent
            try:
                sent += sock.send(one)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        wait_for(refused)
        assert sent < 10_000_000
    assert works(ctl)


def test_more_connections_than_allowed(start: Start, tmp_path: Path) -> None:
    """The longest idle one makes room, so that strangers who just sit there lock nobody out."""
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), max_connections=4)
    socks = [connect(ctl.addresses[0]) for _ in range(20)]
    try:
        assert works(ctl)
        assert len(ctl._loop.connections) <= 4
        assert read_all(socks[0]) == b""
        socks[-1].sendall(packet("core.echo", "y"))
        assert socks[-1].recv(100).endswith(b"y\0")
    finally:
        for sock in socks:
            sock.close()

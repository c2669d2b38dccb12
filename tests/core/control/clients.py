"""Clients of the control sockets, good and hostile."""

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sipdump_core.control.binrpc import call, encode_values
from sipdump_core.control.server import Ctl
from sipdump_core.net.address import Address

Start = Callable[..., Ctl]
"""Starts control sockets with these options, for one test."""


def packet(method: str, *args: Any) -> bytes:
    body = encode_values([method, *args])
    return b"\xa1\x07" + len(body).to_bytes(2, "big") + b"abcd" + body


def connect(where: Address) -> socket.socket:
    if where.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(60)
        sock.connect(where.path)
        return sock
    return socket.create_connection((where.host, where.port), 60)


def read_all(sock: socket.socket) -> bytes:
    """Read until the other side closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


def works(ctl: Ctl) -> bool:
    return call(str(ctl.addresses[0]), "core.echo", "x", timeout=5) == ["x"]


def query(sock: socket.socket, **members: Any) -> Any:
    sock.send(json.dumps({"jsonrpc": "2.0", "id": 1, **members}).encode())
    return json.loads(sock.recv(65536))


def post(where: Address, method: str) -> Any:
    """Call a method by HTTP, and return the answer."""
    body = json.dumps({"jsonrpc": "2.0", "method": method, "id": 1})
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    with connect(where) as sock:
        sock.sendall(f"POST /RPC HTTP/1.1\r\n{head}\r\n\r\n{body}".encode())
        return json.loads(read_all(sock).partition(b"\r\n\r\n")[2])


def fifo_call(path: Path, replies: Path, name: str, **members: Any) -> Any:
    os.mkfifo(replies / name)
    reader = os.open(replies / name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        request = {"jsonrpc": "2.0", "reply_name": name, "id": 1, **members}
        path.write_text(json.dumps(request) + "\n")
        data = b""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            select.select([reader], [], [], 0.05)
            with contextlib.suppress(BlockingIOError):
                data += os.read(reader, 65536)
            with contextlib.suppress(ValueError):
                return json.loads(data)
        raise AssertionError(f"no answer: {data!r}")
    finally:
        os.close(reader)
        os.unlink(replies / name)


def fifo_call_once(path: Path, replies: Path) -> bytes:
    """Ask once, and wait half a second for the answer."""
    name = f"r{time.monotonic_ns()}"
    os.mkfifo(replies / name)
    reader = os.open(replies / name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        path.write_text(json.dumps({"jsonrpc": "2.0", "reply_name": name, "id": 1, "method": "core.version"}))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            select.select([reader], [], [], 0.02)
            with contextlib.suppress(BlockingIOError):
                if data := os.read(reader, 65536):
                    return data
        raise TimeoutError
    finally:
        os.close(reader)
        os.unlink(replies / name)

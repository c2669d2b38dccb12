"""A TCP proxy before an S3 server that does, request by request, what networks and servers do on a bad day."""

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

__all__ = ["FaultProxy", "Request", "answer", "corrupt", "cut", "lose_answer", "stall"]


class Request(NamedTuple):
    """One request as it came, whole."""

    method: str
    path: str
    """With the query."""
    head: bytes
    body: bytes


Fault = Callable[["FaultProxy", Request, socket.socket], None]


def answer(status: int, code: str, message: str = "as scripted") -> Fault:
    """Answer with an S3 error in the server's place; an answer to HEAD has no body."""

    def act(_: "FaultProxy", request: Request, client: socket.socket) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nContent-Type: application/xml\r\n"
        client.sendall(f"{head}Connection: close\r\n\r\n".encode() + (b"" if request.method == "HEAD" else body))

    return act


def lose_answer(proxy: "FaultProxy", request: Request, _: socket.socket) -> None:
    """Have the server do it, and swallow its answer."""
    proxy.forward(request)


def cut(proxy: "FaultProxy", request: Request, _: socket.socket) -> None:
    """Cut the connection in the midst of the body."""
    proxy.forward(request, part=len(request.body) // 2)


def corrupt(proxy: "FaultProxy", request: Request, client: socket.socket) -> None:
    """Flip a bit of the body on its way."""
    body = bytearray(request.body)
    body[len(body) // 2] ^= 1
    client.sendall(proxy.forward(request._replace(body=bytes(body))))


def stall(proxy: "FaultProxy", _: Request, __: socket.socket) -> None:
    """Take the request, and be silent until the proxy ends or is told to go on."""
    proxy.released.wait(60)


class _Rule(NamedTuple):
    method: str
    path: "re.Pattern[str]"
    fault: Fault
    times: list[int]


class FaultProxy:
    """Listens on loopback and hands requests on to an endpoint, except those that a fault was ordered for."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        """What came, without the bodies."""
        self.released = threading.Event()
        self.down = threading.Event()
        """While set, connections are closed as soon as they are made."""
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # a client that gave up
                    proxy._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def endpoint(self) -> str:
        """The URL for ``endpoint_url``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for the connections

    def on(self, method: str, path: str, fault: Fault, times: int = 1) -> None:
        """Order a fault for the next requests of a method (or any, ``.*``) whose path has the expression in it."""
        with self._lock:
            self._rules.append(_Rule(method, re.compile(path), fault, [times]))

    def clear(self) -> None:
        """Take all orders back, and let go what stalls."""
        with self._lock:
            self._rules.clear()
        self.released.set()

    def count(self, method: str, path: str = "") -> int:
        """Say how many requests there were."""
        return sum(1 for r in list(self.requests) if r.method == method and re.search(path, r.path))

    def forward(self, request: Request, part: int | None = None) -> bytes:
        """Pass a request, or only the first bytes of its body, to the server; return its answer."""
        with socket.create_connection(self._upstream, 30) as server:
            server.sendall(request.head + request.body[:part])
            if part is not None:
                return b""
            pieces = []
            while piece := server.recv(1 << 16):
                pieces.append(piece)
            return b"".join(pieces)

    def _serve(self, client: socket.socket) -> None:
        if self.down.is_set():
            return
        request = _read(client)
        if request is None:
            return
        self.requests.append(request._replace(body=b""))
        fault = self._fault_for(request)
        if fault:
            fault(self, request, client)
        else:
            client.sendall(self.forward(request))

    def _fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if re.fullmatch(rule.method, request.method) and rule.path.search(request.path) and rule.times[0] > 0:
                    rule.times[0] -= 1
                    return rule.fault
        return None


def _read(client: socket.socket) -> Request | None:
    client.settimeout(30)
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(1 << 16)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if fields.get(b"expect") == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces, missing = [body], int(fields.get(b"content-length", b"0")) - len(body)
    while missing > 0:
        piece = client.recv(1 << 20)
        if not piece:
            return None
        pieces.append(piece)
        missing -= len(piece)
    method, path, _ = lines[0].decode().split(" ", 2)
    # one connection for each request, so that the server's end of it is the answer's end
    kept = [line for line in lines if not line.lower().startswith((b"connection:", b"expect:"))]
    return Request(method, path, b"\r\n".join([*kept, b"Connection: close", b"", b""]), b"".join(pieces))

"""JSON-RPC over HTTP: requests cut from a stream, answers as responses (RFC 9112, as far as curl needs it)."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from sipdump_core.control.jsonrpc import MAX_REQUEST, Request
from sipdump_core.errors import RpcFault

__all__ = ["HttpRequest", "take_http"]

_MAX_HEAD = 16384
_PATH = re.compile(r"/RPC(?:[/?]|$)")
_REQUEST_LINE = re.compile(r"([!-~]+) ([!-~]+) HTTP/1\.([01])")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_UNPRINTABLE = re.compile(r"[^ -~]")


@attrs.frozen
class HttpRequest:
    """A JSON-RPC request that came by HTTP; its answers are HTTP responses."""

    request: Request
    close: bool = False
    """Whether the connection ends after the answer."""
    error: RpcFault | None = None
    plain: bool = False
    """The error is HTTP's own, and is answered in plain text."""
    numeric_strings: ClassVar[bool] = True

    @property
    def method(self) -> str:
        """The RPC method."""
        return self.request.method

    @property
    def args(self) -> Sequence[Any]:
        """Its arguments."""
        return self.request.args

    def success(self, values: Sequence[Any], *, array: bool) -> bytes:
        """Render the answer."""
        return self._response(200, "OK", self.request.success(values, array=array))

    def failure(self, fault: RpcFault) -> bytes:
        """Render a fault; its code is the status, as in jsonrpcs."""
        if self.plain:
            return self._response(fault.code, fault.reason, fault.reason.encode() + b"\n", "text/plain")
        status = fault.code if 400 <= fault.code <= 599 else 400 if fault.code < 0 else 500
        return self._response(status, self.request.message(fault), self.request.failure(fault))

    def _response(self, status: int, reason: str, body: bytes, kind: str = "application/json") -> bytes:
        lines = [
            f"HTTP/1.1 {status} {_UNPRINTABLE.sub('?', reason)}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            *(["Allow: POST"] if status == 405 else []),
            *(["Connection: close"] if self.close else []),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def take_http(buffer: bytearray) -> HttpRequest | None:
    """Cut an HTTP request off the front of a stream's buffer; return None while it is not whole (RFC 9112)."""
    while buffer.startswith((b"\r", b"\n")):
        del buffer[:1]
    end = _END_OF_HEAD.search(buffer)
    if end is None:
        return _refused(431, "Request Header Fields Too Large") if len(buffer) > _MAX_HEAD else None
    first, *lines = bytes(buffer[: end.start()]).decode("latin-1").splitlines()
    line = _REQUEST_LINE.fullmatch(first)
    headers: dict[str, str] = {}
    for name, colon, value in (text.partition(":") for text in lines):
        key = name.lower()
        if not colon or not name or name != name.strip() or (key in headers and key in ("content-length", "host")):
            return _refused(400, "Bad Request")
        headers[key] = value.strip()
    if line is None:
        return _refused(400, "Bad Request")
    if "transfer-encoding" in headers:
        return _refused(501, "Not Implemented")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        return _refused(400, "Bad Request")
    if len(length) > 9 or int(length) > MAX_REQUEST:
        return _refused(413, "Content Too Large")
    if len(buffer) < end.end() + int(length):
        return None
    body = bytes(buffer[end.end() : end.end() + int(length)])
    del buffer[: end.end() + int(length)]
    options = headers.get("connection", "").lower()
    close = "close" in options or line[3] == "0"
    if "origin" in headers:  # a page in somebody's browser, which may come from anywhere
        return _refused(403, "Forbidden", close)
    if not _PATH.match(line[2]):
        return _refused(404, "Not Found", close)
    if line[1] != "POST":
        return _refused(405, "Method Not Allowed", close)
    request = Request.of(body)
    return HttpRequest(request, close, request.error)


def _refused(status: int, reason: str, close: bool = True) -> HttpRequest:
    return HttpRequest(Request(), close, RpcFault(status, reason), plain=True)

"""JSON-RPC 2.0 as Kamailio's jsonrpcs module speaks it, over fifo, datagrams and HTTP.

Answers have jsonrpcs' layout to the byte, because kamctl takes them apart with awk. An id that is neither string nor
number is answered as 0 (true as 1), as there. Otherwise than there, what is no request gets an error, and not an empty
result that reads like success.

Source: the answers of Kamailio 5.6.3.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from sipdump_core.errors import RpcFault

__all__ = ["HttpRequest", "Request", "render", "take_document", "take_http"]

MAX_REQUEST = 65535
"""Bytes of a request."""
_MAX_HEAD = 16384
_NO_ID: Any = object()
_PATH = re.compile(r"/RPC(?:[/?]|$)")
_REQUEST_LINE = re.compile(r"([!-~]+) ([!-~]+) HTTP/1\.([01])")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_BRACES = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}"]', re.DOTALL)
_UNPRINTABLE = re.compile(r"[^ -~]")


@attrs.frozen
class Request:
    """A request, and how to answer it."""

    id: Any = _NO_ID
    method: str = ""
    args: Sequence[Any] = ()
    reply_name: str = ""
    """The fifo that the answer goes to, when the request came by fifo; a stranger's word, see ``reply_name_ok``."""
    error: RpcFault | None = None
    """Why there is nothing to call."""
    numeric_strings: ClassVar[bool] = True
    """Whether the string "1" is as good as the number: kamcli sends all arguments as strings."""
    close: ClassVar[bool] = False

    @classmethod
    def of(cls, data: bytes) -> "Request":
        """Read a request."""
        try:
            found = json.loads(data.decode("utf-8", "surrogateescape"), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return cls(None, error=RpcFault(-32700, "Parse Error"))
        if not isinstance(found, dict):
            return cls(None, error=RpcFault(-32600, "Invalid Request"))
        name = found.get("reply_name")
        request = cls(found.get("id", _NO_ID), reply_name=name if isinstance(name, str) else "")
        method, params = found.get("method"), found.get("params", [])
        if found.get("jsonrpc") != "2.0" or not isinstance(method, str):
            return attrs.evolve(request, error=RpcFault(-32600, "Invalid Request"))
        if not isinstance(params, list | dict):
            return attrs.evolve(request, error=RpcFault(-32602, "Invalid Parameters"))
        args = list(params.values()) if isinstance(params, dict) else params  # by position, whatever the names
        return attrs.evolve(request, method=method, args=args)

    @property
    def reply_name_ok(self) -> bool:
        """Whether the reply fifo's name cannot lead out of its folder: no dot, no slash, as Kamailio asks for."""
        return 0 < len(self.reply_name) <= 100 and not any(c in "./\\" or ord(c) < 32 for c in self.reply_name)

    def success(self, values: Sequence[Any], *, array: bool) -> bytes:
        """Render the answer.

        Args:
            values: the results.
            array: the method gives a list of results; else the last one is the result, and none an empty object.
        """
        return self._answer("result", list(values) if array else values[-1] if values else {})

    def failure(self, fault: RpcFault) -> bytes:
        """Render a fault."""
        return self._answer("error", {"code": fault.code, "message": self.message(fault)})

    def message(self, fault: RpcFault) -> str:
        """Give a fault's text; jsonrpcs has one of its own for a method that is not there."""
        return "Method Not Found" if fault.reason == f"command {self.method} not found" else fault.reason

    def _answer(self, key: str, value: Any) -> bytes:
        answer = {"jsonrpc": "2.0", key: value}
        if self.error is not None and self.id is None:
            answer["id"] = None  # JSON-RPC 2.0, section 5: the id could not be read
        elif self.id is not _NO_ID:
            answer["id"] = self.id if isinstance(self.id, str) else _number(self.id)
        text = render(answer)
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half of a surrogate pair, by \u escape
            return text.encode("utf-8", "replace")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _number(value: Any) -> int | float:
    if isinstance(value, int):
        return int(value)
    return value if isinstance(value, float) and math.isfinite(value) else 0


def render(value: Any, depth: int = 0) -> str:
    """Write JSON in the layout of jsonrpcs (``pretty_format``)."""
    if isinstance(value, dict):
        indent = "\t" * (depth + 1)
        members = [f"{indent}{render(str(key))}:\t{render(member, depth + 1)}" for key, member in value.items()]
        return "{\n" + ",\n".join(members) + ("\n" if members else "") + "\t" * depth + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(render(member, depth + 1) for member in value) + "]"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:e}" if not 1e-6 <= abs(value) <= 1e9 else f"{value:f}"
    if isinstance(value, float):
        return f"{value:.0f}"
    return json.dumps(value, ensure_ascii=False)


def take_document(buffer: bytearray) -> bytes | None:
    """Cut one JSON object off the front of a fifo's buffer, by counting braces; what stands before it is dropped.

    None while it is not whole.
    """
    start = buffer.find(b"{")
    del buffer[: start if start >= 0 else len(buffer)]
    depth = 0
    data = bytes(buffer)
    for found in _BRACES.finditer(data):
        if found[0] == b'"':
            return None  # a string that has not ended
        depth += {b"{": 1, b"}": -1}.get(found[0], 0)
        if depth == 0:
            del buffer[: found.end()]
            return data[: found.end()]
    return None


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
    """Cut an HTTP request off the front of a stream's buffer; None while it is not whole (RFC 9112)."""
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

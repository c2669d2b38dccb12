"""JSON-RPC over HTTP: requests cut from a stream, answers as responses (RFC 9112, as far as curl needs it)."""

import ipaddress
import re
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import attrs

from sipdump_core.control.jsonrpc import MAX_REQUEST, Request
from sipdump_core.errors import RpcFault
from sipdump_core.net.address import canonical_ip

__all__ = ["HttpRequest", "known_hosts", "take_http"]

_MAX_HEAD = 16384
_PATH = re.compile(r"/RPC(?:[/?]|$)")
_REQUEST_LINE = re.compile(r"([!-~]+) ([!-~]+) HTTP/1\.([01])")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+)(?::\d{1,5})?")
_ONCE = ("content-length", "content-type", "host")
_JSON = ("application/json", "application/json-rpc", "application/jsonrequest")
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
    hint: str = ""
    """What to do about it."""
    stray: ClassVar[bool] = False
    unreadable: ClassVar[bool] = False
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
            body = f"{fault.reason}: {self.hint}\n" if self.hint else f"{fault.reason}\n"
            return self._response(fault.code, fault.reason, body.encode(), "text/plain")
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


def known_hosts(*hosts: str) -> frozenset[str]:
    """Return names and addresses as :func:`take_http` wants them."""
    return frozenset(map(_canonical, hosts))


def take_http(buffer: bytearray, hosts: Collection[str] = ()) -> HttpRequest | None:
    """Cut an HTTP request off the front of a stream's buffer; return None while it is not whole (RFC 9112).

    A page in somebody's browser can reach what listens on loopback, under any name that it makes its name server
    resolve so (DNS rebinding). So the Host must be one that only this machine has, and the body must say that it is
    JSON, which pages cannot say of what they send elsewhere.

    Args:
        buffer: what has come.
        hosts: what Host may say besides loopback addresses and ``localhost``, see :func:`known_hosts`.
    """
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
        if not colon or not name or name != name.strip() or (key in headers and key in _ONCE):
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
    refusal = _refusal(line[1], line[2], headers, hosts, close)
    if refusal is not None:
        return refusal
    request = Request.of(body)
    return HttpRequest(request, close, request.error)


def _refusal(
    method: str, target: str, headers: dict[str, str], hosts: Collection[str], close: bool
) -> HttpRequest | None:
    """Return why a whole request is not taken, None where it is."""
    if not _is_known(headers.get("host", ""), hosts):
        hint = "the Host header must be localhost, a loopback address, or the address that is listened on"
        missing = "host" not in headers  # RFC 9112, section 3.2
        return _refused(400 if missing else 403, "Bad Request" if missing else "Forbidden", close, hint)
    if "origin" in headers:  # a page in somebody's browser, which may come from anywhere
        return _refused(403, "Forbidden", close)
    if not _PATH.match(target):
        return _refused(404, "Not Found", close)
    if method != "POST":
        return _refused(405, "Method Not Allowed", close)
    if headers.get("content-type", "").partition(";")[0].strip().lower() not in _JSON:
        return _refused(415, "Unsupported Media Type", close, "the Content-Type must be application/json")
    return None


def _canonical(host: str) -> str:
    try:
        return canonical_ip(host)[1]
    except ValueError:
        return host.lower().rstrip(".")


def _is_known(host: str, hosts: Collection[str]) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = _canonical(found[1])
    if name == "localhost" or name in hosts:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refused(status: int, reason: str, close: bool = True, hint: str = "") -> HttpRequest:
    return HttpRequest(Request(), close, RpcFault(status, reason), plain=True, hint=hint)

"""JSON-RPC 2.0 as Kamailio's jsonrpcs module speaks it, over fifo and datagrams; HTTP wraps it.

Answers have jsonrpcs' layout to the byte, because kamctl parses them with awk. An id that is neither string nor
number is answered as 0 (true as 1), as there. Unlike there, what is not a request gets an error, not an empty
result that looks like success.

Source: the answers of Kamailio 5.6.3.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from sipdump_core.errors import RpcFault

__all__ = ["MAX_REQUEST", "Request", "render", "take_document", "take_whole"]

MAX_REQUEST = 65535
"""Bytes of a request."""
_NO_ID: Any = object()
_BRACES = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}"]', re.DOTALL)


@attrs.frozen
class Request:
    """A request, and how to answer it."""

    id: Any = _NO_ID
    method: str = ""
    args: Sequence[Any] = ()
    reply_name: str = ""
    """The fifo that the answer goes to, when the request came by fifo; a stranger chose it, see ``reply_name_ok``."""
    error: RpcFault | None = None
    """Why there is nothing to call."""
    stray: bool = False
    """It is the answer of another server."""
    unreadable: bool = False
    """It is no JSON."""
    numeric_strings: ClassVar[bool] = True
    """Whether the string "1" is as good as the number: kamcli sends all arguments as strings."""
    close: ClassVar[bool] = False

    @classmethod
    def of(cls, data: bytes) -> "Request":
        """Read a request."""
        try:
            found = json.loads(data.decode("utf-8", "surrogateescape"), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return cls(None, error=RpcFault(-32700, "Parse Error"), unreadable=True)
        if not isinstance(found, dict):
            answers = isinstance(found, list) and any(map(_is_answer, found))
            return cls(None, error=RpcFault(-32600, "Invalid Request"), stray=answers)
        name = found.get("reply_name")
        request = cls(found.get("id", _NO_ID), reply_name=name if isinstance(name, str) else "")
        method, params = found.get("method"), found.get("params", [])
        if found.get("jsonrpc") != "2.0" or not isinstance(method, str):
            return attrs.evolve(request, error=RpcFault(-32600, "Invalid Request"), stray=_is_answer(found))
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
            array: whether it is a list of results; if not, the last is the result, or an empty object.
        """
        return self._answer("result", list(values) if array else values[-1] if values else {})

    def failure(self, fault: RpcFault) -> bytes:
        """Render a fault."""
        return self._answer("error", {"code": fault.code, "message": self.message(fault)})

    def message(self, fault: RpcFault) -> str:
        """Return a fault's text; jsonrpcs has one of its own for an unknown method."""
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


def _is_answer(found: Any) -> bool:
    """Return whether it is a response object (JSON-RPC 2.0, section 5)."""
    return isinstance(found, dict) and "method" not in found and ("result" in found or "error" in found)


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


def take_whole(buffer: bytearray) -> Request:
    """Read a datagram, which is one request."""
    return Request.of(bytes(buffer))


def take_document(buffer: bytearray) -> bytes | None:
    """Cut one JSON object off the front of a fifo's buffer, by counting braces; anything before it is dropped.

    Return None while it is not whole.
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

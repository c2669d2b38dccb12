"""The top Via of a SIP message: over which transport the request went, who sent it, and its transaction.

Read leniently, in linear time, and nothing here raises on any input. Source: RFC 3261, sections 18.1.1, 20.42 and 25.1.
"""

import re
import socket
from typing import NamedTuple

from sipdump_core.net.address import canonical_ip

__all__ = ["Via", "is_reply", "top_via", "websocket"]

_LWS = rb"(?:\r?\n[ \t]|[ \t])"
_PARM = (
    _LWS + rb"*SIP" + _LWS + rb"*/" + _LWS + rb"*[\w.]+" + _LWS + rb"*/" + _LWS + rb"*([\w.-]+)"  # SIP/2.0/UDP
    + _LWS + rb"+(\[[^\]\r\n]*\]|[\w.-]+)(?:" + _LWS + rb"*:" + _LWS + rb"*(\d{1,5}))?"  # host and port
)  # fmt: skip
_HEADER = re.compile(rb"\n(?:via|v)[ \t]*:" + _PARM, re.IGNORECASE)
_NEXT = re.compile(rb"," + _PARM, re.IGNORECASE)
_PLAIN = re.compile(rb"[^\n]*\nVia: SIP/2\.0/(?:TCP|TLS|UDP) ")  # the usual case, read faster
_REST = re.compile(rb"[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*")
_BRANCH = re.compile(rb";" + _LWS + rb"*branch" + _LWS + rb"*=" + _LWS + rb"*([^\s;,]+)", re.IGNORECASE)
_REPLY = re.compile(rb"[\r\n]*SIP/", re.IGNORECASE)
_DEFAULT_PORTS = {"tls": 5061, "ws": 80, "wss": 443}


class Via(NamedTuple):
    """The top Via."""

    transport: str
    """In lower case, as ``udp``."""
    sent_by: tuple[str, int]
    """The host, an address in canonical form or a name in lower case, and the port, by default the transport's."""
    branch: bytes
    """Empty where there is none."""
    next_branch: bytes
    """The branch of the second Via: of the request that was relayed. Empty where there is none."""


def is_reply(buf: bytes) -> bool:
    """Return whether a message begins as a response does."""
    return _REPLY.match(buf) is not None


def websocket(buf: bytes) -> str:
    """Return ``ws`` or ``wss`` where the top Via says so, else an empty text."""
    if _PLAIN.match(buf):
        return ""
    found = _HEADER.search(buf, 0, _header_end(buf))
    transport = found[1].lower() if found else b""
    return transport.decode() if transport in (b"ws", b"wss") else ""


def top_via(buf: bytes) -> Via | None:
    """Read the top Via; return None where there is none."""
    end = _header_end(buf)
    found = _HEADER.search(buf, 0, end)
    if found is None:
        return None
    rest = _REST.match(buf, found.end(), end)
    params, comma, _ = rest[0].partition(b",") if rest else (b"", b"", b"")
    after = found.end() + len(params)
    following = _NEXT.match(buf, after, end) if comma else _HEADER.search(buf, after, end)
    next_branch = b""
    if following:
        rest = _REST.match(buf, following.end(), end)
        next_branch = _branch(rest[0].partition(b",")[0]) if rest else b""
    transport = found[1].decode("latin-1").lower()
    port = int(found[3]) if found[3] else _DEFAULT_PORTS.get(transport, 5060)
    return Via(transport, (_host(found[2].decode("latin-1")), port), _branch(params), next_branch)


def _header_end(buf: bytes) -> int:
    end = buf.find(b"\r\n\r\n", 4)  # four, because line ends may come before the start line
    return end if end >= 0 else len(buf)


def _branch(params: bytes) -> bytes:
    found = _BRANCH.search(params)
    return found[1] if found else b""


def _host(text: str) -> str:
    try:
        if ":" in text:
            return canonical_ip(text)[1]
        socket.inet_pton(socket.AF_INET, text)  # takes the canonical form alone
    except (OSError, ValueError):
        return text.lower()
    return text

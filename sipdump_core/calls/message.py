"""Reads SIP messages: leniently, lazily, and in linear time (RFC 3261).

Header names are compared without case, compact forms count (section 7.3.3), folded lines are unfolded (section 7.3.1),
lines may end in CRLF or LF, and if a header that may occur once occurs twice, the first counts, as
in :mod:`sipdump_core.sip`. What is absent or malformed is None or empty. No input makes anything here raise.
"""

import re
from typing import NamedTuple

from sipdump_core.cache import Cache
from sipdump_core.calls.sdp import Sdp, find_sdp
from sipdump_core.calls.syntax import split_commas, text, unfolded
from sipdump_core.sip import header_end

__all__ = ["Message", "NameAddr", "Via"]


class NameAddr(NamedTuple):
    """The value of From, To or Contact: a name-addr or an addr-spec (RFC 3261, section 20.10)."""

    uri: str
    """The URI without its angle brackets; ``*`` in a Contact that stands for all."""
    user: str | None
    """The user part of a sip or sips URI, without a password; the number of a tel URI (RFC 3966)."""
    display: str
    """The display name, without its quotes; empty if there is none."""
    tag: str | None
    """The header parameter ``tag``."""
    expires: int | None
    """The header parameter ``expires``, in seconds (Contact only)."""

    @property
    def host(self) -> str:
        """The host of a sip or sips URI, without its port; empty for other URIs."""
        found = _URI_HOST.match(self.uri)
        return found[1] if found else ""


class Via(NamedTuple):
    """One value of Via (RFC 3261, section 20.42)."""

    transport: str
    """In lower case, as ``udp``; empty where the value is malformed."""
    host: str
    """The host of ``sent-by``; an IPv6 address has no brackets here."""
    port: int
    """The port of ``sent-by``; the transport's default if it has none."""
    branch: str
    """The parameter ``branch``; empty if there is none (RFC 2543)."""

    key: str
    """What identifies a hop's transactions, together with the CSeq: the branch, and who made it (section 17.2.3).

    It is the same in the request, in its retransmissions and in its replies. Without a branch (RFC 2543) it is
    ``sent-by`` alone."""
    unique: bool
    """Whether the branch is unique across space and time, as its first letters promise (section 8.1.1.7)."""


class Message:
    """One SIP message.

    Args:
        buf: the message as it was on the wire.
    """

    __slots__ = (
        "_cseq", "_from", "_head", "_sdp", "_to", "_via", "buf", "call_id", "method", "reason", "request_uri", "status",
    )  # fmt: skip

    buf: bytes
    """The message as it was on the wire."""
    method: str | None
    """The method of a request; None for a reply and for anything but SIP."""
    request_uri: str | None
    """The request URI of a request."""
    status: int | None
    """The status code of a reply."""
    reason: str | None
    """The reason phrase of a reply."""
    call_id: str | None
    """The Call-ID; None if there is none."""

    def __init__(self, buf: bytes) -> None:
        self.buf = buf
        start = 0
        if buf[:1] in _LINE_ENDS:  # line ends before a message do not belong to it (RFC 3261, section 7.5)
            start = len(buf) - len(buf.lstrip(b"\r\n"))
        end = buf.find(b"\n", start)
        line = buf[start:end] if end >= 0 else buf[start:]
        parsed = _STARTS.get(line)
        if parsed is None:
            parsed = _start(line)
            if len(line) <= _CACHED:
                _STARTS.keep(line, parsed)
        self.method, self.request_uri, self.status, self.reason = parsed
        via: list[bytes] = []
        from_ = to = cseq = call_id = None
        # behind line ends, a header may be the first line, as sip.call_id has it
        headers = start - 1 if start else end
        for name, value in _CORE.findall(buf, headers) if headers >= 0 else ():
            kind = _KINDS.get(name) or _KINDS.get(name.lower())
            if kind == _VIA:
                via.append(value)
            elif kind == _FROM:
                from_ = value if from_ is None else from_
            elif kind == _TO:
                to = value if to is None else to
            elif kind == _CSEQ:
                cseq = value if cseq is None else cseq
            elif kind == _CALL_ID:
                call_id = value if call_id is None else call_id
        self._via: list[bytes] | tuple[Via, ...] = via
        self._from: bytes | NameAddr | None = from_
        self._to: bytes | NameAddr | None = to
        self._cseq: bytes | tuple[int | None, str | None] = cseq or b""
        self.call_id = text(call_id) or None if call_id else None
        self._head: int = -1
        self._sdp: Sdp | bool | None = False

    def __repr__(self) -> str:
        return f"<Message {self.label!r} of {self.call_id!r}>"

    @property
    def label(self) -> str:
        """The method, or the status code with its reason phrase; ``?`` for anything but SIP."""
        if self.method is not None:
            return self.method
        return f"{self.status} {self.reason}".rstrip() if self.status is not None else "?"

    @property
    def cseq(self) -> int | None:
        """The number of CSeq."""
        return self._parsed_cseq()[0]

    @property
    def cseq_method(self) -> str | None:
        """The method of CSeq; a request without CSeq has its own method here."""
        return self._parsed_cseq()[1] or self.method

    @property
    def from_(self) -> NameAddr:
        """The value of From; empty if there is none."""
        if not isinstance(self._from, NameAddr):
            self._from = _name_addr(self._from or b"")
        return self._from

    @property
    def to(self) -> NameAddr:
        """The value of To; empty if there is none."""
        if not isinstance(self._to, NameAddr):
            self._to = _name_addr(self._to or b"")
        return self._to

    @property
    def vias(self) -> tuple[Via, ...]:
        """The topmost two values of Via: who sent the message, and who had sent it to the sender."""
        if isinstance(self._via, list):
            self._via = _top_vias(self._via)
        return self._via

    @property
    def via(self) -> Via:
        """The topmost value of Via; empty if there is none."""
        vias = self.vias
        return vias[0] if vias else _NO_VIA

    @property
    def request_target(self) -> tuple[str | None, str]:
        """User and host of the request URI; None and empty for a reply."""
        target = _name_addr((self.request_uri or "").encode())
        return target.user, target.host

    @property
    def contacts(self) -> list[NameAddr]:
        """The values of Contact, of all its headers."""
        return [_name_addr(value) for value in self._values("contact")]

    @property
    def expires(self) -> int | None:
        """The header Expires, in seconds."""
        return _number(self.header("expires"))

    @property
    def user_agent(self) -> str | None:
        """User-Agent, or Server if that is absent."""
        return self.header("user-agent") or self.header("server")

    @property
    def head_end(self) -> int:
        """The offset behind the blank line that ends the headers; the message's length if there is none."""
        if self._head < 0:
            start = len(self.buf) - len(self.buf.lstrip(b"\r\n")) if self.buf[:1] in _LINE_ENDS else 0
            found = header_end(self.buf, start)
            self._head = found if found >= 0 else len(self.buf)
        return self._head

    @property
    def body(self) -> bytes:
        """The body: Content-Length bytes if there are that many, else all of them (section 18.3)."""
        body = self.buf[self.head_end :]
        length = _number(self.header("content-length")) if body else None
        return body if length is None else body[:length]

    @property
    def content_type(self) -> str:
        """The MIME type in lower case, without parameters; empty if there is none."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    @property
    def sdp(self) -> Sdp | None:
        """The session description in the body, or in a part of a multipart body; None if there is none."""
        if isinstance(self._sdp, bool):
            self._sdp = find_sdp(self.header("content-type") or "", self.body) if b"v=" in self.buf else None
        return self._sdp

    def header(self, name: str) -> str | None:
        """Return the value of the first header with this name or its compact form, in any case, unfolded; or None."""
        found = _header_pattern(name).search(self.buf, 0, self.head_end)
        return text(found[1]) if found else None

    def headers(self, name: str) -> list[str]:
        """Return the values of all headers with this name, each unfolded, in order."""
        return [text(value) for value in _header_pattern(name).findall(self.buf, 0, self.head_end)]

    def values(self, name: str) -> list[str]:
        """Return the values of all headers with this name; comma-separated values one by one (section 7.3.1)."""
        return [text(value) for value in self._values(name)]

    def all_headers(self) -> list[tuple[str, str]]:
        """Return name and unfolded value of each header, in order, as written."""
        lines = unfolded(self.buf[: self.head_end].lstrip(b"\r\n")).split(b"\n")[1:]
        pairs = (line.partition(b":") for line in lines if line.strip())
        return [(text(name), text(value)) for name, _, value in pairs]

    def _values(self, name: str) -> list[bytes]:
        found = _header_pattern(name).findall(self.buf, 0, self.head_end)
        return [part for value in found for part in split_commas(value)]

    def _parsed_cseq(self) -> tuple[int | None, str | None]:
        if isinstance(self._cseq, bytes):
            value = self._cseq
            parsed = _CSEQS.get(value)
            if parsed is None:
                parsed = _parse_cseq(value)
                if len(value) <= _CACHED:
                    _CSEQS.keep(value, parsed)
            self._cseq = parsed
        return self._cseq


Start = tuple[str | None, str | None, int | None, str | None]
_LINE_ENDS = (b"\r", b"\n")
_CACHED = 256  # bytes of the longest value that is cached, which bounds memory
_VALUE = rb"[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)"  # it continues after line ends that are followed by white space
_CORE = re.compile(
    # most headers are others, skipped by their first letter
    rb"\n(?=[VFTCIvftci\r\n])(?:(v(?:ia)?|f(?:rom)?|to?|c(?:all-id|seq)|i)" + _VALUE
    # a blank line and all that follows: a match without a name, the last one
    + rb"|\r?\n.*+)",
    re.IGNORECASE | re.DOTALL,
)  # fmt: skip
_VIA, _FROM, _TO, _CSEQ, _CALL_ID = range(1, 6)
_KINDS = {
    b"Via": _VIA, b"From": _FROM, b"To": _TO, b"CSeq": _CSEQ, b"Call-ID": _CALL_ID,
    b"via": _VIA, b"from": _FROM, b"to": _TO, b"cseq": _CSEQ, b"call-id": _CALL_ID,
    b"v": _VIA, b"f": _FROM, b"t": _TO, b"i": _CALL_ID,
}  # fmt: skip
_COMPACT = {
    "accept-contact": "a", "allow-events": "u", "call-id": "i", "contact": "m", "content-encoding": "e",
    "content-length": "l", "content-type": "c", "event": "o", "from": "f", "identity": "y", "refer-to": "r",
    "referred-by": "b", "reject-contact": "j", "request-disposition": "d", "session-expires": "x", "subject": "s",
    "supported": "k", "to": "t", "via": "v",
}  # fmt: skip
"""The compact forms registered by IANA."""

_TOKEN = re.compile(rb"[A-Za-z0-9.!%*_+`'~-]+")
_REPLY = re.compile(rb"SIP/\d+\.\d+[ \t]++(\d{3})(?!\d)[ \t]*+([^\r\n]*+)", re.IGNORECASE)
_VERSION = re.compile(rb"SIP/\d+\.\d+", re.IGNORECASE)
_CSEQ_VALUE = re.compile(rb"(\d{1,18})(?!\d)[ \t\r\n]*+([^ \t\r\n]*+)")
_VIA_VALUE = re.compile(
    rb"\s*+[^/\s]++\s*+/\s*+[^/\s]++\s*+/\s*+([^\s;,]++)\s++(?:\[([^\]]*+)\]|([^\s:;,\[]++))\s*+(?::\s*+(\d{1,5}))?"
)
_BRANCH = re.compile(rb";\s*+branch\s*+=\s*+([^;,\s]++)", re.IGNORECASE)
_PARAMETER = r";\s*+%s\s*+=\s*+([^;,\s]++)"
_TAG = re.compile((_PARAMETER % "tag").encode(), re.IGNORECASE)
_EXPIRES = re.compile((_PARAMETER % "expires").encode(), re.IGNORECASE)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.?)*+)"?', re.DOTALL)
_URI_HOST = re.compile(r"sips?:(?:[^@]*+@)?(\[[^\]]*+\]|[^:;?>]*+)", re.IGNORECASE)
_NO_VIA = Via("", "", 0, "", "", False)
_DEFAULT_PORTS = {"tls": 5061, "ws": 80, "wss": 443}  # RFC 3261, section 19.1.2; RFC 7118, section 5.2.2

_STARTS: Cache[bytes, Start] = Cache()
_CSEQS: Cache[bytes, tuple[int | None, str | None]] = Cache()
_ADDRESSES: Cache[bytes, NameAddr] = Cache()
_VIAS: Cache[bytes, Via] = Cache()
_PATTERNS: Cache[str, "re.Pattern[bytes]"] = Cache(1000)


def _start(line: bytes) -> Start:
    reply = _REPLY.match(line)
    if reply:
        return None, None, int(reply[1]), text(reply[2])
    method, _, rest = line.strip().partition(b" ")
    uri, _, version = rest.rpartition(b" ")
    if _VERSION.fullmatch(version) and _TOKEN.fullmatch(method):
        return method.decode(), text(uri), None, None
    return None, None, None, None


def _parse_cseq(value: bytes) -> tuple[int | None, str | None]:
    found = _CSEQ_VALUE.match(value.lstrip())
    return (int(found[1]), text(found[2]) or None) if found else (None, None)


def _top_vias(lines: list[bytes]) -> tuple[Via, ...]:
    vias: list[Via] = []
    for line in lines[:2]:
        values = split_commas(line) if b"," in line else [line]
        vias += [_cached_via(value) for value in values[:2]]
    return tuple(vias[:2])


def _cached_via(value: bytes) -> Via:
    via = _VIAS.get(value)
    if via is None:
        via = _parse_via(value)
        if len(value) <= _CACHED:
            _VIAS.keep(value, via)
    return via


def _parse_via(value: bytes) -> Via:
    found = _VIA_VALUE.match(value)
    if found is None:
        return _NO_VIA
    parameter = _BRANCH.search(value, found.end())
    transport = text(found[1]).lower()
    host = text(found[2] or found[3] or b"").lower()
    port = int(found[4]) if found[4] else _DEFAULT_PORTS.get(transport, 5060)
    branch = text(parameter[1]) if parameter else ""
    return Via(transport, host, port, branch, f"{branch}@{host}:{port}", branch[:7].lower() == "z9hg4bk")


def _name_addr(value: bytes) -> NameAddr:
    parsed = _ADDRESSES.get(value)
    if parsed is None:
        parsed = _parse_name_addr(value.strip())
        if len(value) <= _CACHED:
            _ADDRESSES.keep(value, parsed)
    return parsed


def _parse_name_addr(value: bytes) -> NameAddr:
    name = _QUOTED.match(value)  # a display name may hold any of the characters that follow
    opening = value.find(b"<", name.end() if name else 0)
    if opening >= 0:
        uri, _, rest = value[opening + 1 :].partition(b">")
        display = text(name[1].replace(b'\\"', b'"')) if name else text(value[:opening])
    else:
        uri, semicolon, rest = value.partition(b";")
        rest, display = semicolon + rest, ""
    tag = _TAG.search(rest)
    expires = _EXPIRES.search(rest)
    return NameAddr(
        text(uri), _user(uri), display, text(tag[1]) if tag else None, _number(text(expires[1])) if expires else None
    )


def _user(uri: bytes) -> str | None:
    scheme, _, rest = uri.strip().partition(b":")
    scheme = scheme.lower()
    if scheme == b"tel":
        return text(rest.partition(b";")[0]) or None
    if scheme not in (b"sip", b"sips"):
        return None
    user, at, _ = rest.partition(b"@")
    return text(user.partition(b":")[0]) or None if at else None  # a password follows the colon


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and len(value) <= 18 and value.isascii() and value.isdigit() else None


def _header_pattern(name: str) -> "re.Pattern[bytes]":
    pattern = _PATTERNS.get(name)
    if pattern is None:
        short = _COMPACT.get(name.lower())
        names = re.escape(name.encode()) + (b"|" + short.encode() if short else b"")
        pattern = _PATTERNS.keep(name, re.compile(rb"\n(?:" + names + rb")" + _VALUE, re.IGNORECASE))
    return pattern

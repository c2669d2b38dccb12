"""Bodies: by their type, what must be hidden in them is found, or they are found to be readable by nobody here."""

import re
from collections.abc import Callable, Set

from sipdump_core.masking import credentials, sdp
from sipdump_core.masking.addresses import Addresses
from sipdump_core.masking.syntax import INNER_START_LINE, LONE_CR, START_LINE, has_uri

__all__ = ["Bodies", "OpaqueError"]

_HEADER = re.compile(
    rb"\n(?=[CcEe])(?i:content-(?:(type)|(?:transfer-)?encoding)|(c)|e)[ \t]*+:((?:[^\r\n]|\r?\n[ \t]|\r(?!\n))*+)"
)
"""Headers that say what a body is; the first two groups tell the type from encodings."""
_AS_IT_IS = (b"", b"7bit", b"8bit", b"binary", b"identity")
_BOUNDARY = re.compile(rb';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,]+))', re.IGNORECASE)
_CHARSET = re.compile(rb'charset\s*=\s*["\']?\s*utf-?(?:16|32|7)|ucs-?[24]', re.IGNORECASE)
_END_OF_HEAD = re.compile(rb"(?:\A|(?<=\n))\r?\n")
_DEPTH = 8
"""How deep bodies may be nested."""
_SIP = (b"message/sip", b"message/sipfrag")
_READABLE = re.compile(
    rb"text/(?!(?:x-)?vcard|directory)[^;]*|application/(?:[^;]*\+xml|xml|sdp|dtmf|dtmf-relay|simple-message-summary|"
    rb"media_control|trickle-ice-sdpfrag)|"
)
_XML = re.compile(rb"[^/]*/(?:[^;]*\+)?xml")
_REFERENCE = re.compile(rb"&#|<!")
"""What hides text in XML: references to characters, entities, sections of character data."""
_DISPLAY = re.compile(
    rb"(\bdisplay(?:-name|-text)?\s*=\s*)(\"[^\"]+\"|'[^']+')"
    rb"|(<(?:[\w.-]+:)?display(?:-name|-text)?(?:\s[^>]*)?>)([^<]+)",
    re.IGNORECASE,
)
_NAMES = re.compile(rb"()()(<(?:[\w.-]+:)?name(?:\s[^>]*)?>)([^<]+)", re.IGNORECASE)
"""Names of people, where they are called so (RFC 4662, RFC 7865)."""
_NAMED = (b"application/rlmi+xml", b"application/rs-metadata+xml", b"application/rs-metadata")
_LINE = re.compile(
    rb"((?:\A|[\r\n])[ \t]*"
    rb"(?:(?:proxy-)?(?:authorization|authentication-info|authenticate)|www-authenticate|identity)[ \t]*:)"
    rb"([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)",
    re.IGNORECASE,
)
"""Headers of credentials, wherever they are: in a message within a message."""
_SDP = b"application/sdp"
_SDP_LINE = re.compile(
    rb"\n[ \t]*+(?=[aAeEiIkKoOpPwW][ \t=uUdDrRwW])(?:"
    + sdp.KEY_LINE
    + rb"|"
    + sdp.USER_LINE
    + rb"|(?=[PpAaWwIi])(?i:proxy-auth|auth|www-auth|identity))"
)
"""A line of a session description that may hide something."""
_LINE_BEGINS = re.compile(rb"\n[ \t]*(?=[PpAaWwIi])(?i:proxy-auth|auth|www-auth|identity)")


class OpaqueError(Exception):
    """A body cannot be read."""


class Bodies:
    """Masks bodies.

    Args:
        hide_credentials: whether credentials of messages in them are masked.
        hide_keys: whether keys of media are masked.
        addresses: masks users; None: they stay.
        head: masks header lines.
        embedded: names of headers that are masked in URIs, in lower case.
    """

    def __init__(
        self,
        hide_credentials: bool,
        hide_keys: bool,
        addresses: Addresses | None,
        head: Callable[[bytes], bytes],
        embedded: Set[bytes],
    ) -> None:
        self._credentials = hide_credentials
        self._keys = hide_keys
        self._addresses = addresses
        self._head = head
        self._embedded = embedded

    def masked(self, head: bytes, body: bytes, depth: int = 0) -> bytes:
        """Return a body masked.

        Args:
            head: the headers that say what it is, each behind a line end.
            body: the body.
            depth: how many others it is in.

        Raises:
            OpaqueError: it cannot be read.
        """
        value: bytes | None = None
        for named, compact, text in _HEADER.findall(head):
            if named or compact:
                value = text if value is None else value
            elif text.strip().lower() not in _AS_IT_IS:
                raise OpaqueError
        if depth > _DEPTH:
            raise OpaqueError
        value = value or b""
        if value.strip() == _SDP and not self._may_hide(body):
            return body
        kind = b"".join(value.partition(b";")[0].lower().split())
        boundary = _BOUNDARY.search(value) if kind.startswith(b"multipart/") else None
        if boundary:
            return self._parts(boundary[1] or boundary[2] or b"", body, depth)
        if kind in _SIP:
            return self._message(body, depth)
        inner = INNER_START_LINE.search(body) if b"sip/" in body.lower() else None
        if inner:  # another message, behind a wrong Content-Length
            at = inner.start()
            return self._text(kind, value, body[:at]) + self._message(body[at:], depth)
        return self._text(kind, value, body)

    def _may_hide(self, sdp_: bytes) -> bool:
        """Return False where a session description has nothing to hide: a cheap test, for nearly all of them."""
        lowered = sdp_.lower()
        return bool(
            _SDP_LINE.search(sdp_)
            or LONE_CR.search(sdp_)
            or b"?" in sdp_
            or b"inline:" in lowered
            or b"sip/" in lowered
            or b"\0" in sdp_
            or (self._addresses and has_uri(sdp_))
            or not sdp_.startswith(b"v=")
        )

    def _parts(self, boundary: bytes, body: bytes, depth: int) -> bytes:
        """Mask each part of a multipart body (RFC 2046, section 5.1), and what is before the first as text."""
        delimiter = re.compile(rb"((?:\A|\r?\n)--" + re.escape(boundary) + rb"(?:--)?[ \t]*(?=\r?\n|\Z))")
        preamble, *rest = delimiter.split(body)
        if not rest:
            raise OpaqueError
        out = [self._text(b"", b"", preamble)]
        for line, part in zip(rest[::2], rest[1::2], strict=True):
            out.append(line)
            begin = len(part) - len(part.lstrip(b"\r\n")) if part[:1] in (b"\r", b"\n") else 0
            begin = min(begin, part.find(b"\n") + 1)
            blank = _END_OF_HEAD.search(part, begin)
            end = blank.end() if blank else len(part)
            out += [self._part_head(part[:end]), self.masked(b"\n" + part[begin:end], part[end:], depth + 1)]
        return b"".join(out)

    def _part_head(self, head: bytes) -> bytes:
        """Mask the headers of a part, or what is behind the last one: anything may be written there."""
        return self._addresses.text(self._lines(head)) if self._addresses else self._lines(head)

    def _message(self, body: bytes, depth: int) -> bytes:
        """Mask a message, or a part of one, in a body (RFC 3420)."""
        start = START_LINE.match(body)
        at = start.end() if start else 0
        blank = _END_OF_HEAD.search(body, at)
        end = blank.start() if blank else len(body)
        line = start[0] if start else b""
        if start and start["uri"] is not None and self._addresses:
            first, last = start.span("uri")
            line = body[:first] + self._addresses.target(start["uri"]) + body[last:at]
        out = line + self._head(body[at:end])
        if blank is None:
            return out
        return out + blank[0] + self.masked(b"\n" + body[at:end], body[blank.end() :], depth + 1)

    def _text(self, kind: bytes, value: bytes, body: bytes) -> bytes:
        """Mask a text."""
        body = self._lines(body)
        if self._addresses is None:
            return body
        wide = b"\0" in body or body[:2] in (b"\xff\xfe", b"\xfe\xff") or _CHARSET.search(value)
        if body.strip() and (wide or not (_READABLE.fullmatch(kind) or kind in _NAMED)):
            raise OpaqueError
        if _XML.fullmatch(kind) or kind in _NAMED:
            if _CHARSET.search(body, 0, 200) or _REFERENCE.search(body):
                raise OpaqueError
            if kind in _NAMED:
                body = _NAMES.sub(self._display, body)
            return self._addresses.text(_DISPLAY.sub(self._display, body))
        if kind == b"application/sdp" or (not kind and body.lstrip()[:2] == b"v="):
            return sdp.mask_users(body, self._addresses)
        return self._addresses.text(body)

    def _lines(self, text: bytes) -> bytes:
        """Mask the lines of keys and credentials, whatever they are in."""
        if self._keys:
            text = sdp.mask_keys(text)
        if b"?" in text:
            text = credentials.embedded(text, self._embedded)
        if self._credentials and (_LINE_BEGINS.search(b"\n" + text) or LONE_CR.search(text)):
            text = _LINE.sub(self._credential_line, text)
        return text

    def _display(self, found: "re.Match[bytes]") -> bytes:
        assert self._addresses  # noqa: S101 - or nobody had called it
        if found[1]:
            quote = found[2][:1]
            return found[1] + quote + self._addresses.name(found[2][1:-1]) + quote
        return found[3] + self._addresses.name(found[4])

    def _credential_line(self, found: "re.Match[bytes]") -> bytes:
        name = found[1].strip(b" \t\r\n:").lower()
        make = credentials.challenge if name.endswith(b"ticate") else credentials.answer
        if name == b"identity":
            return found[1] + credentials.whole(found[2])
        if name.endswith(b"-info"):
            make = credentials.info
        return found[1] + make(found[2], self._addresses, secrets=True)

"""Credentials in header values: what is secret becomes a mark, names and syntax stay.

Digest is RFC 7616 and RFC 3261, section 22; with AKA, RFC 3310. What stays is listed, not what goes: a parameter that
nobody here knows is taken for a secret.
"""

import re
from collections.abc import Set
from urllib.parse import unquote_to_bytes

from sipdump_core.masking.addresses import Addresses

__all__ = ["MARK", "answer", "challenge", "embedded", "info", "whole"]

MARK = b"redacted"
_TOKEN = rb"[!#$%&'*+.0-9A-Z^_`a-z|~-]+"
_SCHEME = re.compile(rb"(\s*)(" + _TOKEN + rb")(?=\s|$)")
_COMMAS = re.compile(rb"[\s,]*")
_NEW = re.compile(rb"(" + _TOKEN + rb")\s+(?=" + _TOKEN + rb"\s*=|" + MARK + rb"\s*\Z)")
_PARAMETER = re.compile(
    rb"(" + _TOKEN + rb')(\s*+=\s*+)("(?:[^"\\]|\\.)*+"|[^",\s]++)(?=\s*(?:,|$))',
    re.DOTALL,
)
_KEPT = frozenset(
    {b"algorithm", b"charset", b"domain", b"integrity-protected", b"nc", b"qop", b"realm", b"realm*", b"stale", b"uri",
     b"userhash", b"username", b"username*"}
)  # fmt: skip
_TOKENS = (b"basic", b"bearer", b"ntlm", b"negotiate", b"kerberos")
"""Schemes that have a token behind them, not parameters."""
_NAMED = re.compile(rb"[A-Za-z][A-Za-z0-9]{0,15}[A-Za-z0-9-]{0,16}")
"""A scheme that has something behind it; what is longer is no name."""
_FIELD = re.compile(
    rb"(?:[?&](?:amp;)?|%(?:25)*+(?:3[Ff]|26))"
    rb"([!$'*+.0-9A-Z_a-z~-]*+(?:%(?:25)*+[2-7][0-9A-Fa-f][!$'*+.0-9A-Z_a-z~-]*+){0,40}?)(?:=|%(?:25)*+3[Dd])"
)
"""A header in a URI (RFC 3261, section 19.1.1), also in one within that."""
_ROUNDS = 4
"""How often its name may be escaped."""
_FIELD_VALUE = re.compile(rb"(?:[^&>\r\n]|\r?\n[ \t])*+")


def whole(value: bytes, mark: bytes = MARK) -> bytes:
    """Return a mark in place of a value; one that is empty stays."""
    stripped = value.strip()
    if not stripped:
        return value
    start = value.index(stripped)
    return value[:start] + mark + value[start + len(stripped) :]


def answer(value: bytes, addresses: Addresses | None, *, secrets: bool) -> bytes:
    """Return the value of Authorization or Proxy-Authorization without what proves who somebody is.

    Args:
        value: the value.
        addresses: masks users; None: they stay.
        secrets: whether the credentials are masked; else only the users.
    """
    found = _SCHEME.match(value)
    if found is None:
        return whole(value)
    if found[2].lower() == b"digest":
        return value[: found.end()] + _parameters(value[found.end() :], addresses, secrets=secrets)
    rest = value[found.end() :]
    if not (rest.strip() and _NAMED.fullmatch(found[2])):
        return whole(value)
    mark = MARK if found[2].lower() in _TOKENS else b"data=" + MARK
    return value[: found.end()] + whole(rest, mark)


def challenge(value: bytes, addresses: Addresses | None, *, secrets: bool) -> bytes:
    """Return the value of WWW-Authenticate or Proxy-Authenticate without nonces; arguments as of :func:`answer`."""
    found = _SCHEME.match(value)
    if found is None:
        return whole(value)
    return value[: found.end()] + _parameters(value[found.end() :], addresses, secrets=secrets)


def info(value: bytes, addresses: Addresses | None, *, secrets: bool) -> bytes:
    """Return the value of Authentication-Info without digests and nonces; arguments as of :func:`answer`."""
    return _parameters(value, addresses, secrets=secrets)


def embedded(text: bytes, names: Set[bytes]) -> bytes:
    """Return a text without the values of headers in its URIs: ``<sip:bob@example.com?Authorization=Basic%20QWxh>``.

    A value ends with the URI or at the next header. In a URI within a URI it takes the others behind it along.

    Args:
        text: a header's value, a request URI, or a body.
        names: names of headers, in lower case.
    """
    if b"=" not in text and b"%" not in text:
        return text
    out: list[bytes] = []
    at = 0
    for found in _FIELD.finditer(text):
        if found.start() < at or _unescaped(found[1]) not in names:
            continue
        value = _FIELD_VALUE.match(text, found.end())
        assert value  # noqa: S101 - it matches anything
        out += [text[at : found.end()], whole(value[0])]
        at = value.end()
    return b"".join([*out, text[at:]])


def _unescaped(name: bytes) -> bytes:
    for _ in range(_ROUNDS):
        if b"%" in name:
            name = unquote_to_bytes(name)
    return name.lower()


def _parameters(value: bytes, addresses: Addresses | None, *, secrets: bool) -> bytes:
    """Mask a list of parameters, of one challenge or several; what cannot be read goes as a whole."""
    out: list[bytes] = []
    at = 0
    while True:
        between = _COMMAS.match(value, at)
        assert between  # noqa: S101 - it matches anything
        out.append(between[0])
        at = between.end()
        if at == len(value):
            return b"".join(out)
        following = _NEW.match(value, at)
        if following and out[1:]:
            out.append(following[0])
            at = following.end()
        found = _PARAMETER.match(value, at)
        if found is None:
            return b"".join([*out, whole(value[at:])])
        out.append(_parameter(found, addresses, secrets=secrets))
        at = found.end()


def _parameter(found: "re.Match[bytes]", addresses: Addresses | None, *, secrets: bool) -> bytes:
    name, value = found[1].lower(), found[3]
    if name not in _KEPT:
        if not secrets:
            return found[0]
        if name == b"response":  # tools that crack digests look for "response="; with spaces it is the same to a parser
            return found[1] + b' = "' + MARK + b'"'
        return found[1] + found[2] + (b'"%b"' % MARK if value[:1] == b'"' else MARK)
    if addresses is None:
        return found[0]
    if name == b"username":
        inner = value.strip(b'"')
        masked = addresses.user(inner) if inner else inner
        return found[1] + found[2] + (b'"%b"' % masked if value[:1] == b'"' else masked)
    if name == b"username*":  # RFC 8187: charset'language'value
        charset, quote, rest = value.rpartition(b"'")
        return found[1] + found[2] + charset + quote + addresses.user(rest)
    if name == b"uri":
        quote = value[:1] if value[:1] == b'"' else b""
        return found[1] + found[2] + quote + addresses.target(value.strip(b'"')) + quote
    return found[1] + found[2] + addresses.text(value)

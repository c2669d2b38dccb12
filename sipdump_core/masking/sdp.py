"""Keys and users in session descriptions (RFC 8866), line by line.

A key is masked by as many ``x`` as it has bytes, so that the body's length stays.
"""

import re
from itertools import count

from sipdump_core.masking.addresses import Addresses
from sipdump_core.masking.syntax import LONE_CR

__all__ = ["KEY_BEGINS", "KEY_LINE", "USER_LINE", "mask_keys", "mask_users"]

_LINE = re.compile(
    rb"(?:(?<=[\r\n])|^)[ \t]*(?:(k)[ \t]*=|a[ \t]*=[ \t]*(?:acap:\d+[ \t]+)?"
    rb"(crypto(?:scale)?|key-mgmt|ice-pwd|3ge2ae)[ \t]*:)([^\r\n]*)",
    re.IGNORECASE,
)
"""Lines of keys (RFC 4568, MS-SDPEXT, RFC 4567, RFC 8839, 3GPP TS 33.328), also as capabilities (RFC 5939)."""
KEY_LINE = rb"[kK][ \t]*+=|[aA][ \t]*+=[ \t]*+(?=[3aAcCiIkK])(?i:acap:\d+[ \t]+)?(?i:crypto|key-mgmt|ice-pwd|3ge2ae)"
"""An expression for how such a line begins."""
KEY_BEGINS = ("a=", "a ", "a\t", "k=", "k ", "k\t")
"""Their first two characters, in lower case."""
USER_LINE = rb"[oO][ \t]*+=(?!-[ \t])|[eEpP][ \t]*+="
"""An expression for how a line with users begins."""
_KEY_LINE = re.compile(rb"\n[ \t]*(?:" + KEY_LINE + rb")")
_USER_LINE = re.compile(rb"\n[ \t]*+(?:" + USER_LINE + rb")")
_INLINE = re.compile(rb"(inline:)([^|;\s]+)", re.IGNORECASE)
_PROTOCOL = re.compile(rb"[ \t]*[A-Za-z]\w{0,15}[ \t]+", re.ASCII)
_FIELD = re.compile(rb"\S+")
_METHOD = re.compile(rb"((?:FEC_KEY=)?[A-Za-z][A-Za-z0-9-]*:)([^|;\s]*)", re.IGNORECASE)
_SUITE = re.compile(rb"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
_SESSION = re.compile(rb"KDR=\d{1,2}|(?:UNENCRYPTED|UNAUTHENTICATED)_SRTC?P|FEC_ORDER=\w+|WSH=\d+|\d{1,9}", re.ASCII)
_ORIGIN = re.compile(rb"(?:(?<=[\r\n])|^)([ \t]*o[ \t]*=[ \t]*)([^\r\n]+)", re.IGNORECASE)
_BEHIND_USER = 5
"""How many fields of ``o=`` are behind the user, who may have spaces, though he must not."""
_PEOPLE = re.compile(rb"(?:(?<=[\r\n])|^)([ \t]*[ep][ \t]*=)([^\r\n]+)", re.IGNORECASE)


def mask_keys(body: bytes) -> bytes:
    """Return a body without the keys of media; certificates' fingerprints stay."""
    if not (_KEY_LINE.search(b"\n" + body) or b"inline:" in body.lower() or LONE_CR.search(body)):
        return body
    return _INLINE.sub(lambda found: found[1] + _x(found[2]), _LINE.sub(_masked_line, body))


def mask_users(body: bytes, addresses: Addresses) -> bytes:
    """Return a session description without the user of ``o=``, the people of ``e=`` and ``p=``, and users of URIs."""
    if _USER_LINE.search(b"\n" + body) or LONE_CR.search(body):
        body = _ORIGIN.sub(lambda found: found[1] + _origin(found[2], addresses), body)
        body = _PEOPLE.sub(lambda found: found[1] + addresses.name(found[2]), body)
    return addresses.text(body)


def _origin(value: bytes, addresses: Addresses) -> bytes:
    """Mask the user of ``USER SESSION VERSION NETWORK TYPE ADDRESS`` (RFC 8866, section 5.2), cut off or not."""
    fields = [*_FIELD.finditer(value)]
    if not fields:
        return value
    end = fields[max(0, len(fields) - 1 - _BEHIND_USER)].end()
    user = value[:end]
    return value if user == b"-" else addresses.user(user) + value[end:]


def _x(value: bytes) -> bytes:
    return b"x" * len(value)


def _all(value: bytes) -> bytes:
    return _FIELD.sub(lambda field: _x(field[0]), value)


def _masked_line(found: "re.Match[bytes]") -> bytes:
    value = found[3]
    before = found[0][: len(found[0]) - len(value)]
    kind = (found[1] or found[2]).lower()
    if kind in (b"crypto", b"cryptoscale"):
        return before + _crypto(value)
    if kind == b"k":
        return before + _k(value)
    if kind == b"key-mgmt":
        return before + _key_management(value)
    return before + _all(value)


def _key_management(value: bytes) -> bytes:
    """Mask ``mikey DATA``; what is not of that form goes as a whole."""
    named = _PROTOCOL.match(value)
    kept = value[: named.end()] if named else b""
    return kept + _all(value[len(kept) :])


def _k(value: bytes) -> bytes:
    """Mask ``clear:KEY``, ``base64:KEY`` or ``uri:URI`` (RFC 4566, section 5.12)."""
    method, colon, key = value.partition(b":")
    if colon and method.strip().lower() in (b"clear", b"base64", b"uri"):
        return method + colon + _all(key)
    return method + colon + _all(key) if method.strip().lower() == b"prompt" else _all(value)


def _crypto(value: bytes) -> bytes:
    """Mask ``TAG SUITE METHOD:KEY|LIFETIME|MKI;... PARAMETERS`` (RFC 4568, section 9.1)."""
    places = count()

    def masked(found: "re.Match[bytes]") -> bytes:
        field, place = found[0], next(places)
        if (place == 0 and field.isdigit()) or (place == 1 and _SUITE.fullmatch(field)):
            return field
        if place and _SESSION.fullmatch(field):
            return field
        keys = [_METHOD.match(part) for part in field.split(b";")]
        if not all(keys):
            return _x(field)
        return _METHOD.sub(lambda key: key[1] + _x(key[2]), field)

    return _FIELD.sub(masked, value)

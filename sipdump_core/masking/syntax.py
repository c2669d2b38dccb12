"""The little of SIP's grammar that masking needs (RFC 3261, sections 7.3.1 and 25.1): start lines and headers."""

import re
from collections.abc import Collection

__all__ = ["INNER_START_LINE", "LONE_CR", "NAME", "START_LINE", "any_case", "any_name", "full_name", "has_uri"]

NAME = re.compile(rb"[!#$%&'*+.0-9A-Z^_`a-z|~-]++[ \t]*+")
LONE_CR = re.compile(rb"\r(?!\n)")
_START = (
    rb"(?:(?i:SIP/\d\.\d)[ \t]++\d{3}(?!\d)[^\r\n]*+"
    rb"|(?!(?i:SIP/))[!#$%&'*+.0-9A-Z^_`a-z|~-]++[ \t]++(?P<uri>[^\r\n]*[^ \t\r\n])[ \t]++(?i:SIP/\d\.\d)[ \t]*+)"
    rb"(?:\r?\n|\Z)"
)
START_LINE = re.compile(rb"[\r\n]*+" + _START)
INNER_START_LINE = re.compile(rb"(?:\A|(?<=\n))" + _START)
SCHEMES = ("sip", "sips", "pres", "im", "mailto", "xmpp", "h323", "mms", "msrp", "msrps", "tel", "sms", "fax", "modem")
"""Of URIs that name a user."""
_COMPACT = {
    "a": "accept-contact", "u": "allow-events", "i": "call-id", "m": "contact", "e": "content-encoding",
    "l": "content-length", "c": "content-type", "o": "event", "f": "from", "y": "identity", "r": "refer-to",
    "b": "referred-by", "j": "reject-contact", "d": "request-disposition", "x": "session-expires", "s": "subject",
    "k": "supported", "t": "to", "v": "via", "n": "identity-info",
}  # fmt: skip
"""The compact forms registered by IANA."""


def any_case(name: str) -> bytes:
    """Return an expression for a word in any case; unlike ``re.IGNORECASE``, it is looked for by its first letter."""
    return "".join(f"[{one.upper()}{one.lower()}]" if one.isalpha() else re.escape(one) for one in name).encode()


# an expression that begins with a literal is looked for by memchr
_LAST = "".join(sorted({one for scheme in SCHEMES for one in (scheme[-1], scheme[-1].upper())})).encode()
_URI = re.compile(
    rb":(?<=[" + _LAST + rb"]:)(?:" + b"|".join(rb"(?<=%b:)" % any_case(scheme) for scheme in SCHEMES) + rb")"
)


def has_uri(value: bytes) -> bool:
    """Return False where no URI names a user, and True where one may."""
    return _URI.search(value) is not None or b"%" in value


def full_name(name: str) -> str:
    """Return a header's name in lower case, a compact one in full."""
    lowered = name.strip().lower()
    return _COMPACT.get(lowered, lowered)


def any_name(names: Collection[str]) -> list[str]:
    """Return full names with their compact forms."""
    return [*names, *(short for short, full in _COMPACT.items() if full in names)]

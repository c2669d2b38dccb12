"""The values of SIP's start line and headers, taken apart leniently: what cannot be understood is None."""

import re

__all__ = ["branch", "cseq", "start_line", "text", "user_and_tag"]

_TOKEN = rb"[A-Za-z0-9.!%*_+`'~-]"
_VERSION = rb"SIP/\d++\.\d"  # in any case (RFC 3261, section 7.1)
_START = re.compile(
    _VERSION + rb"++[ \t]++(\d{3})(?!\d)|(" + _TOKEN + rb"++)[ \t]([^\n]*)[ \t]" + _VERSION, re.IGNORECASE
)
# what most request lines are; the groups: method, user
_PLAIN_REQUEST = re.compile(rb"([A-Z]++) sips?:(?:([!#-9=?A-Z^-~]++)@)?+[^\s@<>]++ SIP/2\.0\r?+")
_CSEQ = re.compile(rb"(\d++)[ \t]*+(" + _TOKEN + rb"*+)(.*+)", re.DOTALL)
_CSEQ_DIGITS = 18  # what surely fits into 64 bits
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
# what most values of From and To are; the groups: user, tag
_PLAIN_PARTY = re.compile(
    rb'\s*+(?:"[^"\\]*+"\s*+|[^"<;]*+)<sips?:([!#-9=?A-Z^-~]++)@[^>]*+>'
    rb"(?:;tag=(" + _TOKEN + rb'++)(?:;[^"]*+)?+)?+\s*+'
)
_PARAMETER = re.compile(rb'\s*+;\s*+([^\s=;,"]*+)(?:\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^\s;,"]*+))?+[^;,"]*+', re.DOTALL)
_BRANCH = re.compile(rb'[^\s;,"]++')


def text(value: bytes) -> str | None:
    """Return a value in one line; bytes that are not UTF-8 as ``\\xff``."""
    return b" ".join(value.split()).decode("utf-8", "backslashreplace") or None


def start_line(line: bytes) -> tuple[str | None, int | None, str | None]:
    """Return the method, the status code and the user part of the Request-URI."""
    plain = _PLAIN_REQUEST.fullmatch(line)
    if plain:
        method, user = plain.groups()
        return method.decode(), None, user.decode() if user else None
    first = _START.match(line)
    if first is None:
        return None, None, None
    status, method, uri = first.groups()
    return (method.decode(), None, _user(uri.strip(b" \t<>"))) if method else (None, int(status), None)


def cseq(value: bytes) -> tuple[int | None, str | None]:
    """Return the number and the method of CSeq; the number counts even where what follows is no method."""
    found = _CSEQ.fullmatch(b" ".join(value.split()))
    if found is None:
        return None, None
    number, method, rest = found.groups()
    return int(number) if len(number) <= _CSEQ_DIGITS else None, method.decode() if method and not rest else None


def user_and_tag(value: bytes) -> tuple[str | None, str | None]:
    """Return the user part of a name-addr or addr-spec (RFC 3261, section 20.10), and the parameter ``tag``."""
    plain = _PLAIN_PARTY.fullmatch(value)
    if plain:
        user, tag = plain.groups()
        return user.decode(), tag.decode() if tag else None
    value = value.strip()
    name = _QUOTED.match(value)  # a display name may contain any of the characters that follow
    opening = value.find(b"<", name.end() if name else 0)
    if opening >= 0:
        uri, _, rest = value[opening + 1 :].partition(b">")
        at = rest.find(b";")
    else:
        uri, rest = value.partition(b";")[0], value
        at = value.find(b";")
    return _user(uri.strip()), _parameter(rest, b"tag", at) if at >= 0 else None


def branch(value: bytes) -> str | None:
    """Return the branch of the first Via in a header's value."""
    before, _, after = value.partition(b";branch=")
    found = _BRANCH.match(after)
    if found and b"," not in before and b'"' not in before:  # as most are
        return found[0].decode("utf-8", "backslashreplace")
    at = value.find(b";")
    return _parameter(value, b"branch", at) if at >= 0 and b"," not in value[:at] else None


def _parameter(value: bytes, name: bytes, at: int) -> str | None:
    """Return a parameter's value; the parameters begin at an offset, and end at a comma that is not quoted."""
    while parameter := _PARAMETER.match(value, at):
        if parameter[1].lower() == name and parameter[2]:
            return text(parameter[2].strip(b'"'))
        at = parameter.end()
    return None


def _user(uri: bytes) -> str | None:
    """Return the user part of a SIP URI, or the number of a ``tel:`` URI (RFC 3966)."""
    scheme, _, rest = uri.partition(b":")
    if scheme.lower() == b"tel":
        return text(rest.partition(b";")[0])
    if scheme.lower() not in (b"sip", b"sips"):
        return None
    user, at, _ = rest.partition(b"@")
    return text(user.partition(b":")[0]) if at else None  # a password follows the colon

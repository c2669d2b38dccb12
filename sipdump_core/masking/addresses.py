"""Users in addresses: URIs wherever they are, and the display names before them."""

import re
from collections.abc import Sequence

from sipdump_core.masking.syntax import has_uri
from sipdump_core.masking.users import Users

__all__ = ["Addresses"]

_SCHEMES = rb"(?:(sips?|pres|im|mailto|xmpp|h323|mms|msrps?)|(tel|sms|fax|modem))"
_COLON, _AT = rb"(?:(?::|%(?:25)*+3[Aa])(?://)?)", rb"(?:@|%(?:25)*+40)"
_NO_WORD_BEFORE = rb"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))"
_SCHEME = re.compile(_NO_WORD_BEFORE + _SCHEMES + _COLON, re.IGNORECASE)
_RUN = re.compile(_NO_WORD_BEFORE + _SCHEMES + _COLON + rb'[^\s<>"]*+', re.IGNORECASE)
"""A URI with whatever is behind it, up to what ends one anywhere."""
_NEXT = re.compile(rb",(?=" + _SCHEMES + _COLON + rb")", re.IGNORECASE)
_SIGN = re.compile(_AT)
_HOST_END = re.compile(rb"[;?,/&>\s]|%(?:25)*+(?:3[BbEeFf]|2[0Cc])")
_NUMBER = re.compile(rb"(?:[^;?,>\s%]|%(?!(?:25)*+(?:3[BbEeFf]|2[0Cc])))*+")
_PHONE = re.compile(rb"\+?(?=[^0-9:]*[0-9])[0-9*#\-().]++(?=:|\Z)")
_ADDRESS = re.compile(rb"[0-9.]*\.[0-9.]*")
_PARAMETER = re.compile(
    rb"((?:;|%3[Bb])(?:rn|cic|isub|ext|postd|phone-context|from|to)(?:=|%3[Dd]))(\+?[0-9][^;?,>\s&%]*)", re.IGNORECASE
)
"""Parameters that have a number, or a part of one (RFC 3966, RFC 4694)."""
_PIECE = re.compile(rb'"(?:[^"\\]|\\.)*+"?|<[^>]*+>?|[^"<]++', re.DOTALL)
_SPACED = re.compile(rb"[^;=]*\s")
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_UNCLOSED = re.compile(rb'"(?:[^"\\]|\\.)*+(?!")', re.DOTALL)
_USUAL = re.compile(
    rb'([ \t]*+)(?:"([^"\\<>]*+)"([ \t]*+)|([^"<>,;:\r\n \t]*+)([ \t]*+))<(sips?:)([^@:;?<>"\s%,]++)'
    rb'(@[^@<>"\s?%,=]*+(?:=[^@<>"\s?%,=0-9+]++)?>)([^<>"@%,:]*+)'
)
"""Nearly every address: a simple name, a user without escapes or parameters, nothing else behind the host."""
_USUAL_TARGET = re.compile(rb'(sips?:)([^@:;?<>"\s%,]++)(@[^@<>"\s?%,=]*+)')
_NAME = re.compile(rb"(\s*)(.*?)(\s*)", re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_NO_URI = re.compile(rb'((?:\A|,)\s*+)((?:"(?:[^"\\]|\\.)*+"?|[^;,"\s]|\s++(?=[^;,\s]))++)(\s*+)', re.DOTALL)
"""An address without a URI, and the white space behind it."""
_OTHER = re.compile(rb"<?\s*+((?:[A-Za-z][A-Za-z0-9+.-]*+:)?(?://)?)")
_NOBODY = (b"urn:", b"http:", b"https:", b"http://", b"https://", b"data:", b"cid:")
"""Beginnings of URIs that name no user, as long as there is no ``@``."""
_HOST = re.compile(rb"\[[^\]]*\]\S*|[^.@\s]*\.\S*|localhost\S*|\*?")


class _Ahead:
    """The next match of an expression in a text, looked for only once on the way through it.

    Args:
        pattern: the expression.
        text: the text.
    """

    def __init__(self, pattern: "re.Pattern[bytes]", text: bytes) -> None:
        self._pattern, self._text = pattern, text
        self._found = pattern.search(text)

    def start(self, at: int) -> int:
        """Return where it is next, not before an offset that only grows; the text's length if it is nowhere."""
        while self._found and self._found.start() < at:
            self._found = self._pattern.search(self._text, at)
        return self._found.start() if self._found else len(self._text)


class Addresses:
    """Puts what stands for users in their place.

    Args:
        users: makes that.
    """

    def __init__(self, users: Users) -> None:
        self._users = users

    def text(self, value: bytes) -> bytes:
        """Return any text with the users of all its URIs masked, also of those that are percent-encoded."""
        return _RUN.sub(lambda found: self.uris(found[0]), value) if has_uri(value) else value

    def uris(self, run: bytes) -> bytes:
        """Return a URI, which may have others in it or behind it, with the users masked."""
        out: list[bytes] = []
        at = 0
        following, sign, host_end = _Ahead(_NEXT, run), _Ahead(_SIGN, run), _Ahead(_HOST_END, run)
        while found := _SCHEME.search(run, at):
            out.append(run[at : found.end()])
            at = found.end()
            end = following.start(at)
            first = sign.start(at)
            if found[2]:
                number = _NUMBER.match(run, at, end)
                behind = number.end() if number else at
            elif first < end:
                # a@b@host: all but the host may be a user
                behind = next(reversed([*_SIGN.finditer(run, first, min(host_end.start(first), end))])).start()
            else:  # it has no user, unless what should be its host is a number
                phone = _PHONE.match(run, at, min(host_end.start(at), end))
                behind = phone.end() if phone and not _ADDRESS.fullmatch(phone[0]) else at
            out.append(self._masked(run[at:behind]))
            at = behind
        out.append(run[at:])
        joined = b"".join(out)
        if b"=" not in joined and b"%3" not in joined:
            return joined
        return _PARAMETER.sub(lambda found: found[1] + self._users.stand_in(found[2]), joined)

    def target(self, uri: bytes) -> bytes:
        """Return a request URI masked; white space does not end it."""
        usual = _USUAL_TARGET.fullmatch(uri)
        if usual:
            return usual[1] + self._users.stand_in(usual[2]) + usual[3]
        return self.uris(uri) if _SCHEME.search(uri) else self._other(uri)

    def header(self, value: bytes, *, identity: bool) -> bytes:
        """Return the value of a header with users and display names masked.

        Args:
            value: one address or a list, with its line folds.
            identity: whether it names nothing but users; then what is no URI is masked, too.
        """
        usual = _USUAL.fullmatch(value)
        if usual:
            before, quoted, space, name, more, scheme, user, host, rest = usual.groups()
            stand_in = self._users.stand_in
            if quoted and not quoted.isspace():
                before += b'"%b"%b' % (stand_in(quoted), space)
            elif name:
                before += stand_in(name) + more
            else:
                before += value[len(before) : usual.start(6) - 1]
            return b"%b<%b%b%b%b" % (before, scheme, stand_in(user), host, rest)
        pieces = _PIECE.findall(value)
        out: list[bytes] = []
        for piece in pieces:
            if not piece.startswith(b"<"):
                if _UNCLOSED.match(piece):
                    out.append(self._unclosed(piece, identity=identity))
                else:
                    bare = _SCHEME.search(piece) if identity and piece[:1] != b'"' else None
                    out.append(self._bare(piece, bare.start(), pieces, out) if bare else self.text(piece))
                continue
            masked = self.uris(piece)
            known = _SCHEME.search(piece) is not None
            if identity and not known:
                masked = self._other(piece)
            if identity or known:
                self._mask_name(pieces, out)
            out.append(masked)
        if identity and not any(piece.startswith(b"<") or _SCHEME.search(piece) for piece in pieces):
            return _NO_URI.sub(lambda found: found[1] + self._no_uri(found[2]) + found[3], value)
        return b"".join(out)

    def user(self, value: bytes) -> bytes:
        """Return a user by itself, as ``alice`` or ``alice@example.com``, masked."""
        name, at, host = value.partition(b"@")
        return self._masked(name) + at + host

    def name(self, value: bytes) -> bytes:
        """Return a display name masked; one that is quoted stays so."""
        quoted = value[:1] == b'"'
        inner = _ESCAPED.sub(rb"\1", value.strip(b'"')) if quoted else value
        if not inner.strip():
            return value
        masked = self._users.stand_in(inner)
        return b'"%b"' % masked if quoted else masked

    def _masked(self, user: bytes) -> bytes:
        """Return what stands for a user part; a password behind it goes."""
        name = user.partition(b":")[0]
        return self._users.stand_in(name) if name.strip() else b""

    def _unclosed(self, piece: bytes, *, identity: bool) -> bytes:
        """Mask a quoted string that is never closed, with the address that may be in it."""
        name, opening, rest = piece[1:].partition(b"<")
        if not opening:
            return self.text(piece)
        known = _SCHEME.search(rest) or not identity
        address = opening + self.uris(rest) if known else self._other(opening + rest)
        return b'"' + (self._users.stand_in(name) if name.strip() else name) + address

    def _bare(self, piece: bytes, at: int, pieces: Sequence[bytes], out: list[bytes]) -> bytes:
        """Mask a URI that has no brackets, and the name before it, which must not be there then.

        Args:
            piece: what is between quoted strings and brackets.
            at: where the URI begins in it.
            pieces: all pieces, of which this is the next to put out.
            out: what was put out so far.
        """
        before, comma, name = piece[:at].rpartition(b",")
        if name.strip() and _SPACED.fullmatch(name):
            spaces = _NAME.fullmatch(name)
            assert spaces  # noqa: S101 - it matches anything
            masked = self._users.stand_in(spaces[2])
            return self.text(before) + comma + spaces[1] + masked + spaces[3] + self.text(piece[at:])
        if not (name.strip() or comma):
            self._mask_name(pieces, out)
        return self.text(piece)

    def _mask_name(self, pieces: Sequence[bytes], out: list[bytes]) -> None:
        """Mask the display name at the end of what was put out so far, back to a comma or another address."""
        for place in range(len(out) - 1, -1, -1):
            piece = pieces[place]
            if piece.startswith(b"<"):
                return
            if piece.startswith(b'"'):
                out[place] = self.name(piece)
                continue
            before, comma, name = piece.rpartition(b",")
            spaces = _NAME.fullmatch(name)
            assert spaces  # noqa: S101 - it matches anything
            if spaces[2]:
                masked = self._users.stand_in(spaces[2])
                out[place] = self.text(before) + comma + spaces[1] + masked + spaces[3]
            if comma:
                return

    def _no_uri(self, address: bytes) -> bytes:
        return self.name(address) if _QUOTED.fullmatch(address) else self._other(address)

    def _other(self, address: bytes) -> bytes:
        """Mask an address that is no URI which names a user: ``alice@example.com``, ``4930``, or anything else."""
        begin = _OTHER.match(address)
        start = begin.end() if begin else 0
        close = b">" if address.endswith(b">") else b""
        inner = address[start : len(address) - len(close)]
        user, at, host = inner.rpartition(b"@")
        if at:
            return address[:start] + self._masked(user) + at + host + close
        if (begin and begin[1].lower() in _NOBODY) or _HOST.fullmatch(inner.strip()):
            return address
        user, semicolon, rest = inner.partition(b";")
        return address[:start] + self._masked(user) + semicolon + rest + close

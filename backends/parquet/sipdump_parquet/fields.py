"""What people filter SIP messages by, pulled out of their bytes: leniently, and fast.

Header names are compared without case, the compact forms ``f``, ``t`` and ``i`` count (RFC 3261, section 7.3.3), folded
lines are unfolded (section 7.3.1), lines may end in CRLF or LF, and of a header that comes twice the first one counts,
all as in :mod:`sipdump_core.sip`. What is absent, or not of its form, is None. Nothing here raises on any input, and
the time that a message takes grows with its length and no faster.
"""

import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sipdump_core.cache import Cache

__all__ = ["FIELDS", "Puller", "Row"]

FIELDS = ("call_id", "method", "status", "cseq", "cseq_method", "from_user", "to_user", "user_agent")
Row = tuple[str | None, str | None, int | None, int | None, str | None, str | None, str | None, str | None]
"""The fields of one message, in the order of ``FIELDS``."""

V = TypeVar("V")
_TOKEN = rb"[A-Za-z0-9.!%*_+`'~-]{1,64}"
_START = re.compile(rb"SIP/\d\.\d[ \t](\d{3})(?!\d)|(" + _TOKEN + rb")[ \t][^\n]*[ \t]SIP/\d")
_HEADER = re.compile(
    # most headers are others, and are passed over by their first letter
    rb"\n(?=[CFITUScfitus\r\n])(?:(c(?:all-id|seq)|i|f(?:rom)?|t(?:o)?|user-agent|server)[ \t]*:"
    # a value runs on over line ends that are followed by white space
    rb"([^\n]*+(?:\n[ \t][^\n]*+)*+)"
    # a blank line, and all that follows: a match without a name, and the last one
    rb"|\r?\n.*+)",
    re.IGNORECASE | re.DOTALL,
)
_NAMES = (b"Call-ID", b"CSeq", b"From", b"To", b"User-Agent", b"Server")
_USUAL = {name.lower(): name for name in _NAMES} | {b"i": b"Call-ID", b"f": b"From", b"t": b"To"}
_EMPTY_LINES = re.compile(rb"[\r\n]*+")
_CSEQ = re.compile(rb"(\d+)(?: (" + _TOKEN + rb"))?")
_LF = 10
_CSEQ_DIGITS = 18  # what surely fits into 64 bits
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
# what most values of From and To are; the groups: user
_PLAIN_USER = re.compile(rb'\s*+(?:"[^"\\]*+"\s*+|[^"<;]*+)<sips?:([!#-9=?A-Z^-~]++)@')
_CACHED = 256  # bytes of the longest value that is remembered, so that memory is bounded, too


class Puller:
    """Pulls the fields out of messages; it remembers what values made, because most come again.

    Args:
        limit: how many values of a kind are remembered.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._starts: _Made[tuple[str | None, int | None]] = _Made(_start, (None, None), limit)
        self._texts: _Made[str | None] = _Made(_text, None, limit)
        self._users: _Made[str | None] = _Made(_user, None, limit)
        self._cseqs: _Made[tuple[int | None, str | None]] = _Made(_cseq, (None, None), limit)

    def pull(self, data: bytes, offsets: Sequence[int]) -> list[Row]:
        """Give the fields of messages that stand one behind the other.

        Args:
            data: holds the messages.
            offsets: where each begins in ``data``, and at last where the last one ends.
        """
        starts, texts, users, cseqs = self._starts, self._texts, self._users, self._cseqs
        find, headers = data.find, _HEADER.findall
        rows: list[Row] = []
        begin = offsets[0]
        for end in offsets[1:]:
            if begin < end and data[begin] < 14:  # line ends before a message are no part of it (RFC 3261, 7.5)
                begin = _EMPTY_LINES.match(data, begin, end).end()  # type: ignore[union-attr]  # it always matches
                headers_at = begin - (data[begin - 1] == _LF)
            else:
                headers_at = begin
            line_end = find(b"\n", begin, end)
            method, status = starts[data[begin : line_end if line_end >= 0 else end]]
            call_id = cseq = from_ = to = agent = server = None
            pairs = headers(data, headers_at, end)
            for name, value in reversed(pairs):  # so that of two the first one stays
                if name == b"From":
                    from_ = value
                elif name == b"To":
                    to = value
                elif name == b"Call-ID":
                    call_id = value
                elif name == b"CSeq":
                    cseq = value
                elif name == b"User-Agent":
                    agent = value
                elif name == b"Server":
                    server = value
                elif name:
                    call_id, cseq, from_, to, agent, server = _by_any_name(pairs)
                    break
            number, cseq_method = cseqs[cseq]
            product = texts[agent] or texts[server]
            rows.append((texts[call_id], method, status, number, cseq_method, users[from_], users[to], product))
            begin = end
        return rows


class _Made(Cache[bytes | None, V], Generic[V]):
    """What ``make`` makes of each key, and ``absent`` for None."""

    __slots__ = ("_absent", "_make")

    def __init__(self, make: Callable[[bytes], V], absent: V, limit: int) -> None:
        super().__init__(limit)
        self._make = make
        self._absent = absent

    def __missing__(self, key: bytes | None) -> V:
        value = self._absent if key is None else self._make(key)
        return value if key and len(key) > _CACHED else self.keep(key, value)


def _by_any_name(pairs: list[tuple[bytes, bytes]]) -> list[bytes | None]:
    """Give the values in the order of ``_NAMES`` where names are not all in their usual form."""
    found = {_USUAL[name.lower()]: value for name, value in reversed(pairs) if name}
    return [found.get(name) for name in _NAMES]


def _start(line: bytes) -> tuple[str | None, int | None]:
    first = _START.match(line)
    if first is None:
        return None, None
    status, method = first.groups()
    return (method.decode(), None) if method else (None, int(status))


def _text(value: bytes) -> str | None:
    return b" ".join(value.split()).decode("utf-8", "backslashreplace") or None


def _cseq(value: bytes) -> tuple[int | None, str | None]:
    found = _CSEQ.fullmatch(b" ".join(value.split()))
    if found is None:
        return None, None
    number, method = found.groups()
    return int(number) if len(number) <= _CSEQ_DIGITS else None, method.decode() if method else None


def _user(value: bytes) -> str | None:
    """Give the user part of a name-addr or addr-spec (RFC 3261, section 20.10)."""
    plain = _PLAIN_USER.match(value)
    if plain:
        return plain[1].decode()
    value = value.strip()
    name = _QUOTED.match(value)  # a display name may hold any of the characters that follow
    opening = value.find(b"<", name.end() if name else 0)
    uri = value[opening + 1 :].partition(b">")[0] if opening >= 0 else value.partition(b";")[0]
    scheme, _, rest = uri.strip().partition(b":")
    if scheme.lower() == b"tel":
        return _text(rest.partition(b";")[0])
    if scheme.lower() not in (b"sip", b"sips"):
        return None
    user, at, _ = rest.partition(b"@")
    return _text(user.partition(b":")[0]) if at else None  # behind the colon stands a password

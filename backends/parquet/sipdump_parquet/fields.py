"""What people filter SIP messages by, pulled out of their bytes: leniently, and fast.

Header names are compared without case, compact forms count (RFC 3261, section 7.3.3), folded lines are unfolded
(section 7.3.1), lines may end in CRLF or LF, and of a header that comes twice the first one counts, all as in
:mod:`sipdump_core.sip`. What is absent or malformed is None. Nothing here raises on any input, and the time that a
message takes grows linearly with its length.
"""

import ctypes
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import sipdump_speedups
from sipdump_core.cache import Cache
from sipdump_core.calls.legs import charging_id, session_uuids
from sipdump_parquet.values import branch, cseq, start_line, text, user_and_tag

__all__ = ["CORRELATING", "FIELDS", "Puller", "canonical"]

FIELDS = (
    "call_id", "method", "status", "cseq", "cseq_method", "from_user", "to_user", "user_agent",
    "from_tag", "to_tag", "request_uri_user", "via_branch", "correlation",
)  # fmt: skip
"""The columns that are made of every message."""

CORRELATING = ("X-CID", "X-Call-ID", "Session-ID", "P-Charging-Vector")
"""Headers that name other legs of a call; the last two are RFC 7989 and RFC 7315 (icid-value)."""

_COMPACT = {
    "a": "accept-contact", "b": "referred-by", "c": "content-type", "d": "request-disposition",
    "e": "content-encoding", "f": "from", "i": "call-id", "j": "reject-contact", "k": "supported",
    "l": "content-length", "m": "contact", "n": "identity-info", "o": "event", "r": "refer-to", "s": "subject",
    "t": "to", "u": "allow-events", "v": "via", "x": "session-expires", "y": "identity",
}  # fmt: skip
"""IANA's registry "SIP Header Fields"."""

_USUAL = (b"Call-ID", b"CSeq", b"From", b"To", b"Via", b"User-Agent", b"Server")
_SLOTS = {name.lower().decode(): name for name in _USUAL}
_ABSENT: dict[bytes, bytes | None] = dict.fromkeys((*_USUAL, b""))  # the last one: where the headers end
_EMPTY_LINES = re.compile(rb"[\r\n]*+")
_LF = 10
_CACHED = 256  # bytes of the longest value that is remembered, so that memory is bounded, too
_NIL = "0" * 32  # the UUID that identifies no session (RFC 7989, section 5)

V = TypeVar("V")
Pairs = list[tuple[bytes, bytes]]


class Puller:
    """Pulls the fields out of messages; it remembers what values made, because most come again.

    Args:
        headers: headers that get a column of their own, by its name.
        correlate: headers whose values correlate, beside ``CORRELATING``.
        limit: how many values of a kind are remembered.
    """

    def __init__(
        self, headers: Mapping[str, str] | None = None, correlate: Sequence[str] = (), limit: int = 10_000
    ) -> None:
        self.known: dict[bytes, str] = {}
        """The names that are looked for, in lower case, each with its canonical one."""
        self._own = {column: canonical(name) for column, name in (headers or {}).items()}
        self.rare = ("correlation", *self._own)
        """Columns that most messages have nothing for."""
        self._correlate = dict.fromkeys(map(canonical, (*CORRELATING, *correlate)))
        self.wanted = {*self._own.values(), *self._correlate}
        """Headers whose values are wanted as they are."""
        self._all_apart = not self.wanted.isdisjoint(_SLOTS)  # some are pulled as usual, too
        names = self.wanted.union(_SLOTS)
        self.known |= {name.encode(): name for name in names}
        self.known |= {short.encode(): name for short, name in _COMPACT.items() if name in names}
        self._find = _pattern(list(self.known)).findall
        self._starts: _Made[tuple[str | None, int | None, str | None]] = _Made(start_line, (None, None, None), limit)
        self._texts: _Made[str | None] = _Made(text, None, limit)
        self._parties: _Made[tuple[str | None, str | None]] = _Made(user_and_tag, (None, None), limit)
        self._cseqs: _Made[tuple[int | None, str | None]] = _Made(cseq, (None, None), limit)
        self._branches: _Made[str | None] = _Made(branch, None, limit)

    def library(self) -> ctypes.CDLL | None:
        """Return the library in C that pulls the fields of usual messages; None if there is none, or none is usual."""
        fits = len(self.known) <= sipdump_speedups.MAX_NAMES and max(map(len, self.known)) <= sipdump_speedups.MAX_NAME
        return sipdump_speedups.library() if fits and not self._all_apart else None

    def pull(self, data: bytes, offsets: Sequence[int]) -> dict[str, list[Any]]:
        """Return the fields of messages that lie one behind the other, as columns.

        Args:
            data: contains the messages.
            offsets: where each begins in ``data``, and where the last one ends.
        """
        find, headers = data.find, self._find
        absent, count, all_apart = _ABSENT, len(_ABSENT), self._all_apart
        lines: list[bytes] = []
        values: list[bytes | None] = []  # message by message, as many of each as ``_ABSENT`` has
        apart: dict[int, dict[str, list[bytes]]] = {}
        begin = offsets[0]
        for end in offsets[1:]:
            if begin < end and data[begin] < 14:  # line ends before a message are no part of it (RFC 3261, 7.5)
                begin = _EMPTY_LINES.match(data, begin, end).end()  # type: ignore[union-attr]  # it always matches
                headers_at = begin - (data[begin - 1] == _LF)
            else:
                headers_at = begin
            line_end = find(b"\n", begin, end)
            lines.append(data[begin : line_end if line_end >= 0 else end])
            pairs = headers(data, headers_at, end)
            row = absent.copy()
            row.update(pairs[::-1])  # so that of two the first one stays
            if len(row) != count or all_apart:  # a name in another form than usual, or one of the rarer headers
                found = apart[len(lines) - 1] = self._by_any_name(pairs)
                row = dict.fromkeys(absent)
                row.update((_SLOTS[name], each[0]) for name, each in found.items() if name in _SLOTS)
            values += row.values()
            begin = end
        return self._columns(lines, values, apart)

    def _columns(
        self, lines: list[bytes], values: list[bytes | None], apart: Mapping[int, Mapping[str, list[bytes]]]
    ) -> dict[str, list[Any]]:
        call_ids, cseqs, froms, tos, vias, agents, servers, _ = (
            values[at :: len(_ABSENT)] for at in range(len(_ABSENT))
        )
        made: dict[str, list[Any]] = {"call_id": list(map(self._texts.__getitem__, call_ids))}
        made["method"], made["status"], made["request_uri_user"] = _split(self._starts, lines)
        made["cseq"], made["cseq_method"] = _split(self._cseqs, cseqs)
        made["from_user"], made["from_tag"] = _split(self._parties, froms)
        made["to_user"], made["to_tag"] = _split(self._parties, tos)
        made["via_branch"] = list(map(self._branches.__getitem__, vias))
        products = zip(map(self._texts.__getitem__, agents), map(self._texts.__getitem__, servers), strict=True)
        made["user_agent"] = [agent or server for agent, server in products]
        for column in self.rare:
            made[column] = [None] * len(lines)
        for row, by_name in apart.items():
            made["correlation"][row] = self._correlation(by_name)
            for column, name in self._own.items():
                texts = map(text, by_name.get(name, ()))
                made[column][row] = ", ".join(filter(None, texts)) or None
        return made

    def _by_any_name(self, pairs: Pairs) -> dict[str, list[bytes]]:
        """Return the values of each header, by its canonical name."""
        found: dict[str, list[bytes]] = {}
        for name, value in pairs:
            if name:
                found.setdefault(self.known[name.lower()], []).append(value)
        return found

    def _correlation(self, values: Mapping[str, list[bytes]]) -> list[str] | None:
        found = [
            part for name in self._correlate for value in values.get(name, ()) for part in _parts(name, text(value))
        ]
        return list(dict.fromkeys(found)) or None


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


def canonical(name: str) -> str:
    """Return a header's name in lower case, and compact forms spelled out."""
    return _COMPACT.get(name.lower(), name.lower())


def _split(made: _Made[Any], keys: Sequence[bytes | None]) -> Iterator[list[Any]]:
    """Return the columns of what is made of keys."""
    width = len(made[None])
    values = list(chain.from_iterable(map(made.__getitem__, keys)))
    return (values[at::width] for at in range(width))


def _parts(name: str, value: str | None) -> list[str]:
    """Return what a header's value correlates by."""
    if value is None:
        return []
    if name == "session-id":
        local, *parameters = (part.strip() for part in value.split(";"))
        remote = [part[len("remote=") :] for part in parameters if part.lower().startswith("remote=")]
        halves = [uuid for uuid in (local, *remote) if uuid and uuid != _NIL]
        known = {uuid.lower() for uuid in halves}
        return [*halves, *sorted(session_uuids(value) - known)]  # these where the header is not quite of its form
    if name == "p-charging-vector":
        icid = charging_id(value)
        return [icid] if icid else []
    return [value]


def _pattern(names: Sequence[bytes]) -> re.Pattern[bytes]:
    """Return what finds these headers, given in lower case; the groups: name, value."""
    letters = bytes({name[0] for name in names} - {ord("c")})
    after_c = re.escape(bytes({name[1] for name in names if name[:1] == b"c" and len(name) > 1}))
    any_case = b"|".join(map(re.escape, names))
    return re.compile(
        # most headers are others: those are passed over by their first letter, Contact and Content-... by their second
        rb"\n(?=[" + re.escape(letters + letters.upper()) + rb"\r\n]|[Cc][" + after_c + after_c.upper() + rb"])"
        # in their usual form, names are compared faster
        rb"(?:(Via|From|To|Call-ID|CSeq|User-Agent|Server|(?i:" + any_case + rb"))[ \t]*:"
        # a value continues after line ends that are followed by white space
        rb"([^\n]*+(?:\n[ \t][^\n]*+)*+)"
        # a blank line and all that follows: a match without a name, the last one
        rb"|\r?\n.*+)",
        re.DOTALL,
    )

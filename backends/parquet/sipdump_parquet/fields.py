"""What people filter SIP messages by, pulled out of their bytes: leniently, and fast.

Header names are compared without case, compact forms count (RFC 3261, section 7.3.3), folded lines are unfolded
(section 7.3.1), lines may end in CRLF or LF, and of a header that comes twice the first one counts, all as in
:mod:`sipdump_core.sip`. What is absent or malformed is None. Nothing here raises on any input, and the time that a
message takes grows linearly with its length.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import sipdump_speedups
from sipdump_core.cache import Cache
from sipdump_core.calls.legs import charging_id, session_uuids
from sipdump_parquet.values import branch, cseq, start_line, text, user_and_tag

if TYPE_CHECKING:
    from ctypes import CDLL

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

Value = Any
_NO_PARTY: tuple[str | None, str | None] = (None, None)
_USUAL: dict[str, tuple[Callable[[bytes], Value], Value]] = {
    "call-id": (text, None),
    "cseq": (cseq, (None, None)),
    "from": (user_and_tag, _NO_PARTY),
    "to": (user_and_tag, _NO_PARTY),
    "via": (branch, None),
    "user-agent": (text, None),
    "server": (text, None),
}
"""What is made of the value of each header that has columns, and what stands for one that is absent."""

_FORMS = (b"Via", b"From", b"To", b"Call-ID", b"CSeq", b"User-Agent", b"Server")
_ODD = "\n"
_ABSENT: dict[str, Value] = {name: absent for name, (_, absent) in _USUAL.items()} | {"": None}
"""What a message without headers has; the last one is where all others go."""
_EMPTY_LINES = re.compile(rb"[\r\n]*+")
_HEADERS_END = re.compile(rb"\n\r?+\n")
_LF = 10
_CACHED = 256  # bytes of the longest line that is remembered, so that memory is bounded, too
_NIL = "0" * 32  # the UUID that identifies no session (RFC 7989, section 5)

V = TypeVar("V")
Header = tuple[str, Value]


class Puller:
    """Pulls the fields out of messages; it remembers what lines made, because most come again.

    Args:
        headers: headers that get a column of their own, by its name.
        correlate: headers whose values correlate, beside ``CORRELATING``.
        limit: how many lines are remembered.
    """

    def __init__(
        self, headers: Mapping[str, str] | None = None, correlate: Sequence[str] = (), limit: int = 50_000
    ) -> None:
        self._own = {column: canonical(name) for column, name in (headers or {}).items()}
        self.rare = ("correlation", *self._own)
        """Columns that most messages have nothing for."""
        self._correlate = dict.fromkeys(map(canonical, (*CORRELATING, *correlate)))
        self.wanted = frozenset((*self._own.values(), *self._correlate))
        """Headers whose values are wanted as they are, by their canonical names."""
        self._all_apart = not self.wanted.isdisjoint(_USUAL)  # some are both pulled as usual and wanted as they are
        known = self.wanted.union(_USUAL)
        self.names = {name.encode(): name for name in known}
        """All that is looked for, in lower case, with the canonical names."""
        self.names |= {short.encode(): name for short, name in _COMPACT.items() if name in known}
        self._find = _pattern(list(self.names)).findall
        self._starts = _Made(start_line, limit)
        self._headers = _Made(self._header, limit)
        # as most write them, found at once
        self._makers = {b"\n" + name: (name.decode().lower(), _USUAL[name.decode().lower()][0]) for name in _FORMS}

    def library(self) -> "CDLL | None":
        """Return the library in C that pulls the fields of usual messages; None if there is none, or none is usual."""
        fits = len(self.names) <= sipdump_speedups.MAX_NAMES and max(map(len, self.names)) <= sipdump_speedups.MAX_NAME
        return sipdump_speedups.library() if fits and not self._all_apart else None

    def pull(self, data: bytes, offsets: Sequence[int]) -> dict[str, list[Any]]:
        """Return the fields of messages that lie one behind the other, as columns.

        Args:
            data: contains the messages.
            offsets: where each begins in ``data``, and where the last one ends.
        """
        find, lines_of, header_of = data.find, self._find, self._headers.__getitem__
        absent, count, all_apart = _ABSENT, len(_ABSENT), self._all_apart
        starts: list[bytes] = []
        values: list[Value] = []  # message by message, as many of each as ``_ABSENT`` has
        apart: dict[int, dict[str, list[bytes]]] = {}
        begin = offsets[0]
        for end in offsets[1:]:
            if begin < end and data[begin] < 14:  # line ends before a message are no part of it (RFC 3261, 7.5)
                begin = _EMPTY_LINES.match(data, begin, end).end()  # type: ignore[union-attr]  # it always matches
                headers_at = begin - (data[begin - 1] == _LF)
            else:
                headers_at = begin
            line_end = find(b"\n", begin, end)
            starts.append(data[begin : line_end if line_end >= 0 else end])
            headers_end = find(b"\r\n\r\n", begin, end)
            lines = lines_of(data, headers_at, headers_end if headers_end >= 0 else end)
            lines.reverse()  # so that of two the first one stays
            row = absent.copy()
            row.update(map(header_of, lines))
            if len(row) != count or all_apart:
                if _ODD in row:
                    blank = _HEADERS_END.search(data, headers_at, end)
                    lines = lines_of(data, headers_at, blank.start() if blank else end)[::-1]
                    row = absent | dict(map(header_of, lines))
                apart[len(starts) - 1] = self._apart(lines)
                values += [row[name] for name in absent]
            else:
                values += row.values()
            begin = end
        return self._columns(starts, values, apart)

    def _columns(
        self, starts: list[bytes], values: list[Value], apart: Mapping[int, Mapping[str, list[bytes]]]
    ) -> dict[str, list[Any]]:
        call_ids, cseqs, froms, tos, vias, agents, servers, _ = (
            values[at :: len(_ABSENT)] for at in range(len(_ABSENT))
        )
        made: dict[str, list[Any]] = {"call_id": call_ids, "via_branch": vias}
        made["method"], made["status"], made["request_uri_user"] = _split(map(self._starts.__getitem__, starts), 3)
        made["cseq"], made["cseq_method"] = _split(cseqs, 2)
        made["from_user"], made["from_tag"] = _split(froms, 2)
        made["to_user"], made["to_tag"] = _split(tos, 2)
        made["user_agent"] = [agent or server for agent, server in zip(agents, servers, strict=True)]
        for column in self.rare:
            made[column] = [None] * len(starts)
        for row, by_name in apart.items():
            made["correlation"][row] = self._correlation(by_name)
            for column, name in self._own.items():
                texts = map(text, by_name.get(name, ()))
                made[column][row] = ", ".join(filter(None, texts)) or None
        return made

    def _header(self, line: bytes) -> Header:
        """Return a header's canonical name and what is made of its value.

        Of a line that is nothing of use the name is empty; of one that may end the headers it is ``_ODD``.
        """
        before, colon, value = line.partition(b":")
        usual = self._makers.get(before)
        if usual and colon:
            name, make = usual
            return name, make(value)
        if line[1:3] in (b"\r", b"\r\n") or line[1:2] == b"\n":
            return _ODD, None
        name, value = self._parted(line)
        if name in _USUAL:
            return name, _USUAL[name][0](value)
        return name, value

    def _parted(self, line: bytes) -> tuple[str, bytes]:
        """Return a header's canonical name, empty if it is not known or the line is none, and its value."""
        name, colon, value = line[1:].partition(b":")
        return self.names.get(name.rstrip(b" \t").lower(), "") if colon else "", value

    def _apart(self, lines: Sequence[bytes]) -> dict[str, list[bytes]]:
        """Return the values of each header that is wanted as it is, from lines in the reverse of their order."""
        found: dict[str, list[bytes]] = {}
        for name, value in map(self._parted, reversed(lines)):
            if name in self.wanted:
                found.setdefault(name, []).append(value)
        return found

    def _correlation(self, values: Mapping[str, list[bytes]]) -> list[str] | None:
        found = [
            part for name in self._correlate for value in values.get(name, ()) for part in _parts(name, text(value))
        ]
        return list(dict.fromkeys(found)) or None


class _Made(Cache[bytes, V], Generic[V]):
    """What ``make`` makes of each key."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[bytes], V], limit: int) -> None:
        super().__init__(limit)
        self._make = make

    def __missing__(self, key: bytes) -> V:
        value = self._make(key)
        return value if len(key) > _CACHED else self.keep(key, value)


def canonical(name: str) -> str:
    """Return a header's name in lower case, and compact forms spelled out."""
    return _COMPACT.get(name.lower(), name.lower())


def _split(rows: Iterable[tuple[Any, ...]], width: int) -> Iterator[list[Any]]:
    """Return the columns of rows."""
    values = list(chain.from_iterable(rows))
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
    """Return what finds the lines that may be these headers, given in lower case, each with the line end before it.

    Most headers are others, and are passed over by their first letter, Contact and Content-... by their second.
    """
    letters = bytes({name[0] for name in names} - {ord("c")})
    after_c = re.escape(bytes({name[1] for name in names if name[:1] == b"c" and len(name) > 1}))
    return re.compile(
        rb"\n(?:[" + re.escape(letters + letters.upper()) + rb"\r\n]|[Cc][" + after_c + after_c.upper() + rb"])"
        # a value continues after line ends that are followed by white space
        rb"[^\n]*+(?:\n[ \t][^\n]*+)*+"
    )

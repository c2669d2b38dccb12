"""Legs: Call-IDs that belong to one call, because messages say so (a B2BUA makes a new Call-ID for each side)."""

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sipdump_core.calls.message import Message
from sipdump_core.calls.summary import Leg
from sipdump_core.calls.syntax import text
from sipdump_core.errors import ConfigError
from sipdump_core.record import Record

if TYPE_CHECKING:
    from sipdump_core.calls.call import Call

__all__ = [
    "CROWD",
    "Crowd",
    "Evidence",
    "LegIndex",
    "LegRules",
    "charging_id",
    "correlations",
    "session_uuids",
    "without_suffix",
]

CROWD = 20
"""A value on more Call-IDs than this links nothing: it is reported and not followed."""


class Evidence(NamedTuple):
    """A value that links Call-IDs."""

    kind: str
    """hep, x-cid, x-call-id, session-id, icid, suffix or header."""
    value: str
    """As it is compared: the Call-ID without its suffix, one UUID of a Session-ID."""


class Crowd(NamedTuple):
    """A value on too many Call-IDs to mean anything."""

    kind: str
    value: str
    call_ids: int
    """How many Call-IDs have it."""


class LegRules:
    """What links Call-IDs, in addition to what always does.

    That is X-CID and X-Call-ID, Session-ID (RFC 7989: both halves; the nil UUID links nothing), the icid-value of
    P-Charging-Vector (RFC 7315), HEP's correlation id, and a Call-ID that is another one with ``-b2b_1``, ``_b2b-1`` or
    ``-leg1`` behind it or before its ``@``.

    Args:
        headers: names of headers whose value (up to a semicolon) two legs have in common, or which name another leg.
        patterns: regular expressions (RE2) that are searched in the headers; their first group is such a value.
        heuristic: also link calls between the same users whose INVITEs one node saw within a second.

    Raises:
        ConfigError: a pattern is not a regular expression, or has no group.
    """

    def __init__(self, headers: Sequence[str] = (), patterns: Sequence[str] = (), heuristic: bool = False) -> None:
        self.headers = tuple(headers)
        self.heuristic = heuristic
        self.patterns = [_compiled(pattern) for pattern in patterns]

    def evidence(self, record: Record, message: Message | None = None) -> set[Evidence]:
        """Return what links a record with others, except its own Call-ID.

        Args:
            record: one of a call.
            message: its message, if it was read already.
        """
        message = message or Message(record.buf)
        found = {Evidence("hep", record.correlation_id)} if record.correlation_id else set()
        head = message.head_end
        for name, value in _HEADERS.findall(message.buf, 0, head):
            kind = name.lower().decode()
            if kind == "session-id":
                found |= {Evidence(kind, uuid) for uuid in session_uuids(text(value))}
            elif kind == "p-charging-vector":
                icid = charging_id(text(value))
                if icid:
                    found.add(Evidence("icid", icid))
            elif named := text(value):
                found.add(Evidence(kind, named))
        base = without_suffix(message.call_id or "")
        if base:
            found.add(Evidence("suffix", base))
        for header in self.headers:
            named = (message.header(header) or "").partition(";")[0].strip()
            if named:
                found.add(Evidence("header", named))
        for pattern in self.patterns:
            match = pattern.search(message.buf[:head])
            if match and match.group(1):
                found.add(Evidence("header", text(match.group(1))))
        return {evidence for evidence in found if evidence.value != message.call_id}


def correlations(record: Record) -> frozenset[str]:
    """Return the values that may link a record with other Call-IDs, by the usual rules."""
    return frozenset(evidence.value for evidence in _USUAL.evidence(record))


class LegIndex:
    """Finds which calls belong together.

    Args:
        rules: what links them.
    """

    def __init__(self, rules: LegRules | None = None) -> None:
        self._rules = rules or _USUAL
        self._hubs: dict[_Hub, dict[str, str]] = {}
        """The Call-IDs that have a value, each with its kind of evidence; ``""`` for the value's own Call-ID."""
        self._of: dict[str, list[_Hub]] = {}
        self._counts: dict[_Hub, int] = {}
        """The number of Call-IDs of values that are on too many."""
        self._invites: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
        """Beginning and Call-ID of calls, in order; by users and node."""
        self._users: dict[str, list[tuple[tuple[str, str, str], int]]] = {}

    def add(self, call: "Call") -> None:
        """Add a call with the evidence in its messages. Add it again after more of them have come."""
        links = {Evidence("", call.call_id)}
        for record, message in call.sightings:
            links |= self._rules.evidence(record, message)
        if self._rules.heuristic:
            self._note_invites(call)
        for kind, value in links:
            self._link(call.call_id, kind, value)

    def values(self, call_id: str) -> set[str]:
        """Return what to look for in a store to find more legs of a call: all values and Call-IDs of its legs."""
        found = {call_id}
        for one in (call_id, *(leg.call_id for leg in self.legs(call_id))):
            found |= {value for _, value in self._of.get(one, ())}
        return found - {crowd.value for crowd in self.crowds}

    def legs(self, call_id: str) -> list[Leg]:
        """Return the other legs of a call, nearest first, over any number of steps."""
        found: dict[str, Leg] = {}
        waiting = [call_id]
        for current in waiting:  # it grows
            for kind, value, other in sorted(self._neighbours(current), key=_by_weight):
                if other != call_id and other not in found:
                    found[other] = Leg(other, kind, value, current)
                    waiting.append(other)
        return list(found.values())

    @property
    def crowds(self) -> list[Crowd]:
        """The values that are not followed, because they are on more than :data:`CROWD` Call-IDs."""
        return [
            Crowd(next(filter(None, self._hubs[hub].values()), hub[0]), hub[1], count)
            for hub, count in self._counts.items()
        ]

    def _link(self, call_id: str, kind: str, value: str) -> None:
        hub = (kind if kind in _OWN_SPACE else "id", value)
        known = self._hubs.setdefault(hub, {})
        if call_id in known:
            known[call_id] = known[call_id] or kind
            return
        mine = self._of.setdefault(call_id, [])
        if hub in self._counts:  # further Call-IDs are counted, not kept
            if hub not in mine:
                self._counts[hub] += 1
                mine.append(hub)
            return
        known[call_id] = kind
        mine.append(hub)
        if len(known) > CROWD:
            self._counts[hub] = len(known)

    def _neighbours(self, call_id: str) -> Iterator[tuple[str, str, str]]:
        """Yield evidence, value and Call-ID of each call that shares a value with this one."""
        for hub in self._of.get(call_id, ()):
            if hub in self._counts:
                continue
            known = self._hubs[hub]
            for other, kind in known.items():
                if other != call_id:
                    yield kind or known[call_id], hub[1], other
        yield from self._at_once(call_id)

    def _note_invites(self, call: "Call") -> None:
        summary = call.summary()
        if summary.kind == "call" and summary.from_user and summary.to_user:
            for node in summary.nodes or [""]:
                users = (summary.from_user, summary.to_user, node)
                one = (summary.began, call.call_id)
                began = self._invites.setdefault(users, [])
                if one not in began:
                    insort(began, one)
                    self._users.setdefault(call.call_id, []).append((users, summary.began))

    def _at_once(self, call_id: str) -> Iterator[tuple[str, str, str]]:
        """Yield calls between the same users that one node saw begin within a second of this one."""
        for users, began in self._users.get(call_id, ()):
            invites = self._invites[users]
            near = invites[
                bisect_left(invites, (began - _AT_ONCE_US,)) : bisect_right(invites, (began + _AT_ONCE_US + 1,))
            ]
            if len(near) <= CROWD:
                for _, other in near:
                    if other != call_id:
                        yield "heuristic", f"{users[0]} to {users[1]}", other


_Hub = tuple[str, str]
_AT_ONCE_US = 1_000_000
_OWN_SPACE = ("session-id", "icid")
"""Kinds of evidence whose values are never Call-IDs; those of the others may be."""
_WEIGHT = ("x-cid", "x-call-id", "session-id", "icid", "header", "hep", "suffix", "heuristic")
_HEADERS = re.compile(
    rb"\n(?=[XxSsPp])(x-cid|x-call-id|session-id|p-charging-vector)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)", re.IGNORECASE
)
_ICID = re.compile(r'icid-value\s*+=\s*+(?:"([^"]++)"|([^";\s]++))', re.IGNORECASE)
_UUID = re.compile(r"(?:^|remote\s*+=\s*+)([0-9a-f]{32})(?![0-9a-z])", re.IGNORECASE)
_NIL = "0" * 32
_SUFFIX = re.compile(r"[-_]b2b[-_]\d{1,9}(?=@|$)|-leg\d{1,9}(?=@|$)")


def session_uuids(value: str) -> set[str]:
    """Return the UUIDs of a Session-ID's value, in lower case, without the nil UUID (RFC 7989, section 5)."""
    return {uuid.lower() for uuid in _UUID.findall(value)} - {_NIL}


def charging_id(value: str) -> str | None:
    """Return the icid-value of a P-Charging-Vector's value (RFC 7315, section 4.6)."""
    found = _ICID.search(value)
    return (found[1] or found[2]) if found else None


def without_suffix(call_id: str) -> str | None:
    """Return the Call-ID that a B2BUA put a suffix behind, as ``-b2b_1``; None if it has none."""
    base = _SUFFIX.sub("", call_id)
    return base if base and base != call_id else None


def _by_weight(neighbour: tuple[str, str, str]) -> tuple[int, str]:
    kind, _, other = neighbour
    return _WEIGHT.index(kind), other


def _compiled(pattern: str) -> Any:
    import re2  # noqa: PLC0415 - few operators name patterns

    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    try:
        compiled = re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else "?"
        message = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ConfigError(f"{pattern!r} is not a regular expression: {message}") from None
    if compiled.groups < 1:
        raise ConfigError(f"{pattern!r} has no group: write the part that both legs have in parentheses")
    return compiled


_USUAL = LegRules()

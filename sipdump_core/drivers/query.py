"""A question about messages: what a backend's ``search`` is asked, and what the filters of ``sipdump-read`` say.

Within one field any value suffices, and all fields that are set must hold.
"""

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from typing import Any

import attrs

from sipdump_core.calls.legs import correlations
from sipdump_core.calls.message import Message
from sipdump_core.record import Record

__all__ = ["ATTEMPT", "Endpoint", "Query", "parse_endpoint", "parse_grep", "parse_status"]

ATTEMPT = "attempt"
"""Among kinds of calls: each call that began within the span, once, and not its other legs."""

_STATUS = re.compile(r"([1-6])xx|([1-6]\d\d)(?:-([1-6]\d\d))?", re.IGNORECASE)
_ENDPOINT = re.compile(r"(?:\[([^\]]+)\]|([^:/]+(?:/\d+)?)):(\d{1,5})")
_MAPPED = re.compile(r"^::ffff:(?=[\d.]+$)", re.IGNORECASE)
"""What stands before an IPv4 address in IPv6 (RFC 4291, section 2.5.5.2); sources store it as IPv4."""
_GREP = re.compile(r"/(.+)/(i?)", re.DOTALL)
_SPLIT = re.compile(rb"(?:\s|\\(?:x[0-9a-f]{2})?)+")
_FEW_NEEDLES = 16
"""Of more, looking for each costs more than reading the message."""
_UUID = re.compile(r"[0-9a-f]{32}")
_WILD = re.compile(r"[*?\[]")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen
class Endpoint:
    """An address or a network, and a port."""

    network: Network
    port: int | None = None
    """None: any."""

    def holds(self, ip: str, port: int) -> bool:
        """Return whether an address and port are among these."""
        return self.port in (None, port) and ipaddress.ip_address(ip) in self.network

    def __str__(self) -> str:
        alone = self.network.prefixlen == self.network.max_prefixlen
        address = str(self.network.network_address if alone else self.network)
        if self.port is None:
            return address
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"


@attrs.frozen
class Grep:
    """What to look for in a message's bytes."""

    text: bytes
    """As it was typed, for a plain text; of an expression, the expression."""
    expression: Any = attrs.field(default=None, eq=False)
    """A compiled expression of google-re2; None for a plain text."""

    def finds(self, buf: bytes) -> bool:
        """Return whether it is anywhere in a message."""
        return self.expression.search(buf) is not None if self.expression else self.text in buf

    def __str__(self) -> str:
        text = self.text.decode("utf-8", "surrogateescape")
        if not self.expression:
            return text
        return f"/{text}/" if self.expression.options.case_sensitive else f"/{text[:-1]}/i"


# converters: a text alone is one value, not a collection of its characters
def _strings(values: Iterable[str]) -> frozenset[str]:
    return frozenset(map(_as_read, [values] if isinstance(values, str) else values))


def _as_read(value: str) -> str:
    """Return a value as a message is read: what a command line has of bytes that are not UTF-8 is escaped."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _statuses(values: int | str | Iterable[int | str]) -> frozenset[int]:
    given = [values] if isinstance(values, int | str) else values
    return frozenset(code for one in given for code in (parse_status(one) if isinstance(one, str) else (one,)))


def _endpoints(values: str | Iterable[Endpoint | str]) -> frozenset[Endpoint]:
    given = [values] if isinstance(values, str) else values
    return frozenset(parse_endpoint(one) if isinstance(one, str) else one for one in given)


def _greps(values: str | Iterable[Grep | str]) -> frozenset[Grep]:
    given = [values] if isinstance(values, str) else values
    return frozenset(parse_grep(one) if isinstance(one, str) else one for one in given)


def _lowered(values: Iterable[str]) -> frozenset[str]:
    return frozenset(value.lower() for value in _strings(values))


def _uppered(values: Iterable[str]) -> frozenset[str]:
    return frozenset(value.upper() for value in _strings(values))


@attrs.frozen(kw_only=True)
class Query:
    """Which messages, or, asked of a store's calls, which calls.

    A user is a user part, as ``alice`` or ``+49*`` with ``*`` for any characters, or ``user@host``. Case counts in
    users, tags, nodes, Call-IDs and texts, and in nothing else. A collection of one value may be given as that value.

    Raises:
        ValueError: an address, a status or an expression is not understood.
    """

    since_us: int | None = None
    """Not before this time: microseconds since the epoch."""
    until_us: int | None = None
    """Before this time."""
    call_ids: frozenset[str] = attrs.field(default=frozenset(), converter=_strings)
    users: frozenset[str] = attrs.field(default=frozenset(), converter=_strings)
    """Users in From, To or the request URI."""
    from_users: frozenset[str] = attrs.field(default=frozenset(), converter=_strings)
    """Users in From."""
    to_users: frozenset[str] = attrs.field(default=frozenset(), converter=_strings)
    """Users in To or the request URI."""
    endpoints: frozenset[Endpoint] = attrs.field(default=frozenset(), converter=_endpoints)
    """Source or destination; texts are read by :func:`parse_endpoint`."""
    methods: frozenset[str] = attrs.field(default=frozenset(), converter=_uppered)
    """Methods of requests."""
    statuses: frozenset[int] = attrs.field(default=frozenset(), converter=_statuses)
    """Status codes of replies, as 503 or what :func:`parse_status` reads, as ``4xx``."""
    agents: frozenset[str] = attrs.field(default=frozenset(), converter=_lowered)
    """Parts of User-Agent, or Server where that is absent."""
    nodes: frozenset[str] = attrs.field(default=frozenset(), converter=_strings)
    tags: frozenset[str] = attrs.field(default=frozenset(), converter=_strings)
    protos: frozenset[str] = attrs.field(default=frozenset(), converter=_lowered)
    greps: frozenset[Grep] = attrs.field(default=frozenset(), converter=_greps)
    """Texts anywhere in the message; see :func:`parse_grep`."""
    correlations: frozenset[str] = attrs.field(default=frozenset(), converter=_strings)
    """Call-IDs, or values that name other legs: see :func:`sipdump_core.calls.legs.correlations`."""
    states: frozenset[str] = attrs.field(default=frozenset(), converter=_lowered)
    """States of calls; messages have none, and :meth:`matches` passes this over."""
    kinds: frozenset[str] = attrs.field(default=frozenset(), converter=_lowered)
    """Kinds of calls, or ``attempt``: each call that began within the span, once; :meth:`matches` passes this over."""

    @property
    def asked(self) -> frozenset[str]:
        """The fields of a record that must have been kept for an answer: of ``node``, ``tag`` and ``proto``."""
        asked = {"node": self.nodes, "tag": self.tags, "proto": self.protos}
        return frozenset(name for name, values in asked.items() if values)

    def parts(self) -> "list[Query]":
        """Return a question for each field that is set, with the same span; the one that leaves fewest first."""
        span = Query(since_us=self.since_us, until_us=self.until_us)
        return [attrs.evolve(span, **{name: getattr(self, name)}) for name in _FIELDS if getattr(self, name)]

    @cached_property
    def needles(self) -> tuple[bytes, ...]:
        """Literals of which every match has at least one, byte for byte, in its message; empty: none are known.

        With ``correlations``, it may be HEP's correlation id instead, where a backend keeps that. A backend may look
        for them before it decodes anything. They narrow; :meth:`matches` still decides.
        """
        for literals in (
            [_literal(value) for value in self.call_ids],
            [b"" if grep.expression else grep.text for grep in self.greps],
            *(_names(users) for users in (self.from_users, self.to_users, self.users)),
            [_linking_literal(value) for value in self.correlations],
        ):
            if literals and all(literals):
                return tuple(sorted(set(literals)))
        return ()

    def matches(self, record: Record) -> bool:
        """Return whether a record is an answer."""
        return all(test(record) for test in self._tests)

    def within(self, since_us: int | None, until_us: int | None) -> bool:
        """Return whether messages of a span may be an answer.

        Args:
            since_us: the first one's time, microseconds since the epoch; None where it is not known.
            until_us: the last one's time.
        """
        return not (
            (self.until_us is not None and since_us is not None and since_us >= self.until_us)
            or (self.since_us is not None and until_us is not None and until_us < self.since_us)
        )

    @cached_property
    def _tests(self) -> "list[Callable[[Record], bool]]":
        """What each record must pass, the cheapest first."""
        tests: list[Callable[[Record], bool]] = []
        since, until = self.since_us, self.until_us
        if since is not None:
            tests.append(lambda record: record.time_us >= since)
        if until is not None:
            tests.append(lambda record: record.time_us < until)
        if self.tags:
            tests.append(lambda record: record.flow.tag in self.tags)
        if self.nodes:
            tests.append(lambda record: record.flow.node in self.nodes)
        if self.protos:
            tests.append(lambda record: record.flow.proto in self.protos)
        if self.endpoints:
            tests.append(self._passes_endpoint)
        if 0 < len(self.needles) <= _FEW_NEEDLES and not self.correlations:
            tests.append(lambda record: any(needle in record.buf for needle in self.needles))
        if self.call_ids:
            tests.append(lambda record: record.call_id in self.call_ids)
        if self.greps:
            tests.append(lambda record: any(grep.finds(record.buf) for grep in self.greps))
        if self.methods or self.statuses or self.users or self.from_users or self.to_users or self.agents:
            tests.append(lambda record: self._passes(Message(record.buf)))
        if self.correlations:
            tests.append(
                lambda record: (
                    record.call_id in self.correlations or not self.correlations.isdisjoint(correlations(record))
                )
            )
        return tests

    def _passes_endpoint(self, record: Record) -> bool:
        flow = record.flow
        return any(
            one.holds(flow.src_ip, flow.src_port) or one.holds(flow.dst_ip, flow.dst_port) for one in self.endpoints
        )

    def _passes(self, message: Message) -> bool:
        if self.methods and (message.method or "").upper() not in self.methods:
            return False
        if self.statuses and message.status not in self.statuses:
            return False
        if self.agents:
            agent = (message.user_agent or "").lower()
            if not any(part in agent for part in self.agents):
                return False
        if not (self.users or self.from_users or self.to_users):
            return True
        from_ = [(message.from_.user, message.from_.host)]
        target = [(message.to.user, message.to.host), message.request_target]
        return (
            (not self.users or _any_is([*from_, *target], self.users))
            and (not self.from_users or _any_is(from_, self.from_users))
            and (not self.to_users or _any_is(target, self.to_users))
        )


_FIELDS = (
    "call_ids", "correlations", "from_users", "to_users", "users", "greps", "agents", "statuses", "endpoints", "nodes",
    "methods", "protos", "tags",
)  # fmt: skip
"""The fields that a message can meet, the one that usually leaves fewest first."""


def parse_endpoint(text: str) -> Endpoint:
    """Read ``10.0.0.5``, ``10.0.0.0/8``, ``10.0.0.5:5060``, ``2001:db8::/32`` or ``[2001:db8::1]:5060``.

    Raises:
        ValueError: it is none of these.
    """
    found = _ENDPOINT.fullmatch(text)
    address, port = (found[1] or found[2], int(found[3])) if found else (text.strip("[]"), None)
    address = _MAPPED.sub("", address)
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:
        network = None
    if network is None or (port or 0) > 65535:
        raise ValueError(
            f'{text!r} is not an address: write it as "10.0.0.5", "10.0.0.0/8:5060" or "[2001:db8::1]:5060"'
        )
    return Endpoint(network, port)


def parse_status(text: str) -> frozenset[int]:
    """Read ``503``, ``4xx`` or ``400-499``; several with commas between.

    Raises:
        ValueError: it is none of these.
    """
    codes: set[int] = set()
    for part in text.split(","):
        found = _STATUS.fullmatch(part.strip())
        if not found:
            raise ValueError(f'{part!r} is not a status: write it as "503", "4xx" or "400-499"')
        first = int(found[1]) * 100 if found[1] else int(found[2])
        codes.update(range(first, (first + 99 if found[1] else int(found[3] or found[2])) + 1))
    return frozenset(codes)


def parse_grep(text: str) -> Grep:
    """Read a plain text, or an expression of RE2 between slashes, as ``/user=\\d+/`` or, in any case, ``/foo/i``.

    Raises:
        ValueError: it is empty, or no expression.
    """
    found = _GREP.fullmatch(text)
    if not found:
        if not text:
            raise ValueError("an empty text is in every message")
        return Grep(text.encode("utf-8", "surrogateescape"))
    import re2  # noqa: PLC0415 - few questions have an expression

    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not found[2]
    options.encoding = re2.Options.Encoding.LATIN1
    pattern = found[1].encode("utf-8", "surrogateescape")
    try:
        return Grep(pattern + found[2].encode(), re2.compile(pattern, options))
    except re2.error as error:
        reason = error.args[0]
        raise ValueError(f"{text}: {reason.decode() if isinstance(reason, bytes) else reason}") from None


def _any_is(values: Iterable[tuple[str | None, str]], wanted: Collection[str]) -> bool:
    for user, host in values:
        if user is None:
            continue
        if user in wanted:
            return True
        for one in wanted:
            name, at, domain = one.rpartition("@") if "@" in one else (one, "", "")
            if (not at or domain.lower() == host.lower()) and (
                user == name or (_WILD.search(name) and fnmatch.fnmatchcase(user, _only_stars(name)))
            ):
                return True
    return False


def _only_stars(pattern: str) -> str:
    """Take the meaning from what fnmatch knows beside the star."""
    return re.sub(r"[?\[]", lambda found: f"[{found[0]}]", pattern)


def _names(users: Iterable[str]) -> list[bytes]:
    """Return for each user the longest part that is in a message as it was typed: hosts may come in any case."""
    names = (user.rpartition("@")[0] or user for user in users)
    return [max(map(_literal, name.split("*")), key=len) for name in names]


def _linking_literal(value: str) -> bytes:
    """Return a part of a value that is in every message which it links, byte for byte; empty where there is none.

    A Call-ID may have a suffix there, before its ``@`` or at its end, and a UUID of Session-ID may be in any case.
    """
    if _UUID.fullmatch(value):
        return max(re.findall(rb"\d+", value.encode()), key=len, default=b"")
    return _literal(value.partition("@")[0] or value.rpartition("@")[2])


def _literal(value: str) -> bytes:
    """Return the longest part of a value that is in a message byte for byte; empty where there is none.

    White space may be folded there, and a backslash may stand for a byte that is no UTF-8.
    """
    return max(_SPLIT.split(value.encode("utf-8", "surrogateescape")), key=len)

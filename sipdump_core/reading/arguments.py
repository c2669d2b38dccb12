"""Arguments of ``sipdump-read``: the store, and the filters, which are the same for every command."""

import argparse
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sipdump_core.calls.legs import LegRules
from sipdump_core.calls.summary import CALL_STATES, KINDS
from sipdump_core.drivers.query import ATTEMPT, Query, parse_endpoint, parse_grep, parse_status
from sipdump_core.errors import ConfigError
from sipdump_core.reading.redacting import add_redact, add_users_key, stand_ins_of, with_stand_ins
from sipdump_core.reading.when import AROUND, parse_span, parse_when
from sipdump_core.record import PROTOS

_URI = re.compile(r"^(?:sips?|tel):", re.IGNORECASE)

__all__ = [
    "add_filters",
    "add_legs",
    "add_span",
    "add_store",
    "asked_of",
    "query_of",
    "rules_of",
    "span_of",
    "whole_number",
]


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add what says where to read. Each may be repeated."""
    group = parser.add_argument_group(
        "the store", "By default, that of /etc/sipdump/sipdumpd.cfg. Options can be given several times."
    )

    def several(name: str, dest: str, metavar: str, help_: str) -> None:
        group.add_argument(name, dest=dest, action="append", default=[], metavar=metavar, help=help_)

    several("-f", "configs", "CONFIG", "a daemon's configuration")
    several("-A", "defines", "NAME[=VALUE]", "define NAME for the configurations")
    several("--folder", "folders", "DIR", "a folder of segments")
    group.add_argument("--fprefix", metavar="PREFIX", help="how the names of segments in DIR begin (default: any)")
    several("--file", "files", "FILE", "a single file: a segment, or a pcap or pcapng capture")
    several("--store", "urls", "s3://BUCKET/PREFIX", "a bucket: everything below PREFIX, of all nodes")
    add_redact(parser)


def add_filters(parser: argparse.ArgumentParser, *, call_ids: bool = True) -> None:
    """Add the filters. One that is repeated takes any of its values; all filters must be met."""
    group = parser.add_argument_group(
        "filters", "A filter given several times accepts any of its values. All filters must match."
    )

    def several(name: str, dest: str, metavar: str, help_: str, kind: Callable[[str], Any] = str, **more: Any) -> None:
        group.add_argument(
            name, dest=dest, action="append", default=[], metavar=metavar, help=help_, type=_typed(kind), **more
        )

    if call_ids:
        several("--call-id", "call_ids", "ID", "a Call-ID")
    several("--user", "users", "USER", "a user in From, To or the request URI; * matches any characters", _user)
    several("--from", "from_users", "USER", "a user in From", _user)
    several("--to", "to_users", "USER", "a user in To or the request URI", _user)
    add_users_key(group)
    several("--ip", "endpoints", "ADDRESS[:PORT]", "an address or a network, source or destination", parse_endpoint)
    several("--method", "methods", "METHOD", "a request's method")
    several("--status", "statuses", "STATUS", "the final answer of a call, or a reply: 503, 4xx, 400-499", parse_status)
    several("--state", "states", "STATE", f"what became of a call: {', '.join(CALL_STATES)}", _state)
    several("--kind", "kinds", "KIND", f"{', '.join(KINDS)}; attempt: each call that began in the span, once", _kind)
    several("--ua", "agents", "TEXT", "a part of User-Agent or Server")
    several("--node", "nodes", "NODE", "a capture node")
    several("--tag", "tags", "TAG", "rcv, snd or another tag")
    several("--proto", "protos", "PROTO", f"a transport: {', '.join(PROTOS)}", _proto)
    several("--grep", "greps", "TEXT", "a text anywhere in a message, or an /RE2 expression/", parse_grep)
    span = add_span(parser)
    span.add_argument(
        "--around",
        type=_typed(parse_span),
        default=int(AROUND),
        metavar="SPAN",
        help="how far outside the span to look for the rest of a call (default: 10m)",
    )


def add_span(parser: argparse.ArgumentParser) -> Any:
    """Add the span of time, and return its group of arguments."""
    span = parser.add_argument_group(
        "the span", 'TIME: "10:32", "yesterday 10:30", "-15m", "2026-11-27T10:32:00Z", "now".'
    )
    span.add_argument("--since", metavar="TIME", help="messages from this time on")
    span.add_argument("--until", metavar="TIME", help="messages before this time")
    span.add_argument("--last", type=_typed(parse_span), metavar="SPAN", help="as 15m or 2h: the same as --since -15m")
    return span


def add_legs(parser: argparse.ArgumentParser) -> None:
    """Add what links the legs of a call beside what is known."""
    group = parser.add_argument_group(
        "other legs of a call", "Besides those linked by X-CID, X-Call-ID, Session-ID, icid-value or a suffix."
    )

    def several(name: str, dest: str, metavar: str, help_: str) -> None:
        group.add_argument(name, dest=dest, action="append", default=[], metavar=metavar, help=help_)

    several("--leg-header", "leg_headers", "NAME", "a header that has the same value in all legs")
    several("--leg-regex", "leg_patterns", "RE2", "an expression whose first group is the same in all legs")
    group.add_argument("--leg-guess", action="store_true", help="guess, too: same users within a second on one node")


def query_of(args: argparse.Namespace, now: datetime) -> Query:
    """Return the question that the filters ask of the store that is named, whatever stands in it for users.

    Raises:
        ConfigError: a time is not understood, the span is empty, or a key of users cannot be used.
    """
    query = asked_of(args, now)
    named = query.users or query.from_users or query.to_users
    return with_stand_ins(query, stand_ins_of(args)) if named else query


def asked_of(args: argparse.Namespace, now: datetime) -> Query:
    """Return the question that the filters ask, as they were typed.

    Raises:
        ConfigError: a time is not understood, or the span is empty.
    """
    since_us, until_us = span_of(args, now)
    names = ("call_ids", "users", "from_users", "to_users", "endpoints", "methods", "states", "kinds", "agents",
             "nodes", "tags", "protos", "greps")  # fmt: skip
    values = {name: getattr(args, name, ()) for name in names}
    return Query(
        since_us=since_us,
        until_us=until_us,
        statuses=[status for given in args.statuses for status in given],
        **values,
    )


def span_of(args: argparse.Namespace, now: datetime) -> tuple[int | None, int | None]:
    """Return the span: microseconds since the epoch, None where it has no such end.

    Raises:
        ConfigError: a time is not understood, or the span is empty.
    """
    if args.last is not None and args.since is not None:
        raise ConfigError("--last and --since exclude each other")
    since = _when("--since", args.since if args.last is None else f"-{args.last}", now)
    until = _when("--until", args.until, now, after=since)
    if since and until and since >= until:
        raise ConfigError(f"the span is empty: it begins {since.isoformat()} and ends {until.isoformat()}", "--until")
    return _us(since), _us(until)


def rules_of(args: argparse.Namespace) -> LegRules:
    """Return what links the legs of a call."""
    return LegRules(args.leg_headers, args.leg_patterns, args.leg_guess)


def whole_number(text: str) -> int:
    """Read a number of calls or messages, for argparse."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _when(option: str, text: str | None, now: datetime, *, after: datetime | None = None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_when(text, now, after=after)
    except ValueError as error:
        raise ConfigError(str(error), option) from None


def _us(when: datetime | None) -> int | None:
    return None if when is None else round(when.timestamp() * 1_000_000)


def _typed(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have argparse print what a parser says of a wrong value."""

    def parse(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _user(text: str) -> str:
    """Read a user, also where the whole URI was pasted."""
    user = _URI.sub("", text.strip().strip("<>"))
    if not user:
        raise ValueError("an empty user")
    return user


def _state(text: str) -> str:
    if text.lower() not in CALL_STATES:
        raise ValueError(f"{text!r} is not a state; choose from {', '.join(CALL_STATES)}")
    return text.lower()


def _kind(text: str) -> str:
    if text.lower() not in (*KINDS, ATTEMPT):
        raise ValueError(f"{text!r} is not a kind; choose from {', '.join((*KINDS, ATTEMPT))}")
    return text.lower()


def _proto(text: str) -> str:
    if text.lower() not in PROTOS:
        raise ValueError(f"{text!r} is not a transport; choose from {', '.join(PROTOS)}")
    return text.lower()

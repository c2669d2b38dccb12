"""Redaction on reading: what ``--redact`` hides from a reader, and what stands in a store for the users he asks for."""

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from sipdump_core.errors import ConfigError
from sipdump_core.log import Event, log
from sipdump_core.masking.masker import Masker, Rules
from sipdump_core.masking.users import Tokens, Users, make_users, parse_users, read_key
from sipdump_core.record import Record

if TYPE_CHECKING:  # so that --help need not load what reads a store
    from sipdump_core.drivers.query import Query
    from sipdump_core.reading.finder import Found

__all__ = [
    "Redactor",
    "add_redact",
    "add_users_key",
    "parse_redact",
    "redactor_of",
    "stand_ins_of",
    "with_stand_ins",
]

_FORM = "credentials, keys, users, users=hmac:KEYFILE, users=mask:DIGITS, bodies=METHOD, headers=NAME"
_MODULE = "sipdump_redact"


def add_redact(parser: Any) -> None:
    """Add ``--redact``."""
    parser.add_argument(
        "--redact",
        action="append",
        default=[],
        type=_typed,
        metavar="WHAT",
        help="mask in the output, with commas between: credentials, keys, users, users=mask:4, bodies=MESSAGE",
    )


def add_users_key(parser: Any) -> None:
    """Add ``--users-key``."""
    parser.add_argument(
        "--users-key",
        dest="users_keys",
        action="append",
        default=[],
        metavar="FILE",
        help="find users whose tokens were made with this key, too (default: that of the configuration)",
    )


def parse_redact(text: str) -> dict[str, Any]:
    """Read what ``--redact`` says, as fields of :class:`~sipdump_core.masking.masker.Rules`.

    Raises:
        ValueError: it is not of its form.
    """
    fields: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if name in ("credentials", "keys") and not equals:
            fields[name] = True
        elif name in ("bodies", "headers") and value:
            fields[name] = [*fields.get(name, ()), value]
        elif name == "users" and (value or not equals):
            fields[name] = parse_users(value) if value else ("", "")
        else:
            raise ValueError(f"{item!r} cannot be redacted; there are: {_FORM}")
    if not fields:
        raise ValueError(f"it says nothing; there are: {_FORM}")
    return fields


def _typed(text: str) -> dict[str, Any]:
    try:
        return parse_redact(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Redactor:
    """Masks what a reader gets to see.

    Args:
        rules: what is masked.
    """

    def __init__(self, rules: Rules) -> None:
        self._masker = Masker(rules)

    def record(self, record: Record) -> Record:
        """Return a record masked."""
        masked = self._masker.mask(record)
        assert masked is not None  # noqa: S101 - these rules drop nothing
        return masked

    def found(self, found: Iterable["Found"], now_us: Any) -> Iterator["Found"]:
        """Yield calls masked, with all that is said of them.

        Args:
            found: the calls.
            now_us: returns the time that ages are counted to, microseconds since the epoch.
        """
        from sipdump_core.calls.call import Call  # noqa: PLC0415 - --help must answer at once
        from sipdump_core.reading.finder import Found  # noqa: PLC0415

        for one in found:
            call = Call(one.summary.call_id)
            for record in one.records:
                call.add(self.record(record))
            summary = call.summary(now_us(), one.legs)
            yield Found(call, attrs.evolve(summary, call_id=one.summary.call_id))


def redactor_of(args: argparse.Namespace) -> Redactor | None:
    """Return what masks the output of a command; None if nothing is to be masked.

    Users have tokens of a key that is made for this run, unless it is said otherwise: the same user has the same token
    in all of the output, and nobody can tell who it is.

    Raises:
        ConfigError: a key cannot be used.
    """
    given: Sequence[dict[str, Any]] = getattr(args, "redact", ())
    if not given:
        return None
    fields: dict[str, Any] = {}
    for one in given:
        for name, value in one.items():
            fields[name] = [*fields.get(name, ()), *value] if name in ("bodies", "headers") else value
    if "users" in fields:
        kind, value = fields["users"]
        try:
            fields["users"] = make_users(kind, value) if kind else Tokens()
        except ConfigError as error:
            raise ConfigError(str(error), "--redact") from None
    return Redactor(Rules(**fields))


def with_stand_ins(query: "Query", makers: Sequence[Users]) -> "Query":
    """Return a question that also asks for what stands in the store for the users it names.

    Args:
        query: the question.
        makers: what :func:`stand_ins_of` returns.
    """
    names = [name for name in ("users", "from_users", "to_users") if getattr(query, name)]
    if not (names and makers):
        return query
    asked: dict[str, Any] = {name: _asked(getattr(query, name), makers) for name in names}
    return attrs.evolve(query, **asked)


def _asked(users: Iterable[str], makers: Sequence[Users]) -> list[str]:
    given = list(users)
    if any(isinstance(maker, Tokens) for maker in makers):
        for user in given:
            name = user.partition("@")[0]
            if "*" in name and name != "*":
                log.warning(Event("tokens stand for whole users: a pattern finds none that was stored so", user=user))
    return [*given, *(maker.asked(user) for maker in makers for user in given)]


def stand_ins_of(args: argparse.Namespace) -> list[Users]:
    """Return what makes the tokens in the store: with the keys that are given, or those of its configurations.

    Raises:
        ConfigError: a key that was given cannot be used.
    """
    keys: Sequence[str] = getattr(args, "users_keys", ())
    try:
        makers: list[Users] = [Tokens(read_key(path)) for path in keys]
    except ConfigError as error:
        raise ConfigError(str(error), "--users-key") from None
    return makers or [maker for config in _configs(args) for maker in _of_config(config, args.defines)]


def _configs(args: argparse.Namespace) -> Sequence[str]:
    from sipdump_core.reading.shelves import DEFAULT_CONFIG  # noqa: PLC0415 - see Redactor.found

    if args.configs or args.folders or args.files or args.urls:
        return list(args.configs)
    return [DEFAULT_CONFIG] * os.path.exists(DEFAULT_CONFIG)


def _of_config(config: str, defines: Sequence[str]) -> list[Users]:
    from sipdump_core.config.reader import read_config  # noqa: PLC0415 - its grammar takes long to load
    from sipdump_core.settings.modules import resolve  # noqa: PLC0415

    settings = resolve(read_config(config, defines).settings, [_MODULE]).of(_MODULE, "users")
    if not settings or not settings[-1].value:
        return []
    try:
        return [make_users(*parse_users(str(settings[-1].value)))]
    except (ConfigError, ValueError) as error:
        what = "users are looked for as they were typed only, not by what stands for them in the store"
        log.warning(Event(what, error=error))
        return []

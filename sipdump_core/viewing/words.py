"""A search in words: the filters of ``sipdump-read find`` as one line that people type, and as parameters of a URL.

A line is ``user=alice state=failed since=10:00``, or the same with the dashes of the command line, ``--user alice
--state failed``; a word alone is a Call-ID. Values with spaces stand in quotes.
"""

import argparse
import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn, Self
from urllib.parse import parse_qsl, quote, urlencode

import attrs

from sipdump_core.calls.legs import LegRules
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError
from sipdump_core.masking.users import Users
from sipdump_core.reading.arguments import add_filters, add_legs, asked_of, rules_of, whole_number
from sipdump_core.reading.redacting import with_stand_ins
from sipdump_core.reading.when import AROUND
from sipdump_core.viewing.listing import DEFAULT, Column, columns_of, sort_of

__all__ = ["NAMES", "Search"]

Word = tuple[str, str]
"""The name of a filter without its dashes, and its value as it was typed."""

_LOOKS_NAMED = re.compile(r"([a-z][a-z-]+)=[^=]")
_ARGUMENT = re.compile(r"argument --([a-z-]+): (.*)", re.DOTALL)
_FLAGS = frozenset({"leg-guess"})
"""Words without a value."""


def _words(words: Iterable[Word]) -> tuple[Word, ...]:
    return tuple(words)


@attrs.frozen
class Search:
    """A search, as it was asked for.

    Args:
        words: names and values, in the order in which they were typed.

    Raises:
        ConfigError: a word is not understood; its place is the word's name.
    """

    words: tuple[Word, ...] = attrs.field(default=(), converter=_words)

    def __attrs_post_init__(self) -> None:
        self.args  # noqa: B018 - what is wrong is told at once

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line, as people type it.

        Raises:
            ConfigError: a word is not understood.
        """
        return cls(_read(_split(line)))

    @classmethod
    def from_url(cls, query: str | bytes) -> Self:
        """Read the query of a URL, as ``user=alice&since=10%3A00``; what has no value is passed over, as forms send it.

        Raises:
            ConfigError: a word is not understood.
        """
        text = query.decode("ascii", "surrogateescape") if isinstance(query, bytes) else query
        try:
            pairs = parse_qsl(text, errors="surrogateescape", max_num_fields=_MOST)
        except ValueError:
            raise ConfigError(f"these are more than {_MOST} words") from None
        return cls(pairs)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        """Return what a command line asks for, whose parser has the arguments of ``add_filters``.

        Args:
            args: the parsed arguments; those of ``add_legs`` count where there are any.
        """
        return cls(_of_args(args))

    @cached_property
    def args(self) -> argparse.Namespace:
        """The arguments as the parser of ``find`` has them."""
        for name, _ in self.words:
            if name not in NAMES:
                raise ConfigError(_unknown(name))
        return _parser().parse_args(
            [f"--{name}" if name in _FLAGS else f"--{name}={value}" for name, value in self.words]
        )

    @property
    def rules(self) -> LegRules:
        """What links the legs of a call.

        Raises:
            ConfigError: an expression is wrong.
        """
        return rules_of(self.args)

    @property
    def around(self) -> float:
        """Seconds outside the span in which the rest of a call is looked for."""
        return float(self.args.around)

    @property
    def sort(self) -> tuple[Column, bool]:
        """The column that the list is sorted by, and whether it descends: by default, the newest call is first."""
        found: tuple[Column, bool] = self.args.sort
        return found

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the list."""
        found: tuple[Column, ...] = self.args.columns
        return found

    @property
    def limit(self) -> int | None:
        """How many calls are wanted at most; 0: all; None: it was not said."""
        found: int | None = self.args.limit
        return found

    @property
    def filters(self) -> "Search":
        """The same without what only says how the list looks."""
        return Search(word for word in self.words if word[0] not in _LOOKS)

    @property
    def line(self) -> str:
        """The search as a line; :meth:`parse` reads it."""
        return " ".join(name if name in _FLAGS else f"{name}={_quoted(value)}" for name, value in self.words)

    @property
    def url(self) -> str:
        """The search as the query of a URL, in ASCII, without its question mark; :meth:`from_url` reads it."""
        return urlencode(self.words, quote_via=quote, errors="surrogateescape")

    def query(self, now: datetime, stand_ins: Sequence[Users] = ()) -> Query:
        """Return the question that the words ask.

        Args:
            now: the present, with its zone; relative times count from it.
            stand_ins: what stands in the store for users.

        Raises:
            ConfigError: a time is not understood, or the span is empty.
        """
        return with_stand_ins(asked_of(self.args, now), stand_ins)

    def values(self, name: str) -> list[str]:
        """Return the values of a word, as they were typed."""
        return [value for each, value in self.words if each == name]

    def replaced(self, **values: str | None) -> "Search":
        """Return the same search with words replaced, as ``replaced(state="failed", since=None)``.

        Args:
            values: the only value of each word, or None to leave it out; ``_`` in a name stands for ``-``.
        """
        changed = {name.replace("_", "-"): value for name, value in values.items()}
        kept = [word for word in self.words if word[0] not in changed]
        return Search((*kept, *((name, value) for name, value in changed.items() if value is not None)))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        found = _ARGUMENT.fullmatch(message)
        raise ConfigError(found[2], found[1]) if found else ConfigError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="", add_help=False, allow_abbrev=False)
    add_filters(parser)
    add_legs(parser)
    parser.add_argument("--sort", type=_argument(sort_of), default=sort_of("-began"))
    parser.add_argument("--limit", type=whole_number)
    parser.add_argument("--columns", type=_argument(columns_of), default=DEFAULT)
    return parser


def _argument(read: Any) -> Any:
    def parse(text: str) -> Any:
        try:
            return read(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _names() -> dict[str, str]:
    """Return the words that there are, each with the name that its argument has."""
    actions = _parser()._actions  # argparse has no other way to say what was added
    names = {action.option_strings[0].lstrip("-"): action.dest for action in actions}
    del names["users-key"]  # it names a file, and whoever looks at a store names none
    return names


NAMES = _names()
"""The words that there are, without dashes, each with the attribute of :attr:`Search.args` that has its value."""
_MOST = 200
"""Parameters of a URL."""
_LOOKS = frozenset({"sort", "columns", "limit"})


def _split(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""  # an expression has backslashes of its own
    try:
        return list(lexer)
    except ValueError:
        raise ConfigError(f"a quote is not closed in {line}") from None


def _read(tokens: Sequence[str]) -> Iterator[Word]:
    rest = iter(tokens)
    for token in rest:
        name, equals, value = token.removeprefix("--").partition("=")
        if token.startswith("--"):
            if name not in NAMES:
                raise ConfigError(_unknown(name))
            if not equals and name not in _FLAGS:
                value = next(rest, "")
                if not value:
                    raise ConfigError("a value is missing behind it", name)
            yield name, value
        elif name in NAMES and (equals or name in _FLAGS):
            yield name, value
        elif _LOOKS_NAMED.match(token):
            raise ConfigError(f"{_unknown(name)}; if this is a Call-ID: call-id={token}")
        else:
            yield "call-id", token


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, NAMES, 1)
    return f"{name!r} is not a filter" + (f": is it {near[0]}?" if near else f"; choose from {', '.join(NAMES)}")


def _quoted(value: str) -> str:
    if value and not re.search(r"[\s'\"]", value):
        return value
    # shlex has no escape here, so that a quote stands in quotes of the other kind
    return f"'{value}'" if "'" not in value else '"' + value.replace('"', '"\'"\'"') + '"'


def _of_args(args: argparse.Namespace) -> Iterator[Word]:
    for name, dest in NAMES.items():
        value = getattr(args, dest, None)
        if name in _FLAGS:
            if value:
                yield name, ""
        elif name in _LOOKS:
            continue
        elif dest == "around":
            if value not in (None, int(AROUND)):
                yield name, f"{value:g}"
        elif dest == "statuses":
            yield from ((name, _codes(codes)) for codes in value or ())
        elif isinstance(value, list):
            yield from ((name, str(one)) for one in value)
        elif value is not None:
            yield name, f"{value}s" if dest == "last" else str(value)


def _codes(codes: Iterable[int]) -> str:
    """Return status codes as ``4xx``, ``400-404`` and ``503``, with commas between."""
    runs: list[list[int]] = []
    for code in sorted(codes):
        if runs and code == runs[-1][-1] + 1 and code % 100:
            runs[-1].append(code)
        else:
            runs.append([code])
    return ",".join(_run(run) for run in runs)


def _run(run: Sequence[int]) -> str:
    first, last = run[0], run[-1]
    if first % 100 == 0 and last == first + 99:
        return f"{first // 100}xx"
    return str(first) if first == last else f"{first}-{last}"

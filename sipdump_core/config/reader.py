"""Reading configuration: Kamailio's own files, and the options ``--modparam`` and ``-A``.

The ``modparam`` and ``modparamx`` statements of a file and its routes ``event_route[sipdump:...]`` count, once the
preprocessor has done what it does in Kamailio; everything else is ignored.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import attrs
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput
from lark.lexer import Lexer

from sipdump_core.config.piece import Piece
from sipdump_core.config.preprocessor import Preprocessor
from sipdump_core.config.route_block import RouteBlock
from sipdump_core.config.source import Source, read_source
from sipdump_core.config.substitution import quote
from sipdump_core.errors import ConfigError
from sipdump_core.redaction import REDACTED
from sipdump_core.settings.modules import is_like_ours
from sipdump_core.settings.options import Notice, Setting, may_be_secret

__all__ = ["Config", "override", "parse_config", "parse_modparam_option", "read_config"]

_GRAMMAR = r"""
modparam: MODPARAM "(" STRING "," STRING "," _value ")"
        | MODPARAMX "(" STRING "," STRING "," (_value | VARIABLE) ")"
_value: STRING | number
number: MINUS? NUMBER
event_route: EVENT "{"

%declare MODPARAM MODPARAMX STRING NUMBER VARIABLE MINUS EVENT WORD OTHER LPAR RPAR COMMA LBRACE
"""
_KEYWORDS = {"modparam": "MODPARAM", "modparamx": "MODPARAMX"}
_CHARACTERS = {"(": "LPAR", ")": "RPAR", ",": "COMMA", "-": "MINUS", "{": "LBRACE"}
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|0[0-7]+|0|[1-9][0-9]*|[01]+b|inet6?|INET6?|(?:ipv|IPv|IPV)[46]")
_TRUE, _FALSE = ("yes", "true", "on", "enable"), ("no", "false", "off", "disable")
_NAMES = {
    "STRING": "a string in quotes",
    "NUMBER": "a number",
    "VARIABLE": "a pseudo-variable",
    "LPAR": "(",
    "RPAR": ")",
    "COMMA": "a comma",
    "LBRACE": "{",
}
_MAX_DIGITS = 100
_MAX_STATEMENT = 32
"""Pieces after which a modparam is not waited for to end."""


@attrs.frozen
class Config:
    """What a configuration says to sipdump."""

    settings: list[Setting]
    """All modparams, in their order, those of other modules too. A module may be a pattern, as ``sipdump|tm``."""
    event_routes: dict[str, RouteBlock]
    """The routes for events of sipdump, by name."""
    notices: list[Notice] = attrs.field(factory=list)
    """What looks like a statement for sipdump, and is not one; expressions without a value."""


def read_config(path: str | Path, defines: Sequence[str] = ()) -> Config:
    """Read a configuration file.

    Args:
        path: the file.
        defines: names for the preprocessor, or ``NAME=VALUE``, as with ``-A``.

    Raises:
        ConfigError: it or what it includes cannot be read, or is not of Kamailio's syntax.
    """
    return _read(read_source(path), defines)


def parse_config(text: str, name: str, defines: Sequence[str] = ()) -> Config:
    """Read a configuration text; ``name`` is the file's, for errors and for included files.

    Raises:
        ConfigError: as :func:`read_config`.
    """
    return _read(Source(name, text), defines)


def parse_modparam_option(text: str) -> Setting:
    """Read the value of ``--modparam``: ``MODULE:NAME:TYPE:VALUE``, with the type ``i`` or ``s``.

    Raises:
        ConfigError: it is not of that form.
    """
    parts = text.split(":", 3)
    hidden = may_be_secret(parts[0], ":".join(parts[:2]))
    place = f"--modparam={':'.join([*parts[:3], REDACTED]) if hidden else text}"
    if len(parts) < 4 or parts[2] not in ("i", "s"):
        raise ConfigError("must be MODULE:NAME:TYPE:VALUE with the type i (integer) or s (string)", place)
    module, name, kind, value = parts
    if kind == "s":
        return Setting(module, name, value, place)
    try:
        return Setting(module, name, _int(value), place)
    except ValueError:
        raise ConfigError("the value is not an integer", place) from None


def override(settings: Iterable[Setting], options: Iterable[Setting]) -> list[Setting]:
    """Return the settings with options in their place: an option replaces all settings of its name."""
    options = list(options)

    def replaced(setting: Setting) -> bool:
        return any(setting.name == option.name and setting.is_for(option.module) for option in options)

    return [setting for setting in settings if not replaced(setting)] + options


def _read(source: Source, defines: Sequence[str]) -> Config:
    return _Reader(Preprocessor(source, defines)).read()


class _Reader:
    """Finds the statements that count among the pieces of a configuration."""

    def __init__(self, preprocessor: Preprocessor) -> None:
        self._preprocessor = preprocessor
        self._pieces = preprocessor.pieces()
        self._config = Config([], {}, preprocessor.notices)

    def read(self) -> Config:
        piece = next(self._pieces, None)
        while piece is not None:
            if piece.kind == "event" or (piece.kind == "word" and piece.text == "event_route"):
                piece = self._event_route(piece)
            elif piece.kind == "word" and piece.text in _KEYWORDS:
                piece = self._modparam(piece)
            elif piece.kind == "word" and _near_keyword(piece.text):
                piece = self._misspelled(piece)
            else:
                piece = next(self._pieces, None)
        return self._config

    def _modparam(self, first: Piece) -> Piece | None:
        """Read a modparam, and return the piece after it."""
        statement, after = [first], None
        for piece in self._pieces:
            if piece.text in ("{", "}", ";", *_KEYWORDS) or piece.kind == "event" or len(statement) > _MAX_STATEMENT:
                after = piece
                break
            if piece.kind != "space":
                statement.append(piece)
            if piece.text == ")":
                break
        try:
            self._config.settings.append(self._setting(_parse("modparam", statement), statement))
        except ConfigError:
            if self._is_ours(statement):
                raise
        return after or next(self._pieces, None)

    def _misspelled(self, word: Piece) -> Piece | None:
        """Note a word that is almost a keyword, if it is about sipdump; return the piece to go on with."""
        opening = next((piece for piece in self._pieces if piece.kind != "space"), None)
        about, between = opening, " "
        if opening is not None and opening.text in ("(", "["):
            about, between = next((piece for piece in self._pieces if piece.kind != "space"), None), opening.text
        if about is not None and is_like_ours(about.text.strip("\"'`").partition(":")[0]):
            text = f"{word.text}{between}{about.text} is not a statement; did you mean {_near_keyword(word.text)}?"
            self._config.notices.append(Notice(text, word.source.place(word.offset)))
        return about

    def _is_ours(self, statement: Sequence[Piece]) -> bool:
        """Return whether a modparam that cannot be read may be for sipdump."""
        module = next((piece for piece in statement if piece.kind == "string"), None)
        if module is None:
            return True
        try:
            pattern = self._preprocessor.substitute(module)
            return "sipdump" in pattern.lower() or Setting(pattern, "", 0).is_for("sipdump")
        except ConfigError:
            return "sipdump" in module.text.lower()

    def _setting(self, tree: Tree[Token], statement: Sequence[Piece]) -> Setting:
        keyword, *arguments = (statement[t.start_pos or 0] if isinstance(t, Token) else t for t in tree.children)
        first = cast(Piece, keyword)  # as the grammar says
        evaluated = first.text == "modparamx"
        module, name, value = (self._value(argument, statement, evaluated) for argument in arguments)
        place, line = first.source.place(first.offset), first.source.line(first.offset)
        setting = Setting(str(module), str(name), value, place, line)
        setting.is_for("")  # raises where the module is no pattern
        return setting

    def _value(self, argument: "Piece | Tree[Token]", statement: Sequence[Piece], evaluated: bool) -> int | str:
        if isinstance(argument, Piece):
            value = self._preprocessor.substitute(argument)
            text = self._preprocessor.evaluate(value, argument) if evaluated else value
            return int(text) if value.startswith("$defn(") and argument.kind == "variable" else text
        *sign, number = argument.children
        piece = statement[cast(Token, number).start_pos or 0]  # as the grammar says
        try:
            return -_int(piece.text) if sign else _int(piece.text)
        except ValueError as error:
            raise piece.error(f"the number is too long: {piece.text[:20]}...") from error

    def _event_route(self, first: Piece) -> Piece | None:
        """Read an event route, and return the piece after it."""
        opening = next((piece for piece in self._pieces if piece.kind != "space"), None)
        _parse("event_route", [piece for piece in (first, opening) if piece])
        ours = first.text.startswith("sipdump:")
        if not ours and is_like_ours(first.text.partition(":")[0]):
            text = f"event_route[{first.text}] is never run here; did you mean event_route[sipdump:msg]?"
            self._config.notices.append(Notice(text, first.source.place(first.offset)))
        if first.text in self._config.event_routes:
            raise first.error(f"there is an event_route[{first.text}] already")
        pieces: list[Piece] = []
        depth = 1
        for piece in self._pieces:
            if piece.kind == "other":
                depth += {"{": 1, "}": -1}.get(piece.text, 0)
            if not depth:
                break
            if ours:
                pieces.append(self._substituted(piece))
        else:
            raise (opening or first).error("the { is not closed")
        if ours:
            pieces.append(piece)  # the brace: the place of what is missing at the end
            starts = [0]
            for inner in pieces[:-1]:
                starts.append(starts[-1] + len(inner.text))
            text = "".join(inner.text for inner in pieces[:-1])
            self._config.event_routes[first.text] = RouteBlock(first.text, text, pieces, starts)
        return next(self._pieces, None)

    def _substituted(self, piece: Piece) -> Piece:
        if not piece.rules or piece.kind not in ("string", "variable"):
            return piece
        before = self._preprocessor.substitute(attrs.evolve(piece, rules=0))
        after = self._preprocessor.substitute(piece)
        if after == before:
            return piece
        return attrs.evolve(piece, text=quote(after) if piece.kind == "string" else after, exact=False)


class _PieceLexer(Lexer):
    """Passes lark the pieces of one statement; a token's ``start_pos`` is its piece's index."""

    __future_interface__ = 0

    def __init__(self, lexer_conf: Any) -> None:
        """Take nothing from lark's configuration: the pieces are made already."""

    def lex(self, data: Any) -> Iterator[Token]:  # type: ignore[override]  # lark passes on what was given to parse
        for index, piece in enumerate(data):
            yield Token(_token_type(piece), piece.text, start_pos=index)


@lru_cache(4096)
def _near_keyword(word: str) -> str:
    """Return the keyword that a word is almost; empty if there is none."""
    return next(iter(difflib.get_close_matches(word.lower(), ("modparam", "event_route"), 1, 0.7)), "")


def _token_type(piece: Piece) -> str:
    if piece.kind == "word":
        if piece.text in _TRUE or piece.text in _FALSE or _NUMBER.fullmatch(piece.text):
            return "NUMBER"
        return _KEYWORDS.get(piece.text, "WORD")
    return _CHARACTERS.get(piece.text, piece.kind.upper())


@cache
def _parser(statement: str) -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer=_PieceLexer, start=statement)


def _parse(statement: str, pieces: Sequence[Piece]) -> Tree[Token]:
    try:
        return _parser(statement).parse(pieces)
    except UnexpectedInput as error:
        token: Token = getattr(error, "token", None) or Token("$END", "")
        ended = token.type == "$END"
        piece = pieces[-1 if ended else token.start_pos or 0]
        expected = getattr(error, "accepts", None) or getattr(error, "expected", None) or ()
        allowed = " or ".join(sorted(_NAMES[kind] for kind in expected if kind in _NAMES))
        hidden = any(map(_names_a_secret, pieces))
        text = "the value" if hidden else piece.text[:40]
        found = f"after {text}" if ended else f"not {text}"
        hint = f": expected {allowed}, {found}" if allowed else ""
        message = f"{statement} is not understood{hint}"
        if hidden:  # its line may be the value
            raise ConfigError(message, piece.source.place(piece.offset)) from None
        raise piece.error(message) from error


def _names_a_secret(piece: Piece) -> bool:
    words = re.findall(r"""[^\s"']+""", piece.text)
    return piece.kind == "string" and any(may_be_secret(word, word) for word in words)


def _int(text: str) -> int:
    """Read an integer as Kamailio does: decimal, 0x1f, 0640 or 101b; yes, true, on and enable are 1."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if digits in _TRUE or digits in _FALSE:
        return sign * (digits in _TRUE)
    if digits.lower() in ("inet", "ipv4", "inet6", "ipv6"):
        return sign * (2 if digits.lower() in ("inet", "ipv4") else 10)
    if len(digits) > _MAX_DIGITS:
        raise ValueError("too many digits")
    if digits.endswith("b") and not digits.startswith("0x"):
        return sign * int(digits[:-1], 2)
    octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
    return sign * int(digits, 8 if octal else 0)

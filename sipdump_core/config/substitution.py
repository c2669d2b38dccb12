"""Values: strings as they are quoted, ``#!subst`` rules, and the pseudo-variables that a configuration may evaluate."""

import os
import re
from collections.abc import Callable, Mapping

from sipdump_core.posix_re import Match, Pattern

__all__ = ["Rule", "evaluate", "quote", "unquote"]

_QUOTED = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{2,3})|([nrat\"\\\n]))")
_LETTERS = {b"n": b"\n", b"r": b"\r", b"a": b"\a", b"t": b"\t", b'"': b'"', b"\\": b"\\", b"\n": b""}
_VARIABLE = re.compile(r"\$(?:\$|(\w+)\((\w+)\)|\((\w+)\((\w+)\)\))", re.ASCII)
_REPLACEMENT = re.compile(r"\\(.)|(\$(?:\w*\([^()]*(?:\([^()]*\)[^()]*)*\)|\w+))|(.)", re.DOTALL | re.ASCII)
_MAX_REPLACEMENT = 1022
"""Characters; where a replacement is longer, Kamailio leaves the string as it was."""


def unquote(literal: str) -> str:
    """Give the value of a string as it stands in a configuration: ``'...'``, or some ``"..."`` side by side.

    In ticks all characters are themselves. In quotes ``\\n \\r \\a \\t \\" \\\\``, ``\\xHH`` and octal ``\\OO`` or
    ``\\OOO`` stand for one byte, a backslash before the end of a line goes with it, and any other backslash stays.
    As in C, nothing after a zero byte counts.
    """
    if literal.startswith("'"):
        return literal[1:-1].partition("\0")[0]
    parts = (_ESCAPE.sub(_byte, part.encode("utf-8", "surrogateescape")) for part in _QUOTED.findall(literal))
    return b"".join(parts).partition(b"\0")[0].decode("utf-8", "surrogateescape")


def quote(value: str) -> str:
    """Give a string whose value is this one."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _byte(found: re.Match[bytes]) -> bytes:
    hexadecimal, octal, letter = found.groups()
    if letter:
        return _LETTERS[letter]
    return bytes([int(hexadecimal, 16) if hexadecimal else int(octal, 8) & 0xFF])


def evaluate(text: str, defines: Mapping[str, str]) -> str:
    """Put values in the place of ``$env(NAME)``, ``$def(NAME)``, ``$defn(NAME)`` and ``$$``.

    Raises:
        ValueError: another pseudo-variable, or one that has no value.
    """
    pieces, at = [], 0
    while (found := text.find("$", at)) >= 0:
        variable = _VARIABLE.match(text, found)
        if variable is None:
            raise ValueError(f"only $env(NAME), $def(NAME) and $$ have a value here, not: {text[found : found + 40]}")
        pieces += [text[at:found], _value(variable, defines)]
        at = variable.end()
    return "".join((*pieces, text[at:]))


def _value(variable: re.Match[str], defines: Mapping[str, str]) -> str:
    kind, name = variable[1] or variable[3], variable[2] or variable[4]
    if kind is None:
        return "$"
    if kind not in ("env", "def", "defn"):
        raise ValueError(f"only $env(NAME), $def(NAME) and $$ have a value here, not: {variable[0]}")
    value = os.environ.get(name) if kind == "env" else defines.get(name)
    if value is None:
        raise ValueError(f"{variable[0]} has no value")
    return value


class Rule:
    """A ``#!subst`` rule: ``/expression/replacement/flags``, with any separator and the flags i, g and s.

    Raises:
        ValueError: it is not of that form.
    """

    def __init__(self, text: str) -> None:
        separator = text[:1]
        if separator in ("", "\\"):
            raise ValueError("it must begin with a separator, which is no backslash")
        expression_end = _unescaped(text, separator, 1)
        if expression_end < 0:
            raise ValueError(f"no {separator} ends the expression")
        self.expression = text[1:expression_end]
        self._replacement, at = _replacement(text, separator, expression_end + 1)
        value_end = _unescaped(text, separator, expression_end + 1)
        self.replacement = text[expression_end + 1 : value_end]
        """As it is written."""
        flags = text[at:]
        if set(flags) - set("igs"):
            raise ValueError(f"there are no other flags than i, g and s: {flags}")
        self._all = "g" in flags
        self._pattern = Pattern(self.expression, ignore_case="i" in flags, newline="s" not in flags)

    def apply(self, text: str, defines: Mapping[str, str], spend: Callable[[int], object]) -> str:
        """Substitute; where there is no match, or one of nothing, the text stays as it is, as in Kamailio.

        Raises:
            ValueError: the replacement has a pseudo-variable whose value is not known here.
        """
        pieces, at = [], 0
        while (found := self._pattern.search(text, at, spend)) is not None:
            start, end = found[0] or (0, 0)
            if start == end:
                return text
            replacement = self._fill(text, found, defines)
            if len(replacement) > _MAX_REPLACEMENT:
                return text
            spend(len(replacement))
            pieces += [text[at:start], replacement]
            at = end
            if not self._all:
                break
        return "".join((*pieces, text[at:]))

    def _fill(self, text: str, found: Match, defines: Mapping[str, str]) -> str:
        pieces = []
        for kind, what in self._replacement:
            if kind == "group":
                group = found[int(what)] if int(what) < len(found) else None
                pieces.append(text[slice(*group)] if group else "")
            else:
                pieces.append(evaluate(what, defines) if kind == "variable" else what)
        return "".join(pieces)


def _unescaped(text: str, separator: str, start: int) -> int:
    at = text.find(separator, start)
    while at > 0 and text[at - 1] == "\\":
        at = text.find(separator, at + 1)
    return at


def _replacement(text: str, separator: str, at: int) -> tuple[list[tuple[str, str]], int]:
    """Split a replacement into characters, groups and variables; also give where the flags begin."""
    pieces: list[tuple[str, str]] = []
    while found := _REPLACEMENT.match(text, at):
        escaped, variable, char = found.groups()
        at = found.end()
        if char == separator:
            return pieces, at
        if escaped is not None and escaped in "0123456789":
            pieces.append(("group", escaped))
        elif escaped == "u":
            pieces.append(("variable", "$ru"))  # a request's URI: there is none
        elif escaped is not None:
            pieces.append(("text", {"n": "\n", "r": "\r", "t": "\t"}.get(escaped, escaped)))
        elif char == "$":
            raise ValueError(f"no pseudo-variable: {text[found.start() : found.start() + 40]}")
        else:
            pieces.append(("variable", variable) if variable else ("text", char))
    raise ValueError(f"no {separator} ends the replacement")

"""Values: strings as they are quoted, ``#!subst`` rules, and the pseudo-variables that a configuration may evaluate."""

import os
import re
from collections.abc import Callable, Mapping, Sequence

from sipdump_core.config.variable import Variable, scan_variable
from sipdump_core.posix_regex import Pattern, Span

__all__ = ["Rule", "evaluate", "quote", "unquote"]

_QUOTED = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{2,3})|([nrat\"\\\n]))")
_LETTERS = {b"n": b"\n", b"r": b"\r", b"a": b"\a", b"t": b"\t", b'"': b'"', b"\\": b"\\", b"\n": b""}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_EACH_SEARCH, _BYTES_A_STEP = 16, 32
"""What a search counts, and how many bytes of text count one more: about 60 ns each."""
_MAX_REPLACEMENT = 1022
"""Bytes; where a replacement is longer, Kamailio leaves the string as it was."""


def unquote(literal: str) -> str:
    """Return the value of a string as a configuration has it: ``'...'``, or several ``"..."`` side by side.

    In ticks all characters are themselves. In quotes ``\\n \\r \\a \\t \\" \\\\``, ``\\xHH`` and octal ``\\OO`` or
    ``\\OOO`` stand for one byte, a backslash before the end of a line goes with it, and any other backslash stays.
    As in C, nothing after a zero byte counts.
    """
    if literal.startswith("'"):
        return literal[1:-1].partition("\0")[0]
    parts = (_ESCAPE.sub(_byte, part.encode("utf-8", "surrogateescape")) for part in _QUOTED.findall(literal))
    return b"".join(parts).partition(b"\0")[0].decode("utf-8", "surrogateescape")


def quote(value: str) -> str:
    """Return a string literal that has this value."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _byte(found: re.Match[bytes]) -> bytes:
    hexadecimal, octal, letter = found.groups()
    if letter:
        return _LETTERS[letter]
    return bytes([int(hexadecimal, 16) if hexadecimal else int(octal, 8) & 0xFF])


def evaluate(text: str, defines: Mapping[str, str]) -> str:
    """Replace ``$env(NAME)``, ``$def(NAME)``, ``$defn(NAME)`` and ``$$`` by their values.

    Raises:
        ValueError: another pseudo-variable, or one that has no value.
    """
    parts, at = [], 0
    while (found := text.find("$", at)) >= 0:
        variable = scan_variable(text, found)
        parts += [text[at:found], _value(variable, defines)]
        at = found + len(variable.text)
    return "".join((*parts, text[at:]))


def _value(variable: Variable, defines: Mapping[str, str]) -> str:
    name, inner = variable.name, variable.inner
    if name == "$":
        return "$"
    if name not in ("env", "def", "defn") or inner is None or variable.index or variable.transformations:
        raise ValueError(f"only $env(NAME), $def(NAME) and $$ have a value here, not: {variable.text}")
    value = os.environ.get(inner) if name == "env" else defines.get(inner)
    if value is None:
        raise ValueError(f"{variable.text} has no value")
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
        self._pattern = Pattern(
            _encode(self.expression), ignore_case="i" in flags, newline="s" not in flags, groups=True
        )

    def apply(self, text: str, defines: Mapping[str, str], spend: Callable[[int], object]) -> str:
        """Substitute; where there is no match, or an empty one, the text stays as it is, as in Kamailio.

        Args:
            text: the value of a string.
            defines: the values of ``$def(NAME)``.
            spend: called with what each search costs, in steps of about 60 ns; may raise to stop it.

        Raises:
            ValueError: the replacement has a pseudo-variable whose value is not known here.
        """
        subject = _encode(text)
        parts, at = [], 0
        while True:
            spend(_EACH_SEARCH + (len(subject) - at) // _BYTES_A_STEP)
            spans = self._pattern.find(subject, at)
            if spans is None:
                break
            start, end = spans[0]
            if start == end:
                return text
            replacement = self._fill(subject, spans, defines)
            if len(replacement) > _MAX_REPLACEMENT:
                return text
            spend(len(replacement))
            parts += [subject[at:start], replacement]
            at = end
            if not self._all:
                break
        return b"".join((*parts, subject[at:])).decode("utf-8", "surrogateescape")

    def _fill(self, subject: bytes, spans: Sequence[Span], defines: Mapping[str, str]) -> bytes:
        parts = []
        for part in self._replacement:
            if isinstance(part, str):
                parts.append(_encode(part))
            elif isinstance(part, Variable):
                parts.append(_encode(_value(part, defines)))
            elif part < len(spans) and spans[part][0] >= 0:
                parts.append(subject[slice(*spans[part])])
        return b"".join(parts)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _unescaped(text: str, separator: str, start: int) -> int:
    at = text.find(separator, start)
    while at > 0 and text[at - 1] == "\\":
        at = text.find(separator, at + 1)
    return at


def _replacement(text: str, separator: str, at: int) -> tuple[list[str | int | Variable], int]:
    """Split a replacement into texts, numbers of groups and variables; also return where the flags begin."""
    parts: list[str | int | Variable] = []
    while at < len(text):
        char = text[at]
        if char == separator:
            return parts, at + 1
        if char == "$":
            variable = scan_variable(text, at)
            parts.append(variable)
            at += len(variable.text)
        elif char == "\\" and at + 1 < len(text):
            escaped = text[at + 1]
            if escaped in "0123456789":
                parts.append(int(escaped))
            elif escaped == "u":
                parts.append(Variable("$ru", "ru"))  # a request's URI: there is none
            else:
                parts.append(_CONTROLS.get(escaped, escaped))
            at += 2
        else:
            parts.append(char)
            at += 1
    raise ValueError(f"no {separator} ends the replacement")

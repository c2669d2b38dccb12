"""Reading pseudo-variables out of a text: ``$name``, ``$name(inner)`` and ``$(name(inner)[index]{s.len})``.

What a name means is up to the caller; here are only the rules of where each part ends, as Kamailio has them
(pv_parse_spec2 in src/core/pvapi.c, and the variables of src/core/cfg.lex).
"""

import re

import attrs

__all__ = ["Variable", "scan_variable", "variable_end"]

_NAME = re.compile(r"[0-9A-Za-z_.?]+")
_BLANKS = re.compile(r"[ \t]+")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_EDGES = {opening: re.compile(f"[{re.escape(opening + closing)}]") for opening, closing in _PAIRS.items()}
_SHOWN = 60


@attrs.frozen
class Variable:
    """A pseudo-variable as it is written."""

    text: str
    """All of it."""
    name: str
    """``$`` for ``$$``."""
    inner: str | None = None
    """The name in brackets, as ``tag`` in ``$sipdump(tag)``."""
    index: str | None = None
    transformations: tuple[str, ...] = ()
    """What is between each pair of braces, as ``("s.select,0, ", "s.len")``."""


def scan_variable(text: str, start: int) -> Variable:
    """Read the variable that begins at an offset; its ``text`` says how far it goes.

    Raises:
        ValueError: there is none, or it is not closed.
    """
    shown = text[start : start + _SHOWN]
    if not text.startswith("$", start):
        raise ValueError(f"{shown}: a variable begins with $")
    bracketed = text.startswith("(", start + 1)
    name_start = start + 1 + bracketed
    at = name_start + 1 if text.startswith("$", name_start) else _name_end(text, name_start)
    name = text[name_start:at]
    if not name:
        raise ValueError(f"{shown}: a name is missing after $; a lone $ is written $$")
    inner = index = None
    transformations = []
    if name != "$" and text.startswith("(", at):
        inner, at = _enclosed(text, at, shown)
    if bracketed:
        if name != "$" and text.startswith("[", at):
            index, at = _enclosed(text, at, shown)
        while name != "$" and text.startswith("{", at):
            transformation, end = _enclosed(text, at, shown)
            transformations.append(transformation)
            at = _skip_blanks(text, end)
        if not text.startswith(")", at):
            found = repr(text[at]) if at < len(text) else "the end"
            raise ValueError(f"{shown}: expected ) instead of {found}")
        at += 1
    return Variable(text[start:at], name, inner, index, tuple(transformations))


def variable_end(text: str, start: int) -> int:
    """Return where a variable of a script ends: after its name, or after the ``)`` for its first ``(``; -1 for none.

    A script is cut into words before anybody knows what a variable is, by its brackets alone.
    """
    if text.startswith("$$", start):
        return start + 2
    at = _name_end(text, start + 1)
    return _closing(text, at) if text.startswith("(", at) else at


def _enclosed(text: str, at: int, shown: str) -> tuple[str, int]:
    """Return what is between a bracket and the one that closes it, and the offset after that."""
    end = _closing(text, at)
    if end < 0:
        raise ValueError(f"{shown}: the {text[at]} is not closed")
    return text[at + 1 : end - 1], end


def _name_end(text: str, at: int) -> int:
    found = _NAME.match(text, at)
    return found.end() if found else at


def _skip_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _closing(text: str, at: int) -> int:
    opening, depth = text[at], 0
    for edge in _EDGES[opening].finditer(text, at):
        depth += 1 if edge[0] == opening else -1
        if not depth:
            return edge.end()
    return -1

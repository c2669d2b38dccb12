"""POSIX extended regular expressions, as Kamailio's module lists and substitutions use them (regcomp(3), regex(7)).

Python's ``re`` reads several of them otherwise (the first alternative wins instead of the longest, a backslash in
brackets escapes), and takes exponential time for some. Here all threads of a match run side by side, so that the time
is at most the size of the pattern times the length of the text. Left out: references to groups, ``[[.x.]]`` and
``[[=x=]]``.
"""

import re
import string
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["Chars", "Match", "Pattern", "compile_program"]

Match = list[tuple[int, int] | None]
"""Start and end of the whole match and of each group; None for a group that has no part in it."""

_TOKEN = re.compile(r"\[\^?\]?(?:\[:[a-z]+:\]|[^\]\[]|\[(?![:.=]))*\]|\\.|\{\d{0,3}(?:,\d{0,3})?\}|.", re.DOTALL)
_SPECIAL = re.compile(r"[][\\.*+?{}()|^$]")
_ITEM = re.compile(r"\[:([a-z]+):\]|(.)-(.)|(.)", re.DOTALL)
_MAX_SOURCE, _MAX_PROGRAM = 1024, 4096
_CLASSES = {
    "alpha": "AZaz",
    "digit": "09",
    "alnum": "AZaz09",
    "upper": "AZ",
    "lower": "az",
    "space": "\t\r  ",
    "blank": "\t\t  ",
    "punct": "!/:@[`{~",
    "xdigit": "09AFaf",
    "print": " ~",
    "graph": "!~",
    "cntrl": "\0\x1f\x7f\x7f",
}
"""Pairs of first and last character."""
_WORD = string.ascii_letters + string.digits + "_"
_ANCHORS = [[("at", where)] for where in "^$bB<>`'"]


@attrs.frozen
class Chars:
    """What one position may hold."""

    pairs: str
    """Pairs of first and last character."""
    negated: bool = False
    dot: bool = False
    """``.`` or a negated bracket, which hold no newline where lines count."""

    def holds(self, char: str) -> bool:
        """Tell whether a character is one of them."""
        return any(self.pairs[i] <= char <= self.pairs[i + 1] for i in range(0, len(self.pairs), 2))


# An instruction is one of: Chars; ("at", where); ("save", slot); ("split", first, second) and ("jump", to), both
# relative; ("match",).
_Program = list[Any]
_Thread = tuple[int, tuple[int, ...]]


class Pattern:
    """A compiled expression.

    Args:
        source: the expression.
        ignore_case: take letters of either case.
        newline: let ``^`` and ``$`` match at each line, and ``.`` and ``[^...]`` no newline (REG_NEWLINE).

    Raises:
        ValueError: it is no expression, or one that is larger than anybody needs.
    """

    def __init__(self, source: str, *, ignore_case: bool = False, newline: bool = False) -> None:
        program, groups = compile_program(source)
        self._program: _Program = [*program, ("match",)]
        self._slots = 2 * groups + 2
        self._ignore_case, self._newline = ignore_case, newline
        self._literal = "" if ignore_case or _SPECIAL.search(source) else source

    def fullmatch(self, text: str) -> bool:
        """Say whether the whole text matches, as ``^(...)$`` does."""
        return self._run(text, 0, whole=True) is not None

    def search(self, text: str, start: int = 0, spend: Callable[[int], object] = int) -> Match | None:
        """Give the first match from ``start`` on, the longest one there; ``spend`` is told the steps it takes."""
        if self._literal:
            at = text.find(self._literal, start)
            return None if at < 0 else [(at, at + len(self._literal))]
        for at in range(start, len(text) + 1):
            found = self._run(text, at, spend=spend)
            if found is not None:
                return found
        return None

    def _run(self, text: str, start: int, *, whole: bool = False, spend: Callable[[int], object] = int) -> Match | None:
        best: tuple[int, ...] | None = None
        threads = self._follow(text, start, [(0, (start,) + (-1,) * (self._slots - 1))], spend)
        at = start
        while threads:
            following = []
            for pc, saved in threads:
                instruction = self._program[pc]
                if not isinstance(instruction, Chars):  # ("match",)
                    if (not whole or at == len(text)) and (best is None or best[1] < at):
                        best = (start, at, *saved[2:])
                elif at < len(text) and self._takes(instruction, text[at]):
                    following.append((pc + 1, saved))
            at += 1
            threads = self._follow(text, at, following, spend)
        if best is None:
            return None
        return [(best[i], best[i + 1]) if best[i + 1] >= 0 else None for i in range(0, len(best), 2)]

    def _follow(self, text: str, at: int, threads: list[_Thread], spend: Callable[[int], object]) -> list[_Thread]:
        """Take the steps that take no character; one that an earlier thread has taken is that thread's alone."""
        stack, found = threads[::-1], []
        seen: set[int] = set()
        while stack:
            pc, saved = stack.pop()
            if pc in seen:
                continue
            seen.add(pc)
            instruction = self._program[pc]
            match instruction:
                case ("jump", to):
                    stack.append((pc + to, saved))
                case ("split", first, second):
                    stack += [(pc + second, saved), (pc + first, saved)]
                case ("save", slot):
                    stack.append((pc + 1, (*saved[:slot], at, *saved[slot + 1 :])))
                case ("at", where):
                    if self._is_at(where, text, at):
                        stack.append((pc + 1, saved))
                case _:
                    found.append((pc, saved))
        spend(len(seen))
        return found

    def _takes(self, chars: Chars, char: str) -> bool:
        if chars.dot and char == "\n" and self._newline:
            return False
        held = chars.holds(char)
        if self._ignore_case and not held:
            held = chars.holds(char.lower()) or chars.holds(char.upper())
        return held != chars.negated

    def _is_at(self, where: str, text: str, at: int) -> bool:
        before, after = text[at - 1 : at] if at else "", text[at : at + 1]
        if where in "^$":
            beside = before if where == "^" else after
            return not beside or (self._newline and beside == "\n")
        if where in "`'":
            return not (before if where == "`" else after)
        left, right = before != "" and before in _WORD, after != "" and after in _WORD
        return {"b": left != right, "B": left == right, "<": right and not left, ">": left and not right}[where]


@attrs.define
class _Group:
    """A group that is being read: its number, the branches before the last ``|``, and what came since."""

    number: int
    branches: list[_Program] = attrs.field(factory=list)
    items: list[_Program] = attrs.field(factory=list)

    def program(self) -> _Program:
        program = sum(self.items, _Program())
        for branch in reversed(self.branches):
            program = [("split", 1, len(branch) + 2), *branch, ("jump", len(program) + 1), *program]
            _check_size(program)
        return program


def compile_program(source: str) -> tuple[_Program, int]:
    """Compile an expression to instructions of a Thompson automaton.

    Returns:
        The instructions, and the number of groups.

    Raises:
        ValueError: it is no expression, or a longer one than anybody needs.
    """
    if len(source) > _MAX_SOURCE:
        raise ValueError(f"it is longer than {_MAX_SOURCE} characters")
    stack, groups = [_Group(0)], 0
    for part in _TOKEN.findall(source):
        group = stack[-1]
        if part == "(":
            groups += 1
            stack.append(_Group(groups))
        elif part == ")" and len(stack) > 1:
            stack.pop()
            slot = 2 * group.number
            stack[-1].items.append([("save", slot), *group.program(), ("save", slot + 1)])
        elif part == "|":
            group.branches.append(sum(group.items, _Program()))
            group.items = []
        elif part in "*+?" or part[0] == "{":
            if not group.items or group.items[-1][:1] in _ANCHORS:
                raise ValueError(f"there is nothing that {part} could repeat")
            group.items[-1] = _repeat(group.items[-1], part)
        else:
            group.items.append([_atom(part)])
    if len(stack) > 1:
        raise ValueError("a ( has no )")
    return stack[0].program(), groups


def _atom(part: str) -> Any:
    if part in "^$":
        return ("at", part)
    if part == ".":
        return Chars("", negated=True, dot=True)
    if part in ("[", "\\"):
        raise ValueError(f"{part} has no end")
    if part[0] == "[":
        return _bracket(part)
    if part[0] != "\\":
        return Chars(part * 2)
    escaped = part[1]
    if escaped in "bB<>`'":
        return ("at", escaped)
    if escaped in "wWsS":
        pairs = _CLASSES["space"] if escaped in "sS" else _CLASSES["alnum"] + "__"
        return Chars(pairs, negated=escaped in "WS")
    if escaped in "123456789":
        raise ValueError(f"{part} refers to a group, which is not supported")
    return Chars(escaped * 2)


def _bracket(part: str) -> Chars:
    negated = part[1] == "^"
    pairs = ""
    for name, low, high, single in _ITEM.findall(part[2 if negated else 1 : -1]):
        if name and name not in _CLASSES:
            raise ValueError(f"there is no class [:{name}:]")
        if low > high:
            raise ValueError(f"the range {low}-{high} is empty")
        pairs += _CLASSES[name] if name else low + high or single * 2
    return Chars(pairs, negated=negated, dot=negated)


def _repeat(program: _Program, quantifier: str) -> _Program:
    low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(quantifier, (0, 0))
    if quantifier[0] == "{":
        first, comma, last = quantifier[1:-1].partition(",")
        if not first and not last:
            raise ValueError(f"{quantifier} has no number")
        low = int(first or 0)
        high = (int(last) if last else None) if comma else low
        if high is not None and high < low:
            raise ValueError(f"{quantifier} allows nothing")
    size = len(program)
    if size * max(low, high or 1) > _MAX_PROGRAM:
        raise ValueError("it repeats too much")
    if high is None:
        more: _Program = [("split", 1, size + 2), *program, ("jump", -size - 1)]
    else:
        more = [("split", 1, size + 1), *program] * (high - low)
    repeated = program * low + more
    _check_size(repeated)
    return repeated


def _check_size(program: _Program) -> None:
    if len(program) > _MAX_PROGRAM:
        raise ValueError("it is too large")

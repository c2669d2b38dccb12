"""POSIX extended regular expressions, as Kamailio compiles them (regcomp(3), in the C locale), matched by RE2.

RE2 takes time in proportion to the text, and bounded memory, whatever the expression. Its syntax is Perl's, so each
expression is parsed here by the rules of POSIX (IEEE 1003.1, 9.4) and glibc, and written anew for RE2. Texts are bytes,
of which only ASCII letters have a case. RE2 has no back-references, ``\\<``, ``\\>``, ``[[.x.]]`` or ``[[=x=]]``: those
are refused, and the error says what to write instead.
"""

import re
from functools import cache
from importlib import import_module
from typing import Any, Final

import attrs

__all__ = ["Pattern", "Span"]

Span = tuple[int, int]
"""Offsets of the first byte and of the one after the last; (-1, -1) for a group that takes no part in the match."""

_MAX_SOURCE: Final = 1024
"""Bytes of an expression."""
_MAX_MEMORY: Final = 4 << 20
"""Bytes that RE2 may use for one expression: a program that needs more is refused, a search that does is slower."""
_MAX_PROGRAM: Final = 2000
"""Instructions: the worst case is a search that takes each byte through all of them (2 µs for 600)."""
_MAX_REPEAT: Final = 1000
"""RE2's own limit."""

_TOKEN = re.compile(
    rb"\[\^?\]?(?:\[:[a-z]*:\]|\[\.[^\]]*\.\]|\[=[^\]]*=\]|[^\]\[]|\[(?![:.=]))*\]|\\.|\{[0-9]*(?:,[0-9]*)?\}|.",
    re.DOTALL,
)
_ITEM = re.compile(rb"\[:([a-z]*):\]|(\[[.=])|(.)-(.)|(.)", re.DOTALL)
_WORD = re.compile(rb"[0-9A-Za-z_]*")
_DIGITS: Final = b"123456789"
_EVERY: Final = frozenset(range(256))


def _ranges(pairs: bytes) -> frozenset[int]:
    return frozenset(byte for low, high in zip(pairs[::2], pairs[1::2], strict=True) for byte in range(low, high + 1))


_CLASSES: Final = {
    b"alpha": _ranges(b"AZaz"),
    b"digit": _ranges(b"09"),
    b"alnum": _ranges(b"AZaz09"),
    b"upper": _ranges(b"AZ"),
    b"lower": _ranges(b"az"),
    b"space": _ranges(b"\t\r  "),
    b"blank": _ranges(b"\t\t  "),
    b"punct": _ranges(b"!/:@[`{~"),
    b"xdigit": _ranges(b"09AFaf"),
    b"print": _ranges(b" ~"),
    b"graph": _ranges(b"!~"),
    b"cntrl": _ranges(b"\0\x1f\x7f\x7f"),
}
_ESCAPED_CLASSES: Final = {
    rb"\w": _CLASSES[b"alnum"] | {ord("_")},
    rb"\W": _EVERY - _CLASSES[b"alnum"] - {ord("_")},
    rb"\s": _CLASSES[b"space"],
    rb"\S": _EVERY - _CLASSES[b"space"],
}
_ANCHORS: Final = {b"^": rb"\A", b"$": rb"\z", rb"\`": rb"\A", rb"\'": rb"\z", rb"\b": rb"\b", rb"\B": rb"\B"}
_LINE_ANCHORS: Final = {**_ANCHORS, b"^": rb"(?m:^)", b"$": rb"(?m:$)"}


class Pattern:
    """A compiled expression. It may be used from several threads at once.

    Args:
        source: the expression.
        ignore_case: accept ASCII letters of either case (REG_ICASE).
        newline: let ``^`` and ``$`` match at each line, and ``.`` and ``[^...]`` no newline (REG_NEWLINE).
        groups: allow :meth:`find`; without, the other methods are faster where the expression has groups.

    Raises:
        ValueError: it is no expression, RE2 cannot match it, or it is too large.
    """

    __slots__ = ("_ignore_case", "_regexp", "_start", "_word")

    def __init__(
        self, source: bytes, *, ignore_case: bool = False, newline: bool = False, groups: bool = False
    ) -> None:
        if len(source) > _MAX_SOURCE:
            raise ValueError(f"it is longer than {_MAX_SOURCE} bytes")
        self._ignore_case = ignore_case
        self._word: bytes | None = None
        self._start: re.Pattern[bytes] | None = None
        self._regexp: Any = None
        if _WORD.fullmatch(source):  # most modparams name their module by one; RE2 takes 4 ms to import
            self._word = source.lower() if ignore_case else source
            return
        text, is_start = _translate(source, ignore_case=ignore_case, newline=newline)
        if is_start and not groups:
            self._start = re.compile(text)
            return
        re2 = _re2()
        try:
            self._regexp = re2.compile(text, _options(groups=groups))
        except re2.error as error:
            raise ValueError(f"it is too large: {error.args[0].decode(errors='backslashreplace')}") from None
        if self._regexp.programsize > _MAX_PROGRAM:
            raise ValueError("it is too large")

    def fullmatch(self, text: bytes) -> bool:
        """Return whether the whole text matches, as ``^(...)$`` does."""
        if self._word is not None:
            return (text.lower() if self._ignore_case else text) == self._word
        return (self._start or self._regexp).fullmatch(text) is not None

    def search(self, text: bytes) -> bool:
        """Return whether the expression matches anywhere in a text."""
        if self._start:
            return self._start.match(text) is not None
        if self._word is not None:
            return self._word in (text.lower() if self._ignore_case else text)
        return self._regexp.search(text) is not None

    def find(self, text: bytes, start: int = 0) -> list[Span] | None:
        """Return the first match from ``start`` on, the longest one there: its span, and those of its groups."""
        if self._word is not None:
            at = (text.lower() if self._ignore_case else text).find(self._word, start)
            return None if at < 0 else [(at, at + len(self._word))]
        found = self._regexp.search(text, start)
        return None if found is None else [found.span(group) for group in range(self._regexp.groups + 1)]


@cache
def _re2() -> Any:
    return import_module("re2")


def _options(*, groups: bool) -> Any:
    options = _re2().Options()
    options.encoding = options.Encoding.LATIN1
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    options.never_capture = not groups
    options.longest_match = groups  # where only the match's existence counts, the first will do
    return options


@attrs.define
class _Group:
    """A group that is being read: the branches that ``|`` has ended, and the items of the current one."""

    branches: list[bytes] = attrs.field(factory=list)
    items: list[bytes] = attrs.field(factory=list)

    def end_branch(self) -> None:
        self.branches.append(b"".join(self.items))
        self.items = []


def _translate(source: bytes, *, ignore_case: bool, newline: bool) -> tuple[bytes, bool]:
    """Return an expression for RE2, and whether it can match at the start of a text only and repeats nothing.

    Of the latter kind Python's ``re`` is fast too, and reads what is returned here as RE2 does.
    """
    anchors = _LINE_ANCHORS if newline else _ANCHORS
    stack = [_Group()]
    plain = True
    for token in _TOKEN.findall(source):
        group = stack[-1]
        if token == b"(":
            plain = False
            stack.append(_Group())
        elif token == b")" and len(stack) > 1:
            stack.pop().end_branch()
            stack[-1].items.append(b"(" + b"|".join(group.branches) + b")")
        elif token == b"|":
            group.end_branch()
        elif token in (b"*", b"+", b"?") or token[:1] == b"{":
            plain = False
            if not group.items or group.items[-1] in anchors.values():
                raise ValueError(f"there is nothing that {_shown(token)} could repeat")
            group.items[-1] = b"(?:" + group.items[-1] + _quantifier(token) + b")"
        elif token in anchors:
            plain = plain and anchors[token] == rb"\A"  # the others differ in re
            group.items.append(anchors[token])
        else:
            group.items.append(_atom(token, ignore_case, newline))
    if len(stack) > 1:
        raise ValueError("a ( has no )")
    stack[0].end_branch()
    branches = stack[0].branches
    return b"|".join(branches), plain and all(branch.startswith(rb"\A") for branch in branches)


def _quantifier(token: bytes) -> bytes:
    if token[:1] != b"{":
        return token
    if token == b"{":
        raise ValueError(r"a { begins no interval, as {2} or {1,3}; a brace itself is written \{")
    low, comma, high = token[1:-1].partition(b",")
    if not (low or comma):
        raise ValueError("{} has no number")
    least, most = int(low or 0), int(high or 0)
    if high and most < least:
        raise ValueError(f"{_shown(token)} allows nothing")
    if max(least, most) > _MAX_REPEAT:
        raise ValueError(f"{_shown(token)} repeats more than {_MAX_REPEAT} times")
    return b"{%d%b%b}" % (least, comma, high)


def _atom(token: bytes, ignore_case: bool, newline: bool) -> bytes:
    if token in (b"[", b"\\"):
        raise ValueError(f"{_shown(token)} has no end")
    if token == b".":
        held = _EVERY - {10} if newline else _EVERY
    elif token[:1] == b"[":
        held = _bracket(token, ignore_case, newline)
    elif token in _ESCAPED_CLASSES:
        held = _ESCAPED_CLASSES[token]
    elif token in (rb"\<", rb"\>"):
        raise ValueError(rf"{_shown(token)} is not supported; write \b, which matches at both ends of a word")
    elif token[:1] == b"\\" and token[1:] in _DIGITS:
        raise ValueError(f"{_shown(token)} refers back to a group, which is not supported; write out what it may be")
    else:
        held = _fold(frozenset(token[-1:]), ignore_case)
    return _class(held)


def _bracket(token: bytes, ignore_case: bool, newline: bool) -> frozenset[int]:
    negated = token[1:2] == b"^"
    held: set[int] = set()
    for name, collating, low, high, single in _ITEM.findall(token[2 if negated else 1 : -1]):
        if collating:
            raise ValueError(f"{_shown(token)}: [. and [= are not supported; write the characters themselves")
        if low > high:
            raise ValueError(f"the range {_shown(low)}-{_shown(high)} is empty")
        if low:
            held.update(range(low[0], high[0] + 1))
        elif single:
            held.update(single)
        elif name in _CLASSES:
            held |= _CLASSES[name]
        else:
            raise ValueError(f"there is no class [:{_shown(name)}:]")
    folded = _fold(frozenset(held), ignore_case)
    if not negated:
        return folded
    return _EVERY - folded - ({10} if newline else set())


def _fold(held: frozenset[int], ignore_case: bool) -> frozenset[int]:
    return frozenset(bytes(held).lower() + bytes(held).upper()) if ignore_case else held


def _class(held: frozenset[int]) -> bytes:
    """Return a set of bytes as RE2 and ``re`` both read it."""
    if len(held) == 1:
        return re.escape(bytes(held))
    ranges = []
    first, last = -1, -2
    for byte in [*sorted(held), 512]:
        if byte != last + 1:
            if first >= 0:
                ranges.append(rb"\x%02x-\x%02x" % (first, last))
            first = byte
        last = byte
    return b"[" + (b"".join(ranges) or rb"^\x00-\xff") + b"]"


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")

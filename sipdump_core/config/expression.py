"""Expressions of ``#!ifexp`` and ``#!defexp``: numbers, strings, defines and the operators of C.

Kamailio has them since 5.7 (src/core/utils/snexpr.h; pp_ifexp_eval and pp_defexp_eval in src/core/ppcfg.c). A number is
a C float. The left operand of a comparison or of ``+`` decides whether it is about numbers or strings; the other
operators take numbers. Where Kamailio logs an error and goes on without a value, ValueError is raised here.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

__all__ = ["Value", "evaluate_expression", "is_true", "printed"]

Value = float | str

_MAX_TOKENS: Final = 200
_MAX_STRING: Final = 65_535
_INT_MAX: Final = 2**31 - 1
_TOKEN = re.compile(
    r"""
    (?P<blank>    \s+ | \#.* )
  | (?P<number>   [0-9][0-9.]* )
  | (?P<string>   "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
  | (?P<name>     (?:[^\x00-\x3f^|]|\$)(?:[^\x00-\x3f^|]|[$\#0-9])* )
  | (?P<bracket>  [()] )
  | (?P<operator> \*\* | << | >> | <= | >= | == | != | && | \|\| | [-*/%+<>&|^=,!] )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}
_UNARY: Final = {"-": "-u", "!": "!u", "^": "^u"}
_RANKS: Final = {
    **dict.fromkeys(_UNARY.values(), 1),
    **dict.fromkeys(("**", "/", "*", "%"), 2),
    **dict.fromkeys(("+", "-"), 3),
    **dict.fromkeys(("<<", ">>"), 4),
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), 5),
    **{operator: 6 + rank for rank, operator in enumerate(("&", "|", "^", "&&", "||", "=", ","))},
}
"""What binds tighter has a lower rank."""
_FROM_THE_RIGHT: Final = {*_UNARY.values(), "**", "=", ","}
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
}
_OF_INTEGERS: Final[Mapping[str, Callable[[int, int], int]]] = {
    "<<": lambda left, right: left << (right & 31),
    ">>": lambda left, right: left >> (right & 31),
    "&": lambda left, right: left & right,
    "|": lambda left, right: left | right,
    "^": lambda left, right: left ^ right,
}
_OF_NUMBERS: Final[Mapping[str, Callable[[float, float], float]]] = {
    "**": math.pow,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "%": math.fmod,
    "-": lambda left, right: left - right,
}


def evaluate_expression(text: str, defines: Mapping[str, str]) -> Value:
    """Return the value of an expression.

    Args:
        text: the expression, on one line.
        defines: the values of names: one without a value is 1, a name that is missing is 0.

    Raises:
        ValueError: it is no expression, or has no value.
    """
    return _Evaluation(defines).value(_parse(text.strip(" \t\r\n")))


def is_true(value: Value) -> bool:
    """Return whether a value makes ``#!ifexp`` hold: a number other than 0, or a string that is not empty."""
    return bool(value)


def printed(value: Value) -> str:
    """Return a value as ``#!defexp`` defines it: a number without its fraction, as an unsigned integer of 64 bits."""
    if isinstance(value, str):
        return value
    return str(int(value) % 2**64 if math.isfinite(value) else 2**63)


# A tree is a constant, ("name", NAME), or an operator with one or two trees.
_Tree = Any


def _parse(text: str) -> _Tree:
    words = list(_words(text))
    if not words:
        return 0.0
    parser = _Parser(words)
    tree = parser.tree()
    if parser.words:
        raise ValueError(f"an operator is missing before {parser.words[0][1]}")
    return tree


def _words(text: str) -> Iterator[tuple[str, str]]:
    at = count = 0
    after_operand = after_sign = False
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"it is not understood from here: {text[at : at + 40]}")
        at, count = found.end(), count + 1
        if count > _MAX_TOKENS:
            raise ValueError("it is too long")
        kind, word = found.lastgroup or "", found[0]
        if kind != "blank":
            after_sign = word in _UNARY and not after_operand
            after_operand = kind not in ("operator", "bracket") or word == ")"
            yield kind, word
        elif after_sign and word.isspace() and len(word) == 1:
            raise ValueError("a single blank may not follow -, ! or ^ as a sign")


class _Parser:
    """Parses by precedence; ``words`` are those that are left."""

    def __init__(self, words: list[tuple[str, str]]) -> None:
        self.words = words

    def tree(self, highest: int = _RANKS[","]) -> _Tree:
        """Parse an expression of operators up to a rank."""
        left = self._operand()
        while self.words and _RANKS.get(self.words[0][1], highest + 1) <= highest:
            _, word = self.words.pop(0)
            rank = _RANKS[word]
            right = self.tree(rank if word in _FROM_THE_RIGHT else rank - 1)
            if word == "=" and not (isinstance(left, tuple) and left[0] == "name"):
                raise ValueError("the left side of = must be a name")
            left = (word, left, right)
        return left

    def _operand(self) -> _Tree:
        if not self.words:
            raise ValueError("an operand is missing at the end")
        kind, word = self.words.pop(0)
        if kind == "name":
            return ("name", word)
        if kind == "string":
            return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), word[1:-1])
        if kind == "number":
            number = _read_number(word)
            if math.isnan(number):
                raise ValueError(f"{word} is not a number")
            return number
        if word in _UNARY:
            return (_UNARY[word], self.tree(1))
        if word != "(":
            raise ValueError(f"an operand is missing before {word}")
        tree = self.tree()
        if not self.words or self.words.pop(0)[1] != ")":
            raise ValueError("a ( has no )")
        return tree


class _Evaluation:
    """Evaluates trees; ``=`` gives a name another value for the rest of the expression."""

    def __init__(self, defines: Mapping[str, str]) -> None:
        self._defines = defines
        self._assigned: dict[str, Value] = {}

    def value(self, tree: _Tree) -> Value:
        if not isinstance(tree, tuple):
            return tree  # type: ignore[no-any-return]  # a constant
        operator, *operands = tree
        if operator == "name":
            return self._named(operands[0])
        if operator in ("&&", "||"):
            return self._logical(operator, *operands)
        if operator == ",":
            with suppress(ValueError):  # the left side counts for what it assigns only
                self.value(operands[0])
            return self.value(operands[1])
        if operator == "=":
            value = self._assigned[operands[0][1]] = self.value(operands[1])
            return value
        left, *right = (self.value(operand) for operand in operands)
        return _apply(operator, left, *right)

    def _named(self, name: str) -> Value:
        if name in self._assigned:
            return self._assigned[name]
        value = self._defines.get(name)
        if not value:
            return 0.0 if value is None else 1.0
        if len(value) > 1 and value[0] in "\"'" and value[0] == value[-1]:
            return value[1:-1]
        return value

    def _logical(self, operator: str, left: _Tree, right: _Tree) -> float:
        for operand in (left, right):
            value = self.value(operand)
            number = 1.0 if isinstance(value, str) else value  # Kamailio reads a string's address as a number
            if bool(number) != (operator == "&&"):
                return number
        return number


def _apply(operator: str, left: Value, right: Value = 0.0) -> Value:
    if operator == "+" or operator in _COMPARE:
        return _join(operator, left, right)
    return _float(_calculate(operator, _number(operator, left), _number(operator, right)))


def _join(operator: str, left: Value, right: Value) -> Value:
    if isinstance(left, str):
        right = right if isinstance(right, str) else _shown(right)
        if operator != "+":
            return float(_COMPARE[operator](_bytes(left), _bytes(right)))
        if len(left) + len(right) > _MAX_STRING:
            raise ValueError(f"a string is longer than {_MAX_STRING} characters")
        return left + right
    right = _read_number(right) if isinstance(right, str) else right
    return _float(left + right) if operator == "+" else float(_COMPARE[operator](left, right))


def _calculate(operator: str, left: float, right: float) -> float:
    if operator in _OF_INTEGERS:
        return (_OF_INTEGERS[operator](_integer(left), _integer(right)) + 2**31) % 2**32 - 2**31
    if operator == "-u":
        return -left
    if operator == "!u":
        return not left
    if operator == "^u":
        return ~_integer(left)
    if operator == "/" and not right:
        raise ValueError("it divides by 0")
    try:
        return _OF_NUMBERS[operator](left, right)
    except OverflowError:
        return math.inf
    except ValueError:  # from math, where C has NaN
        return math.nan


def _number(operator: str, value: Value) -> float:
    if isinstance(value, float):
        return value
    raise ValueError(f"{operator[0]} takes no string")


def _read_number(text: str) -> float:
    """Read digits with a point among them, in the steps of a C float; NaN for anything else."""
    if not re.fullmatch(r"[0-9]*\.?[0-9]*", text, re.ASCII) or text in ("", "."):
        return math.nan
    whole, _, fraction = text.partition(".")
    number = 0.0
    for digit in whole + fraction:
        number = _float(_float(number * 10) + int(digit))
    for _ in fraction:
        number = _float(number / 10)
    return number


def _float(number: float) -> float:
    """Round to a C float."""
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)


def _integer(number: float) -> int:
    if math.isnan(number):
        return 0
    if math.isinf(number):
        return _INT_MAX if number > 0 else -_INT_MAX
    return int(number) if abs(number) <= _INT_MAX else -_INT_MAX - 1  # as x86 converts it


def _shown(number: float) -> str:
    return f"{number:.4g}" if not number.is_integer() else str(int(number))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

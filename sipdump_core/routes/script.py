"""``event_route[sipdump:msg]`` in Kamailio's script language: what such routes use of it, compiled to closures.

The subset is defined in ``docs/event_route.md``; anything outside it is refused when the route is compiled. What
statements and operators mean is as in Kamailio 5.6 (src/core/cfg.y, rvalue.c, action.c; src/modules/xlog), except that
``drop`` does what the documentation of its sipdump module promises. A compiled route raises on no record.
"""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import attrs
from lark import Token, Tree

from sipdump_core.config.route_block import RouteBlock
from sipdump_core.config.substitution import unquote
from sipdump_core.log import Event, log
from sipdump_core.posix_regex import Pattern
from sipdump_core.record import Record
from sipdump_core.routes.event_route import DROP, Callback
from sipdump_core.routes.script_syntax import INSTEAD, SUBSET, children, parse_route, route_error
from sipdump_core.routes.values import Format, Getter, Value, encode, text_of, to_int
from sipdump_core.routes.variables import compile_format, compile_pv

__all__ = ["compile_route"]

_MAX_DEPTH: Final = 40
_LEVELS: Final = {
    "A": logging.CRITICAL,
    "B": logging.CRITICAL,
    "C": logging.CRITICAL,
    "E": logging.ERROR,
    "W": logging.WARNING,
    "N": logging.INFO,
    "I": logging.INFO,
    "D": logging.DEBUG,
}
"""The daemon's level for the third character of a level's name, which is what Kamailio looks at."""
_LOGS: Final = {
    "xalert": "A",
    "xbug": "B",
    "xcrit": "C",
    "xerr": "E",
    "xwarn": "W",
    "xnotice": "N",
    "xinfo": "I",
    "xdbg": "D",
    "xdbgl": "D",
}
_GO_ON, _STOP, _DROP = range(3)

Run = Callable[[Record], int]


def compile_route(block: RouteBlock, *, parse_call_id: bool) -> Callback:
    """Compile a route.

    Args:
        block: its text and places.
        parse_call_id: whether ``$sipdump(call_id)`` has a value.

    Returns:
        A callback that returns ``DROP`` where the route drops the record; it never raises.

    Raises:
        ConfigError: a statement is outside the subset; the error names its place and what to use instead.
    """
    tree = parse_route(block)
    run = _Compiler(block, parse_call_id).block(tree.children, 0)
    return lambda record: DROP if run(record) == _DROP else None


@attrs.frozen
class _Expression:
    """A compiled expression."""

    get: Getter
    kind: type[int] | type[bytes] | None
    """The type that it is known to have; None for a variable, which may have either, or be null."""
    constant: Value = None
    null: bool = False
    """Whether it is the variable ``$null``."""

    def integer(self) -> Callable[[Record], int]:
        """Return it as Kamailio converts it to a number: a non-numeric string counts as 0; bool is a number."""
        if self.constant is not None:
            constant = _to_number(self.constant)
            return lambda _: constant
        get = self.get
        if self.kind is int:
            return get  # type: ignore[return-value]

        def integer(record: Record) -> int:
            value = get(record)
            return value if isinstance(value, int) else _to_number(value)

        return integer

    def string(self) -> Callable[[Record], bytes]:
        """Return it as a string: null is empty."""
        get = self.get
        return lambda record: text_of(get(record))


def _to_number(value: Value) -> int:
    if isinstance(value, int):
        return value
    if not value:
        return 0
    number = to_int(value)
    if number is None and re.fullmatch(rb"0[xX][0-9a-fA-F]{1,8}", value):
        number = (int(value, 16) ^ 0x80000000) - 0x80000000  # it becomes a C int
    return number or 0


class _Compiler:
    """Makes closures of a route's syntax tree."""

    def __init__(self, block: RouteBlock, parse_call_id: bool) -> None:
        self._block = block
        self._parse_call_id = parse_call_id

    def block(self, statements: Sequence[Any], depth: int) -> Run:
        if depth > _MAX_DEPTH and statements:
            self._refuse(statements[0], f"statements are nested deeper than {_MAX_DEPTH}")
        runs = [self._statement(statement, depth) for statement in statements]
        if not runs:
            return lambda _: _GO_ON
        if len(runs) == 1:
            return runs[0]

        def run(record: Record) -> int:
            for run_one in runs:
                code = run_one(record)
                if code:
                    return code
            return _GO_ON

        return run

    def _statement(self, statement: Tree[Token], depth: int) -> Run:
        if statement.data == "if":
            return self._if(statement, depth)
        if statement.data == "call":
            return self._call(statement)
        _, *code = children(statement)
        for expression in code:
            self._expression(expression, depth)  # its value means nothing, but it has to be correct
        return (lambda _: _DROP) if statement.data == "drop" else (lambda _: _STOP)

    def _if(self, statement: Tree[Token], depth: int) -> Run:
        # a chain of else if is one statement with several conditions, or a long one would be nested deep
        cases = []
        otherwise: Run | None = None
        while True:
            _, condition, body, *rest = children(statement)
            cases.append((self._truth(condition, depth), self.block(children(body), depth + 1)))
            following = children(rest[1]) if rest else []
            if len(following) == 1 and following[0].data == "if":
                statement = following[0]
                continue
            if rest:
                otherwise = self.block(following, depth + 1)
            break
        if len(cases) == 1:
            ((holds, then),) = cases
            if otherwise is None:
                return lambda record: then(record) if holds(record) > 0 else _GO_ON
            other = otherwise
            return lambda record: then(record) if holds(record) > 0 else other(record)

        def run(record: Record) -> int:
            for holds, then in cases:
                if holds(record) > 0:
                    return then(record)
            return otherwise(record) if otherwise else _GO_ON

        return run

    def _call(self, statement: Tree[Token]) -> Run:
        name, *arguments = children(statement)
        if name in _LOGS:
            if len(arguments) != 1:
                self._refuse(name, f"{name} takes one text")
            level, text = _LOGS[name], arguments[0]
        elif name in ("xlog", "xlogl"):
            if len(arguments) == 3:
                self._refuse(name, f"the log has no facilities; use {name}(level, text)")
            if len(arguments) not in (1, 2):
                self._refuse(name, f"{name} takes a text, or a level and a text")
            level = self._level(arguments[0]) if len(arguments) == 2 else "E"
            text = arguments[-1]
        else:
            self._refuse(name, f"{name} is not supported; {INSTEAD.get(name, SUBSET)}")
        prefix = b""
        if name in ("xlogl", "xdbgl"):
            prefix = self._block.place(name.start_pos or 0).rsplit(":", 2)[1].encode() + b":"
        return _log(_LEVELS[level], prefix, self._format(text))

    def _level(self, argument: Any) -> str:
        level = self._string(argument)
        if level[2:3] not in _LEVELS or not level.startswith("L_"):
            names = "L_ALERT, L_BUG, L_CRIT, L_ERR, L_WARN, L_NOTICE, L_INFO, L_DBG"
            self._refuse(argument, f"{level or 'an empty string'} is no level; there are {names}")
        return level[2]

    def _string(self, argument: Any) -> str:
        if not (isinstance(argument, Token) and argument.type == "STRING"):
            self._refuse(argument, "this must be a string in quotes; variables are written inside it")
        return unquote(argument)

    def _format(self, argument: Any) -> Format:
        text = self._string(argument)
        try:
            return compile_format(text, parse_call_id=self._parse_call_id)
        except ValueError as error:
            self._refuse(argument, str(error))

    def _truth(self, expression: Any, depth: int) -> Callable[[Record], int]:
        """Compile a condition: it holds where it is over 0, as Kamailio's functions return -1 for false."""
        return self._expression(expression, depth).integer()

    def _expression(self, expression: Any, depth: int) -> _Expression:
        if depth > _MAX_DEPTH:
            self._refuse(expression, f"this is nested deeper than {_MAX_DEPTH}")
        if isinstance(expression, Token):
            return self._leaf(expression)
        if expression.data == "number":
            return self._number(expression)
        if expression.data in ("or", "and"):
            return self._chain(expression, depth + 1)
        if expression.data == "not":
            operand = self._number_of(expression.children[1], depth + 1)
            return _Expression(lambda record: not operand(record), int)
        if expression.data in ("function", "defined"):
            name, operand_tree = children(expression)
            return _function(name, self._expression(operand_tree, depth + 1))
        left_tree, operator, right_tree = children(expression)
        if operator.type == "MATCH":
            return self._match(left_tree, operator, right_tree, depth + 1)
        if operator.type == "ORDER" or operator in ("ieq", "ine"):
            left_number = self._number_of(left_tree, depth + 1)
            right_number = self._number_of(right_tree, depth + 1)
            return _Expression(_ORDERS[operator](left_number, right_number), int)
        left, right = self._expression(left_tree, depth + 1), self._expression(right_tree, depth + 1)
        if operator in ("==", "!=") and left.kind is int and right.kind is bytes:
            self._refuse(right_tree, "a number is compared with a string; write both as numbers, or both as strings")
        equal = _strings_equal(left, right) if operator in ("eq", "ne") else _equal(left, right, operator)
        if operator in ("==", "eq"):
            return _Expression(equal, int)
        return _Expression(lambda record: not equal(record), int)

    def _leaf(self, token: Token) -> _Expression:
        if token.type == "STRING":
            constant = encode(unquote(token))
            return _Expression(lambda _: constant, bytes, constant)
        try:
            get = compile_pv(token, parse_call_id=self._parse_call_id)
        except ValueError as error:
            self._refuse(token, str(error))
        return _Expression(get, None, null=token in ("$null", "$(null)"))

    def _number(self, tree: Tree[Token]) -> _Expression:
        *minus, token = children(tree)
        number = _read_number(token) if token.type == "NUMBER" else int(token.type == "YES")
        if number is None or number > 0x7FFFFFFF:
            self._refuse(tree, f"{token} does not fit into 32 bits")
        number = -number if minus else number
        return _Expression(lambda _: number, int, number)

    def _number_of(self, tree: Any, depth: int) -> Callable[[Record], int]:
        """Compile what must be a number; a variable may be one, a string cannot."""
        expression = self._expression(tree, depth)
        if expression.kind is bytes:
            self._refuse(tree, "this is a string, where a number is needed")
        return expression.integer()

    def _chain(self, tree: Tree[Token], depth: int) -> _Expression:
        # the operators are between them
        parts = [self._expression(part, depth) for part in children(tree)[::2]]
        for part, place in zip(parts, children(tree)[::2], strict=True):
            if part.kind is bytes:
                self._refuse(place, "this is a string, where a number is needed")
        constants = [_to_number(part.constant) for part in parts if part.constant is not None]
        if len(constants) == len(parts):
            truth = int(all(constants) if tree.data == "and" else any(constants))
            return _Expression(lambda _: truth, int, truth)
        # Kamailio leaves these out; a single operand that remains keeps its value, which may be negative
        neutral = 1 if tree.data == "and" else 0
        operands = [part.integer() for part in parts if part.constant != neutral]
        if len(operands) == 1:
            return _Expression(operands[0], int)
        if tree.data == "and":
            if len(operands) == 2:
                first, second = operands
                return _Expression(lambda record: bool(first(record) and second(record)), int)
            return _Expression(lambda record: all(operand(record) for operand in operands), int)
        if len(operands) == 2:
            first, second = operands
            return _Expression(lambda record: bool(first(record) or second(record)), int)
        return _Expression(lambda record: any(operand(record) for operand in operands), int)

    def _match(self, left_tree: Any, operator: Token, right_tree: Any, depth: int) -> _Expression:
        left_side = self._expression(left_tree, depth)
        if left_side.kind is int:
            self._refuse(left_tree, f"this is a number; {operator} needs a string on its left")
        left = left_side.string()
        if not (isinstance(right_tree, Token) and right_tree.type == "STRING"):
            self._refuse(right_tree, f"the right side of {operator} must be a regular expression in quotes")
        try:
            search = Pattern(encode(unquote(right_tree)), ignore_case=True).search
        except ValueError as error:
            self._refuse(right_tree, f"this is no regular expression that is supported: {error}")
        if operator == "=~":
            return _Expression(lambda record: search(left(record)), int)
        return _Expression(lambda record: not search(left(record)), int)

    def _refuse(self, where: Any, message: str) -> NoReturn:
        offset = where.start_pos if isinstance(where, Token) else where.meta.start_pos
        raise route_error(self._block, offset or 0, message)


def _read_number(text: str) -> int | None:
    try:
        if text.endswith("b") and not text.startswith("0x"):
            return int(text[:-1], 2)
        octal = len(text) > 1 and text[0] == "0" and text.isdigit()
        return int(text, 8 if octal else 0) if len(text) < 20 else None
    except ValueError:
        return None


def _log(level: int, prefix: bytes, text: Format) -> Run:
    def run(record: Record) -> int:
        if log.isEnabledFor(level):
            line = (prefix + text(record)).removesuffix(b"\n")
            log.log(level, Event(line.decode("utf-8", "backslashreplace")))
        return _GO_ON

    return run


def _function(name: Token, operand: _Expression) -> _Expression:
    get = operand.get
    if name == "strlen":
        return _Expression(lambda record: len(text_of(get(record))), int)
    if name == "strempty":
        return _Expression(lambda record: not text_of(get(record)), int)
    return _Expression(lambda record: get(record) is not None, int)


Numbers = Callable[[Record], int]
_ORDERS: Final[dict[str, Callable[[Numbers, Numbers], Getter]]] = {
    "<": lambda left, right: lambda record: left(record) < right(record),
    "<=": lambda left, right: lambda record: left(record) <= right(record),
    ">": lambda left, right: lambda record: left(record) > right(record),
    ">=": lambda left, right: lambda record: left(record) >= right(record),
    "ieq": lambda left, right: lambda record: left(record) == right(record),
    "ine": lambda left, right: lambda record: left(record) != right(record),
}


def _strings_equal(left: _Expression, right: _Expression) -> Getter:
    left_string, right_string = left.string(), right.string()
    return lambda record: left_string(record) == right_string(record)


def _equal(left: _Expression, right: _Expression, operator: str) -> Getter:
    """Compare as Kamailio does: the left side says whether as numbers or as strings; if it is null, the right side."""
    if right.null:
        get = left.get
        return lambda record: get(record) is None
    if operator == "==" and b"" in (left.constant, right.constant):
        return _strings_equal(left, right)
    if left.kind is bytes:
        return _strings_equal(left, right)
    left_number, right_number = left.integer(), right.integer()
    if left.kind is int:
        return lambda record: left_number(record) == right_number(record)
    get, right_string, right_get = left.get, right.string(), right.get
    if right.constant is not None:
        string, number = text_of(right.constant), _to_number(right.constant)
        if_null = number == 0 if right.kind is int else string == b""

        def equal_constant(record: Record) -> bool:
            value = get(record)
            if isinstance(value, bytes):
                return value == string
            return if_null if value is None else value == number

        return equal_constant

    def equal(record: Record) -> bool:
        value = get(record)
        if isinstance(value, bytes):
            return value == right_string(record)
        if value is None:
            other = right_get(record)
            return other == 0 if isinstance(other, int) else not other
        return value == right_number(record)

    return equal

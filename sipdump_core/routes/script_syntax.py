"""The syntax of event routes: from a text to a tree, or to an error that says what to write instead."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final, NoReturn

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedToken
from lark.lexer import Lexer

from sipdump_core.config.route_block import RouteBlock
from sipdump_core.config.variable import variable_end
from sipdump_core.errors import ConfigError

__all__ = ["INSTEAD", "SUBSET", "children", "parse_route", "route_error"]

_GRAMMAR = r"""
start: _statement*
_statement: if | call _SEMICOLON | drop _SEMICOLON | exit _SEMICOLON | _SEMICOLON
if: IF _expression body (ELSE body)?
body: _statement | _LBRACE _statement* _RBRACE
call: NAME _LPAR (_expression (_COMMA _expression)*)? _RPAR
drop: DROP _code?
exit: (EXIT | RETURN) _code?
_code: _LPAR _RPAR | _expression

_expression: or | _and
or: _and (OR _and)+
_and: and | _equal
and: _equal (AND _equal)+
_equal: equal | _order
equal: _equal (EQUAL | MATCH) _order
_order: order | _unary
order: _order ORDER _unary
_unary: not | _atom
not: NOT _unary
_atom: number | STRING | VARIABLE | function | defined | _LPAR _expression _RPAR
number: MINUS? (NUMBER | YES | NO)
function: FUNCTION _LPAR _expression _RPAR
defined: DEFINED _unary

%declare IF ELSE DROP EXIT RETURN OR AND NOT FUNCTION DEFINED YES NO EQUAL MATCH ORDER MINUS NUMBER NAME STRING VARIABLE
%declare _SEMICOLON _COMMA _LPAR _RPAR _LBRACE _RBRACE OTHER
"""
_KEYWORDS: Final = {
    "if": "IF",
    "else": "ELSE",
    "drop": "DROP",
    "exit": "EXIT",
    "return": "RETURN",
    "or": "OR",
    "and": "AND",
    "not": "NOT",
    "strlen": "FUNCTION",
    "strempty": "FUNCTION",
    "defined": "DEFINED",
    **dict.fromkeys(("yes", "true", "on", "enable"), "YES"),
    **dict.fromkeys(("no", "false", "off", "disable"), "NO"),
    **dict.fromkeys(("eq", "ne", "ieq", "ine"), "EQUAL"),
}
_TOKEN = re.compile(
    r"""
    (?P<space>      \s+ | \#[^\n]* | //[^\n]* | /\*.*?\*/ )
  | (?P<VARIABLE>   \$(?=[\w(.?$]) )
  | (?P<STRING>     '[^']*' | "(?:\\.|[^"\\])*"(?:\s*"(?:\\.|[^"\\])*")* )
  | (?P<NUMBER>     (?:0x[0-9a-fA-F]+|[01]+b|[0-9]+)\b )
  | (?P<NAME>       [A-Za-z_]\w* )
  | (?P<MATCH>      =~ | !~ )
  | (?P<EQUAL>      == | != )
  | (?P<ORDER>      <= | >= | < | > )
  | (?P<OR>         \|\| )
  | (?P<AND>        && )
  | (?P<NOT>        ! )
  | (?P<MINUS>      - )
  | (?P<_SEMICOLON> ; )
  | (?P<_COMMA>     , )
  | (?P<_LPAR>      \( )
  | (?P<_RPAR>      \) )
  | (?P<_LBRACE>    \{ )
  | (?P<_RBRACE>    \} )
  | (?P<OTHER>      [\w.?]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)

_KEMI: Final = 'a callback in Python or Lua can do more: modparam("sipdump", "event_callback", "...")'
INSTEAD: Final = {
    "xlogm": "use xlog(level, text): there is no parsed message whose method could be filtered",
    "log": "use xlog(level, text)",
    "sipdump_send": "a record is stored anyway, unless it is dropped; " + _KEMI,
    "python_exec": "name the function with event_callback, and load the script with sipdump_kemi's load",
    "lua_run": "name the function with event_callback, and load the script with sipdump_kemi's load",
    "route": "write the statements of that route here",
    "break": "use return or exit",
    "switch": "use if and else if",
    "while": _KEMI,
    "for": _KEMI,
    "is_method": 'use if ($sipdump(buf) =~ "^INVITE ")',
    "pv_printf": "put the variables into the text of xlog",
}
SUBSET: Final = "the statements are xlog(...) and its family, drop, exit, return, and if/else"


def parse_route(block: RouteBlock) -> Tree[Token]:
    """Parse the text of a route.

    Raises:
        ConfigError: it is outside the subset; the error names the place and what to use instead.
    """
    try:
        return _parser().parse(block.text)
    except UnexpectedToken as error:
        _refuse_syntax(block, error)


def children(tree: Tree[Token]) -> list[Any]:
    """Return the children of a node: tokens and nodes, as the grammar says."""
    return list(tree.children)


class _RouteLexer(Lexer):
    """Splits the text of a route into words."""

    __future_interface__ = 0

    def __init__(self, lexer_conf: Any) -> None:
        """Take nothing from lark's configuration."""

    def lex(self, data: Any) -> Iterator[Token]:  # type: ignore[override]  # lark passes on what was given to parse
        return _tokens(data)


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while found := _TOKEN.match(text, at):
        kind, start, at = found.lastgroup or "", at, found.end()
        if kind == "VARIABLE":
            at = variable_end(text, start)
            if at < 0:
                kind, at = "OTHER", len(text)
        if kind != "space":
            word = text[start:at]
            yield Token(_KEYWORDS.get(word, kind), word, start_pos=start, end_pos=at)


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer=_RouteLexer, propagate_positions=True)


_MEANT = {
    "src_ip": "$sipdump(src_ip)",
    "dst_ip": "$sipdump(dst_ip)",
    "src_port": "$sipdump(src_port)",
    "dst_port": "$sipdump(dst_port)",
    "proto": "$sipdump(sproto)",
    "af": "$sipdump(af)",
    "method": '$sipdump(buf) =~ "^INVITE "',
    "uri": '$sipdump(buf) =~ "^INVITE sip:..."',
    "msg": "$sipdump(len) for msg:len",
    "null": "$null",
    **{
        f"L_{level}": f'"L_{level}", in quotes'
        for level in ("ALERT", "BUG", "CRIT", "ERR", "WARN", "NOTICE", "INFO", "DBG")
    },
}


def _refuse_syntax(block: RouteBlock, error: UnexpectedToken) -> NoReturn:
    """Report what is wrong where the parser could not go on, by the word there and how its statement begins."""
    text, here_word = block.text, str(error.token)
    if error.token.type == "$END":
        end = max(len(text.rstrip()) - 1, 0)
        raise route_error(block, end, "the route ends in the middle of a statement; is a ; or a } missing?")
    at = error.token.start_pos or 0
    words = _statement_before(text, at)
    for word in (*words[:1], here_word):
        if word in INSTEAD:
            raise route_error(block, at, f"{word} is not supported; {INSTEAD[word]}")
    behind = text[at : at + 200].removeprefix(here_word).lstrip()
    if not words and here_word.startswith("$"):
        raise route_error(
            block, at, f"assignments are not supported; print and compare the variables themselves. {_KEMI}"
        )
    if here_word == "=":
        raise route_error(block, at, "there are no assignments; == compares")
    if here_word in ("+", "-", "*", "/", "%", "&", "|", "^", "~", "."):
        raise route_error(block, at, "there is no arithmetic here; the operators are == != < > <= >= =~ !~ && || !")
    if here_word == "[":
        raise route_error(block, at, "variables have no index here")
    slip = _slip(here_word, words)
    if slip:
        raise route_error(block, at, slip)
    if "_SEMICOLON" in (error.accepts or error.expected):
        raise route_error(block, at, f"a ; is missing before {here_word!r}")
    if re.fullmatch(r"\w+", here_word) and behind.startswith("("):
        raise route_error(
            block, at, f"{here_word} is not possible here: no function has a value in a condition; {SUBSET}"
        )
    raise route_error(block, at, f"this is not understood: {text[at : at + 30].splitlines()[0]}; {SUBSET}")


def _slip(word: str, words: Sequence[str]) -> str | None:
    """Return the message for a common slip, by the word where it shows and those before it."""
    if word == "else" or words[:1] == ["else"]:
        return "there is no if before this else"
    if word == "{" and not words:
        return "a block is possible only after if and else"
    if re.match(r"\.\d", word):
        return "this is not a number; write an address in quotes"
    return f"{word} is not known here; use {_MEANT[word]}" if word in _MEANT else None


def _statement_before(text: str, end: int) -> list[str]:
    """Return the words from the beginning of the statement that is at an offset up to there."""
    words: list[str] = []
    for token in _tokens(text[:end]):
        if token in (";", "{", "}"):
            words.clear()
        else:
            words.append(str(token))
    return words


def route_error(block: RouteBlock, offset: int, message: str) -> ConfigError:
    """Make the error that points at a character of a route and shows its line."""
    line = block.line(offset).strip()
    return ConfigError(f"event_route[{block.name}]: {message}; in: {line[:200]}", block.place(offset))

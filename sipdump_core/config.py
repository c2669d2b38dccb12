"""Reading configuration: ``modparam`` lines in Kamailio's syntax, and the ``--modparam`` option.

Only ``modparam("module", "name", value)`` statements count; whatever else stands in the file is passed over. The
preprocessor's conditions and definitions (``#!ifdef``, ``#!define`` ...) and includes would change what such lines
mean, so a file that has them is refused rather than misread.
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from sipdump_core.errors import ConfigError
from sipdump_core.options import Setting

__all__ = ["override", "parse_config", "parse_modparam_option", "read_config"]

_GRAMMAR = r"""
start: (modparam | _junk)*
modparam: MODPARAM "(" string "," string "," (string | number | BOOL) ")"
string: STRING+
number: MINUS? NUMBER
_junk: STRING | NUMBER | MINUS | BOOL | WORD | OTHER | "(" | ")" | ","

MODPARAM.3: /modparam(?=\s*\()/
BOOL.2: /(yes|true|on|enable|no|false|off|disable)\b/i
NUMBER.2: /(0x[0-9a-f]+|0b[01]+|\d+)\b/i
STRING.2: /"(\\(.|\n)|[^"\\])*"|'[^']*'/
MINUS: "-"
WORD: /\w+/
OTHER: /[^\s\w"'(),-]|["']/
COMMENT.4: /#[^\n]*|\/\/[^\n]*|\/\*(.|\n)*?\*\//

%import common.WS
%ignore WS
%ignore COMMENT
"""

_DIRECTIVE = re.compile(
    r"^[ \t]*(?:[#!]!(?:define|def|trydef|redefine|redef|undef|ifn?def|ifexp|else|endif|subst\w*|defexps?|defenv)\b"
    r"|(?:include_file|import_file)\b).*",
    re.MULTILINE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.|\n)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "\\": "\\", '"': '"'}
_TRUE = {"yes", "true", "on", "enable"}
_KINDS = {
    "STRING": "a string in quotes",
    "NUMBER": "a number",
    "LPAR": "(",
    "RPAR": ")",
    "COMMA": "a comma",
}


def read_config(path: str | Path) -> list[Setting]:
    """Read the modparams of a configuration file.

    Raises:
        ConfigError: it cannot be read, or a modparam is not of Kamailio's syntax.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}", str(path)) from error
    return parse_config(text, str(path))


def parse_config(text: str, name: str) -> list[Setting]:
    """Read the modparams of a configuration text; ``name`` is the file's, for errors.

    Raises:
        ConfigError: a modparam is not of Kamailio's syntax.
    """
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _syntax_error(error, text, name) from error
    directive = _DIRECTIVE.search(_without_block_comments(text))
    if directive:
        line = text.count("\n", 0, directive.start()) + 1
        raise ConfigError(
            f"the preprocessor and includes are not understood: {directive[0].strip()}; "
            "put the sipdump modparams into a file of their own",
            f"{name}:{line}",
        )
    return [_setting(node, name) for node in tree.children if isinstance(node, Tree)]


def parse_modparam_option(text: str) -> Setting:
    """Read the value of ``--modparam``: ``MODULE:NAME:TYPE:VALUE``, with the type ``i`` or ``s``.

    Raises:
        ConfigError: it is not of that form.
    """
    place = f"--modparam={text}"
    parts = text.split(":", 3)
    if len(parts) < 4 or parts[2] not in ("i", "s"):
        raise ConfigError("must be MODULE:NAME:TYPE:VALUE with the type i (integer) or s (string)", place)
    module, name, kind, value = parts
    if kind == "s":
        return Setting(module, name, value, place)
    try:
        return Setting(module, name, _int(value), place)
    except ValueError:
        raise ConfigError(f"{value!r} is no integer", place) from None


def override(settings: Iterable[Setting], options: Iterable[Setting]) -> list[Setting]:
    """Give the settings with options in their place: one given option replaces all of its name."""
    options = list(options)
    replaced = {(option.module, option.name) for option in options}
    return [s for s in settings if (s.module, s.name) not in replaced] + options


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", propagate_positions=True)


def _setting(node: Tree[Token], name: str) -> Setting:
    keyword, module, parameter, value = node.children
    assert isinstance(keyword, Token)  # noqa: S101 - as the grammar says
    return Setting(_value(module), _value(parameter), _value(value), f"{name}:{keyword.line}:{keyword.column}")


def _value(node: Any) -> Any:
    if isinstance(node, Token):
        return int(node.lower() in _TRUE)
    text = "".join(_unquote(part) if part.type == "STRING" else part for part in node.children)
    return text if node.data == "string" else _int(text)


def _unquote(token: str) -> str:
    if token.startswith("'"):
        return token[1:-1]  # Kamailio takes these to the letter
    return _ESCAPE.sub(_escape, token[1:-1])


def _escape(found: re.Match[str]) -> str:
    code = found[1]
    if code in _ESCAPES:
        return _ESCAPES[code]
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code[0] in "01234567" else "\\" + code


def _int(text: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
    return sign * int(digits, 8 if octal else 0)


def _syntax_error(error: UnexpectedInput, text: str, name: str) -> ConfigError:
    line = text.splitlines()[error.line - 1].strip() if 0 < error.line <= len(text.splitlines()) else ""
    expected = getattr(error, "accepts", None) or getattr(error, "expected", None) or ()
    allowed = " or ".join(sorted(_KINDS[kind] for kind in expected if kind in _KINDS))
    return ConfigError(
        f"modparam is not understood{': expected ' + allowed if allowed else ''}; in: {line}",
        f"{name}:{error.line}:{error.column}",
    )


def _without_block_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.DOTALL)

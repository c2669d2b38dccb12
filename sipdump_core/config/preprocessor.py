"""The preprocessor of Kamailio: from files to the pieces that are left when all directives are executed.

Kamailio executes them while it reads, character by character, and so does this: the value of a define is put back
before the rest of its line and read again, an included file is read where it is named, and a directive may be anywhere
in a line. Each piece knows the place that it came from.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sipdump_core.config.expression import Value, evaluate_expression, is_true, printed
from sipdump_core.config.piece import Frame, Piece
from sipdump_core.config.source import MAX_SIZE, Source, read_source
from sipdump_core.config.substitution import Rule, evaluate, unquote
from sipdump_core.config.variable import variable_end
from sipdump_core.errors import ConfigError
from sipdump_core.settings.options import Notice

__all__ = ["Preprocessor"]

MAX_INCLUDES = 10
"""How deep files may include each other, as in Kamailio."""

_EACH_EXPANSION, _EACH_FILE = 32, 4096
"""What they count, beyond their characters: a define, and a file."""

_START = r"(?:\#!|!!)"
_TOKENS = rf"""
    (?P<space>     [ \t\b\r\n]+ | \\\n )
  | (?P<block>     /\* )
  | (?P<condition> {_START}ifn?def[ \t\b\r]+ )
  | (?P<otherwise> {_START}else[ \t\b\r]*\n )
  | (?P<endif>     {_START}endif[ \t\b\r]*\n )
  | (?P<ifexp>     {_START}ifexp[ \t\b\r]+ )
  | (?P<define>    {_START}(?:define|def|trydefine|trydef|redefine|redef|defexps?)[ \t\b\r]+ )
  | (?P<undef>     {_START}(?:try)?undef(?:ine)?[ \t\b\r]+ )
  | (?P<defenv>    {_START}(?:try)?defenvs? )
  | (?P<subst>     {_START}subst(?:defs|def)? )
  | (?P<include>   {_START}(?:include_file|import_file) )
  | (?P<unknown>   {_START}(?:elif\w*|trydefexps?)\b )
  | (?P<comment>   (?:\#|//)[^\n]*\n? )
  | (?P<string>    " )
  | (?P<ticks>     '[^']*+'? )
  | (?P<variable>  \$\w*\(? )
  | (?P<select>    [@%][\w.]+ )
  | (?P<word>      \w+ )
  | (?P<other>     [^\s\w"'$\#!/@%()\[\]{{}},;\\-]+ | . )
"""
_FLAGS = re.VERBOSE | re.DOTALL | re.ASCII
_TOKEN = re.compile(_TOKENS, _FLAGS)
_SKIPPED = re.compile("|".join(re.findall(r"\(\?P<(?:condition|ifexp|otherwise|endif)> .*", _TOKENS)), _FLAGS)
_BLOCK_EDGE = re.compile(r"/\*|\*/")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BETWEEN = re.compile(r"[ \t\b\r\n]*")
_NAME = re.compile(r"[^\n]*?([A-Za-z_]\w*)(-?)", re.ASCII)
_REST = re.compile(r"[^\n]*\n?")
_VALUE = re.compile(r"[ \t\b\r]*((?:[^\n](?:\\\n|[^\n])*)?)\n?")
_ARGUMENT = re.compile(r"[ \t]*([^ \t\r\n]+)")
_FILE_NAME = re.compile(r"[ \t\r\n]*([^ \t\r\n]+)")
_EVENT = re.compile(r"(?:[ \t\b\r\n]|/\*.*?\*/)*\[[ \t\b\r\n]*([\w:-]+)[ \t\b\r\n]*\]", re.DOTALL | re.ASCII)
_RESERVED = re.compile(
    r"modparamx?|loadmodulex?|loadpath|mpath|((request|reply|onreply|failure|branch|onsend|event)_)?route|if|else|while"
    r"|switch|case|default|break|return|exit|drop|and|or|not|i?eq|i?ne|mod|strlen|strempty|defined|log|error|yes|true|on"
    r"|enable|no|false|off|disable|udp|tcp|tls|sctp|wss?|inet6?|INET6?|(ipv|IPv|IPV)[46]|method|uri|status|proto|af"
    r"|(src|dst)_(ip|port)"
)
"""Words of Kamailio's language, whose meaning a define of that name doesn't change; those that matter to us."""
_VERSION = "KAMAILIO_VERSION"
_DEFAULT_VERSION = "5006003"


class Preprocessor:
    """Reads a configuration and all that it includes.

    Args:
        source: the main file.
        defines: names to define, or ``NAME=VALUE``, as with Kamailio's option ``-A``.

    Raises:
        ConfigError: a name is defined twice.
    """

    def __init__(self, source: Source, defines: Sequence[str] = ()) -> None:
        self.defines = _of_version(defines)
        self.rules: list[Rule] = []
        self.notices: list[Notice] = []
        self._work = 0
        self._frames = [Frame(source)]
        self._conditions: list[tuple[bool, Source, int]] = []
        self._dead = 0  # how many of them don't hold
        self._awaiting: tuple[str, Source, int] | None = None
        for define in defines:
            name, _, value = define.partition("=")
            if not name:
                raise ConfigError("must be NAME or NAME=VALUE", f"-A {define}")
            if name in self.defines and name != _VERSION:
                raise ConfigError(f"{name} is already defined", f"-A {define}")
            self.defines[name] = value
        self._spend(source, 0, len(source.text))

    def pieces(self) -> Iterator[Piece]:
        """Yield what is left, piece by piece.

        Raises:
            ConfigError: a directive is wrong, a file cannot be included, or something is not closed.
        """
        while self._frames:
            frame = self._frames[-1]
            if frame.ended():
                self._frames.pop()
            elif self._dead:
                self._skip(frame)
            else:
                piece = self._take(frame)
                if piece is not None and not self._awaited(piece):
                    yield piece
        if self._awaiting:
            raise self._awaiting[1].error("a string must follow", self._awaiting[2])
        if self._conditions:
            _, source, offset = self._conditions[-1]
            raise source.error("there is no #!endif for it; an #!endif must be alone on its line", offset)

    def substitute(self, piece: Piece) -> str:
        """Return the value of a string with all the rules applied that came before it; of a variable likewise.

        Raises:
            ConfigError: a rule needs a value that is not known here.
        """
        value = unquote(piece.text) if piece.kind == "string" else piece.text
        return self._substitute(value, piece.source, piece.offset, piece.rules)

    def evaluate(self, text: str, piece: Piece) -> str:
        """Replace the pseudo-variables in a text by their values.

        Raises:
            ConfigError: one has no value here.
        """
        try:
            return evaluate(text, self.defines)
        except ValueError as error:
            raise piece.error(str(error)) from error

    def _take(self, frame: Frame) -> Piece | None:
        start = frame.at
        found = self._match(_TOKEN, frame)
        kind = found.lastgroup or ""
        frame.at = found.end()
        if kind in _DIRECTIVES:
            _DIRECTIVES[kind](self, frame, found)
            return self._piece("space", "\n", frame, start, exact=False)
        if kind == "comment":
            return self._piece("space", "\n", frame, start, exact=False)
        if kind == "block":
            self._end_of_comment(frame, start)
            return self._piece("space", " ", frame, start, exact=False)
        if kind == "string":
            self._end_of_string(frame, start)
        elif kind == "ticks":
            self._end_of_ticks(frame, start)
            kind = "string"
        elif kind == "variable" and found[0].endswith("("):
            self._end_of_variable(frame, start)
        elif kind == "select":
            kind = "other"
        elif kind == "word":
            return self._word(frame, start, found[0])
        return self._piece(kind, frame.text[start : frame.at], frame, start)

    def _word(self, frame: Frame, start: int, word: str) -> Piece | None:
        kind = "word"
        if word in ("include_file", "import_file"):
            self._include_word(frame, start, missing=word == "import_file")
            return self._piece("space", "\n", frame, start, exact=False)
        if word in self.defines and not word[0].isdigit() and not _RESERVED.fullmatch(word):
            value = self.defines[word]
            source, offset = frame.source, frame.locate(start)[0]
            self._spend(source, offset, frame.put_back(value, start, frame.at) + _EACH_EXPANSION, word)
            return None
        if word == "event_route":
            found = self._match(_EVENT, frame)
            while found is None and self._more(frame):
                found = self._match(_EVENT, frame)
            if found:
                frame.at = found.end()
                kind, word = "event", found[1]
                return self._piece(kind, word, frame, start, exact=False)
        if word in ("loadmodule", "loadmodulex"):
            self._awaiting = ("loadmodule", frame.source, frame.locate(start)[0])
            return self._piece("other", word, frame, start)
        return self._piece(kind, word, frame, start)

    def _piece(self, kind: str, text: str, frame: Frame, start: int, *, exact: bool = True) -> Piece:
        offset, same = frame.locate(start)
        exact = exact and same and (frame.next < 0 or frame.locate(start + len(text) - 1)[0] - offset == len(text) - 1)
        return Piece(kind, text, frame.source, offset, exact, len(self.rules))

    def _awaited(self, piece: Piece) -> bool:
        """Take the string that a directive has announced."""
        if self._awaiting is None or piece.kind == "space" or piece.text in ("loadmodule", "loadmodulex"):
            return False
        what, source, offset = self._awaiting
        self._awaiting = None
        if what == "loadmodule":
            if piece.kind == "string":
                module = unquote(piece.text).rpartition("/")[2].removesuffix(".so")
                self.defines.setdefault(f"MOD_{module}", "")
            return False
        if piece.kind != "string":
            raise source.error("a string must follow", offset)
        text = self.substitute(piece)
        try:
            rule = Rule(text)
        except ValueError as error:
            raise piece.error(f"the substitution is not understood: {error}") from error
        if what != "subst":
            self._define(rule.expression, source, offset)
            try:
                value = evaluate(rule.replacement, self.defines)
            except ValueError:
                value = rule.replacement
            self.defines[rule.expression] = f'"{value}"' if what == "substdefs" else value
        self.rules.append(rule)
        return True

    def _skip(self, frame: Frame) -> None:
        found = _SKIPPED.search(frame.text, frame.at)
        if found is None:
            frame.at = len(frame.text)
            return
        frame.at = found.end()
        _DIRECTIVES[found.lastgroup or ""](self, frame, found)

    def _condition(self, frame: Frame, found: re.Match[str]) -> None:
        name, offset = self._name(frame, found)
        frame.at = self._match(_REST, frame).end()
        self._begin_condition((name in self.defines) != ("ifndef" in found[0]), frame.source, offset)

    def _ifexp(self, frame: Frame, found: re.Match[str]) -> None:
        offset = frame.locate(found.start())[0]
        expression = self._match(_REST, frame)
        frame.at = expression.end()
        value = self._evaluate_expression(expression[0], frame.source, offset)
        self._begin_condition(value is not None and is_true(value), frame.source, offset)

    def _evaluate_expression(self, text: str, source: Source, offset: int) -> Value | None:
        """Return the value of an expression; where there is none, Kamailio logs an error and goes on, and so do we."""
        try:
            return evaluate_expression(text, self.defines)
        except ValueError as error:
            what = f"the expression {text.strip()} has no value, and counts as false: {error}"
            self.notices.append(Notice(what, source.place(offset)))
            return None

    def _begin_condition(self, live: bool, source: Source, offset: int) -> None:
        self._dead += not live
        self._conditions.append((live, source, offset))

    def _otherwise(self, _frame: Frame, _found: re.Match[str]) -> None:
        if self._conditions:  # elsewhere Kamailio warns and goes on
            live, source, offset = self._conditions[-1]
            self._dead += 1 if live else -1
            self._conditions[-1] = (not live, source, offset)

    def _endif(self, frame: Frame, found: re.Match[str]) -> None:
        if not self._conditions:
            raise frame.source.error("there is no #!ifdef for this #!endif", frame.locate(found.start())[0])
        self._dead -= not self._conditions.pop()[0]

    def _define_line(self, frame: Frame, found: re.Match[str]) -> None:
        name, offset = self._name(frame, found)
        value = self._match(_VALUE, frame)
        while value[0].endswith("\\\n") and value.end() == len(frame.text) and self._more(frame):
            value = self._match(_VALUE, frame)
        frame.at = value.end()
        text = value[1]
        if name in self.defines:
            if "try" in found[0]:
                return
            if "redef" not in found[0]:
                self._define(name, frame.source, offset)
        text = text[:1] + text[1:].replace("\\\n", "")
        self.defines[name] = self._defexp(found[0], text, frame.source, offset) if "exp" in found[0] and text else text

    def _defexp(self, directive: str, text: str, source: Source, offset: int) -> str:
        value = self._evaluate_expression(text, source, offset)
        if value is None:
            return ""
        return f'"{printed(value)}"' if "exps" in directive else printed(value)

    def _undef(self, frame: Frame, found: re.Match[str]) -> None:
        name, offset = self._name(frame, found)
        rest = self._match(_REST, frame)
        if rest[0].strip(" \t\b\r\n"):
            raise frame.source.error(f"nothing may follow the name {name}, not even a comment", offset)
        frame.at = rest.end()
        if name not in self.defines and "try" not in found[0]:
            raise frame.source.error(f"{name} is not defined; #!tryundef undefines it where it is", offset)
        self.defines.pop(name, None)

    def _define(self, name: str, source: Source, offset: int) -> None:
        if not name or name in self.defines:
            raise source.error(f"{name} is already defined" if name else "there is no name to define", offset)
        self.defines[name] = ""

    def _defenv(self, frame: Frame, found: re.Match[str]) -> None:
        offset = frame.locate(found.start())[0]
        argument = self._match(_ARGUMENT, frame)
        if argument is None:
            raise frame.source.error("the name of an environment variable must follow", offset)
        frame.at = argument.end()
        name, _, variable = argument[1].partition("=")
        value = os.environ.get(variable or name)
        if value is None:
            if "try" in found[0]:
                return
            raise frame.source.error(f"there is no environment variable {variable or name}", offset)
        self._define(name, frame.source, offset)
        self.defines[name] = f'"{value}"' if found[0].endswith("s") else value

    def _subst(self, frame: Frame, found: re.Match[str]) -> None:
        self._awaiting = (found[0][2:], frame.source, frame.locate(found.start())[0])

    def _unknown(self, frame: Frame, found: re.Match[str]) -> None:
        raise frame.source.error(
            f"Kamailio does not know {found[0]}, and takes the line for a comment; use #!else and #!ifdef, or #!defexp",
            frame.locate(found.start())[0],
        )

    def _include(self, frame: Frame, found: re.Match[str]) -> None:
        self._include_word(frame, found.start(), missing=found[0].endswith("import_file"))

    def _include_word(self, frame: Frame, start: int, *, missing: bool) -> None:
        """Read another file next; ``missing``: it may be missing."""
        source, offset = frame.source, frame.locate(start)[0]
        found = self._match(_FILE_NAME, frame)
        while (found is None or found.end() == len(frame.text)) and self._more(frame):
            found = self._match(_FILE_NAME, frame)
        if found is None:
            raise source.error("a file name in quotes must follow", offset)
        frame.at = found.end()
        name = self._substitute(found[1], source, offset, len(self.rules))
        if len(name) < 3 or name[0] != '"' or name[-1] != '"':
            raise source.error(f"a file name in quotes and without blanks must follow, not: {name}", offset)
        letters = {"t": "\t", "n": "\n", "r": "\r"}
        name = re.sub(r"\\(.)", lambda escape: letters.get(escape[1], escape[1]), name[1:-1], flags=re.DOTALL)
        path = Path(name)
        if not path.is_absolute() and not path.exists():
            path = Path(source.name).parent / name
        if len(self._frames) > MAX_INCLUDES:
            chain = " > ".join(inner.source.name for inner in self._frames)
            raise source.error(
                f"files include each other more than {MAX_INCLUDES} deep; does one include itself? {chain} > {path}",
                offset,
            )
        try:
            included = read_source(path, regular=True)
        except ConfigError as error:
            if missing and isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return
            raise source.error(str(error), offset) from error
        self._spend(source, offset, len(included.text) + _EACH_FILE)
        self._frames.append(Frame(included))

    def _name(self, frame: Frame, found: re.Match[str]) -> tuple[str, int]:
        offset = frame.locate(found.start())[0]
        name = self._match(_NAME, frame)
        if name is None:
            raise frame.source.error("a name must follow", offset)
        if name[2]:
            raise frame.source.error(f"a name cannot contain '-': {name[0].strip()}", offset)
        frame.at = name.end()
        return name[1], offset

    def _end_of_comment(self, frame: Frame, start: int) -> None:
        depth = 1
        while depth:
            edge = _BLOCK_EDGE.search(frame.text, frame.at)
            if edge is None:
                if not self._more(frame):
                    raise frame.source.error("the comment is not closed", frame.locate(start)[0])
                continue
            depth += 1 if edge[0] == "/*" else -1
            frame.at = edge.end()

    def _end_of_string(self, frame: Frame, start: int) -> None:
        at = start
        while True:
            found = _STRING.match(frame.text, at)
            if found is None:
                if not self._more(frame):
                    raise frame.source.error("the string is not closed", frame.locate(start)[0])
                continue
            frame.at = found.end()
            at = self._after_space(frame)
            if frame.text[at : at + 1] != '"':
                return

    def _after_space(self, frame: Frame) -> int:
        while True:
            at = self._match(_BETWEEN, frame).end()
            if at < len(frame.text) or not self._more(frame):
                return at

    def _end_of_ticks(self, frame: Frame, start: int) -> None:
        while (end := frame.text.find("'", start + 1)) < 0:
            if not self._more(frame):
                raise frame.source.error("the string is not closed", frame.locate(start)[0])
        frame.at = end + 1

    def _end_of_variable(self, frame: Frame, start: int) -> None:
        while (end := variable_end(frame.text, start)) < 0:
            if not self._more(frame):
                raise frame.source.error("the pseudo-variable has no )", frame.locate(start)[0])
        frame.at = end

    def _match(self, pattern: re.Pattern[str], frame: Frame) -> "re.Match[str]":
        return pattern.match(frame.text, frame.at)  # type: ignore[return-value]  # some always match

    def _more(self, frame: Frame) -> bool:
        grown = frame.more()
        self._spend(frame.source, frame.locate(frame.at)[0], grown)
        return grown > 0

    def _substitute(self, value: str, source: Source, offset: int, rules: int) -> str:
        def spend(steps: int) -> None:
            self._spend(source, offset, steps)

        for rule in self.rules[:rules]:
            if not value:
                break
            try:
                value = rule.apply(value, self.defines, spend)
            except ValueError as error:
                raise source.error(f"#!subst: {error}", offset) from error
        return value

    def _spend(self, source: Source, offset: int, amount: int, name: str = "") -> None:
        self._work += amount
        if self._work > MAX_SIZE:
            hint = f"; is the define {name} defined by itself?" if name else ""
            raise source.error(f"the configuration is too large, with all that is put into it{hint}", offset)


def _of_version(defines: Sequence[str]) -> dict[str, str]:
    """Return what Kamailio of a version defines; the version is 5.6.3 unless ``KAMAILIO_VERSION=6001005`` is given."""
    given = [define.partition("=")[2] for define in defines if define.startswith(f"{_VERSION}=")]
    version = given[-1] if given else _DEFAULT_VERSION
    if not re.fullmatch(r"[1-9][0-9]{6,8}", version, re.ASCII):
        raise ConfigError("must be a version as Kamailio counts them, as 6001005 for 6.1.5", f"-A {_VERSION}={version}")
    number = int(version)
    parts = (number // 1_000_000, number // 1000 % 1000, number % 1000)
    names = ["_".join(map(str, ("KAMAILIO", *parts[:count]))) for count in (1, 2, 3)]
    return {**dict.fromkeys(names, ""), _VERSION: version, "OS_NAME": f'"{sys.platform}"'}


_DIRECTIVES = {
    "condition": Preprocessor._condition,
    "ifexp": Preprocessor._ifexp,
    "otherwise": Preprocessor._otherwise,
    "endif": Preprocessor._endif,
    "define": Preprocessor._define_line,
    "undef": Preprocessor._undef,
    "defenv": Preprocessor._defenv,
    "subst": Preprocessor._subst,
    "include": Preprocessor._include,
    "unknown": Preprocessor._unknown,
}

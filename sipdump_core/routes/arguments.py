"""The parameters of transformations: numbers, texts and variables."""

import re
from collections.abc import Callable
from typing import Final

import attrs

from sipdump_core.config.variable import Variable, scan_variable
from sipdump_core.record import Record
from sipdump_core.routes.values import Getter, encode, text_of

__all__ = ["Arguments"]

_BLANK: Final = " \t\n"
_NUMBER = re.compile(r"[+-]?[ \t\n]*[0-9]{1,9}")
_TEXT = re.compile(r"[^\t\n,}]*")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_SEPARATORS: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


@attrs.define
class Arguments:
    """The parameters of one transformation, read one by one; each method raises ValueError where it is missing."""

    name: str
    text: str
    """What is between the braces."""
    at: int
    """Where in it the next parameter's comma should be."""
    compile_variable: Callable[[Variable], Getter]

    def number(self) -> Callable[[Record], int | None]:
        """Read a number, or a variable that has one."""
        self._comma()
        self._skip(_BLANK)
        if self._looking_at("$"):
            get = self._variable()
            return lambda record: value if isinstance(value := get(record), int) else None
        found = _NUMBER.match(self.text, self.at)
        if not found:
            raise ValueError(f"{{{self.name}}} needs a number or a variable, not {self.text[self.at :]!r}")
        self.at = found.end()
        value = int("".join(found[0].split()))
        return lambda _: value

    def optional_number(self) -> Callable[[Record], int | None]:
        """Read a number, which is 0 where there are no more parameters."""
        return self.number() if self._looking_at(",") else lambda _: 0

    def string(
        self, *, comma: bool = False, empty: bool = False, escapes: bool = False
    ) -> Callable[[Record], bytes | None]:
        """Read a text up to the next comma, or a variable.

        Args:
            comma: a comma is the text's last character, rather than the end of it.
            empty: it may be empty.
            escapes: a backslash before a character escapes it.
        """
        self._comma()
        self._skip(_BLANK)
        if self._looking_at("$"):
            get = self._variable()
            return lambda record: text_of(get(record)) or None
        at = self.at
        found = _TEXT.match(self.text, at)
        self.at = found.end() if found else at
        if comma and self._looking_at(","):
            self.at += 1
        value = encode(self.text[at : self.at])
        if not (value or empty):
            raise ValueError(
                f"{{{self.name}}} needs a text after the comma, where blanks do not count; {{s.select,0, }} cuts at one"
            )
        if escapes:
            value = _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), value)
        return lambda _: value

    def char(self) -> Callable[[Record], bytes | None]:
        """Read a text of which the first byte counts; it may be a comma."""
        get = self.string(comma=True)
        return lambda record: value[:1] if (value := get(record)) else None

    def separator(self) -> bytes:
        """Read one ASCII character, or an escape that stands for one."""
        self._comma()
        char = self.text[self.at : self.at + 1]
        if char == "\\":
            self.at += 1
            char = _SEPARATORS.get(self.text[self.at : self.at + 1], "")
        self.at += 1
        separator = encode(char)
        if len(separator) != 1:
            raise ValueError(f"{{{self.name}}} needs one ASCII character to split at; escapes are \\n \\r \\t \\\\")
        return separator

    def end(self) -> None:
        """Check that all parameters have been read."""
        self._skip(_BLANK)
        if self.at < len(self.text):
            raise ValueError(f"{{{self.name}}}: expected }} instead of {self.text[self.at]!r}")

    def _variable(self) -> Getter:
        variable = scan_variable(self.text, self.at)
        self.at += len(variable.text)
        return self.compile_variable(variable)

    def _comma(self) -> None:
        self._skip(_BLANK)
        if not self._looking_at(","):
            raise ValueError(f"{{{self.name}}} needs more parameters, after commas")
        self.at += 1

    def _looking_at(self, char: str) -> bool:
        return self.text.startswith(char, self.at)

    def _skip(self, chars: str) -> None:
        while self.at < len(self.text) and self.text[self.at] in chars:
            self.at += 1

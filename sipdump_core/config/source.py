"""Configuration files as text, and the places in them."""

import errno
import os
import re
import stat
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Final

from sipdump_core.errors import ConfigError
from sipdump_core.settings.options import may_be_secret, without_user

__all__ = ["MAX_SIZE", "Source", "read_source"]

MAX_SIZE: Final = 1 << 22
"""Limit for the characters of all files, and for what defines and substitutions make of them."""

_SHOWN = 200
_STRING = re.compile(r"""(["'])([^\n]*?)\1""")
_STATEMENT = 1000
"""Characters before a line in which a statement may have begun that goes on there."""
_HINTS = {
    errno.EACCES: "; run this as root, or as a user who may read it",
    errno.EISDIR: "; name the file in it",
}


class Source:
    """The text of one file.

    Args:
        name: the file's name, for errors and for finding files beside it.
        text: its content.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(line) + 1 for line in self.text.split("\n"))]

    def place(self, offset: int) -> str:
        """Return ``file:line:column`` of a character; lines and columns count from 1, columns in characters."""
        line = bisect_right(self._starts, offset, hi=len(self._starts) - 1)
        return f"{self.name}:{line}:{offset - self._starts[line - 1] + 1}"

    def line(self, offset: int) -> str:
        """Return the line that a character is in, stripped, without secrets, and cut if it is very long."""
        line = bisect_right(self._starts, offset, hi=len(self._starts) - 1)
        begin, end = self._starts[line - 1], self._starts[line] - 1
        shown = without_user(self.text[begin : self._secret_at(begin, end)].strip())
        return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."

    def _secret_at(self, begin: int, end: int) -> int:
        """Return where the value of a secret parameter begins on a line; its end if there is none."""
        before = self.text.rfind("modparam", max(0, begin - _STATEMENT), begin)
        statements = [before] if before >= 0 and ")" not in self.text[before:begin] else []
        statements += [found.start() for found in re.compile("modparam").finditer(self.text, begin, end)]
        for statement in statements:
            strings = list(_STRING.finditer(self.text, statement, end))[:2]
            if strings and may_be_secret(strings[0][2], strings[-1][2]):
                return max(begin, strings[-1].end())
        return end

    def error(self, message: str, offset: int) -> ConfigError:
        """Make the error that points at a character and shows its line."""
        return ConfigError(f"{message}; in: {self.line(offset)}", self.place(offset))


def read_source(path: str | Path, *, regular: bool = False) -> Source:
    """Read a file.

    Args:
        path: the file.
        regular: refuse anything but a regular file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if regular and os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise ConfigError("cannot read the configuration: not a regular file", str(path))
        with open(path, "rb") as file:
            text = file.read(MAX_SIZE + 1).decode("utf-8", "surrogateescape")
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise ConfigError(f"cannot read the configuration: {error.strerror}{hint}", str(path)) from error
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"cannot read the configuration: {error}", str(path)) from error
    return Source(str(path), text)

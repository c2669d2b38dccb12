"""Configuration files as text, and the places in them."""

from bisect import bisect_right
from functools import cached_property
from itertools import accumulate

from sipdump_core.errors import ConfigError

__all__ = ["Source"]

_SHOWN = 200


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
        """Return the line that a character is in, without the white space around it, cut if it is very long."""
        line = bisect_right(self._starts, offset, hi=len(self._starts) - 1)
        shown = self.text[self._starts[line - 1] : self._starts[line] - 1].strip()
        return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."

    def error(self, message: str, offset: int) -> ConfigError:
        """Make the error that points at a character and shows its line."""
        return ConfigError(f"{message}; in: {self.line(offset)}", self.place(offset))

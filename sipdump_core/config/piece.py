"""What the preprocessor makes of files: pieces; and where it is in a file while it does."""

from bisect import bisect_right

import attrs

from sipdump_core.config.source import Source
from sipdump_core.errors import ConfigError

__all__ = ["Frame", "Piece"]


@attrs.frozen(slots=True)
class Piece:
    """A word, a string, a character ... of the configuration."""

    kind: str
    """``space``, ``string``, ``variable``, ``word``, ``event`` (``event_route[...]``) or ``other``."""
    text: str
    """As it is written; strings side by side are one piece, a comment or a directive is white space."""
    source: Source
    offset: int
    exact: bool
    """Whether the source has exactly this text there; else it came from a define, or replaces something."""
    rules: int
    """How many ``#!subst`` rules apply."""

    def error(self, message: str) -> ConfigError:
        """Make the error that points at this piece."""
        return self.source.error(message, self.offset)


class Frame:
    """The reading position in one file: in its text, or in a line that a define has changed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text, self.at = source.text, 0
        self.next = -1
        """Where in the file what follows the changed line begins; -1 where the text is the file's."""
        self.marks: list[tuple[int, int, bool]] = []
        """Of a changed line: from this character on, this offset in the file; whether it stays the same."""

    def locate(self, at: int) -> tuple[int, bool]:
        """Return the offset in the file, and whether the character there is this one."""
        if self.next < 0:
            return at, True
        start, offset, fixed = self.marks[bisect_right(self.marks, at, key=lambda mark: mark[0]) - 1]
        return (offset, False) if fixed else (offset + at - start, True)

    def put_back(self, value: str, start: int, end: int) -> int:
        """Put a define's value in the place of its name; return how many characters that moves."""
        offset = self.locate(start)[0]
        if self.next < 0:
            self.next = self.text.find("\n", end) + 1 or len(self.text)
            rest, marks = self.text[end : self.next], [(len(value), end, False)]
        else:
            rest = self.text[end:]
            shift = len(value) - end
            begin, exact = self.locate(end) if rest else (offset, False)
            marks = [(len(value), begin, not exact)]
            marks += [(at + shift, to, fixed) for at, to, fixed in self.marks if at > end]
        self.marks = [(0, offset, True), *marks]
        self.text, self.at = value + rest, 0
        return len(self.text)

    def more(self) -> int:
        """Append what follows a changed line; return how many characters, 0 at the end of the file."""
        if self.next < 0:
            return 0
        end = self.source.text.find("\n", self.next + len(self.text) - self.at) + 1 or len(self.source.text)
        if end == self.next:
            return 0
        self.marks.append((len(self.text), self.next, False))
        self.text += self.source.text[self.next : end]
        self.next = end
        return len(self.text)

    def ended(self) -> bool:
        """Return whether the file is read to its end; after a changed line go on in the file."""
        if self.at < len(self.text):
            return False
        if self.next >= 0:
            self.text, self.at, self.next = self.source.text, self.next, -1
        return self.at >= len(self.text)

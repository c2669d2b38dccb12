"""Event routes as a configuration has them."""

from bisect import bisect_right
from collections.abc import Sequence

import attrs

from sipdump_core.config.piece import Piece
from sipdump_core.config.source import Source

__all__ = ["RouteBlock"]


@attrs.frozen
class RouteBlock:
    """One ``event_route[NAME] { ... }``."""

    name: str
    """As ``sipdump:msg``."""
    text: str
    """What is between the braces, after the preprocessor."""
    _pieces: Sequence[Piece] = attrs.field(repr=False, eq=False)
    _starts: Sequence[int] = attrs.field(repr=False, eq=False)

    def place(self, offset: int) -> str:
        """Return ``file:line:column`` of a character of the text."""
        source, at = self._locate(offset)
        return source.place(at)

    def line(self, offset: int) -> str:
        """Return the line of the file that a character of the text is in, or comes from."""
        source, at = self._locate(offset)
        return source.line(at)

    def _locate(self, offset: int) -> tuple[Source, int]:
        at = max(bisect_right(self._starts, offset) - 1, 0)
        piece = self._pieces[at]
        within = min(max(offset - self._starts[at], 0), max(len(piece.text) - 1, 0)) if piece.exact else 0
        return piece.source, piece.offset + within

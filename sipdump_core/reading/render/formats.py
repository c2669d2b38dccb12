"""The formats that a ladder is shown in, by name."""

import attrs

from sipdump_core.calls.ladder import Ladder

__all__ = ["FORMATS", "Style", "render"]

FORMATS = ("text", "svg", "html", "mermaid", "json", "markdown")


@attrs.frozen
class Style:
    """How a ladder is to look."""

    width: int = 120
    """Columns of the terminal, from 80 (text only)."""
    colour: bool = False
    """Whether to colour by ANSI sequences (text only)."""
    messages: str = ""
    """What to print of each message below the ladder: nothing, ``headers`` or ``raw``."""


def render(ladder: Ladder, form: str = "text", style: Style | None = None) -> str:
    """Return a ladder in one of :data:`FORMATS`, ending in a line end.

    Raises:
        ValueError: there is no such format.
    """
    raise NotImplementedError

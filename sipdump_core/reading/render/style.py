"""How a ladder is to look."""

import attrs

__all__ = ["Style"]


def _at_least_80(width: int) -> int:
    return max(80, width)


@attrs.frozen
class Style:
    """How a ladder is to look."""

    width: int = attrs.field(default=120, converter=_at_least_80)
    """Columns of the terminal, at least 80 (text, Markdown). Too many participants make the ladder wider."""
    colour: bool = False
    """Whether to colour by ANSI sequences (text only)."""
    messages: str = attrs.field(default="", validator=attrs.validators.in_(("", "headers", "raw")))
    """What to print of each message below the ladder: nothing, ``headers`` or ``raw`` (text, Markdown)."""

"""The formats of a ladder, by name."""

from collections.abc import Callable

from sipdump_core.calls.ladder import Ladder
from sipdump_core.reading.render.data import render_json
from sipdump_core.reading.render.html import render_html
from sipdump_core.reading.render.markup import render_markdown, render_mermaid
from sipdump_core.reading.render.style import Style
from sipdump_core.reading.render.svg import render_svg
from sipdump_core.reading.render.text import render_text

__all__ = ["FORMATS", "Style", "render"]

_RENDERERS: dict[str, Callable[[Ladder, Style], str]] = {
    "text": render_text,
    "svg": render_svg,
    "html": render_html,
    "mermaid": render_mermaid,
    "json": render_json,
    "markdown": render_markdown,
}
FORMATS = tuple(_RENDERERS)


def render(ladder: Ladder, form: str = "text", style: Style | None = None) -> str:
    """Return a ladder in one of :data:`FORMATS`, ending in a line end.

    Raises:
        ValueError: there is no such format.
    """
    if form not in _RENDERERS:
        raise ValueError(f"{form!r} is not a format; there are: {', '.join(FORMATS)}")
    return _RENDERERS[form](ladder, style or Style())

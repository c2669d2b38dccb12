"""Pages: the templates, and what they say in the same words everywhere. Whatever they show is escaped."""

from collections.abc import Iterator
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from sipdump_core.reading.lines import counted, local_time, printable
from sipdump_core.reading.render.html import LADDER_STYLE
from sipdump_core.reading.render.plain import fitted
from sipdump_core.reading.render.svg import COLOURS, FIGURE_STYLE
from sipdump_core.version import VERSION
from sipdump_core.viewing.listing import mark_of
from sipdump_core.viewing.web.addresses import call_path

__all__ = ["ASSETS", "Pages", "clock", "cut", "length_of"]

_STATIC = files("sipdump_core.viewing.web") / "static"
ASSETS: dict[str, tuple[str, bytes]] = {
    "style.css": (
        "text/css; charset=utf-8",
        (COLOURS + FIGURE_STYLE + LADDER_STYLE + (_STATIC / "style.css").read_text("utf-8")).encode(),
    ),
    "charts.css": ("text/css; charset=utf-8", (_STATIC / "charts.css").read_bytes()),
    "page.js": ("text/javascript; charset=utf-8", (_STATIC / "page.js").read_bytes()),
    "live.js": ("text/javascript; charset=utf-8", (_STATIC / "live.js").read_bytes()),
    "icon.svg": ("image/svg+xml", (_STATIC / "icon.svg").read_bytes()),
}
"""All files that a page loads, by name; no other file is ever read for a client."""


class Pages:
    """Draws pages.

    Args:
        stores: what is read, one name each, for the foot of each page.
    """

    def __init__(self, stores: list[str]) -> None:
        self._templates = Environment(
            loader=PackageLoader("sipdump_core.viewing.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._templates.globals.update(
            version=VERSION,
            stores=stores,
            root="/",
            counted=counted,
            call_path=call_path,
            mark_of=mark_of,
            shared=False,
        )
        self._templates.filters.update(clock=clock, cut=cut, length_of=length_of, size=_size, age=_age)

    def page(self, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return the page that a template makes."""
        text = self._templates.get_template(name).render(values)
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def pieces(self, name: str, **values: Any) -> Iterator[str]:
        """Yield the page that a template makes piece by piece, as the values come."""
        return self._templates.get_template(name).generate(values)

    @staticmethod
    def asset(name: str) -> Response:
        """Return one of :data:`ASSETS`.

        Raises:
            HTTPException: there is none of that name.
        """
        kind, content = ASSETS.get(name, ("", b""))
        if not kind:
            raise HTTPException(404)
        return Response(content, media_type=kind)

    def problem(self, status: int, title: str, text: str, *, inside: bool = True) -> HTMLResponse:
        """Return a page that says why there is nothing to see.

        Args:
            status: the status of HTTP.
            title: what it is.
            text: why, and what to do.
            inside: whether the client was let in, and may load what pages load.
        """
        return self.page("problem.html", status, title=title, text=text, inside=inside)


def _shown(value: Any) -> Any:
    """Return what a template shows of a value: nothing in it reverses the direction, or is forbidden in XML.

    What is markup already is our own, and texts of several lines keep their line ends.
    """
    if isinstance(value, str) and not hasattr(value, "__html__") and not value.isprintable():
        return "".join(one if one in "\n\t" or one.isprintable() else printable(one) for one in value)
    return "" if value is None else value


def _size(count: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _age(seconds: float) -> str:
    """Return an interval as people read it: its two largest units."""
    left = max(int(seconds), 0)
    parts: list[str] = []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def cut(text: str | None, width: int = 60) -> str:
    """Return a text printable and, in a list, not longer than this; the page of the call has all of it."""
    return fitted(printable(text or ""), width)


def length_of(seconds: float | None) -> str:
    """Return an interval as people read it, as ``2.0 s`` or ``1:02:03``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def clock(time_us: int, form: str = "%Y-%m-%d %H:%M:%S.%f") -> str:
    """Return a time in the local zone, to the millisecond; with its offset where that is not the one of now."""
    when = local_time(time_us)
    text = when.strftime(form)
    if not form.endswith("%f"):
        return text
    return text[:-3] + ("" if when.utcoffset() == datetime.now().astimezone().utcoffset() else when.strftime("%z"))

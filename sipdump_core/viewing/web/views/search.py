"""The search form."""

from starlette.requests import Request
from starlette.responses import Response

from sipdump_core.viewing.web.desk import desk_of

__all__ = ["search"]


async def search(request: Request) -> Response:
    """Return the form."""
    return desk_of(request).pages.page("search.html")

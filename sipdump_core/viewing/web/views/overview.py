"""The overview of a store."""

from starlette.requests import Request
from starlette.responses import Response

from sipdump_core.viewing.web.desk import desk_of

__all__ = ["overview"]


async def overview(request: Request) -> Response:
    """Return the overview."""
    return desk_of(request).pages.page("overview.html")

"""The app: routes, and what is said where there is none."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sipdump_core.errors import ConfigError, SipDumpError
from sipdump_core.viewing.web.desk import Desk, desk_of
from sipdump_core.viewing.web.gate import Gate, Places
from sipdump_core.viewing.web.limits import BusyError
from sipdump_core.viewing.web.views.call import call, download, share, shared
from sipdump_core.viewing.web.views.live import events, live
from sipdump_core.viewing.web.views.overview import overview, overview_json
from sipdump_core.viewing.web.views.search import calls, search

__all__ = ["make_app"]


def make_app(desk: Desk, places: Places) -> Gate:
    """Return the app, behind its gate.

    Args:
        desk: what its views work with.
        places: where it is reached.
    """
    app = Starlette(
        routes=[
            Route("/", search),
            Route("/calls", calls),
            Route("/call/{rest:path}", call),
            Route("/download/{form}/{rest:path}", download),
            Route("/share/{rest:path}", share),
            Route("/shared/{rest:path}", shared),
            Route("/live", live),
            Route("/live/events", events),
            Route("/overview", overview),
            Route("/overview.json", overview_json),
            Route("/static/{name}", asset),
        ],
        exception_handlers={HTTPException: _missing, ConfigError: _wrong, SipDumpError: _failed, Exception: _broken},
    )
    app.state.desk = desk
    return Gate(app, desk.keys, places, desk.pages)


async def asset(request: Request) -> Response:
    """Return what a page loads."""
    return desk_of(request).pages.asset(request.path_params["name"])


async def _missing(request: Request, _error: Exception) -> Response:
    return desk_of(request).pages.problem(404, "There is no such page", "")


async def _wrong(request: Request, error: Exception) -> Response:
    return desk_of(request).pages.problem(400, "This was not understood", str(error))


async def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, BusyError):
        answer = desk_of(request).pages.problem(503, "This takes too long now", _capital(str(error)))
        answer.headers["Retry-After"] = "5"
        return answer
    return desk_of(request).pages.problem(500, "This could not be read", _capital(str(error)))


async def _broken(request: Request, _error: Exception) -> Response:
    return desk_of(request).pages.problem(500, "This went wrong here", "The log says more.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

"""Live: calls and messages as they come, by server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
import contextlib
from datetime import datetime

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError
from sipdump_core.viewing.recent import Recent
from sipdump_core.viewing.web.addresses import query_of
from sipdump_core.viewing.web.desk import Scan as Bounded
from sipdump_core.viewing.web.desk import desk_of
from sipdump_core.viewing.web.hub import Hub
from sipdump_core.viewing.web.streaming import sent_in_time
from sipdump_core.viewing.web.views.search import asked, form_values
from sipdump_core.viewing.words import Search

__all__ = ["events", "live"]

_TICK = 0.25
"""Seconds between two events, so that a browser is not kept busy by each message."""
_ALIVE = 15.0
"""Seconds without an event, after which a comment keeps proxies from closing the connection."""
_STALLED = 120.0
_ROWS = 50


async def live(request: Request) -> Response:
    """Return the page with the latest calls; its script adds what comes."""
    desk = desk_of(request)
    now = datetime.now().astimezone()
    given = query_of(request.scope)
    try:
        wanted = asked(given)
        query = wanted.query(now, desk.stand_ins)
    except ConfigError as error:
        values = form_values(Search(), now, line=dict(given).get("line", ""))
        return desk.pages.page("live.html", 400, rows=[], **values | {"problem": str(error)})
    if given != list(wanted.words):
        return RedirectResponse(f"/live?{wanted.url}" if wanted.words else "/live", 303)

    def latest(scan: Bounded) -> tuple[list[object], str]:
        recent = Recent(scan.store, query, limit=_ROWS, around=wanted.around, shown=desk.shown)
        rows: list[object] = []
        for step in recent.steps():
            rows += step.rows
            if rows and scan.spent() > 1:  # who waits for what comes need not wait for what was
                break
        return rows, "; ".join([*desk.problems, *recent.searched.problems])

    rows, problem = await desk.asked(latest)
    return desk.pages.page("live.html", rows=rows, **form_values(wanted, now) | {"problem": problem})


async def events(request: Request) -> Response:
    """Return the events, which end with the server or with the viewer."""
    desk = desk_of(request)
    query = asked(query_of(request.scope)).query(datetime.now().astimezone(), desk.stand_ins)
    return _Events(desk.hub, query)


class _Events(Response):
    media_type = "text/event-stream"

    def __init__(self, hub: Hub, query: Query) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})  # nginx would hold events back
        del self.headers["content-length"]
        self._hub = hub
        self._query = query
        self._something = asyncio.Event()
        self._gone = False

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(self._something.set)

        viewer = await to_thread.run_sync(self._hub.join, self._query, wake)
        watch = asyncio.create_task(self._watch(receive))
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await sent_in_time(send, start)
            await self._send(send, "retry: 2000\n: hello\n\n")
            while not (self._gone or self._hub.closed):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._something.wait(), _ALIVE)
                self._something.clear()
                if not (self._gone or self._hub.closed):
                    await self._send(send, self._hub.events(viewer) or ": alive\n\n")
                    await asyncio.sleep(_TICK)
            if not self._gone:
                await self._send(send, "event: end\ndata: \n\n")
                await sent_in_time(send, {"type": "http.response.body", "body": b""})
        finally:
            watch.cancel()
            await asyncio.shield(to_thread.run_sync(self._hub.leave, viewer))

    async def _send(self, send: Send, text: str) -> None:
        message = {"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": True}
        await sent_in_time(send, message, _STALLED)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._something.set()

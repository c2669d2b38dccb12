"""The overview of a store: its traffic as charts, its stores as a table; and the same as JSON."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from functools import cache, partial

import attrs
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from sipdump_core.calls.summary import iso_utc
from sipdump_core.errors import ConfigError
from sipdump_core.reading.lines import as_json
from sipdump_core.reading.overview import Overview, measure
from sipdump_core.viewing import daemons
from sipdump_core.viewing.stores import Holding, holdings
from sipdump_core.viewing.web import dashboard
from sipdump_core.viewing.web.desk import Scan, desk_of
from sipdump_core.viewing.words import Search

__all__ = ["overview", "overview_json"]

_MOST = 100_000
"""Messages that an overview reads, about: a page must not take long. Of more, those that came last are read."""
_SPANS = (("15 minutes", 900), ("1 hour", 3600), ("6 hours", 21_600), ("1 day", 86_400), ("7 days", 604_800))


async def overview(request: Request) -> Response:
    """Return the overview as a page."""
    desk = desk_of(request)
    search = Search.from_url(request.url.query)
    asking = asyncio.create_task(to_thread.run_sync(_lanes, tuple(desk.configs), tuple(desk.defines)))
    try:
        view = await desk.asked(partial(_measured, search, desk.limits.seconds))
    finally:
        lanes, problems = await asking
    root = "/"
    links = dashboard.Links(root, search.filters.words)
    return desk.pages.page(
        "overview.html",
        view=view,
        numbers=view.numbers,
        charts=dashboard.charts(view.numbers, links),
        rankings=dashboard.rankings(view.numbers, links),
        facts=dashboard.facts(view.numbers),
        lanes=lanes,
        problems=[*view.problems, *problems],
        spans=_spans(view.numbers, search),
        search=search,
        now=time.time(),
    )


async def overview_json(request: Request) -> Response:
    """Return the numbers as JSON."""
    desk = desk_of(request)
    search = Search.from_url(request.url.query)
    view = await desk.asked(partial(_measured, search, desk.limits.seconds))
    notes = {"notes": view.notes, "problems": view.problems}
    return Response(as_json({**view.numbers.as_json(), **notes}), media_type="application/json")


@cache
def _daemons(configs: tuple[str, ...], defines: tuple[str, ...]) -> Sequence[daemons.Daemon]:
    """Return the daemons of some configurations; reading these takes a while."""
    return daemons.daemons(configs, defines)


def _lanes(configs: tuple[str, ...], defines: tuple[str, ...]) -> tuple[list[daemons.Lane], list[str]]:
    try:
        return daemons.ask(_daemons(configs, defines))
    except ConfigError as error:  # it was right when the server began, or there would be none
        return [], [str(error)]


@attrs.frozen
class _View:
    """What is shown."""

    numbers: Overview
    stores: list[Holding]
    notes: list[str]
    problems: list[str]


def _measured(search: Search, seconds: float, scan: Scan) -> _View:
    """Read the numbers; in a thread of its own."""
    stores = holdings(scan.store, scan.searched)
    numbers = measure(
        scan.store,
        search.query(datetime.now().astimezone()),
        scan.searched,
        around=search.around,
        most=_MOST,
        # reading ends when its time is up; to work out what was read may take half as long again
        step=lambda: not scan.ended or seconds <= scan.spent() < 1.5 * seconds,
    )
    notes = [*scan.searched.notes, *([scan.ended] if scan.ended else [])]
    return _View(numbers, stores, notes, list(scan.searched.problems))


def _spans(numbers: Overview, search: Search) -> list[tuple[str, str]]:
    """Return the spans that are offered, with the queries of their URLs: they end where this one does."""
    until_us = numbers.query.until_us or 0
    found = []
    for name, length in _SPANS:
        since = iso_utc(until_us - length * 1_000_000)
        found.append((name, search.filters.replaced(last=None, since=since, until=iso_utc(until_us)).url))
    return found

"""The overview of a store: its traffic as charts, its stores as a table; and the same as JSON."""

import time
from collections.abc import Sequence
from datetime import datetime
from functools import cache, cached_property

import attrs
from starlette.requests import Request
from starlette.responses import Response

from sipdump_core.calls.summary import iso_utc
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError, SipDumpError
from sipdump_core.reading.lines import as_json
from sipdump_core.reading.overview import Overview, measure
from sipdump_core.viewing import daemons
from sipdump_core.viewing.stores import Holding, holdings
from sipdump_core.viewing.web import dashboard
from sipdump_core.viewing.web.addresses import query_of
from sipdump_core.viewing.web.charts import Chart
from sipdump_core.viewing.web.desk import Desk, Scan, desk_of
from sipdump_core.viewing.web.streaming import FLUSH, Filling
from sipdump_core.viewing.web.views.search import asked
from sipdump_core.viewing.words import Search

__all__ = ["overview", "overview_json"]

_MOST = 100_000
"""Messages that an overview reads, about: a page must not take long. Of more, those that came last are read."""
_SPANS = (("15 minutes", 900), ("1 hour", 3600), ("6 hours", 21_600), ("1 day", 86_400), ("7 days", 604_800))


async def overview(request: Request) -> Response:
    """Return the overview as a page; its head is sent before the store is read."""
    desk = desk_of(request)
    search, query = _asked(request)
    scan = desk.scan()
    page = _Page(desk, scan, search, query)
    return Filling(desk, scan, desk.pages.pieces("overview.html", page=page, search=search, flush=FLUSH))


async def overview_json(request: Request) -> Response:
    """Return the numbers as JSON."""
    desk = desk_of(request)
    search, query = _asked(request)

    def ask(scan: Scan) -> dict[str, object]:
        page = _Page(desk, scan, search, query)
        numbers = page.measured()
        return {**numbers.as_json(), "notes": page.notes(), "problems": page.problems()}

    return Response(as_json(await desk.asked(ask)), media_type="application/json")


def _asked(request: Request) -> tuple[Search, Query]:
    """Read what is asked.

    Raises:
        ConfigError: a word is not understood.
    """
    search = asked(query_of(request.scope))
    return search, search.query(datetime.now().astimezone(), desk_of(request).stand_ins)


@attrs.define(slots=False)
class _Page:
    """One page, while it is made: what the template asks for, in this order."""

    desk: Desk
    scan: Scan
    search: Search
    query: Query
    failed: str = ""

    def measured(self) -> Overview:
        """Read the numbers.

        Raises:
            SipDumpError: there is no room for what does not fit into memory.
        """
        seconds = self.desk.limits.seconds
        return measure(
            self.scan.store,
            self.query,
            self.scan.searched,
            around=self.search.around,
            most=_MOST,
            # reading ends when its time is up; to work out what was read may take half as long again
            step=lambda: not self.scan.ended or seconds <= self.scan.spent() < 1.5 * seconds,
        )

    @cached_property
    def numbers(self) -> Overview | None:
        """The numbers; None where they could not be read."""
        try:
            return self.measured()
        except SipDumpError as error:
            self.failed = str(error)
            return None

    def charts(self, numbers: Overview) -> list[Chart]:
        """Return the charts over time."""
        return dashboard.charts(numbers, self._links)

    def rankings(self, numbers: Overview) -> list[dashboard.Ranking]:
        """Return what calls failed with, and where."""
        return dashboard.rankings(numbers, self._links)

    def facts(self, numbers: Overview) -> list[tuple[str, str, str]]:
        """Return the numbers of the whole span."""
        return dashboard.facts(numbers)

    def spans(self, numbers: Overview) -> list[tuple[str, str]]:
        """Return the spans that are offered, with the queries of their URLs: they end where this one does."""
        until_us = numbers.query.until_us or 0
        found = []
        for name, length in _SPANS:
            since = iso_utc(until_us - length * 1_000_000)
            found.append((name, self.search.filters.replaced(last=None, since=since, until=iso_utc(until_us)).url))
        return found

    @cached_property
    def stores(self) -> list[Holding]:
        """What is stored where."""
        return holdings(self.scan.store, self.scan.searched)

    @cached_property
    def daemons(self) -> tuple[list[daemons.Lane], list[str]]:
        """What daemons say, and why others said nothing."""
        try:
            return daemons.ask(_daemons(tuple(self.desk.configs), tuple(self.desk.defines)))
        except ConfigError as error:  # it was right when the server began
            return [], [str(error)]

    def now(self) -> float:
        """Return the time: seconds since the epoch."""
        return time.time()

    def notes(self) -> list[str]:
        """Return what a reader has to know, when all is read."""
        return [*([self.scan.ended] if self.scan.ended else []), *self.scan.searched.notes]

    def problems(self) -> list[str]:
        """Return what could not be read."""
        return [*([self.failed] if self.failed else []), *self.scan.searched.problems]

    @property
    def _links(self) -> dashboard.Links:
        return dashboard.Links("/", self.search.filters.words)


@cache
def _daemons(configs: tuple[str, ...], defines: tuple[str, ...]) -> Sequence[daemons.Daemon]:
    """Return the daemons of some configurations; reading these takes a while."""
    return daemons.daemons(configs, defines)

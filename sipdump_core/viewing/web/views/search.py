"""Searches: the form, the one line, and the calls that match, as they are found."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import attrs
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from sipdump_core.calls.summary import CALL_STATES
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError, SipDumpError
from sipdump_core.reading.when import zone
from sipdump_core.record import PROTOS
from sipdump_core.viewing.listing import Row, sorted_rows
from sipdump_core.viewing.recent import Recent
from sipdump_core.viewing.web.addresses import query_of
from sipdump_core.viewing.web.desk import Desk, Scan, desk_of
from sipdump_core.viewing.web.streaming import FLUSH, Filling
from sipdump_core.viewing.words import Search

__all__ = ["asked", "calls", "form_values", "search"]

ROWS = 100
FIELDS = (
    ("user", "User", "in From, To or the request URI"),
    ("from", "From", "a user, as alice or +49*"),
    ("to", "To", "a user in To or the request URI"),
    ("ip", "Address", "10.0.0.5, 10.0.0.0/8 or 10.0.0.5:5060"),
    ("status", "Status", "503, 4xx or 400-499"),
    ("method", "Method", "INVITE"),
    ("ua", "User agent", "a part of User-Agent or Server"),
    ("call-id", "Call-ID", "all of it"),
    ("grep", "Text", "anywhere in a message, or /RE2/"),
    ("node", "Node", "that captured it"),
    ("since", "Since", "10:32, yesterday 9:00 or -15m"),
    ("until", "Until", "10:40"),
)
"""The fields of the form: a filter of ``find``, its name, and how it is written."""
CHOICES = (("state", "State", CALL_STATES), ("proto", "Transport", PROTOS))


async def search(request: Request) -> Response:
    """Return the form."""
    return desk_of(request).pages.page("search.html", **form_values(Search(), datetime.now().astimezone()))


async def calls(request: Request) -> Response:
    """Return the calls that match; what a form sends is led to the address of its search."""
    desk = desk_of(request)
    now = datetime.now().astimezone()
    given = query_of(request.scope)
    try:
        wanted = asked(given)
        if given != list(wanted.words):
            return RedirectResponse(f"/calls?{wanted.url}" if wanted.words else "/calls", 303)
        query = wanted.query(now, desk.stand_ins)
    except ConfigError as error:
        shown = Search() if any(name == "line" for name, _ in given) else _known(given)
        values = form_values(shown, now, line=dict(given).get("line", ""))
        return desk.pages.page("search.html", 400, **values | {"problem": str(error)})
    scan = desk.scan()
    limit = min(wanted.limit or (ROWS if wanted.limit is None else desk.limits.rows), desk.limits.rows)
    page = _Page(desk, scan, wanted, query, limit)
    pieces = desk.pages.pieces("calls.html", page=page, flush=FLUSH, **form_values(wanted, now))
    return Filling(desk, scan, pieces)


def form_values(wanted: Search, now: datetime, line: str = "") -> dict[str, Any]:
    """Return what the form of a search shows."""
    return {
        "wanted": wanted,
        "line": line or wanted.filters.line,
        "fields": FIELDS,
        "choices": CHOICES,
        "zone": zone(now),
        "problem": "",
    }


def asked(given: list[tuple[str, str]]) -> Search:
    """Read a search: its line where there is one, else its parameters; what has no value is left out.

    Raises:
        ConfigError: a word is not understood.
    """
    words = [(name, value) for name, value in given if value]
    lines = [value for name, value in words if name == "line"]
    search = Search.parse(lines[0]) if lines else Search(words)
    for name, _ in search.words:
        if name.startswith("leg-"):
            raise ConfigError(f"what links legs is said at the start: sipdump-read web --{name}", name)
    return search


def _known(given: list[tuple[str, str]]) -> Search:
    """Return what is understood of a search, so that a form shows it again."""
    found = Search()
    for word in given:
        try:
            found = Search((*found.words, word))
        except ConfigError:
            continue
    return found


@attrs.define
class _Page:
    """One page of calls, while it is found: what the template asks for, in this order."""

    desk: Desk
    scan: Scan
    wanted: Search
    query: Query
    limit: int
    count: int = 0
    oldest_us: int | None = None
    """When the last call began."""
    more: bool = False
    unsorted: bool = False
    """Whether there are calls that were not sorted among these."""
    failed: str = ""

    @property
    def sorted(self) -> bool:
        """Whether the calls are in another order than the newest first, so that all must be found before."""
        by, downwards = self.wanted.sort
        return (by.name, downwards) != ("began", True)

    def rows(self) -> Iterator[Row | None]:
        """Yield the calls, and None where some time has passed."""
        limit = self.desk.limits.rows if self.sorted else self.limit
        recent = Recent(self.scan.store, self.query, limit=limit, around=self.wanted.around, shown=self.desk.shown)
        self.scan.searched = recent.searched
        found: list[Row] = []
        try:
            for step in recent.steps():
                if self.sorted:
                    found += step.rows
                else:
                    yield from self._counted(step.rows)
                yield None
        except SipDumpError as error:
            self.failed = str(error)
        self.more = recent.more
        if self.sorted:
            by, downwards = self.wanted.sort
            self.unsorted = self.more
            self.more |= len(found) > self.limit
            yield from self._counted(sorted_rows(found, by, downwards=downwards)[: self.limit])

    def _counted(self, rows: "list[Row] | Any") -> Iterator[Row]:
        for row in rows:
            self.count += 1
            self.oldest_us = row.summary.began
            yield row

    def notes(self) -> list[str]:
        """Return what a reader has to know, when all is found."""
        searched = self.scan.searched
        ended = [self.scan.ended] if self.scan.ended else []
        if self.unsorted:
            ended.append(f"the latest {self.desk.limits.rows} calls were sorted, and there are more: narrow the search")
        return [*ended, *searched.notes]

    def problems(self) -> list[str]:
        """Return what could not be read."""
        return [*([self.failed] if self.failed else []), *self.desk.problems, *self.scan.searched.problems]

    def older(self) -> str:
        """Return the address of the calls before these; empty where there are none."""
        if not self.more or self.sorted or self.oldest_us is None:
            return ""
        before = f"{self.oldest_us / 1_000_000:.6f}"
        return f"/calls?{self.wanted.replaced(until='@' + before).url}"

    def longer(self) -> str:
        """Return the address of the same search with more calls on one page; empty where that is all."""
        most = self.desk.limits.rows
        if not self.more or self.limit >= most:
            return ""
        return f"/calls?{self.wanted.replaced(limit=str(min(most, self.limit * 5))).url}"

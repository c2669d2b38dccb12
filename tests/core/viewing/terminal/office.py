"""A terminal without a store: a test answers its requests, presses keys and reads the screen."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from textual.pilot import Pilot
from textual.widgets import Input

from sipdump_core.calls.call import Call
from sipdump_core.calls.ladder import lay_out
from sipdump_core.record import Record
from sipdump_core.viewing.listing import Row, row_of
from sipdump_core.viewing.live import Counts
from sipdump_core.viewing.terminal.app import Terminal
from sipdump_core.viewing.terminal.board import Board
from sipdump_core.viewing.terminal.wire import Came, Found, Open, Opened, Report, Request, Scanned, Seek
from sipdump_core.viewing.words import Search
from tests.core.reading.traffic import at

T = TypeVar("T", bound=Request)
LATER = at("23:00:00")


class Office:
    """Takes requests, and hands out the reports that a test gives it."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.reports: deque[Report] = deque()
        self.closed = False

    def ask(self, request: Request) -> None:
        self.asked.append(request)

    def take(self) -> Report | None:
        return self.reports.popleft() if self.reports else None

    def close(self) -> None:
        self.closed = True

    def last(self, kind: type[T]) -> T:
        return next(request for request in reversed(self.asked) if isinstance(request, kind))


class Desk:
    """A running terminal, as a test sees it."""

    def __init__(self, office: Office, board: Board, pilot: "Pilot[None]") -> None:
        self.office, self.board, self.pilot = office, board, pilot

    @property
    def app(self) -> Any:
        return self.pilot.app

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without the spaces at the ends."""
        return [strip.text.rstrip() for strip in self.app.screen._compositor.render_strips()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def give(self, *reports: Report) -> None:
        """Answer, and wait until it is drawn."""
        self.office.reports.extend(reports)
        for _ in range(400):
            await self.pilot.pause(0.01)
            if not self.office.reports:
                break
        for _ in range(5):
            self.app._tick()
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        """Type into the prompt."""
        self.app.screen.query_one("#answer", Input).insert_text_at_cursor(text)
        await self.pilot.pause()

    async def list(self, *calls: Sequence[Record], over: bool = True) -> None:
        """Let a scan find calls."""
        number = self.office.last(Seek).number
        await self.give(Found(number, rows(*calls), (), at("10:00:00")))
        if over:
            await self.give(Scanned(number, "all", 3, (), ()))

    async def come(self, *calls: Sequence[Record], messages: int = 1, lost: int = 0) -> None:
        """Let calls come."""
        counts = Counts(messages, 1, 1, 0)
        await self.give(Came(self.office.last(Seek).number, rows(*calls), (), lost, counts, ()))

    async def draw(self, *calls: Sequence[Record], legs: int = 0, complete: bool = True) -> None:
        """Answer the request for a ladder."""
        ladder = lay_out([Call.of(each) for each in calls], now_us=LATER) if calls else None
        await self.give(Opened(self.office.last(Open).number, ladder, complete, legs, ()))


def rows(*calls: Sequence[Record]) -> list[Row]:
    return [row_of(Call.of(each), LATER) for each in calls]


def look(
    script: Callable[[Desk], Awaitable[None]], line: str = "", size: tuple[int, int] = (80, 24), limit: int = 100
) -> None:
    """Run a terminal, and a script that uses it."""

    async def run() -> None:
        office = Office()
        search = Search.parse(line)
        board = Board(office, search, "/var/lib/sipdump", limit)
        board.seek(search)
        async with Terminal(board).run_test(size=size) as pilot:
            await pilot.pause()
            await script(Desk(office, board, pilot))

    asyncio.run(run())

"""The board: what the terminal knows, and what it has asked for. It draws nothing."""

import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Protocol

import attrs

from sipdump_core.reading.lines import counted, local_time
from sipdump_core.viewing.listing import Column
from sipdump_core.viewing.live import Counts
from sipdump_core.viewing.terminal.rows import Rows
from sipdump_core.viewing.terminal.wire import (
    Broken,
    Came,
    Found,
    Hold,
    Open,
    Opened,
    Refused,
    Report,
    Request,
    Save,
    Saved,
    Scanned,
    Seek,
)
from sipdump_core.viewing.words import Search

__all__ = ["LIMIT", "Board", "Looks", "Office"]

LIMIT = 20_000
"""Calls that are listed, if nothing else is said."""
_BUSY = 0.015
"""Seconds that reports may take before a key has its turn."""
_HELD = 5000
"""Reports of what came that are kept while the list is paused."""


class Office(Protocol):
    """Who answers requests: a Desk, or a test."""

    def ask(self, request: Request) -> None:
        """Send a request."""

    def take(self) -> Report | None:
        """Return the next report; None while there is none."""

    def close(self) -> None:
        """End it."""


@attrs.define
class Looks:
    """How things are shown, as the viewer chose."""

    columns: Sequence[Column]
    colours: str = "state"
    """Of the list: ``state``, ``line`` or ``none``."""
    arrows: str = "kind"
    """Of a ladder: ``kind``, ``leg``, ``transaction`` or ``none``."""
    clock: str = "since"
    """Of a ladder: ``since`` the first message, ``delta`` to the one before, or ``time`` of day."""
    preview: bool = True
    """Whether a message stands beside its ladder, where there is room."""
    calls_only: bool = False
    follows: bool = True
    """Whether the cursor stays with the newest call while it is there."""


class Board:
    """What is known.

    Args:
        office: who answers.
        search: the first search.
        place: where it reads, for the title.
        limit: how many calls are listed; 0: all.
    """

    def __init__(self, office: Office, search: Search, place: str, limit: int = LIMIT) -> None:
        self.place = place
        self.search = search
        by, downwards = search.sort
        self.rows = Rows(limit, by, downwards=downwards)
        self.looks = Looks(search.columns)
        self.text = ""
        """What the list is narrowed by."""
        self.selected: dict[str, None] = {}
        self.paused = False
        self.broken: Broken | None = None
        self.counts = Counts(0, 0, 0, 0)
        self.lost = 0
        """Changes that were lost, because the terminal was slow or paused."""
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.searched: Scanned | None = None
        """How the scan ended; None while it goes on."""
        self.back_us: int | None = None
        """How far back it is."""
        self.watched: frozenset[str] = frozenset()
        """Call-IDs of the calls whose ladder is shown."""
        self.changed: set[str] = set()
        """Those of them that changed since somebody looked."""
        self._office = office
        self._number = 0
        self._search_number = 0
        self._waiting: dict[int, Callable[[Report], None]] = {}
        self._held: list[Came] = []
        self._cleared = False

    def seek(self, search: Search) -> None:
        """Make a search, in place of the one before."""
        self.search = search
        self.rows.clear()
        self._held.clear()
        self.selected.clear()
        self.searched, self.back_us, self.lost = None, None, 0
        self._cleared = False
        self.problems.clear()
        self.notes.clear()
        limit = self.rows.limit if search.limit is None else search.limit
        self.rows.limit = limit
        self._search_number = self._next()
        self._office.ask(Seek(self._search_number, search.words, limit))

    def hold(self) -> None:
        """End the scan."""
        self._office.ask(Hold())

    def clear(self) -> None:
        """Take all calls from the list; only those that come are listed from now on."""
        self.hold()
        self._cleared = True
        self.rows.clear()
        self.selected.clear()

    def open(self, call_ids: Sequence[str], answered: Callable[[Report], None], *, legs: bool) -> int:
        """Ask for a ladder; ``answered`` gets :class:`Opened`, perhaps twice, or :class:`Refused`.

        Returns:
            The request's number, for :meth:`forget`.
        """
        number = self._next()
        self._waiting[number] = answered
        self._office.ask(Open(number, call_ids, legs))
        return number

    def save(
        self, call_ids: Collection[str], path: str, answered: Callable[[Report], None], *, legs: bool, replace: bool
    ) -> None:
        """Ask for a file; ``answered`` gets :class:`Saved` or :class:`Refused`."""
        number = self._next()
        self._waiting[number] = answered
        self._office.ask(Save(number, list(call_ids), path, legs, replace))

    def forget(self, number: int) -> None:
        """Take no answer to a request any more."""
        self._waiting.pop(number, None)

    def pause(self) -> None:
        """Let the list stand still, or go on with what came meanwhile."""
        self.paused = not self.paused
        if not self.paused:
            for report in self._held:
                self._came(report)
            self._held.clear()

    def narrow(self, text: str) -> None:
        """Show only the calls that have a text somewhere."""
        self.text = text
        self.rows.narrow(text, calls_only=self.looks.calls_only)

    def targets(self, call_id: str | None) -> list[str]:
        """Return the calls that are selected, else the one that the cursor is on."""
        return list(self.selected) or ([] if call_id is None else [call_id])

    def drain(self) -> bool:
        """Take the reports that came; return whether there was one."""
        began = time.monotonic()
        some = False
        while time.monotonic() - began < _BUSY and (report := self._office.take()) is not None:
            some = True
            self._take(report)
        return some

    def now(self) -> datetime:
        """Return the present, with its zone."""
        return datetime.now().astimezone()

    def close(self) -> None:
        """End the reader."""
        self._office.close()

    @property
    def progress(self) -> str:
        """How far the scan is, for people."""
        if self.broken:
            return self.broken.error
        ended = self.searched
        if ended is None:
            return "reading" if self.back_us is None else f"reading, back to {_when(self.back_us)}"
        if ended.why == "all":
            return f"all of {counted(ended.segments, 'segment')} read" if ended.segments else "nothing is stored there"
        back = "" if self.back_us is None else f" at {_when(self.back_us)}"
        if ended.why == "limit":
            return f"older ones are not listed (limit {self.rows.limit:,})"
        return f"interrupted{back}"

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _take(self, report: Report) -> None:
        if isinstance(report, Broken):
            self.broken = report
            return
        if isinstance(report, Found | Scanned | Came):
            if report.number == self._search_number:
                self._listed(report)
        elif isinstance(report, Refused) and report.number == self._search_number:
            self.problems.append(report.error)
            self.searched = Scanned(report.number, "all", 0, (), ())
        elif answered := self._waiting.get(report.number):
            if isinstance(report, Saved | Refused) or (isinstance(report, Opened) and report.complete):
                del self._waiting[report.number]
            answered(report)

    def _listed(self, report: Found | Scanned | Came) -> None:
        if isinstance(report, Found):
            self.back_us = report.back_us or None
            if not self._cleared:
                self._put(report)
        elif isinstance(report, Scanned):
            self.searched = report
            self._note(report.problems)
            self.notes += [note for note in report.notes if note not in self.notes]
        else:
            self.counts = report.counts
            self._note(report.problems)
            if not self.paused:
                self._came(report)
                return
            self._held.append(report)
            if len(self._held) > _HELD:
                self.lost += len(self._held.pop(0).rows)

    def _came(self, report: Came) -> None:
        self.lost += report.lost
        self.changed |= self.watched.intersection(row.call_id for row in report.rows)
        self._put(report)

    def _put(self, report: Found | Came) -> None:
        self.rows.put(report.rows)
        self.rows.remove(report.gone)
        for call_id in report.gone:
            self.selected.pop(call_id, None)

    def _note(self, problems: Sequence[str]) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]
        del self.problems[:-100]


def _when(time_us: int) -> str:
    return local_time(time_us).strftime("%Y-%m-%d %H:%M:%S")

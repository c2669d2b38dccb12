"""The process table: version, start and processes, as a ``.meta`` file lists them.

The format is Kamailio's: ``sipdump_write_meta`` of Kamailio 5.6.3.
"""

import threading
import time

from sipdump_core.version import VERSION

__all__ = ["ProcessTable"]


class ProcessTable:
    """Who handled messages: processes and threads here, capture agents elsewhere. Any thread may use it.

    Args:
        start: when the daemon or program started, seconds since the epoch.
        limit: how many rows it may have, so that a hostile sender cannot grow it for ever.
    """

    def __init__(self, start: float, limit: int = 1000) -> None:
        self._start = start
        self._limit = limit
        self._rows: dict[tuple[int, int, str], None] = {}
        self._retired: set[tuple[int, int, str]] = set()
        self._lock = threading.Lock()
        self.changes = 0
        """Grows with each change, so that a writer sees when a file is out of date."""

    def add(self, index: int, pid: int, description: str) -> None:
        """Add a row, unless it is known."""
        with self._lock:
            self._add((index, pid, description))

    def enter(self, pid: int, description: str) -> int:
        """Return the index of the row with this pid and description; if there is none, add one at the next index."""
        with self._lock:
            known = next((row[0] for row in self._rows if row[1:] == (pid, description)), None)
            if known is not None:
                return known
            index = max((row[0] for row in self._rows), default=-1) + 1
            self._add((index, pid, description))
            return index

    def retire(self, index: int, pid: int, description: str) -> None:
        """Mark the row of a process that has ended: the open segment keeps it, the next one starts without it."""
        with self._lock:
            self._retired.add((index, pid, description))

    def remove(self, index: int, pid: int, description: str) -> None:
        """Remove a row that was wrong."""
        with self._lock:
            if self._rows.pop((index, pid, description), 0) is None:
                self.changes += 1

    def begin_segment(self) -> None:
        """Remove the rows that were retired."""
        with self._lock:
            for row in self._retired:
                self._rows.pop(row, None)
            self._retired.clear()

    def _add(self, row: tuple[int, int, str]) -> None:
        self._retired.discard(row)
        if row not in self._rows and len(self._rows) < self._limit:
            self._rows[row] = None
            self.changes += 1

    def render(self) -> str:
        """Return the text of a ``.meta`` file."""
        with self._lock:
            rows = sorted(self._rows)
        lines = [
            "v: 1.0",
            f"version: sipdump {VERSION}",
            f"start: {time.asctime(time.localtime(self._start))}",
            f"nrprocs: {len(rows)}",
            *(f"process: {index} {pid} {description}" for index, pid, description in rows),
        ]
        return "\n".join(lines) + "\n"

"""The ``.meta`` file beside each segment: version, start, process table, in the format of Kamailio's sipdump.

Source: ``sipdump_write_meta`` of Kamailio 5.6.3.
"""

import contextlib
import os
import threading
import time
from collections.abc import Collection

from sipdump_core.errors import SegmentExistsError, StorageError
from sipdump_core.segment import Segment
from sipdump_core.version import VERSION

__all__ = ["ProcessTable", "claim", "create", "rewrite", "sweep"]

META_SUFFIX = ".meta"


class ProcessTable:
    """Who handled messages: processes and threads here, capture agents elsewhere.

    Args:
        start: when the daemon or program started, seconds since the epoch.
        limit: how many rows are kept; a hostile sender may not grow the table for ever.
    """

    def __init__(self, start: float, limit: int = 1000) -> None:
        self._start = start
        self._limit = limit
        self._rows: dict[tuple[int, int, str], None] = {}
        self._retired: set[tuple[int, int, str]] = set()
        self._lock = threading.Lock()
        self.changes = 0
        """Grows with each new row, so that a writer sees when a file is out of date."""

    def add(self, index: int, pid: int, description: str) -> None:
        """Add a row, unless it is known."""
        with self._lock:
            self._add((index, pid, description))

    def enter(self, pid: int, description: str) -> int:
        """Add a row under the next free index, unless one of that pid and description is known; give its index."""
        with self._lock:
            known = next((row[0] for row in self._rows if row[1:] == (pid, description)), None)
            if known is not None:
                return known
            index = max((row[0] for row in self._rows), default=-1) + 1
            self._add((index, pid, description))
            return index

    def retire(self, index: int, pid: int, description: str) -> None:
        """Mark the row of a process that has ended: the open segment keeps it, the next one begins without it."""
        with self._lock:
            self._retired.add((index, pid, description))

    def remove(self, index: int, pid: int, description: str) -> None:
        """Take out a row that was wrong."""
        with self._lock:
            if self._rows.pop((index, pid, description), 0) is None:
                self.changes += 1

    def begin_segment(self) -> None:
        """Take out the rows that were retired."""
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
        """Give the text of a ``.meta`` file."""
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


def claim(folder: str, segment: Segment, suffixes: list[str], text: str, mode: int) -> Segment:
    """Find a name that is free under every suffix, and take it by creating its ``.meta`` file.

    Args:
        segment: the name to begin with; ``-1``, ``-2`` ... are tried when it is taken.

    Returns:
        The segment that was claimed.

    Raises:
        StorageError: the file cannot be made; the segment can do without it.
    """
    while True:
        if not any(os.path.lexists(os.path.join(folder, segment.stem + suffix)) for suffix in suffixes):
            try:
                create(folder, segment, text, mode)
            except SegmentExistsError:
                pass
            else:
                return segment
        segment = segment.next()


def create(folder: str, segment: Segment, text: str, mode: int) -> None:
    """Write a segment's ``.meta`` where there is none.

    Raises:
        SegmentExistsError: there is one, of another segment.
        StorageError: it cannot be written.
    """
    _create(os.path.join(folder, segment.stem + META_SUFFIX), text, mode)


def rewrite(folder: str, segment: Segment, text: str, mode: int) -> None:
    """Put a newer table in the place of the segment's own ``.meta``, at once for all readers.

    Raises:
        StorageError: it cannot be written; the old one stays.
    """
    path = os.path.join(folder, segment.stem + META_SUFFIX)
    draft = os.path.join(folder, f".{segment.stem}{META_SUFFIX}.{os.getpid()}")
    with contextlib.suppress(OSError):
        os.unlink(draft)  # left by a crash of a process with our number
    _create(draft, text, mode)
    try:
        os.replace(draft, path)
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error


def sweep(folder: str, prefix: str, deleted: Collection[str], before: float) -> None:
    """Remove ``.meta`` files that stand alone: those of the deleted stems, and others last written ``before``."""
    stems: dict[str, set[str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(prefix):
                stamp, dot, suffix = name[len(prefix) :].partition(".")
                stems.setdefault(prefix + stamp, set()).add(dot + suffix)
    for stem, suffixes in stems.items():
        if suffixes == {META_SUFFIX} and Segment.parse(stem, prefix, ""):
            path = os.path.join(folder, stem + META_SUFFIX)
            with contextlib.suppress(OSError):
                if stem in deleted or os.lstat(path).st_mtime < before:
                    os.unlink(path)


def _create(path: str, text: str, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)
            view = memoryview(text.encode())
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error

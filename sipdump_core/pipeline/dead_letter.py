"""The dead letter: segments of the records that a backend's store will never take.

They are files ``<stem>.dead`` in the core's folder, whatever the kind of the backend, in the journal's format. A note
before each group of records says, as a JSON object, which ``backend`` could not store them, the ``reason``, and by
``batch`` and ``indexes`` which records of which batch they are. Note and records are written at once, so a crash leaves
both or neither; a batch that a spool delivers again after it does not get in twice.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import attrs

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.folder import open_regular
from sipdump_core.errors import SegmentExistsError, StorageError, StorageFullError
from sipdump_core.log import Event, log
from sipdump_core.pipeline.journal import NOTE, Damage, Frame, Journal, scan
from sipdump_core.segment import Segment

__all__ = ["DeadLetter", "DeadLetters"]


class DeadLetters(Journal):
    """The dead letters of all backends of a folder and prefix, as one backend of files: to be listed, read and pruned.

    Args:
        site: where they are.
    """

    name = "dead"
    suffix = ".dead"

    def __init__(self, site: Site) -> None:
        super().__init__(site, self.suffix)

    def noted(self, text: str, stayed: Sequence[int], count: int) -> str:
        """Return a note with the indexes of those records that stay."""
        try:
            note = json.loads(text)
            indexes = note["indexes"]
            if len(indexes) != count:
                return text
            return json.dumps({**note, "indexes": [indexes[place] for place in stayed]})
        except (ValueError, TypeError, KeyError, RecursionError):
            return text


class DeadLetter:
    """What one backend refuses. Used by one thread.

    Args:
        site: where its segments go.
        backend: the backend's name.
        limit: bytes that all dead letters of this folder and prefix may have; 0: nothing is kept.
        recall: look whether an earlier run has kept a record already; for a backend whose batches a spool keeps.
    """

    def __init__(self, site: Site, backend: str, limit: int, *, recall: bool = False) -> None:
        self._backend = backend
        self._limit = limit
        self._recall = recall
        self._file = DeadLetters(site)
        self._others = 0
        """Bytes of the other dead letters when the file was opened."""
        self._known: set[tuple[str, int]] | None = None

    @property
    def path(self) -> str:
        """The path of the open file."""
        return self._file.path

    def put(self, segment: Segment, batch: Batch, reason: str) -> int:
        """Keep records.

        Args:
            segment: the segment that they were for.
            batch: the records: a whole batch, or a part of one.
            reason: why the store refuses them.

        Returns:
            How many were not there already.

        Raises:
            StorageFullError: the limit is reached.
            StorageError: they cannot be written.
        """
        if self._known is None:
            self._known = self._kept() if self._recall else set()
        new = [place for place, index in enumerate(batch.indexes) if (batch.whole, index) not in self._known]
        if not new:
            return 0
        part = batch.part(new)
        self._make_room(sum([len(record.buf) for record in part]))
        if self._file.fileno() < 0:
            self._open(segment)
        note = {"backend": self._backend, "reason": reason, "batch": part.whole, "indexes": list(part.indexes)}
        self._file.write_noted(json.dumps(note), part)
        if self._recall:
            self._known.update((part.whole, index) for index in part.indexes)
        return len(part)

    def check(self) -> None:
        """Go on in another file if the open one is no longer good.

        Raises:
            StorageError: it is not.
        """
        try:
            self._file.check()
        except StorageError:
            self.close()
            raise

    def close(self) -> None:
        """Seal the open file.

        Raises:
            StorageError: its last data may be lost.
        """
        self._file.close()

    def forget(self) -> None:
        """In a forked child: let go of the open file; it belongs to the parent."""
        self._file.forget()

    def _make_room(self, size: int) -> None:
        """See that so many bytes more are allowed; the other files are looked at when one is opened."""
        if self._file.fileno() < 0:
            self._others = sum(stored.size for stored in self._file.segments())
        taken = self._others + (self._file.size if self._file.fileno() >= 0 else 0)
        if taken + size > self._limit:
            reason = f"the dead letters may have {self._limit} bytes (dead_max_bytes)"
            hint = "find out why they are refused, and delete old ones"
            raise StorageFullError("keep refused records", self._file.site.folder, reason, hint)

    def _open(self, segment: Segment) -> None:
        name = attrs.evolve(segment, suffix=self._file.suffix)
        while True:
            try:
                self._file.open(name)
            except SegmentExistsError:
                name = name.next()
            else:
                return

    def _kept(self) -> set[tuple[str, int]]:
        """Return what earlier runs have kept, by batch and index."""
        kept: set[tuple[str, int]] = set()
        for stored in self._file.segments():
            try:
                with open_regular(stored.location) as file:
                    kept.update(_names(file, self._backend))
            except OSError as error:  # it was pruned, say
                log.warning(Event("dead letter cannot be read", path=stored.location, error=error))
        return kept


def _names(file: BinaryIO, backend: str) -> Iterator[tuple[str, int]]:
    """Yield by batch and index the records that a dead letter holds of one backend."""
    note: dict[str, Any] = {}
    count = 0
    for frame in scan(file):
        if isinstance(frame, Damage):
            note = {}
        elif frame.kind == NOTE:
            note, count = _parsed(frame), 0
        elif note.get("backend") == backend:
            count += frame.count
            if count == len(note["indexes"]):  # it is whole
                yield from ((note["batch"], index) for index in note["indexes"])


def _parsed(frame: Frame) -> dict[str, Any]:
    """Return what a note says; nothing if it is of another form."""
    try:
        note = json.loads(frame.text())
        return note if isinstance(note["batch"], str) and isinstance(note["indexes"], list) else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}

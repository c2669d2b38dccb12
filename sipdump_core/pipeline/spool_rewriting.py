"""Taking records out of the journals of a spool, while a daemon delivers from them or none runs.

How far a journal was delivered, and the names of its batches, are offsets of frames and numbers of records. So a
journal is written anew with frames of the same size at the same places, and a mark where a record was: an empty message
of a time that no record has. Who delivers sees that the file was replaced, lets go of the old one, and goes on in the
new one at the same place.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.folder import open_regular
from sipdump_core.drivers.rewriting import DRAFT_SUFFIX, Change, Rewritten, alone, new_file, publish
from sipdump_core.errors import StorageError
from sipdump_core.locks import in_use
from sipdump_core.ownership import is_ours, is_trusted
from sipdump_core.pipeline.journal import NOTE, Damage, Frame, Journal, scan
from sipdump_core.pipeline.spool import SpoolOptions
from sipdump_core.pipeline.spool_reader import GONE, is_gone
from sipdump_core.record import Flow, Record
from sipdump_core.segment import StoredSegment

__all__ = ["SpoolJournals", "spools_of"]

_WAIT = 10.0
"""Seconds to wait for another one who rewrites there, or puts a delivered journal away."""
_LET_GO = 60.0
"""Seconds to wait for a daemon to let go of what was replaced: it looks between two tries."""
_PAUSE = 0.05
_HEADER = 16
_NO_FLOW = Flow("", 0, 0, "ws", "ipv6", "::", 0, "::", 0)  # there is none shorter


class SpoolJournals(Journal):
    """The journals of a backend's spool, as a backend of files: to be listed, read and rewritten, never pruned.

    Args:
        backend: the backend that they wait for.
        folder: the spool.
    """

    name = "spool"

    def __init__(self, backend: Backend, folder: str) -> None:
        super().__init__(attrs.evolve(backend.site, folder=folder), f".{backend.name}.spool")

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Yield the records of every whole frame, but for those that were taken out."""
        return (record for record in super().decode(file) if not is_gone(record))

    def rewrite(self, stored: StoredSegment, change: Change) -> Rewritten:
        """Replace a journal by what a change makes of it, at once, and wait until nobody delivers from the old one.

        Raises:
            StorageError: it is being written, it is damaged, or a daemon does not let go of the old one.
        """
        path = stored.location
        folder = os.path.dirname(path)
        draft = os.path.join(folder, f".{os.path.basename(path)}{DRAFT_SUFFIX}")
        try:
            with alone(folder, "rewrite", _WAIT), open_regular(path) as file:
                self._check_owner(file, folder)
                if is_ours(draft):
                    os.unlink(draft)  # left by a crash
                try:
                    done = self.rewrite_file(file, draft, change)
                    if done.changed:
                        publish(draft, path, file, done, self.count_records)
                finally:
                    if is_ours(draft):
                        os.unlink(draft)
                old = os.dup(file.fileno())
        except OSError as error:
            raise StorageError.from_os("rewrite", path, error) from error
        try:
            if done.changed:
                _wait_for_readers(old, path)
        finally:
            os.close(old)
        return done

    def rewrite_file(self, file: BinaryIO, draft: str, change: Change) -> Rewritten:
        """Write what a change makes of a journal into a new one, with all frames where they were.

        Raises:
            StorageError: it is damaged: nobody can say whose the records there are.
        """
        done = Rewritten()
        header = os.pread(file.fileno(), _HEADER, 0)
        with new_file(draft) as made:
            made.write(header)
            for frame in scan(file):
                if isinstance(frame, Damage):
                    if frame.torn:
                        break  # a crash has cut it off; no reader has ever had it
                    reason = f"it is damaged from {frame.offset} to {frame.end}"
                    raise StorageError("rewrite", file.name, reason, "let the daemon deliver it, and try again")
                data, done = self._changed(file, frame, header[-8:], change, done)
                made.write(data)
        return done

    def _changed(
        self, file: BinaryIO, frame: Frame, salt: bytes, change: Change, done: Rewritten
    ) -> tuple[bytes, Rewritten]:
        """Return a frame after a change, and what was done up to it."""
        same = os.pread(file.fileno(), frame.end - frame.offset, frame.offset)
        if frame.kind == NOTE:
            return same, done
        try:
            before = list(frame.columns().records())
        except ValueError as error:
            raise StorageError("rewrite", file.name, f"the frame at {frame.offset}: {error}") from error
        after = [record if is_gone(record) else change.apply(record) for record in before]
        data = same if after == before else self._fitted(frame, salt, before, after)
        there = [(one, other) for one, other in zip(before, after, strict=True) if not is_gone(one)]
        kept = sum(one is other for one, other in there)
        gone = sum(other is None for _, other in there)
        return data, Rewritten(done.kept + kept, done.removed + gone, done.masked + len(there) - kept - gone)

    def _fitted(self, frame: Frame, salt: bytes, before: Sequence[Record], after: list[Record | None]) -> bytes:
        """Return a frame of the same size; masked messages that are too long for that are taken out, longest first."""
        growth = [len(new.buf) - len(old.buf) if new else 0 for old, new in zip(before, after, strict=True)]
        longer = sorted((place for place, more in enumerate(growth) if more > 0), key=growth.__getitem__)
        while True:
            flow = next((record.flow for record in after if record and not is_gone(record)), _NO_FLOW)
            mark = Record(GONE, flow, b"")
            data = self.refit(frame, salt, [mark if not one or is_gone(one) else one for one in after])
            if data is not None:
                return data
            if not longer:
                raise StorageError("rewrite", self.site.folder, f"the frame at {frame.offset} would be longer")
            after[longer.pop()] = None

    def _check_owner(self, file: BinaryIO, folder: str) -> None:
        status = os.fstat(file.fileno())
        if not is_trusted(status.st_uid, folder):
            reason = f"it belongs to another user ({status.st_uid})"
            raise StorageError("rewrite", file.name, reason, "run this as that user")
        if in_use(file.fileno()):
            raise StorageError("rewrite", file.name, "it is open for writing", "rotate, and try again")


def spools_of(backends: Sequence[Backend]) -> list[SpoolJournals]:
    """Return the spools that backends have, as far as they are there."""
    found = []
    for backend in backends:
        options = getattr(backend, "opts", None)
        if isinstance(options, SpoolOptions) and options.spool and os.path.isdir(options.spool):
            found.append(SpoolJournals(backend, options.spool))
    return found


def _wait_for_readers(fd: int, path: str) -> None:
    """Wait until no daemon has a replaced file open: then it has nothing of it in memory.

    Raises:
        StorageError: that takes too long.
    """
    end = time.monotonic() + _LET_GO
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                reason = "it is rewritten, but the daemon still delivers what it has read of the old one"
                hint = "its store does not answer; look at sipdump.stats, and erase again when it does"
                raise StorageError("rewrite", path, reason, hint) from None
            time.sleep(_PAUSE)
        except OSError:
            return  # not every file system has locks
        else:
            return

"""The thread that has Parquet files made of write-ahead files, by a process of its own."""

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from typing import Protocol

import attrs

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Recovered
from sipdump_core.errors import StorageError
from sipdump_core.log import Event, Limit, log
from sipdump_core.ownership import is_ours
from sipdump_core.segment import Segment
from sipdump_core.threads import lasting
from sipdump_parquet.child import Child
from sipdump_parquet.errors import BusyError, ContentError
from sipdump_parquet.options import ParquetOptions
from sipdump_parquet.wal import hidden_path, keep_aside, wal_path

__all__ = ["Sealer"]

ATTEMPTS = 3
"""After so many failures that are due to its content, a write-ahead file is given up."""

_BACKOFF = (1.0, 300.0)
_BUSY_TRIES = 5
"""How often it is tried to get at what an earlier run left and a process has open: that run's may be about to end."""
_BITES = 4
"""Of what an open segment gets, a part of ``memory`` is taken at a time, so that its close leaves little to do."""
_IDLE_SECONDS = 5.0
"""So long the process that seals is kept for the next segment."""


@attrs.define(eq=False)
class _Job:
    """A write-ahead file to seal."""

    segment: Segment
    left: bool = False
    """An earlier run left it: a process that has it open takes care of it."""
    due: float = 0.0
    attempts: int = 0
    faults: int = 0
    """How many attempts failed because of its content."""
    error: str = ""


class Hands(Protocol):
    """Who does it: a :class:`~sipdump_parquet.child.Child`; in tests, this process."""

    def take(self, path: str, size: int) -> int:
        """Sort what is already in an open write-ahead file, and return how far that is."""

    def seal(self, segment: Segment, *, own: bool) -> Recovered | None:
        """Make a Parquet file of a closed one."""

    def close(self) -> None:
        """Release memory."""

    def forget(self) -> None:
        """Let go of it, in a process that was forked from the one that has it."""


class Sealer:
    """A thread that has segments sealed, one by one.

    Args:
        options: of the backend.
        site: of the backend.
        left: what earlier runs left; it is sealed first.
    """

    def __init__(self, options: ParquetOptions, site: Site, left: Iterable[Segment]) -> None:
        self._options = options
        self._site = site
        self._jobs = [_Job(segment, left=True) for segment in left]
        self._growing = ("", 0)
        self._early = ""
        """The open file that was taken in part, and that the process holds so much of."""
        self._due = (self._early, options.memory)
        """The open file, and the size at which more of it is taken."""
        self._hands: Hands = Child(options, site)
        self._stopping = False
        self._changed = threading.Condition()
        self._log = Limit()
        self._thread = lasting(self._run, "sipdump-parquet-seal")
        self._thread.start()

    def stop(self) -> None:
        """Seal what is closed, without waiting for what has failed, and stop."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def grown(self, path: str, size: int) -> None:
        """Note how many bytes of the open write-ahead file are final."""
        with self._changed:
            self._growing = (path, size)
            if self._has_grown():
                self._changed.notify_all()

    def forget(self) -> None:
        """Let go of thread and process: they belong to the process that this one was forked from."""
        self._hands.forget()

    def closed(self, segment: Segment) -> None:
        """Queue a segment for sealing."""
        with self._changed:
            self._growing = ("", 0)
            self._jobs.append(_Job(segment))
            self._changed.notify_all()

    def health(self) -> str:
        """Report how many segments cannot be sealed, and why."""
        with self._changed:
            failing = [job for job in self._jobs if job.error]
        return f"{len(failing)} segments cannot be sealed: {failing[0].error}" if failing else ""

    def _run(self) -> None:
        try:
            while (work := self._wait()) is not None:
                if isinstance(work, _Job):
                    self._seal(work)
                else:
                    self._take(*work)
        finally:
            self._hands.close()

    def _wait(self) -> "_Job | tuple[str, int] | None":
        """Wait for work, and return it; None at the end. Without work, there is no process either for long."""
        idle_at: float | None = time.monotonic() + _IDLE_SECONDS
        while True:
            with self._changed:
                work = self._next()
                if work is not None or self._stopping:
                    return work
                moments = [job.due for job in self._jobs]
                if idle_at is not None and not self._early:
                    moments.append(idle_at)
                self._changed.wait(max(0.0, min(moments) - time.monotonic()) if moments else None)
            if idle_at is not None and not self._early and time.monotonic() >= idle_at:
                self._hands.close()
                idle_at = None

    def _next(self) -> "_Job | tuple[str, int] | None":
        now = time.monotonic()
        job = next((job for job in self._jobs if job.due <= now), None)
        if job is None and self._has_grown():
            return self._growing
        return job

    def _has_grown(self) -> bool:
        path, size = self._growing
        return bool(path) and size >= (self._due[1] if self._due[0] == path else self._options.memory)

    def _take(self, path: str, size: int) -> None:
        """Have sorted what is already in the open write-ahead file, so that less is left to do after its close."""
        taken = -1
        try:
            taken = self._hands.take(path, size)
        except Exception as error:  # noqa: BLE001 - it is tried again when the segment is closed
            self._log.warn("early", "write-ahead file cannot be sorted yet", path=path, error=error)
        held = taken == size
        self._early = path if held else ""
        # what failed begins anew, less and less often
        self._due = (path, size + self._options.memory // _BITES if held else 2 * size)

    def _seal(self, job: _Job) -> None:
        path = wal_path(job.segment, self._site)
        self._early = ""
        error: Exception | None = None
        start = time.monotonic()
        recovered = None
        try:
            recovered = self._hands.seal(job.segment, own=not job.left)
        except BusyError as busy:
            if not job.left:
                error = busy
            elif self._comes_again(job):
                return
        except Exception as failure:  # noqa: BLE001 - what fails waits, and holds nothing else up
            error = failure
        if recovered:
            fields = {"records": recovered.records, "seconds": round(time.monotonic() - start, 3)}
            log.info(Event("parquet file written", path=recovered.location, recovered=job.left, **fields))
        elif not error and not job.left and not job.attempts:  # else an attempt that was killed had just done it
            log.warning(Event("write-ahead file is gone, and was not sealed", path=path))
        if error:
            self._failed(job, path, error)
        with self._changed:
            if not error or job.faults == ATTEMPTS:
                self._jobs.remove(job)

    def _comes_again(self, job: _Job) -> bool:
        """Put off what a process has open: the run that left it may be about to end."""
        job.attempts += 1
        job.due = time.monotonic() + _wait_s(job.attempts)
        return job.attempts < _BUSY_TRIES and not self._stopping

    def _failed(self, job: _Job, path: str, error: Exception) -> None:
        job.attempts += 1
        job.error = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        job.due = time.monotonic() + _wait_s(job.attempts)
        self._log.warn("seal", "segment cannot be sealed", path=path, error=job.error)
        if isinstance(error, ContentError) or not isinstance(error, StorageError):
            job.faults += 1
            if job.faults == ATTEMPTS:
                try:
                    kept = keep_aside(path)
                    os.unlink(path)
                except FileNotFoundError:
                    return
                except OSError as refusal:
                    job.faults -= 1
                    self._log.warn("aside", "write-ahead file cannot be kept aside", path=path, error=refusal)
                    return
                draft = hidden_path(job.segment, self._site, "tmp")  # of an attempt that was killed
                with contextlib.suppress(OSError):
                    if is_ours(draft):
                        os.unlink(draft)
                log.error(Event("write-ahead file is given up, and kept", kept=kept, error=job.error))


def _wait_s(attempts: int) -> float:
    first, longest = _BACKOFF
    return min(first * 2.0 ** min(attempts - 1, 10), longest)

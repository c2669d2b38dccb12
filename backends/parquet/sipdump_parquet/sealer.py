"""The thread that makes Parquet files of write-ahead files."""

import os
import threading
import time
from collections.abc import Iterable

import attrs
import pyarrow as pa

from sipdump_core.drivers.base import Site
from sipdump_core.errors import StorageError
from sipdump_core.log import Event, Limit, log
from sipdump_core.segment import Segment
from sipdump_core.threads import lasting
from sipdump_parquet.conversion import BusyError, Conversion, keep_aside, seal, wal_path
from sipdump_parquet.files import ContentError
from sipdump_parquet.options import ParquetOptions

__all__ = ["Sealer"]

ATTEMPTS = 3
"""After so many failures that are due to its content, a write-ahead file is given up."""

_BACKOFF = (1.0, 300.0)


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


class Sealer:
    """A thread that seals segments, one by one.

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
        self._early: Conversion | None = None
        self._hopeless = ""
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
        while True:
            with self._changed:
                while (work := self._next()) is None:
                    if self._stopping:
                        break
                    due = min((job.due for job in self._jobs), default=None)
                    self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
            if work is None:
                break
            if isinstance(work, _Job):
                self._seal(work)
            else:
                self._convert(*work)
            pa.default_memory_pool().release_unused()
        if self._early:
            self._early.close()

    def _next(self) -> "_Job | tuple[str, int] | None":
        now = time.monotonic()
        job = next((job for job in self._jobs if job.due <= now), None)
        if job is None and self._has_grown():
            return self._growing
        return job

    def _has_grown(self) -> bool:
        path, size = self._growing
        at = self._early.at if self._early and self._early.path == path else 0
        return path != self._hopeless and size - at >= self._options.memory

    def _convert(self, path: str, size: int) -> None:
        """Sort what is already in the open write-ahead file, so that less is left to do after its close."""
        if self._early and self._early.path != path:
            self._early.close()
            self._early = None
        try:
            if self._early is None:
                self._early = Conversion(path, self._options, self._site.folder)
            self._early.take(size)
            self._early.sorter.spill()
            done = self._early.at == size
        except Exception as error:  # noqa: BLE001 - it is tried again when the segment is closed
            done = False
            self._log.warn("early", "write-ahead file cannot be sorted yet", path=path, error=error)
        if not done:
            self._hopeless = path
            if self._early:
                self._early.close()
                self._early = None

    def _seal(self, job: _Job) -> None:
        path = wal_path(job.segment, self._site)
        early, self._early = self._early, None
        if early and early.path != path:
            early.close()  # it was given up
            early = None
        error: Exception | None = None
        start = time.monotonic()
        recovered = None
        try:
            recovered = seal(job.segment, self._options, self._site, early, own=not job.left)
        except BusyError as busy:
            error = None if job.left else busy
        except Exception as failure:  # noqa: BLE001 - what fails waits, and holds nothing else up
            error = failure
        if recovered:
            fields = {"records": recovered.records, "seconds": round(time.monotonic() - start, 3)}
            log.info(Event("parquet file written", path=recovered.location, recovered=job.left, **fields))
        elif not error and not job.left:
            log.warning(Event("write-ahead file is gone, and was not sealed", path=path))
        if error:
            self._failed(job, path, error)
        with self._changed:
            if not error or job.faults == ATTEMPTS:
                self._jobs.remove(job)

    def _failed(self, job: _Job, path: str, error: Exception) -> None:
        job.attempts += 1
        job.error = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        job.due = time.monotonic() + min(_BACKOFF[0] * 2 ** min(job.attempts - 1, 10), _BACKOFF[1])
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
                log.error(Event("write-ahead file is given up, and kept", kept=kept, error=job.error))

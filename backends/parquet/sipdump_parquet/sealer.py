"""From write-ahead files to Parquet files: the thread that does it, and what it does.

The order of steps makes a crash at any moment harmless::

    write .<stem>.parquet.tmp, fsync, read its end and count    a crash leaves a file that the next try removes
    link it to <stem>.parquet, never over another file          it names the write-ahead file in its metadata
    fsync the folder, remove the temporary name
    remove the write-ahead file                                 where it is still there, it is known to be done
"""

import contextlib
import fcntl
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import attrs
import pyarrow as pa

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Recovered
from sipdump_core.errors import StorageError
from sipdump_core.log import Event, Limit, log
from sipdump_core.pipeline.journal import NOTE, RECORDS, Columns, Damage, scan
from sipdump_core.segment import Segment
from sipdump_parquet import WAL_SUFFIX, ParquetBackend, ParquetOptions
from sipdump_parquet.files import ContentError, make, metadata, name, translated
from sipdump_parquet.sort import Sorter
from sipdump_parquet.sync import sync_folder
from sipdump_parquet.table import Builder

__all__ = ["Conversion", "Sealer", "recover", "seal"]

ATTEMPTS = 3
"""How often a write-ahead file is tried whose content is at fault."""

_BACKOFF = (1.0, 300.0)
_GATHERED_RECORDS = 4096
_GATHERED_BYTES = 1 << 20
_IDENTITY = slice(8, 16)  # in a journal's header: its salt, which no other one has


class BusyError(StorageError):
    """Somebody else holds the write-ahead file open."""


class Conversion:
    """A write-ahead file on its way into a sorter; it may be read while it is written.

    Args:
        path: the file.
        options: columns and memory.
        folder: where temporary files are made.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, options: ParquetOptions, folder: str) -> None:
        self.path = path
        self.at = 0
        """How far it is read: the end of a frame."""
        self.meta = ""
        self.damages: list[Damage] = []
        self.sorter = Sorter(options.keys, options.memory, folder)
        self._builder = Builder(options.names)
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by close()

    def take(self, limit: int | None = None) -> None:
        """Read on.

        Args:
            limit: how many bytes of a file that is being written are sure to stay; None: all are.

        Raises:
            OSError: the file cannot be read, or a temporary one cannot be written.
        """
        small: list[Columns] = []  # a table costs some 20 kB however little it holds: small frames are gathered
        count = size = 0
        for piece in scan(self._file, self.at):
            if limit is not None and (piece.end > limit or isinstance(piece, Damage)):
                break
            self.at = piece.end
            if isinstance(piece, Damage):
                self.damages.append(piece)
                continue
            try:
                if piece.kind == RECORDS:
                    small.append(piece.columns())
                    count, size = count + piece.count, size + len(piece.payload)
                elif piece.kind == NOTE:
                    self.meta = piece.text()
            except ValueError:  # its sum is right, but it is not of its form
                self.damages.append(Damage(piece.offset, piece.end, torn=False))
            if count >= _GATHERED_RECORDS or size >= _GATHERED_BYTES:
                self._add(small)
                small, count, size = [], 0, 0
        self._add(small)

    def _add(self, parts: Sequence[Columns]) -> None:
        if parts:
            self.sorter.add(self._builder.table(Columns.joined(parts), self.sorter.rows))

    def close(self) -> None:
        """Let go of files and memory."""
        self._file.close()
        self.sorter.close()


def seal(
    segment: Segment,
    options: ParquetOptions,
    site: Site,
    conversion: Conversion | None = None,
    *,
    own: bool = False,
) -> Recovered | None:
    """Make the Parquet file of a write-ahead file that nobody writes any more, and remove that.

    Args:
        segment: whose.
        options: how the file is to be.
        site: where, and its permission bits.
        conversion: what was read of it already; it is closed here in any case.
        own: the caller wrote it, and knows that it is closed.

    Returns:
        What became of it; None where it is gone already.

    Raises:
        BusyError: somebody holds it open.
        ContentError: what it holds cannot be made a Parquet file.
        StorageError: the folder refuses, or it cannot be read.
    """
    path = _wal(segment, site)
    with contextlib.ExitStack() as stack:
        if conversion:
            stack.callback(conversion.close)
        stack.enter_context(translated("seal", path))
        held = _hold(path, own=own)
        if held is None:
            return None
        stack.enter_context(held)
        with contextlib.suppress(OSError):  # what can be read is the best there is, whether or not the disk has it
            os.fdatasync(held.fileno())
        identity = os.pread(held.fileno(), _IDENTITY.stop, 0)[_IDENTITY].hex()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_draft(segment, site))  # left by a crash: who holds the write-ahead file is alone with it
        known = _published(segment, site, identity)
        if known:
            os.unlink(path)
            return Recovered(ParquetBackend.name, path, known[0], known[1])
        if conversion is None:
            conversion = Conversion(path, options, site.folder)
            stack.callback(conversion.close)
        conversion.take()
        damages = [damage for damage in conversion.damages if not damage.torn]
        torn = sum(damage.end - damage.offset for damage in conversion.damages if damage.torn)
        # before the file is published: a crash behind that leaves nothing to look for damage in
        kept = _keep_aside(path) if damages else ""
        location = ""
        if conversion.sorter.rows:
            location = _publish(conversion, segment, options, site, identity)
        os.unlink(path)
        lost = sum(damage.end - damage.offset for damage in damages)
        if torn:
            log.info(Event("write-ahead file ends in a torn frame, as a crash leaves it", path=path, bytes=torn))
        for damage in damages:
            where = {"offset": damage.offset, "bytes": damage.end - damage.offset}
            log.warning(Event("write-ahead file was damaged, and is kept", path=path, **where, kept=kept))
        return Recovered(ParquetBackend.name, path, location, conversion.sorter.rows, len(damages), lost, kept)


def recover(segments: Iterable[Segment], options: ParquetOptions, site: Site) -> Iterator[Recovered]:
    """Seal what earlier runs left, and yield what became of each; what somebody holds open is passed over."""
    for segment in sorted(segments):
        try:
            recovered = seal(segment, options, site)
        except StorageError as error:
            recovered = Recovered(
                ParquetBackend.name, _wal(segment, site), error=error, in_use=isinstance(error, BusyError)
            )
        if recovered:
            yield recovered


@attrs.define(eq=False)
class _Job:
    """A write-ahead file that is to be sealed."""

    segment: Segment
    left: bool = False
    """An earlier run left it: whoever holds it open looks after it."""
    due: float = 0.0
    attempts: int = 0
    faults: int = 0
    """How many of the attempts failed for its content."""
    error: str = ""


class Sealer:
    """A thread that seals segments, one by one.

    Args:
        options: of the backend.
        site: of the backend.
        left: what earlier runs left, to begin with.
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
        self._thread = threading.Thread(target=self._run, name="sipdump-parquet-seal", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Seal what is closed, without waiting for what has failed, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def grown(self, path: str, size: int) -> None:
        """Tell how many bytes of the open write-ahead file are sure to stay."""
        with self._changed:
            self._growing = (path, size)
            if self._has_grown():
                self._changed.notify_all()

    def closed(self, segment: Segment) -> None:
        """Tell that a segment is to be sealed."""
        with self._changed:
            self._growing = ("", 0)
            self._jobs.append(_Job(segment))
            self._changed.notify_all()

    def health(self) -> str:
        """Say how many segments cannot be sealed, and why."""
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
        """Take what stands in the open write-ahead file already, so that less is left to do at its end."""
        if self._early and self._early.path != path:
            self._early.close()
            self._early = None
        try:
            if self._early is None:
                self._early = Conversion(path, self._options, self._site.folder)
            self._early.take(size)
            self._early.sorter.spill()
            done = self._early.at == size
        except Exception as error:  # noqa: BLE001 - nothing depends on it: it is tried once more when the segment is closed
            done = False
            self._log.warn("early", "write-ahead file cannot be sorted yet", path=path, error=error)
        if not done:
            self._hopeless = path
            if self._early:
                self._early.close()
                self._early = None

    def _seal(self, job: _Job) -> None:
        path = _wal(job.segment, self._site)
        early, self._early = self._early, None
        if early and early.path != path:
            early.close()  # of a file that was given up
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
                    kept = _keep_aside(path)
                    os.unlink(path)
                except FileNotFoundError:
                    return
                except OSError as refusal:
                    job.faults -= 1
                    self._log.warn("aside", "write-ahead file cannot be kept aside", path=path, error=refusal)
                    return
                log.error(Event("write-ahead file is given up, and kept", kept=kept, error=job.error))


def _wal(segment: Segment, site: Site) -> str:
    return os.path.join(site.folder, segment.stem + WAL_SUFFIX)


def _draft(segment: Segment, site: Site) -> str:
    return os.path.join(site.folder, f".{segment.stem}.parquet.tmp")


def _hold(path: str, *, own: bool) -> BinaryIO | None:
    """Open a write-ahead file for oneself alone; None where it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    file = open(fd, "rb")  # noqa: SIM115 - the caller closes it
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BusyError("seal", path, "somebody writes it, or is at it already") from error
    except OSError as error:  # not every file system has locks
        if not own:
            file.close()
            hint = "have nobody write there, move it to a file system with locks, and recover it there"
            raise BusyError("seal", path, f"nobody can tell whether it is in use: {error.strerror}", hint) from error
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), os.lstat(path)):
            return file
    file.close()  # whoever held it before has sealed it
    return None


def _published(segment: Segment, site: Site, identity: str) -> tuple[str, int] | None:
    """Find the file that was made of a write-ahead file before a crash; give its path and number of records."""
    while True:
        path = os.path.join(site.folder, segment.name)
        if not os.path.lexists(path):
            return None
        with contextlib.suppress(OSError, ValueError):  # another's file, of whatever kind
            rows, extra = metadata(path)
            if extra.get("sipdump.wal") == identity:
                return path, rows
        segment = segment.next()


def _publish(conversion: Conversion, segment: Segment, options: ParquetOptions, site: Site, identity: str) -> str:
    """Write the Parquet file and give it its name, or the next one that is free.

    Returns:
        Its path.
    """
    draft = _draft(segment, site)
    make(
        draft,
        conversion.sorter,
        options,
        {"sipdump.wal": identity, "sipdump.meta": conversion.meta},
        mode=site.file_mode,
        modified_ns=os.stat(conversion.path).st_mtime_ns,
    )
    try:
        path = name(draft, segment, site, own=True)
    finally:
        os.unlink(draft)
    sync_folder(site.folder)
    return path


def _keep_aside(path: str) -> str:
    """Give a file a second name that no program takes up again, never one that is taken; give that name."""
    for number in itertools.count():
        aside = f"{path}.damaged" + (f"-{number}" if number else "")
        with contextlib.suppress(FileExistsError):
            os.link(path, aside)
            return aside
        if os.path.samestat(os.lstat(path), os.lstat(aside)):  # an earlier try came so far
            return aside
    raise AssertionError  # count() does not end

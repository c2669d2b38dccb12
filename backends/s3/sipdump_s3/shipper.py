"""The shipper: a thread that takes sealed segments from the spool to the bucket, however long that takes."""

import contextlib
import errno
import fcntl
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from sipdump_core.clock import Clock
from sipdump_core.drivers.capabilities import Shipped
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.log import Event, Limit, log
from sipdump_core.segment import StoredSegment
from sipdump_core.threads import lasting
from sipdump_core.version import VERSION
from sipdump_s3.bucket import Bucket
from sipdump_s3.errors import S3Error
from sipdump_s3.keys import Keys
from sipdump_s3.options import S3Options
from sipdump_s3.spool import Spool
from sipdump_s3.upload import NOTE_SUFFIX, Uploader, read_note

__all__ = ["Shipper", "metadata_of"]

_IDLE = 1.0  # seconds between two looks into the spool; what this process seals is seen at once
_FIRST_DELAY = 1.0
_FAULTS = (SipDumpError, OSError)
_POISON = (errno.EACCES, errno.EPERM, errno.EIO, errno.EBADMSG)  # the file's own faults, which last


class Shipper:
    """Uploads the sealed segments of a spool, oldest first, and deletes each file when S3 has confirmed it.

    Args:
        spool: the spool.
        inner: the backend that makes the segments.
        keys: where they go.
        options: the backend's options.
        lend: lends the bucket for as long as it ships.
        clock: the time, for ``stop``.
        wait: waits for an event, up to so many seconds.
    """

    def __init__(
        self,
        spool: Spool,
        inner: FolderBackend,
        keys: Keys,
        options: S3Options,
        lend: Callable[[], AbstractContextManager[Bucket]],
        clock: Clock | None = None,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.illness = ""
        """What is wrong, in one line; empty when nothing is."""
        self._counts = spool.counts
        self._spool = spool
        self._inner = inner
        self._keys = keys
        self._opts = options
        self._clock = clock or Clock()
        self._wait = wait
        self._deadline = 0.0
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._log = Limit()
        self._tidied = False
        self._lend = lend
        self._thread = lasting(self._run, "sipdump-s3-shipper")

    def start(self) -> None:
        """Start shipping."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the spool now."""
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """Ship for up to so many seconds, and end."""
        self._deadline = self._clock.monotonic() + seconds
        self._stopping.set()
        self._wake.set()
        self._thread.join(seconds + 1)
        if self._thread.is_alive():
            log.warning(Event("server is silent; no longer waiting for its answer", backend="s3"))

    def ship(self, progress: Callable[[int], None] = lambda _: None) -> Iterator[Shipped]:
        """Try each sealed segment once, in the caller's thread.

        Raises:
            StorageError: another process ships from this spool, or it cannot be listed.
        """
        holder = self._spool.lock()
        if holder:
            hint = "it uploads the segments there; ask it for its state, or stop it"
            raise StorageError("lock spool", self._spool.folder, f"it is in use by {holder}", hint)
        try:
            with self._lend() as self._bucket:
                yield from self._pass(progress)
        finally:
            self._spool.unlock()

    def _run(self) -> None:
        try:
            while not self._lock():
                self._wait(self._stopping, _IDLE)
                if self._stopping.is_set():
                    return
            while not self._ship_until_stopped():
                self._wait(self._stopping, _FIRST_DELAY)
        finally:
            self._spool.unlock()

    def _ship_until_stopped(self) -> bool:
        """Ship; return False if that could not even begin, and is to be tried again."""
        try:
            with self._lend() as self._bucket:
                self._ship_for_ever()
        except _FAULTS as error:  # no client can be made, say
            self._ill(_with_state(error))
            return self._stopping.is_set()
        return True

    def _lock(self) -> bool:
        try:
            holder = self._spool.lock()
        except StorageError as error:
            trouble = str(error)
        else:
            if not holder:
                return True
            trouble = f"the spool {self._spool.folder} is in use by {holder}, which ships the segments there"
        if trouble != self.illness:  # it may last as long as the other one runs
            self._ill(trouble)
        return False

    def _ship_for_ever(self) -> None:
        delay = 0.0
        while True:
            last = self._stopping.is_set()  # asked first, so that everything sealed before the stop is tried
            trouble = self._try_all()
            if last:
                break
            if trouble:
                delay = min(2 * delay or _FIRST_DELAY, self._opts.retry_max)
                self._counts.retries += 1
                # full jitter, so that many collectors do not come back at once
                self._wait(self._stopping, random.uniform(0, delay))  # noqa: S311 - no secret
            else:
                delay = 0.0
                self._wait(self._wake, _IDLE)
                self._wake.clear()
        if self._counts.spooled:
            log.warning(
                Event(
                    "segments stay in the spool until the next start",
                    count=self._counts.spooled,
                    bytes=self._counts.spooled_bytes,
                )
            )

    def _try_all(self) -> bool:
        """Try everything once; return True when something is left that could be uploaded."""
        trouble = ""
        try:
            for shipped in self._pass():
                if shipped.error:
                    trouble = _with_state(shipped.error)
        except _FAULTS as error:  # the spool itself
            trouble = _with_state(error)
        except Exception as error:  # noqa: BLE001 - the thread must not end, whatever a third party's format raises
            trouble = f"{type(error).__name__}: {error}"
            log.exception(Event("shipper failed", backend="s3"))
        if trouble:
            self._ill(trouble)
        elif self.illness:
            self.illness = ""
            self._spool.failing = False
            log.warning(Event("uploads work again", backend="s3", uploaded=self._counts.uploaded))
        return bool(trouble)

    def _ill(self, text: str) -> None:
        self.illness = text
        self._spool.failing = True
        self._log.warn("ill", "upload failed, trying again", backend="s3", error=text, waiting=self._counts.spooled)

    def _pass(self, progress: Callable[[int], None] = lambda _: None) -> Iterator[Shipped]:
        """Try each sealed segment once; stop at what concerns them all."""
        sealed = self._spool.sealed()
        self._counts.spooled, self._counts.spooled_bytes = len(sealed), sum(stored.size for stored in sealed)
        look = bool(self.illness) and not sealed  # only the server can tell whether the trouble has ended
        if not sealed and self._tidied and not look:
            return
        uploader = Uploader(self._bucket, self._keys, self._opts, self._go_on, progress)
        if look or not self._tidied:
            try:
                self._tidy()
            except SipDumpError as error:
                if sealed:
                    yield Shipped(sealed[0], error=error)
                    return
                raise
        for stored in sealed:
            if not self._go_on():
                return
            try:
                location = self._ship_one(uploader, stored)
            except SipDumpError as error:
                yield Shipped(stored, error=error)
                if not (isinstance(error, S3Error) and error.of_one):
                    return
            else:
                if location:
                    yield Shipped(stored, location)
            finally:
                self._counts.conflicts += uploader.conflicts
                uploader.conflicts = 0

    def _ship_one(self, uploader: Uploader, stored: StoredSegment) -> str:
        """Upload one file, and delete it; return its address, or an empty text where it cannot be uploaded."""
        path = stored.location
        try:
            with open(path, "rb") as file:
                # shared, so that it can be listed, but not deleted to make room
                fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                try:
                    if not os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
                        raise StorageError("read", path, "it was rewritten meanwhile")
                    key = self._keys.key(stored.segment)
                    key = uploader.send(file, key, metadata_of(self._inner, self._keys, key, stored))
                finally:
                    fcntl.flock(file.fileno(), fcntl.LOCK_UN)  # a forked child may hold the file open still
        except FileNotFoundError:
            log.error(Event("segment is gone from the spool, and not uploaded", path=path))
            self._forget(stored)
            return ""
        except BlockingIOError:  # somebody is looking at it
            raise StorageError("read", path, "it is in use") from None
        except OSError as error:
            if error.errno not in _POISON:
                raise StorageError.from_os("read", path, error) from error
            self._spool.quarantine(path, error.strerror or str(error))
            self._forget(stored)
            return ""
        self._inner.delete(stored)
        self._forget(stored)
        self._counts.uploaded += 1
        self._counts.uploaded_bytes += stored.size
        location = self._bucket.address(key)
        log.info(Event("segment uploaded", backend="s3", location=location, bytes=stored.size))
        return location

    def _forget(self, stored: StoredSegment) -> None:
        self._counts.spooled -= 1
        self._counts.spooled_bytes -= stored.size

    def _tidy(self) -> None:
        """Abort this collector's uploads in parts that no file in the spool continues."""
        going_on = set()
        for name in os.listdir(self._spool.folder):
            path = os.path.join(self._spool.folder, name)
            if not name.endswith(NOTE_SUFFIX):
                continue
            if os.path.exists(path.removesuffix(NOTE_SUFFIX)):
                going_on.add(read_note(path))
            else:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        try:
            for key, upload in list(self._bucket.uploads(self._keys.root)):
                if (key, upload) not in going_on and self._keys.segment(key):
                    self._bucket.abort(key, upload)
                    log.info(Event("abandoned upload aborted", location=self._bucket.address(key)))
        except S3Error as error:
            if error.state not in ("access denied", "refused"):
                raise
            # shipping works without that permission
            log.warning(Event("cannot look for abandoned uploads", error=error))
        self._tidied = True

    def _go_on(self) -> bool:
        return not self._stopping.is_set() or self._clock.monotonic() < self._deadline


def metadata_of(inner: FolderBackend, keys: Keys, key: str, stored: StoredSegment) -> dict[str, str]:
    """Return an object's metadata, in ASCII and far below the 2 KB that S3 allows."""
    metadata = {
        "sipdump-version": VERSION,
        "sipdump-format": inner.name,
        "sipdump-node": keys.node,
        "sipdump-start": _utc(keys.start(key)),
        "sipdump-end": _utc(stored.modified),
    }
    if stored.records is not None:
        metadata["sipdump-records"] = str(stored.records)
    return metadata


def _utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def _with_state(error: Exception) -> str:
    state = error.state if isinstance(error, S3Error) else ""
    return f"{state}: {error}" if state else str(error)

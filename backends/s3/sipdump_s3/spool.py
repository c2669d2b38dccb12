"""The spool: the folder of segments that S3 has not confirmed yet, bounded in bytes, with one shipper at a time."""

import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator

import attrs

from sipdump_core.drivers.folder import FolderBackend, free_name
from sipdump_core.drivers.syncing import sync_folder
from sipdump_core.errors import SipDumpError, StorageError, StorageFullError
from sipdump_core.log import Event, Limit, log
from sipdump_core.ownership import require_private
from sipdump_core.segment import Segment, StoredSegment

__all__ = ["Counts", "Spool"]

_LOCK = ".shipper"


@attrs.define
class Counts:
    """What became of the segments, for stats."""

    uploaded: int = 0
    uploaded_bytes: int = 0
    spooled: int = 0
    """Sealed segments that wait."""
    spooled_bytes: int = 0
    dropped_segments: int = 0
    """Dropped for lack of room."""
    dropped_records: int = 0
    quarantined: int = 0
    """Set aside, because they can never be uploaded."""
    retries: int = 0
    conflicts: int = 0
    """How often a key held different content already."""


class Spool:
    """The spool of one backend. Names of segments are in UTC here.

    Args:
        inner: the backend that makes the segments; its folder is the spool.
        limit: bytes that may be here; 0 for no limit.
        drop: whether to drop the oldest sealed segments when there is no room, or else to refuse.
        patience: seconds that a segment may wait before it is dropped while uploads work.
    """

    def __init__(self, inner: FolderBackend, limit: int, *, drop: bool, patience: float) -> None:
        self.folder = inner.site.folder
        self.counts = Counts()
        self.writing = ""
        """The name of the segment that this process writes: its file has no lock yet while it is made."""
        self.failing = False
        """Whether uploads fail."""
        self._inner = inner
        self._limit = limit
        self._drop = drop
        self._patience = patience
        self._since = 0.0
        self._mutex = threading.Lock()
        self._used = limit  # so that the first write measures what earlier runs left
        self._fd = -1
        self._log = Limit()

    def prepare(self) -> None:
        """Create the folder, for this user alone.

        Raises:
            StorageError: it cannot be created, or what is there cannot be trusted.
        """
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder, 0o700)
                sync_folder(os.path.dirname(os.path.abspath(self.folder)))
            require_private(self.folder)
        except OSError as error:
            raise StorageError.from_os("open spool", self.folder, error) from error

    def lock(self) -> str:
        """Become the one who ships from here.

        Returns:
            An empty text; or who does so already.

        Raises:
            StorageError: the lock file cannot be made.
        """
        path = os.path.join(self.folder, _LOCK)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
                os.close(fd)
                return holder or "another process"
            with contextlib.suppress(OSError):  # on a full disk the name is missing, and uploads make room
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.path.basename(sys.argv[0]) or 'python'} with pid {os.getpid()}".encode(), 0)
        except OSError as error:
            raise StorageError.from_os("lock spool", path, error) from error
        self._fd, self._since = fd, time.time()
        return ""

    @property
    def locked(self) -> bool:
        """Whether this one ships."""
        return self._fd >= 0

    def unlock(self) -> None:
        """Let another one ship."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # a forked child may hold the file open still
            self.forget()

    def forget(self) -> None:
        """Let go of the lock of the process that this one was forked from, which keeps it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def segments(self) -> Iterator[StoredSegment]:
        """Yield the segments here, sealed or not.

        Raises:
            StorageError: the folder cannot be listed.
        """
        if os.path.isdir(self.folder):
            yield from self._inner.segments()

    def sealed(self) -> list[StoredSegment]:
        """Return the segments that can be uploaded, oldest first."""
        self._set_aside_unreadable()
        found = [stored for stored in self.segments() if stored.sealed and stored.segment.name != self.writing]
        return sorted(found, key=lambda stored: stored.segment)

    def reserve(self, size: int, to_seal: int = 0) -> None:
        """Make sure that there is room for so many more bytes.

        Args:
            size: bytes.
            to_seal: bytes that sealing the open segment takes on the disk in addition.

        Raises:
            StorageFullError: there is no room, and none can be made.
        """
        if to_seal:
            self._check_disk(size + to_seal)
        if not self._limit:
            return
        with self._mutex:
            if self._used + size > self._limit:
                self._used = self._make_room(size)
            self._used += size

    def quarantine(self, path: str, reason: str) -> None:
        """Set a file aside that can never be uploaded, for somebody to look at."""
        folder = os.path.join(self.folder, "quarantine")
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            target = free_name(os.path.join(folder, os.path.basename(path)))
            os.rename(path, target)
        except OSError as error:
            self._log.warn("quarantine", "segment cannot be set aside", path=path, error=error)
            return
        self.counts.quarantined += 1
        log.error(Event("segment can never be uploaded, set aside", path=target, reason=reason))

    def _check_disk(self, needed: int) -> None:
        try:
            found = os.statvfs(self.folder)
        except OSError as error:
            raise StorageError.from_os("write", self.folder, error) from error
        left = found.f_bavail * found.f_frsize
        if left < needed:
            hint = "free space; what waits is written when there is room"
            raise StorageFullError("write", self.folder, f"the disk has {left} bytes left, which sealing takes", hint)

    def _make_room(self, size: int) -> int:
        """Make room for ``size`` more bytes, if possible; return how many are in use then."""
        stored = list(self.segments())
        used = sum(each.size for each in stored)
        if self._drop and self.locked:
            for oldest in sorted(stored, key=lambda each: each.segment):
                if used + size <= self._limit:
                    break
                if oldest.sealed and self._has_waited(oldest) and self._drop_one(oldest):
                    used -= oldest.size
        if used and used + size > self._limit:
            hint = "what waits is written when uploads have made room; or raise spool_max_bytes"
            reason = f"the spool holds {used} bytes of at most {self._limit}"
            raise StorageFullError("write", self.folder, reason, hint)
        return used

    def _has_waited(self, stored: StoredSegment) -> bool:
        """Return whether a segment would have been uploaded by now if uploads worked."""
        return self.failing or time.time() - max(stored.modified, self._since) > self._patience

    def _drop_one(self, stored: StoredSegment) -> bool:
        try:
            records = self._count(stored) if stored.records is None else stored.records
            self._inner.delete(stored)
        except SipDumpError:  # it is being uploaded, which makes room too
            return False
        self.counts.dropped_segments += 1
        self.counts.dropped_records += records
        self._log.warn("drop", "spool full, oldest segment dropped", path=stored.location, records=records)
        return True

    def _count(self, stored: StoredSegment) -> int:
        count = 0
        with contextlib.suppress(Exception):  # whatever a third party's format raises: a damaged file must go too
            for _ in self._inner.read(stored):
                count += 1
        return count

    def _set_aside_unreadable(self) -> None:
        with contextlib.suppress(OSError):  # the listing that follows says what is wrong
            for name in os.listdir(self.folder):
                path = os.path.join(self.folder, name)
                ours = Segment.parse(name, self._inner.site.prefix, self._inner.suffix)
                if ours and os.path.isfile(path) and not os.access(path, os.R_OK, effective_ids=True):
                    self.quarantine(path, "this user may not read it")

"""The base of backends whose segments are files in a folder: everything but the encoding."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import BinaryIO

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import needs
from sipdump_core.drivers.names import names_in
from sipdump_core.drivers.rewriting import Change, Rewritten, new_file, replace
from sipdump_core.drivers.syncing import SYNCER, SyncedFile
from sipdump_core.errors import ClosedError, SegmentLostError, StorageError
from sipdump_core.locks import in_use, release, take
from sipdump_core.log import Event, log
from sipdump_core.ownership import is_trusted
from sipdump_core.record import Record
from sipdump_core.segment import FOREIGN, UNREADABLE, Segment, StoredSegment

__all__ = [
    "CANNOT_READ",
    "DISORDER_XATTR",
    "RECORDS_XATTR",
    "FolderBackend",
    "disorder",
    "free_name",
    "open_regular",
    "remove",
]

RECORDS_XATTR = "user.sipdump.records"
"""The extended attribute in which a sealed segment keeps its number of records, on file systems that have them."""

DISORDER_XATTR = "user.sipdump.disorder"
"""The extended attribute in which a segment keeps by how many microseconds a record in it may be older than one before.

It is raised before the record that needs it is written, so that readers can skip by time in an open segment, too.
"""

_UNKNOWN = 1 << 62

CANNOT_READ = "segment cannot be read; taken for open"
"""The event that is logged for a file that cannot be opened; its field ``error`` says which, and why."""

_MADE = stat.S_ISVTX
"""Marks a file from its creation until it has a lock; on files Linux gives this bit no other meaning."""
_LOCK_TRIES = 1000
_REWRITE_BATCH = 1000
_REWRITE_WAIT = 30.0
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FolderBackend(Backend):
    """A backend of segment files. A subclass writes ``encode``, and ``preamble`` and ``decode`` if it has them.

    An advisory lock marks the open segment; the kernel drops it with the writer, however that ends. Nothing is buffered
    here: once ``write`` has returned, readers see the batch. With ``site.sync`` the file is synced in the background.
    """

    _fd = -1
    _synced: SyncedFile | None = None
    """The open file, if it is synced."""
    _sync_late: StorageError | None = None
    """Why an earlier file could not be synced after its end."""
    _newest = 0
    _disorder = -1

    def encode(self, batch: Sequence[Record]) -> bytes:
        """Return the bytes that a batch adds to the file."""
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

    def preamble(self) -> bytes:
        """Return the bytes that a new file begins with."""
        return b""

    @needs("decode")
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Read the records of a file, in order, up to a torn tail."""
        raise StorageError("read", file.name, f"the backend {self.name} cannot read its segments back")

    def open(self, segment: Segment) -> None:
        """Create the segment's file, never over another one."""
        self.close()
        self._path = os.path.join(self.site.folder, segment.name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            while self._fd < 0:
                # for its owner alone, so that nobody else can have it locked
                self._fd = os.open(self._path, flags, stat.S_IRUSR | stat.S_IWUSR | _MADE)
                self._take_lock()
                os.fchmod(self._fd, self.site.file_mode)  # exactly that, whatever the umask
                if not os.fstat(self._fd).st_nlink:  # deleted before the lock: it was taken for sealed
                    os.close(self._fd)
                    self._fd = -1
        except OSError as error:
            self._abandon()
            raise StorageError.from_os("open", self._path, error) from error
        self._size = self._records = 0
        self._newest, self._disorder = 0, -1
        try:
            if self.site.sync:
                self._synced = SYNCER.watch(self._fd, self._path, self.site.sync, self._not_synced)
            self._append(self.preamble())
        except StorageError:
            self._abandon()
            raise

    def write(self, batch: Sequence[Record]) -> None:
        """Append a batch; if that fails, the file ends with the batch before it."""
        if self._fd < 0:
            raise ClosedError(f"write to the backend {self.name}: no segment is open")
        self._check_sync()
        data = self.encode(batch)
        self._note_times(batch, data)
        self._append(data)
        self._records += len(batch)

    def check(self) -> None:
        """Look whether the open file is where it was made, and could be synced."""
        if self._fd >= 0:
            self._check_place()
            self._check_sync()

    def close(self) -> None:
        """Seal: drop the lock; the file never changes again. A file without any record is removed.

        Raises:
            SegmentLostError: somebody has deleted the file, or moved it away.
            StorageError: its last data may be lost.
        """
        if self._fd < 0:
            return
        try:
            if self._records:
                self._check_place()
        except SegmentLostError:
            self._abandon()
            raise
        if not self._records:
            self._abandon()
            return
        fd, self._fd = self._fd, -1
        file, self._synced = self._synced, None
        with contextlib.suppress(OSError):  # not every file system has extended attributes
            os.setxattr(fd, RECORDS_XATTR, str(self._records).encode())
        release(fd)
        if file:
            if file.error and not file.reported:
                self._sync_late = file.error
            SYNCER.complete(file)
            return
        try:
            os.close(fd)
        except OSError as error:
            raise StorageError.from_os("close", self._path, error) from error

    def health(self) -> str:
        """Report what keeps files from being synced."""
        return SYNCER.health() if self.site.sync else ""

    def forget(self) -> None:
        """Let go of the open segment, which belongs to the process that this one was forked from."""
        if self._fd >= 0:
            self._shut()

    def segments(self) -> Iterable[StoredSegment]:
        """List the files of this prefix and suffix, oldest first; links and whatever is no file don't count."""
        prefix, suffix = self.site.prefix, self.suffix
        try:
            names = names_in(self.site.folder)
        except OSError as error:
            raise StorageError.from_os("list", self.site.folder, error) from error
        found = [
            Segment.parse(name, prefix, suffix) for name in names if name.endswith(suffix) and name.startswith(prefix)
        ]
        # the names are sorted, so that the segments, which are dearer to compare, are almost in order
        yield from self._looked_at(sorted(filter(None, found)))

    @needs("decode")
    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """Read a file's records again, in order, up to a torn tail."""
        path = os.path.join(self.site.folder, stored.segment.name)
        try:
            with open_regular(path) as file:
                yield from self.decode(file)
        except OSError as error:
            raise StorageError.from_os("read", path, error) from error

    def delete(self, stored: StoredSegment) -> None:
        """Delete a sealed file of this user, of root or of the folder's owner."""
        path = os.path.join(self.site.folder, stored.segment.name)
        try:
            fd = os.open(path, _LOOK)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise StorageError("delete", path, "it is no regular file")
                if not is_trusted(status.st_uid, self.site.folder):
                    hint = "run this as that user"
                    raise StorageError("delete", path, f"it belongs to another user ({status.st_uid})", hint)
                if in_use(fd, alone=True):
                    raise StorageError("delete", path, "it is in use: open for writing, or being listed")
                remove(path, status.st_mode)
            finally:
                os.close(fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError.from_os("delete", path, error) from error

    @needs("decode")
    def rewrite(self, stored: StoredSegment, change: Change) -> Rewritten:
        """Write a sealed file anew, as its change says, and put it in the old one's place; see :mod:`.rewriting`."""
        path = os.path.join(self.site.folder, stored.segment.name)

        def make(file: BinaryIO, draft: str) -> Rewritten:
            return self.rewrite_file(file, draft, change)

        return replace(path, make, self.count_records, wait_s=_REWRITE_WAIT)

    def rewrite_file(self, file: BinaryIO, draft: str, change: Change) -> Rewritten:
        """Write what a change makes of an open file into a new one. A subclass may know a better way."""
        kept = removed = masked = 0
        with new_file(draft) as made:
            made.write(self.preamble())
            batch: list[Record] = []
            for record in self.decode(file):
                after = change.apply(record)
                kept += after is record
                removed += after is None
                masked += after is not record and after is not None
                if after is not None:
                    batch.append(after)
                if len(batch) >= _REWRITE_BATCH:
                    made.write(self.encode(batch))
                    batch.clear()
            if batch:
                made.write(self.encode(batch))
        return Rewritten(kept, removed, masked)

    def count_records(self, file: BinaryIO) -> int:
        """Return how many records an open file has, by reading them."""
        return sum(1 for _ in self.decode(file))

    @needs("merge")
    def merge(self, paths: Sequence[str], target: str) -> int:
        """Merge sealed files into a new one, durable and checked; return how many records it holds.

        Raises:
            StorageError: the backend cannot merge, or it failed.
        """
        del paths
        raise StorageError("merge", target, f"the backend {self.name} cannot merge its segments")

    def _looked_at(self, segments: Iterable[Segment]) -> Iterator[StoredSegment]:
        """Look at the files of segments, and yield those that are there."""
        base, mine = os.path.join(self.site.folder, ""), (0, os.geteuid())
        for segment in segments:
            stored = self._look(segment, base + segment.name, mine)
            if stored:
                yield stored

    def _look(self, segment: Segment, path: str, mine: Collection[int]) -> StoredSegment | None:
        """Look at a segment's file, of which the users ``mine`` are trusted anyway."""
        try:
            fd = os.open(path, _LOOK)
        except OSError as error:
            try:
                status = os.lstat(path)
            except OSError:
                return None  # gone by now
            if not stat.S_ISREG(status.st_mode):
                return None  # a link, say
            log.warning(Event(CANNOT_READ, error=StorageError.from_os("read", path, error)))
            size, modified = status.st_size, status.st_mtime
            return StoredSegment(segment, size, modified, sealed=False, location=path, pending=UNREADABLE)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            ours = status.st_uid in mine or is_trusted(status.st_uid, self.site.folder)
            records = _records(fd)
            # who seals a segment counts its records, last: so locks need be looked for only where there is no count
            sealed = ours and (records is not None or not in_use(fd))
        finally:
            os.close(fd)
        pending = "" if ours else FOREIGN
        return StoredSegment(segment, status.st_size, status.st_mtime, sealed, records, path, pending)

    def _take_lock(self) -> None:
        """Lock the file that was made; one who takes it for a sealed one, and deletes it, has it for a moment."""
        for _ in range(_LOCK_TRIES):
            if take(self._fd):
                return
            time.sleep(0.001)
        raise OSError(errno.EAGAIN, "another process of this user keeps it locked")

    def _check_place(self) -> None:
        """Look whether the open file still has its name.

        Raises:
            SegmentLostError: it has not; it is raised once.
        """
        own = os.fstat(self._fd)
        try:
            if os.path.samestat(own, os.lstat(self._path)):
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:  # nothing is known of it
            return
        reason = "the open file was moved away" if own.st_nlink else "the open file was deleted"
        lost, self._records = self._records, 0
        hint = "rotate, and take sealed files only"
        raise SegmentLostError("write", self._path, reason, lost, hint)

    def _check_sync(self) -> None:
        """Raise why the open file, or one before it, could not be synced."""
        file = self._synced
        if file and file.error:
            file.reported = True
            raise file.error
        late, self._sync_late = self._sync_late, None
        if late:
            raise late

    def _not_synced(self, file: SyncedFile, error: StorageError) -> None:
        if file is not self._synced and not file.reported:
            self._sync_late = error

    def _note_times(self, batch: Sequence[Record], data: bytes) -> None:
        """Keep the newest time and the disorder, before a batch is written; see :data:`DISORDER_XATTR`.

        Args:
            batch: the records.
            data: what ``encode`` makes of them.
        """
        del data  # a subclass looks whether it may be read back as other records
        times = [record.time_us for record in batch]
        newest, disorder_us = self._newest, max(self._disorder, 0)
        if times == sorted(times):
            disorder_us = max(disorder_us, newest - times[0])
            newest = max(newest, times[-1])
        else:
            for time_us in times:
                newest = max(newest, time_us)
                disorder_us = max(disorder_us, newest - time_us)
        self._newest = newest
        if disorder_us > self._disorder:
            self._disorder = disorder_us
            try:
                os.setxattr(self._fd, DISORDER_XATTR, str(disorder_us).encode())
            except OSError:  # not every file system has them, and one may be full
                self._forget_times()

    def _forget_times(self) -> None:
        """Keep no disorder for the open segment from now on: it is not known."""
        self._disorder = _UNKNOWN
        with contextlib.suppress(OSError):
            os.removexattr(self._fd, DISORDER_XATTR)

    def _append(self, data: bytes | memoryview) -> None:
        at = 0
        try:
            while at < len(data):
                with memoryview(data) as whole, whole[at:] as rest:  # a view that is left alive locks its buffer
                    at += os.write(self._fd, rest)
        except OSError as error:
            # take back the part that was written, so that no torn record precedes the next good one
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            raise StorageError.from_os("write", self._path, error) from error
        self._size += len(data)
        if self._synced:
            self._synced.dirty = True

    def _abandon(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._fd), os.lstat(self._path)):
                    os.unlink(self._path)
            release(self._fd)
            self._shut()

    def _shut(self) -> None:
        """Close the open file as it is."""
        if self._synced:
            SYNCER.drop(self._synced)
        else:
            os.close(self._fd)
        self._fd, self._synced = -1, None


def remove(path: str, mode: int) -> None:
    """Delete a file that no process has locked.

    Args:
        path: the file.
        mode: of the file, from before the look at its lock.

    Raises:
        BlockingIOError: its writer has made it only just now.
        OSError: it cannot be deleted.
    """
    if not mode & _MADE:
        os.unlink(path)
        return
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not take(fd):  # so that its writer finds out
            raise BlockingIOError(errno.EAGAIN, "it is in use: open for writing", path)
        os.unlink(path)
    finally:
        os.close(fd)


def open_regular(path: str) -> BinaryIO:
    """Open a file for reading; what a stranger has put there instead, a pipe say, is not waited for.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    return open(path, "rb", opener=_opened)


def _opened(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is no regular file", path)


def free_name(path: str) -> str:
    """Return a path or, if it is taken, the first of it with ``-1``, ``-2`` ... behind it that is not.

    It stays free only in a folder where nobody else makes files.
    """
    number, found = 0, path
    while os.path.lexists(found):
        number += 1
        found = f"{path}-{number}"
    return found


def disorder(fd: int) -> int | None:
    """Return by how many microseconds a record of a segment may be older than one before it.

    Args:
        fd: the segment's file. The answer holds for as much of it as there was before the call.

    Returns:
        None where it is not known: no :class:`FolderBackend` wrote the file, or it was copied since.
    """
    try:
        return int(os.getxattr(fd, DISORDER_XATTR))
    except (OSError, ValueError):
        return None


def _records(fd: int) -> int | None:
    """Return how many records a sealed segment has, where its file says so."""
    try:
        return int(os.getxattr(fd, RECORDS_XATTR))
    except (OSError, ValueError):
        return None

"""The replace step: a sealed segment is written anew without some of its records, and takes the old one's place.

Erasing and retention by rule share it. The order makes a crash at any moment harmless::

    remove drafts that an earlier run left
    write what stays into .<name>.rewrite, fsync, read it again     a crash leaves a draft that the next run removes
    rename it over the segment; fsync the folder                    readers see the old one or the new one, never half

Where nothing stays, the segment is deleted. One that nothing is taken from is left as it is.
"""

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Set
from typing import BinaryIO

import attrs

from sipdump_core.drivers.syncing import sync_folder
from sipdump_core.errors import StorageError
from sipdump_core.locks import claimed, in_use
from sipdump_core.ownership import is_ours, is_trusted
from sipdump_core.record import Record
from sipdump_core.sip import call_id

__all__ = ["DRAFT_SUFFIX", "Change", "Rewritten", "alone", "copy_attributes", "new_file", "remove_drafts", "replace"]

DRAFT_SUFFIX = ".rewrite"
"""What the name of a draft ends with; it begins with a dot, so that no program takes it for a segment."""
LOCK = ".sipdump-compact.lock"
_PAUSE = 0.02
_USED_WAIT = 10.0
"""Seconds to wait for whoever has the segment in use."""


@attrs.frozen
class Change:
    """What becomes of a segment's records."""

    call_ids: Set[str]
    """The calls whose messages are taken out, or masked; with ``others``, the calls that stay."""
    others: bool = False
    """All messages but those of ``call_ids`` are taken out, also those without a Call-ID."""
    also: Callable[[Record], bool] | None = None
    """Tells of a message without a Call-ID whether it belongs to ``call_ids``."""
    mask: Callable[[Record], Record | None] | None = None
    """Returns a message as it is to be stored instead; None: it is taken out."""

    def takes(self, record: Record) -> bool:
        """Return whether a record is taken out or masked."""
        call = call_id(record.buf)
        named = call in self.call_ids if call is not None else bool(self.also and self.also(record))
        return named is not self.others

    def apply(self, record: Record) -> Record | None:
        """Return the record itself where it stays, another one instead of it, or None where it is taken out."""
        if not self.takes(record):
            return record
        after = self.mask(record) if self.mask else None
        # what lost its Call-ID would be found by nobody who erases the call later
        return after if after is not None and call_id(after.buf) == call_id(record.buf) else None


@attrs.frozen
class Rewritten:
    """What became of a segment's records."""

    kept: int = 0
    """How many stayed as they were."""
    removed: int = 0
    masked: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything was changed."""
        return bool(self.removed or self.masked)


@contextlib.contextmanager
def alone(folder: str, operation: str, wait_s: float = 0.0) -> Iterator[None]:
    """Keep apart those who replace segments of one folder: compaction, erasing, retention by rule.

    Raises:
        StorageError: another one is under way there, or the folder cannot be opened.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError.from_os(operation, folder, error) from error
    try:
        with claimed(fd, os.path.join(folder, LOCK), wait_s) as first:
            if not first:
                what = "compaction" if operation == "compact" else "compaction, thinning or erasure"
                raise StorageError(operation, folder, f"another {what} of this folder is under way")
            yield
    finally:
        os.close(fd)


def replace(
    path: str, change: Callable[[BinaryIO, str], Rewritten], count: Callable[[BinaryIO], int], *, wait_s: float = 0.0
) -> Rewritten:
    """Replace a sealed file by what a change makes of it, at once for all readers.

    Its time, mode, owner and extended attributes stay.

    Args:
        path: the file.
        change: writes what is to stay into a new file of the path given, and returns what it did.
        count: returns how many records a file has, so that what was written is read once before it counts.
        wait_s: seconds to wait for another compaction, thinning or erasure of the folder.

    Raises:
        StorageError: it cannot be read or written, is in use, or belongs to another user; it is as it was.
    """
    folder = os.path.dirname(path) or "."
    draft = os.path.join(folder, f".{os.path.basename(path)}{DRAFT_SUFFIX}")
    with alone(folder, "rewrite", wait_s):
        try:
            with _held(path, folder) as file:
                if is_ours(draft):
                    os.unlink(draft)  # left by a crash
                done = change(file, draft)
                if not done.changed:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(draft)
                elif done.kept + done.masked:
                    _publish(draft, path, file, done, count)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(draft)
                    os.unlink(path)
                    sync_folder(folder)
                return done
        except OSError as error:
            raise StorageError.from_os("rewrite", path, error) from error
        except StorageError:
            with contextlib.suppress(OSError):
                if is_ours(draft):
                    os.unlink(draft)
            raise


def remove_drafts(folder: str, prefix: str) -> None:
    """Remove the drafts that a crash has left in a folder, unless somebody rewrites there now.

    Args:
        folder: the folder.
        prefix: what names of segments begin with.
    """
    with contextlib.suppress(OSError, StorageError):
        left = [name for name in os.listdir(folder) if name.startswith(f".{prefix}") and name.endswith(DRAFT_SUFFIX)]
        if left:
            with alone(folder, "rewrite"):
                for name in left:
                    path = os.path.join(folder, name)
                    if is_ours(path):
                        os.unlink(path)


def new_file(path: str) -> BinaryIO:
    """Make a file for this user alone, never over another one.

    Raises:
        OSError: it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR), "w+b", buffering=1 << 20)


def copy_attributes(source: int, target: int) -> None:
    """Give a file the mode, the owner, the extended attributes of users, and the times of another one.

    Raises:
        OSError: this user may not.
    """
    status = os.fstat(source)
    if (os.fstat(target).st_uid, os.fstat(target).st_gid) != (status.st_uid, status.st_gid):
        os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode) & 0o777)
    with contextlib.suppress(OSError):  # not every file system has them
        for name in os.listxattr(source):
            if name.startswith("user.") and name != "user.sipdump.records":
                os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextlib.contextmanager
def _held(path: str, folder: str) -> Iterator[BinaryIO]:
    """Open a sealed file, and keep it from being deleted, uploaded or rewritten meanwhile.

    Raises:
        StorageError: it is in use, or belongs to another user.
        OSError: it cannot be opened.
    """
    end = time.monotonic() + _USED_WAIT
    while True:
        with open(path, "rb", opener=_opened) as file:
            fd = file.fileno()
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StorageError("rewrite", path, "it is no regular file")
            if not is_trusted(status.st_uid, folder):
                raise StorageError(
                    "rewrite", path, f"it belongs to another user ({status.st_uid})", "run this as that user"
                )
            if not in_use(fd) and _lock(fd):
                if os.path.samestat(status, os.lstat(path)):
                    try:
                        yield file
                    finally:
                        fcntl.flock(fd, fcntl.LOCK_UN)
                    return
            elif time.monotonic() > end:
                raise StorageError("rewrite", path, "it is in use: open for writing, read or uploaded", "try again")
        time.sleep(_PAUSE)


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # not every file system has locks
    return True


def _publish(draft: str, path: str, file: BinaryIO, done: Rewritten, count: Callable[[BinaryIO], int]) -> None:
    wanted = done.kept + done.masked
    with open(draft, "r+b") as made:
        found = count(made)
        if found != wanted:
            raise StorageError("rewrite", path, f"what was written has {found} records of {wanted}; it is as it was")
        with contextlib.suppress(OSError):
            os.setxattr(made.fileno(), "user.sipdump.records", str(wanted).encode())
        copy_attributes(file.fileno(), made.fileno())
        os.fsync(made.fileno())
    os.replace(draft, path)
    sync_folder(os.path.dirname(path) or ".")

"""Syncing the files of all folders to the disk, in one thread, so that a slow disk delays no lane."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable

import attrs

from sipdump_core.errors import StorageError, kind_and_text
from sipdump_core.log import Event, Limit, log
from sipdump_core.threads import lasting

__all__ = ["SYNCER", "SyncedFile", "Syncer", "sync_folder"]

STALL = 5.0
"""Seconds that one sync may take before ``health`` reports it."""
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Nothing was tried for lack of descriptors or memory, so that it can be tried again."""


@attrs.define(eq=False)
class SyncedFile:
    """A file that is synced. The one who writes it sets ``dirty``; all else is the syncer's."""

    fd: int
    path: str
    every: float
    """Seconds between two syncs."""
    failed: Callable[["SyncedFile", StorageError], None]
    """Is called once, in the syncer's thread, when it cannot be synced."""
    due: float
    dirty: bool = False
    named: bool = False
    """Whether its folder was synced since it was made: its name is on the disk, too."""
    complete: bool = False
    """Nothing more is written: it is synced a last time, and closed."""
    error: StorageError | None = None
    """Why it could not be synced. The kernel may have discarded the data, and report success the next time (fsync(2)):
    it is never synced again."""
    reported: bool = False
    """Whether the writer has raised that error."""


class Syncer:
    """Calls fdatasync on the files that are being written, and fsync on those that are complete.

    Its thread runs while there is a file. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._files: list[SyncedFile] = []
        self._thread: threading.Thread | None = None
        self._busy: SyncedFile | None = None
        self._busy_since = 0.0
        self._short = ""
        self._log = Limit()

    def watch(self, fd: int, path: str, every: float, failed: Callable[[SyncedFile, StorageError], None]) -> SyncedFile:
        """Start syncing a file.

        Args:
            fd: its descriptor, which ``complete`` or ``drop`` closes.
            path: where it is.
            every: seconds between two syncs.
            failed: takes the error, in the syncer's thread, when it cannot be synced.

        Raises:
            StorageError: the thread cannot be started.
        """
        file = SyncedFile(fd, path, every, failed, time.monotonic() + every)
        with self._changed:
            self._start()
            self._files.append(file)
            self._changed.notify_all()
        return file

    def complete(self, file: SyncedFile) -> None:
        """Sync a file a last time, with its folder, and close it; this does not wait for that."""
        with self._changed:
            file.complete, file.due = True, 0.0
            with contextlib.suppress(StorageError):  # then the next start takes care of it
                self._start()
            self._changed.notify_all()

    def drop(self, file: SyncedFile) -> None:
        """Close a file that is of no use any more."""
        with self._changed:
            if file is self._busy:
                file.complete, file.error = True, StorageError("sync", file.path, "it was given up")
            else:
                if file in self._files:  # in a forked child it is not
                    self._files.remove(file)
                os.close(file.fd)
            self._changed.notify_all()

    def hand_over(self, fd: int, path: str) -> None:
        """Sync and close a file that is complete; if that fails, it is logged."""
        file = SyncedFile(fd, path, 0.0, lambda *_: None, 0.0, dirty=True, complete=True)
        with self._changed:
            try:
                self._start()
            except StorageError as error:
                os.close(fd)
                self._log.warn("thread", "file cannot be synced", path=path, error=error)
                return
            self._files.append(file)
            self._changed.notify_all()

    def finish(self, seconds: float) -> bool:
        """Wait until all files that are complete are synced; return whether they are, after so many seconds at most."""
        with self._changed:
            return self._changed.wait_for(lambda: not any(file.complete for file in self._files), seconds)

    def health(self) -> str:
        """Report what keeps files from being synced, in one line."""
        busy, since, thread = self._busy, self._busy_since, self._thread
        if busy and time.monotonic() - since > STALL:
            return f"sync {busy.path}: the call does not return"
        if self._files and not (thread and thread.is_alive()):
            return "the thread that syncs files has ended"
        return self._short

    def forget(self) -> None:
        """In a forked child: let go of everything, because it belongs to the parent."""
        for file in self._files:
            if file.complete:
                with contextlib.suppress(OSError):
                    os.close(file.fd)
        self.__init__()  # type: ignore[misc]  # its lock may be held by a thread that is not here

    def _start(self) -> None:
        """See that the thread runs; the lock is held."""
        if self._thread and self._thread.is_alive():
            return
        thread = lasting(self._run, "sipdump-sync")
        try:
            thread.start()
        except RuntimeError as error:  # no more threads can be had
            raise StorageError("sync", "files", str(error)) from error
        self._thread = thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while True:
                    if not self._files:
                        self._thread = None
                        return
                    file = min(self._files, key=lambda each: each.due)
                    wait = file.due - time.monotonic()
                    if wait <= 0:
                        break
                    self._changed.wait(wait)
                self._busy, self._busy_since = file, time.monotonic()
                last = file.complete
            try:
                self._sync(file, last=last)
            finally:
                with self._changed:
                    self._busy = None
                    file.due = time.monotonic() + file.every
                    if file.complete and (last or file.error):
                        self._files.remove(file)
                        self._close(file)
                    elif file.complete:
                        file.due = 0.0
                    self._changed.notify_all()

    def _sync(self, file: SyncedFile, *, last: bool) -> None:
        if file.error:
            return
        try:
            if file.dirty or last:
                file.dirty = False
                _tolerant(os.fsync if last else os.fdatasync, file.fd)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the data may not be on the disk
            self._fail(file, error)
            return
        if not file.named:
            self._sync_name(file)

    def _sync_name(self, file: SyncedFile) -> None:
        try:
            sync_folder(os.path.dirname(file.path))
        except OSError as error:
            if error.errno not in _SHORT or file.complete:
                self._fail(file, error)
                return
            self._short = f"sync {os.path.dirname(file.path)}: {error.strerror}"
            self._log.warn("short", "folder cannot be synced yet", error=self._short)
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(file, error)
        else:
            file.named, self._short = True, ""

    def _fail(self, file: SyncedFile, error: BaseException) -> None:
        if isinstance(error, OSError):
            known = StorageError.from_os("sync", file.path, error)
            # never a StorageFullError: that would promise that the same file may be written again
            failure = StorageError("sync", file.path, known.reason, known.hint)
        else:
            failure = StorageError("sync", file.path, kind_and_text(error))
        file.error = failure
        log.error(Event("file cannot be synced, a crash of the machine may cost what it holds", error=failure))
        file.failed(file, failure)

    def _close(self, file: SyncedFile) -> None:
        try:
            os.close(file.fd)
        except OSError as error:  # NFS, say, reports here that it could not write
            if not file.error:
                self._fail(file, error)


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _tolerant(os.fsync, fd)
    finally:
        os.close(fd)


def _tolerant(sync: Callable[[int], None], fd: int) -> None:
    """Sync a descriptor, unless it is of a kind that its file system cannot sync."""
    try:
        sync(fd)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


SYNCER = Syncer()
"""The one syncer of this process."""

os.register_at_fork(after_in_child=SYNCER.forget)

"""Syncing the write-ahead file at intervals, from a thread of its own, so that a slow disk delays no lane."""

import os
import threading

from sipdump_core.errors import StorageError

__all__ = ["Syncer", "sync_folder"]


class Syncer:
    """Calls fdatasync on the file that is being written.

    Args:
        every: seconds between two calls.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._fd = -1
        self._path = ""
        self._named = False
        """The folder was synced after the file was made: its name is on the disk, too."""
        self._error: StorageError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sipdump-parquet-sync", daemon=True)
        self._thread.start()

    def watch(self, fd: int, path: str) -> None:
        """Start syncing a file."""
        with self._lock:
            self._fd, self._path, self._error = fd, path, None
            self._named = False

    def release(self) -> None:
        """Stop syncing the file: it is about to be closed."""
        with self._lock:
            self._fd = -1

    def check(self) -> None:
        """Raise the error of the last sync, if it failed.

        After an error the kernel may have discarded the data and report success next time (fsync(2)): a file that has
        failed once is no longer written.

        Raises:
            StorageError: the file could not be synced.
        """
        error = self._error
        if error is not None:
            raise error

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            with self._lock:
                if self._fd < 0 or self._error:
                    continue
                fd, path = os.dup(self._fd), self._path  # the writer may close its own meanwhile
                named, self._named = self._named, True
            try:
                os.fdatasync(fd)
                if not named:
                    sync_folder(os.path.dirname(path))
            except OSError as error:
                with self._lock:
                    if path == self._path:
                        self._error = StorageError.from_os("sync", path, error)
            finally:
                os.close(fd)


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

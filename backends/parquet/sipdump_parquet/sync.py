"""Having a write-ahead file on the disk, once in a while, from a thread of its own: a slow disk holds up no lane."""

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
        """The folder was synced since the file is there: its name is on the disk, too."""
        self._error: StorageError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sipdump-parquet-sync", daemon=True)
        self._thread.start()

    def watch(self, fd: int, path: str) -> None:
        """Take care of a file from now on."""
        with self._lock:
            self._fd, self._path, self._error = fd, path, None
            self._named = False

    def release(self) -> None:
        """Let go of the file: it is about to be closed."""
        with self._lock:
            self._fd = -1

    def check(self) -> None:
        """Raise what the last call gave.

        After an error the kernel may have thrown the data away and take the next call for a success (fsync(2)): a file
        that has failed once is not written on.

        Raises:
            StorageError: the file could not be synced.
        """
        error = self._error
        if error is not None:
            raise error

    def stop(self) -> None:
        """End the thread."""
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
    """Have the names in a folder on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

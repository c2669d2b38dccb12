"""Advisory locks that only those who may write a file can take, so that no stranger's lock holds anything up.

A reader may take flock(2) and shared record locks on whatever it can open. Three things are out of its reach, and only
these are relied on: an exclusive record lock (``F_OFD_SETLK``, fcntl(2)) needs a descriptor that is open for writing;
a file with the mode 0600 can be opened by its owner alone; and /proc/locks says who holds an flock.
"""

import contextlib
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator

__all__ = ["claimed", "has_locks", "in_use", "own_lock", "release", "take"]

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2): type, whence, start, length, pid
_PAUSES = (0.001, 0.01, 0.1)
_LOOKS = {False: (0.0,), True: (*_PAUSES, 0.0)}  # whoever lists the folder has the flock for a moment
_STEP = 0.01


def take(fd: int) -> bool:
    """Mark a file as being written, without waiting; every process that looks sees it until the descriptor is gone.

    The mark is a record lock, and an flock for readers that know only that one.

    Args:
        fd: open for writing.

    Returns:
        False if another process has marked it. True also where the file system has no locks.
    """
    try:
        _record_lock(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, by fcntl(2)
        return False
    except OSError:
        pass  # not every file system has locks
    for pause in (*_PAUSES, 0.0):  # whoever lists the folder has the flock for a moment
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        except OSError:
            break
        else:
            break
    return True


def release(fd: int) -> None:
    """Take the mark away, also from a forked child that still has the file open."""
    with contextlib.suppress(OSError):
        _record_lock(fd, fcntl.F_OFD_SETLK, fcntl.F_UNLCK)
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)


def in_use(fd: int, *, alone: bool = False) -> bool:
    """Return whether a process that may write a file has it locked. Locks of others count for nothing.

    Args:
        fd: the file, open for reading at least; an flock is held on it for a moment.
        alone: ask also for shared flocks, of whoever reads it and wants it to stay.
    """
    try:
        if _record_lock(fd, fcntl.F_OFD_GETLK, fcntl.F_RDLCK) != fcntl.F_UNLCK:
            return True
    except OSError:
        pass  # not every file system has locks
    for pause in _LOOKS[alone]:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_UN)
        except BlockingIOError:
            time.sleep(pause)
        except OSError:
            return False
        else:
            return False
    return not _held_by_strangers(fd)


def has_locks(fd: int) -> bool:
    """Return whether a file's file system has flock(2)."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


@contextlib.contextmanager
def claimed(fd: int, lock: str, wait_s: float = 0.0) -> Iterator[bool]:
    """Keep others out who do the same with a file or folder: processes of its owner, of root and of this user.

    That is an flock; where a stranger holds that, a lock file of this user's own.

    Args:
        fd: the file or folder, open for reading; the flock ends with it.
        lock: path of the lock file.
        wait_s: how many seconds to wait for another one who is in.

    Yields:
        False if another one is in. True also where the file system has no locks.
    """
    end = time.monotonic() + wait_s
    answer = _flock(fd, end)
    if answer == "taken":
        yield False
    elif answer == "mine" and not os.path.lexists(lock):
        yield True
    else:
        with own_lock(lock, max(0.0, end - time.monotonic())) as alone:
            yield alone


def _flock(fd: int, end: float) -> str:
    """Lock a file by flock: ``mine``, ``taken`` by one of us until ``end``, or ``out of reach`` through a stranger."""
    pauses = iter(_PAUSES)  # whoever lists the folder has the lock for a moment
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _held_by_strangers(fd):
                return "out of reach"
            pause = next(pauses, _STEP if time.monotonic() < end else 0.0)
            if not pause:
                return "taken"
            time.sleep(pause)
        except OSError:
            return "mine"  # as far as can be known
        else:
            return "mine"


@contextlib.contextmanager
def own_lock(path: str, wait_s: float = 0.0) -> Iterator[bool]:
    """Keep other processes of this user out, by a lock file with the mode 0600 that is removed at the end.

    Args:
        path: the lock file.
        wait_s: how many seconds to wait for another process.

    Yields:
        False if another process of this user is in. True also if there can be no such file: because the folder cannot
        be written, say, or a stranger has made a file of that name.
    """
    end = time.monotonic() + wait_s
    while True:
        fd = _open_own(path)
        if fd < 0:
            yield True
            return
        try:
            while (found := _flock_own(fd, path)) is None and time.monotonic() < end:
                time.sleep(_STEP)
            if found is None:
                yield False
                return
            if found:
                try:
                    yield True
                finally:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
                return
        finally:
            os.close(fd)


def _open_own(path: str) -> int:
    """Open or make a lock file; return -1 if there cannot be one of this user's own."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return fd
    os.close(fd)
    return -1


def _flock_own(fd: int, path: str) -> bool | None:
    """Lock a lock file; None if another process has it, False if that one has just removed it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return True  # not every file system has locks
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


def _record_lock(fd: int, command: int, kind: int) -> int:
    """Set, remove or look for a record lock on a whole file; return the kind of lock that is in the way."""
    answer = fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    return int(_FLOCK.unpack(answer[: _FLOCK.size])[0])


def _held_by_strangers(fd: int) -> bool:
    """Return whether all who hold an flock on a file are known to be neither its owner, nor root, nor this user."""
    status = os.fstat(fd)
    pids = []
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/locks") as file:
        for line in file:  # "1: FLOCK  ADVISORY  WRITE 1234 08:01:56789 0 EOF", see proc(5)
            words = line.split()
            if words[1] == "FLOCK" and int(words[5].rpartition(":")[2]) == status.st_ino:
                pids.append(int(words[4]))
    # who is not listed is outside of this container, and may be an older version that writes the file
    return bool(pids) and not any(_user_of(pid) in (0, status.st_uid, os.geteuid()) for pid in pids)


def _user_of(pid: int) -> int:
    """Return the real user of a process; -1 if it has ended, so that its lock protects nothing any more."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Uid:")), 0)
    except OSError:
        return -1

"""A small disk that can be full, for one process alone."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ballast", "mount_small_disk"]

_NEWNS, _NEWUSER = 0x00020000, 0x10000000  # sched.h
_PRIVATE, _REC = 1 << 18, 1 << 14  # sys/mount.h


def mount_small_disk(folder: str, size: int) -> str:
    """Mount a file system in memory on a folder, which no other process sees; it ends with this process.

    Args:
        folder: a folder; its content is hidden.
        size: bytes.

    Returns:
        Why it cannot be had; empty if it is there. It needs Linux, and root or namespaces for users.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        user, group = os.getuid(), os.getgid()
        if libc.unshare(_NEWNS):
            _done(libc.unshare(_NEWNS | _NEWUSER), "unshare")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _done(libc.mount(b"none", b"/", None, _PRIVATE | _REC, None), "mount")
        options = f"size={size},mode=0700".encode()
        _done(libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, options), "mount a tmpfs")
    except (OSError, AttributeError) as error:
        return str(error)
    return ""


@contextlib.contextmanager
def ballast(folder: str, room: int) -> Iterator[None]:
    """Take a disk's space for a while, except some.

    Args:
        folder: the disk's root.
        room: bytes that stay free.
    """
    disk = os.statvfs(folder)
    path = os.path.join(folder, ".ballast")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(fd, 0, disk.f_bavail * disk.f_frsize - room)
        yield
    finally:
        os.close(fd)
        os.unlink(path)


def _done(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")

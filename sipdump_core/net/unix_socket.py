"""Unix sockets to listen on: private from the first moment, never stolen from a live program, removed at the end."""

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Iterator

from sipdump_core.errors import ConfigError
from sipdump_core.locks import claimed

__all__ = ["UnixSocket", "bind_unix", "folder_locked", "number_of", "remove_if_ours"]

_LOCK_TIMEOUT = 5.0
_LIVE = {errno.EAGAIN, errno.EPROTOTYPE}  # its queue is full; it is of another kind


class UnixSocket(socket.socket):
    """A socket with a file that it made."""

    path = ""
    identity = (-1, -1)
    """Device and inode of that file: another file of that name is not ours."""


def bind_unix(
    path: str, kind: socket.SocketKind, mode: int = 0o600, user: str = "", group: str = "", *, place: str = ""
) -> UnixSocket:
    """Make a non-blocking socket file, and listen on it where its kind does.

    A socket that a dead program left behind is replaced. A live program's socket, or anything that is not a socket, is
    left alone.

    Args:
        path: the file.
        kind: ``SOCK_STREAM`` or ``SOCK_DGRAM``.
        mode: its permission bits, whatever the umask; connecting and sending ask for the bit w.
        user: its owner, a name or a number; empty: this process's user.
        group: the same for its group.
        place: where the path was configured, for errors.

    Raises:
        ConfigError: it cannot be made, or the path is taken.
    """
    uid, gid = number_of(user, "user", place), number_of(group, "group", place)
    sock = UnixSocket(socket.AF_UNIX, kind)
    try:
        sock.setblocking(False)
        with folder_locked(path, place):
            _remove_stale(path, kind, place)
            os.fchmod(sock.fileno(), mode & 0o600)  # the mode that bind sets on Linux, less the umask
            sock.bind(path)
            sock.path, sock.identity = path, _identity(path)
            if uid >= 0 or gid >= 0:
                os.chown(path, uid, gid, follow_symlinks=False)
            os.chmod(path, mode)
            if kind == socket.SOCK_STREAM:
                sock.listen(128)
    except BaseException as error:
        remove_if_ours(sock)
        sock.close()
        if isinstance(error, OSError):  # strerror is None where Python itself finds the path too long
            raise ConfigError(f"cannot listen on {path}: {error.strerror or error}{_hint(error)}", place) from error
        raise
    return sock


def remove_if_ours(sock: UnixSocket) -> None:
    """Remove the socket's file, unless another one is in its place by now; call it before ``close``."""
    path, sock.path = sock.path, ""  # a later file of that name may have the same inode
    with contextlib.suppress(OSError):
        if path and _identity(path) == sock.identity:
            os.unlink(path)


@contextlib.contextmanager
def folder_locked(path: str, place: str) -> Iterator[None]:
    """Keep out others that are starting: the second to find a stale socket would remove the first one's new one."""
    folder = os.path.dirname(path) or "."
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with claimed(fd, os.path.join(folder, f".{os.path.basename(path)}.lock"), _LOCK_TIMEOUT) as alone:
            if not alone:
                raise ConfigError(f"cannot listen on {path}: its folder stays locked", place)
            yield
    finally:
        os.close(fd)


def _remove_stale(path: str, kind: socket.SocketKind, place: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"cannot listen on {path}: there is a file that is no socket; move it away", place)
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _LIVE:
                raise
    raise ConfigError(f"cannot listen on {path}: another program is listening there", place)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def number_of(name: str, what: str, place: str) -> int:
    """Return the number of a ``user`` or a ``group``, -1 for an empty name.

    Raises:
        ConfigError: there is no user or group of that name.
    """
    if not name or name.isdecimal():
        return int(name or -1)
    try:
        return pwd.getpwnam(name).pw_uid if what == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"there is no {what} {name!r}", place) from None


def _hint(error: OSError) -> str:
    hints = {
        errno.ENOENT: "; create its folder",
        errno.EACCES: "; its folder, or the socket in it, is not writable for this user",
        errno.EPERM: "; only root may change a socket's user or group",
    }
    return hints.get(error.errno or 0, "")

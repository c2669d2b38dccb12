"""JSON-RPC over a fifo, as kamctl uses it: requests on one fifo, each answer to a fifo that the client made for it."""

import contextlib
import errno
import os
import stat
import time
from functools import partial

import attrs

from sipdump_core.control import jsonrpc
from sipdump_core.control.request import READ_BYTES, REQUESTS_A_ROUND, Executor
from sipdump_core.errors import ConfigError
from sipdump_core.net.loop import WRITE, Loop
from sipdump_core.net.unix_socket import folder_locked, number_of
from sipdump_core.settings.ctl import CtlOptions

__all__ = ["Fifo", "ReplyFifos"]

_RETRY_S = 0.02
_MAX_REPLIES = 64
_REPLY_WAIT_S = 2.0


class Fifo:
    """A fifo that requests come by. It exists when the constructor returns.

    Args:
        path: its path.
        options: its mode, owner and time limit.
        executor: runs the commands.
        replies: takes the answers.
        loop: serves it.
        place: where the path was configured, for errors.

    Raises:
        ConfigError: the path is taken, or its owner is unknown.
        OSError: it cannot be made.
    """

    def __init__(
        self, path: str, options: CtlOptions, executor: Executor, replies: "ReplyFifos", loop: Loop, place: str
    ) -> None:
        self._path = path
        self._executor = executor
        self._replies = replies
        self._timeout_s = options.request_timeout
        self._buffer = bytearray()
        self._deadline = float("inf")
        self._loop = loop
        uid, gid = number_of(options.user, "user", place), number_of(options.group, "group", place)
        with folder_locked(path, place):
            _remove_stale(path, place)
            os.mkfifo(path, 0o600)
            try:
                # for writing, too, or it would be at its end whenever no client has it open
                self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                os.unlink(path)
                raise
            self._identity = _identity(os.fstat(self._fd))
            try:
                os.fchown(self._fd, uid, gid)
                os.fchmod(self._fd, options.mode)
            except OSError:
                self.close()
                raise
        loop.watch(self._fd, self._read)
        loop.every(1.0, self._give_up)

    def close(self) -> None:
        """Remove it, if the path still leads to it, and close it; a second time does nothing."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if _identity(os.lstat(self._path)) == self._identity:
                os.unlink(self._path)
        os.close(self._fd)
        self._fd = -1

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._buffer += os.read(self._fd, READ_BYTES)
        self._advance()

    def _advance(self) -> None:
        for _ in range(REQUESTS_A_ROUND):
            document = jsonrpc.take_document(self._buffer)
            if document is None:
                break
            self._deadline = time.monotonic() + self._timeout_s
            self._run(jsonrpc.Request.of(document))
        else:  # the others have their turn meanwhile
            self._loop.call_soon(self._advance)
        if len(self._buffer) > jsonrpc.MAX_REQUEST:
            self._loop.limit.warn("fifo", "control fifo: a request is too long", bytes=len(self._buffer))
            self._buffer.clear()
        if not self._buffer:
            self._deadline = float("inf")
        elif self._deadline == float("inf"):
            self._deadline = time.monotonic() + self._timeout_s

    def _run(self, request: jsonrpc.Request) -> None:
        if not request.reply_name_ok:
            # like Kamailio, run nothing that cannot be answered
            name = request.reply_name
            self._loop.limit.warn("fifo", "control fifo: reply_name is missing or forbidden", reply_name=name)
        elif self._replies.full:
            self._loop.limit.warn("fifo", "control fifo: too many answers wait for their readers")
        else:
            self._executor.execute(request, partial(self._replies.send, request.reply_name))

    def _give_up(self) -> None:
        if self._buffer and time.monotonic() >= self._deadline:
            size = len(self._buffer)
            self._loop.limit.warn("fifo", "control fifo: a request did not end in time", bytes=size)
            self._buffer.clear()


@attrs.define(eq=False)
class _Reply:
    name: str
    data: bytearray
    deadline: float
    fd: int = -1


class ReplyFifos:
    """The answers that wait for their readers, in fifos of one folder. Strangers choose their names.

    Args:
        options: the folder, and how long an answer may wait for being taken.
        loop: serves them.
        place: where a fifo was configured, for errors.

    Raises:
        ConfigError: the folder cannot be opened.
    """

    def __init__(self, options: CtlOptions, loop: Loop, place: str) -> None:
        self._timeout_s = options.request_timeout
        self._loop = loop
        self._replies: list[_Reply] = []
        try:
            self._folder = os.open(options.fifo_reply_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"fifo_reply_dir {options.fifo_reply_dir}: {error.strerror}", place) from error

    @property
    def full(self) -> bool:
        """Whether no more answers may wait."""
        return len(self._replies) >= _MAX_REPLIES

    def send(self, name: str, data: bytes) -> None:
        """Send an answer to the fifo of a name, as soon as it has a reader, within 2 s."""
        reply = _Reply(name, bytearray(data), time.monotonic() + _REPLY_WAIT_S)
        self._replies.append(reply)
        self._try(reply)

    def close(self) -> None:
        """Close all."""
        for fd in (self._folder, *(reply.fd for reply in self._replies)):
            if fd >= 0:
                os.close(fd)
        self._replies.clear()
        self._folder = -1

    def _try(self, reply: _Reply) -> None:
        try:
            self._open(reply)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() >= reply.deadline:  # ENXIO: nobody reads it
                self._end(reply, error.strerror or str(error))
                return
            self._loop.call_later(_RETRY_S, partial(self._try, reply))
            return
        self._loop.watch(reply.fd, partial(self._write, reply), WRITE)
        self._loop.call_later(self._timeout_s, partial(self._end, reply, "its reader takes nothing"))
        self._write(reply)

    def _open(self, reply: _Reply) -> None:
        found = os.stat(reply.name, dir_fd=self._folder, follow_symlinks=False)
        if not stat.S_ISFIFO(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.EPERM, "it is no fifo with one name")
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(reply.name, flags, dir_fd=self._folder)
        if _identity(os.fstat(fd)) != _identity(found):
            os.close(fd)
            raise OSError(errno.EPERM, "it was replaced meanwhile")
        reply.fd = fd

    def _write(self, reply: _Reply) -> None:
        try:
            del reply.data[: os.write(reply.fd, reply.data)]
        except BlockingIOError:
            return
        except OSError as error:
            self._end(reply, error.strerror or str(error))
            return
        if not reply.data:
            self._end(reply, "")

    def _end(self, reply: _Reply, error: str) -> None:
        if reply not in self._replies:
            return
        if error:
            self._loop.limit.warn("reply", "control fifo: the answer was not sent", reply_name=reply.name, error=error)
        self._replies.remove(reply)
        if reply.fd >= 0:
            self._loop.unwatch(reply.fd)
            os.close(reply.fd)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _remove_stale(path: str, place: str) -> None:
    """Remove the fifo that a dead daemon left behind, and nothing else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISFIFO(found.st_mode):
        raise ConfigError(f"cannot listen on {path}: there is a file that is no fifo; move it away", place)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.ENXIO:  # nobody reads it
            raise
        os.unlink(path)
        return
    raise ConfigError(f"cannot listen on {path}: another program is listening there", place)

"""The control sockets: one thread that takes control commands over every configured address, and answers them.

No client can hold it up: nothing here blocks, requests and answers are bounded in bytes and seconds, connections in
number, and a command that waits for a store runs in a thread of its own.
"""

import contextlib
import errno
import os
import selectors
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs

from sipdump_core.control import binrpc, jsonrpc
from sipdump_core.control.commands import Rpc
from sipdump_core.errors import ConfigError, FormatError, RpcFault
from sipdump_core.log import Event, Limit, log
from sipdump_core.net.address import Address, bind_inet, parse_address, parse_jsonrpc
from sipdump_core.net.unix_socket import UnixSocket, bind_unix, folder_locked, number_of, remove_if_ours
from sipdump_core.settings.ctl import CtlOptions
from sipdump_core.settings.options import Setting

__all__ = ["Ctl"]

_READ = 65536
_TICK = 1.0
_RETRY = 0.02
_DATAGRAMS_A_ROUND = 64
_MAX_BUFFER = 2 * 65536
_MAX_SLOW = 8
_MAX_FIFO_REPLIES = 64
_REPLY_FIFO_WAIT = 2.0

Request = binrpc.Request | jsonrpc.Request | jsonrpc.HttpRequest
Answer = Callable[[bytes], None]


class Ctl:
    """Takes control commands. It is listening when the constructor returns; ``close`` ends it, and removes its sockets.

    Args:
        options: the addresses and limits.
        rpc: the commands.
        settings: those that the options were made of, for errors that name their place.

    Raises:
        ConfigError: an address cannot be listened on, or another daemon does.
    """

    def __init__(self, options: CtlOptions, rpc: Rpc, settings: Sequence[Setting] = ()) -> None:
        self._options = options
        self._rpc = rpc
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._fifos: list[_Fifo] = []
        self._connections: set[_Connection] = set()
        self._paused: list[tuple[socket.socket, Callable[[], None]]] = []
        self._replies: list[_FifoReply] = []
        self._slow = 0
        self._done: deque[Callable[[], None]] = deque()
        self._reply_dir = -1
        self._log = Limit()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._drain)
        self.addresses: list[Address] = []
        """Where it listens, with the ports that the kernel chose for port 0."""
        try:
            for text in options.binrpc:
                self._open(_setting(settings, "binrpc", text), parse_address(text), binrpc.take_request)
            for text in options.jsonrpc:
                where = parse_jsonrpc(text)
                take = jsonrpc.take_http if where.proto == "http" else _take_whole
                self._open(_setting(settings, "jsonrpc", text), where, take)
        except BaseException:
            self.close()
            raise
        if self.addresses:
            self._thread = threading.Thread(target=self._run, name="sipdump-ctl", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End, and remove the sockets and fifos that are still this daemon's."""
        if self._thread is not None and self._thread.is_alive():
            self._closing = True
            self._notify()
            self._thread.join()
        for listener in self._listeners:
            if isinstance(listener, UnixSocket):
                remove_if_ours(listener)
        for fifo in self._fifos:
            with contextlib.suppress(OSError):
                if _identity(os.lstat(fifo.path)) == fifo.identity:
                    os.unlink(fifo.path)
        for sock in [*self._listeners, *(connection.sock for connection in self._connections), self._wake, self._woken]:
            sock.close()
        for fd in [*(fifo.fd for fifo in self._fifos), *(reply.fd for reply in self._replies), self._reply_dir]:
            if fd >= 0:
                os.close(fd)
        self._fifos.clear()
        self._replies.clear()
        self._reply_dir = -1
        self._selector.close()

    # Opening

    def _open(self, setting: Setting, where: Address, take: "Take") -> None:
        try:
            if where.proto == "fifo":
                self._open_fifo(where.path, setting.place)
            else:
                where = self._open_socket(where, take, setting.place)
        except ConfigError as error:
            raise setting.error(str(error).removeprefix(f"{setting.place}: ")) from error
        except OSError as error:
            raise setting.error(f"cannot listen there: {error.strerror or error}") from error
        self.addresses.append(where)
        log.info(Event("listening for control commands", protocol=setting.name, address=where))

    def _open_socket(self, where: Address, take: "Take", place: str) -> Address:
        kind = socket.SOCK_STREAM if where.stream else socket.SOCK_DGRAM
        options = self._options
        sock: socket.socket
        if where.path:
            sock = bind_unix(where.path, kind, options.mode, options.user, options.group, place=place)
            self._listeners.append(sock)
        else:
            sock = bind_inet(where.host, where.port, kind)
            self._listeners.append(sock)
            where = where._replace(port=sock.getsockname()[1])
            sock.setblocking(False)
            if where.stream:
                sock.listen(128)
        ready = partial(self._accept if where.stream else self._read_datagrams, sock, take)
        self._selector.register(sock, selectors.EVENT_READ, ready)
        return where

    def _open_fifo(self, path: str, place: str) -> None:
        options = self._options
        if self._reply_dir < 0:
            try:
                self._reply_dir = os.open(options.fifo_reply_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise ConfigError(f"fifo_reply_dir {options.fifo_reply_dir}: {error.strerror}", place) from error
        uid, gid = number_of(options.user, "user", place), number_of(options.group, "group", place)
        with folder_locked(path, place):
            _remove_stale_fifo(path, place)
            os.mkfifo(path, 0o600)
            try:
                # for writing, too, or it would be at its end whenever no client has it open
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                os.unlink(path)
                raise
            fifo = _Fifo(fd, path, _identity(os.fstat(fd)))
            self._fifos.append(fifo)
            os.fchown(fd, uid, gid)
            os.fchmod(fd, options.mode)
        self._selector.register(fd, selectors.EVENT_READ, partial(self._read_fifo, fifo))

    # The loop

    def _run(self) -> None:
        next_tick = time.monotonic() + _TICK
        while not self._closing:
            wait = max(0.0, next_tick - time.monotonic())
            if any(reply.fd < 0 for reply in self._replies):
                wait = min(wait, _RETRY)
            for key, _ in self._selector.select(wait):
                self._guard(key.data)
            while self._done:
                self._guard(self._done.popleft())
            self._guard(self._send_fifo_replies)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK
                self._guard(self._tick)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # noqa: BLE001 - no client may end the thread
            log.exception(Event("control socket failed; this is a bug in sipdump, please report it"))

    def _tick(self) -> None:
        for listener, ready in self._paused:
            self._selector.register(listener, selectors.EVENT_READ, ready)
        self._paused.clear()
        now = time.monotonic()
        for connection in [c for c in self._connections if now >= c.deadline]:
            log.debug(Event("control connection timed out", state=connection.state))
            self._drop(connection)
        for fifo in self._fifos:
            if fifo.buffer and now >= fifo.deadline:
                self._log.warn("fifo", "control fifo: a request did not end in time", bytes=len(fifo.buffer))
                fifo.buffer.clear()

    def _notify(self) -> None:
        with contextlib.suppress(BlockingIOError):  # then it is being woken anyway
            self._wake.send(b"x")

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    # Commands

    def _execute(self, request: Request, answer: Answer, limit: int = 1 << 24) -> None:
        """Run a request's command, and give the bytes of the answer to ``answer``, now or later, in this thread."""
        method = self._rpc.methods.get(request.method)
        if method is None or not method.slow or request.error is not None:
            answer(self._run_command(request, limit))
        elif self._slow >= _MAX_SLOW:
            answer(request.failure(RpcFault(500, "too many commands are under way, try again later")))
        else:
            self._slow += 1
            threading.Thread(
                target=self._run_slow, args=(request, answer, limit), name="sipdump-ctl-command", daemon=True
            ).start()

    def _run_slow(self, request: Request, answer: Answer, limit: int) -> None:
        data = self._run_command(request, limit)

        def finish() -> None:
            self._slow -= 1
            answer(data)

        self._done.append(finish)
        with contextlib.suppress(OSError):  # closed meanwhile
            self._notify()

    def _run_command(self, request: Request, limit: int) -> bytes:
        try:
            if request.error is not None:
                return request.failure(request.error)
            values = self._rpc.call(request.method, request.args, numeric_strings=request.numeric_strings)
            data = request.success(values, array=self._rpc.methods[request.method].array)
            if len(data) > limit:
                reason = f"a reply of {len(data)} bytes does not fit into a datagram; use a stream socket"
                return request.failure(RpcFault(500, reason))
        except RpcFault as fault:
            return request.failure(fault)
        except FormatError as error:
            return request.failure(RpcFault(500, str(error)))
        except Exception as error:  # noqa: BLE001 - a command that fails is answered, and the next one is taken
            log.exception(Event("control command failed", method=request.method))
            return request.failure(RpcFault(500, f"internal server error: {type(error).__name__}"))
        return data

    # Streams

    def _accept(self, listener: socket.socket, take: "Take") -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of file descriptors, say: leave the others waiting a while
            self._log.warn("accept", "cannot accept control connection", error=error)
            key = self._selector.unregister(listener)
            self._paused.append((listener, key.data))
            return
        if len(self._connections) >= self._options.max_connections:
            # the one that has been of least use makes room: idle strangers must not lock the operator out
            oldest = min(self._connections, key=lambda connection: connection.active)
            self._log.warn("connections", "too many control connections, the oldest is closed")
            self._drop(oldest)
        sock.setblocking(False)
        connection = _Connection(sock, take)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, partial(self._ready, connection))
        self._watch(connection)

    def _ready(self, connection: "_Connection") -> None:
        if connection not in self._connections:
            return  # dropped by an event of the same round
        try:
            if connection.state == "answer":
                self._flush(connection)
            else:
                data = connection.sock.recv(_READ)
                connection.buffer += data
                connection.ended = not data
            self._advance(connection)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
        except Exception:
            self._drop(connection)
            raise

    def _advance(self, connection: "_Connection") -> None:
        """Take the requests that are whole, one after another, each when the one before it is answered."""
        while connection in self._connections and not (connection.busy or connection.out or connection.last):
            request = connection.take(connection.buffer)
            if request is None:
                if connection.ended or len(connection.buffer) > _MAX_BUFFER:
                    self._drop(connection)
                break
            connection.busy = True
            connection.last = request.close
            connection.active = time.monotonic()
            connection.state = ""  # so that the next state gets its full time
            self._execute(request, partial(self._answered, connection))
        if connection in self._connections:
            self._watch(connection)

    def _answered(self, connection: "_Connection", data: bytes) -> None:
        later = connection.state == "busy"
        connection.busy = False
        if connection in self._connections:
            connection.out += data
            self._flush(connection)
            if later:
                self._advance(connection)

    def _flush(self, connection: "_Connection") -> None:
        try:
            sent = connection.sock.send(connection.out)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        del connection.out[:sent]
        if connection.last and not connection.out:
            self._drop(connection)

    def _watch(self, connection: "_Connection") -> None:
        """Wait for what the connection needs next, and not for ever."""
        state = (
            "busy" if connection.busy
            else "answer" if connection.out
            else "request" if connection.buffer
            else "idle"
        )  # fmt: skip
        if state == connection.state:
            return
        connection.state = state
        events = selectors.EVENT_WRITE if state == "answer" else selectors.EVENT_READ
        registered = connection.sock in self._selector.get_map()
        if state == "busy":
            if registered:
                self._selector.unregister(connection.sock)
        elif registered:
            self._selector.modify(connection.sock, events, partial(self._ready, connection))
        else:
            self._selector.register(connection.sock, events, partial(self._ready, connection))
        seconds = self._options.idle_timeout if state == "idle" else self._options.request_timeout
        connection.deadline = float("inf") if state == "busy" else time.monotonic() + seconds

    def _drop(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()

    # Datagrams

    def _read_datagrams(self, sock: socket.socket, take: "Take") -> None:
        limit = 65507 if sock.family != socket.AF_UNIX else sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
        for _ in range(_DATAGRAMS_A_ROUND):
            try:
                data, peer = sock.recvfrom(_READ)
            except BlockingIOError:
                return
            except OSError as error:
                self._log.warn("recv", "cannot receive control command", error=error)
                return
            request = take(bytearray(data))
            if request is not None:
                self._execute(request, partial(self._send_datagram, sock, peer), limit)

    def _send_datagram(self, sock: socket.socket, peer: Any, data: bytes) -> None:
        if not peer:  # a unix socket without a name: its answer has nowhere to go
            return
        try:
            sock.sendto(data, peer)
        except OSError as error:  # its queue is full, or it is gone
            self._log.warn("send", "control command: the answer was not sent", error=error)

    # Fifos

    def _read_fifo(self, fifo: "_Fifo") -> None:
        with contextlib.suppress(BlockingIOError):
            fifo.buffer += os.read(fifo.fd, _READ)
        while (document := jsonrpc.take_document(fifo.buffer)) is not None:
            fifo.deadline = time.monotonic() + self._options.request_timeout
            request = jsonrpc.Request.of(document)
            if not request.reply_name_ok:
                # as Kamailio, nothing is run that cannot be answered
                self._log.warn(
                    "fifo", "control fifo: reply_name is missing or forbidden", reply_name=request.reply_name
                )
            elif len(self._replies) >= _MAX_FIFO_REPLIES:
                self._log.warn("fifo", "control fifo: too many answers wait for their readers")
            else:
                self._execute(request, partial(self._queue_fifo_reply, request.reply_name))
        if len(fifo.buffer) > jsonrpc.MAX_REQUEST:
            self._log.warn("fifo", "control fifo: a request is too long", bytes=len(fifo.buffer))
            fifo.buffer.clear()
        if not fifo.buffer:
            fifo.deadline = float("inf")
        elif fifo.deadline == float("inf"):
            fifo.deadline = time.monotonic() + self._options.request_timeout

    def _queue_fifo_reply(self, name: str, data: bytes) -> None:
        self._replies.append(_FifoReply(name, bytearray(data), time.monotonic() + _REPLY_FIFO_WAIT))

    def _send_fifo_replies(self) -> None:
        """Open the reply fifos that have a reader by now; who has none for 2 s gets no answer."""
        now = time.monotonic()
        for reply in list(self._replies):
            try:
                if reply.fd < 0:
                    self._open_reply(reply)
                    reply.deadline = now + self._options.request_timeout
                    self._selector.register(reply.fd, selectors.EVENT_WRITE, partial(self._write_reply, reply))
                    self._write_reply(reply)
                elif now >= reply.deadline:
                    self._end_reply(reply, "its reader takes nothing")
            except OSError as error:
                if error.errno != errno.ENXIO or now >= reply.deadline:
                    self._end_reply(reply, error.strerror or str(error))

    def _open_reply(self, reply: "_FifoReply") -> None:
        found = os.stat(reply.name, dir_fd=self._reply_dir, follow_symlinks=False)
        if not stat.S_ISFIFO(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.EPERM, "it is no fifo with one name")
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(reply.name, flags, dir_fd=self._reply_dir)
        if _identity(os.fstat(fd)) != _identity(found):
            os.close(fd)
            raise OSError(errno.EPERM, "it was replaced meanwhile")
        reply.fd = fd

    def _write_reply(self, reply: "_FifoReply") -> None:
        try:
            del reply.data[: os.write(reply.fd, reply.data)]
        except BlockingIOError:
            return
        except OSError as error:
            self._end_reply(reply, error.strerror or str(error))
            return
        if not reply.data:
            self._end_reply(reply, "")

    def _end_reply(self, reply: "_FifoReply", error: str) -> None:
        if error:
            self._log.warn("reply", "control fifo: the answer was not sent", reply_name=reply.name, error=error)
        self._replies.remove(reply)
        if reply.fd >= 0:
            self._selector.unregister(reply.fd)
            os.close(reply.fd)


Take = Callable[[bytearray], Request | None]


class _Connection:
    def __init__(self, sock: socket.socket, take: Take) -> None:
        self.sock = sock
        self.take = take
        self.buffer = bytearray()
        self.out = bytearray()
        self.busy = False
        """A command is under way."""
        self.last = False
        """Nothing is taken after the answer."""
        self.ended = False
        """The client has closed its side."""
        self.state = ""
        self.active = time.monotonic()
        self.deadline = float("inf")


@attrs.define(eq=False)
class _Fifo:
    fd: int
    path: str
    identity: tuple[int, int]
    buffer: bytearray = attrs.field(factory=bytearray)
    deadline: float = float("inf")


@attrs.define(eq=False)
class _FifoReply:
    name: str
    data: bytearray
    deadline: float
    fd: int = -1


def _setting(settings: Sequence[Setting], name: str, value: str) -> Setting:
    """Find the setting that an option came from."""
    wanted = Setting("sipdump_ctl", name, value)
    return next((s for s in settings if attrs.evolve(s, place="") == wanted), wanted)


def _take_whole(buffer: bytearray) -> jsonrpc.Request:
    return jsonrpc.Request.of(bytes(buffer))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _remove_stale_fifo(path: str, place: str) -> None:
    """Remove the fifo that a daemon left which is gone; nothing else is ever removed."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISFIFO(found.st_mode):
        raise ConfigError(f"cannot listen on {path}: a file that is no fifo stands there; move it away", place)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.ENXIO:  # nobody reads it
            raise
        os.unlink(path)
        return
    raise ConfigError(f"cannot listen on {path}: another program is listening there", place)

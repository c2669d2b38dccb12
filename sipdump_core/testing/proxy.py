"""A TCP proxy between a backend and its store that does what networks do on a bad day, when it is told to."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

__all__ = ["FaultProxy"]

_PIECE = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # struct linger of socket(7): close() sends a reset


class FaultProxy:
    """Listens on loopback, and hands on what comes to a store until a fault is ordered::

        with FaultProxy(server.port) as proxy:
            backend = QueueBackend(QueueOptions(port=proxy.port), site)

    Args:
        port: the store's TCP port.
        host: its address.

    All methods may be called from any thread.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._store = (host, port)
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._left: int | None = None
        self._answers_left: int | None = None
        self._talks, self._up = threading.Event(), threading.Event()
        self._talks.set()
        self._up.set()
        self._ended = False
        self.sent = 0
        """Bytes that backends have sent."""
        self.answers = 0
        """Pieces of answers that the store has sent."""
        self.faults = 0
        """Cuts that were ordered and made."""
        self._listener = _listener()
        self.port: int = self._listener.getsockname()[1]
        """Where it listens on 127.0.0.1."""
        self._thread = threading.Thread(target=self._accept, name="fault proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended = True
        with contextlib.suppress(OSError):  # it is down
            self._listener.shutdown(socket.SHUT_RDWR)
        for event in (self._talks, self._up):
            event.set()
        self._cut_all()
        self._thread.join()
        self._listener.close()

    def cut_after(self, count: int) -> None:
        """Cut the connection as soon as backends have sent so many bytes more; the store gets those.

        Args:
            count: bytes, 1 or more.
        """
        with self._lock:
            self._left = count

    def lose_answer(self, number: int = 1) -> None:
        """Cut the connection in place of an answer: the store has done what it was asked, the backend never learns it.

        Args:
            number: which of the coming answers; 1 is the next one.
        """
        with self._lock:
            self._answers_left = number

    def heal(self) -> None:
        """Take back what was ordered and has not happened yet."""
        with self._lock:
            self._left = self._answers_left = None

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Take everything, and hand on nothing, for a while. In the end all connections are cut."""
        self._talks.clear()
        try:
            yield
        finally:
            self._cut_all()
            self._talks.set()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Cut all connections, and refuse new ones for a while."""
        self._up.clear()
        self._listener.shutdown(socket.SHUT_RDWR)  # Linux keeps the port, and can listen on it again
        self._cut_all()
        try:
            yield
        finally:
            self._listener.listen(128)
            self._up.set()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:  # it does not listen now
                self._up.wait()
                continue
            try:
                store = socket.create_connection(self._store, 10)
            except OSError:
                _reset(client)
                continue
            store.settimeout(None)
            link = _Link(client, store)
            with self._lock:
                self._links.add(link)
            for run in (self._send, self._answer):
                threading.Thread(target=run, args=(link,), name="fault proxy", daemon=True).start()
            if self._ended or not self._up.is_set():
                link.cut()

    def _send(self, link: "_Link") -> None:
        for data in _pieces(link.client):
            self._talks.wait()
            with self._lock:
                if link.is_cut:
                    break
                self.sent += len(data)
                part = None
                if self._left is not None and len(data) >= self._left:
                    part, self._left = self._left, None
                    self.faults += 1
                    link.is_cut = True  # already now, so that no answer to that part gets through
                elif self._left is not None:
                    self._left -= len(data)
            if not link.to_store(data[:part]):
                break
            if part is not None:
                link.cut()
        self._end(link, link.store)

    def _answer(self, link: "_Link") -> None:
        for data in _pieces(link.store):
            self._talks.wait()
            with self._lock:
                if link.is_cut:
                    break
                self.answers += 1
                lost = False
                if self._answers_left is not None:
                    self._answers_left -= 1
                    lost = self._answers_left == 0
                if lost:
                    self._answers_left = None
                    self.faults += 1
            if lost:
                link.cut()
            elif not link.to_client(data):
                break
        self._end(link, link.client)

    def _end(self, link: "_Link", other: socket.socket) -> None:
        """One direction has ended: tell the other side, and close when both have."""
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)
        with self._lock:
            link.ended += 1
            if link.ended == 2:
                self._links.discard(link)
                link.client.close()
                link.store.close()

    def _cut_all(self) -> None:
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()


class _Link:
    """A backend's connection, and the one to the store that belongs to it."""

    def __init__(self, client: socket.socket, store: socket.socket) -> None:
        self.client, self.store = client, store
        self.is_cut = False
        self.ended = 0

    def cut(self) -> None:
        """End both connections at once; whoever reads one of them wakes up."""
        self.is_cut = True
        with contextlib.suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for end in (self.client, self.store):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def to_store(self, data: bytes) -> bool:
        return _sent(self.store, data)

    def to_client(self, data: bytes) -> bool:
        return _sent(self.client, data)


def _listener() -> socket.socket:
    """Listen on a free port that is bound by its number: only then does Linux keep it for who does not listen."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = first.getsockname()
    listener.bind(address)
    listener.listen(128)
    return listener


def _pieces(source: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # the connection was cut
        while data := source.recv(_PIECE):
            yield data


def _sent(target: socket.socket, data: bytes) -> bool:
    try:
        target.sendall(data)
    except OSError:
        return False
    return True


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    client.close()

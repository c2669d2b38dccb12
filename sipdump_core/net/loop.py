"""The one event loop of what listens: a thread that serves sockets, and the connections that it accepts.

Nothing in it blocks, and each socket gets a bounded share of a round, so no peer holds up the others. Datagrams, which
the kernel drops when nobody takes them, have their turn again and again within a round. Connections are bounded in
number and may be bounded in idleness, too.
"""

import contextlib
import heapq
import itertools
import math
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from sipdump_core.errors import ClosedError
from sipdump_core.log import Event, Limit, log
from sipdump_core.net.unix_socket import UnixSocket, remove_if_ours
from sipdump_core.threads import lasting

__all__ = ["READ", "WRITE", "Connection", "Loop"]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_ACCEPTS_A_ROUND = 16
_BACKLOG = 128
_TICK_S = 1.0
_DATAGRAMS_EVERY_S = 0.002
_STRAGGLERS_S = 0.01  # what was sent over loopback may take so long on a busy machine

Action = Callable[[], object]


class Connection:
    """An accepted connection. A subclass reads a bounded share in :meth:`ready`.

    Args:
        loop: the loop that serves it.
        sock: its socket, non-blocking.
    """

    def __init__(self, loop: "Loop", sock: socket.socket) -> None:
        self.loop = loop
        self.sock = sock
        self.closed = False
        self.active = time.monotonic()
        """When it was last of use, on the monotonic clock; the longest idle one makes room for a new one."""
        self.proven = False
        """Whether it was ever of use: those that were not make room before all others."""
        self.deadline = math.inf
        """When it is closed as idle, on the monotonic clock."""

    def touch(self, timeout_s: float) -> None:
        """Note that the peer is alive: the connection may now be idle for ``timeout_s`` seconds; 0: for ever."""
        self.active = time.monotonic()
        self.deadline = self.active + timeout_s if timeout_s else math.inf

    def ready(self) -> None:
        """Read or write what the socket is ready for. An OSError that it raises closes the connection."""
        raise NotImplementedError

    def ended(self, reason: str) -> None:
        """Do what is left to do; called once, when the connection has been closed.

        Args:
            reason: why, for people; empty where the peer just closed it.
        """

    def watch(self, events: int = READ) -> None:
        """Serve it whenever it is ready for these events, and for no others."""
        if not self.closed:
            self.loop.watch(self.sock, self.serve, events)

    def pause(self) -> None:
        """Leave it alone until ``watch`` is called again."""
        self.loop.unwatch(self.sock)

    def serve(self) -> None:
        """Call ``ready``, and close the connection if that fails."""
        try:
            self.ready()
        except BlockingIOError:
            pass
        except OSError as error:
            self.close(error.strerror or str(error))
        except ClosedError:
            raise
        except Exception:
            self.close("it cannot be served")
            raise

    def close(self, reason: str = "") -> None:
        """Close it, wherever that is found to be necessary; a second time does nothing."""
        if self.closed:
            return
        self.closed = True
        self.loop.unwatch(self.sock)
        self.loop.connections.discard(self)
        self.sock.close()
        self.ended(reason)


Connect = Callable[["Loop", socket.socket, Any], Connection]
"""Makes a connection of an accepted socket and its peer's address."""


class Loop:
    """A thread that serves sockets until it is stopped.

    All methods but ``call_soon``, ``start``, ``stop`` and ``close`` are for its own thread, and for the time before
    ``start``.

    Args:
        name: the thread's.
        what: what comes in, for the log, as ``"HEP"``.
        max_connections: how many connections may be open: one more closes the one that has been idle for longest, of
            those that were never of use if there are any.
    """

    def __init__(self, name: str, what: str, max_connections: int = 1) -> None:
        self.what = what
        self.counts: Counter[str] = Counter()
        """``connections_evicted`` to make room for others, ``connections_timed_out``."""
        self.connections: set[Connection] = set()
        self.limit = Limit()
        """Keeps what strangers cause from filling the log."""
        self.stopping = False
        self.drain: Action | None = None
        """Called in the thread when it has been asked to stop, before it takes what has arrived so far."""
        self._drain_s = 0.0
        self._max_connections = max_connections
        self._sockets: list[socket.socket] = []
        self._datagrams: list[Action] = []
        self._datagrams_due = 0.0
        self._rest_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._stale = False
        self._soon: deque[Action] = deque()
        self._timers: list[tuple[float, int, Action]] = []
        self._order = itertools.count()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self.watch(self._woken, self._drain_wake)
        self._thread = lasting(self._run, name)

    # What it serves

    def listen(self, sock: socket.socket, connect: Connect) -> None:
        """Listen on a bound socket and accept connections; from now on the socket is the loop's to close.

        Raises:
            OSError: it cannot listen: another program got its port first, say.
        """
        self._take_over(sock, partial(self._accept, sock, connect))
        sock.listen(_BACKLOG)

    def receive(self, sock: socket.socket, ready: Action) -> None:
        """Call ``ready`` when a socket has datagrams to read, or may have; from now on it is the loop's to close."""
        self._take_over(sock, ready)
        self._datagrams.append(ready)

    def rest(self, seconds: float) -> None:
        """Let datagrams gather for so long before the next round, unless this one has anything else to serve."""
        self._rest_s = seconds

    def _take_over(self, sock: socket.socket, ready: Action) -> None:
        sock.setblocking(False)
        self._sockets.append(sock)
        self.watch(sock, ready)

    def watch(self, file: socket.socket | int, ready: Action, events: int = READ) -> None:
        """Call ``ready`` whenever a socket or file descriptor is ready for ``events``; nothing else any more."""
        try:
            self._selector.register(file, events, ready)
        except KeyError:
            self._selector.modify(file, events, ready)

    def unwatch(self, file: socket.socket | int) -> None:
        """Stop watching it, if it is watched; events of this round that are still to come are forgotten."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(file)
            self._stale = True

    # When

    def call_soon(self, action: Action) -> None:
        """Call something in the loop's thread, soon; from any thread."""
        self._soon.append(action)
        with contextlib.suppress(OSError):  # full: it will wake up anyway; closed: nothing is left to do
            self._wake.send(b"x")

    def call_later(self, delay_s: float, action: Action) -> None:
        """Call something in the loop's thread, after a delay in seconds."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), action))

    def every(self, interval_s: float, action: Action) -> None:
        """Call something in the loop's thread again and again."""

        def again() -> None:
            self.call_later(interval_s, again)
            action()

        self.call_later(interval_s, again)

    # The thread

    def start(self) -> None:
        """Start the thread."""
        self.every(_TICK_S, self._close_idle)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self, drain_s: float = 0.0) -> None:
        """End the thread, after it has taken what had arrived, for ``drain_s`` seconds at most; wait for that."""
        if self.running:
            self._drain_s = drain_s
            self.stopping = True
            self.call_soon(lambda: None)
            self._thread.join()

    def close(self) -> None:
        """Close what it serves, and remove the files of its unix sockets. Call it after ``stop``."""
        self._remove_files()
        for sock in (*self._sockets, *(connection.sock for connection in self.connections), self._wake, self._woken):
            sock.close()
        self.connections.clear()
        self._selector.close()

    def _run(self) -> None:
        while not self.stopping:
            timers = self._timers
            self._round(max(0.0, timers[0][0] - time.monotonic()) if timers else None)
        end = time.monotonic() + self._drain_s
        self._remove_files()  # who connects from now on waits for the next one
        if self.drain:
            self._guard(self.drain)
        while time.monotonic() < end and self._round(_STRAGGLERS_S):
            pass

    def _round(self, wait_s: float | None) -> int:
        """Serve what is ready within ``wait_s``; return how many sockets that were."""
        if self._rest_s:
            if not self.stopping:
                time.sleep(self._rest_s)
            self._rest_s = 0.0
        events = self._selector.select(wait_s)
        self._stale = False
        self._datagrams_due = time.monotonic() + _DATAGRAMS_EVERY_S
        for key, _ in events:
            if self._stale and self._selector.get_map().get(key.fileobj) is not key:
                continue  # it was closed in this round, or waits for something else by now
            self._serve(key.data)
        if self._soon or any(key.data not in self._datagrams for key, _ in events):
            self._rest_s = 0.0
        for _ in range(len(self._soon)):
            self._serve(self._soon.popleft())
        timers = self._timers
        while timers and timers[0][0] <= time.monotonic():
            self._guard(heapq.heappop(timers)[2])
        return len(events)

    def _serve(self, action: Action) -> None:
        self._guard(action)
        if self._datagrams and time.monotonic() >= self._datagrams_due:
            for receive in self._datagrams:
                self._guard(receive)
            self._datagrams_due = time.monotonic() + _DATAGRAMS_EVERY_S

    def _guard(self, action: Action) -> None:
        try:
            action()
        except ClosedError:  # what it brings records to has been closed
            self.stopping = True
        except BaseException:  # noqa: BLE001 - nothing that comes in may end the thread, SystemExit neither
            log.exception(Event(f"{self.what} receiver failed; this is a bug in sipdump, please report it"))

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _remove_files(self) -> None:
        for sock in self._sockets:
            if isinstance(sock, UnixSocket):
                remove_if_ours(sock)

    # Connections

    def _accept(self, listener: socket.socket, connect: Connect) -> None:
        for _ in range(_ACCEPTS_A_ROUND):
            if self.stopping and len(self.connections) >= self._max_connections:
                self.unwatch(listener)  # too late to make room
                return
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors, say: leave the others waiting a while
                self.limit.warn("accept", f"cannot accept {self.what} connection", error=error)
                self.unwatch(listener)
                self.call_later(_TICK_S, partial(self.watch, listener, partial(self._accept, listener, connect)))
                return
            if len(self.connections) >= self._max_connections:
                self._evict()
            sock.setblocking(False)
            connection = connect(self, sock, address)
            self.connections.add(connection)
            connection.watch()

    def _evict(self) -> None:
        idlest = min(self.connections, key=lambda connection: (connection.proven, connection.active))
        limit = self._max_connections
        self.counts["connections_evicted"] += 1
        self.limit.warn("evicted", f"too many {self.what} connections, the longest idle is closed", limit=limit)
        self._guard(idlest.serve)  # what it has sent by now is taken
        idlest.close("another connection needed its place")

    def _close_idle(self) -> None:
        now = time.monotonic()
        for connection in [one for one in self.connections if now >= one.deadline]:
            self.counts["connections_timed_out"] += 1
            log.debug(Event(f"{self.what} connection timed out"))
            connection.close("it was idle for too long")

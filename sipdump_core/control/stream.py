"""Control connections: requests one after another, each when the one before it has been answered."""

import socket
import time

from sipdump_core.control.request import READ_BYTES, REQUESTS_A_ROUND, Executor, Take
from sipdump_core.net.loop import READ, WRITE, Connection, Loop
from sipdump_core.settings.ctl import CtlOptions

__all__ = ["ControlConnection"]

_MAX_BUFFER = 2 * 65536


class ControlConnection(Connection):
    """A control client's connection, in one of four states, each but ``busy`` with a time limit of its own.

    ``idle`` waits for a request, ``request`` for the rest of one, ``busy`` for its command (nothing is read meanwhile),
    ``answer`` for the client to take the answer.
    """

    def __init__(self, loop: Loop, sock: socket.socket, take: Take, executor: Executor, options: CtlOptions) -> None:
        super().__init__(loop, sock)
        self._take = take
        self._executor = executor
        self._options = options
        self._buffer = bytearray()
        self._out = bytearray()
        self._busy = False
        """A command is under way."""
        self._last = False
        """Nothing is taken after the answer."""
        self._ended = False
        """The client has closed its side."""
        self._state = "idle"
        self.touch(options.idle_timeout)

    def ready(self) -> None:
        """Read requests, or send what is left of an answer."""
        if self._state == "answer":
            self._flush()
        else:
            data = self.sock.recv(READ_BYTES)
            self._buffer += data
            self._ended = not data
        self._advance()

    def _advance(self) -> None:
        """Take the requests that are whole, as long as answers go out at once; the others have their turn meanwhile."""
        for _ in range(REQUESTS_A_ROUND):
            if self.closed or self._busy or self._out or self._last:
                break
            request = self._take(self._buffer)
            if request is None:
                if self._ended or len(self._buffer) > _MAX_BUFFER:
                    self.close("the request cannot be taken")
                break
            self._busy = True
            self._last = request.close
            self.active = time.monotonic()
            self._state = ""  # so that the next state gets its full time
            self._executor.execute(request, self._answered)
        else:
            self.loop.call_soon(self._advance)
        if not self.closed:
            self._enter()

    def _answered(self, data: bytes) -> None:
        later = self._state == "busy"
        self._busy = False
        if self.closed:
            return
        self._out += data
        self._flush()
        if later:
            self._advance()

    def _flush(self) -> None:
        try:
            sent = self.sock.send(self._out)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        del self._out[:sent]
        if self._last and not self._out:
            self.close("it was answered")

    def _enter(self) -> None:
        """Wait for what the connection needs next, and not for ever."""
        state = (
            "busy" if self._busy
            else "answer" if self._out
            else "request" if self._buffer
            else "idle"
        )  # fmt: skip
        if state == self._state:
            return
        self._state = state
        if state == "busy":
            self.pause()
            self.deadline = float("inf")
        else:
            self.watch(WRITE if state == "answer" else READ)
            timeout_s = self._options.idle_timeout if state == "idle" else self._options.request_timeout
            self.deadline = time.monotonic() + timeout_s

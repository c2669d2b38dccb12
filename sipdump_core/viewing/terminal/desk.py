"""The terminal's side of the reader: requests go out, reports come in, and neither makes the terminal wait."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from multiprocessing.connection import Connection

from sipdump_core.errors import one_line
from sipdump_core.viewing.terminal.wire import Broken, Options, Report, Request

__all__ = ["Desk"]

_WAITING = 40
"""Reports that may wait; with more, the reader has to."""
_GRACE = 1.0
"""Seconds that the reader has to end."""
_LAST = 2000
"""Bytes of the reader's last words."""


class Desk:
    """Starts a reader, and talks to it.

    Args:
        options: what is to be read.
    """

    def __init__(self, options: Options) -> None:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very Python
                [sys.executable, "-m", "sipdump_core.viewing.terminal.reader", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
            )
        self._connection = Connection(ours.detach())
        self._reports: deque[Report] = deque()
        self._room = threading.Semaphore(_WAITING)
        self._closed = False
        self._thread = threading.Thread(target=self._receive, name="sipdump-desk", daemon=True)
        self._thread.start()
        self.ask(options)

    def ask(self, request: Request) -> None:
        """Send a request; a reader that is gone has said so in a report."""
        with contextlib.suppress(OSError):
            self._connection.send(request)

    def take(self) -> Report | None:
        """Return the next report; None while there is none."""
        try:
            report = self._reports.popleft()
        except IndexError:
            return None
        self._room.release()
        return report

    def close(self) -> None:
        """End the reader, whatever it is doing."""
        self._closed = True
        self._room.release()
        with contextlib.suppress(OSError):
            self._connection.send(None)
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_GRACE)
        self._connection.close()
        self._stderr.close()

    def _receive(self) -> None:
        while not self._closed:
            try:
                report: Report = self._connection.recv()
            except (EOFError, OSError):
                break
            self._room.acquire()
            self._reports.append(report)
            if isinstance(report, Broken):
                return
        if not self._closed:
            self._reports.append(Broken(f"the reader has ended: {self._last_words()}"))

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            end = self._stderr.seek(0, 2)
            self._stderr.seek(max(0, end - _LAST))
            lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
            if lines:
                return one_line(lines[-1])
        return "it left no message"

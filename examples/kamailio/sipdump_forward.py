"""Hands each message of Kamailio's sipdump event route to sipdumpd, over a unix stream socket.

With native routing, in kamailio.cfg::

    loadmodule "app_python3.so"
    modparam("app_python3", "load", "/etc/kamailio/sipdump_forward.py")
    event_route[sipdump:msg] {
        python_exec("ksr_sipdump_event");
    }

and beside, or instead of, ``sipdump_send("cfg")``: ``python_exec("sipdump_forward_send", "cfg")``. In a KEMI script,
which lies in the same folder::

    from sipdump_forward import Forward

    class kamailio(Forward):
        ...the routes; KSR.sipdump.send("cfg") has the companion self.sipdump_forward_send(msg, "cfg")

with ``modparam("sipdump", "event_callback", "ksr_sipdump_event")``. sipdumpd: ``modparam("sipdump_ksr", "listen",
"unix:/run/sipdump/ksr")``. The socket's path is SOCKET below, or ``#!define SIPDUMP_KSR "/path"`` in kamailio.cfg.

It never waits for sipdumpd. What the socket doesn't take waits in memory, up to WAITING bytes in each worker; what
finds no room there is dropped, counted, and reported to sipdumpd as soon as it is back. It sends at each message only,
so what waits does so until its worker handles another one. The frames are described in sipdump's docs/forward.md.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import KSR  # type: ignore[import-not-found]  # Kamailio itself has it

SOCKET = "/run/sipdump/ksr"
WAITING = 1 << 20
"""Bytes that may wait in each worker."""

_VERSION = 1
_UNKNOWN = -(1 << 31)
_FRAME_MAX = 1 << 20
_DELAY_MIN, _DELAY_MAX = 0.05, 1.0
_SO_SNDBUFFORCE = 32
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Forward:
    """The object that Kamailio calls. Made before the fork, it opens nothing until its process has a message."""

    _path = ""
    _pid = 0
    _rank = _UNKNOWN

    def __getattr__(self, name: str) -> None:
        """Answer Kamailio's look-up of a route that the script does not have, as ksr_reply_route or ksr_onsend_route.

        None is not callable, so Kamailio runs nothing. An AttributeError would stay pending (in Kamailio 5.6 at least):
        the next look-up, of the event callback too, then fails, and so does the function that the script is calling.
        Routes for failures, branches and events may have any name, so only private names are not routes.
        """
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def child_init(self, rank: int) -> int:
        """Remember which process this is; a script with a ``child_init`` of its own calls this one in it."""
        self._rank = rank
        return 0

    def ksr_sipdump_event(self, msg: Any, evname: str = "") -> int:  # noqa: ARG002 - what Kamailio calls it with
        """Forward a message: the event callback."""
        now = time.time_ns() // 1000
        try:
            self._begin()
            sipdump = KSR.sipdump
            get = KSR.pv.get
            self._message(
                b"M", now, sipdump.get_tag(), get("$sipdump(proto)"), sipdump.get_src_ip(), get("$sipdump(src_port)"),
                sipdump.get_dst_ip(), get("$sipdump(dst_port)"), sipdump.get_buf,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - a SIP worker must not feel it
            self._failed(error)
        return 1

    def sipdump_forward_send(self, msg: Any, tag: str) -> int:  # noqa: ARG002
        """Forward the message that is being routed, under a tag of its own: the companion of ``sipdump_send(tag)``."""
        now = time.time_ns() // 1000
        try:
            self._begin()
            get = KSR.pv.get
            tag = "".join(c if c.isprintable() else "?" for c in tag[:200])
            self._message(
                b"S", now, tag, get("$proto"), get("$si"), get("$sp"), get("$Ri"), get("$Rp"),
                lambda: get("$mb"),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - a SIP worker must not feel it
            self._failed(error)
        return 1

    def _message(
        self, kind: bytes, now: int, tag: str, proto: str, src_ip: str | None, src_port: int | None,
        dst_ip: str | None, dst_port: int | None, whole: Callable[[], str],
    ) -> None:  # fmt: skip
        try:
            buf = whole().encode()
        except UnicodeDecodeError as error:  # KEMI returns str; the error has the bytes that are not UTF-8, all of them
            buf = error.object
        any_ip = "::" if ":" in (src_ip or dst_ip or "") else "0.0.0.0"
        text = f"{tag}\t{proto}\t{src_ip or any_ip}\t{src_port or 0}\t{dst_ip or any_ip}\t{dst_port or 0}"
        head = text.encode("utf-8", "replace")
        self._put(_frame(kind, struct.pack(">QH", now, len(head)), head, buf))

    def _begin(self) -> None:
        """Start afresh, in a process that has just been forked."""
        pid = os.getpid()
        if self._pid == pid:
            return
        self._pid = pid
        self._sock: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._sent = 0  # of the first frame that waits
        self._dropped: dict[str, int] = {}
        self._logged: dict[str, float] = {}
        self._delay = 0.0
        self._retry = 0.0
        if not self._path:
            self._path = (KSR.pv.get("$def(SIPDUMP_KSR)") or "").strip("\"'") or SOCKET

    def _put(self, frame: bytes) -> None:
        self._flush()
        while self._dropped:  # reported in the place where they are missing
            reason, count = next(iter(self._dropped.items()))
            report = _frame(b"D", struct.pack(">Q", count), reason.encode())
            if self._bytes + len(report) + len(frame) > WAITING:
                break
            del self._dropped[reason]
            self._append(report)
            self._log("report", f"{count} messages were dropped: {reason}")
        if self._bytes + len(frame) > WAITING or len(frame) > _FRAME_MAX:
            self._drop("no room: sipdumpd is away or too slow")
            return
        self._append(frame)
        self._flush()

    def _append(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self._bytes += len(frame)

    def _flush(self) -> None:
        """Send what waits, as far as the socket takes it at once."""
        while self._waiting and (sock := self._sock or self._connect()):
            frame = self._waiting[0]
            try:
                self._sent += sock.send(memoryview(frame)[self._sent :], _FLAGS)
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(sock, error)
                continue
            if self._sent == len(frame):
                self._waiting.popleft()
                self._bytes -= self._sent
                self._sent = 0

    def _connect(self) -> socket.socket | None:
        now = time.monotonic()
        if now < self._retry:
            return None
        self._delay = min(max(2 * self._delay, _DELAY_MIN), _DELAY_MAX)
        self._retry = now + self._delay
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            for option in (socket.SO_SNDBUF, _SO_SNDBUFFORCE):  # the second goes further, for those who may
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, WAITING)
            sock.connect(self._path)
            procno = _process_number()
            hello = _frame(b"H", struct.pack(">HIii", _VERSION, self._pid, procno, self._rank))
            if sock.send(hello, _FLAGS) != len(hello):
                raise BlockingIOError("it took no whole frame")
        except OSError as error:
            sock.close()
            self._log("connect", f"cannot connect to sipdumpd at {self._path}: {error}")
            return None
        self._sock = sock
        return sock

    def _lost(self, sock: socket.socket, error: OSError) -> None:
        self._log("lost", f"connection to sipdumpd lost: {error}")
        sock.close()
        self._sock = None
        self._sent = 0  # the other end can do nothing with a part of a frame: the next connection gets all of it
        if time.monotonic() - self._retry > _DELAY_MAX:  # it has lasted
            self._delay = 0.0

    def _drop(self, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1
        self._log("dropped", f"messages dropped since the last report to sipdumpd: {self._dropped}")

    def _failed(self, error: Exception) -> None:
        self._drop("script error")
        self._log("error", f"{type(error).__name__}: {error}"[:500])

    def _log(self, what: str, text: str) -> None:
        """Log a line, unless there was one about the same within a second."""
        now = time.monotonic()
        if now - self._logged.get(what, -1.0) >= 1.0:
            self._logged[what] = now
            KSR.warn(f"sipdump_forward: {text}\n")


def mod_init() -> Forward:
    """Give Kamailio the object to call, where this file is what app_python3 loads."""
    return Forward()


def _frame(kind: bytes, *parts: bytes) -> bytes:
    return b"".join((struct.pack(">I", 1 + sum(map(len, parts))), kind, *parts))


def _process_number() -> int:
    """Return this process's number in Kamailio's table; KEMI doesn't export it, the program's own symbol does."""
    try:
        import ctypes  # noqa: PLC0415 - not every Python has it

        return ctypes.c_int.in_dll(ctypes.CDLL(None), "process_no").value
    except (ImportError, OSError, ValueError):
        return -1

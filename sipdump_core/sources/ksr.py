"""The KSR source: takes records from a running Kamailio, with the pid and the number of the worker that had them.

Each worker connects to a unix stream socket and sends frames. Integers are big-endian::

    frame    u32 length of what follows (1 to 1048576), u8 kind, payload
    'H'      hello, the first frame and only that: u16 version (1), u32 pid, i32 process number (-1: not known),
             i32 rank as child_init gave it (-2147483648: not known)
    'M'      a message of the event route: u64 time in microseconds since the epoch, u16 length of the head
             (up to 1024), head, message
    'S'      the same of sipdump_send: sipdumpd's own event route does not run
    'D'      messages that are missing here: u64 count, why (UTF-8)

The head is UTF-8 text, six fields with tabs between: tag, proto, source address, source port, destination address,
destination port. What follows it is the message, every byte. Nothing is ever sent back; when sipdumpd ends, it takes
no more (the worker's send fails with EPIPE), but reads what has arrived. A frame that can't be read, and one that is
cut off by the end of its connection, is counted as malformed and ends the connection; one whose fields make no sense
(no address, a time past the year 9999) is counted as well and passed over, up to a hundred in a row.
"""

import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sipdump_core.cache import Memory, Remembered, Weighed
from sipdump_core.errors import FormatError
from sipdump_core.log import Event, log
from sipdump_core.net.address import canonical_ip
from sipdump_core.net.loop import Connection, Loop
from sipdump_core.net.unix_socket import bind_unix
from sipdump_core.record import PROTOS, Flow, Record, new_record
from sipdump_core.settings.ksr import KsrOptions
from sipdump_core.sipdump import SipDump
from sipdump_core.sources.ksr_processes import KamailioProcesses

__all__ = ["FRAME_MAX", "VERSION", "KsrSource"]

VERSION = 1
FRAME_MAX = 1 << 20
"""Bytes of a frame without its length; Kamailio's own limit for a message is 256 KiB."""

_HEAD_MAX = 1024
_UNKNOWN_RANK = -(1 << 31)
_TIME_END = 253402300800 * 1_000_000  # the year 10000: what formats times ends there
_READ_BYTES = 1 << 16
_BAD_FRAMES = 100
_MEMORY = 64 << 20
_WORKER_BYTES = 1000
_FLOW_BYTES = 900
_HOLD_S = 2.0
_LAST_ROUND_S = 1.0
_HEAD = struct.Struct(">QH")
_HELLO = struct.Struct(">HIii")


class _Flows(Remembered):
    """The flows of a worker, by their heads.

    Args:
        charge: told by how many bytes they have grown, or shrunk.
    """

    def __init__(self, charge: Callable[[int], None]) -> None:
        self.by_head: Weighed[bytes, Flow] = Weighed(charge, _FLOW_BYTES)


class KsrSource:
    """Receives from Kamailio's workers. It is listening when the constructor returns.

    Args:
        options: the source's options, with ``listen`` set.
        dump: where records go.

    Raises:
        ConfigError: it cannot listen.
        ValueError: ``listen`` is not set.
    """

    def __init__(self, options: KsrOptions, dump: SipDump) -> None:
        if options.listen is None:
            raise ValueError("listen is not set")
        path, setting = options.listen.value, options.listen.setting
        self.options = options
        self._dump = dump
        self._counts: Counter[str] = Counter()
        self._flows: Memory[_Worker, _Flows] = Memory(_MEMORY, _MEMORY // 2)
        self._loop = Loop("sipdump-ksr", "Kamailio worker", options.max_connections)
        place = setting.place or 'modparam("sipdump_ksr", "listen", ...)'
        sock = bind_unix(path, socket.SOCK_STREAM, options.mode, options.user, options.group, place=place)
        self._loop.listen(sock, self._connect)
        self._loop.drain = self._last_round
        self._processes = KamailioProcesses(
            [given.value for given in options.ctl],
            dump.table,
            lambda: bool(self._loop.connections),
            lambda: self._loop.call_soon(self._release),
        )
        self._loop.start()
        log.info(Event("listening for Kamailio", path=path))

    def stats(self) -> dict[str, int]:
        """Return the counters.

        ``messages`` and ``malformed`` frames; ``dropped_by_kamailio``, what its workers had to drop; ``connections``
        that are open, ``connections_evicted`` to make room for others, ``connections_timed_out``; ``ctl_failures``, how
        often a process table was not to be had.
        """
        first = {name: self._counts[name] for name in ("messages", "malformed", "dropped_by_kamailio")}
        connections = {"connections": len(self._loop.connections), **self._loop.counts}
        return {**first, **self._counts, **connections, "ctl_failures": self._processes.failures}

    def close(self) -> None:
        """Take what has arrived so far, for a second at most, and end."""
        self._loop.stop(_LAST_ROUND_S)
        self._processes.close()
        self._loop.close()

    def _last_round(self) -> None:
        """Let no worker send more: it keeps the rest for the next daemon."""
        for worker in self._workers():
            worker.shut_down()
        self._release()

    def _connect(self, loop: Loop, sock: socket.socket, _: Any) -> Connection:
        worker = _Worker(loop, sock, self)
        if loop.stopping:
            worker.shut_down()
        return worker

    def _workers(self) -> "list[_Worker]":
        return [connection for connection in self._loop.connections if isinstance(connection, _Worker)]

    def take(self, worker: "_Worker") -> None:
        """Take the whole frames of a worker's buffer, as long as it isn't held.

        Raises:
            FormatError: there is one that cannot be read.
        """
        records: list[Record] = []
        try:
            for kind, frame in worker.frames():
                if worker.bad > _BAD_FRAMES:
                    raise FormatError(f"{worker.bad} frames in a row that make no sense")  # noqa: TRY301 - ends it
                if kind == "H":
                    self._hello(worker, frame)
                    if worker.round:
                        break
                elif kind == "D":
                    self._report(worker, frame)
                else:
                    self._counts["messages"] += 1
                    record = self._record(worker, frame)
                    worker.bad = 0 if record else worker.bad + 1
                    if record is None:
                        continue
                    if kind == "M":
                        records.append(record)
                    else:
                        self._deliver(records)
                        records = []
                        self._dump.send(record, record.tag)
        except FormatError as error:
            self.malformed(worker, error)
            worker.buffer.clear()
            worker.close()
        self._deliver(records)

    def _hello(self, worker: "_Worker", frame: bytes) -> None:
        version, worker.pid, worker.procno, worker.rank = _unpack(_HELLO, frame)
        if version != VERSION:
            raise FormatError(f"version {version} is not understood, only {VERSION} is")
        worker.greeted = worker.proven = True
        if not self.options.ctl:
            self._list(worker)
        elif self._processes.index(worker.pid) is None:
            finished = self._processes.ask()
            # for its number the table is needed: what it sends waits in its socket meanwhile
            if worker.procno < 0 and not self._loop.stopping:
                worker.round, worker.held_until = finished, time.monotonic() + _HOLD_S
                worker.pause()
                self._loop.call_later(_HOLD_S, self._release)

    def _release(self) -> None:
        """Go on with the workers that waited for a process table."""
        now = time.monotonic()
        for worker in self._workers():
            if not worker.round:
                continue
            known = self._processes.index(worker.pid) is not None
            due = self._processes.finished >= worker.round or now >= worker.held_until
            if known or due or self._loop.stopping:
                worker.round = 0
                worker.watch()
                self.take(worker)

    def _list(self, worker: "_Worker") -> None:
        """Without a ctl socket, a worker's row for ``.meta`` says what it said itself."""
        rank = "" if worker.rank == _UNKNOWN_RANK else f" rank {worker.rank}"
        worker.row = (max(0, worker.procno), worker.pid, f"kamailio{rank}")
        self._dump.table.add(*worker.row)

    def ended(self, worker: "_Worker", reason: str) -> None:
        """Account for what a connection leaves: its row in ``.meta``, and a frame that came partly."""
        self._flows.forget(worker)
        if worker.row:
            self._dump.table.retire(*worker.row)
        if worker.buffer and not self._loop.stopping:  # at the end, the worker keeps the frame that it sent partly
            left = f"connection ended within a frame, {len(worker.buffer)} bytes left"
            self.malformed(worker, FormatError(f"{left}: {reason}" if reason else left))

    def _report(self, worker: "_Worker", frame: bytes) -> None:
        (count,) = struct.unpack_from(">Q", frame) if len(frame) >= 8 else (None,)
        if count is None:
            raise FormatError("a report is too short")
        why = "".join(c if c.isprintable() else "?" for c in frame[8:208].decode("utf-8", "replace"))
        self._counts["dropped_by_kamailio"] += count
        what = "Kamailio's worker dropped messages"
        self._loop.limit.warn(f"dropped {why}", what, pid=worker.pid, count=count, why=why)

    def _record(self, worker: "_Worker", frame: bytes) -> Record | None:
        if len(frame) < _HEAD.size:
            raise FormatError("a message frame is too short")
        time_us, length = _HEAD.unpack_from(frame)
        start = _HEAD.size + length
        if length > _HEAD_MAX or start > len(frame):
            raise FormatError(f"a head of {length} bytes in a frame of {len(frame)}")
        head = frame[_HEAD.size : start]
        try:
            if time_us >= _TIME_END:
                raise ValueError(f"a time of {time_us} microseconds")  # noqa: TRY301 - one place counts them
            known = self._flows.get(worker)
            flow = (known and known.by_head.get(head)) or self._make_flow(worker, head)
        except ValueError as error:
            self.malformed(worker, error)
            return None
        return new_record(time_us, flow, frame[start:])

    def _make_flow(self, worker: "_Worker", head: bytes) -> Flow:
        fields = head.decode().split("\t")
        if len(fields) != 6:
            raise ValueError(f"{len(fields)} fields in a head, not 6")
        tag, proto, src, src_port, dst, dst_port = fields
        (af, src_ip), (_, dst_ip) = canonical_ip(src), canonical_ip(dst)
        procno = worker.procno
        index = None
        if procno < 0:
            index = self._processes.index(worker.pid)
            procno = index or 0
        flow = Flow(
            tag, worker.pid, procno, proto if proto in PROTOS else "none", af, src_ip, int(src_port), dst_ip,
            int(dst_port),
        )  # fmt: skip
        if worker.procno >= 0 or index is not None or not self.options.ctl:  # else its number may yet be found
            known = self._flows.get(worker)
            if known is None:
                known = self._flows.begin(worker, _Flows(partial(self._flows.charge, worker)), _WORKER_BYTES)
            known.used = True
            known.by_head.keep(head, flow)
        return flow

    def _deliver(self, records: list[Record]) -> None:
        if records:
            self._dump.intercept(records)

    def malformed(self, worker: "_Worker", error: Exception) -> None:
        """Count and log a frame that cannot be read."""
        self._counts["malformed"] += 1
        self._loop.limit.warn(
            "malformed", "malformed frame on Kamailio's socket", peer_pid=worker.peer_pid, error=error
        )


class _Worker(Connection):
    """What is known of one connection."""

    def __init__(self, loop: Loop, sock: socket.socket, source: KsrSource) -> None:
        super().__init__(loop, sock)
        self._source = source
        self.peer_pid = _peer_pid(sock)
        """As the kernel has it; where Kamailio runs in a container, its own idea of its pid is another one."""
        self.buffer = bytearray()
        self.greeted = False
        self.pid = 0
        self.procno = -1
        self.rank = _UNKNOWN_RANK
        self.row: tuple[int, int, str] | None = None
        self.bad = 0
        """Frames in a row that made no sense."""
        self.round = 0
        """While it is held, until which round of asking for process tables; else 0."""
        self.held_until = 0.0
        self.touch(source.options.idle_timeout)

    def ready(self) -> None:
        data = self.sock.recv(_READ_BYTES)
        if not data:
            self.close()
            return
        self.buffer += data
        size = len(self.buffer)
        self._source.take(self)
        if len(self.buffer) < size:  # a frame was whole; a peer that sends its bytes one by one is idle
            self.touch(self._source.options.idle_timeout)

    def ended(self, reason: str) -> None:
        """Account for what it leaves."""
        self._source.ended(self, reason)

    def shut_down(self) -> None:
        """Let the worker send no more; what it has sent can still be read."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)

    def frames(self) -> Iterator[tuple[str, bytes]]:
        """Yield the buffer's whole frames, kind and payload, and remove them from it.

        Raises:
            FormatError: there is one that cannot be read.
        """
        at, buffer = 0, self.buffer
        try:
            while len(buffer) - at >= 5:
                length, kind = int.from_bytes(buffer[at : at + 4], "big"), chr(buffer[at + 4])
                if not 1 <= length <= FRAME_MAX:
                    raise FormatError(f"a frame of {length} bytes")
                if kind not in "HMSD" or (kind == "H") == self.greeted:
                    raise FormatError(f"a frame of kind {kind!r} {'after' if self.greeted else 'before'} the hello")
                start, at = at + 5, at + 4 + length
                if len(buffer) < at:
                    at = start - 5
                    return
                yield kind, bytes(buffer[start:at])
        finally:
            del buffer[:at]


def _unpack(form: struct.Struct, frame: bytes) -> tuple[int, ...]:
    if len(frame) != form.size:
        raise FormatError(f"{len(frame)} bytes, not {form.size}")
    return form.unpack(frame)


def _peer_pid(sock: socket.socket) -> int:
    """Return the pid of who connected (unix(7), SO_PEERCRED)."""
    pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid

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
(no address, a time past the year 9999) is counted as well and passed over.
"""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator

from sipdump_core.errors import ClosedError, FormatError
from sipdump_core.log import Event, Limit, log
from sipdump_core.net.address import canonical_ip
from sipdump_core.net.unix_socket import bind_unix, remove_if_ours
from sipdump_core.record import PROTOS, Flow, Record
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
_READ = 1 << 18
_CACHE_LIMIT = 10_000
_HOLD = 2.0
_LAST_ROUND = 1.0
_HEAD = struct.Struct(">QH")
_HELLO = struct.Struct(">HIii")


class KsrSource:
    """Receives from Kamailio's workers. It is listening when the constructor returns.

    Args:
        options: the source's options, with ``listen`` set.
        dump: where records go.
        place: where ``listen`` was configured, for errors.

    Raises:
        ConfigError: it cannot listen.
    """

    def __init__(self, options: KsrOptions, dump: SipDump, place: str = "") -> None:
        self._options = options
        self._dump = dump
        self._counts: Counter[str] = Counter()
        self._log = Limit()
        self._workers: dict[socket.socket, _Worker] = {}
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._listener = bind_unix(
            options.path, socket.SOCK_STREAM, options.mode, options.user, options.group,
            place=place or 'modparam("sipdump_ksr", "listen", ...)',
        )  # fmt: skip
        self._paused = 0.0
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._processes = KamailioProcesses(options.ctl, dump.table, lambda: bool(self._workers), self._stir)
        self._thread = threading.Thread(target=self._run, name="sipdump-ksr", daemon=True)
        self._thread.start()
        log.info(Event("listening for Kamailio", path=options.path))

    def stats(self) -> dict[str, int]:
        """Give the counters.

        ``messages`` and ``malformed`` frames; ``dropped_by_kamailio``, what its workers had to drop; ``connections``
        that are open, ``connections_refused``; ``ctl_failures``, how often a process table was not to be had.
        """
        first = {name: self._counts[name] for name in ("messages", "malformed", "dropped_by_kamailio")}
        more = {"connections": len(self._workers), "ctl_failures": self._processes.failures}
        return {**first, **self._counts, **more}

    def close(self) -> None:
        """Take what has arrived so far, and end."""
        if self._thread.is_alive():
            self._closing = True
            self._stir()
            self._thread.join()
        self._processes.close()
        remove_if_ours(self._listener)
        for sock in (self._listener, *self._workers, self._wake, self._woken):
            sock.close()
        self._selector.close()

    def _stir(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake up; closed: nothing is left to do
            self._wake.send(b"x")

    def _run(self) -> None:
        while not self._closing:
            try:
                for key, _ in self._selector.select(self._wait()):
                    if key.fileobj is self._woken:
                        self._woken.recv(4096)
                    else:
                        assert isinstance(key.fileobj, socket.socket)  # noqa: S101 - nothing else is registered
                        self._ready(key.fileobj)
                self._release()
            except ClosedError:
                return
            except Exception:  # noqa: BLE001 - what comes in must never end the receiver
                log.exception(Event("KSR receiver failed; this is a bug in sipdump, please report it"))
        with contextlib.suppress(ClosedError):
            self._last_round()

    def _wait(self) -> float | None:
        due = [worker.held_until for worker in self._workers.values() if worker.round]
        if self._paused:
            due.append(self._paused)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _ready(self, sock: socket.socket) -> bool:
        """Read from a socket that has something; say whether more may be there."""
        return self._read(sock) if sock in self._workers else self._accept()

    def _accept(self) -> bool:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:  # out of file descriptors, say: leave the others waiting a while
            self._log.warn("accept", "cannot accept Kamailio's connection", error=error)
            self._selector.unregister(self._listener)
            self._paused = time.monotonic() + 1.0
            return False
        if len(self._workers) >= self._options.max_connections:
            self._counts["connections_refused"] += 1
            self._log.warn("refused", "too many Kamailio workers", limit=self._options.max_connections)
            sock.close()
            return True
        sock.setblocking(False)
        self._workers[sock] = _Worker(_peer_pid(sock))
        self._selector.register(sock, selectors.EVENT_READ)
        return True

    def _read(self, sock: socket.socket) -> bool:
        worker = self._workers[sock]
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(sock, f"connection broken: {error.strerror}")
            return False
        if not data:
            self._end(sock, "")
            return False
        worker.buffer += data
        self._take(sock, worker)
        return True

    def _take(self, sock: socket.socket, worker: "_Worker") -> None:
        """Take the whole frames of a worker's buffer, as long as it isn't held."""
        records: list[Record] = []
        try:
            for kind, frame in worker.frames():
                if kind == "H":
                    self._hello(sock, worker, frame)
                    if worker.round:
                        break
                elif kind == "D":
                    self._report(worker, frame)
                else:
                    self._counts["messages"] += 1
                    record = self._record(worker, frame)
                    if record is None:
                        continue
                    if kind == "M":
                        records.append(record)
                    else:
                        self._deliver(records)
                        records = []
                        self._dump.send(record, record.tag)
        except FormatError as error:
            self._malformed(worker, error)
            self._end(sock, None)
        self._deliver(records)

    def _hello(self, sock: socket.socket, worker: "_Worker", frame: bytes) -> None:
        version, worker.pid, worker.procno, worker.rank = _unpack(_HELLO, frame)
        if version != VERSION:
            raise FormatError(f"version {version} is not understood, only {VERSION} is")
        worker.greeted = True
        if not self._options.ctl:
            self._list(worker)
        elif self._processes.index(worker.pid) is None:
            finished = self._processes.ask()
            if worker.procno < 0:  # for its number the table is needed: what it sends waits in its socket meanwhile
                worker.round, worker.held_until = finished, time.monotonic() + _HOLD
                self._selector.unregister(sock)

    def _release(self) -> None:
        """Go on with the workers that waited for a process table, and with accepting."""
        now = time.monotonic()
        if self._paused and now >= self._paused:
            self._paused = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)
        for sock, worker in list(self._workers.items()):
            if not worker.round:
                continue
            known = self._processes.index(worker.pid) is not None
            if known or self._processes.finished >= worker.round or now >= worker.held_until:
                worker.round = 0
                self._selector.register(sock, selectors.EVENT_READ)
                self._take(sock, worker)

    def _list(self, worker: "_Worker") -> None:
        """Without a ctl socket, a worker's row for ``.meta`` says what it said itself."""
        rank = "" if worker.rank == _UNKNOWN_RANK else f" rank {worker.rank}"
        worker.row = (max(0, worker.procno), worker.pid, f"kamailio{rank}")
        self._dump.table.add(*worker.row)

    def _report(self, worker: "_Worker", frame: bytes) -> None:
        (count,) = struct.unpack_from(">Q", frame) if len(frame) >= 8 else (None,)
        if count is None:
            raise FormatError("a report is too short")
        why = "".join(c if c.isprintable() else "?" for c in frame[8:208].decode("utf-8", "replace"))
        self._counts["dropped_by_kamailio"] += count
        what = "Kamailio's worker dropped messages"
        self._log.warn(f"dropped {why}", what, pid=worker.pid, count=count, why=why)

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
            flow = worker.flows.get(head) or self._make_flow(worker, head)
        except ValueError as error:
            self._malformed(worker, error)
            return None
        return Record(time_us, flow, frame[start:])

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
        if worker.procno >= 0 or index is not None or not self._options.ctl:  # else its number may yet be found
            if len(worker.flows) >= _CACHE_LIMIT:
                worker.flows.clear()
            worker.flows[head] = flow
        return flow

    def _deliver(self, records: list[Record]) -> None:
        if records:
            self._dump.intercept(records)

    def _malformed(self, worker: "_Worker", error: Exception) -> None:
        self._counts["malformed"] += 1
        self._log.warn("malformed", "malformed frame on Kamailio's socket", peer_pid=worker.peer_pid, error=error)

    def _end(self, sock: socket.socket, reason: str | None) -> None:
        """Close a connection; with a reason, even an empty one, what is left of a frame counts as malformed."""
        worker = self._workers.pop(sock)
        with contextlib.suppress(KeyError):
            self._selector.unregister(sock)
        sock.close()
        if worker.row:
            self._dump.table.retire(*worker.row)
        if reason is not None and worker.buffer:
            left = f"connection ended within a frame, {len(worker.buffer)} bytes left {reason}"
            self._malformed(worker, FormatError(left.strip()))

    def _last_round(self) -> None:
        """Take what has arrived, for a second at the most. Workers keep what no longer does for whoever comes next."""
        remove_if_ours(self._listener)
        end = time.monotonic() + _LAST_ROUND
        while len(self._workers) < self._options.max_connections and self._accept():
            pass
        for sock in self._workers:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
        for sock, worker in list(self._workers.items()):
            if worker.round:
                worker.round = 0
                self._take(sock, worker)
            while sock in self._workers and time.monotonic() < end:
                if worker.round:  # it has just greeted: no table comes any more
                    worker.round = 0
                    self._take(sock, worker)
                try:
                    data = sock.recv(_READ)
                except OSError:
                    break
                if not data:
                    break
                worker.buffer += data
                self._take(sock, worker)


class _Worker:
    """What is known of one connection."""

    def __init__(self, peer_pid: int) -> None:
        self.peer_pid = peer_pid
        """As the kernel has it; where Kamailio runs in a container, its own idea of its pid is another one."""
        self.buffer = bytearray()
        self.greeted = False
        self.pid = 0
        self.procno = -1
        self.rank = _UNKNOWN_RANK
        self.row: tuple[int, int, str] | None = None
        self.flows: dict[bytes, Flow] = {}
        self.round = 0
        """While it is held, until which round of asking for process tables; else 0."""
        self.held_until = 0.0

    def frames(self) -> Iterator[tuple[str, bytes]]:
        """Give the buffer's whole frames, kind and payload; those that were given are gone from it afterwards.

        Raises:
            FormatError: there is one that cannot be.
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
        raise FormatError(f"{len(frame)} bytes where {form.size} are asked for")
    return form.unpack(frame)


def _peer_pid(sock: socket.socket) -> int:
    """Give the pid of who connected (unix(7), SO_PEERCRED)."""
    pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid

"""The HEP source: one thread that receives HEP over UDP and TCP and brings the records to a SipDump."""

import contextlib
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from sipdump_core.errors import ClosedError, FormatError
from sipdump_core.log import Event, Limit, log
from sipdump_core.net.address import Listen, bind_inet, canonical_ip, parse_listen
from sipdump_core.record import Record
from sipdump_core.settings.hep import DEFAULT_LISTEN, HepOptions
from sipdump_core.settings.options import Setting
from sipdump_core.sipdump import SipDump
from sipdump_core.sources.hep_decoder import FRAME_MAX, HepDecoder

__all__ = ["HepSource", "split_frames"]

_DATAGRAMS_A_ROUND = 512
_SO_RCVBUFFORCE = 33
_READ = 1 << 18
_TICK = 1.0
_MAGIC = re.compile(rb"[HE]EP3")
_BAD_FRAMES = 100


class HepSource:
    """Receives HEP. It is listening when the constructor returns; ``close`` takes what has arrived, and ends.

    Args:
        options: the HEP source's options.
        dump: where records go.
        listen: the settings that ``options.listen`` was made of, for errors that name their place.

    Raises:
        ConfigError: an address cannot be listened on.
    """

    def __init__(self, options: HepOptions, dump: SipDump, listen: Sequence[Setting] = ()) -> None:
        self._options = options
        self._dump = dump
        self._decoder = HepDecoder(options, dump.table)
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._connections: dict[socket.socket, _Connection] = {}
        self._paused: list[socket.socket] = []
        self._counts = self._decoder.counts
        self._kernel_dropped = self._kernel_dropped_told = 0
        self._log = Limit()
        self.addresses: list[Listen] = []
        """Where it listens, with the ports that the kernel chose for port 0."""
        try:
            default = Setting("sipdump_hep", "listen", DEFAULT_LISTEN, "default")
            for setting in listen or [attrs.evolve(default, value=value) for value in options.listen] or [default]:
                self._listen(setting)
        except BaseException:
            self._close_sockets()
            raise
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="sipdump-hep", daemon=True)
        self._thread.start()

    def stats(self) -> dict[str, int]:
        """Give the counters: ``packets``, ``records``, ``malformed``, ``kernel_dropped`` and more."""
        self._count_kernel_drops()
        first = {name: self._counts[name] for name in ("packets", "records", "malformed")}
        return {**first, **self._counts, "connections": len(self._connections), "kernel_dropped": self._kernel_dropped}

    def close(self) -> None:
        """Take what the kernel has received so far, and end."""
        if self._thread.is_alive():
            self._closing = True
            self._wake.send(b"x")
            self._thread.join()
        self._count_kernel_drops()
        self._close_sockets()
        self._wake.close()
        self._woken.close()
        self._selector.close()

    def _listen(self, setting: Setting) -> None:
        where = parse_listen(str(setting.value))
        kind = socket.SOCK_DGRAM if where.proto == "udp" else socket.SOCK_STREAM
        shown = f"{where.proto}:{where.host}:{where.port}"
        try:
            sock = bind_inet(where.host, where.port, kind)
            self._sockets.append(sock)
            if kind == socket.SOCK_DGRAM:
                self._ask_for_buffer(sock, shown)
            if kind == socket.SOCK_STREAM:
                sock.listen(128)
            sock.setblocking(False)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise setting.error(f"cannot listen for HEP on {shown}: {reason}") from error
        self._selector.register(sock, selectors.EVENT_READ)
        bound = Listen(where.proto, *sock.getsockname()[:2])
        self.addresses.append(bound)
        log.info(Event("listening for HEP", proto=bound.proto, host=bound.host, port=bound.port))

    def _ask_for_buffer(self, sock: socket.socket, shown: str) -> None:
        wanted = self._options.rcvbuf
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
        with contextlib.suppress(OSError):  # beyond net.core.rmem_max, for those who may
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
        given = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it for its own needs
        if given < wanted:
            hint = f"sysctl -w net.core.rmem_max={wanted}"
            log.warning(Event("small receive buffer", listen=shown, bytes=given, wanted=wanted, hint=hint))

    def _run(self) -> None:
        next_tick = time.monotonic() + _TICK
        while not self._closing:
            for key, _ in self._selector.select(max(0.0, next_tick - time.monotonic())):
                if key.fileobj is not self._woken:
                    assert isinstance(key.fileobj, socket.socket)  # noqa: S101 - nothing else is registered
                    self._ready(key.fileobj)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK
                self._tick()
        self._last_round()

    def _ready(self, sock: socket.socket) -> int:
        """Read from a socket that has something; give how many packets, bytes or connections that was."""
        try:
            if sock in self._connections:
                return self._read_stream(sock)
            if sock.type == socket.SOCK_DGRAM:
                return self._read_datagrams(sock)
            return self._accept(sock)
        except ClosedError:
            self._closing = True
        except Exception:  # noqa: BLE001 - a packet must never end the receiver
            log.exception(Event("HEP receiver failed; this is a bug in sipdump, please report it"))
        return 0

    def _read_datagrams(self, sock: socket.socket) -> int:
        receive, decode = sock.recvfrom, self._decoder.decode
        records: list[Record] = []
        count = 0
        try:
            while count < _DATAGRAMS_A_ROUND:
                data, address = receive(FRAME_MAX + 1)
                count += 1
                try:
                    record = decode(data, address[:2], int(time.time() * 1e6))
                except Exception as error:  # noqa: BLE001 - one bad packet must not cost the others of its round
                    self._malformed(address, error)
                else:
                    if record is not None:
                        records.append(record)
        except BlockingIOError:
            pass
        except OSError as error:
            self._log.warn("recv", "cannot receive HEP", error=error)
        self._counts["packets"] += count
        self._deliver(records)
        return count

    def _accept(self, listener: socket.socket) -> int:
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            return 0
        except OSError as error:  # out of file descriptors, say: leave the others waiting a while
            self._log.warn("accept", "cannot accept HEP connection", error=error)
            self._selector.unregister(listener)
            self._paused.append(listener)
            return 0
        if len(self._connections) >= self._options.max_connections:
            self._counts["connections_refused"] += 1
            self._log.warn("refused", "too many HEP connections", peer=address[0], limit=self._options.max_connections)
            sock.close()
            return 0
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # dead peers must not use up the connections
        self._connections[sock] = _Connection((canonical_ip(address[0])[1], address[1]))
        self._selector.register(sock, selectors.EVENT_READ)
        return 1

    def _read_stream(self, sock: socket.socket) -> int:
        connection = self._connections[sock]
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._drop_connection(sock, f"{error.strerror}")
            return 0
        if not data:
            self._drop_connection(sock, "")
            return 0
        connection.buffer += data
        records = []
        for frame in split_frames(connection.buffer):
            self._counts["packets"] += 1
            record = None
            try:
                if isinstance(frame, FormatError):
                    raise frame  # noqa: TRY301 - counted in one place
                record = self._decoder.decode(frame, connection.peer, int(time.time() * 1e6))
                connection.bad = 0
            except Exception as error:  # noqa: BLE001 - as above
                connection.bad += 1
                self._malformed(connection.peer, error)
            if record is not None:
                records.append(record)
        self._deliver(records)
        if connection.bad > _BAD_FRAMES:
            connection.buffer.clear()
            self._drop_connection(sock, "")
            self._log.warn("bad", "HEP connection closed: nothing good comes over it", peer=connection.peer[0])
        return len(data)

    def _drop_connection(self, sock: socket.socket, reason: str) -> None:
        connection = self._connections.pop(sock)
        self._selector.unregister(sock)
        sock.close()
        if connection.buffer:
            self._counts["packets"] += 1
            error = FormatError(
                f"connection ended within a frame, {len(connection.buffer)} bytes left {reason}".strip()
            )
            self._malformed(connection.peer, error)

    def _deliver(self, records: list[Record]) -> None:
        if records:
            self._dump.intercept(records)

    def _malformed(self, peer: tuple[str, int], error: Exception) -> None:
        self._counts["malformed"] += 1
        where = f"{peer[0]}:{peer[1]}"
        unforeseen = not isinstance(error, FormatError)
        self._log.warn("malformed", "malformed HEP packet", traceback=unforeseen, peer=where, error=error)

    def _tick(self) -> None:
        for listener in self._paused:
            self._selector.register(listener, selectors.EVENT_READ)
        self._paused.clear()
        self._count_kernel_drops()
        count = self._kernel_dropped - self._kernel_dropped_told
        if count:
            self._kernel_dropped_told = self._kernel_dropped
            self._log.warn(
                "kernel",
                "the kernel dropped HEP packets",
                count=count,
                hint="raise rcvbuf, or add collectors",
            )

    def _last_round(self) -> None:
        """Take what has arrived before the end was asked for, for a second at the most."""
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            ready = [key.fileobj for key, _ in self._selector.select(0) if key.fileobj is not self._woken]
            if not sum(self._ready(sock) for sock in ready if isinstance(sock, socket.socket)):
                break

    def _count_kernel_drops(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            inodes = {str(os.fstat(sock.fileno()).st_ino) for sock in self._sockets if sock.type == socket.SOCK_DGRAM}
            self._kernel_dropped = max(self._kernel_dropped, sum(_drops(inodes)))

    def _close_sockets(self) -> None:
        for sock in [*self._sockets, *self._connections]:
            sock.close()


class _Connection:
    def __init__(self, peer: tuple[str, int]) -> None:
        self.peer = peer
        self.buffer = bytearray()
        self.bad = 0
        """Malformed frames since the last good one."""


def split_frames(buffer: bytearray) -> Iterable[bytes | FormatError]:
    """Cut whole HEP3 frames off the front of a stream's buffer; an incomplete one stays in it.

    After garbage it goes on at the next magic, and yields one FormatError for all that it passed over.
    """
    passed = 0
    while len(buffer) >= 6:
        total = int.from_bytes(buffer[4:6], "big")
        if total < 6 or not buffer.startswith((b"HEP3", b"EEP3")):
            found = _MAGIC.search(buffer, 1)
            start = found.start() if found else len(buffer) - 3  # a magic may begin in the last three bytes
            del buffer[:start]
            passed += start
            continue
        if passed:
            yield FormatError(f"no HEP3 frame: {passed} bytes of something else in the stream")
            passed = 0
        if len(buffer) < total:
            return
        frame = bytes(buffer[:total])
        del buffer[:total]
        yield frame
    if passed:
        yield FormatError(f"no HEP3 frame: {passed} bytes of something else in the stream")


def _drops(inodes: set[str]) -> Iterator[int]:
    """Give the kernel's drop counters of these UDP sockets (proc(5), /proc/net/udp: inode and drops columns)."""
    for table in ("/proc/self/net/udp", "/proc/self/net/udp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if len(columns) > 12 and columns[9] in inodes:
                    yield int(columns[12])

"""The HEP source: one thread that receives HEP over UDP and TCP and brings the records to a SipDump."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sipdump_core.errors import FormatError
from sipdump_core.log import Event, log
from sipdump_core.net.address import Listen, ask_for_buffer, bind_inet, canonical_ip
from sipdump_core.net.loop import Connection, Loop
from sipdump_core.record import Record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.settings.options import Given
from sipdump_core.sipdump import SipDump
from sipdump_core.sources.hep_decoder import FRAME_MAX, HepDecoder, is_tls
from sipdump_core.sources.hep_stream import FrameReader
from sipdump_core.sources.hep_troubles import Troubles

__all__ = ["HepSource"]

_DATAGRAMS_A_ROUND = 512
_READ_BYTES = 1 << 18
_LAST_ROUND_S = 1.0
_BAD_FRAMES = 100
# a peer that is gone without a word is noticed within two minutes (tcp(7))
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class HepSource:
    """Receives HEP, unless ``listen`` is off. It is listening when the constructor returns; ``close`` ends it.

    Args:
        options: the HEP source's options.
        dump: where records go.

    Raises:
        ConfigError: an address cannot be listened on.
    """

    def __init__(self, options: HepOptions, dump: SipDump) -> None:
        self.options = options
        self._dump = dump
        self._decoder = HepDecoder(options, dump.table)
        self._counts = self._decoder.counts
        self._loop = Loop("sipdump-hep", "HEP", options.max_connections)
        self._troubles = Troubles()
        self._datagrams: list[socket.socket] = []
        self._kernel_dropped = self._kernel_dropped_logged = 0
        self.addresses: list[Listen] = []
        """Where it listens, with the ports that the kernel chose for port 0."""
        try:
            for given in options.listen:
                self._listen(given)
        except BaseException:
            self._loop.close()
            raise
        self._loop.every(1.0, self._log_kernel_drops)
        self._loop.every(1.0, self._log_troubles)
        if self.addresses:
            self._loop.start()
        else:
            log.info(Event("HEP is off"))

    def stats(self) -> dict[str, int]:
        """Return the counters: ``packets``, ``records``, ``malformed``, ``kernel_dropped`` and more."""
        self._count_kernel_drops()
        first = {name: self._counts[name] for name in ("packets", "records", "malformed")}
        connections = {"connections": len(self._loop.connections), **self._loop.counts}
        return {**first, **self._counts, **connections, "kernel_dropped": self._kernel_dropped}

    def close(self) -> None:
        """Take what the kernel has received so far, for a second at most, and end."""
        self._loop.stop(_LAST_ROUND_S)
        self._log_troubles()
        self._count_kernel_drops()
        self._loop.close()

    def _listen(self, given: Given[Listen]) -> None:
        where = given.value
        kind = socket.SOCK_DGRAM if where.proto == "udp" else socket.SOCK_STREAM
        shown = f"{where.proto}:{where.host}:{where.port}"
        try:
            sock = bind_inet(where.host, where.port, kind)
            if kind == socket.SOCK_DGRAM:
                self._datagrams.append(sock)
                self._loop.receive(sock, lambda: self._read_datagrams(sock))
                self._ask_for_buffer(sock, shown)
            else:
                self._loop.listen(sock, self._connect)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise given.error(f"cannot listen for HEP on {shown}: {reason}") from error
        bound = Listen(where.proto, *sock.getsockname()[:2])
        self.addresses.append(bound)
        log.info(Event("listening for HEP", proto=bound.proto, host=bound.host, port=bound.port))

    def _ask_for_buffer(self, sock: socket.socket, shown: str) -> None:
        wanted = self.options.rcvbuf
        given = ask_for_buffer(sock, wanted)
        if given < wanted:
            hint = f"sysctl -w net.core.rmem_max={wanted}"
            log.warning(Event("small receive buffer", listen=shown, bytes=given, wanted=wanted, hint=hint))

    def _read_datagrams(self, sock: socket.socket) -> None:
        receive, decode = sock.recvfrom, self._decoder.decode
        records: list[Record] = []
        count = 0
        try:
            while count < _DATAGRAMS_A_ROUND:
                data, address = receive(FRAME_MAX + 1)
                count += 1
                try:
                    records += decode(data, address[:2], int(time.time() * 1e6))
                except Exception as error:  # noqa: BLE001 - one bad packet must not cost the others of its round
                    self.malformed(address, error)
        except BlockingIOError:
            pass
        except OSError as error:
            self._loop.limit.warn("recv", "cannot receive HEP", error=error)
        self._counts["packets"] += count
        self._deliver(records)

    def _connect(self, loop: Loop, sock: socket.socket, address: Any) -> Connection:
        with contextlib.suppress(OSError):  # it may have ended already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, name, value)
        return _HepConnection(loop, sock, (canonical_ip(address[0])[1], address[1]), self)

    def take(self, connection: "_HepConnection", data: bytes) -> None:
        """Take what a connection brings."""
        peer = connection.peer
        if connection.fresh and is_tls(data):
            self._decoder.trouble("tls", peer)
            self._counts["packets"] += 1
            self.malformed(peer, FormatError("a TLS handshake, where plain HEP is expected"))
            connection.close()
            return
        connection.fresh = False
        records: list[Record] = []
        for frame in connection.frames.feed(data):
            self._counts["packets"] += 1
            try:
                if isinstance(frame, FormatError):
                    raise frame  # noqa: TRY301 - counted in one place
                records += self._decoder.decode(frame, peer, int(time.time() * 1e6))
                connection.bad = 0
            except Exception as error:  # noqa: BLE001 - as above
                connection.bad += 1
                self.malformed(peer, error)
                if connection.bad > _BAD_FRAMES:
                    break
        self._deliver(records)
        if connection.bad > _BAD_FRAMES:
            connection.frames.clear()
            connection.close("nothing good comes over it")
            self._loop.limit.warn("bad", "HEP connection closed: nothing good comes over it", peer=peer[0])

    def _deliver(self, records: list[Record]) -> None:
        if records:
            self._dump.intercept(records)

    def malformed(self, peer: tuple[str, int], error: Exception) -> None:
        """Count and log a packet that cannot be decoded."""
        self._counts["malformed"] += 1
        where = f"{peer[0]}:{peer[1]}"
        unforeseen = not isinstance(error, FormatError)
        self._loop.limit.warn("malformed", "malformed HEP packet", traceback=unforeseen, peer=where, error=error)

    def _log_troubles(self) -> None:
        self._troubles.log(self._decoder.troubles, time.monotonic())

    def _log_kernel_drops(self) -> None:
        self._count_kernel_drops()
        count = self._kernel_dropped - self._kernel_dropped_logged
        if count:
            self._kernel_dropped_logged = self._kernel_dropped
            hint = "raise rcvbuf, or add collectors"
            self._loop.limit.warn("kernel", "the kernel dropped HEP packets", count=count, hint=hint)

    def _count_kernel_drops(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            inodes = {str(os.fstat(sock.fileno()).st_ino) for sock in self._datagrams}
            self._kernel_dropped = max(self._kernel_dropped, sum(_drops(inodes)))


class _HepConnection(Connection):
    def __init__(self, loop: Loop, sock: socket.socket, peer: tuple[str, int], source: HepSource) -> None:
        super().__init__(loop, sock)
        self.peer = peer
        self.frames = FrameReader()
        self.fresh = True
        """Nothing has come yet."""
        self.bad = 0
        """Malformed frames since the last good one."""
        self._source = source
        self.touch(source.options.idle_timeout)

    def ready(self) -> None:
        data = self.sock.recv(_READ_BYTES)
        if not data:
            self.close()
            return
        self.touch(self._source.options.idle_timeout)
        self._source.take(self, data)

    def ended(self, reason: str) -> None:
        """Count what is left of a frame."""
        if self.frames.waiting:
            left = f"connection ended within a frame, {self.frames.waiting} bytes left"
            self._source.malformed(self.peer, FormatError(f"{left}: {reason}" if reason else left))


def _drops(inodes: set[str]) -> Iterator[int]:
    """Return the kernel's drop counters of these UDP sockets (proc(5), /proc/net/udp: inode and drops columns)."""
    for table in ("/proc/self/net/udp", "/proc/self/net/udp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if len(columns) > 12 and columns[9] in inodes:
                    yield int(columns[12])

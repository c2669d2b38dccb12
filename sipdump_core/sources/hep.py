"""The HEP source: one thread that receives HEP over UDP and TCP and brings the records to a SipDump."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sipdump_core.errors import FormatError
from sipdump_core.log import Event, log
from sipdump_core.net.address import Listen, ask_for_buffer, bind_inet, canonical_ip
from sipdump_core.net.gathering import Gathering
from sipdump_core.net.loop import Connection, Loop
from sipdump_core.record import Record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.settings.options import Given
from sipdump_core.sipdump import SipDump
from sipdump_core.sources.hep_datagrams import ROUND, Reader, reader
from sipdump_core.sources.hep_decoder import is_tls
from sipdump_core.sources.hep_round import RoundDecoder
from sipdump_core.sources.hep_stream import FrameReader
from sipdump_core.sources.hep_troubles import Troubles

__all__ = ["HepSource"]

_DATAGRAMS_A_TURN = 512
_DATAGRAMS_S = 0.01
_READ_BYTES = 1 << 16
_TURN_US = 1000
_FIRST_TURN_US = 200  # of a connection that has brought nothing good yet
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
        self._decoder = RoundDecoder(options, dump.table)
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
                gathering = Gathering(self._ask_for_buffer(sock, shown))
                read = reader(sock, self._decoder, self.malformed)
                self._loop.receive(sock, partial(self._read_datagrams, read, gathering))
            else:
                self._loop.listen(sock, self._connect)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise given.error(f"cannot listen for HEP on {shown}: {reason}") from error
        bound = Listen(where.proto, *sock.getsockname()[:2])
        self.addresses.append(bound)
        log.info(Event("listening for HEP", proto=bound.proto, host=bound.host, port=bound.port))

    def _ask_for_buffer(self, sock: socket.socket, shown: str) -> int:
        wanted = self.options.rcvbuf
        given = ask_for_buffer(sock, wanted)
        if given < wanted:
            hint = f"sysctl -w net.core.rmem_max={wanted}"
            log.warning(Event("small receive buffer", listen=shown, bytes=given, wanted=wanted, hint=hint))
        return given

    def _read_datagrams(self, reader: Reader, gathering: Gathering) -> None:
        records: list[Record] = []
        count = 0
        whole = False
        end = time.monotonic() + _DATAGRAMS_S
        try:
            while not whole and count < _DATAGRAMS_A_TURN:
                taken = reader.read(records)
                count += taken
                whole = taken < ROUND
                if time.monotonic() > end:
                    break
        except OSError as error:
            self._loop.limit.warn("recv", "cannot receive HEP", error=error)
        self._counts["packets"] += count
        self._deliver(records)
        nap_s = gathering.nap(count, time.monotonic())
        if nap_s and whole:
            self._loop.rest(nap_s)

    def _connect(self, loop: Loop, sock: socket.socket, address: Any) -> Connection:
        with contextlib.suppress(OSError):  # it may have ended already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, name, value)
        return _HepConnection(loop, sock, (canonical_ip(address[0])[1], address[1]), self)

    def take(self, connection: "_HepConnection", frames: Iterator[bytes | FormatError]) -> bool:
        """Take frames that a connection brings, for a millisecond at most or so; return whether these were all."""
        peer, counts, decode = connection.peer, self._counts, self._decoder.decode
        records: list[Record] = []
        alive, whole = False, True
        end_us = time.time() * 1e6 + (_TURN_US if connection.proven else _FIRST_TURN_US)
        for frame in frames:
            counts["packets"] += 1
            refused = counts["auth_failed"]
            now_us = int(time.time() * 1e6)
            try:
                if isinstance(frame, FormatError):
                    raise frame  # noqa: TRY301 - counted in one place
                found = decode(frame, peer, now_us)
            except Exception as error:  # noqa: BLE001 - as above
                connection.bad += 1
                self.malformed(peer, error)
            else:
                records += found
                if counts["auth_failed"] != refused:
                    connection.bad += 1
                else:
                    alive = True
                    connection.bad = 0 if found else connection.bad
            if connection.bad > _BAD_FRAMES or now_us > end_us:
                whole = False
                break
        connection.proven = connection.proven or bool(records)
        if alive:
            connection.touch(self.options.idle_timeout)
        self._deliver(records)
        return whole

    def refuse_tls(self, peer: tuple[str, int]) -> None:
        """Count and log a connection that begins with TLS."""
        self._decoder.trouble("tls", peer)
        self._counts["packets"] += 1
        self.malformed(peer, FormatError("a TLS handshake, where plain HEP is expected"))

    def ended(self, peer: tuple[str, int], reason: str, left: int) -> None:
        """Forget a connection's peer, and count what is left of a frame: so many bytes."""
        self._decoder.forget(peer)
        if left:
            what = f"connection ended within a frame, {left} bytes left"
            self.malformed(peer, FormatError(f"{what}: {reason}" if reason else what))

    def nothing_good(self, peer: tuple[str, int]) -> None:
        """Log a connection that was closed because nothing good came over it."""
        self._counts["connections_refused"] += 1
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
        self.bad = 0
        """Frames in a row that were malformed or had a wrong key."""
        self._source = source
        self._reader = FrameReader()
        self._fresh = True
        """Nothing has come yet."""
        self._frames: Iterator[bytes | FormatError] | None = None
        """What is still to be taken of what has been read."""
        self.touch(source.options.idle_timeout)

    def ready(self) -> None:
        if self.closed:
            return
        if self._frames is None:
            data = self.sock.recv(_READ_BYTES)
            if not data:
                self.close()
                return
            if self._fresh and is_tls(data):
                self._source.refuse_tls(self.peer)
                self.close()
                return
            self._fresh = False
            self._frames = self._reader.feed(data)
        if self._turn():
            self.watch()
        elif not self.closed:  # the others have their turn meanwhile
            self.pause()
            self.loop.call_soon(self.serve)

    def _turn(self) -> bool:
        """Take some of the frames; return whether these were all."""
        if self._frames is None:
            return True
        if self._source.take(self, self._frames):
            self._frames = None
        elif self.bad > _BAD_FRAMES:
            self._frames = None
            self._reader.clear()
            self.close("nothing good comes over it")
            self._source.nothing_good(self.peer)
        return self._frames is None

    def ended(self, reason: str) -> None:
        """Take what has been read, and count what is left of a frame."""
        while not self._turn():
            pass
        self._source.ended(self.peer, reason, self._reader.waiting)


def _drops(inodes: set[str]) -> Iterator[int]:
    """Return the kernel's drop counters of these UDP sockets (proc(5), /proc/net/udp: inode and drops columns)."""
    for table in ("/proc/self/net/udp", "/proc/self/net/udp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if len(columns) > 12 and columns[9] in inodes:
                    yield int(columns[12])

"""The control sockets: one thread that takes control commands over every configured address, and answers them.

No client can hold it up: nothing here blocks, requests and answers are bounded in bytes and seconds, connections in
number, and commands that wait for a store run in threads of their own.
"""

import socket
from functools import partial
from typing import Any

from sipdump_core.control import binrpc, jsonrpc
from sipdump_core.control.commands import Rpc
from sipdump_core.control.fifo import Fifo, ReplyFifos
from sipdump_core.control.http import known_hosts, take_http
from sipdump_core.control.request import READ_BYTES, REQUESTS_A_ROUND, Executor, Take
from sipdump_core.control.stream import ControlConnection
from sipdump_core.errors import ConfigError
from sipdump_core.log import Event, log
from sipdump_core.net.address import Address, bind_inet
from sipdump_core.net.loop import Connection, Loop
from sipdump_core.net.unix_socket import bind_unix
from sipdump_core.settings.ctl import CtlOptions
from sipdump_core.settings.options import Given

__all__ = ["Ctl"]

_MAX_DATAGRAM = 65507


class Ctl:
    """Takes control commands. It is listening when the constructor returns; ``close`` ends it, and removes its sockets.

    Args:
        options: the addresses and limits.
        rpc: the commands.

    Raises:
        ConfigError: an address cannot be listened on, or another daemon does.
    """

    def __init__(self, options: CtlOptions, rpc: Rpc) -> None:
        self._options = options
        self._loop = Loop("sipdump-ctl", "control", options.max_connections)
        self._executor = Executor(rpc, self._loop)
        self._fifos: list[Fifo] = []
        self._replies: ReplyFifos | None = None
        self.addresses: list[Address] = []
        """Where it listens, with the ports that the kernel chose for port 0."""
        try:
            for given in options.binrpc:
                self._open("binrpc", given, binrpc.take_request)
            for given in options.jsonrpc:
                self._open("jsonrpc", given, take_http if given.value.proto == "http" else jsonrpc.take_whole)
        except BaseException:
            self.close()
            raise
        if self.addresses:
            self._loop.start()

    def close(self) -> None:
        """End, and remove the sockets and fifos that are still this daemon's."""
        self._loop.stop()
        for fifo in self._fifos:
            fifo.close()
        if self._replies:
            self._replies.close()
        self._loop.close()

    def _open(self, protocol: str, given: Given[Address], take: Take) -> None:
        where, place = given.value, given.setting.place
        try:
            if where.proto == "fifo":
                self._open_fifo(where.path, place)
            else:
                where = self._open_socket(where, take, place)
        except ConfigError as error:
            raise given.error(str(error).removeprefix(f"{place}: ")) from error
        except OSError as error:
            raise given.error(f"cannot listen there: {error.strerror or error}") from error
        self.addresses.append(where)
        log.info(Event("listening for control commands", protocol=protocol, address=where))

    def _open_fifo(self, path: str, place: str) -> None:
        self._replies = self._replies or ReplyFifos(self._options, self._loop, place)
        self._fifos.append(Fifo(path, self._options, self._executor, self._replies, self._loop, place))

    def _open_socket(self, where: Address, take: Take, place: str) -> Address:
        kind = socket.SOCK_STREAM if where.stream else socket.SOCK_DGRAM
        options = self._options
        sock: socket.socket
        if where.path:
            sock = bind_unix(where.path, kind, options.mode, options.user, options.group, place=place)
        else:
            sock = bind_inet(where.host, where.port, kind)
            where = where._replace(port=sock.getsockname()[1])
        if where.stream:
            self._loop.listen(sock, partial(self._connect, where, take))
        else:
            self._loop.receive(sock, partial(self._read_datagrams, sock, take))
        return where

    def _connect(self, where: Address, take: Take, loop: Loop, sock: socket.socket, _: Any) -> Connection:
        if where.proto == "http":  # listening on all addresses, it has the one that the client reached
            take = partial(take_http, hosts=known_hosts(where.host, sock.getsockname()[0]))
        return ControlConnection(loop, sock, take, self._executor, self._options)

    def _read_datagrams(self, sock: socket.socket, take: Take) -> None:
        unix = sock.family == socket.AF_UNIX
        limit = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2 if unix else _MAX_DATAGRAM
        for _ in range(REQUESTS_A_ROUND):
            try:
                data, peer = sock.recvfrom(READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._loop.limit.warn("recv", "cannot receive control command", error=error)
                return
            request = take(bytearray(data))
            if request is None:
                continue
            # over UDP anybody can claim to be anyone, another server or an echo service
            if request.stray or (request.unreadable and not unix):
                self._loop.limit.warn("stray", "control datagram that is no request: it gets no answer", peer=peer)
            else:
                self._executor.execute(request, partial(self._send_datagram, sock, peer), limit)

    def _send_datagram(self, sock: socket.socket, peer: Any, data: bytes) -> None:
        if not peer:  # a unix socket without a name: its answer has nowhere to go
            return
        try:
            sock.sendto(data, peer)
        except OSError as error:  # its queue is full, or it is gone
            self._loop.limit.warn("send", "control command: the answer was not sent", error=error)

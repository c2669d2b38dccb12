"""Backends that take the network for granted, with a good one that does not."""

import contextlib
import os
import socket
import socketserver
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import attrs
import pytest

from sipdump_core import Backend, PartialWriteError, Record, Site, StorageError, option
from sipdump_core.testing import Contract, FaultProxy
from tests.broken.good import Good, GoodStream, caught_by

_HEAD = struct.Struct(">HI")


class Store(socketserver.ThreadingTCPServer):
    """Keeps each frame by its sender, and answers it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.frames: defaultdict[bytes, list[bytes]] = defaultdict(list)
        super().__init__(("127.0.0.1", 0), _Connection)
        self.port: int = self.server_address[1]


class _Connection(socketserver.StreamRequestHandler):
    server: Store

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # it was cut
            while len(head := self.rfile.read(_HEAD.size)) == _HEAD.size:
                sizes = _HEAD.unpack(head)
                sender, data = map(self.rfile.read, sizes)
                if len(sender) + len(data) < sum(sizes):
                    return
                self.server.frames[sender].append(data)
                self.wfile.write(b"k")


@attrs.frozen
class TcpOptions:
    """Where the store is."""

    port: int = option(9, help="TCP port")


class GoodTcp(Backend):
    """Sends each batch as one frame, and waits for the answer."""

    name = "tcp"
    options = TcpOptions
    timeout: float | None = 0.15

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._coder = Good(options, site)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        self.stop()

    def stop(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None

    def write(self, batch: Sequence[Record]) -> None:
        try:
            self.deliver(batch)
        except OSError as error:
            self.stop()
            raise StorageError.from_os("write", "store", error) from error

    def deliver(self, batch: Sequence[Record]) -> None:
        self.send(self._coder.encode(batch))
        self.answer()

    def send(self, data: bytes) -> None:
        if not self._socket:
            self._socket = socket.create_connection(("127.0.0.1", self.opts.port), self.timeout)
        sender = self.site.prefix.encode()
        self._socket.sendall(_HEAD.pack(len(sender), len(data)) + sender + data)

    def answer(self) -> None:
        assert self._socket
        if not self._socket.recv(1):
            raise ConnectionResetError("the store has closed the connection")

    def record_size(self, record: Record) -> int:
        return self._coder.record_size(record)


class TcpContract(Contract):
    """The contract of backends made of GoodTcp."""

    backend_class = GoodTcp
    patience = 0.5
    longest_call = 0.5

    @pytest.fixture(autouse=True)
    def _store(self) -> Iterator[None]:
        with Store() as self.store_:
            thread = threading.Thread(target=self.store_.serve_forever, args=(0.01,))
            thread.start()
            with FaultProxy(self.store_.port) as self.proxy:
                yield
            self.store_.shutdown()
            thread.join()

    def make_backend(self, site: Site) -> Backend:
        assert self.proxy
        return self.backend_class(TcpOptions(port=self.proxy.port), site)

    def received(self, backend: Backend) -> list[Record]:
        file = BytesIO(b"".join(self.store_.frames[backend.site.prefix.encode()]))
        file.name = "frames"
        return [*Good(backend.opts, backend.site).decode(file)]


# ---- cuts ----


@caught_by("a_cut_in_mid_batch_stores_no_part_of_it")
class SendsOneByOne(GoodTcp):
    """The store has a part of a batch that is sent again as a whole."""

    def deliver(self, batch: Sequence[Record]) -> None:
        for record in batch:
            super().deliver([record])


@caught_by("a_cut_in_mid_batch_stores_no_part_of_it", "a_lost_answer_loses_no_batch")
class NeverConnectsAgain(GoodTcp):
    def stop(self) -> None:
        if self._socket:
            self._socket.close()

    def start(self) -> None:
        self.stop()
        self._socket = None


@caught_by("a_cut_in_mid_batch_stores_no_part_of_it")
class TakesACutForDone(GoodTcp):
    def write(self, batch: Sequence[Record]) -> None:
        try:
            super().write(batch)
        except StorageError as error:
            if not isinstance(error.__cause__, ConnectionRefusedError):
                return
            raise


@caught_by("a_cut_in_mid_batch_stores_no_part_of_it")
class FailsTheWrongHalf(GoodTcp):
    """It says that the second half failed, though the first did, too."""

    def write(self, batch: Sequence[Record]) -> None:
        try:
            super().write(batch)
        except StorageError as error:
            raise PartialWriteError("write", "store", str(error), range(len(batch) // 2, len(batch))) from error


# ---- lost answers ----


@caught_by("a_lost_answer_loses_no_batch")
class SendsAgainAndAgain(GoodTcp):
    """It sends a batch again by itself, and then says that it failed."""

    def deliver(self, batch: Sequence[Record]) -> None:
        try:
            super().deliver(batch)
        except OSError:
            self.stop()
            super().deliver(batch)
            raise


@caught_by("a_lost_answer_loses_no_batch")
class LosesWhatFollowsALostAnswer(GoodTcp):
    """After a lost answer it takes the next batch for the one that it has sent."""

    _sent = False

    def deliver(self, batch: Sequence[Record]) -> None:
        if self._sent:
            self._sent = False
            if len(batch) != 1:
                return
        self.send(self._coder.encode(batch))
        try:
            self.answer()
        except OSError:
            self.stop()
            self._sent = True


# ---- silence ----


@caught_by("a_silent_store_is_given_up")
class HasNoTimeout(GoodTcp):
    timeout = None


@caught_by("a_silent_store_is_given_up")
class TriesTooOften(GoodTcp):
    """Each try has a time-out; all together take too long."""

    def deliver(self, batch: Sequence[Record]) -> None:
        for _ in range(8):
            with contextlib.suppress(TimeoutError):
                super().deliver(batch)
                return
            self.stop()
        raise TimeoutError("no answer")


@caught_by("a_silent_store_is_given_up")
class TakesSilenceForDone(GoodTcp):
    def deliver(self, batch: Sequence[Record]) -> None:
        try:
            super().deliver(batch)
        except TimeoutError:
            self.stop()


# ---- outages ----


@caught_by("outages_leave_nothing_open")
class KeepsEverySocket(GoodTcp):
    """Whatever fails stays open; a garbage collector would find nothing to do."""

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._all: list[socket.socket] = []

    def start(self) -> None:
        self._socket = None

    def stop(self) -> None:
        if self._socket:
            self._all.append(self._socket)
        self._socket = None

    def __del__(self) -> None:
        for one in self._all:
            one.close()


@caught_by("outages_leave_nothing_open")
class AThreadForEachOutage(GoodStream):
    def send(self, data: bytes) -> None:
        try:
            super().send(data)
        except StorageError:
            threading.Thread(target=threading.Event().wait, args=(20.0,), daemon=True).start()
            raise


@caught_by("outages_leave_nothing_open")
class LeaksWhenStartFails(GoodStream):
    def start(self) -> None:
        self._lock = os.open(os.devnull, os.O_RDONLY)
        os.listdir(self.site.folder)
        os.close(self._lock)


@caught_by("nothing_piles_up_during_an_outage")
class QueuesWithoutBound(GoodStream):
    """What cannot be sent waits in a list."""

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._waiting: list[bytes] = []

    def send(self, data: bytes) -> None:
        self._waiting.append(data)
        with contextlib.suppress(StorageError):
            while self._waiting:
                super().send(self._waiting[0])
                del self._waiting[0]


@caught_by("nothing_piles_up_during_an_outage")
class QueuesRecords(GoodStream):
    """A thread sends what write() puts into a list."""

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._waiting: list[Record] = []

    def write(self, batch: Sequence[Record]) -> None:
        self._waiting += batch

    def flush(self) -> None:
        if self._waiting and os.path.isdir(self.site.folder):
            super().write(self._waiting)
            self._waiting = []

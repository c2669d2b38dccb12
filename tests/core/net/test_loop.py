"""The event loop of what listens."""

import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_core import threads
from sipdump_core.errors import ClosedError
from sipdump_core.net import loop as net_loop
from sipdump_core.net.loop import Connection, Loop
from sipdump_core.net.unix_socket import bind_unix
from tests.support import wait_for


class Echo(Connection):
    """Sends back what it receives, with a few words that make it misbehave."""

    def __init__(self, loop: Loop, sock: socket.socket, timeout_s: float) -> None:
        super().__init__(loop, sock)
        self.reasons: list[str] = []
        self._timeout_s = timeout_s
        self.touch(timeout_s)

    def ready(self) -> None:
        data = self.sock.recv(100)
        if not data:
            self.close()
        elif data == b"bug":
            raise RuntimeError("surprise")
        elif data == b"closed":
            raise ClosedError("the store")
        elif data == b"error":
            raise OSError(71, "Protocol error")
        else:
            self.touch(self._timeout_s)
            self.sock.send(data)

    def ended(self, reason: str) -> None:
        self.reasons.append(reason)


class Bench:
    def __init__(self, max_connections: int = 10, timeout_s: float = 0) -> None:
        self.loop = Loop("test", "test", max_connections)
        self.made: list[Echo] = []
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.timeout_s = timeout_s
        self.loop.listen(self.listener, self.connected)
        self.socks: list[socket.socket] = []

    def connected(self, loop: Loop, sock: socket.socket, address: Any) -> Connection:
        assert address[0] == "127.0.0.1"
        self.made.append(Echo(loop, sock, self.timeout_s))
        return self.made[-1]

    def connect(self) -> socket.socket:
        self.socks.append(socket.create_connection(self.listener.getsockname(), 60))
        return self.socks[-1]

    def close(self) -> None:
        self.loop.stop()
        self.loop.close()
        for sock in self.socks:
            sock.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(**getattr(request, "param", {}))
    yield made
    made.close()


def said(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    try:
        return sock.recv(100)
    except ConnectionResetError:
        return b""


def test_connections_are_served_and_end(bench: Bench) -> None:
    bench.loop.start()
    one, other = bench.connect(), bench.connect()
    assert said(one, b"1") == b"1"
    assert said(other, b"2") == b"2"
    one.close()
    wait_for(lambda: len(bench.loop.connections) == 1)
    assert said(other, b"3") == b"3"
    assert [made.reasons for made in bench.made] == [[""], []]


def test_errors_end_their_connection_and_no_other(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.loop.start()
    good = bench.connect()
    assert said(bench.connect(), b"bug") == b""
    assert said(bench.connect(), b"error") == b""
    assert said(good, b"1") == b"1"
    wait_for(lambda: len(bench.loop.connections) == 1)
    assert [made.reasons for made in bench.made[1:]] == [["it cannot be served"], ["Protocol error"]]
    assert "surprise" in caplog.text


def test_a_store_that_is_closed_ends_the_loop(bench: Bench) -> None:
    bench.loop.start()
    bench.connect().sendall(b"closed")
    wait_for(lambda: not bench.loop.running)


@pytest.mark.parametrize("bench", [{"max_connections": 2}], indirect=True)
def test_the_longest_idle_connection_makes_room(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.loop.start()
    first, second = bench.connect(), bench.connect()
    assert said(second, b"2") == b"2"
    assert said(first, b"1") == b"1"
    third = bench.connect()
    assert said(third, b"3") == b"3"
    assert second.recv(1) == b""
    assert bench.made[1].reasons == ["another connection needed its place"]
    assert bench.loop.counts == {"connections_evicted": 1}
    assert "too many test connections" in caplog.text


def test_what_one_has_sent_that_makes_room_is_taken(bench: Bench) -> None:
    sock = bench.connect()

    def accepted() -> bool:
        bench.loop._accept(bench.listener, bench.connected)
        return bool(bench.made)

    wait_for(accepted)
    sock.sendall(b"1")
    bench.loop._evict()
    assert sock.recv(1) == b"1"
    assert sock.recv(1) == b""


@pytest.mark.parametrize("bench", [{"timeout_s": 0.3}], indirect=True)
def test_an_idle_connection_is_closed(bench: Bench) -> None:
    bench.loop.start()
    sock = bench.connect()
    began = time.monotonic()
    assert said(sock, b"1") == b"1"
    assert sock.recv(1) == b""
    assert time.monotonic() - began >= 0.3
    wait_for(lambda: bench.made[0].reasons == ["it was idle for too long"])
    assert bench.loop.counts == {"connections_timed_out": 1}


def test_without_file_descriptors_connections_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError(24, "Too many open files")]
    accept = socket.socket.accept

    def fail_once(sock: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", fail_once)
    bench.loop.start()
    began = time.monotonic()
    assert said(bench.connect(), b"1") == b"1"
    assert time.monotonic() - began >= 0.9


def test_one_that_is_closed_in_a_round_gets_no_event_of_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_loop, "_DATAGRAMS_EVERY_S", 60.0)  # nobody has a turn without an event, however slow it is
    first, second = socket.socketpair()
    third, fourth = socket.socketpair()
    calls = []

    def ready(own: socket.socket, other: socket.socket) -> None:
        calls.append(own.recv(1))
        bench.loop.unwatch(other)

    for own, other in ((first, third), (third, first)):
        bench.loop.receive(own, lambda own=own, other=other: ready(own, other))  # type: ignore[misc]
    second.send(b"x")
    fourth.send(b"x")
    bench.loop.start()
    wait_for(lambda: calls)
    time.sleep(0.1)
    assert calls == [b"x"]
    second.close()
    fourth.close()


def test_datagrams_have_their_turn_between_connections(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the others take: the kernel drops what nobody takes in time."""
    monkeypatch.setattr(net_loop, "_DATAGRAMS_EVERY_S", 0.0)
    calls: list[str] = []
    one, other = socket.socketpair()
    bench.loop.receive(one, lambda: calls.append("datagrams"))
    socks = [bench.connect() for _ in range(3)]
    bench.loop.start()
    wait_for(lambda: len(bench.made) == 3)
    for made in bench.made:
        monkeypatch.setattr(made, "ready", lambda made=made: calls.append(made.sock.recv(1).decode()))
    busy = threading.Event()
    bench.loop.call_soon(busy.wait)
    for sock in socks:
        sock.send(b"x")
    busy.set()
    wait_for(lambda: calls.count("x") == 3)
    assert "x x" not in " ".join(calls)
    other.close()


@pytest.mark.parametrize("beside", ["nothing", "a connection", "something to do soon"])
def test_datagrams_may_gather_unless_anything_else_is_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    rests: list[float] = []
    one, other = socket.socketpair()
    loop = bench.loop

    def ready() -> None:
        one.recv(100)
        loop.rest(0.25)
        if beside == "something to do soon":
            loop._soon.append(lambda: None)

    loop.receive(one, ready)
    if beside == "a connection":
        bench.connect()
    other.send(b"x")
    loop._round(60)
    monkeypatch.setattr(time, "sleep", rests.append)
    for _ in range(2):
        loop._round(0)
    assert rests == ([0.25] if beside == "nothing" else []), "and once only"
    other.close()


def test_the_end_waits_for_no_datagrams_to_gather(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.loop.rest(60)
    bench.loop.stopping = True
    monkeypatch.setattr(time, "sleep", None)
    bench.loop._round(0)


def test_what_is_called_later_is_called_in_time_and_order(bench: Bench) -> None:
    calls: list[object] = []
    began = time.monotonic()
    for delay_s in (0.2, 0.1, 0.1):
        bench.loop.call_later(delay_s, lambda delay_s=delay_s: calls.append(delay_s))  # type: ignore[misc]
    bench.loop.start()
    bench.loop.call_soon(lambda: calls.append(threading.current_thread().name))
    wait_for(lambda: len(calls) == 4)
    assert calls == ["test", 0.1, 0.1, 0.2]
    assert time.monotonic() - began >= 0.2


def test_what_is_called_again_and_again_goes_on_in_spite_of_its_errors(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []

    def fail() -> None:
        calls.append(time.monotonic())
        raise ValueError("surprise")

    bench.loop.every(0.01, fail)
    bench.loop.start()
    wait_for(lambda: len(calls) >= 3)
    assert "surprise" in caplog.text


def test_a_time_limit_of_zero_is_none(bench: Bench) -> None:
    one, other = socket.socketpair()
    with one, other:
        connection = Connection(bench.loop, one)
        assert connection.deadline == math.inf
        connection.touch(5)
        assert connection.deadline == connection.active + 5
        connection.touch(0)
        assert connection.deadline == math.inf


def test_what_has_arrived_is_taken_before_the_end(bench: Bench) -> None:
    busy = threading.Event()
    bench.loop.start()
    bench.loop.call_soon(busy.wait)
    sock = bench.connect()
    sock.sendall(b"1")
    stopping = threading.Thread(target=bench.loop.stop, args=(1.0,))
    stopping.start()
    wait_for(lambda: bench.loop.stopping)
    busy.set()
    stopping.join()
    assert sock.recv(1) == b"1"


def test_who_connects_after_the_stop_finds_no_file(tmp_path: Path) -> None:
    """So that it waits for the next daemon, and is not accepted by one that is about to end."""
    loop = Loop("test", "test")
    path = tmp_path / "socket"
    loop.receive(bind_unix(str(path), socket.SOCK_DGRAM), lambda: None)
    found: list[bool] = []
    loop.drain = lambda: found.append(path.exists())
    loop.start()
    assert path.exists()
    loop.stop(1.0)
    loop.close()
    assert found == [False]


def test_a_peer_that_goes_on_sending_does_not_hold_up_the_end(bench: Bench) -> None:
    bench.loop.start()
    bench.loop.drain = lambda: bench.loop.call_soon(again)

    def again() -> None:
        bench.loop.call_soon(again)

    began = time.monotonic()
    bench.loop.stop(0.3)
    assert 0.2 <= time.monotonic() - began < 30


def test_a_fault_of_the_selector_is_survived(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(threads, "_PAUSES", (0.001, 0.01))
    loop = Loop("test", "sipdump-test", 10)
    real, faults = loop._selector.select, [OSError(9, "Bad file descriptor"), MemoryError()]

    def select(timeout: float | None = None) -> Any:
        if faults:
            raise faults.pop()
        return real(timeout)

    monkeypatch.setattr(loop._selector, "select", select)
    done = threading.Event()
    loop.start()
    loop.call_soon(done.set)
    assert done.wait(60)
    loop.stop()
    loop.close()
    assert caplog.text.count("thread=test error=") == 2


def test_nothing_that_a_callback_raises_ends_the_thread() -> None:
    loop = Loop("test", "sipdump-test", 10)
    done = threading.Event()
    loop.start()

    def leave() -> None:
        raise SystemExit(3)

    loop.call_soon(leave)
    loop.call_soon(done.set)
    assert done.wait(60)
    loop.stop()
    loop.close()

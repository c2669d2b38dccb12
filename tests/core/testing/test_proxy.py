"""The proxy of faults does what it is told, once, and nothing else."""

import socket
import threading
from collections.abc import Iterator

import pytest

from sipdump_core.testing import FaultProxy


class Echo:
    """A store that answers each piece with the same, and keeps what came."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.came = b""
        self.connections = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                data = connection.recv(1000)
                if data == b"end":
                    return
                self.connections += 1
                while data:
                    self.came += data
                    connection.sendall(data)
                    data = connection.recv(1000)

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"end")
        self._thread.join()
        self._listener.close()


@pytest.fixture
def store() -> Iterator[Echo]:
    store = Echo()
    yield store
    store.close()


@pytest.fixture
def proxy(store: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(store.port) as proxy:
        yield proxy


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 5)


def ask(client: socket.socket, data: bytes) -> bytes:
    """Send something and return the answer; nothing if the connection ends."""
    try:
        client.sendall(data)
        return client.recv(1000)
    except ConnectionError:
        return b""


def test_it_hands_on_and_counts(proxy: FaultProxy, store: Echo) -> None:
    with connect(proxy) as client:
        assert ask(client, b"one") == b"one"
        assert ask(client, b"three") == b"three"
    assert (proxy.sent, proxy.answers, proxy.faults) == (8, 2, 0)


def test_a_cut_lets_through_as_much_as_was_said(proxy: FaultProxy, store: Echo) -> None:
    proxy.cut_after(5)
    with connect(proxy) as client:
        assert ask(client, b"abc") == b"abc"
        assert ask(client, b"defg") == b""
    with connect(proxy) as client:  # the next connection is whole, when the store has seen the end of the last
        assert ask(client, b"next") == b"next"
    assert store.came == b"abcdenext"
    assert proxy.faults == 1


def test_an_answer_is_lost_when_the_store_has_all(proxy: FaultProxy, store: Echo) -> None:
    proxy.lose_answer(2)
    with connect(proxy) as client:
        assert ask(client, b"one") == b"one"
        assert ask(client, b"two") == b""
    assert store.came == b"onetwo"
    assert proxy.faults == 1


def test_what_is_healed_does_not_happen(proxy: FaultProxy, store: Echo) -> None:
    proxy.cut_after(1)
    proxy.lose_answer()
    proxy.heal()
    with connect(proxy) as client:
        assert ask(client, b"one") == b"one"


def test_silence_hands_on_nothing_and_ends_in_a_cut(proxy: FaultProxy, store: Echo) -> None:
    with connect(proxy) as client:
        assert ask(client, b"one") == b"one"
        with proxy.silence():
            client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                ask(client, b"two")
        client.settimeout(5)
        assert ask(client, b"three") == b""
    assert store.came == b"one"


def test_down_refuses_and_comes_back_on_the_same_port(proxy: FaultProxy, store: Echo) -> None:
    for _ in range(2):
        with connect(proxy) as client:
            assert ask(client, b"x") == b"x"
            with proxy.down():
                assert ask(client, b"y") == b""
                with pytest.raises(ConnectionRefusedError):
                    connect(proxy)
    assert store.came == b"xx"


def test_nothing_of_it_is_left(store: Echo) -> None:
    before = set(threading.enumerate())
    with FaultProxy(store.port) as proxy, connect(proxy) as client:
        assert ask(client, b"x") == b"x"
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    with FaultProxy(store.port) as proxy, proxy.down():
        pass

"""Receiving many datagrams with one call."""

import contextlib
import ctypes
import errno
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sipdump_core.net import recvmmsg
from sipdump_core.net.recvmmsg import Receiver, is_here

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    is_here.cache_clear()
    yield
    is_here.cache_clear()


@contextlib.contextmanager
def bound(family: socket.AddressFamily) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((HOSTS[family], 0))
        yield sock


def received(receiver: Receiver) -> list[tuple[tuple[str, int], bytes]]:
    senders, sizes = receiver.receive()
    places = zip(senders, receiver.places, sizes, strict=False)
    return [(sender, receiver.buffer[at : at + size]) for sender, at, size in places]


def test_it_is_here() -> None:
    assert is_here()


@pytest.mark.parametrize("family", HOSTS)
def test_what_comes_is_what_recvfrom_would_say(family: socket.AddressFamily) -> None:
    with bound(family) as sock, bound(family) as one, bound(family) as other:
        receiver = Receiver(sock, 4)
        assert received(receiver) == []
        sent = [(one, b"1"), (one, b""), (other, b"x" * 65507), (one, b"2"), (other, b"3")]
        for sender, data in sent:
            sender.sendto(data, sock.getsockname())
        expected = [(sender.getsockname()[:2], data) for sender, data in sent]
        assert received(receiver) == expected[:4], "a call takes no more than it has slots"
        assert received(receiver) == expected[4:]
        assert received(receiver) == []


def test_what_was_taken_stays_when_the_buffer_is_used_again() -> None:
    with bound(socket.AF_INET) as sock, bound(socket.AF_INET) as sender:
        receiver = Receiver(sock, 2)
        kept = []
        for data in (b"first", b"other"):
            sender.sendto(data, sock.getsockname())
            kept += received(receiver)
        assert [data for _, data in kept] == [b"first", b"other"]
        assert {type(data) for _, data in kept} == {bytes}


def test_many_senders_take_no_memory_for_ever() -> None:
    with bound(socket.AF_INET) as sock, contextlib.ExitStack() as stack:
        receiver = Receiver(sock, 8)
        receiver._senders.limit = 3
        senders = [stack.enter_context(bound(socket.AF_INET)) for _ in range(8)]
        for sender in senders:
            sender.sendto(b"x", sock.getsockname())
        assert [one for one, _ in received(receiver)] == [sender.getsockname() for sender in senders]
        assert len(receiver._senders) <= 3


def test_a_socket_that_cannot_receive() -> None:
    with bound(socket.AF_INET) as sock:
        receiver = Receiver(sock, 2)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        receiver.receive()
    assert caught.value.errno == errno.EBADF


def lacking() -> Any:
    raise AttributeError("recvmmsg")


def forbidden() -> Any:
    def call(*_: object) -> int:
        ctypes.set_errno(errno.ENOSYS)
        return -1

    return call


def laid_out_otherwise() -> Any:
    def call(*_: object) -> int:
        return 2  # and sizes are elsewhere

    return call


def test_other_systems_lay_addresses_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert not is_here()


@pytest.mark.parametrize("function", [lacking, forbidden, laid_out_otherwise])
def test_it_is_not_here_unless_it_works(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recvmmsg, "_recvmmsg", function)
    assert not is_here()

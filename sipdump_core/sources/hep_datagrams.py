"""Reading HEP from a UDP socket: a round of datagrams at a time, or one by one where the system has no such call."""

import socket
import time
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

from sipdump_core.log import Event, log
from sipdump_core.record import Record
from sipdump_core.sources.hep_chunks import FRAME_MAX
from sipdump_core.sources.hep_round import Address, RoundDecoder

__all__ = ["ROUND", "Reader", "reader"]

ROUND = 64
"""Datagrams of a round; fewer are the last for now."""

Refuse = Callable[[Address, Exception], None]
"""Is called with the sender of a packet that cannot be decoded, and with the error."""


class Reader(Protocol):
    """What reads a socket."""

    def read(self, records: list[Record]) -> int:
        """Take what is there, at most ``ROUND`` datagrams; add their records, and return how many datagrams that were.

        Raises:
            OSError: the kernel cannot receive.
        """


def reader(sock: socket.socket, decoder: RoundDecoder, refuse: Refuse) -> Reader:
    """Return what reads a socket best here."""
    found = _recvmmsg()
    if found is None:
        log.info(Event("recvmmsg cannot be used here: HEP is received one datagram at a time"))
        return _OneByOne(sock, decoder, refuse)
    return _Rounds(sock, decoder, refuse, found)


class _Rounds:
    """Reads with recvmmsg(2)."""

    def __init__(self, sock: socket.socket, decoder: RoundDecoder, refuse: Refuse, recvmmsg: ModuleType) -> None:
        self._receiver = recvmmsg.Receiver(sock, ROUND)
        self._decoder = decoder
        self._refuse = refuse

    def read(self, records: list[Record]) -> int:
        receiver = self._receiver
        senders, sizes = receiver.receive()
        if not sizes:
            return 0
        packets = zip(senders, receiver.places, sizes, strict=False)  # there may be fewer than places
        now_us = int(time.time() * 1e6)
        records += self._decoder.decode_round(receiver.buffer, packets, now_us, self._refuse)
        return len(sizes)


class _OneByOne:
    """Reads with recvfrom(2)."""

    def __init__(self, sock: socket.socket, decoder: RoundDecoder, refuse: Refuse) -> None:
        self._receive = sock.recvfrom
        self._decoder = decoder
        self._refuse = refuse

    def read(self, records: list[Record]) -> int:
        decode = self._decoder.decode
        for count in range(ROUND):
            try:
                data, address = self._receive(FRAME_MAX + 1)
            except BlockingIOError:
                return count
            try:
                records += decode(data, address[:2], int(time.time() * 1e6))
            except Exception as error:  # noqa: BLE001 - one bad packet must not cost the others of its round
                self._refuse(address[:2], error)
        return ROUND


def _recvmmsg() -> ModuleType | None:
    """Return the module that calls recvmmsg; None where ctypes, the C library or the kernel has it not."""
    try:
        from sipdump_core.net import recvmmsg  # noqa: PLC0415 - ctypes may not be there
    except (ImportError, AttributeError):
        return None
    return recvmmsg if recvmmsg.is_here() else None

"""Many datagrams with one call: recvmmsg(2), which Python does not have, by ctypes.

They land in one buffer that is used again and again, so what is kept of them is copied. The layout of the
structures is that of Linux's C libraries; whether it is right here, and the call allowed, one real call tells.
"""

import ctypes
import errno
import functools
import mmap
import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

from sipdump_core.cache import Cache

__all__ = ["Receiver", "is_here"]

_SLOT = 65536
"""Bytes for each: no datagram is longer, and recvfrom(2) would cut there, too."""
_STRIDE = _SLOT + 1088
"""From one to the next: at the same place of their pages they would compete for the same lines of the caches."""
_NAME = 32
"""Bytes for a sender's address, of which an IPv6 one takes 28."""
_MSG_DONTWAIT = socket.MSG_DONTWAIT
_NOTHING = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)
_WORD = 4


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct msghdr, and the length that struct mmsghdr has behind it."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),  # an int, and what pads the structure to whole words
        ("len", ctypes.c_uint),
    )


class Receiver:
    """Receives datagrams of one UDP socket.

    Args:
        sock: the socket, of IPv4 or IPv6.
        slots: how many datagrams one call takes at most.

    Raises:
        AttributeError: the C library has no recvmmsg.
    """

    def __init__(self, sock: socket.socket, slots: int) -> None:
        self.buffer = mmap.mmap(-1, slots * _STRIDE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        """What the last call received. A slice of it is a copy, as bytes."""
        self.places = range(0, slots * _STRIDE, _STRIDE)
        """Where each datagram begins."""
        self._sock = sock
        self._slots = slots
        self._receive: Any = _recvmmsg()
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        self._names = (ctypes.c_char * (slots * _NAME))()
        self._messages = (_Message * slots)()
        self._iovecs = (_Iovec * slots)()
        for slot, (message, iovec) in enumerate(zip(self._messages, self._iovecs, strict=True)):
            iovec.base, iovec.len = base + self.places[slot], _SLOT
            message.name, message.namelen = ctypes.addressof(self._names) + slot * _NAME, _NAME
            message.iov, message.iovlen = ctypes.addressof(iovec), 1
        # The kernel sets namelen to the size of the family's addresses, always the same one: it need not be reset.
        words = memoryview(self._messages).cast("B").cast("I")
        self._sizes = words[_Message.len.offset // _WORD :: ctypes.sizeof(_Message) // _WORD]
        self._raw = memoryview(self._names).cast("B")
        self._senders: Cache[bytes, tuple[str, int]] = Cache()

    def receive(self) -> tuple[Sequence[tuple[str, int]], list[int]]:
        """Receive what is there, at most ``slots`` datagrams, without waiting.

        Returns:
            The address and port of each sender, in most cases the same object for the same one; and the sizes.

        Raises:
            OSError: the kernel cannot receive.
        """
        count = self._receive(self._sock.fileno(), self._messages, self._slots, _MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in _NOTHING:
                return (), []
            raise OSError(number, os.strerror(number))
        names = self._raw[: count * _NAME].tobytes()
        first = names[:_NAME]
        if names == first * count:
            return [self._sender(first)] * count, self._sizes[:count].tolist()
        senders = [self._sender(names[at : at + _NAME]) for at in range(0, count * _NAME, _NAME)]
        return senders, self._sizes[:count].tolist()

    def _sender(self, raw: bytes) -> tuple[str, int]:
        return self._senders.get(raw) or self._senders.keep(raw, _address(raw))


@functools.cache
def is_here() -> bool:
    """Return whether recvmmsg can be used here: on Linux, if the C library has it and the kernel allows it."""
    try:
        return sys.platform == "linux" and _works()
    except (AttributeError, OSError, ValueError):
        return False


def _works() -> bool:
    """Receive nothing, and then two datagrams; return whether that is what came."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        receiver = Receiver(one, 2)
        nothing = receiver.receive()
        sent = [b"1", b"2" * 900]
        for data in sent:
            other.send(data)
        _, sizes = receiver.receive()
        return nothing == ((), []) and sent == [
            receiver.buffer[at : at + size] for at, size in zip(receiver.places, sizes, strict=False)
        ]


@functools.cache
def _recvmmsg() -> Any:
    function = ctypes.CDLL(None, use_errno=True).recvmmsg
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


def _address(raw: bytes) -> tuple[str, int]:
    """Return the address and port of a sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)), as recvfrom(2) has them."""
    (family,) = struct.unpack_from("=H", raw)
    port = int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port
    return socket.inet_ntop(socket.AF_INET, raw[4:8]), port

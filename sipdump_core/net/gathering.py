"""When to let datagrams gather for a moment: under load, and only as many as the kernel's buffer has room for."""

__all__ = ["Gathering"]

_WINDOW_S = 0.01
_RATE = 5000
"""Datagrams a second from which on waking up for each costs more than it is worth."""
_NAP_S = 0.002
_LEAST_S = 0.0005
"""A shorter nap gathers too few to pay for itself."""
_DATAGRAM = 4096
"""Bytes of the kernel's receive buffer that a datagram takes, rather more: it counts whole buffers (socket(7))."""
_SHARE = 4
"""The part of the buffer that may fill during a nap: one in so many."""


class Gathering:
    """Measures the rate of one socket's datagrams.

    Args:
        buffer: bytes of its receive buffer.
    """

    def __init__(self, buffer: int) -> None:
        self._room = buffer // _SHARE // _DATAGRAM
        self._since = 0.0
        self._count = 0
        self._nap_s = 0.0

    def nap(self, count: int, now_s: float) -> float:
        """Return how many seconds to leave the socket alone, when all that had come was taken; 0 when traffic is light.

        Args:
            count: how many datagrams were taken.
            now_s: the time on the monotonic clock.
        """
        self._count += count
        spent = now_s - self._since
        if spent >= _WINDOW_S:
            rate = self._count / spent
            nap = min(_NAP_S, self._room / rate) if rate >= _RATE else 0.0
            self._nap_s = nap if nap >= _LEAST_S else 0.0
            self._since, self._count = now_s, 0
        return self._nap_s

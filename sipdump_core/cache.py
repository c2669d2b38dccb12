"""Bounded caches: what is dear to make and seen again and again, for as long as it fits."""

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Cache", "Memory", "Remembered", "Weighed"]

K = TypeVar("K")
V = TypeVar("V")


class Cache(dict[K, V]):
    """A dict that never has more than ``limit`` entries: one more empties it first.

    Emptying costs nothing a hit, and hostile input can neither fill the memory nor make each hit dearer, as an order
    of last use would. Use ``get`` to look up and :meth:`keep` to add.

    Args:
        limit: how many entries it may have.
    """

    __slots__ = ("limit",)

    def __init__(self, limit: int = 10_000) -> None:
        super().__init__()
        self.limit = limit

    def keep(self, key: K, value: V) -> V:
        """Add an entry, and return its value."""
        if len(self) >= self.limit:
            self.clear()
        self[key] = value
        return value


class Weighed(Cache[K, V]):
    """A cache that tells how many bytes it takes.

    Args:
        charge: is told by how many bytes it has grown; a negative number when it was emptied.
        size: bytes of an entry without its key.
        limit: how many entries it may have.
    """

    __slots__ = ("_charge", "_size", "_taken")

    def __init__(self, charge: Callable[[int], None], size: int, limit: int = 10_000) -> None:
        super().__init__(limit)
        self._charge = charge
        self._size = size
        self._taken = 0

    def keep(self, key: K, value: V) -> V:
        """Add an entry, and return its value."""
        if key in self:
            self[key] = value
            return value
        super().keep(key, value)
        taken = self._size + _weight(key)
        self._taken += taken
        self._charge(taken)
        return value

    def clear(self) -> None:
        """Empty it."""
        super().clear()
        taken, self._taken = self._taken, 0
        self._charge(-taken)


def _weight(key: object) -> int:
    """Return the bytes of a key, with what is in it."""
    return sys.getsizeof(key) + (sum(map(_weight, key)) if isinstance(key, tuple) else 0)


class Remembered:
    """What is remembered of one peer; a subclass says what."""

    size = 0
    """Bytes that it takes."""
    used = False
    """Whether the peer was met again since room was last made; who meets it sets this."""


P = TypeVar("P", bound=Remembered)


class Memory(OrderedDict[K, P]):
    """What is remembered of peers, in a bounded number of bytes over all of them.

    A peer that takes more than ``share`` is forgotten, and begins anew. When all together take more than ``limit``,
    those are forgotten first that were not met again of late, so strangers cost those who come again and again
    nothing. Use ``get`` to look up and :meth:`begin` to add.

    Args:
        limit: bytes.
        share: bytes that one peer may take, at most half of ``limit``.
    """

    def __init__(self, limit: int, share: int) -> None:
        super().__init__()
        self.size = 0
        """Bytes that it takes."""
        self._limit = limit
        self._share = share

    def begin(self, key: K, peer: P, size: int) -> P:
        """Remember a peer, of which as good as nothing is known yet, and return it.

        Args:
            key: the peer's.
            peer: what will be known of it.
            size: bytes that this takes from the beginning.
        """
        self.forget(key)
        self[key] = peer
        self.charge(key, size)
        return peer

    def charge(self, key: K, size: int) -> None:
        """Note that a peer takes ``size`` bytes more, or less, and make room if that is too much.

        Of one that has been forgotten meanwhile, nothing is noted.
        """
        peer = self.get(key)
        if peer is None:
            return
        peer.size += size
        self.size += size
        if peer.size > self._share:
            self.forget(key)
        while self.size > self._limit:
            other, known = next(iter(self.items()))
            if known is peer or known.used:
                known.used = False
                self.move_to_end(other)
            else:
                self.forget(other)

    def forget(self, key: K) -> None:
        """Forget a peer, if it is known."""
        peer = self.pop(key, None)
        if peer is not None:
            self.size -= peer.size

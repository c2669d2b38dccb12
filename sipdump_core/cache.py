"""A bounded cache: what is dear to make and seen again and again, for as long as it fits."""

from typing import TypeVar

__all__ = ["Cache"]

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

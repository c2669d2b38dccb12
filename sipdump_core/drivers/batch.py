"""Batches: what a backend gets to write at once, and by what a store knows it again."""

import math
import secrets
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NoReturn

from sipdump_core.record import Record

__all__ = ["Batch", "batching"]


class Batch(tuple[Record, ...]):
    """Records to be stored together: a tuple, so that no driver can change what another one gets.

    A batch that comes again, because its write failed, has the same records in the same order and the same ``id``. With
    a spool that holds over a restart, too. A store that keeps ids, in the transaction that stores the records, can so
    tell whether it has a batch already, though the answer was lost. Only what was erased from a spool meanwhile is
    missing in it.

    When only a part of a batch comes again, it has an ``id`` of its own: ``whole`` is the id of the batch that it was
    cut from, and ``indexes`` are the places of its records there. ``(whole, index)`` names a record for good.

    Args:
        records: the records.
        id: names the batch; by default a new name.
        whole: the id of the batch that this is a part of; by default its own.
        indexes: the places of the records in that batch, from 0; by default it has them all.
    """

    id: str
    """Text of ASCII letters, digits, ``-`` and ``/``, of at most 64 characters."""
    whole: str
    indexes: Sequence[int]

    def __new__(
        cls,
        records: Iterable[Record] = (),
        id: str = "",
        whole: str = "",
        indexes: Sequence[int] | None = None,
    ) -> "Batch":
        """Make a batch."""
        self = super().__new__(cls, records)
        name = id or secrets.token_hex(8)
        places = range(len(self)) if indexes is None else indexes
        self.__dict__.update(id=name, whole=whole or name, indexes=places)
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a batch cannot be changed: {name}")

    def part(self, places: Sequence[int]) -> "Batch":
        """Return the records at these places, in this order; the batch itself if these are all."""
        if len(places) == len(self):
            return self
        indexes = [self.indexes[place] for place in places]
        first, last = (indexes[0], indexes[-1]) if indexes else (0, -1)
        of_a_run = indexes == list(range(first, last + 1))
        name = f"{first}-{last}" if of_a_run else blake2b(repr(indexes).encode(), digest_size=8).hexdigest()
        return Batch([self[place] for place in places], f"{self.whole}/{name}", self.whole, tuple(indexes))


def batching(backend: Any) -> tuple[int, float]:
    """Return how many records a backend wants in a batch, and how many seconds the first waits for the others.

    Returns:
        Zeros for what it does not care about.

    Raises:
        TypeError: they are no numbers, or negative.
    """
    options = getattr(backend, "opts", None)
    records = getattr(options, "batch_records", backend.batch_records)
    seconds = getattr(options, "batch_seconds", backend.batch_seconds)
    if type(records) is not int or records < 0:
        raise TypeError(f"its batch_records is {records!r}, which is no number of records")
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise TypeError(f"its batch_seconds is {seconds!r}, which is no number of seconds")
    return records, float(seconds)

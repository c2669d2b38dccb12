"""What is stored where: segments, their sizes, their age."""

from collections.abc import Sequence

import attrs

from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import Shelved
from sipdump_core.reading.store import Store

__all__ = ["Holding", "holdings"]


@attrs.frozen
class Holding:
    """What one collector has stored in one backend."""

    backend: str
    place: str
    """The collector, or the folder."""
    segments: int
    unsealed: int
    """How many of them are not sealed: open, or waiting for something."""
    size: int
    """Bytes."""
    records: int | None
    """None where the store does not know it of each segment."""
    oldest: float | None
    """When the oldest segment begins, by its name: seconds since the epoch."""
    newest: float
    """The last write to any segment."""


def holdings(store: Store, searched: Searched) -> list[Holding]:
    """Return what a store has, by backend and place.

    Args:
        store: is listed, and not read.
        searched: takes down what cannot be listed.
    """
    groups: dict[tuple[str, str], list[Shelved]] = {}
    for shelved in store.shelved(searched):
        groups.setdefault((shelved.node, shelved.backend.name), []).append(shelved)
    return [_holding(backend, place, groups[place, backend]) for place, backend in sorted(groups)]


def _holding(backend: str, place: str, found: Sequence[Shelved]) -> Holding:
    counts = [one.stored.records for one in found]
    return Holding(
        backend=backend,
        place=place,
        segments=len(found),
        unsealed=sum(one.open for one in found),
        size=sum(one.stored.size for one in found),
        records=None if None in counts else sum(count or 0 for count in counts),
        oldest=min((one.start for one in found if one.start is not None), default=None),
        newest=max(one.stored.modified for one in found),
    )

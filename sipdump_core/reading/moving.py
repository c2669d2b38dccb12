"""What a compaction moves while a store is read: records that were read of its sources must not come again."""

from collections import Counter
from collections.abc import Iterable, Iterator

from sipdump_core.reading.searched import Searched
from sipdump_core.reading.units import Family, Holding
from sipdump_core.record import Record

__all__ = ["Moves"]

_REMEMBERED = 300_000
"""Records that are remembered, at about 100 bytes each."""


class Moves:
    """Knows which records of segments that may be merged were yielded.

    Args:
        searched: takes down where records may come twice.
    """

    def __init__(self, searched: Searched) -> None:
        self._searched = searched
        self._yielded: Counter[int] = Counter()
        self._read: set[Family] = set()
        """What was read in a merged segment, instead of those that it was made of."""

    def has(self, holding: Holding) -> bool:
        """Return whether a segment's records were read already, in one that it was merged into."""
        return bool(self._read) and holding.covers <= self._read

    def noted(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield records, and remember them."""
        yielded = self._yielded
        for record in records:
            if len(yielded) < _REMEMBERED:
                yielded[_mark(record)] += 1
            yield record

    def rest(self, holding: Holding, records: Iterable[Record]) -> Iterator[Record]:
        """Yield those records of a merged segment that were not yielded before."""
        if len(self._yielded) >= _REMEMBERED:
            self._searched.note("segments were merged while they were read, so messages may come twice: ask again")
        self._read |= holding.covers
        before = Counter(self._yielded)
        for record in records:
            mark = _mark(record)
            if before[mark]:
                before[mark] -= 1
            else:
                yield record


def _mark(record: Record) -> int:
    return hash((record.time_us, record.flow, record.buf))

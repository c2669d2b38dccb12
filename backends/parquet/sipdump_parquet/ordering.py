"""The records of each call in the order of their arrival, from a file that is sorted by call and time."""

from collections.abc import Iterable, Iterator
from operator import itemgetter
from types import TracebackType
from typing import Self

from sipdump_core.record import Record
from sipdump_parquet.sort import Sorter
from sipdump_parquet.table import records, table_of

__all__ = ["Ordered"]

_HELD = 1 << 23
"""Bytes of the messages of one call that are sorted in memory; a call of more goes through temporary files."""
_FEW = 100
"""Records of one call that are held in any case."""
_RECORD = 200
"""Bytes of a record in memory beside its message, about."""


class Ordered:
    """Takes rows, call by call, and yields the records of each call by ``seq``; those without a Call-ID as they come.

    Args:
        memory: bytes that a sort through temporary files may take.
        keyed: the rows of a call come one after the other; else all rows are sorted together.
    """

    def __init__(self, memory: int, *, keyed: bool) -> None:
        self._memory = memory
        self._keyed = keyed
        self._key: str | None = None
        self._held: list[tuple[int, Record]] = []
        self._sorter: Sorter | None = None

    def add(self, rows: Iterable[tuple[str | None, int, Record]]) -> Iterator[Record]:
        """Take rows, as Call-ID, ``seq`` and record, and yield the records of the calls that end with them."""
        held, keyed, current = self._held, self._keyed, self._key
        for key, seq, record in rows:
            if key != current and keyed:
                if held:
                    yield from self.rest()
                current = key
            if key is None and keyed:
                yield record
            else:
                held.append((seq, record))
        self._key = current
        if len(held) > _FEW and sum(len(record.buf) + _RECORD for _, record in held) > _HELD:
            self._spill()

    def rest(self) -> Iterator[Record]:
        """Yield what is held."""
        if self._sorter:
            self._spill()
            yield from records(self._sorter.sorted())
            self.close()
            return
        self._held.sort(key=itemgetter(0))
        for _, record in self._held:
            yield record
        self._held.clear()

    def close(self) -> None:
        """Remove the temporary files."""
        if self._sorter:
            self._sorter.close()
            self._sorter = None

    def _spill(self) -> None:
        if self._sorter is None:
            self._sorter = Sorter(["seq"], self._memory, None)
        if self._held:
            self._sorter.add(table_of([record for _, record in self._held], [seq for seq, _ in self._held]))
        self._held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

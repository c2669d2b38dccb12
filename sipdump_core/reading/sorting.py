"""Sorting more records than fit into memory: sorted runs in an anonymous temporary file, merged as they are read."""

import heapq
import marshal
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, BinaryIO, Self

import attrs

from sipdump_core.cache import Cache
from sipdump_core.errors import StorageError
from sipdump_core.record import Flow, Record
from sipdump_core.sip import call_id

__all__ = ["RecordSorter", "Sorter"]

_RUN_BYTES = 24 << 20
"""Bytes of items that are held before they go to disk as a run."""
_OVERHEAD = 400
"""Bytes of an item in memory beside those that its owner counts, measured on CPython 3.11."""
_CHUNK = 32
"""Items that are read back at once, of each run."""

_first = itemgetter(0)


class Sorter:
    """Sorts items by their keys; items of equal keys keep their order.

    An item is ``(key, value)``, made of what :mod:`marshal` knows: int, float, str, bytes, None and tuples of these.
    The file has no name and is this process's alone, so that nobody else can put anything into it.

    Args:
        run_bytes: bytes of items that may be held in memory.
    """

    def __init__(self, run_bytes: int = _RUN_BYTES) -> None:
        self._limit = run_bytes
        self._items: list[tuple[Any, Any]] = []
        self._bytes = 0
        self._file: BinaryIO | None = None
        self._runs: list[tuple[int, int]] = []
        """Where each run begins and ends in the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, key: Any, value: Any, size: int) -> None:
        """Add an item.

        Args:
            key: what it is sorted by; keys must be comparable.
            value: what comes back with it.
            size: the bytes of both, about.

        Raises:
            StorageError: the temporary folder has no room.
        """
        self._items.append((key, value))
        self._bytes += size + _OVERHEAD
        if self._bytes >= self._limit:
            self._spill()

    def sorted(self) -> Iterator[tuple[Any, Any]]:
        """Yield all items by key; each call after the last ``add`` begins from the start."""
        self._items.sort(key=_first)
        if not self._runs:
            return iter(self._items)
        runs = [self._read(*run) for run in self._runs]
        return heapq.merge(*runs, self._items, key=_first)

    def close(self) -> None:
        """Forget all."""
        self._items.clear()
        if self._file:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        self._items.sort(key=_first)
        try:
            self._runs.append(self._write(self._items))
        except OSError as error:
            raise StorageError.from_os("sort in", tempfile.gettempdir(), error) from error
        self._items.clear()
        self._bytes = 0

    def _write(self, items: Iterable[tuple[Any, Any]]) -> tuple[int, int]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="sipdump-read-")  # noqa: SIM115 - closed by close()
        begin = self._file.seek(0, 2)
        chunk: list[tuple[Any, Any]] = []
        for item in items:
            chunk.append(item)
            if len(chunk) == _CHUNK:
                self._write_chunk(chunk)
                chunk.clear()
        if chunk:
            self._write_chunk(chunk)
        return begin, self._file.seek(0, 2)

    def _write_chunk(self, chunk: list[tuple[Any, Any]]) -> None:
        assert self._file  # noqa: S101 - opened by _write
        data = marshal.dumps(chunk)
        self._file.write(len(data).to_bytes(8, "little"))
        self._file.write(data)

    def _read(self, begin: int, end: int) -> Iterator[tuple[Any, Any]]:
        assert self._file  # noqa: S101 - there are runs
        while begin < end:
            self._file.seek(begin)
            size = int.from_bytes(self._file.read(8), "little")
            yield from marshal.loads(self._file.read(size))  # noqa: S302 - our own file, without a name
            begin += 8 + size


class RecordSorter:
    """Sorts records, by time or by Call-ID and time.

    Args:
        by_call: by Call-ID first; records without one come first of all, with the key ``""``.
        run_bytes: see :class:`Sorter`.
    """

    def __init__(self, *, by_call: bool, run_bytes: int = _RUN_BYTES) -> None:
        self._sorter = Sorter(run_bytes)
        self._by_call = by_call
        self._rows: Cache[int, tuple[Flow, tuple[Any, ...]]] = Cache()
        self._flows: Cache[tuple[Any, ...], Flow] = Cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sorter.close()

    def add(self, record: Record) -> None:
        """Add a record.

        Raises:
            StorageError: the temporary folder has no room.
        """
        flow = record.flow
        # the flow is kept with its row, so that no other one gets its id
        known = self._rows.get(id(flow)) or self._rows.keep(id(flow), (flow, attrs.astuple(flow)))
        key = (call_id(record.buf) or "", record.time_us) if self._by_call else record.time_us
        self._sorter.add(key, (record.time_us, known[1], record.buf, record.correlation_id), len(record.buf))

    def sorted(self) -> Iterator[Record]:
        """Yield the records in order; those of one key keep the order in which they came."""
        for _, value in self._sorter.sorted():
            yield self._record(value)

    def calls(self) -> Iterator[list[Record]]:
        """Yield the records of each Call-ID, in the order of the Call-IDs; those without one are left out."""
        for one, items in groupby(self._sorter.sorted(), _call_id):
            if one:
                yield [self._record(value) for _, value in items]

    def _record(self, value: Any) -> Record:
        time_us, row, buf, correlation_id = value
        return Record(time_us, self._flows.get(row) or self._flows.keep(row, Flow(*row)), buf, correlation_id)


def _call_id(item: tuple[Any, Any]) -> str:
    return str(item[0][0])

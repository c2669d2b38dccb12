"""Sorting more than fits in memory: sorted runs in anonymous temporary files, merged as they are read."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["FAN_IN", "Late", "Sorter"]

FAN_IN = 32
"""So many runs are merged into a longer one, so that open files and memory stay bounded."""

_BATCHES = 2 * FAN_IN
_PIECES = 8
"""Into so many tables the rows in memory are divided when they are sorted: each has a price."""
_LATER = 2
"""How many times ``memory`` that which is added later may be: it is not in memory at once."""
_LATER_LIMIT = 1 << 30
"""Bytes of it, so that those of any rows fit into one array."""


class Late(Protocol):
    """Adds columns to rows that are sorted already."""

    def put_in(self, table: Any) -> Any:
        """Return a table with these columns; less than 2 GiB of any."""

    def clear(self) -> None:
        """Note that all rows that were added so far have them."""


class Sorter:
    """Takes tables and returns all their rows sorted.

    The order of rows with equal keys is not defined.

    Args:
        keys: names of the columns to sort by, ascending, nulls last; ``timestamp``, ``int64`` or ``string``.
        memory: bytes of one run; sorting takes about four times as much.
        folder: where the temporary files, which have no names, are made; None: the system's folder.
        late: adds to sorted rows what was not worth moving before.
    """

    def __init__(self, keys: Sequence[str], memory: int, folder: str | None, late: Late | None = None) -> None:
        self.rows = 0
        self._keys = keys
        self._memory = memory
        self._batch, self._piece = (max(1, memory // parts) for parts in (_BATCHES, _PIECES))
        self._folder = folder
        self._late = late
        self._tables: list[Any] = []
        self._bytes = self._later = 0
        self._levels: list[list[_Run]] = []

    def add(self, table: Any, later: int = 0) -> None:
        """Add a :class:`pyarrow.Table`; all must have the same schema.

        Args:
            table: the rows.
            later: bytes that ``late`` will add to them.

        Raises:
            OSError: a temporary file cannot be written.
        """
        self._tables.append(table)
        self._bytes += table.nbytes
        self._later += later
        self.rows += len(table)
        if self._bytes >= self._memory or self._later >= min(_LATER * self._memory, _LATER_LIMIT):
            self.spill()

    def spill(self) -> None:
        """Write what is in memory as a run, and release the memory.

        Raises:
            OSError: the temporary file cannot be written.
        """
        if not self._tables:
            return
        run: _Run | None = self._write(self._drain())
        level = 0
        while run is not None:
            if level == len(self._levels):
                self._levels.append([])
            runs = self._levels[level]
            runs.append(run)
            run = None
            if len(runs) == FAN_IN:
                run = self._write(self._merged(runs))
                _close(runs)
                runs.clear()
            level += 1

    def sorted(self) -> Iterator[Any]:
        """Yield the rows as tables. Afterwards the sorter can only be closed.

        Raises:
            OSError: a temporary file cannot be written or read.
        """
        if self._levels:
            self.spill()  # the caller needs the memory
            yield from self._merged([run for level in self._levels for run in level])
        elif self._tables:
            yield from self._drain()

    def parts(self) -> Iterator[Iterator[Any]]:
        """Yield the rows in the parts that are sorted each; here it is one. See ``sorted``."""
        yield self.sorted()

    @property
    def longest(self) -> int:
        """How many rows the longest part has."""
        return self.rows

    def close(self) -> None:
        """Release memory and files."""
        self._tables.clear()
        for runs in self._levels:
            _close(runs)
        self._levels.clear()

    def _drain(self) -> Iterator[Any]:
        """Return what is in memory sorted, and release the tables as they came."""
        tables, self._tables = self._tables, []
        share = self._bytes / max(1, self._bytes + self._later)
        self._bytes = self._later = 0
        found = _sorted(tables, self._keys, max(1, int(self._piece * share)))
        if self._late is None:
            yield from found
            return
        yield from map(self._late.put_in, found)
        self._late.clear()

    def _merged(self, runs: Sequence["_Run"]) -> Iterator[Any]:
        # the fewer runs, the more of each is read at once: each step has a price
        return _merge(runs, self._keys, self._piece, max(1, self._memory // (4 * len(runs))))

    def _write(self, tables: Iterator[Any]) -> "_Run":
        run = _Run(self._folder)
        try:
            for table in tables:
                run.write(table, self._batch)
            run.finish()
        except BaseException:
            run.close()
            raise
        return run


class _Run:
    """Sorted rows in a temporary file, as an Arrow IPC stream; written once, then read once, batch by batch."""

    def __init__(self, folder: str | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        # pyarrow only works without the interpreter's lock on files that it opened itself; this is the only name
        self._path = f"/proc/self/fd/{self._file.fileno()}"
        self._stream: Any = None
        self._writer: Any = None
        self._reader: Any = None
        self.rows: Any = None
        """What has been read but not yet merged, a table; None at the end."""

    def write(self, table: Any, size: int) -> None:
        """Append rows, in batches of about ``size`` bytes."""
        if self._writer is None:
            self._stream = pa.OSFile(self._path, "w")
            self._writer = pa.ipc.new_stream(self._stream, table.schema)
        self._writer.write_table(table, max(1, len(table) * size // max(1, table.nbytes)))

    def finish(self) -> None:
        """Switch from writing to reading."""
        self._writer.close()
        self._stream.close()
        self._stream = pa.OSFile(self._path, "r")
        self._file.close()
        self._reader = pa.ipc.open_stream(self._stream)

    def advance(self, size: int) -> None:
        """Read the next batches, of ``size`` bytes together."""
        batches: list[Any] = []
        read = 0
        with contextlib.suppress(StopIteration):
            while read < size:
                batches.append(self._reader.read_next_batch())
                read += batches[-1].nbytes
        self.rows = pa.Table.from_batches(batches) if batches else None

    def close(self) -> None:
        """Close the file, which frees its space."""
        if self._stream is not None:
            self._stream.close()
        self._file.close()


def _merge(runs: Sequence[_Run], keys: Sequence[str], size: int, held: int) -> Iterator[Any]:
    """Yield the rows of runs sorted, in tables of about ``size`` bytes; of each, ``held`` bytes are read at once."""
    for run in runs:
        run.advance(held)
    while True:
        runs = [run for run in runs if run.rows is not None]
        if not runs:
            return
        # nothing still unread comes before the smallest of the last keys
        bound = min(_key(run.rows, len(run.rows) - 1, keys) for run in runs)
        parts = []
        for run in runs:
            count = _first_above(run.rows, bound, keys)
            if count:
                parts.append(run.rows.slice(0, count))
                run.rows = run.rows.slice(count)
            if not len(run.rows):
                run.advance(held)
        yield from _sorted(parts, keys, size)


def _first_above(table: Any, bound: tuple[Any, ...], keys: Sequence[str]) -> int:
    """Return the index of the first row of a sorted table with a greater key; its length if there is none."""
    low, high = 0, len(table)
    while low < high:
        middle = (low + high) // 2
        if _key(table, middle, keys) <= bound:
            low = middle + 1
        else:
            high = middle
    return low


def _key(table: Any, row: int, keys: Sequence[str]) -> tuple[Any, ...]:
    """Return a row's key, which sorts as in Arrow: nulls last, text by its UTF-8 bytes, that is, by code points."""
    parts: list[Any] = []
    for name in keys:
        scalar = table.column(name)[row]
        value = scalar.value if pa.types.is_timestamp(scalar.type) else scalar.as_py()
        parts += (value is None, value)
    return tuple(parts)


def _sorted(tables: list[Any], keys: Sequence[str], size: int) -> Iterator[Any]:
    """Yield the rows of tables sorted, as tables of about ``size`` bytes; empties the list, to free memory."""
    table = pa.concat_tables(tables).combine_chunks()
    tables.clear()
    order = _order([_comparable(table[key]) for key in keys])
    rows = max(1, len(table) * size // max(1, int(table.nbytes)))
    for at in range(0, len(table), rows):
        yield table.take(order[at : at + rows])


def _order(columns: Sequence[Any]) -> Any:
    if all(map(_ascends, columns[1:])):
        return pc.sort_indices(columns[0])  # it is stable
    names = list(map(str, range(len(columns))))
    return pc.sort_indices(pa.table(columns, names), [(name, "ascending") for name in names])


def _comparable(column: Any) -> Any:
    """Return an array of the same order that is fast to compare: for text, the ranks of its values."""
    if not pa.types.is_string(column.type):
        return pa.concat_arrays(column.chunks)  # in one piece, comparing is twice as fast
    found = pa.concat_arrays(column.dictionary_encode().chunks)
    return pc.rank(found.dictionary).take(found.indices)


def _ascends(column: Any) -> bool:
    return bool(pc.all(pc.less_equal(column[:-1], column[1:])).as_py())


def _close(runs: Sequence[_Run]) -> None:
    for run in runs:
        run.close()

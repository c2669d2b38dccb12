"""Parquet files without some of their records: rows are filtered by their Call-IDs, and keep the file's order."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sipdump_core.drivers.rewriting import Change, Rewritten
from sipdump_parquet.compaction import options_of
from sipdump_parquet.files import batches, check_columns, columns, make, pairs, translated
from sipdump_parquet.options import ParquetOptions
from sipdump_parquet.table import Builder, records

__all__ = ["rewrite"]

_OWN_KEYS = ("sipdump.schema", "sipdump.headers", "sipdump.correlate", "sipdump.version", "ARROW:schema")
"""Keys in the metadata that whoever writes a file sets."""


def rewrite(file: BinaryIO, draft: str, options: ParquetOptions, change: Change) -> Rewritten:
    """Write what a change makes of a file into a new one.

    Args:
        file: the file.
        draft: the path of the new one; there is none where nothing is left, or nothing changes.
        options: of the new file, but for the columns, which are those of the old one.
        change: what becomes of its records.

    Raises:
        ContentError: it is no Parquet file, or damaged.
        StorageError: it cannot be read, or the new one cannot be written.
    """
    path = str(file.name)
    with translated("rewrite", path):
        found = pq.read_metadata(file)
        check_columns(columns(found.schema.to_arrow_schema()), path)
        extra = {key: value for key, value in pairs(found).items() if key not in _OWN_KEYS}
        rows = _Rows(file, options_of(file, options), change, found.num_rows)
        rows.look()
        if rows.left and rows.done.changed:
            make(draft, rows, rows.options, extra, mode=0o600, modified_ns=0)
        return rows.done


class _Rows:
    """The rows that are left, in the file's order."""

    def __init__(self, file: BinaryIO, options: ParquetOptions, change: Change, rows: int) -> None:
        self.options = options
        self.done = Rewritten()
        self.longest = rows
        self._file = file
        self._change = change
        self._builder = Builder(options)
        self._ids = pa.array(sorted(change.call_ids), pa.string())

    @property
    def left(self) -> int:
        """How many rows the new file has."""
        return self.done.kept + self.done.masked

    rows = left

    def look(self) -> None:
        """Count what becomes of the rows, so that nothing is written where nothing changes."""
        kept = removed = masked = 0
        for table in self._tables():
            taken = self._taken(table)
            count = pc.sum(taken).as_py() or 0
            kept += len(table) - count
            if self._change.mask:
                after = [self._change.apply(record) for record in records(iter([table.filter(taken)]))]
                masked += sum(each is not None for each in after)
                removed += sum(each is None for each in after)
            else:
                removed += count
        self.done = Rewritten(kept, removed, masked)

    def parts(self) -> Iterator[Iterator[Any]]:
        """Yield the rows that are left; they are one part."""
        yield self._left()

    def _left(self) -> Iterator[Any]:
        for table in self._tables():
            taken = self._taken(table)
            if not self._change.mask or not pc.any(taken).as_py():
                yield table.filter(pc.invert(taken))
                continue
            yield self._masked(table, taken)

    def _tables(self) -> Iterator[Any]:
        self._file.seek(0)
        for table in batches(self._file, self.options.memory // 8):
            yield self._builder.completed(table)

    def _taken(self, table: Any) -> Any:
        """Return for each row whether it is taken out or masked."""
        change = self._change
        if "call_id" not in table.schema.names:
            return pa.array([change.takes(record) for record in records(iter([table]))], pa.bool_())
        column = table["call_id"]
        named = pc.is_in(column, value_set=self._ids)
        missing = pc.is_null(column)
        if change.also and pc.any(missing).as_py():
            answers = iter([change.also(record) for record in records(iter([table.filter(missing)]))])
            both = zip(missing.to_pylist(), named.to_pylist(), strict=True)
            named = pa.array([next(answers) if lacks else one for lacks, one in both])
        return pc.invert(named) if change.others else named

    def _masked(self, table: Any, taken: Any) -> Any:
        """Return a table with the rows masked that are to be; all that is drawn from a message is drawn anew."""
        places = pc.indices_nonzero(taken)
        before = table.take(places)
        after = [self._change.apply(record) for record in records(iter([before]))]
        left = pa.array([each is not None for each in after], pa.bool_())
        messages = [each.buf for each in after if each is not None]
        fresh = self._builder.renewed(before.filter(left), messages)
        stayed = pc.invert(taken)
        order = pa.chunked_array([pc.indices_nonzero(stayed), places.filter(left)])
        return pa.concat_tables([table.filter(stayed), fresh]).take(pc.sort_indices(order))

"""Finding records in a Parquet file: row groups by their statistics and bloom filters, rows by columns, ``buf`` last.

Columns narrow: what they leave is decided by the question itself, on the record. So a condition on a column may accept
too many rows, but never too few; where a file lacks the columns for one, it is left out.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, starmap
from operator import itemgetter
from typing import Any, BinaryIO

import attrs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sipdump_core.cache import Cache
from sipdump_core.drivers.query import Query
from sipdump_core.record import Flow, Record
from sipdump_parquet.conditions import Condition, conditions, within
from sipdump_parquet.files import check_columns, columns, translated
from sipdump_parquet.ordering import Ordered
from sipdump_parquet.pages import Bloom, Page, UnusualError, messages, page_locations, xxh64
from sipdump_parquet.table import FLOW_COLUMNS, Flows, encoded, integers, record_heads

__all__ = ["Footer", "search", "since"]

_DICTIONARIES = ("call_id", "method", "user_agent", "src_ip", "dst_ip")
"""Columns that are read as dictionaries beside those that the schema has as such: their conditions look at each value
once."""
_CORRELATION = "correlation.list.element"
_LAST = "\U0010ffff"
"""Comes behind every other character."""
_MOST_HASHED = 64
"""Call-IDs; for more in one row group, its bloom filter is not asked."""
_FEW_NEEDLES = 8
_ROWS = 1 << 10
"""Rows whose messages are read at once where pages cannot be read by themselves."""

_AT_ONCE = 1 << 16
"""Rows whose columns are made into Python's values at once."""

Values = tuple[int, list[bytes]]
"""See :func:`sipdump_parquet.pages.messages`."""
Rows = Iterable[tuple[str | None, int, Record]]
"""Call-ID, ``seq`` and record of each."""


@attrs.define
class Footer:
    """What a file's end says, kept for the next question."""

    metadata: Any
    """A :class:`pyarrow.parquet.FileMetaData`."""
    pages: Sequence[Sequence[Page]] | None = None
    """Where the pages of ``buf`` are, once that was asked; empty: pages cannot be read by themselves."""

    @classmethod
    def of(cls, file: BinaryIO) -> "Footer":
        """Read it."""
        file.seek(0)
        return cls(pq.read_metadata(file))


def search(file: BinaryIO, query: Query, memory: int, footer: Footer | None = None) -> Iterator[Record]:
    """Yield the records of a file that are an answer, those of one call in the order of their arrival.

    Args:
        file: an open file; only what is needed is read of it.
        query: the question.
        memory: bytes that sorting may take, where it cannot be done call by call.
        footer: the file's, if it is known.

    Raises:
        StorageError: it cannot be read, or lacks a column that every record needs.
    """
    path = str(getattr(file, "name", "?"))
    with translated("read", path):
        reader = _Reader(file, footer or Footer.of(file), path)
        with Ordered(memory, keyed=reader.sorted) as ordered:
            for rows in reader.rows(conditions(query, reader.names), query):
                # a question that asks nothing is what a whole file is read with
                yield from ordered.add(rows if query == Query() else (row for row in rows if query.matches(row[2])))
            yield from ordered.rest()


def since(file: BinaryIO, seq: int, count: int, footer: Footer | None = None) -> list[Record]:
    """Return a file's records whose ``seq`` is at least a number, in order, and at most so many of them.

    Raises:
        StorageError: it cannot be read, or lacks a column that every record needs.
    """
    path = str(getattr(file, "name", "?"))
    with translated("read", path):
        reader = _Reader(file, footer or Footer.of(file), path)
        batches = reader.rows([within("seq", seq, seq + count)], Query())
        found = sorted(chain.from_iterable(batches), key=itemgetter(1))
        return [record for _, _, record in found]


class _Reader:
    """Reads chosen rows of a file."""

    def __init__(self, file: BinaryIO, footer: Footer, path: str) -> None:
        self._file = file
        self._footer = footer
        self._metadata = footer.metadata
        leaves = [self._metadata.schema.column(at).path for at in range(self._metadata.num_columns)]
        self._leaf = {name: at for at, name in enumerate(leaves)}
        file.seek(0)
        self._parquet = pq.ParquetFile(
            file,
            metadata=self._metadata,
            read_dictionary=[name for name in _DICTIONARIES if name in self._leaf],
            pre_buffer=getattr(file, "remote", False),
            page_checksum_verification=True,
        )
        self.names = columns(self._parquet.schema_arrow)
        check_columns(self.names, path)
        self._heads = [
            name for name in ("seq", "time", "call_id", "correlation_id", *FLOW_COLUMNS) if name in self.names
        ]
        self._flows: Flows = Cache()

    @property
    def sorted(self) -> bool:
        """Whether the rows of a call lie side by side, also across row groups."""
        if "call_id" not in self._leaf:
            return False
        highest = ""
        for number in range(self._metadata.num_row_groups):
            group = self._metadata.row_group(number)
            order = group.sorting_columns
            found = self._bounds(number, "call_id")
            if not order or order[0].column_index != self._leaf["call_id"] or (found and found[0] < highest):
                return False
            highest = found[1] if found else highest
        return True

    def rows(self, wanted: Sequence[Condition], query: Query) -> Iterator[Rows]:
        """Yield the rows for which conditions hold, in the file's order, some at a time."""
        ids = sorted(query.call_ids)
        needles = query.needles if len(query.needles) <= _FEW_NEEDLES and not query.correlations else ()
        for number in range(self._metadata.num_row_groups):
            group = self._metadata.row_group(number)
            if ids and not self._may_hold(number, ids):
                continue
            if query.correlations and not self._may_link(number, query.correlations):
                continue
            if not all(self._overlaps(number, each) for each in wanted):
                continue
            chosen = self._chosen(number, wanted, group.num_rows)
            if chosen:
                yield from self._read(number, chosen, needles)

    def _bounds(self, number: int, column: str) -> tuple[Any, Any] | None:
        """Return the lowest and the highest value of a row group, if its statistics have them."""
        found = self._metadata.row_group(number).column(self._leaf[column]).statistics
        if found is None or not found.has_min_max:
            return None
        return (found.min_raw, found.max_raw) if column == "time" else (found.min, found.max)

    def _overlaps(self, number: int, condition: Condition) -> bool:
        """Return whether a condition can hold in a row group."""
        low, high = condition.bounds
        if low is None and high is None:
            return True
        found = self._bounds(number, condition.columns[0])
        return found is None or not ((low is not None and found[1] < low) or (high is not None and found[0] > high))

    def _may_hold(self, number: int, ids: Sequence[str]) -> bool:
        """Return whether a row group may hold one of some Call-IDs, which are sorted."""
        if "call_id" not in self._leaf:
            return True
        bounds = self._bounds(number, "call_id")
        if bounds:
            ids = ids[bisect_left(ids, bounds[0]) : bisect_right(ids, bounds[1])]
        offset = self._metadata.row_group(number).column(self._leaf["call_id"]).bloom_filter_offset
        if offset is None or not ids or len(ids) > _MOST_HASHED:
            return bool(ids)
        try:
            bloom = Bloom(self._file, offset)
        except UnusualError:
            return True
        return any(bloom.may_hold(xxh64(each.encode())) for each in ids)

    def _may_link(self, number: int, values: Iterable[str]) -> bool:
        """Return whether a row group may hold what names one of some values, in its Call-ID or elsewhere."""
        named, bounds = self._leaf.get(_CORRELATION), None
        if named is not None and "call_id" in self._leaf:
            chunk = self._metadata.row_group(number).column(named)
            found = chunk.statistics
            if found is not None and found.has_null_count and found.null_count == chunk.num_values:
                bounds = self._bounds(number, "call_id")
        if bounds is None:
            return True
        # a Call-ID with a suffix begins with what is before the @ of the one without
        begins = [value.partition("@")[0] for value in values]
        return any(begin <= bounds[1] and begin + _LAST >= bounds[0] for begin in begins)

    def _chosen(self, number: int, wanted: Sequence[Condition], count: int) -> Sequence[int]:
        """Return which rows of a row group meet all conditions, by its columns."""
        mask = None
        for each in wanted:
            held = each.test(self._table(number, each.columns))
            mask = held if mask is None else pc.and_(mask, held)
            if not pc.any(mask).as_py():
                return ()
        return range(count) if mask is None else pc.indices_nonzero(mask).to_pylist()

    def _read(self, number: int, rows: Sequence[int], needles: Sequence[bytes]) -> Iterator[Rows]:
        """Yield rows of a row group, page by page."""
        columns = self._table(number, self._heads)
        for first in range(0, len(rows), _AT_ONCE):
            some = rows[first : first + _AT_ONCE]
            keys, seqs, times, flows, links = self._made(columns, some)
            at = 0
            for done, values in self._messages(number, some, needles):
                if values:
                    part = slice(at, done)
                    heads = zip(times[part], flows[part], values, links[part], strict=True)
                    yield zip(keys[part], seqs[part], starmap(Record, heads), strict=True)
                at = done

    def _made(
        self, columns: Any, rows: Sequence[int]
    ) -> tuple[list[str | None], list[int], list[int], list[Flow], list[str]]:
        """Return what rows have beside ``buf``: Call-IDs, ``seq``, times, flows and correlation ids."""
        if len(rows) == rows[-1] - rows[0] + 1:
            table = columns.slice(rows[0], len(rows))
        else:
            table = columns.take(pa.array(rows, pa.int64()))
        keys: list[str | None] = [""] * len(rows)
        if "call_id" in self.names:
            texts, indexes = encoded(table["call_id"])
            values = [*texts.to_pylist(), None]
            keys = list(map(values.__getitem__, indexes.fill_null(len(texts)).to_pylist()))
        return keys, integers(table["seq"]), *record_heads(table, self._flows)

    def _messages(self, number: int, rows: Sequence[int], needles: Sequence[bytes]) -> Iterator[Values]:
        """Yield values of ``buf``, as :func:`sipdump_parquet.pages.messages` does; all is read where that cannot."""
        if self._footer.pages is None:
            try:
                self._footer.pages = page_locations(self._file, self._leaf["buf"])
            except UnusualError:
                self._footer.pages = ()
        done = 0
        if self._footer.pages:
            found = messages(
                self._file,
                self._footer.pages[number],
                rows,
                self._metadata.row_group(number).column(self._leaf["buf"]).compression,
                nullable=self._metadata.schema.column(self._leaf["buf"]).max_definition_level > 0,
                wanted=lambda raw: not needles or any(needle in raw for needle in needles),
            )
            try:
                for done, values in found:
                    yield done, values
            except UnusualError:
                self._footer.pages = ()
        if done < len(rows):
            yield from self._all_messages(number, rows, done)

    def _all_messages(self, number: int, rows: Sequence[int], done: int) -> Iterator[Values]:
        first = 0
        self._file.seek(0)
        with pq.ParquetFile(self._file, buffer_size=1 << 20, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(_ROWS, row_groups=[number], columns=["buf"], use_threads=False):
                upto = done
                while upto < len(rows) and rows[upto] < first + len(batch):
                    upto += 1
                if upto > done:
                    yield upto, batch.column(0).take(pa.array([row - first for row in rows[done:upto]])).to_pylist()
                done, first = upto, first + len(batch)

    def _table(self, number: int, names: Iterable[str]) -> Any:
        wanted = list(names)
        return self._parquet.read_row_group(number, columns=wanted, use_threads=False)

"""Arrow tables of records: their schema, made from frames of the write-ahead file, and made into records again."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sipdump_core.cache import Cache
from sipdump_core.pipeline.journal import Columns, parse_flow
from sipdump_core.record import Flow, Record
from sipdump_parquet.fields import FIELDS
from sipdump_parquet.native import best_puller
from sipdump_parquet.options import ParquetOptions

__all__ = [
    "DICTIONARY", "FLOW_COLUMNS", "TYPES", "Builder", "Flows", "file_schema", "finished", "integers", "record_heads",
    "records", "run_schema", "table_of", "encoded",
]  # fmt: skip

TYPES: dict[str, Any] = {
    "seq": pa.int64(),
    "time": pa.timestamp("us", "UTC"),
    "tag": pa.string(),
    "pid": pa.int32(),
    "procno": pa.int32(),
    "proto": pa.string(),
    "af": pa.string(),
    "src_ip": pa.string(),
    "src_port": pa.int32(),
    "dst_ip": pa.string(),
    "dst_port": pa.int32(),
    "node": pa.string(),
    "call_id": pa.string(),
    "method": pa.string(),
    "status": pa.int32(),
    "cseq": pa.int64(),
    "cseq_method": pa.string(),
    "from_user": pa.string(),
    "to_user": pa.string(),
    "user_agent": pa.string(),
    "from_tag": pa.string(),
    "to_tag": pa.string(),
    "request_uri_user": pa.string(),
    "via_branch": pa.string(),
    "correlation": pa.list_(pa.string()),
    "correlation_id": pa.string(),
    "buf": pa.binary(),
}
"""The columns of every file and their types; a header's own column is a string.

Spark reads neither unsigned 64-bit integers nor nanoseconds as such.
"""

DICTIONARY = ("tag", "proto", "af", "node")
"""Columns with few different values, which are dictionaries in the file's schema."""

_TEXT = pa.string()
_LINES = pa.dictionary(pa.int32(), pa.string())
FLOW_COLUMNS = ("tag", "pid", "procno", "proto", "af", "src_ip", "src_port", "dst_ip", "dst_port", "node")
# for a column that a file lacks
_ABSENT = {"tag": "", "proto": "none", "pid": 0, "procno": 0, "src_port": 0, "dst_port": 0, "node": ""}
_UNSPECIFIED = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 - an address in a record, nothing is bound to it
_BINARY_LIMIT = 1 << 31


def run_schema(columns: Sequence[str]) -> Any:
    """Return the schema of tables in memory (:class:`pyarrow.Schema`)."""
    return pa.schema([(name, TYPES.get(name, _TEXT)) for name in columns])


def file_schema(columns: Sequence[str]) -> Any:
    """Return the schema of a file (:class:`pyarrow.Schema`)."""
    return pa.schema([(name, _LINES if name in DICTIONARY else TYPES.get(name, _TEXT)) for name in columns])


class Builder:
    """Makes tables of a journal's frames, column by column; only the fields are pulled out record by record.

    The columns of the flow are a single one at first, ``flow``: a dictionary of the journal's lines, so that they are
    not sorted one by one. :func:`finished` makes the file's columns of it.

    Args:
        options: which columns, in which order.
    """

    def __init__(self, options: ParquetOptions) -> None:
        self.columns = names = options.names
        others = [name for name in names if name not in FLOW_COLUMNS]
        self.schema = run_schema(others)
        if len(others) < len(names):
            self.schema = self.schema.append(pa.field("flow", _LINES))
        self.pulled = [name for name in names if name in FIELDS or name in options.own]
        self._puller = best_puller(options.own, options.correlate)

    def table(self, columns: Columns, first: int) -> Any:
        """Return a journal's records, of less than 2 GiB, as a :class:`pyarrow.Table`.

        Args:
            columns: the records.
            first: ``seq`` of the first one.
        """
        payload, count = columns.payload, len(columns.times)
        offsets = list(accumulate(columns.lengths, initial=columns.base))
        indexes = _of_buffers(pa.int32(), count, columns.indexes)
        # lone surrogates have no place in UTF-8
        ids = [each.encode("utf-8", "replace").decode() or None for each in columns.correlation_ids]
        made = {
            "seq": pa.arange(first, first + count),
            "time": _of_buffers(TYPES["time"], count, columns.times),
            "buf": _of_buffers(TYPES["buf"], count, array("i", offsets), payload),
            "flow": pa.DictionaryArray.from_arrays(indexes, pa.array(columns.lines, pa.string())),
        }
        if self.pulled:
            made |= self._fields(payload, offsets, self.pulled, ids)
        made["correlation_id"] = pa.array(ids or [None] * count, _TEXT)
        return pa.table([made[name] for name in self.schema.names], schema=self.schema)

    def completed(self, table: Any) -> Any:
        """Add the columns that a table read from a file lacks: fields are pulled out of ``buf``, others are null.

        Files of another schema version, or written with other options, lack some.
        """
        names = table.schema.names
        lacking = [name for name in self.pulled if name not in names]
        made = {name: table[name] for name in names}
        if lacking and "buf" in names:
            messages = table["buf"].to_pylist()
            made |= self._fields(b"".join(messages), list(accumulate(map(len, messages), initial=0)), lacking)
        schema = run_schema(self.columns)
        return pa.table([made.get(each.name, pa.nulls(len(table), each.type)) for each in schema], schema=schema)

    def renewed(self, table: Any, messages: Sequence[bytes]) -> Any:
        """Return a file's table with other messages, and all that is pulled out of them."""
        names = table.schema.names
        made = {name: table[name] for name in names}
        made["buf"] = pa.array(messages, TYPES["buf"])
        pulled = [name for name in self.pulled if name in names]
        if pulled and messages:
            ids = table["correlation_id"].to_pylist() if "correlation_id" in names else ()
            offsets = list(accumulate(map(len, messages), initial=0))
            made |= self._fields(b"".join(messages), offsets, pulled, ids)
        return pa.table([made[name] for name in names], schema=table.schema)

    def _fields(
        self, payload: bytes, offsets: Sequence[int], names: Sequence[str], correlation_ids: Sequence[str | None] = ()
    ) -> dict[str, Any]:
        pulled = self._puller.pull(payload, offsets)
        if correlation_ids:
            found = zip(correlation_ids, pulled["correlation"], strict=True)
            pulled["correlation"] = [
                list(dict.fromkeys([one, *(values or ())])) if one else values for one, values in found
            ]
        return {name: _array(pulled[name], TYPES.get(name, _TEXT)) for name in names}


def _array(values: Any, kind: Any) -> Any:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def finished(table: Any, schema: Any) -> Any:
    """Return a table with the columns of the file (:class:`pyarrow.Table`).

    Args:
        table: from a :class:`Builder`, or with a file's columns.
        schema: the file's.
    """
    made = {name: table[name] for name in table.schema.names}
    if "flow" in made:
        lines = made["flow"].unify_dictionaries().combine_chunks()
        made |= _flow_columns([parse_flow(line) for line in lines.dictionary.to_pylist()], lines.indices)
    return pa.table([_of_type(made[name], schema.field(name).type) for name in schema.names], schema=schema)


def _flow_columns(flows: Sequence[Flow], indexes: Any) -> dict[str, Any]:
    made = {}
    for name in FLOW_COLUMNS:
        values = [getattr(flow, name) for flow in flows]
        if name in ("pid", "procno"):  # any integer is possible
            values = [value if -_BINARY_LIMIT <= value < _BINARY_LIMIT else None for value in values]
        column = pa.array(values, TYPES[name])
        if TYPES[name] == pa.string():
            column = column.dictionary_encode()
        made[name] = column.take(indexes)
    return made


def _of_type(column: Any, kind: Any) -> Any:
    if column.type == kind:
        return column
    return column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)


def records(tables: Iterator[Any]) -> Iterator[Record]:
    """Yield the records of tables; what is in no column is left empty.

    Raises:
        ValueError: a record cannot have such a value.
    """
    flows: Flows = Cache()
    for table in tables:
        heads = zip(*record_heads(table, flows), strict=True)
        for (time_us, flow, correlation_id), buf in zip(heads, table["buf"].to_pylist(), strict=True):
            yield Record(time_us, flow, buf, correlation_id)


Flows = Cache[tuple[Any, ...], Flow]


def record_heads(table: Any, flows: Flows) -> tuple[list[int], list[Flow], list[str]]:
    """Return what the records of a table have beside ``buf``: times, flows and correlation ids.

    Args:
        table: with columns of a file; what is in none is left empty.
        flows: those that are known, by their columns' values.

    Raises:
        ValueError: a record cannot have such a value.
    """
    count = len(table)
    names = table.schema.names
    known = [name for name in FLOW_COLUMNS if name in names]
    shared, indexes = _distinct([table[name] for name in known], count)
    found = []
    for values in shared:
        by_name: dict[str, Any] = {**_ABSENT, **dict(zip(known, values, strict=True))}
        key: tuple[Any, ...] = tuple(map(by_name.get, FLOW_COLUMNS))
        flow = flows.get(key)
        found.append(flows.keep(key, _flow(*key)) if flow is None else flow)
    ids = [""] * count
    if "correlation_id" in names and table["correlation_id"].null_count < count:
        ids = [each or "" for each in table["correlation_id"].to_pylist()]
    return integers(table["time"]), list(map(found.__getitem__, indexes)), ids


def table_of(batch: Sequence[Record], seqs: Sequence[int]) -> Any:
    """Return records as a table that :func:`records` reads, with their ``seq``."""
    made = {
        "seq": pa.array(seqs, TYPES["seq"]),
        "time": pa.array([record.time_us for record in batch], pa.int64()).cast(TYPES["time"]),
        "buf": pa.array([record.buf for record in batch], TYPES["buf"]),
        "correlation_id": pa.array([record.correlation_id for record in batch], _TEXT),
    }
    for name in FLOW_COLUMNS:
        made[name] = pa.array([getattr(record.flow, name) for record in batch], TYPES[name])
    return pa.table(made)


def integers(column: Any) -> list[int]:
    """Return the values of a chunked array of 64-bit integers or of times, without nulls."""
    return [value for chunk in column.chunks for value in _native(chunk)]


def encoded(column: Any) -> tuple[Any, Any]:
    """Return the different values of a chunked array, and for each row the index of its own, null for null; arrays."""
    dictionary = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    whole = dictionary.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], dictionary.type)
    return whole.dictionary, whole.indices


def _distinct(columns: Sequence[Any], count: int) -> tuple[list[tuple[Any, ...]], list[int]]:
    """Return the different rows of columns, and for each row the index of its own.

    Values are boxed once for each different row only: flows come again and again.
    """
    rows: list[tuple[Any, ...]] = [()]
    indexes = pa.nulls(count, pa.int64()).fill_null(0)
    for column in columns:
        found, own = encoded(column)
        values = [*found.to_pylist(), None]
        width = len(values)
        own = own.cast(pa.int64()).fill_null(width - 1)
        mixed = pc.add(pc.multiply(indexes, width), own).dictionary_encode()
        rows = [(*rows[each // width], values[each % width]) for each in _native(mixed.dictionary)]
        indexes = mixed.indices.cast(pa.int64())
    return rows, _native(indexes)


def _native(values: Any) -> list[int]:
    """Return the integers, of 64 bits, of an array without nulls, or its times, from the buffer."""
    _, data = values.buffers()
    return memoryview(data).cast("q")[values.offset : values.offset + len(values)].tolist() if len(values) else []


def _flow(
    tag: str, pid: int | None, procno: int | None, proto: str, af: str | None,
    src_ip: str | None, src_port: int, dst_ip: str | None, dst_port: int, node: str,
) -> Flow:  # fmt: skip
    af = af or ("ipv6" if ":" in f"{src_ip}{dst_ip}" else "ipv4")
    src_ip, dst_ip = src_ip or _UNSPECIFIED[af], dst_ip or _UNSPECIFIED[af]
    return Flow(tag, pid or 0, procno or 0, proto, af, src_ip, src_port, dst_ip, dst_port, node)


def _of_buffers(kind: Any, count: int, *buffers: Any) -> Any:
    """Make an array of buffers without copying them."""
    return pa.Array.from_buffers(kind, count, [None, *map(pa.py_buffer, buffers)])

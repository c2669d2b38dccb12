"""Parquet files: how one is written, checked, published, and read."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.folder import RECORDS_XATTR, open_regular
from sipdump_core.errors import StorageError
from sipdump_core.ownership import is_ours
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.version import VERSION
from sipdump_parquet.errors import ContentError
from sipdump_parquet.options import FIRST_COLUMNS, WAL_SUFFIX, ParquetOptions
from sipdump_parquet.sort import Sorter
from sipdump_parquet.table import TYPES, file_schema, finished, records, run_schema

__all__ = [
    "CORRELATE", "HEADERS", "SCHEMA", "batches", "check_columns", "columns", "decode", "free_draft",
    "make", "metadata", "newest", "pairs", "publish", "rows_of", "translated",
]  # fmt: skip

SCHEMA, HEADERS, CORRELATE = "sipdump.schema", "sipdump.headers", "sipdump.correlate"
"""Keys in the metadata: the version of the columns; as JSON, the headers that have a column of their own, by its name,
and those that go into ``correlation`` by option."""

_PAGE_SIZE = 1 << 20
_ENCODINGS = {
    **dict.fromkeys(("seq", "time"), "DELTA_BINARY_PACKED"),
    # nearly every call has other values, and a call's rows lie side by side: a dictionary would be larger
    **dict.fromkeys(
        ("from_user", "to_user", "from_tag", "to_tag", "request_uri_user", "via_branch"), "DELTA_BYTE_ARRAY"
    ),
}
_MESSAGES_A_CALL = 2
"""At least a request and its reply: the bloom filter is made for so many times fewer Call-IDs than rows."""


@contextlib.contextmanager
def translated(operation: str, path: str) -> Iterator[None]:
    """Translate what the system and pyarrow raise, for the whole backend."""
    try:
        yield
    except MemoryError as error:
        raise StorageError(operation, path, "out of memory", 'lower modparam("sipdump_parquet", "memory")') from error
    except OSError as error:  # pyarrow's own ArrowIOError is one
        raise StorageError.from_os(operation, path, error) from error
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ContentError(operation, path, f"{type(error).__name__}: {error}") from error


class Rows(Protocol):
    """The rows of a file."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def longest(self) -> int:
        """How many the longest part has."""

    def parts(self) -> Iterator[Iterator[Any]]:
        """Yield parts, each as tables in the order of the file's keys; a row group has rows of one part."""


def make(
    path: str, rows: Rows, options: ParquetOptions, extra: Mapping[str, str], *, mode: int, modified_ns: int
) -> None:
    """Write a whole Parquet file, durable and checked; if that fails, there is none.

    Args:
        path: where to; there must not be a file yet.
        rows: what the file will contain.
        options: compression, columns, and the limits of a row group.
        extra: key-value metadata in addition to the versions of the schema and of the writer.
        mode: permission bits, whatever the umask.
        modified_ns: when the last record was written, in nanoseconds since the epoch. It becomes the file's time,
            from which retention counts.

    Raises:
        OSError: the file cannot be written.
        ContentError: what was written lacks rows.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb", buffering=1 << 20) as file:
            os.fchmod(fd, mode)
            _write(file, rows, options, extra)
            file.flush()
            with contextlib.suppress(OSError):  # not every file system has extended attributes
                os.setxattr(fd, RECORDS_XATTR, str(rows.rows).encode())
            os.utime(fd, ns=(modified_ns, modified_ns))
            os.fsync(fd)
        _check(path, rows.rows)
    except BaseException:
        os.unlink(path)
        raise


def free_draft(path: str) -> str:
    """Remove what a crash has left of a draft, and return its path, or the next one that no stranger has taken."""
    for number in itertools.count():
        draft = path + (f"-{number}" if number else "")
        if is_ours(draft):
            os.unlink(draft)
        if not os.path.lexists(draft):
            return draft
    raise AssertionError  # count() does not end


def metadata(path: str) -> tuple[int, dict[str, str]]:
    """Read from a file's end how many rows it has, and its key-value metadata.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no Parquet file.
    """
    with open_regular(path) as file:
        found = pq.read_metadata(file)
    return found.num_rows, pairs(found)


def rows_of(file: BinaryIO) -> int:
    """Read from an open file's end how many rows it has.

    Raises:
        ContentError: it is no Parquet file.
    """
    with translated("read", str(getattr(file, "name", "?"))):
        file.seek(0)
        return int(pq.read_metadata(file).num_rows)


def newest(found: Any) -> int | None:
    """Return the latest time of a :class:`pyarrow.parquet.FileMetaData`, in µs; None where a row group has none."""
    times = []
    for group in range(found.num_row_groups):
        columns = map(found.row_group(group).column, range(found.num_columns))
        chunk = next((each for each in columns if each.path_in_schema == "time"), None)
        if chunk is None or chunk.statistics is None or not chunk.statistics.has_min_max:
            return None
        times.append(int(chunk.statistics.max_raw))
    return max(times, default=None)


def pairs(found: Any) -> dict[str, str]:
    """Return the key-value metadata of a :class:`pyarrow.parquet.FileMetaData` as text."""
    return {str(key, "utf-8"): str(value, "utf-8", "replace") for key, value in (found.metadata or {}).items()}


def publish(draft: str, segment: Segment, site: Site, *, own: bool = False) -> str:
    """Link a finished file to the name of a segment, or to the next one that is free.

    Args:
        draft: the file's path.
        segment: the first name to try.
        site: the folder.
        own: a write-ahead file of ``segment`` is the caller's own.

    Returns:
        The path under the new name.

    Raises:
        StorageError: it cannot be linked.
    """
    while True:
        path = os.path.join(site.folder, segment.name)
        try:
            os.link(draft, path)
            if own or not is_ours(os.path.join(site.folder, segment.stem + WAL_SUFFIX)):
                return path
            os.unlink(path)  # another process writes a segment of this name
        except FileExistsError:
            pass
        except OSError as error:
            raise StorageError.from_os("publish", path, error) from error
        own = False
        segment = segment.next()


def columns(schema: Any) -> list[str]:
    """Return the names of a file's columns, from its :class:`pyarrow.Schema`, that the backend can have written."""
    return [field.name for field in schema if field.name in TYPES or pa.types.is_string(field.type)]


def batches(file: BinaryIO, memory: int) -> Iterator[Any]:
    """Read a file's rows as tables of at most about ``memory`` bytes, in the file's order."""
    # with a buffer, column chunks are read page by page; without one, as a whole
    with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as parquet:
        names = columns(parquet.schema_arrow)
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group)
            rows = max(1, size.num_rows * memory // max(1, size.total_byte_size))
            for batch in parquet.iter_batches(min(rows, 1 << 16), row_groups=[group], columns=names, use_threads=False):
                yield pa.Table.from_batches([batch]).cast(run_schema(names))


def decode(file: BinaryIO, memory: int) -> Iterator[Record]:
    """Yield a file's records in the order of their arrival.

    Raises:
        StorageError: it cannot be read, or lacks a column that every record needs.
    """
    path = str(getattr(file, "name", "?"))
    sorter = Sorter(["seq"], memory, None)
    try:
        with translated("read", path):
            check_columns(pq.read_schema(file).names, path)
            file.seek(0)
            for table in batches(file, memory // 8):
                sorter.add(table)
            yield from records(sorter.sorted())
    finally:
        sorter.close()


def check_columns(names: Sequence[str], path: str) -> None:
    """Check that records can be read back from a file with these columns.

    Raises:
        ContentError: it lacks a column that every record needs.
    """
    missing = {"seq", "time", "buf"}.difference(names)
    if missing:
        why = f"it has no column {', '.join(sorted(missing))}"
        raise ContentError("read", path, why, "records can be read back only from files with seq, time and buf")


def _write(file: BinaryIO, rows: Rows, options: ParquetOptions, extra: Mapping[str, str]) -> None:
    schema = file_schema(options.names)
    encodings = {name: kind for name, kind in _ENCODINGS.items() if name in options.names}
    leaves = ["correlation.list.element" if name == "correlation" else name for name in options.names if name != "buf"]
    with pq.ParquetWriter(
        file,
        schema,
        compression=options.compression,
        compression_level=options.compression_level,
        use_dictionary=[name for name in leaves if name not in encodings],
        column_encoding=encodings,
        write_statistics=leaves,
        write_page_index=True,
        write_page_checksum=True,
        data_page_size=_PAGE_SIZE,
        bloom_filter_options=_bloom_filter(options, rows.longest),
        sorting_columns=[pq.SortingColumn(options.names.index(key)) for key in options.keys],
    ) as writer:
        for part in rows.parts():
            for table in _row_groups(part, options):
                writer.write_table(finished(table, schema), row_group_size=len(table))
        writer.add_key_value_metadata({**_described(options), "sipdump.version": VERSION, **extra})


def _described(options: ParquetOptions) -> dict[str, str]:
    described = {SCHEMA: "1" if set(options.names).issubset(FIRST_COLUMNS) else "2"}
    if options.own:
        described[HEADERS] = json.dumps(options.own)
    if options.correlate:
        described[CORRELATE] = json.dumps(options.correlate)
    return described


def _check(path: str, rows: int) -> None:
    """Read the file's end again."""
    found, _ = metadata(path)
    if found != rows:
        raise ContentError("check", path, f"it has {found} rows of {rows}")


def _bloom_filter(options: ParquetOptions, rows: int) -> dict[str, Any] | None:
    if "call_id" not in options.names:
        return None
    distinct = max(1, min(rows, options.row_group_records) // _MESSAGES_A_CALL)
    return {"call_id": {"ndv": distinct, "fpp": 0.01}}


def _row_groups(tables: Iterator[Any], options: ParquetOptions) -> Iterator[Any]:
    """Regroup tables into one for each row group: as many rows as asked for, if they fit in memory."""
    gathered: list[Any] = []
    rows = size = 0
    for whole in tables:
        table = whole
        while len(table):
            fit = len(table) * (options.memory - size) // max(1, table.nbytes)
            count = min(fit, options.row_group_records - rows)
            if count <= 0 and gathered:
                yield pa.concat_tables(gathered)
                gathered, rows, size = [], 0, 0
                continue
            part = table.slice(0, max(1, count))
            table = table.slice(len(part))
            gathered.append(part)
            rows += len(part)
            size += part.nbytes
    if gathered:
        yield pa.concat_tables(gathered)

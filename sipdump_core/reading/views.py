"""The views that ``sipdump-read sql`` asks: ``messages`` and ``calls``, over everything that is stored.

DuckDB reads sealed Parquet files on local disks where they are. Everything else goes into temporary Parquet files
first, each record once.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError, SipDumpError, StorageError
from sipdump_core.plan import make_plan
from sipdump_core.reading.database import Database
from sipdump_core.reading.session import Session
from sipdump_core.reading.shelves import Shelved
from sipdump_core.reading.units import Unit
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.modules import CORE
from sipdump_core.settings.options import Setting
from sipdump_core.workshop import Workshop

__all__ = ["CALLS", "MESSAGES", "Views"]

MESSAGES = {
    "seq": "BIGINT", "time": "TIMESTAMPTZ", "tag": "VARCHAR", "pid": "INTEGER", "procno": "INTEGER",
    "proto": "VARCHAR", "af": "VARCHAR", "src_ip": "VARCHAR", "src_port": "INTEGER", "dst_ip": "VARCHAR",
    "dst_port": "INTEGER", "node": "VARCHAR", "call_id": "VARCHAR", "method": "VARCHAR", "status": "INTEGER",
    "cseq": "BIGINT", "cseq_method": "VARCHAR", "from_user": "VARCHAR", "to_user": "VARCHAR", "user_agent": "VARCHAR",
    "from_tag": "VARCHAR", "to_tag": "VARCHAR", "request_uri_user": "VARCHAR", "via_branch": "VARCHAR",
    "correlation": "VARCHAR[]", "correlation_id": "VARCHAR", "buf": "BLOB",
}  # fmt: skip
"""The columns of ``messages``, with their types: those of a Parquet segment, schema version 2 (docs/parquet.md)."""

CALLS = {
    "call_id": "VARCHAR", "kind": "VARCHAR", "began": "TIMESTAMPTZ", "ended": "TIMESTAMPTZ", "state": "VARCHAR",
    "status": "INTEGER", "reason": "VARCHAR", "warning": "VARCHAR", "release": "VARCHAR[]", "from_user": "VARCHAR",
    "from_uri": "VARCHAR", "to_user": "VARCHAR", "to_uri": "VARCHAR", "request_uri": "VARCHAR", "src": "VARCHAR",
    "dst": "VARCHAR", "hops": "VARCHAR[]", "nodes": "VARCHAR[]", "messages": "BIGINT", "retransmissions": "BIGINT",
    "post_dial_delay": "DOUBLE", "setup_time": "DOUBLE", "duration": "DOUBLE", "ended_by": "VARCHAR",
    "codecs": "VARCHAR[]", "media": "VARCHAR[]", "legs": "STRUCT(call_id VARCHAR, evidence VARCHAR)[]",
    "gaps": "VARCHAR[]",
}  # fmt: skip
"""The columns of ``calls``, with their types: the fields of ``find --json`` (docs/calls.md)."""

_PARQUET = "parquet"
"""The backend whose sealed files DuckDB reads as they are, and that writes the temporary ones."""
_KEPT = ("node", "tag", "proto")
"""What a backend may lose; of several that hold the same records, one that keeps these is read."""
_CHUNK_RECORDS = 100_000
_CHUNK_BYTES = 32 << 20
"""Messages of one temporary file: until it is sealed, they take as much room on disk."""
_BATCH = 1000
_SEALING_MEMORY = 8 << 20
_GLOB = frozenset("*?[")


class Views:
    """Makes the views in a database.

    Args:
        database: where the views are made.
        folder: an empty folder for temporary files; it is the caller's to delete, after the last use of the views.
        session: whose store is asked, and what masks the answers.
        span: a question with nothing but a span; no message outside it is in a view.
    """

    def __init__(self, database: Database, folder: str, session: Session, span: Query) -> None:
        self._database = database
        self._folder = folder
        self._session = session
        self._store = session.store
        self._span = span
        self._searched = session.searched

    def make_messages(self, limit: int) -> None:
        """Make ``messages``.

        Args:
            limit: bytes of messages that may be converted; 0: any number.

        Raises:
            ConfigError: there are more to convert, or the Parquet backend cannot be used.
            StorageError: there is no room for temporary files.
        """
        units = self._store.chosen(self._span, self._searched, _KEPT)
        redactor = self._session.redactor
        as_they_are = [] if redactor else [one for unit in units for one in unit.holdings if _is_direct(one, unit)]
        direct = self._readable(as_they_are)
        rest = [attrs.evolve(unit, holdings=[one for one in unit.holdings if one not in direct]) for unit in units]
        for one in direct:
            self._searched.count(one)
        paths = [os.path.join(self._folder, "none.parquet"), *direct.values()]
        columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in MESSAGES.items())
        self._database.execute(f"COPY (SELECT {columns} WHERE false) TO {_quoted(paths[0])} (FORMAT parquet)")
        records = self._store.unsorted(self._span, self._searched, [unit for unit in rest if unit.holdings])
        paths += _convert(map(redactor.record, records) if redactor else records, self._folder, limit)
        conditions = [
            f"time {sign} make_timestamptz({time_us})"
            for sign, time_us in ((">=", self._span.since_us), ("<", self._span.until_us))
            if time_us is not None
        ]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        self._database.execute(f"CREATE VIEW messages AS SELECT * FROM {_scan(paths)}{where}")  # noqa: S608 - quoted

    def make_calls(self) -> None:
        """Make ``calls``: each call that has a message within the span.

        Raises:
            StorageError: there is no room for temporary files.
        """
        path = os.path.join(self._folder, "calls.jsonl")
        try:
            with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
                for found in self._session.shown(self._store.find(self._span, self._searched)):
                    file.write(json.dumps(found.summary.as_json(), ensure_ascii=False) + "\n")
        except OSError as error:
            raise StorageError.from_os("write", path, error) from error
        columns = ", ".join(f"{name}: {_quoted(kind)}" for name, kind in CALLS.items())
        scan = f"read_json({_quoted(path)}, format = 'newline_delimited', columns = {{{columns}}})"
        self._database.execute(f"CREATE VIEW calls AS SELECT * FROM {scan}")  # noqa: S608 - quoted

    def _readable(self, direct: Sequence[Shelved]) -> Mapping[Shelved, str]:
        """Return the paths of the files that DuckDB can open; those that it cannot are left to sipdump to judge."""
        paths = {one: self._plain_path(one.stored.location) for one in direct}
        if self._opens([*paths.values()]):
            return paths
        return {one: path for one, path in paths.items() if self._opens([path])}

    def _opens(self, paths: Sequence[str]) -> bool:
        if not paths:
            return True
        try:
            self._database.execute(f"SELECT seq, time FROM {_scan(paths)} LIMIT 0")  # noqa: S608 - quoted
        except SipDumpError:
            return False
        return True

    def _plain_path(self, location: str) -> str:
        """Return a path that DuckDB takes literally."""
        path = os.path.abspath(location)
        if _GLOB.isdisjoint(path) and path.isprintable():
            return path
        link = os.path.join(self._folder, f"link-{len(os.listdir(self._folder))}.parquet")
        os.symlink(path, link)
        return link


def _is_direct(shelved: Shelved, unit: Unit[Shelved]) -> bool:
    stored = shelved.stored
    return (
        shelved.backend.name == _PARQUET
        and stored.sealed
        and not unit.overlapping  # records that come twice are told apart one by one
        and os.path.isfile(stored.location)
    )


def _scan(paths: Sequence[str]) -> str:
    files = ", ".join(map(_quoted, paths))
    return f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _convert(records: Iterator[Record], folder: str, limit: int) -> list[str]:
    """Store records in temporary Parquet files, and return their paths."""
    first = next(records, None)
    if first is None:
        return []
    place = "sql"
    values: dict[str, Any] = {"folder": folder, "mode": 0, "backend": _PARQUET}
    settings = [Setting(CORE, name, value, place) for name, value in values.items()]
    own = {"memory": _SEALING_MEMORY, "level": 1, "sync": 0}
    settings += [Setting(f"sipdump_{_PARQUET}", name, value, place) for name, value in own.items()]
    workshop = Workshop(make_plan(settings, to_start=False))
    backend = workshop.backend(_PARQUET, workshop.site(folder, "messages-"))
    paths: list[str] = []
    bound = _Bound(limit)
    records = chain([first], records)
    while chunk := list(islice(records, _BATCH)):
        paths.append(_write(backend, len(paths), chain([chunk], _batches(records)), bound))
    return paths


class _Bound:
    """Counts what is converted."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        self._limit = limit

    def count(self, batch: Iterable[Record]) -> None:
        """Count a batch.

        Raises:
            ConfigError: that makes too many.
        """
        self.bytes += sum(len(record.buf) for record in batch)
        if self._limit and self.bytes > self._limit:
            raise ConfigError(
                f"more than {self._limit >> 20} MiB of messages are not in sealed Parquet files and would have to be "
                "converted: narrow the span with --since and --until, or raise --convert"
            )


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, _BATCH)):
        yield batch


def _write(backend: Backend, number: int, batches: Iterable[list[Record]], bound: _Bound) -> str:
    """Write one file, at most of the size of a chunk, and return its path."""
    segment = attrs.evolve(Segment.starting(backend.site.prefix, 0), sequence=number, suffix=backend.suffix)
    backend.start()
    try:
        backend.open(segment)
        written = 0
        end = bound.bytes + _CHUNK_BYTES
        for batch in batches:
            bound.count(batch)
            backend.write(Batch(batch))
            written += len(batch)
            if written >= _CHUNK_RECORDS or bound.bytes >= end:
                break
        backend.close()
    finally:
        backend.stop()
    path = os.path.join(backend.site.folder, segment.name)
    if not os.path.exists(path):
        raise StorageError("write", path, backend.health() or "the temporary file was not made")
    return path

"""Compaction of Parquet files: small ones of one hour become one, which names in its metadata what it was made of."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.syncing import sync_folder
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.lifecycle import compaction
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.lifecycle.compaction import Candidate, Contents, Draft
from sipdump_core.ownership import is_ours
from sipdump_core.segment import Segment
from sipdump_parquet.errors import ContentError
from sipdump_parquet.files import (
    CORRELATE,
    HEADERS,
    Rows,
    batches,
    columns,
    free_draft,
    make,
    pairs,
    publish,
    translated,
)  # fmt: skip
from sipdump_parquet.options import FIRST_COLUMNS, WAL_SUFFIX, ParquetOptions
from sipdump_parquet.sort import Sorter
from sipdump_parquet.table import Builder

if TYPE_CHECKING:
    from sipdump_parquet.backend import ParquetBackend

__all__ = ["Compaction", "merge", "merged_names", "options_of"]

MERGED, ORIGINS = "sipdump.merged", "sipdump.origins"
"""Keys in the metadata, both as JSON: what a file was made of, with the SHA-256 of each; and the names of the segments
that these were made of, down to the first ones, where that is not the same."""
_DRAFT_SUFFIX = ".parquet.merge"


def merge(paths: Sequence[str], target: str, options: ParquetOptions, site: Site) -> int:
    """Merge files into one, sorted, on the disk and checked; see ``ParquetBackend.merge``.

    Sorting all rows together can make the result larger than the sources, where similar calls lay side by side in each:
    for example if Call-IDs count up. Then each source keeps row groups of its own.
    """
    sources = _Sources(paths, options, os.path.dirname(target) or ".")
    extra = sources.metadata()
    sorter = sources.sorted()
    try:
        _make(target, sorter, sources, extra, site)
        records = sorter.rows
    finally:
        sorter.close()
    if os.stat(target).st_size > sources.size:
        os.unlink(target)
        _make(target, sources, sources, extra, site)
    return records


def _make(target: str, rows: Rows, sources: "_Sources", extra: Mapping[str, str], site: Site) -> None:
    with translated("merge", target):
        make(target, rows, sources.options, extra, mode=site.file_mode, modified_ns=sources.modified_ns)


class _Sources:
    """Files to merge; as rows, those of each file are a part of their own.

    Args:
        paths: the files, oldest first.
        options: of the new file; its columns are all those of the sources.
        folder: where temporary files are made.

    Raises:
        ContentError: their columns differ in more than the schema version.
        StorageError: one cannot be read.
    """

    def __init__(self, paths: Sequence[str], options: ParquetOptions, folder: str) -> None:
        self._paths = paths
        self._folder = folder
        self._found: list[_Description] = []
        self.size = 0
        self.modified_ns = 0
        for path in paths:
            with translated("merge", path), open(path, "rb") as source:
                found = _look(source)
                status = os.fstat(source.fileno())
            if self._found and _kind(found) != _kind(self._found[0]):
                raise ContentError("merge", path, f"its columns are not those of {paths[0]}")
            self._found.append(found)
            self.size += status.st_size
            self.modified_ns = max(self.modified_ns, status.st_mtime_ns)
        self.options = _options_of(self._found, options)
        self._builder = Builder(self.options)

    @property
    def rows(self) -> int:
        """How many rows they have together."""
        return sum(found.rows for found in self._found)

    @property
    def longest(self) -> int:
        """How many rows the longest file has."""
        return max(found.rows for found in self._found)

    def parts(self) -> Iterator[Iterator[Any]]:
        """Yield the rows of each file, sorted."""
        first = 0
        for path, found in self._each():
            sorter = Sorter(self.options.keys, self.options.memory, self._folder)
            try:
                self._add(path, first, sorter)
                yield sorter.sorted()
            finally:
                sorter.close()
            first += found.rows

    def sorted(self) -> Sorter:
        """Return the rows of all of them, sorted together; the caller closes the sorter."""
        sorter = Sorter(self.options.keys, self.options.memory, self._folder)
        try:
            for path in self._paths:
                self._add(path, sorter.rows, sorter)
        except BaseException:
            sorter.close()
            raise
        return sorter

    def metadata(self) -> dict[str, str]:
        """Return the key-value metadata that describe where the rows come from."""
        sources = []
        for path in self._paths:
            with translated("merge", path), open(path, "rb") as source:
                sources.append({"name": os.path.basename(path), "sha256": _digest(source)})
        metas = dict.fromkeys(found.meta for found in self._found)  # in order, each once
        extra = {MERGED: json.dumps(sources), "sipdump.meta": "".join(metas)}
        if any(found.merged for found in self._found):
            names = [found.origins or [os.path.basename(path)] for path, found in self._each()]
            extra[ORIGINS] = json.dumps(list(dict.fromkeys(chain.from_iterable(names))))
        return extra

    def _each(self) -> Iterator[tuple[str, "_Description"]]:
        return zip(self._paths, self._found, strict=True)

    def _add(self, path: str, first: int, sorter: Sorter) -> None:
        with translated("merge", path), open(path, "rb") as source:
            for batch in batches(source, self.options.memory // 8):
                table = self._builder.completed(batch)
                sorter.add(table.set_column(0, "seq", pc.add(table["seq"], first)))


class Compaction(compaction.Compaction[Candidate]):
    """Merges the small files of a backend's folder."""

    def __init__(self, backend: "ParquetBackend") -> None:
        super().__init__(backend.name, backend.site.folder)
        self._files = backend

    def candidates(self) -> Iterator[Candidate]:
        """List the sealed files whose write-ahead file is gone.

        Where it is still there after a crash, it would be taken for lost without its file.
        """
        for stored in self._files.segments():
            segment = stored.segment
            if stored.sealed and not is_ours(self._path(segment.stem + WAL_SUFFIX)):
                hour = time.strftime("date=%Y-%m-%d/hour=%H", time.gmtime(segment.start))
                yield Candidate(stored, hour, segment.name)

    def contents(self, candidate: Candidate) -> Contents:
        """Read from a file's end which columns it has, and what it was merged from."""
        path = candidate.stored.location
        try:
            with translated("compact", path), open(path, "rb") as file:
                found = _look(file)
        except ContentError as error:
            return Contents(error=error)
        return Contents(_kind(found), found.merged)

    def holds(self, candidate: Candidate, digest: str) -> bool:
        """Compare the SHA-256 of a file."""
        path = candidate.stored.location
        try:
            with translated("compact", path), open(path, "rb") as file:
                return _digest(file) == digest
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def draft(self, pack: Sequence[Candidate]) -> Iterator[Draft]:
        """Merge into a file without the suffix of a segment."""
        path = free_draft(self._path(f".{pack[-1].stored.segment.stem}{_DRAFT_SUFFIX}"))
        records = self._files.merge([each.stored.location for each in pack], path)
        try:
            yield Draft(path, records, partial(self._publish, path, pack[-1].stored.segment.next()))
        finally:
            os.unlink(path)

    def delete(self, sources: Sequence[Candidate]) -> Iterator[tuple[Candidate, SipDumpError | None]]:
        """Delete files, and the process tables that stood beside them alone."""
        deleted = set()
        for each in sources:
            try:
                self._files.delete(each.stored)
                deleted.add(each.stored.segment.stem)
                yield each, None
            except StorageError as error:
                yield each, error
        meta.sweep(self.folder, self._files.site.prefix, deleted, 0.0)

    def remove_drafts(self) -> None:
        """Remove files with the suffix of a draft."""
        with translated("compact", self.folder):
            for file in os.listdir(self.folder):
                if (
                    file.startswith(f".{self._files.site.prefix}")
                    and _DRAFT_SUFFIX in file
                    and is_ours(self._path(file))
                ):
                    os.unlink(self._path(file))

    def _publish(self, path: str, segment: Segment) -> str:
        with translated("compact", path):
            location = publish(path, segment, self._files.site)
            sync_folder(self.folder)
        return location

    def _path(self, file: str) -> str:
        return os.path.join(self.folder, file)


@attrs.frozen
class _Description:
    """What the end of a file says about it."""

    rows: int
    columns: Sequence[str]
    headers: Mapping[str, str]
    correlate: Sequence[str]
    merged: Mapping[str, str]
    origins: Sequence[str]
    """Names of the segments that it was made of, down to the first ones, as far as that is known."""
    meta: str


def options_of(file: BinaryIO, options: ParquetOptions) -> ParquetOptions:
    """Return the options with the columns, and the headers in them, of a file that is there."""
    return _options_of([_look(file)], options)


def _options_of(found: Sequence[_Description], options: ParquetOptions) -> ParquetOptions:
    headers = {column: header for each in found for column, header in each.headers.items()}
    return attrs.evolve(
        options,
        columns=",".join(dict.fromkeys(name for each in found for name in each.columns)),
        header=tuple(headers.values()),
        correlate=tuple(dict.fromkeys(name for each in found for name in each.correlate)),
    )


def _look(file: BinaryIO) -> _Description:
    file.seek(0)
    found = pq.read_metadata(file)
    known = pairs(found)
    merged = {str(source["name"]): str(source["sha256"]) for source in json.loads(known.get(MERGED, "[]"))}
    return _Description(
        found.num_rows,
        columns(found.schema.to_arrow_schema()),
        json.loads(known.get(HEADERS, "{}")),
        json.loads(known.get(CORRELATE, "[]")),
        merged,
        _origins(known),
        known.get("sipdump.meta", ""),
    )


def merged_names(metadata: Any, path: str) -> Sequence[str]:
    """Return the names of the segments that a file was made of, down to the first ones; none if it was not merged.

    Args:
        metadata: the file's :class:`pyarrow.parquet.FileMetaData`.
        path: its name, for an error.

    Raises:
        ContentError: the metadata cannot be understood.
    """
    with translated("read", path):
        return _origins(pairs(metadata))


def _origins(known: Mapping[str, str]) -> list[str]:
    names = json.loads(known.get(ORIGINS, "[]")) or [source["name"] for source in json.loads(known.get(MERGED, "[]"))]
    return [str(name) for name in names]


def _kind(found: _Description) -> tuple[str, ...]:
    """Return the columns in which files must agree: those of later schema versions can be made of ``buf``."""
    return tuple(name for name in FIRST_COLUMNS if name in found.columns)


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()

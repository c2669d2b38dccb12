"""Compaction: small sealed files of one hour become one, which says in its metadata what it was made of.

The sources are deleted only when the new file is on the disk and checked. After a crash in between, the next compaction
finds in ``sipdump.merged`` which sources the new file holds already, and deletes them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

import attrs
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Compacted
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.lifecycle.retention import is_within, packs
from sipdump_core.log import Event, log
from sipdump_core.segment import Segment, StoredSegment
from sipdump_parquet import COLUMNS, WAL_SUFFIX, ParquetOptions
from sipdump_parquet.files import ContentError, batches, make, name, pairs, translated
from sipdump_parquet.sort import Sorter
from sipdump_parquet.sync import sync_folder

if TYPE_CHECKING:
    from sipdump_parquet import ParquetBackend

__all__ = ["compact", "merge"]

MERGED = "sipdump.merged"
_DRAFT_SUFFIX = ".parquet.merge"


def merge(paths: Sequence[str], target: str, options: ParquetOptions, site: Site) -> int:
    """Merge files into one, sorted, on the disk and checked; see ``ParquetBackend.merge``."""
    with translated("merge", paths[0]), open(paths[0], "rb") as source:
        columns, _ = _look(source)
    options = attrs.evolve(options, columns=",".join(columns))
    sources = []
    metas: dict[str, None] = {}  # in order, and none twice
    modified = 0
    sorter = Sorter(options.keys, options.memory, os.path.dirname(target) or ".")
    try:
        for path in paths:
            with translated("merge", path), open(path, "rb") as source:
                modified = max(modified, os.fstat(source.fileno()).st_mtime_ns)
                sources.append({"name": os.path.basename(path), "sha256": _digest(source)})
                names, known = _look(source)
                if names != columns:
                    raise ContentError("merge", path, f"its columns are not those of {paths[0]}")
                metas[known.get("sipdump.meta", "")] = None
                first = sorter.rows
                for table in batches(source, options.memory // 8):
                    seq = pc.add(table["seq"], first)
                    sorter.add(table.select(columns).set_column(columns.index("seq"), "seq", seq))
        extra = {MERGED: json.dumps(sources), "sipdump.meta": "".join(metas)}
        with translated("merge", target):
            make(target, sorter, options, extra, mode=site.file_mode, modified_ns=modified)
        return sorter.rows
    finally:
        sorter.close()


@attrs.frozen
class _File:
    """A sealed file, and what its end says of it."""

    stored: StoredSegment
    columns: tuple[str, ...]
    merged: dict[str, str]
    """Names of what it was merged from, with the SHA-256 of each."""


def compact(
    backend: "ParquetBackend", *, target_size: int, min_age: float, partition: str, dry_run: bool, now: float
) -> Iterator[Compacted]:
    """Merge small files of one hour, and yield what became of each group; see ``ParquetBackend.compact``."""
    with _alone(backend.site.folder):
        files = []
        for stored in backend.segments():
            # a write-ahead file that is still there may be one of a crash, and would be taken for lost without its file
            if not stored.sealed or os.path.lexists(_path(backend, stored.segment.stem + WAL_SUFFIX)):
                continue
            try:
                files.append(_file(stored))
            except StorageError as error:
                yield Compacted(
                    backend.name, _partition(stored.segment), [stored], size_before=stored.size, error=error
                )
        if not dry_run:
            _remove_drafts(backend)
        files = _finish_earlier(backend, files, dry_run=dry_run)
        small = [
            file
            for file in files
            if file.stored.size < target_size
            and now - file.stored.modified >= min_age
            and is_within(_partition(file.stored.segment), partition)
        ]
        for (hour, _), alike in groupby(sorted(small, key=_group), _group):
            for pack in packs([file.stored for file in alike], target_size, lambda stored: stored.size):
                yield _compact(backend, hour, pack, dry_run=dry_run)


def _compact(backend: "ParquetBackend", hour: str, pack: Sequence[StoredSegment], *, dry_run: bool) -> Compacted:
    result = Compacted(backend.name, hour, pack, size_before=sum(stored.size for stored in pack))
    if dry_run:
        return result
    last = pack[-1].segment
    draft = _path(backend, f".{last.stem}{_DRAFT_SUFFIX}")
    try:
        records = backend.merge([_path(backend, stored.segment.name) for stored in pack], draft)
        with translated("compact", draft):
            size = os.stat(draft).st_size
            try:
                location = name(draft, last.next(), backend.site)
            finally:
                os.unlink(draft)
            sync_folder(backend.site.folder)
    except SipDumpError as error:
        return attrs.evolve(result, error=error)
    result = attrs.evolve(result, location=location, size_after=size, records=records)
    deleted = set()
    for stored in pack:
        try:
            backend.delete(stored)
            deleted.add(stored.segment.stem)
        except StorageError as error:  # the next compaction tries again
            result = attrs.evolve(result, error=error)
    meta.sweep(backend.site.folder, backend.site.prefix, deleted, 0.0)
    return result


def _finish_earlier(backend: "ParquetBackend", files: list[_File], *, dry_run: bool) -> list[_File]:
    """Delete the sources of earlier compactions that are still there; give the files without them.

    A merged file with a source that stays is left out too, or the source could not be told any more.
    """
    there = {file.stored.segment.name: file for file in files}
    for file in files:
        for source, digest in file.merged.items():
            known = there.get(source)
            if known is None or not _is_content(known.stored.location, digest):
                continue  # deleted, or another file that took the name later
            del there[source]
            try:
                if not dry_run:
                    backend.delete(known.stored)
                    log.info(Event("source of an earlier compaction deleted", path=known.stored.location))
            except StorageError as error:
                there.pop(file.stored.segment.name, None)
                log.warning(Event("source of an earlier compaction is still there", error=error))
    return list(there.values())


def _file(stored: StoredSegment) -> _File:
    with translated("compact", stored.location), open(stored.location, "rb") as file:
        columns, extra = _look(file)
        merged = {str(source["name"]): str(source["sha256"]) for source in json.loads(extra.get(MERGED, "[]"))}
    return _File(stored, tuple(columns), merged)


def _look(file: BinaryIO) -> tuple[list[str], dict[str, str]]:
    """Read the names of a file's columns, in our order, and its key-value metadata."""
    file.seek(0)
    found = pq.read_metadata(file)
    names = found.schema.to_arrow_schema().names
    return [column for column in COLUMNS if column in names], pairs(found)


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _is_content(path: str, digest: str) -> bool:
    try:
        with open(path, "rb") as file:
            return _digest(file) == digest
    except OSError:
        return False


def _group(file: _File) -> tuple[str, tuple[str, ...]]:
    return _partition(file.stored.segment), file.columns


def _partition(segment: Segment) -> str:
    return time.strftime("date=%Y-%m-%d/hour=%H", time.gmtime(segment.start))


def _path(backend: "ParquetBackend", file: str) -> str:
    return os.path.join(backend.site.folder, file)


def _remove_drafts(backend: "ParquetBackend") -> None:
    """Remove what a crash left of a merge; who holds the folder's lock is alone with them."""
    for file in os.listdir(backend.site.folder):
        if file.startswith(f".{backend.site.prefix}") and file.endswith(_DRAFT_SUFFIX):
            os.unlink(_path(backend, file))


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep two compactions of one folder apart."""
    with translated("compact", folder):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError("compact", folder, "another compaction of this folder is under way") from error
        except OSError:
            pass  # not every file system has locks
        yield
    finally:
        os.close(fd)

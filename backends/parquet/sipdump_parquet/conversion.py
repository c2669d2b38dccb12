"""From a write-ahead file to a Parquet file.

The order of steps makes a crash at any moment harmless::

    write .<stem>.parquet.tmp, fsync, read its end and count    a crash leaves a file that the next try removes
    link it to <stem>.parquet, never over another file          it names the write-ahead file in its metadata
    fsync the folder, remove the temporary name
    remove the write-ahead file                                 where it is still there, it is known to be done
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Recovered
from sipdump_core.drivers.folder import open_regular, remove
from sipdump_core.drivers.syncing import sync_folder
from sipdump_core.errors import StorageError
from sipdump_core.locks import claimed, has_locks, in_use
from sipdump_core.log import Event, log
from sipdump_core.ownership import is_ours, owners
from sipdump_core.pipeline.journal import NOTE, RECORDS, Columns, Damage, scan
from sipdump_core.segment import Segment
from sipdump_parquet.errors import BusyError
from sipdump_parquet.files import free_draft, make, metadata, publish, translated
from sipdump_parquet.messages import Messages
from sipdump_parquet.options import NAME, ParquetOptions
from sipdump_parquet.sort import Sorter
from sipdump_parquet.table import Builder
from sipdump_parquet.wal import hidden_path, keep_aside, wal_path

__all__ = ["Conversion", "recover", "seal"]

_GATHERED_RECORDS = 4096
_GATHERED_BYTES = 1 << 20
_IDENTITY = slice(8, 16)  # in a journal's header: its salt, which no other one has


class Conversion:
    """A write-ahead file on its way into a sorter; it may be read while it is written.

    Args:
        path: the file.
        options: columns and memory.
        folder: where temporary files are made.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, options: ParquetOptions, folder: str) -> None:
        self.path = path
        self.at = 0
        """How far it is read: the end of a frame."""
        self.meta = ""
        self.damages: list[Damage] = []
        self._builder = Builder(options)
        self._file: BinaryIO = open_regular(path)
        self._messages = Messages(self._file) if "buf" in options.names else None
        self.sorter = Sorter(options.keys, options.memory, folder, self._messages)

    def take(self, limit: int | None = None) -> None:
        """Read on.

        Args:
            limit: how many bytes of a file that is still written are final; None: all are.

        Raises:
            OSError: the file cannot be read, or a temporary one cannot be written.
        """
        small: dict[int, Columns] = {}  # small frames are gathered: even an empty table costs 20 kB
        count = size = 0
        for piece in scan(self._file, self.at):
            if limit is not None and (piece.end > limit or isinstance(piece, Damage)):
                break
            self.at = piece.end
            if isinstance(piece, Damage):
                self.damages.append(piece)
                continue
            try:
                if piece.kind == RECORDS:
                    columns = piece.columns()
                    small[piece.end - len(columns.payload) + columns.base] = columns
                    count, size = count + piece.count, size + len(piece.payload)
                elif piece.kind == NOTE:
                    self.meta = piece.text()
            except ValueError:  # the checksum is right, but not the form
                self.damages.append(Damage(piece.offset, piece.end, torn=False))
            if count >= _GATHERED_RECORDS or size >= _GATHERED_BYTES:
                self._add(small)
                small, count, size = {}, 0, 0
        self._add(small)

    def _add(self, parts: Mapping[int, Columns]) -> None:
        """Add records; the keys are where the messages of a frame begin in the file."""
        if not parts:
            return
        table = self._builder.table(Columns.joined(list(parts.values())), self.sorter.rows)
        if self._messages is None:
            self.sorter.add(table)
            return
        numbers = [self._messages.add(at, part.lengths) for at, part in parts.items()]
        self.sorter.add(self._messages.left_out(table, numbers), table["buf"].nbytes)

    def close(self) -> None:
        """Close files and release memory."""
        self._file.close()
        self.sorter.close()


def seal(
    segment: Segment,
    options: ParquetOptions,
    site: Site,
    conversion: Conversion | None = None,
    *,
    own: bool = False,
) -> Recovered | None:
    """Make a Parquet file of a write-ahead file that is no longer written, then remove that.

    Args:
        segment: which one.
        options: columns, compression and limits of the Parquet file.
        site: the folder, and the file's permission bits.
        conversion: what has been read of it already; it is closed here in any case.
        own: the caller wrote it, and has closed it.

    Returns:
        What became of it; None if it is gone already.

    Raises:
        BusyError: a process has it open, or seals it.
        ContentError: no Parquet file can be made of its contents.
        StorageError: it cannot be read, or the folder cannot be written.
    """
    path = wal_path(segment, site)
    with contextlib.ExitStack() as stack:
        if conversion:
            stack.callback(conversion.close)
        stack.enter_context(translated("seal", path))
        opened = stack.enter_context(_held(path, site, own=own))
        if opened is None:
            return None
        held, mode = opened
        if not stack.enter_context(claimed(held.fileno(), hidden_path(segment, site, "lock"))):
            raise BusyError("seal", path, "another process writes or seals it")
        if not _is_at(path, held.fileno()):  # that one has sealed it
            return None
        with contextlib.suppress(OSError):  # what can be read is the best there is
            os.fdatasync(held.fileno())
        identity = os.pread(held.fileno(), _IDENTITY.stop, 0)[_IDENTITY].hex()
        draft = free_draft(hidden_path(segment, site, "tmp"))  # so that what a crash has left is gone
        known = _published(segment, site, identity)
        if known:
            remove(path, mode)
            return Recovered(NAME, path, known[0], known[1])
        if conversion is None:
            conversion = Conversion(path, options, site.folder)
            stack.callback(conversion.close)
        conversion.take()
        damages = [damage for damage in conversion.damages if not damage.torn]
        # before the file is published: after a crash behind that, nobody looks for damage again
        kept = keep_aside(path) if damages else ""
        location = _publish(draft, conversion, segment, options, site, identity) if conversion.sorter.rows else ""
        remove(path, mode)
        _log_damages(conversion, kept)
        lost = sum(damage.end - damage.offset for damage in damages)
        return Recovered(NAME, path, location, conversion.sorter.rows, len(damages), lost, kept)


def recover(segments: Iterable[Segment], options: ParquetOptions, site: Site) -> Iterator[Recovered]:
    """Seal what earlier runs left, and yield what became of each; what a process has open is skipped."""
    for segment in sorted(segments):
        try:
            recovered = seal(segment, options, site)
        except StorageError as error:
            recovered = Recovered(NAME, wal_path(segment, site), error=error, in_use=isinstance(error, BusyError))
        if recovered:
            yield recovered


@contextlib.contextmanager
def _held(path: str, site: Site, *, own: bool) -> Iterator[tuple[BinaryIO, int] | None]:
    """Open a write-ahead file that nobody writes; return it with its mode, None if it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError("seal", path, "it is no regular file")
        if not own and status.st_uid not in owners(site.folder):
            hint = "run sipdump-admin recover as that user"
            raise StorageError("seal", path, f"it belongs to another user ({status.st_uid})", hint)
        if in_use(fd):
            raise BusyError("seal", path, "another process writes it")
        if not (own or has_locks(fd)):
            hint = "stop whatever writes it, move it to a file system with locks, and recover it there"
            raise BusyError("seal", path, "the file system has no locks that say whether it is in use", hint)
        yield file, status.st_mode


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _log_damages(conversion: Conversion, kept: str) -> None:
    path = conversion.path
    torn = sum(damage.end - damage.offset for damage in conversion.damages if damage.torn)
    if torn:
        log.info(Event("write-ahead file ends in a torn frame, as after a crash", path=path, bytes=torn))
    for damage in conversion.damages:
        if not damage.torn:
            where = {"offset": damage.offset, "bytes": damage.end - damage.offset}
            log.warning(Event("write-ahead file was damaged, and a copy is kept", path=path, **where, kept=kept))


def _published(segment: Segment, site: Site, identity: str) -> tuple[str, int] | None:
    """Find the file that was made of a write-ahead file before a crash, and return its path and number of records."""
    while True:
        path = os.path.join(site.folder, segment.name)
        if not os.path.lexists(path):
            return None
        if is_ours(path):  # a stranger could name our write-ahead file in it, so that we delete that
            with contextlib.suppress(OSError, ValueError):  # whatever it is
                rows, extra = metadata(path)
                if extra.get("sipdump.wal") == identity:
                    return path, rows
        segment = segment.next()


def _publish(
    draft: str, conversion: Conversion, segment: Segment, options: ParquetOptions, site: Site, identity: str
) -> str:
    """Write the Parquet file under its name, or under the next one that is free.

    Returns:
        Its path.
    """
    written = os.stat(conversion.path)
    make(
        draft,
        conversion.sorter,
        options,
        {"sipdump.wal": identity, "sipdump.meta": conversion.meta},
        mode=site.file_mode,
        modified_ns=written.st_mtime_ns,
    )
    try:
        if os.geteuid() == 0:  # whose records they are can read them still, where root has sealed them
            os.chown(draft, written.st_uid, written.st_gid, follow_symlinks=False)
        path = publish(draft, segment, site, own=True)
    finally:
        os.unlink(draft)
    sync_folder(site.folder)
    return path

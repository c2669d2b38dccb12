"""A sipdump backend of the stream kind: records in an SQLite database, with an index on the Call-ID.

Several processes may write to one database. A segment is a row of the table ``segments``, and the rows of ``records``
that refer to it. Each batch is one transaction, so a batch is stored as a whole or not at all.

A segment is open while its writer lives and has not closed it. The kernel knows, because the writer holds a lock
(fcntl(2), open file description locks) on one byte of the file ``<database>.lock``, at the offset of the segment's id.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs
from sipdump_core import (
    Backend,
    ClosedError,
    Flow,
    Record,
    Segment,
    SegmentExistsError,
    Site,
    SpoolOptions,
    StorageError,
    StorageFullError,
    StoredSegment,
    in_range,
    one_of,
    option,
)

__all__ = ["SqliteBackend", "SqliteOptions"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never one that was there before: it may be locked
    name TEXT NOT NULL UNIQUE,
    opened REAL NOT NULL,  -- times are seconds since the epoch, where they are not called otherwise
    modified REAL NOT NULL,
    closed REAL,
    records INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE records (
    id INTEGER PRIMARY KEY,  -- in the order of writing
    segment INTEGER NOT NULL REFERENCES segments (id),
    time_us INTEGER NOT NULL,
    tag TEXT NOT NULL,
    pid INTEGER NOT NULL,
    procno INTEGER NOT NULL,
    proto TEXT NOT NULL,
    af TEXT NOT NULL,
    src_ip TEXT NOT NULL,
    src_port INTEGER NOT NULL,
    dst_ip TEXT NOT NULL,
    dst_port INTEGER NOT NULL,
    node TEXT NOT NULL,
    call_id TEXT,
    buf BLOB NOT NULL
);
CREATE INDEX records_segment ON records (segment);
CREATE INDEX records_call_id ON records (call_id, time_us) WHERE call_id IS NOT NULL;
"""
_FLOW = ("tag", "pid", "procno", "proto", "af", "src_ip", "src_port", "dst_ip", "dst_port", "node")
_INSERT = (
    "INSERT INTO records (segment, time_us, call_id, buf, "
    "tag, pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port, node) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = (
    "SELECT time_us, buf, tag, pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port, node "
    "FROM records WHERE segment = ? ORDER BY id"
)
_DELETE = "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE segment = ? LIMIT ?)"
_ROW = 200
"""Bytes that a row takes besides the message and the Call-ID, with its share of indexes and half-empty pages."""
_DELETE_ROWS = 5000
"""Rows deleted in one transaction: a writer waits meanwhile."""
_RESERVE = 16 << 20
"""Bytes of the disk to leave free."""
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2): type, whence, start, length, pid
_HINTS = {
    sqlite3.SQLITE_FULL: "free space, or lower fage; what waits is written when there is room",
    sqlite3.SQLITE_BUSY: "another process keeps it locked; raise busy_timeout if that lasts only a moment",
    sqlite3.SQLITE_CORRUPT: "move it away, and a new one is made; 'sqlite3 FILE .recover' reads what is left of it",
    sqlite3.SQLITE_NOTADB: "name another file with the parameter path, or move this one away",
    sqlite3.SQLITE_CANTOPEN: "create the folder, and give the daemon's user write permission",
    sqlite3.SQLITE_READONLY: "give the daemon's user write permission for the file and its folder",
    sqlite3.SQLITE_IOERR: "look at the kernel's log, and whether the disk is full",
}
_forgotten: list[sqlite3.Connection] = []


@attrs.frozen
class SqliteOptions(SpoolOptions):
    """Options of the SQLite backend."""

    path: str = option("", help="the database file; by default sipdump.sqlite in sipdump's folder")
    busy_timeout: int = option(
        2000, unit="milliseconds", help="how long to wait for another writer", check=in_range(0, 60_000)
    )
    synchronous: str = option(
        "normal",
        help="normal: a power failure may cost the last moments; full: each batch is on disk before the next; "
        "off: a power failure may cost the database",
        check=one_of("normal", "full", "off"),
    )


class SqliteBackend(Backend):
    """Stores records in an SQLite database, and reads and deletes them there by segments.

    Args:
        options: the options.
        site: folder, prefix and file mode.
    """

    name = "sqlite"
    flag = 512
    api = 1  # it needs nothing that came later
    options = SqliteOptions

    def __init__(self, options: SqliteOptions, site: Site) -> None:
        super().__init__(options, site)
        self._path = os.path.abspath(options.path or os.path.join(site.folder, "sipdump.sqlite"))
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._locks = -1
        self._segment = 0  # the open one's id

    def start(self) -> None:
        """Open the database; create it if there is none."""
        self.stop()
        try:
            with self._translated("open"):
                self._connect()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Close the database. An open segment is abandoned, as in a crash."""
        self._segment = 0
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._locks >= 0:
            os.close(self._locks)
            self._locks = -1

    def forget(self) -> None:
        """Drop the database that the parent process has open."""
        if self._db is not None:
            _forgotten.append(self._db)  # closing it would end the other process's log (sqlite.org/howtocorrupt.html)
            self._db = None
        self.stop()

    def open(self, segment: Segment) -> None:
        """Begin a segment; reopen the database first if it is gone or was never open."""
        self.close()
        if self._db is None or not self._is_there():
            self.start()
        now = time.time()
        number = 0
        try:
            with self._transaction("open") as db:
                if self._number(db, segment):
                    raise SegmentExistsError("open", self._place(segment), "the name is taken")
                values = (segment.name, now, now)
                insert = "INSERT INTO segments (name, opened, modified) VALUES (?, ?, ?)"
                number = db.execute(insert, values).lastrowid or 0
                self._lock(number, fcntl.F_WRLCK)  # before others see the row and take it for sealed
        except BaseException:
            self._lock(number, fcntl.F_UNLCK)
            raise
        self._segment = number

    def write(self, batch: Sequence[Record]) -> None:
        """Insert a batch in one transaction."""
        if not self._segment:
            raise ClosedError("write to the backend sqlite: no segment is open")
        if not self._is_there():
            raise StorageError("write", self._path, "the file was removed or replaced", "a new one is made")
        self._keep_room()
        rows = [(self._segment, r.time_us, r.call_id, r.buf, *(getattr(r.flow, name) for name in _FLOW)) for r in batch]
        size = sum(map(self.record_size, batch))
        with self._transaction("write") as db:
            db.executemany(_INSERT, rows)
            update = "UPDATE segments SET modified = ?, records = records + ?, bytes = bytes + ? WHERE id = ?"
            if not db.execute(update, (time.time(), len(rows), size, self._segment)).rowcount:
                raise StorageError(
                    "write", self._path, "somebody has deleted the open segment", "it goes on in a new one"
                )

    def close(self) -> None:
        """Seal the segment, or remove it if it has no records."""
        number, self._segment = self._segment, 0
        if not number:
            return
        try:
            with self._transaction("close") as db:
                db.execute("UPDATE segments SET closed = ? WHERE id = ?", (time.time(), number))
                db.execute("DELETE FROM segments WHERE id = ? AND records = 0", (number,))
        finally:
            self._lock(number, fcntl.F_UNLCK)

    def record_size(self, record: Record) -> int:
        """Return roughly how many bytes a record takes in the database."""
        return len(record.buf) + 2 * len(record.call_id or "") + _ROW

    def segments(self) -> Iterable[StoredSegment]:
        """List the segments of this site's prefix."""
        if not os.path.exists(self._path) and os.path.isdir(os.path.dirname(self._path)):
            return []
        with self._translated("list"), self._reader() as db:
            rows = db.execute("SELECT id, name, bytes, modified, closed, records FROM segments ORDER BY id").fetchall()
            stored = []
            for number, name, size, modified, closed, records in rows:
                segment = Segment.parse(name, self.site.prefix, self.suffix)
                if segment:
                    sealed = closed is not None or not self._is_locked(number)
                    stored.append(StoredSegment(segment, size, modified, sealed, records, self._place(segment)))
        return stored

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        """Yield a segment's records in the order in which they were written."""
        flows: dict[tuple[object, ...], Flow] = {}
        with self._translated("read"), self._reader() as db:
            number = self._number(db, stored.segment)
            if not number:
                raise StorageError("read", self._place(stored.segment), "there is no such segment")
            for time_us, buf, *values in db.execute(_SELECT, (number,)):
                key = tuple(values)
                if key not in flows:
                    flows[key] = Flow(*values)
                yield Record(time_us, flows[key], buf)

    def delete(self, stored: StoredSegment) -> None:
        """Delete a sealed segment; later writes reuse its space."""
        with self._translated("delete"), self._reader() as db:
            number = self._number(db, stored.segment)
            if not number:
                return
            if self._is_locked(number):
                raise StorageError("delete", self._place(stored.segment), "it is open for writing")
            while db.execute(_DELETE, (number, _DELETE_ROWS)).rowcount:
                pass
            db.execute("DELETE FROM segments WHERE id = ?", (number,))

    def _connect(self) -> None:
        fd = self._open_file(self._path)
        status = os.fstat(fd)
        os.close(fd)
        self._identity = (status.st_dev, status.st_ino)
        self._locks = self._open_file(self._path + ".lock")
        self._db = db = self._open_database()
        if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            db.execute("PRAGMA journal_mode = wal")
        db.execute(f"PRAGMA synchronous = {self.opts.synchronous}")
        with self._transaction("open"):
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not version and not tables:
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise StorageError("open", self._path, "it is the database of another program", "name another path")

    def _open_file(self, path: str) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, self.site.file_mode)
        except FileExistsError:
            return os.open(path, flags)
        os.fchmod(fd, self.site.file_mode)  # exactly that, whatever the umask; SQLite's log file gets the same
        return fd

    def _open_database(self) -> sqlite3.Connection:
        return sqlite3.connect(
            Path(self._path).as_uri() + "?mode=rw",  # never creates the file: start does
            uri=True,
            timeout=self.opts.busy_timeout / 1000,
            isolation_level=None,
            check_same_thread=False,  # the iterator of read() may be closed in another thread
        )

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for one call, which may come from any thread and on an instance that was never started."""
        with contextlib.closing(self._open_database()) as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self, operation: str) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            raise ClosedError(f"{operation} in the backend sqlite: it is not started")
        with self._translated(operation):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # some errors end the transaction by themselves
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        """Translate errors, except a record's own fault: more than SQLite's limit of 1 GB, or than 64 bits."""
        try:
            yield
        except (sqlite3.DataError, OverflowError):
            raise
        except OSError as error:
            if error.errno == errno.ELOOP:
                reason = "there is a symbolic link, which is not followed"
                raise StorageError(operation, self._path, reason, "name the file that it points to") from error
            raise StorageError.from_os(operation, self._path, error) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
            kind = StorageFullError if code == sqlite3.SQLITE_FULL else StorageError
            raise kind(operation, self._path, str(error), _HINTS.get(code, "")) from error

    def _keep_room(self) -> None:
        """Leave a part of the disk free: SQLite needs space for deleting too, and only deleting makes room again."""
        with self._translated("write"):
            disk = os.statvfs(os.path.dirname(self._path))
            if self._db is None or disk.f_bavail * disk.f_frsize >= _RESERVE:
                return
            (pages,) = self._db.execute("PRAGMA freelist_count").fetchone()  # deleted space is reused
            (size,) = self._db.execute("PRAGMA page_size").fetchone()
            if pages * size < _RESERVE:
                reason = f"less than {_RESERVE} bytes are free on the disk, which pruning needs"
                raise StorageFullError("write", self._path, reason, _HINTS[sqlite3.SQLITE_FULL])

    def _is_there(self) -> bool:
        try:
            status = os.stat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def _place(self, segment: Segment) -> str:
        return f"{self._path}#{segment.name}"

    def _number(self, db: sqlite3.Connection, segment: Segment) -> int:
        """Return a segment's id, 0 if there is none."""
        row = db.execute("SELECT id FROM segments WHERE name = ?", (segment.name,)).fetchone()
        return int(row[0]) if row else 0

    def _lock(self, number: int, kind: int) -> None:
        if number and self._locks >= 0:
            fcntl.fcntl(self._locks, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0))

    def _is_locked(self, number: int) -> bool:
        try:
            fd = os.open(self._path + ".lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
            kind, *_ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
        finally:
            os.close(fd)
        return bool(kind != fcntl.F_UNLCK)

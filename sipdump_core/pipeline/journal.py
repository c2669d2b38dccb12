"""The journal: records on disk, in checksummed frames, until something better holds them.

It is the write-ahead file of what cannot be read before it is finished (Parquet), and the spool of what waits for its
store. One frame is one batch, or a part of a large one, and is whole in itself: damage costs only the frames it hits.

Format, little-endian::

    file    "SIPDJNL1" | salt, 8 random bytes | frames
    frame   f5 "SJ1" | salt | kind u8, three zeros | count u32 | length u32 | crc u32 | head_crc u32 | payload
    records (kind 1)  flows_length u32 | flows | count times i64 | count flow indexes u32 | count lengths u32
                      | correlation ids, where there are any: a JSON array of count strings | spaces, any number
                      | messages
    note    (kind 2)  text in UTF-8

``length`` is that of the payload, ``crc`` its CRC-32 (zlib's), ``head_crc`` that of all before it in the frame. The
flows are lines of fields with tabs between them, in the order of :class:`~sipdump_core.record.Flow`; neither character
can stand in a field. The salt, which nobody outside knows, keeps a frame that travels inside a message from being
taken for one.
"""

import errno
import json
import os
import re
import struct
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from typing import BinaryIO

import attrs

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.rewriting import Change, Rewritten, new_file
from sipdump_core.errors import ClosedError, RecordError, StorageError
from sipdump_core.log import Event, log
from sipdump_core.record import Flow, Record

__all__ = ["Columns", "Damage", "Frame", "Journal", "parse_flow", "scan"]

PASSED, RECORDS, NOTE = 0, 1, 2
FRAME_RECORDS = 8192
FRAME_BYTES = 1 << 25
"""A batch with more records, or more bytes of messages, is divided: a reader holds one frame in memory."""

FRAME_LIMIT = 1 << 27
"""Bytes that a frame may take at most: a longer message is refused, and whatever claims to be longer is damage."""
_IDS_LIMIT = FRAME_BYTES // 2 + (1 << 16)
_ID_WEIGHT = 12
"""How much of ``FRAME_BYTES`` a character of a correlation id takes, as it has up to six bytes in JSON."""
_SALTS = 10_000
"""So many different salts are counted in a file whose header is damaged."""

_MAGIC = b"SIPDJNL1"
_MARK = b"\xf5SJ1"
_SALT = 8
_FILE_HEADER = len(_MAGIC) + _SALT
_HEAD = struct.Struct("<4s8sBxxxIIII")
_SUM = struct.Struct("<I")
_COLUMNS = 8 + 4 + 4
"""Bytes of a record's time, index and length."""
_CHUNK = 1 << 20
_BLOCK = 4096
_KEPT = 1 << 22
"""Bytes of the buffer that is kept from one batch to the next."""


@attrs.frozen
class Columns:
    """The records of one frame, or of several, column by column."""

    flows: list[Flow]
    lines: list[str]
    """The flows as lines of the journal, see :func:`parse_flow`."""
    times: "array[int]"
    """Type ``q``: microseconds since the epoch."""
    indexes: "array[int]"
    """Type ``I``: for each record the index of its flow."""
    lengths: "array[int]"
    """Type ``I``: bytes of each message."""
    payload: bytes
    base: int
    """Where in the payload the messages begin; they follow one another up to its end."""
    correlation_ids: Sequence[str] = ()
    """Of each record; empty where none has one."""

    def records(self) -> Iterator[Record]:
        """Yield the records one by one."""
        at = self.base
        ids = self.correlation_ids or [""] * len(self.times)
        for time_us, index, length, correlation_id in zip(self.times, self.indexes, self.lengths, ids, strict=True):
            yield Record(time_us, self.flows[index], self.payload[at : at + length], correlation_id)
            at += length

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """Return the records of several frames as if they were of one."""
        if len(parts) == 1:
            return parts[0]
        flows: dict[str, Flow] = {}
        for part in parts:
            flows.update(zip(part.lines, part.flows, strict=True))
        places = dict(zip(flows, range(len(flows)), strict=True))
        times, indexes, lengths = array("q"), array("I"), array("I")
        for part in parts:
            own = list(map(places.__getitem__, part.lines))
            times += part.times
            indexes.extend(map(own.__getitem__, part.indexes))
            lengths += part.lengths
        payload = b"".join([memoryview(part.payload)[part.base :] for part in parts])
        ids: list[str] = []
        if any(part.correlation_ids for part in parts):
            ids = [each for part in parts for each in part.correlation_ids or [""] * len(part.times)]
        return cls(list(flows.values()), list(flows), times, indexes, lengths, payload, 0, ids)


@attrs.frozen
class Frame:
    """One whole frame."""

    kind: int
    offset: int
    """Where it begins in the file."""
    end: int
    count: int
    """How many records it holds; 0 for a note."""
    payload: bytes = attrs.field(repr=False)

    def columns(self) -> Columns:
        """Take the records apart.

        Raises:
            ValueError: the payload is not of its form, though its sum is right.
        """
        view = memoryview(self.payload)
        if len(view) < 4:
            raise ValueError("the payload is too short")
        (flows_length,) = struct.unpack_from("<I", view)
        at = 4 + flows_length
        if at + _COLUMNS * self.count > len(view) or self.payload.count(b"\n", 4, at) > self.count:
            raise ValueError("the payload does not hold what it claims")  # found out before memory is taken for it
        lines = str(view[4:at], "utf-8").split("\n")[:-1]
        flows = [parse_flow(line) for line in lines]
        columns = []
        for kind in "qII":
            column = array(kind)
            size = column.itemsize * self.count
            column.frombytes(view[at : at + size])
            at += size
            if sys.byteorder == "big":
                column.byteswap()
            columns.append(column)
        times, indexes, lengths = columns
        base = len(view) - sum(lengths)
        if len(lengths) != self.count or base < at or max(indexes, default=0) >= len(lines):
            raise ValueError("the columns do not fit together")
        listed = bytes(view[at:base]).rstrip(b" ") if base > at else b""
        if len(listed) > _IDS_LIMIT:
            raise ValueError("the correlation ids are too long")
        try:
            ids = json.loads(listed) if listed else []
        except RecursionError as error:
            raise ValueError("the correlation ids are nested") from error
        if listed and not (isinstance(ids, list) and [type(each) for each in ids] == [str] * self.count):
            raise ValueError("the correlation ids do not fit the records")
        return Columns(flows, lines, times, indexes, lengths, self.payload, base, ids)

    def text(self) -> str:
        """Return the text of a note."""
        return self.payload.decode()


@attrs.frozen
class Damage:
    """Bytes that are no whole frame."""

    offset: int
    end: int
    torn: bool
    """The start of a frame truncated by end of file, as a crash during a write leaves it."""


class Journal(FolderBackend):
    """Segments in the journal's format, with all that a folder of segments has: locks, names, rollback."""

    name = "journal"
    suffix = ".wal"

    def __init__(self, site: Site, suffix: str = ".wal") -> None:
        super().__init__(NoOptions(), site)
        self.suffix = suffix  # journals of several owners may share a folder
        self._salt = b""
        self._buffer = BytesIO()
        # flows by identity; the flow is kept with its line so that no other one can get its id
        self._lines: Cache[int, tuple[Flow, bytes]] = Cache()

    @property
    def path(self) -> str:
        """The path of the open file, or of the one that was open last."""
        return self._path

    @property
    def size(self) -> int:
        """Bytes in the open file."""
        return self._size

    def fileno(self) -> int:
        """Return the file descriptor of the open file, -1 if none is open."""
        return self._fd

    def preamble(self) -> bytes:
        """Return the file's header, with a salt of its own."""
        self._salt = os.urandom(_SALT)
        return _MAGIC + self._salt

    def encode(self, batch: Sequence[Record]) -> bytes:
        """Return the frames of a batch."""
        with self._frames(batch, BytesIO()) as frames:
            return bytes(frames)

    def write(self, batch: Sequence[Record]) -> None:
        """Append a batch; if that fails, the file ends with the batch before it."""
        if self._fd < 0:
            raise ClosedError(f"write to the backend {self.name}: no segment is open")
        self._check_sync()
        # Memory fresh from the system costs more than what is done in it, so the buffer is used again.
        with self._frames(batch, self._buffer) as frames:
            self._append(frames)
            large = len(frames) > _KEPT
        self._records += len(batch)
        if large:
            self._buffer = BytesIO()

    def note(self, text: str) -> None:
        """Append a note.

        Raises:
            StorageError: it could not be written; the file is as before.
        """
        payload = text.encode()
        self._append(_head(self._salt, NOTE, 0, payload) + payload)

    def write_noted(self, text: str, batch: Sequence[Record]) -> None:
        """Append a note and the batch that it is about: both or, if that fails, neither.

        Raises:
            StorageError: they could not be written; the file is as before.
        """
        payload = text.encode()
        self._append(_head(self._salt, NOTE, 0, payload) + payload + self.encode(batch))
        self._records += len(batch)

    def rewrite_file(self, file: BinaryIO, draft: str, change: Change) -> Rewritten:
        """Write what a change makes of a journal into a new one; its notes stay, as :meth:`noted` has them.

        Raises:
            StorageError: it is damaged: nobody can say whose the records there are.
        """
        done = Rewritten()
        with new_file(draft) as made:
            made.write(self.preamble())
            note, group = "", list[Record]()
            for frame in (*scan(file), None):
                if isinstance(frame, Damage):
                    if not frame.torn:
                        reason = f"it is damaged from {frame.offset} to {frame.end}"
                        raise StorageError("rewrite", file.name, reason, "look at it, and delete it")
                    continue
                if frame is None or frame.kind == NOTE:
                    done = self._write_group(made, note, group, change, done)
                    note, group = frame.text() if frame else "", []
                else:
                    group += frame.columns().records()
        return done

    def noted(self, text: str, stayed: Sequence[int], count: int) -> str:
        """Return a note for those records of the ones behind it that stay.

        Args:
            text: the note.
            stayed: their places among these.
            count: how many there were.
        """
        del stayed, count
        return text

    def refit(self, frame: Frame, salt: bytes, records: Sequence[Record]) -> bytes | None:
        """Return a frame of the size of another one with other records; None if they take more.

        Args:
            frame: the other one.
            salt: that of the file.
            records: as many as the frame had.
        """
        self._salt = salt
        messages = [record.buf for record in records]
        buffer = BytesIO()
        self._frame(records, messages, list(map(len, messages)), buffer)
        payload = buffer.getvalue()[_HEAD.size :]
        spaces = len(frame.payload) - len(payload)
        if spaces < 0:
            return None
        base = len(payload) - sum(map(len, messages))
        payload = payload[:base] + b" " * spaces + payload[base:]
        return _head(salt, RECORDS, len(records), payload) + payload

    def _write_group(
        self, made: BinaryIO, note: str, group: Sequence[Record], change: Change, done: Rewritten
    ) -> Rewritten:
        """Write a note, and those of the records behind it that stay."""
        after = [change.apply(record) for record in group]
        stayed = [place for place, record in enumerate(after) if record is not None]
        if note and (stayed or not group):
            payload = self.noted(note, stayed, len(group)).encode()
            made.write(_head(self._salt, NOTE, 0, payload) + payload)
        left = [record for record in after if record is not None]
        for first in range(0, len(left), FRAME_RECORDS):
            made.write(self.encode(left[first : first + FRAME_RECORDS]))
        kept = sum(one is other for one, other in zip(after, group, strict=True))
        return Rewritten(done.kept + kept, done.removed + len(group) - len(left), done.masked + len(left) - kept)

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Yield the records of every whole frame; skip and log what is damaged."""
        for frame in scan(file):
            if isinstance(frame, Damage):
                log.warning(
                    Event("journal is not whole", path=file.name, offset=frame.offset, bytes=frame.end - frame.offset)
                )
            elif frame.kind == RECORDS:
                try:
                    columns = frame.columns()
                except ValueError as error:  # its sum is right, but it is not of its form
                    log.warning(
                        Event("journal has a frame of no form", path=file.name, offset=frame.offset, error=error)
                    )
                else:
                    yield from columns.records()

    def _frames(self, batch: Sequence[Record], buffer: BytesIO) -> memoryview:
        """Write the frames of a batch to the start of a buffer, and return that part of it.

        The buffer cannot grow before the caller has released what this returns.
        """
        messages = [record.buf for record in batch]
        lengths = list(map(len, messages))
        buffer.seek(0)
        ids = [len(record.correlation_id) for record in batch]
        weights = lengths
        if any(ids):
            weights = [length + _ID_WEIGHT * more for length, more in zip(lengths, ids, strict=True)]
        longest = FRAME_LIMIT - FRAME_LIMIT // 16  # a frame has a flow, too
        if max(weights) > longest:
            too_long = [place for place, weight in enumerate(weights) if weight > longest]
            raise RecordError(
                "write", self.name, f"a message of more than {longest} bytes is too long to be stored", too_long
            )
        for cut in _cuts(weights):
            self._frame(batch[cut], messages[cut], lengths[cut], buffer)
        with buffer.getbuffer() as view:
            return view[: buffer.tell()]

    def _frame(
        self, batch: Sequence[Record], messages: Sequence[bytes], lengths: Sequence[int], buffer: BytesIO
    ) -> None:
        each_flow = [record.flow for record in batch]
        keys = list(map(id, each_flow))
        flows = dict(zip(keys, each_flow, strict=True))
        indexes = dict(zip(flows, range(len(flows)), strict=True))
        known = self._lines
        lines = b"".join([(known.get(key) or self._prepare(flow))[1] for key, flow in flows.items()])
        columns = (
            array("q", [record.time_us for record in batch]),
            array("I", [indexes[key] for key in keys]),
            array("I", lengths),
        )
        if sys.byteorder == "big":
            for each in columns:
                each.byteswap()
        ids = [record.correlation_id for record in batch]
        if any(ids):
            messages = [json.dumps(list(map(str, ids))).encode(), *messages]
        begin = buffer.tell()
        buffer.write(bytes(_HEAD.size))
        buffer.writelines([_SUM.pack(len(lines)), lines, *columns, *messages])
        end = buffer.tell()
        with buffer.getbuffer() as view, view[begin + _HEAD.size : end] as payload:
            head = _head(self._salt, RECORDS, len(batch), payload)
        buffer.seek(begin)
        buffer.write(head)
        buffer.seek(end)

    def _prepare(self, flow: Flow) -> tuple[Flow, bytes]:
        line = "\t".join(str(value) for value in attrs.astuple(flow)) + "\n"
        return self._lines.keep(id(flow), (flow, line.encode()))


def scan(
    file: BinaryIO, start: int = 0, wanted: Callable[[int, bytes], bool] | None = None
) -> Iterator[Frame | Damage]:
    """Yield the frames of a journal, from the first or from the offset of one, past damage, up to the end.

    Args:
        file: may be read while it is written: what is not whole yet is reported as torn.
        start: where to begin: 0, or the ``end`` of a frame.
        wanted: returns, given its number of records and its payload, whether a frame of records may be of use; one that
            is not is yielded unchecked and without its payload, as of the kind ``PASSED``.
    """
    fd = file.fileno()
    header = _pread(fd, _FILE_HEADER, 0)
    at = max(start, _FILE_HEADER)
    if len(header) < _FILE_HEADER:
        if header:
            yield Damage(0, len(header), torn=True)
        return
    salt = header[len(_MAGIC) :]
    if _find(fd, _MARK + salt, _FILE_HEADER) < 0:
        salt = _guess_salt(fd) or salt  # the header is damaged, or there is no frame
    if start == 0 and header != _MAGIC + salt:
        at = 0
    flawed = -1
    while True:
        frame = _read_frame(fd, at, salt, wanted)
        if isinstance(frame, Damage) and frame.torn and _find(fd, _MARK + salt, at + 1) >= 0:
            # frames follow, so the end did not cut it off: it is damaged, or was written only just now
            frame = _read_frame(fd, at, salt)
            if isinstance(frame, Damage):
                frame = attrs.evolve(frame, torn=False)
        if isinstance(frame, Frame) or (frame and frame.torn):
            if flawed >= 0:
                yield Damage(flawed, at, torn=False)
                flawed = -1
            yield frame
            at = frame.end
            continue
        if frame is None:
            break
        if flawed < 0:
            flawed = at
        at = _find(fd, _MARK + salt, at + 1)
        if at < 0:
            yield Damage(flawed, os.fstat(fd).st_size, torn=False)
            break


def _cuts(lengths: Sequence[int]) -> Iterator[slice]:
    """Divide a batch, of messages of these lengths, into frames."""
    if len(lengths) <= FRAME_RECORDS and sum(lengths) <= FRAME_BYTES:
        yield slice(0, len(lengths))
        return
    begin = size = 0
    for at, length in enumerate(lengths):
        if at > begin and (at - begin >= FRAME_RECORDS or size + length > FRAME_BYTES):
            yield slice(begin, at)
            begin, size = at, 0
        size += length
    yield slice(begin, len(lengths))


def _head(salt: bytes, kind: int, count: int, payload: bytes | memoryview) -> bytes:
    head = _HEAD.pack(_MARK, salt, kind, count, len(payload), zlib.crc32(payload), 0)[: -_SUM.size]
    return head + _SUM.pack(zlib.crc32(head))


def _read_frame(
    fd: int, at: int, salt: bytes, wanted: Callable[[int, bytes], bool] | None = None
) -> Frame | Damage | None:
    """Read the frame at an offset; None at the end of the file."""
    head = _pread(fd, _HEAD.size, at)
    mark = _MARK + salt
    if not head:
        return None
    if len(head) < _HEAD.size:
        return Damage(at, at + len(head), torn=head.startswith(mark) or mark.startswith(head))
    _, _, kind, count, length, crc, head_crc = _HEAD.unpack(head)
    begin = at + _HEAD.size
    if not head.startswith(mark) or zlib.crc32(head[: -_SUM.size]) != head_crc or length > FRAME_LIMIT:
        return Damage(at, begin, torn=False)
    size = os.fstat(fd).st_size
    if begin + length > size:  # found out before memory is taken for it
        return Damage(at, size, torn=True)
    payload = _pread(fd, length, begin)
    if len(payload) < length:
        return Damage(at, begin + len(payload), torn=True)
    # a frame that was cut off seems to contain those after it
    if wanted and kind == RECORDS and not wanted(count, payload) and mark not in payload:
        return Frame(PASSED, at, begin + length, count, b"")
    if zlib.crc32(payload) != crc:
        return Damage(at, begin + length, torn=False)
    return Frame(kind, at, begin + length, count, payload)


def _pread(fd: int, length: int, at: int) -> bytes:
    """Read a part of a file; blocks that the device cannot read become zeros, and so fail their sum."""
    try:
        return os.pread(fd, length, at)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    size = max(0, min(length, os.fstat(fd).st_size - at))
    parts = []
    for begin in range(at - at % _BLOCK, at + size, _BLOCK):
        first, end = max(begin, at), min(begin + _BLOCK, at + size)
        try:
            parts.append(os.pread(fd, end - first, first))
        except OSError:
            parts.append(bytes(end - first))
    return b"".join(parts)


def _find(fd: int, mark: bytes, at: int) -> int:
    while True:
        at = _data(fd, at)
        chunk = _pread(fd, _CHUNK, at)
        found = chunk.find(mark)
        if found >= 0:
            return at + found
        if len(chunk) < len(mark):
            return -1
        at += len(chunk) - len(mark) + 1


def _data(fd: int, at: int) -> int:
    """Return where a file goes on behind a hole: one of a terabyte takes no disk, and would take an hour to read."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:  # there is nothing more; or the file system knows no holes
        return os.fstat(fd).st_size if error.errno == errno.ENXIO else at


def _guess_salt(fd: int) -> bytes:
    """Find the salt of a file whose header is damaged: what follows most of the marks."""
    marks: Counter[bytes] = Counter()
    at = 0
    while len(marks) < _SALTS and (chunk := _pread(fd, _CHUNK, at := _data(fd, at))):
        marks.update(re.findall(re.escape(_MARK) + rb"(.{8})", chunk, re.DOTALL))
        if len(chunk) < _CHUNK:
            break
        at += _CHUNK - len(_MARK) - _SALT  # what is seen twice counts twice: no harm
    return marks.most_common(1)[0][0] if marks else b""


@lru_cache(10_000)  # the same flows come frame after frame
def parse_flow(line: str) -> Flow:
    """Return the flow of a line of a frame.

    Raises:
        ValueError: it is no such line.
    """
    tag, pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port, node = line.split("\t")
    return Flow(tag, int(pid), int(procno), proto, af, src_ip, int(src_port), dst_ip, int(dst_port), node)

"""A sipdump backend of the file kind: one JSON object a line, compressed with zstd on request.

A line::

    {"time_us":1795386431765284,"tag":"rcv","pid":2738,"procno":2,"proto":"udp","af":"ipv4","src_ip":"127.0.0.1",
     "src_port":5999,"dst_ip":"127.0.0.1","dst_port":5070,"node":"","call_id":"c1@192.0.2.1","buf":"OPTIONS sip:..."}

``buf`` is the message as text. A message that is not valid UTF-8 is in ``buf_base64`` instead, so that every byte is
kept. ``call_id`` is null if the message has none; it is there for searching, and is not read back.
"""

import base64
import importlib.util
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import attrs
from sipdump_core import (
    ConfigError,
    Flow,
    FolderBackend,
    Record,
    Site,
    StorageError,
    StoredSegment,
    in_range,
    one_of,
    option,
)

__all__ = ["JsonlBackend", "JsonlOptions"]

_log = logging.getLogger("sipdump.jsonl")  # goes to the daemon's log, under its own name
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, section 3.1.1
_SUFFIXES = {"none": ".jsonl", "zstd": ".jsonl.zst"}
_CHUNK = 65536
_FLOW = [field.name for field in attrs.fields(Flow)]
_INTEGERS = ("time_us", "pid", "procno", "src_port", "dst_port")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@attrs.frozen
class JsonlOptions:
    """Options of the JSON lines backend."""

    compression: str = option("none", help="how files are compressed: none or zstd", check=one_of(*_SUFFIXES))
    level: int = option(3, help="zstd level: 1 is fast, 19 small", check=in_range(1, 19))


class JsonlBackend(FolderBackend):
    """Writes and reads ``.jsonl`` and ``.jsonl.zst`` files.

    Args:
        options: the options.
        site: folder, prefix and file mode.

    Raises:
        ConfigError: compression is requested, and the package zstandard is not installed.
    """

    name = "jsonl"
    flag = 256
    api = 2
    suffix = ".jsonl"
    options = JsonlOptions

    def __init__(self, options: JsonlOptions, site: Site) -> None:
        super().__init__(options, site)
        self.suffix = _SUFFIXES[options.compression]
        self._compressed = options.compression == "zstd"
        # "requires" is for modules needed with any options
        if self._compressed and importlib.util.find_spec("zstandard") is None:
            raise ConfigError("compression zstd needs the package zstandard: pip install 'sipdump-jsonl[zstd]'")

    def encode(self, batch: Sequence[Record]) -> bytes:
        """Return the records' lines; if compressed, a batch is one zstd frame.

        So the bytes depend on nothing but the batch: one that could not be written and comes again leaves no trace in
        later ones, and a torn tail costs one batch.
        """
        lines = b"".join(map(_line, batch))
        if not self._compressed:
            return lines
        import zstandard  # noqa: PLC0415 - installed only where compression is used

        return zstandard.ZstdCompressor(self.opts.level, write_checksum=True).compress(lines)

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        """Yield the records of a file, compressed or not; other lines are skipped and logged."""
        damaged = 0
        for line in _lines(file):
            if not line.endswith(b"\n"):
                break  # torn by a crash in the middle of a write
            record = _record(line)
            if record is None:
                damaged += 1
            else:
                yield record
        if damaged:
            _log.warning("jsonl segment holds %d lines that are not records: %s", damaged, file.name)

    def record_size(self, record: Record) -> int:
        """Return the length of the record's line plus what a zstd frame adds to an incompressible line."""
        length = len(_line(record))
        return length + (length >> 8) + 64 if self._compressed else length

    def segments(self) -> Iterable[StoredSegment]:
        """List the files of both suffixes, so that after a change of ``compression`` the old files are still pruned."""
        for suffix in _SUFFIXES.values():
            lister = JsonlBackend(JsonlOptions(), self.site)
            lister.suffix = suffix
            yield from FolderBackend.segments(lister)


def _line(record: Record) -> bytes:
    values: dict[str, Any] = {"time_us": record.time_us}
    values |= {name: getattr(record.flow, name) for name in _FLOW}
    values["call_id"] = record.call_id
    try:
        values["buf"] = record.buf.decode()
    except UnicodeDecodeError:
        values["buf_base64"] = base64.b64encode(record.buf).decode()
    return _ENCODER.encode(values).encode() + b"\n"


def _record(line: bytes) -> Record | None:
    try:
        values = json.loads(line)
        del values["call_id"]
        if any(type(values[name]) is not int for name in _INTEGERS):
            return None
        text = values.pop("buf", None)
        buf = text.encode() if text is not None else base64.b64decode(values.pop("buf_base64"), validate=True)
        return Record.of(buf, **values)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # it may be any JSON
        return None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    if file.read(len(_ZSTD_MAGIC)) != _ZSTD_MAGIC:
        file.seek(0)
        yield from file
        return
    file.seek(0)
    try:
        import zstandard  # noqa: PLC0415 - installed only where compression is used
    except ImportError as error:
        hint = "pip install 'sipdump-jsonl[zstd]'"
        raise StorageError("read", file.name, "the package zstandard is not installed", hint) from error
    data = b""
    try:
        while True:
            frame, parts = zstandard.ZstdDecompressor().decompressobj(), []
            while not frame.eof:
                data = data or file.read(_CHUNK)
                if not data:
                    return  # the end, or a frame torn by a crash
                parts.append(frame.decompress(data))
                data = frame.unused_data
            yield from b"".join(parts).splitlines(keepends=True)
    except zstandard.ZstdError as error:
        raise StorageError("read", file.name, f"damaged: {error}", "everything before the damage was read") from error

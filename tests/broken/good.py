"""Backends that keep the contract, small, for the broken ones to be made of; and the list of those."""

import contextlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, BinaryIO, ClassVar, TypeVar

import attrs

from sipdump_core import (
    Backend,
    ClosedError,
    Filter,
    Flow,
    FolderBackend,
    FormatError,
    Record,
    Segment,
    Site,
    StorageError,
)
from sipdump_core.testing import Contract, FilterContract

_HEAD = struct.Struct(">II")
_flow = lru_cache(1000)(Flow)


@lru_cache(1 << 14)  # the check of searching reads a segment as often as it asks
def _record(head: bytes, buf: bytes) -> Record:
    time_us, *flow = json.loads(head)
    return Record(time_us, _flow(*flow), buf)


@lru_cache(1000)
def _fields(flow: Flow) -> bytes:
    return json.dumps(attrs.astuple(flow)).removeprefix("[").encode()


class Good(FolderBackend):
    """Files of frames: the fields as JSON, and the message, each behind its length."""

    name = "good"
    suffix = ".good"

    def frame(self, record: Record) -> bytes:
        head = b"[%d, %b" % (record.time_us, _fields(record.flow))
        return _HEAD.pack(len(head), len(record.buf)) + head + record.buf

    def unframe(self, head: bytes, buf: bytes) -> Record:
        return _record(head, buf)

    def encode(self, batch: Sequence[Record]) -> bytes:
        return b"".join(map(self.frame, batch))

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        while True:
            lengths = file.read(_HEAD.size)
            if len(lengths) < _HEAD.size:
                return
            head, buf = map(file.read, _HEAD.unpack(lengths))
            if len(head) + len(buf) < sum(_HEAD.unpack(lengths)):
                return
            try:
                yield self.unframe(head, buf)
            except (ValueError, TypeError, RecursionError) as error:
                raise FormatError(f"{file.name}: {error}") from error

    def record_size(self, record: Record) -> int:
        return len(self.frame(record))


class GoodStream(Backend):
    """A queue: one file that batches are appended to, without segments. ``Queue`` reads it for the kit."""

    name = "stream"
    loses: ClassVar[Sequence[str]] = ("node",)

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._coder = Good(options, site)

    @property
    def path(self) -> str:
        return os.path.join(self.site.folder, f"{self.site.prefix}queue")

    def write(self, batch: Sequence[Record]) -> None:
        self.send(self._coder.encode(batch))

    def send(self, data: bytes) -> None:
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError.from_os("connect", self.path, error) from error
        try:
            size = os.fstat(fd).st_size
            try:
                while data:
                    data = data[os.write(fd, data) :]
            except OSError as error:
                os.ftruncate(fd, size)
                raise StorageError.from_os("write", self.path, error) from error
        finally:
            os.close(fd)


class GoodStreamWithSegments(GoodStream):
    """A queue that knows what is open, and lists nothing."""

    _open = False

    def open(self, segment: Segment) -> None:
        self._open = True

    def write(self, batch: Sequence[Record]) -> None:
        if not self._open:
            raise ClosedError("write: no segment is open")
        super().write(batch)

    def close(self) -> None:
        self._open = False


class FileContract(Contract):
    """The contract of backends made of Good."""

    backend_class = Good
    patience = 0.3


class StreamContract(Contract):
    """The contract of backends made of GoodStream: the test reads the queue."""

    backend_class = GoodStream
    patience = 0.3

    @contextlib.contextmanager
    def outage(self, backend: Backend) -> Iterator[None]:
        os.rename(backend.site.folder, f"{backend.site.folder}.aside")
        yield
        os.rename(f"{backend.site.folder}.aside", backend.site.folder)

    def received(self, backend: Backend) -> list[Record]:
        assert isinstance(backend, GoodStream)
        if not os.path.exists(backend.path):
            return []
        with open(backend.path, "rb") as file:
            return [*Good(backend.opts, backend.site).decode(file)]


class GoodFilter(Filter):
    """Hides the digits of a PIN, and drops what asks for that."""

    name = "goodfilter"
    api = 2
    prompt = True

    def hide(self, record: Record) -> Record:
        buf = re.sub(rb"pin=[0-9]+", b"pin=x", record.buf)
        return record if buf == record.buf else attrs.evolve(record, buf=buf)

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        return [self.hide(record) for record in records if b"drop=1" not in record.buf]


class GoodFilterContract(FilterContract):
    """The contract of filters made of GoodFilter."""

    filter_class = GoodFilter
    hides = ((b"MESSAGE sip:x SIP/2.0\r\n\r\npin=1234 pin=5678", b"5678"),)
    leaves = (b"MESSAGE sip:x SIP/2.0\r\n\r\npin", b"\xff\0", b"MESSAGE sip:x SIP/2.0\r\n\r\ndrop=2")


@attrs.frozen
class Fault:
    """A broken backend or filter, and the checks that must catch it."""

    backend: type[Backend] | type[Filter]
    caught_by: Sequence[str]
    time_limit: float = 60.0


FAULTS: list[Fault] = []


Driver = TypeVar("Driver", type[Backend], type[Filter])


def caught_by(*checks: str, time_limit: float = 60.0) -> Callable[[Driver], Driver]:
    """Put a broken backend or filter on the list."""

    def add(cls: Driver) -> Driver:
        FAULTS.append(Fault(cls, [f"test_{check}" for check in checks], time_limit))
        return cls

    return add

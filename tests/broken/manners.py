"""Backends with bad manners: what they touch, take, keep, and refuse."""

import contextlib
import logging
import os
import pickle
import socket
import ssl
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from sipdump_core import (
    FormatError,
    Record,
    RecordError,
    Segment,
    SegmentExistsError,
    Site,
    StorageError,
    StoredSegment,
)
from tests.broken.good import Good, caught_by

sys.setrecursionlimit(sys.getrecursionlimit() + 1)  # for LimitsAtItsImport

# ---- the constructor ----


@caught_by("the_constructor_touches_nothing")
class ConstructorConnects(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.connect(("127.0.0.1", 9))


@caught_by("the_constructor_touches_nothing")
class ConstructorAsksTheDns(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._address = socket.getaddrinfo("localhost", 9)


@caught_by("the_constructor_touches_nothing")
class ConstructorReadsAFile(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._host = Path("/etc/hostname").read_bytes() if os.path.exists("/etc/hostname") else b""
        self._memory = Path("/proc/self/statm").read_bytes()


@caught_by("the_constructor_touches_nothing")
class ConstructorTriesToWrite(Good):
    """It leaves nothing."""

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        path = Path(site.folder, ".probe")
        with contextlib.suppress(OSError):
            path.touch()
            path.unlink()


@caught_by("the_constructor_touches_nothing")
class ConstructorLooksAtTheFolder(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._there = Path(site.folder).is_dir()


# ---- names ----


@caught_by("the_suffix_is_its_own")
class TakesTheSuffixOfText(Good):
    suffix = ".data"


@caught_by("the_suffix_is_its_own")
class HasNoSuffix(Good):
    suffix = ""


@caught_by("the_suffix_is_its_own")
class TakesTheSuffixOfTheProcessTable(Good):
    suffix = ".meta"


@caught_by("two_processes_take_no_name_twice")
class LooksThenCreates(Good):
    def open(self, segment: Segment) -> None:
        path = os.path.join(self.site.folder, segment.name)
        if os.path.lexists(path):
            raise SegmentExistsError("open", path, "it is there already")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # what comes between is lost
        super().open(segment)


@caught_by("two_processes_take_no_name_twice")
class ListsThenCreates(Good):
    _taken: ClassVar[set[str]] = set()
    """Guards it from other instances of this process, not from other processes."""

    def open(self, segment: Segment) -> None:
        if segment.name in {*os.listdir(self.site.folder), *self._taken}:
            raise SegmentExistsError("open", segment.name, "it is there already")
        self._taken.add(segment.name)
        with contextlib.suppress(FileNotFoundError):
            os.rename(os.path.join(self.site.folder, segment.name), os.path.join(self.site.folder, "old"))
        super().open(segment)


# ---- listing and deleting ----


@caught_by("listing_goes_on_while_others_delete")
class ListsThenLooks(Good):
    def segments(self) -> Iterable[StoredSegment]:
        for name in sorted(os.listdir(self.site.folder)):
            if name.endswith(self.suffix):
                os.stat(os.path.join(self.site.folder, name))
        return super().segments()


@caught_by("listing_goes_on_while_others_delete")
class ListingEndsAtAGap(Good):
    def segments(self) -> Iterable[StoredSegment]:
        names = sorted(os.listdir(self.site.folder))
        for stored in super().segments():
            if not all(os.path.exists(os.path.join(self.site.folder, name)) for name in names):
                return
            yield stored


@caught_by("delete_many_takes_its_own_only")
class DeletesByTheBeginning(Good):
    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, None]]:
        for stored in chunk:
            for path in Path(self.site.folder).iterdir():
                if path.name.startswith(stored.segment.stem):
                    path.unlink()
            yield stored, None


@caught_by("delete_many_takes_its_own_only")
class DeletesByThePrefix(Good):
    """It asks for all that begin with the prefix, and takes those of the time."""

    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, None]]:
        ends = {f"{one.segment.stem}{self.suffix}"[len(self.site.prefix) :] for one in chunk}
        for path in Path(self.site.folder).iterdir():
            if path.name.startswith(self.site.prefix) and path.name.endswith(tuple(ends)):
                path.unlink()
        for stored in chunk:
            yield stored, None


# ---- reading ----


@caught_by("reading_runs_no_code")
class PicklesRecords(Good):
    def frame(self, record: Record) -> bytes:
        return b"".join([(data := pickle.dumps(record)) and len(data).to_bytes(4, "big"), data])

    def decode(self, file: BinaryIO) -> Iterator[Record]:
        while len(size := file.read(4)) == 4:
            data = file.read(int.from_bytes(size, "big"))
            if len(data) < int.from_bytes(size, "big"):
                return
            try:
                yield pickle.loads(data)
            except Exception as error:
                raise FormatError(str(error)) from error


@caught_by("reading_runs_no_code")
class EvaluatesTheHead(Good):
    def unframe(self, head: bytes, buf: bytes) -> Record:
        eval(head, {})
        return super().unframe(head, buf)


# ---- what the process shares ----


@caught_by("the_process_is_left_as_it_is")
class LimitsAtItsImport(Good):
    """See the top of this module."""


@caught_by("the_process_is_left_as_it_is")
class TakesTheRootLogger(Good):
    _level = logging.getLogger().level

    def start(self) -> None:
        logging.getLogger().setLevel(logging.DEBUG)

    def stop(self) -> None:
        time.sleep(0)

    def __del__(self) -> None:
        logging.getLogger().setLevel(self._level)


@caught_by("the_process_is_left_as_it_is")
class PatchesWhileItRuns(Good):
    def start(self) -> None:
        self._before = socket.create_connection
        socket.create_connection = lambda *_, **__: self._before(("127.0.0.1", 9))

    def stop(self) -> None:
        if hasattr(self, "_before"):
            socket.create_connection = self._before


@caught_by("the_process_is_left_as_it_is")
class SilencesOthers(Good):
    def start(self) -> None:
        logging.getLogger("somebody.else").disabled = True

    def __del__(self) -> None:
        logging.getLogger("somebody.else").disabled = False


@caught_by("the_process_is_left_as_it_is")
class IgnoresWarnings(Good):
    def start(self) -> None:
        self._filters = warnings.filters[:]
        warnings.simplefilter("ignore")

    def __del__(self) -> None:
        if hasattr(self, "_filters"):
            warnings.filters[:] = self._filters  # type: ignore[index]  # it is a list


@caught_by("the_process_is_left_as_it_is")
class TrustsEveryServer(Good):
    _default = ssl._create_default_https_context

    def start(self) -> None:
        ssl._create_default_https_context = ssl._create_unverified_context  # type: ignore[assignment]  # as many do

    def __del__(self) -> None:
        ssl._create_default_https_context = type(self)._default


# ---- descriptors ----


@caught_by("no_descriptor_is_closed_twice")
class ClosesTwiceAtOnce(Good):
    def close(self) -> None:
        fd = self._fd
        super().close()
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


@caught_by("no_descriptor_is_closed_twice")
class ClosesAgainInStop(Good):
    _last = -1

    def open(self, segment: Segment) -> None:
        super().open(segment)
        self._last = self._fd

    def stop(self) -> None:
        if self._last >= 0:
            with contextlib.suppress(OSError):
                os.close(self._last)


# ---- a full disk ----


@caught_by("a_full_disk_is_survived")
class GoesOnBehindAHole(Good):
    """After a failed write it goes on where that ended."""

    def _append(self, data: bytes | memoryview) -> None:
        at = 0
        try:
            while at < len(data):
                at += os.write(self._fd, data[at:])
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise StorageError.from_os("write", self._path, error) from error
        self._size += len(data)


@caught_by("a_full_disk_is_survived")
class GivesUpAFullDisk(Good):
    _gave_up = False

    def write(self, batch: Sequence[Record]) -> None:
        if self._gave_up:
            raise StorageError("write", self.site.folder, "the disk was full")
        try:
            super().write(batch)
        except StorageError:
            self._gave_up = True
            raise


@caught_by("a_full_disk_is_survived")
class AFullDiskIsAnyError(Good):
    def write(self, batch: Sequence[Record]) -> None:
        try:
            super().write(batch)
        except StorageError as error:
            raise StorageError("write", self.site.folder, "it failed") from error


# ---- Call-IDs, and what is refused ----


@caught_by("every_call_id_is_kept")
class RefusesLongCallIds(Good):
    def frame(self, record: Record) -> bytes:
        if len(record.call_id or "") > 255:
            raise ValueError("value too long for type character varying(255)")
        return super().frame(record)


@caught_by("every_call_id_is_kept")
class CallIdsEndAtANul(Good):
    def frame(self, record: Record) -> bytes:
        begin, colon, value = record.buf.partition(b"Call-ID: ")
        at = value.partition(b"\r\n")[0].find(b"\0")
        if colon and at >= 0:
            record = Record(record.time_us, record.flow, begin + colon + value[:at] + value[at + 1 :])
        return super().frame(record)


@caught_by("every_call_id_is_kept")
class OneRecordForEachCallId(Good):
    def encode(self, batch: Sequence[Record]) -> bytes:
        return super().encode([*{record.call_id or id(record): record for record in batch}.values()])


@caught_by("a_refused_record_holds_up_no_other")
class PoisonIsAnOutage(Good):
    """An index has its limits: a btree's entry is at most a third of a page."""

    def write(self, batch: Sequence[Record]) -> None:
        if any(len(record.call_id or "") > 2704 for record in batch):
            raise StorageError("write", "store", "index row size exceeds the maximum")
        super().write(batch)


@caught_by("a_refused_record_holds_up_no_other")
class NamesTheWrongRecord(Good):
    def write(self, batch: Sequence[Record]) -> None:
        if any(len(record.buf) > 1 << 21 for record in batch):
            raise RecordError("write", "store", "too long", refused=0)
        super().write(batch)


@caught_by("a_refused_record_holds_up_no_other")
class LosesTheOthers(Good):
    def write(self, batch: Sequence[Record]) -> None:
        long = [at for at, record in enumerate(batch) if len(record.buf) > 1 << 21]
        if long:
            raise RecordError("write", "store", "too long", long, others_stored=True)
        super().write(batch)


# ---- costs ----


@caught_by("memory_does_not_grow_with_records")
class KeepsTheSegment(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._kept: list[Record] = []

    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        self._kept += batch

    def close(self) -> None:
        super().close()
        self._kept.clear()


@caught_by("memory_does_not_grow_with_records")
class KeepsEveryCallId(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._known: set[str | None] = set()

    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        self._known |= {record.call_id for record in batch}


@caught_by("record_size_is_not_far_off")
class SaysAMegabyte(Good):
    def record_size(self, record: Record) -> int:
        return 1 << 20


@caught_by("record_size_is_not_far_off")
class SaysTenTimesTheSize(Good):
    def record_size(self, record: Record) -> int:
        return 10 * super().record_size(record)


@caught_by("record_size_is_quick")
class SizeTakesTime(Good):
    def record_size(self, record: Record) -> int:
        end = time.perf_counter() + 0.0002
        while time.perf_counter() < end:
            pass
        return super().record_size(record)


@caught_by("record_size_is_quick")
class SizeAsksTheDisk(Good):
    def record_size(self, record: Record) -> int:
        return super().record_size(record) + 0 * len(os.listdir("/"))

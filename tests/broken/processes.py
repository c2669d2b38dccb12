"""Backends that are bad company: what they leave open, take for granted, or lose when something fails."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import attrs

from sipdump_core import (
    Backend,
    ClosedError,
    FormatError,
    Record,
    Segment,
    SegmentExistsError,
    Site,
    StorageError,
    StoredSegment,
    at_least,
    option,
)  # fmt: skip
from tests.broken.good import Good, caught_by

# ---- drivers and options ----


@attrs.frozen
class Options:
    """Options as they should be."""

    width: int = option(80, unit="characters", help="how wide", check=at_least(1))
    colour: str = option("red", help="what colour")


@caught_by("options_round_trip")
class IgnoresOptions(Good):
    options = Options

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(Options(), site)


@caught_by("options_round_trip")
class ForgetsOneOption(Good):
    options = Options

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(attrs.evolve(options, colour="red"), site)


@attrs.frozen
class _NoHelp:
    width: int = 80


@caught_by("options_round_trip")
class OptionsWithoutHelp(Good):
    options = _NoHelp


@attrs.frozen
class _WrongDefault:
    width: int = option("80", help="how wide")


@caught_by("options_round_trip")
class DefaultOfAnotherType(Good):
    options = _WrongDefault


@attrs.frozen
class _Cuts:
    colour: str = option("red", help="what colour")

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "colour", self.colour[:3])


@caught_by("options_round_trip")
class OptionsAreCut(Good):
    options = _Cuts


@caught_by("the_driver_is_declared")
class FlagIsNoPowerOfTwo(Good):
    flag = 768


@caught_by("the_driver_is_declared")
class SuffixWithoutADot(Good):
    suffix = "good"


@caught_by("the_driver_is_declared")
class SuffixWithASlash(Good):
    suffix = ".d/good"


@caught_by("the_driver_is_declared")
class NameInCapitals(Good):
    name = "Good Backend"


@caught_by("the_driver_is_declared")
class OtherVersion(Good):
    api = 3


@caught_by("the_driver_is_declared")
class LosesTheMessage(Good):
    loses = ("buf",)


@caught_by("the_driver_is_declared")
class ListsAndNeverDeletes(Good):
    delete = Backend.delete


@caught_by("the_constructor_touches_nothing")
class ConstructorMakesTheFolder(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        os.makedirs(site.folder, exist_ok=True)


@caught_by("the_constructor_touches_nothing")
class ConstructorMakesAFile(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        with contextlib.suppress(OSError):
            Path(site.folder, "lock").touch()


@caught_by("the_constructor_touches_nothing")
class ConstructorStartsAThread(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._end = threading.Event()
        threading.Thread(target=self._end.wait, args=(2.0,), daemon=True).start()


@caught_by("the_constructor_touches_nothing")
class ConstructorLists(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._there = os.listdir(site.folder)


@caught_by("health_and_stats_are_of_their_type")
class HealthIsABool(Good):
    def health(self) -> str:
        return True  # type: ignore[return-value]  # that is the fault


@caught_by("health_and_stats_are_of_their_type")
class HealthSaysOk(Good):
    def health(self) -> str:
        return "ok"


@caught_by("health_and_stats_are_of_their_type")
class HealthBeforeStartRaises(Good):
    def start(self) -> None:
        self._state = ""

    def health(self) -> str:
        return self._state


@caught_by("health_and_stats_are_of_their_type")
class StatsAreFloats(Good):
    def stats(self) -> Mapping[str, int]:
        return {"mean": 0.5}  # type: ignore[dict-item]  # that is the fault


# ---- what is left behind ----


@caught_by("nothing_is_left_open")
class LeaksTheFile(Good):
    def close(self) -> None:
        if self._fd >= 0:
            os.dup(self._fd)
        super().close()


@caught_by("nothing_is_left_open")
class LeaksWhenANameIsTaken(Good):
    def open(self, segment: Segment) -> None:
        folder = os.open(self.site.folder, os.O_RDONLY)
        super().open(segment)
        os.close(folder)


@caught_by("nothing_is_left_open")
class LeaksWhenReadingEndsEarly(Good):
    _files: ClassVar[list[Any]] = []

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        file = open(stored.location, "rb")  # noqa: SIM115 - that is the fault
        self._files.append(file)
        yield from self.decode(file)
        file.close()


@caught_by("nothing_is_left_open")
class LeaksAThread(Good):
    """Ends nothing in stop()."""

    def start(self) -> None:
        threading.Thread(target=threading.Event().wait, args=(30.0,), daemon=True).start()


@caught_by("nothing_is_left_open")
class LeaksAProcess(Good):
    _processes: ClassVar[list[Any]] = []

    def start(self) -> None:
        self._processes.append(subprocess.Popen(["sleep", "30"]))


@caught_by("the_process_is_left_as_it_is")
class TakesASignal(Good):
    def start(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, lambda *_: None)


@caught_by("the_process_is_left_as_it_is")
class SetsTheUmask(Good):
    def open(self, segment: Segment) -> None:
        os.umask(0o077)
        super().open(segment)


@caught_by("the_process_is_left_as_it_is")
class ChangesTheDirectory(Good):
    def open(self, segment: Segment) -> None:
        os.chdir(self.site.folder)
        super().open(segment)


@caught_by("the_process_is_left_as_it_is")
class SetsTheEnvironment(Good):
    def start(self) -> None:
        os.environ["GOOD_FOLDER"] = self.site.folder


# ---- crashes and failures ----


@caught_by("a_crash_loses_nothing_that_was_flushed")
class LosesItAllAtACrash(Good):
    """Start takes what a crash left for rubbish."""

    def close(self) -> None:
        super().close()
        with contextlib.suppress(AttributeError, FileNotFoundError):
            Path(self._path + ".sealed").touch()

    def start(self) -> None:
        for stored in super().segments():
            if stored.sealed and not os.path.exists(stored.location + ".sealed"):
                self.delete(stored)


@caught_by("a_crash_loses_nothing_that_was_flushed")
class StoresTwiceAfterACrash(Good):
    """Start takes up what a crash left, each time anew."""

    def start(self) -> None:
        for stored in [*super().segments()]:
            if stored.sealed and stored.records is None:
                recovered = Good(self.opts, self.site)
                segment = stored.segment.next()
                while os.path.exists(os.path.join(self.site.folder, segment.name)):
                    segment = segment.next()
                recovered.open(segment)
                recovered.write([*self.read(stored)])
                recovered.close()


@caught_by("a_crash_loses_nothing_that_was_flushed")
class OpenForEverAfterACrash(Good):
    """A file beside the segment says that it is open; nobody takes it away."""

    def open(self, segment: Segment) -> None:
        super().open(segment)
        Path(self._path + ".open").touch()

    def close(self) -> None:
        if self._fd >= 0:
            os.unlink(self._path + ".open")
        super().close()

    def segments(self) -> Iterable[StoredSegment]:
        for stored in super().segments():
            yield attrs.evolve(stored, sealed=not os.path.exists(stored.location + ".open"))


@caught_by("a_crash_loses_nothing_that_was_flushed")
class ListingFailsAfterACrash(Good):
    def segments(self) -> Iterable[StoredSegment]:
        for stored in super().segments():
            if stored.sealed and stored.records is None:
                raise ValueError("the segment has no trailer")
            yield stored


@caught_by("a_failed_write_stores_nothing_of_its_batch")
class LeavesHalfABatch(Good):
    def write(self, batch: Sequence[Record]) -> None:
        for record in batch:
            super().write([record])


@caught_by("a_failed_write_stores_nothing_of_its_batch")
class LeavesATornRecord(Good):
    def _append(self, data: bytes | memoryview) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise StorageError.from_os("write", self._path, error) from error
        self._size += len(data)


@caught_by("a_failed_write_stores_nothing_of_its_batch")
class SwallowsAFullDisk(Good):
    def write(self, batch: Sequence[Record]) -> None:
        if self._fd < 0:
            raise ClosedError("write: no segment is open")
        with contextlib.suppress(StorageError):
            super().write(batch)


@caught_by("a_failed_write_stores_nothing_of_its_batch")
class AFullDiskIsAnOsError(Good):
    def write(self, batch: Sequence[Record]) -> None:
        try:
            super().write(batch)
        except StorageError as error:
            raise OSError(27, "File too large") from error


@caught_by("an_outage_is_a_storage_error")
class OpenRaisesOsErrors(Good):
    def open(self, segment: Segment) -> None:
        os.listdir(self.site.folder)
        super().open(segment)


@caught_by("an_outage_is_a_storage_error")
class ListingRaisesOsErrors(Good):
    def segments(self) -> Iterable[StoredSegment]:
        os.listdir(self.site.folder)
        return super().segments()


@caught_by("a_forked_child_leaves_the_segment_alone")
class ForgetCloses(Good):
    """The child seals, and without records removes, what belongs to its parent."""

    def forget(self) -> None:
        self._records = 0
        self.close()


@caught_by("a_forked_child_leaves_the_segment_alone")
class ForgetRaises(Good):
    def forget(self) -> None:
        raise NotImplementedError


@caught_by("others_may_look_while_it_writes")
class ListingSharesState(Good):
    """Listing and writing use one variable."""

    def segments(self) -> Iterable[StoredSegment]:
        size, self._size = self._size if self._fd >= 0 else 0, 0
        listed = [*super().segments()]
        time.sleep(0.01)  # so that a write comes in between, however busy the machine is
        self._size = size
        return listed

    def _append(self, data: bytes | memoryview) -> None:
        os.pwrite(self._fd, data, self._size)
        self._size += len(data)


@caught_by("others_may_look_while_it_writes")
class WritesTwiceABatch(Good):
    """A reader may see the lengths of a record before the record."""

    def _append(self, data: bytes | memoryview) -> None:
        for part in (b"\0" * len(data), data):
            os.pwrite(self._fd, part, self._size)
            time.sleep(0.001)
        self._size += len(data)


@caught_by("no_segment_is_lost_when_clocks_change")
class KeysByTheMoment(Good):
    """Names its files by the start in UTC seconds: two segments of an hour that comes twice are one."""

    def open(self, segment: Segment) -> None:
        start = int(segment.start)
        if any(s.segment.sequence == 0 and int(s.segment.start) == start for s in super().segments()):
            raise StorageError("open", segment.name, "its start is taken")
        super().open(segment)


@caught_by("no_segment_is_lost_when_clocks_change")
class RefusesAClockThatStepsBack(Good):
    _latest = 0.0

    def open(self, segment: Segment) -> None:
        if segment.start < self._latest:
            raise SegmentExistsError("open", segment.name, "a later one is there")
        self._latest = segment.start
        super().open(segment)


@caught_by("a_crash_loses_nothing_that_was_flushed")
class FlushesToMemory(Good):
    """flush() shows what was written to readers of this process, from memory; the disk has it at the end."""

    _memory: ClassVar[dict[str, list[Record]]] = {}

    def write(self, batch: Sequence[Record]) -> None:
        if self._fd < 0:
            raise ClosedError("write: no segment is open")
        self._memory.setdefault(self._path, []).extend(batch)

    def close(self) -> None:
        if self._fd >= 0:
            records = self._memory.pop(self._path, [])
            if records:
                super().write(records)
        super().close()

    def read(self, stored: StoredSegment) -> Iterator[Record]:
        yield from list(self._memory.get(stored.location, [])) or super().read(stored)


# ---- what is said, and what is declared ----


@caught_by("storing_is_silent")
class Prints(Good):
    def segments(self) -> Iterable[StoredSegment]:
        print("listing", self.site.folder)
        return super().segments()


@caught_by("storing_is_silent")
class LogsEachRecord(Good):
    def frame(self, record: Record) -> bytes:
        logging.getLogger("sipdump.good").info("stored %s", record.call_id)
        return super().frame(record)


@caught_by("the_process_is_left_as_it_is")
class SetsTheRecursionLimit(Good):
    def start(self) -> None:
        sys.setrecursionlimit(sys.getrecursionlimit() + 10)


@caught_by("the_constructor_touches_nothing")
class ConstructorOpensAFile(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._opened = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._opened)


@caught_by("a_failed_write_stores_nothing_of_its_batch")
class AFailedFlushForgets(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._held: list[Record] = []

    def write(self, batch: Sequence[Record]) -> None:
        if self._fd < 0:
            raise ClosedError("write: no segment is open")
        self._held += batch

    def flush(self) -> None:
        held, self._held = self._held, []
        if held and self._fd >= 0:
            super().write(held)

    def close(self) -> None:
        self.flush()
        super().close()


@caught_by("damage_is_an_error_of_sipdump")
class DamageIsAnyError(Good):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        try:
            yield from super().decode(file)
        except FormatError as error:
            raise KeyError(str(error)) from error


@caught_by("the_driver_is_declared")
class RequiresAString(Good):
    requires = "json"


@caught_by("the_driver_is_declared")
class TakesTheNameOfASource(Good):
    name = "hep"


@attrs.frozen
class _Bools:
    width: int = option(80, help="how wide", check=lambda value: value > 0)


@caught_by("options_round_trip")
class OptionChecksGiveBools(Good):
    options = _Bools


@attrs.frozen
class _Refused:
    width: int = option(0, help="how wide", check=at_least(1))


@caught_by("options_round_trip")
class DefaultIsRefused(Good):
    options = _Refused

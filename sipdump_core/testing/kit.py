"""The base of the contract's checks: the hooks that an author overrides, and how records are compared."""

import contextlib
import functools
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.capabilities import Opens, Reads, can
from sipdump_core.drivers.discovery import discover
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import ConfigError, PartialWriteError, RecordError, SipDumpError, StorageError
from sipdump_core.record import Flow, Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.testing.promise import does_not_apply, not_checked
from sipdump_core.testing.proxy import FaultProxy

__all__ = ["CLOCKS_APART", "Kit", "content", "drivers", "installed", "names", "tree", "zone"]

CLOCKS_APART = 300.0
"""Seconds that a store's clock may be off; local time taken for UTC, or milliseconds for seconds, is more."""

# More records than any check writes, to distinguish a reader that never ends from one that yields too many.
_MOST = 300_000
_TRIES = 10
_FLOW_FIELDS = tuple(field.name for field in attrs.fields(Flow))
drivers = functools.cache(discover)  # they stay the same while the checks run, which make hundreds of backends


def installed(name: str, site: Site) -> Backend:
    """Make the backend of an installed driver with its default options, for one that stores through it (``Site.make``).

    Raises:
        ConfigError: there is none of that name.
    """
    for driver in drivers():
        if driver.name == name and driver.cls and issubclass(driver.cls, Backend):
            return driver.cls(driver.cls.options(), site)
    raise ConfigError(f"no backend {name!r} is installed")


class Kit:
    """The hooks. A subclass names its ``backend_class``, and overrides of the rest what is not so for its backend."""

    backend_class: type[Backend] = Backend
    """The backend to check; it must be overridden."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Values for the backend's options, by name; the others have their defaults."""
    time_limit: ClassVar[float] = 120.0
    """Seconds that a check may take; what takes longer is taken for hanging."""
    patience: ClassVar[float] = 3.0
    """Seconds that what works in the background may take to end after ``stop``: threads, connections."""
    longest_call: ClassVar[float] = 10.0
    """Seconds that ``write`` and ``flush`` may take together while the store is silent."""
    poison: ClassVar[Sequence[Record]] = ()
    """Records that the store refuses for ever, whatever they are: a number too large for a column, say."""
    proxy: FaultProxy | None = None
    """The proxy through which the backend reaches its store, if it does so by TCP."""

    def make_backend(self, site: Site) -> Backend:
        """Make an instance. Every site has a folder and a prefix of its own, which no other check uses."""
        if self.backend_class is Backend:
            raise NotImplementedError(f"{type(self).__name__} must say which backend it checks: backend_class")
        return self.backend_class(self.backend_class.options(**self.options), site)

    def kept(self, original: Record) -> Record:
        """Return what a record becomes when stored and read back; ``loses`` and ``longest`` are handled elsewhere."""
        return original

    def settle(self, backend: Backend) -> None:
        """Wait for what the backend does in the background after a ``close``, so that the segment is sealed."""
        backend.stop()
        backend.start()

    def received(self, backend: Backend) -> list[Record]:
        """Return all records that the store holds for the backend's site, in the order of writing.

        The default reads them with an instance that never wrote. A backend that cannot read overrides this and asks
        its store, or the store's stand-in; otherwise the checks that depend on it are reported as not checked.
        """
        reader = self.reader(backend)
        segments = sorted(self.segments(reader), key=lambda stored: stored.segment)
        return [record for stored in segments for record in self.read(reader, stored)]

    @contextlib.contextmanager
    def outage(self, backend: Backend) -> Iterator[None]:
        """Make the store unreachable for a while: the proxy, if there is one, or the folder of a backend of files."""
        if self.proxy:
            with self.proxy.down():
                yield
            return
        if not isinstance(backend, FolderBackend):
            not_checked("outage() is not overridden, so the store cannot be made unreachable")
        folder = Path(backend.site.folder)
        aside = folder.rename(folder.with_name(folder.name + ".aside"))
        try:
            yield
        finally:
            aside.rename(folder)

    def clean(self, backend: Backend) -> None:
        """Delete what the store holds for the backend's site; the files in its folder go with the folder."""
        if backend.has_lifecycle():
            stored = [each for each in backend.segments() if not each.location.startswith(backend.site.folder)]
            list(backend.delete_many(stored))

    # ---- what the checks use ----

    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        """Yield a site with a folder and a prefix; what a store elsewhere holds for it is deleted afterwards."""
        folder = tmp_path / "store"
        folder.mkdir()
        site = Site(str(folder), f"kit-{uuid.uuid4().hex[:8]}-", make=installed)
        yield site
        with contextlib.suppress(Exception):  # the checks report what it left, not this
            self.clean(self.make_backend(site))

    @pytest.fixture
    def backend(self, site: Site) -> Iterator[Backend]:
        """Yield a started backend."""
        with self.started(site) as backend:
            yield backend

    @contextlib.contextmanager
    def started(self, site: Site) -> Iterator[Backend]:
        """Make a backend, start it, and end it afterwards."""
        backend = self.make_backend(site)
        self._started().append((backend, site))
        with self.ended(backend):
            backend.start()
            yield backend

    @contextlib.contextmanager
    def ended(self, backend: Backend) -> Iterator[None]:
        """End a backend after use."""
        try:
            yield
        finally:
            for end in (backend.close, backend.stop):
                with contextlib.suppress(Exception):  # other checks test whether these work
                    end()

    def site_of(self, backend: Backend) -> Site:
        """Return the site that a backend was started with, whatever it has changed in it."""
        return next((site for one, site in self._started() if one is backend), backend.site)

    def _started(self) -> list[tuple[Backend, Site]]:
        started: list[tuple[Backend, Site]] = self.__dict__.setdefault("_instances", [])
        return started

    def reader(self, backend: Backend) -> Backend:
        """Return another instance for the same site, never started."""
        return self.make_backend(self.site_of(backend))

    def segment(self, backend: Backend, second: int = 0) -> Segment:
        """Name a segment: an hour ago, so that no backend gets it right from its own clock, plus ``second`` s."""
        hour_ago = self.__dict__.setdefault("_hour_ago", int(time.time()) - 3600)
        return attrs.evolve(Segment.starting(self.site_of(backend).prefix, hour_ago + second), suffix=backend.suffix)

    def write(self, backend: Backend, *batches: Sequence[Record], second: int = 0) -> Segment:
        """Write a segment and close it."""
        segment = self.segment(backend, second)
        backend.open(segment)
        for batch in batches:
            backend.write(Batch(batch))
        backend.close()
        return segment

    def deliver(
        self, backend: Backend, batch: Sequence[Record], fault: Callable[[], None] | None = None
    ) -> list[Record]:
        """Store a batch in a segment of its own as sipdump does it: a batch that fails comes again, in a fresh one.

        Args:
            backend: it is started.
            batch: the records.
            fault: is called between the first open and write.

        Returns:
            The records that the store refuses: a RecordError named them.

        Raises:
            AssertionError: it still fails after some tries.
        """
        segment, todo, refused = self.next_segment(backend), Batch(batch), list[Record]()
        reason: object = ""
        for attempt in range(_TRIES):
            time.sleep(min(0.01 * attempt, 0.1))
            try:
                backend.open(segment)
                if fault and not attempt:
                    fault()
                if todo:
                    backend.write(todo)
                break
            except RecordError as error:
                reason = error
                bad = [at for at, one in enumerate(todo) if at in error.refused or one in error.refused]
                refused += [todo[at] for at in bad]
                todo = _without(todo, range(len(todo)) if error.others_stored else bad)
            except PartialWriteError as error:
                reason = error
                todo = _without(todo, [at for at in range(len(todo)) if at not in error.failed])
            except (StorageError, OSError) as error:
                reason = error
            segment = segment.next()
            with contextlib.suppress(StorageError, OSError):
                backend.close()
        else:
            raise AssertionError(f"nothing is wrong with the store, and after {_TRIES} tries it still fails: {reason}")
        for end in (backend.flush, backend.close):  # what they raise is about what is stored already
            with contextlib.suppress(StorageError, OSError):
                end()
        return refused

    def next_segment(self, backend: Backend) -> Segment:
        """Name a segment behind all that this named before."""
        number = self.__dict__["_named"] = self.__dict__.get("_named", -1) + 1
        return self.segment(backend, number)

    def store(self, backend: Backend, *batches: Sequence[Record], second: int = 0) -> StoredSegment:
        """Write a segment, and return it as the store lists it once it is sealed."""
        self.needs_segments(backend)
        segment = self.write(backend, *batches, second=second)
        self.settle(backend)
        return self.find(backend, segment)

    def find(self, backend: Backend, segment: Segment) -> StoredSegment:
        """Return the one listed segment with this name."""
        listed = self.segments(backend)
        found = [stored for stored in listed if stored.segment == segment]
        assert len(found) == 1, f"{segment.name} is listed {len(found)} times; listed are {names(listed)}"
        return found[0]

    def segments(self, backend: Backend) -> list[StoredSegment]:
        """List what the store holds for the backend's site."""
        self.needs_segments(backend)
        return list(islice(backend.segments(), _MOST))

    def needs_segments(self, backend: Backend) -> None:
        """Skip the check if the backend lists no segments."""
        if not backend.has_lifecycle():
            does_not_apply("the backend has no segments(): what it stored is neither listed nor pruned")

    def is_not_full(self, backend: Backend, why: str) -> NoReturn:
        """Skip a check of full disks because nothing failed: a backend of files should have."""
        if isinstance(backend, FolderBackend):
            not_checked(why)
        does_not_apply(f"the store is not in the folder: {why}")

    def needs_open(self, backend: Backend) -> None:
        """Skip the check if the backend has no segments to open and close."""
        if not can(backend, Opens):
            does_not_apply("the backend does not override open() and close(): it has no segments")

    def can_read(self, backend: Backend) -> bool:
        """Return whether the backend has its own ``read`` or ``decode``."""
        return can(backend, Reads)

    def read(self, backend: Backend, stored: StoredSegment) -> list[Record]:
        """Read a segment, but not without end."""
        if not self.can_read(backend):
            not_checked("the backend cannot read its segments, and received() is not overridden")
        records = list(islice(backend.read(stored), _MOST))
        assert len(records) < _MOST, f"reading {stored.segment.name} does not end"
        return records

    def holds(self, backend: Backend, wrote: Iterable[Record]) -> None:
        """Fail unless the store holds exactly these records for the backend's site, in this order."""
        __tracebackhide__ = True
        self.same(backend, list(wrote), self.received(backend))

    def holds_batches(self, backend: Backend, batches: Sequence[Sequence[Record]]) -> None:
        """Fail unless the store holds these batches in this order, each whole, once or twice: never a part of one."""
        __tracebackhide__ = True
        found = self.received(backend)
        at = repeats = 0
        for number, batch in enumerate(batches):
            self.same(backend, batch, found[at : at + len(batch)])
            at += len(batch)
            if self._is_same(backend, batch, found[at : at + len(batch)]):
                at += len(batch)
                repeats += 1
            more = len(found) - at if number == len(batches) - 1 else 0
            assert not more, f"behind {len(batches)} batches and {repeats} repeated ones there are {more} records more"

    def _is_same(self, backend: Backend, wrote: Sequence[Record], found: Sequence[Record]) -> bool:
        pairs = zip(wrote, found, strict=False)
        return len(wrote) == len(found) and not any(_differences(backend, self.kept(a), b) for a, b in pairs)

    def same(self, backend: Backend, wrote: Sequence[Record], found: Sequence[Record]) -> None:
        """Fail unless what was read is what was written, as far as the backend keeps it."""
        __tracebackhide__ = True
        for number, (one, other) in enumerate(zip(wrote, found, strict=False)):
            differences = _differences(backend, self.kept(one), other)
            assert not differences, (
                f"of {len(wrote)} written and {len(found)} read records number {number} differs: {differences}"
            )
        assert len(wrote) == len(found), f"{len(wrote)} records were written, {len(found)} are read"

    @staticmethod
    def raises_storage_error(call: Callable[[], Any]) -> bool:
        """Return whether a call raises; the exception must be from sipdump's tree."""
        try:
            call()
        except SipDumpError:
            return True
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} is not an error of sipdump_core: {error}") from error
        return False

    @staticmethod
    def raises_any(call: Callable[[], Any]) -> bool:
        """Return whether a call raises, whatever it is."""
        with Guard() as guard:
            call()
        return guard.error is not None


def _without(batch: Batch, places: Iterable[int]) -> Batch:
    left = sorted({*range(len(batch))} - {*places})
    return batch.part(left) if left else Batch()


@contextlib.contextmanager
def zone(rules: str) -> Iterator[None]:
    """Set the process's time zone for a while."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = rules
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def names(listed: Iterable[StoredSegment]) -> str:
    """Return the names of segments, for a failure message."""
    return ", ".join(stored.segment.name for stored in listed) or "none"


def content(stored: StoredSegment) -> bytes:
    """Return what a segment's file holds; nothing, if its location is no file."""
    path = Path(stored.location)
    return path.read_bytes() if path.is_file() else b""


def tree(folder: Path) -> dict[str, Any]:
    """Return everything in a folder by name: mode and, of files, content."""
    return {
        str(path.relative_to(folder)): (status.st_mode, path.read_bytes() if stat.S_ISREG(status.st_mode) else b"")
        for path, status in _walk(folder)
    }


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in sorted(folder.rglob("*")):
        yield path, path.lstat()


def _differences(backend: Backend, one: Record, other: Record) -> str:
    loses = backend.loses
    if type(other) is not Record or type(other.buf) is not bytes or type(other.time_us) is not int:
        return f"it is not a Record with bytes as buf and int as time_us: {other!r:.200}"
    longest = backend.longest
    if 0 < longest < len(one.buf) and longest <= len(other.buf):
        one = attrs.evolve(one, buf=one.buf[: len(other.buf)])
    found = []
    if one.time_us != other.time_us and "time_us" not in loses:
        found.append(f"time_us {one.time_us} is {other.time_us}")
    if one.flow != other.flow:
        found += [
            f"{name} {getattr(one.flow, name)!r} is {getattr(other.flow, name)!r}"
            for name in _FLOW_FIELDS
            if name not in loses and getattr(one.flow, name) != getattr(other.flow, name)
        ]
    if one.buf != other.buf:
        found.append(f"buf {_shown(one.buf)} is {_shown(other.buf)}")
    return ", ".join(found)


def _shown(buf: bytes) -> str:
    return f"{buf!r}" if len(buf) <= 60 else f"{buf[:40]!r}... of {len(buf)} bytes"

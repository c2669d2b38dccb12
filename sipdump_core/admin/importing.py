"""``sipdump-admin import``: files of other places, stored in backends, by way of the configuration's filters."""

import argparse
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import attrs

from sipdump_core.admin.arguments import add_json, add_store
from sipdump_core.admin.output import Output, Progress
from sipdump_core.config.reader import override, read_config
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.capabilities import Lists, Reads, can
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import blaming
from sipdump_core.drivers.metadata import OURS
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.errors import ConfigError, DriverError, SegmentExistsError, SipDumpError, StorageError
from sipdump_core.lifecycle import meta_file
from sipdump_core.lifecycle.retention import PATIENCE, listed
from sipdump_core.log import warnings_to
from sipdump_core.pipeline.delivery import STALL
from sipdump_core.pipeline.filters import BY_ITSELF, Filters
from sipdump_core.plan import make_plan
from sipdump_core.reading.lines import counted
from sipdump_core.reading.shelves import Shelf, Shelved, open_shelves
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.modules import CORE
from sipdump_core.settings.options import Setting
from sipdump_core.version import VERSION
from sipdump_core.workshop import Workshop

__all__ = ["add_import", "importing"]

_BATCH = 1000
_SYNC_WAIT = 30.0
"""Seconds that the end waits for a slow disk."""
_META_LIMIT = 1 << 20
"""Characters of a process table."""
_MARKED = 1000
"""Bytes of a message that tell it from others of the same moment; one backend cuts long messages."""


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``import``."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=".data, .pcap, .parquet of ours or Kamailio's; any pcap or pcapng"
    )
    add_store(parser)
    help_to = "the backends, with commas between (default: those that the configuration switches on)"
    parser.add_argument("--to", metavar="NAMES", help=help_to)
    help_again = "store also what is there already; otherwise a file that was imported before is refused"
    parser.add_argument("--again", action="store_true", help=help_again)
    parser.add_argument("--node", default="", metavar="NAME", help="the node of what a network's capture holds")
    add_json(parser)
    parser.set_defaults(run=importing)


def importing(args: argparse.Namespace, output: Output) -> int:
    """Store the messages of files: a segment for each file, and one more whenever ``rotate`` passes in it."""
    plan = make_plan(_settings(args), to_start=False)
    names = [driver.name for driver in plan.chosen if driver.kind == "backend"]
    if not names:
        raise ConfigError("no backend is switched on: name some with --to")
    shelves, _ = open_shelves(files=args.files, node=args.node)
    rows = []
    with output.progress("import", "messages") as progress:
        target = _Target(Workshop(plan), names, again=args.again)
        for shelf, path in zip(shelves, args.files, strict=True):
            importer = _Importer(target, path, plan.params.rotate, progress)
            problems: list[str] = []
            error = None
            try:
                with warnings_to(problems.append):
                    importer.run(shelf)
            except SipDumpError as failed:
                error = str(failed)
                output.error(f"{path}: {failed}")
            for problem in problems:
                output.note(problem)
            records, segments = importer.records, importer.segments
            rows.append({"file": path, "records": records, "segments": segments, "error": error, "problems": problems})
            stored = f"{counted(records, 'record')} in {counted(segments, 'segment')} of {', '.join(names)}"
            stored += f"; {counted(importer.dropped, 'record')} dropped by filters" if importer.dropped else ""
            output.say(f"{path}: {stored}")
    return output.result(rows)


def _settings(args: argparse.Namespace) -> list[Setting]:
    if not (args.config or args.folder):
        raise ConfigError("say where to store: -f FILE, or --folder DIR --to NAMES")
    if not (args.config or args.to):
        raise ConfigError("say in which backends to store: --to parquet, say")
    settings = read_config(args.config, args.defines).settings if args.config else []
    filters = _filters(settings) if args.to else []
    given = [("folder", args.folder), ("fprefix", args.fprefix)]
    options = [Setting(CORE, name, value, f"--{name}") for name, value in given if value is not None]
    if args.to:
        place = f"--to {args.to}"
        options.append(Setting(CORE, "mode", 0, place))
        names = [name.strip() for name in args.to.split(",")]
        options += [Setting(CORE, "backend", name, place) for name in dict.fromkeys([*filters, *names])]
    return override(settings, options)


def _filters(settings: Sequence[Setting]) -> list[str]:
    """Return the names of the filters that a configuration switches on: ``--to`` names other backends, not those."""
    plan = make_plan(settings, to_start=False)
    return [filter_.name for filter_ in Workshop(plan).filters()]


def _batches(records: Iterator[Record], failed: list[SipDumpError]) -> Iterator[list[Record]]:
    """Yield records in batches, up to where they cannot be read; ``failed`` gets the error."""
    batch: list[Record] = []
    try:
        for record in records:
            batch.append(record)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    except SipDumpError as error:
        failed.append(error)
    if batch:
        yield batch


_Mark = tuple[int, str, int, str, int, bytes]


class _Target:
    """Where files are stored, and which records are there already.

    Args:
        workshop: makes the backends.
        names: the backends' names.
        again: store also what is there already.
    """

    def __init__(self, workshop: Workshop, names: Sequence[str], *, again: bool) -> None:
        self.site = workshop.site()
        self.filters = Filters(workshop.filters())
        self.backends = [workshop.backend(name, self.site) for name in names]
        self._again = again
        self._marks: set[_Mark] = set()
        """Of the first records of this command's files."""

    def refuse_again(self, first: Record, segment: Segment) -> None:
        """Refuse a file that was stored before: a segment of the same moment has its first record.

        Raises:
            StorageError: it was, or the store cannot be read.
        """
        mark = _mark(first)
        if not self._again and (mark in self._marks or self._is_stored(mark, segment)):
            raise StorageError("import", segment.stem, "it is stored already", "--again stores it once more")
        self._marks.add(mark)

    def _is_stored(self, mark: _Mark, segment: Segment) -> bool:
        query = Query(since_us=mark[0], until_us=mark[0] + 1)
        for backend in self.backends:
            if not (can(backend, Lists) and can(backend, Reads)):
                continue
            for stored in listed(backend, PATIENCE):
                if (stored.segment.prefix, stored.segment.stamp) == (segment.prefix, segment.stamp):
                    found = Shelved(backend, stored).search(query)
                    if mark in map(_mark, found):
                        return True
        return False


def _mark(record: Record) -> _Mark:
    """Return what every backend keeps of a record."""
    return record.time_us, record.src_ip, record.src_port, record.dst_ip, record.dst_port, record.buf[:_MARKED]


class _Importer:
    """Stores the records of one file.

    Args:
        target: where.
        path: the file.
        rotate: how long a segment is, in seconds.
        progress: is told how many records are stored.
    """

    def __init__(self, target: _Target, path: str, rotate: float, progress: Progress) -> None:
        self.records = 0
        self.segments = 0
        self.dropped = 0
        """Records that filters have dropped."""
        self._target = target
        self._site = target.site
        self._backends = target.backends
        self._path = path
        self._rotate_us = int(rotate * 1_000_000)
        self._progress = progress
        self._until_us = 0
        self._segment: Segment | None = None

    def run(self, shelf: Shelf) -> None:
        """Store all of a file.

        Raises:
            SipDumpError: it cannot be read, or a backend refuses; what was stored before stays.
        """
        with ExitStack() as started:
            started.callback(SYNCER.finish, _SYNC_WAIT)
            for backend in self._backends:
                with blaming(backend, "start"):
                    backend.start()
                started.callback(self._stop, backend)
            for shelved in shelf.segments():
                self._store(shelved.search(Query()), shelved.stored.segment)

    def _store(self, records: Iterator[Record], source: Segment) -> None:
        failed: list[SipDumpError] = []
        for unfiltered in _batches(records, failed):
            batch = self._filtered(unfiltered)
            while batch:
                if self._segment is None or batch[0].time_us >= self._until_us:
                    self._begin(batch[0], source)
                count = next((n for n, record in enumerate(batch) if record.time_us >= self._until_us), len(batch))
                for backend in self._backends:
                    with blaming(backend, "write"):
                        backend.write(Batch(batch[:count]))
                self.records += count
                self._progress.step(count)
                batch = batch[count:]
        self._seal()
        if failed:
            raise failed[0]

    def _filtered(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return what the filters leave of records.

        Raises:
            DriverError: a filter fails: the rest of the file is not stored.
        """
        kept = self._target.filters.all(records)
        for name, stats in self._target.filters.stats().items():
            for reason, count in stats.dropped.items():
                if reason != BY_ITSELF:
                    raise DriverError(f"{counted(count, 'record')} dropped at the filter {name}: {reason}")
        self.dropped += len(records) - len(kept)
        return kept

    def _begin(self, first: Record, source: Segment) -> None:
        """Open a segment: the first one has the time of the file's name, if it has any, so that both are one."""
        self._seal()
        segment = Segment.starting(self._site.prefix, first.time_us / 1_000_000)
        if not self.segments:
            if source.stamp:
                segment = attrs.evolve(segment, stamp=source.stamp)
            self._target.refuse_again(first, segment)
        self._until_us = first.time_us + self._rotate_us
        suffixes = [backend.suffix for backend in self._backends if isinstance(backend, FolderBackend)]
        if suffixes:
            text = self._meta(segment)
            segment = meta_file.claim(attrs.evolve(self._site, meta=lambda: text), segment, suffixes)
        for backend in self._backends:
            self._open(backend, segment)
        self._segment = segment
        self.segments += 1

    def _meta(self, segment: Segment) -> str:
        """Return the process table that is beside the file, as Kamailio writes it; else one without processes."""
        path = f"{os.path.splitext(self._path)[0]}{meta_file.META_SUFFIX}"
        with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_META_LIMIT)
        return f"v: 1.0\nversion: sipdump {VERSION}\nstart: {time.ctime(segment.start)}\nnrprocs: 0\n"

    @staticmethod
    def _open(backend: Backend, segment: Segment) -> None:
        while True:
            try:
                with blaming(backend, "open"):
                    backend.open(attrs.evolve(segment, suffix=backend.suffix))
            except SegmentExistsError:
                segment = segment.next()
            else:
                return

    def _seal(self) -> None:
        if self._segment is not None:
            self._segment = None
            for backend in self._backends:
                with blaming(backend, "close"), _in_time(backend, "close"):
                    backend.close()

    @staticmethod
    def _stop(backend: Backend) -> None:
        with blaming(backend, "stop"), _in_time(backend, "stop"):
            backend.close()
            backend.stop()


@contextmanager
def _in_time(backend: Backend, operation: str) -> Iterator[None]:
    """Interrupt a call of a third party that takes longer than its ``stop_seconds``, if this is the main thread.

    Raises:
        DriverError: it has not returned in time.
    """
    if backend.site.distribution.startswith(f"{OURS} ") or threading.current_thread() is not threading.main_thread():
        yield
        return
    seconds = max(STALL, backend.stop_seconds)

    def interrupt(*_: object) -> None:
        raise DriverError(f"{operation}: the backend {backend.name} has not returned within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

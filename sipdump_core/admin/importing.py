"""``sipdump-admin import``: files of other places, stored in backends."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice

import attrs

from sipdump_core.admin.arguments import add_json, add_store
from sipdump_core.admin.output import Output, Progress
from sipdump_core.config.reader import override, read_config
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import blaming
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.errors import ConfigError, SegmentExistsError, SipDumpError
from sipdump_core.lifecycle import meta_file
from sipdump_core.plan import make_plan
from sipdump_core.reading.shelves import Shelf, open_shelves
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
_META = f"v: 1.0\nversion: sipdump {VERSION}\nstart: -\nnrprocs: 0\n"
"""The process table of what was imported: it is not known."""


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``import``."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=".data, .pcap, .parquet of ours or Kamailio's; any pcap or pcapng"
    )
    add_store(parser)
    help_to = "the backends, with commas between (default: those that the configuration switches on)"
    parser.add_argument("--to", metavar="NAMES", help=help_to)
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
        for shelf, path in zip(shelves, args.files, strict=True):
            importer = _Importer(Workshop(plan), names, plan.params.rotate, progress)
            error = None
            try:
                importer.run(shelf)
            except SipDumpError as failed:
                error = str(failed)
                output.error(f"{path}: {failed}")
            row = {"file": path, "records": importer.records, "segments": importer.segments, "error": error}
            output.say(f"{path}: {row['records']} records in {row['segments']} segments of {', '.join(names)}")
            rows.append(row)
    return output.result(rows)


def _settings(args: argparse.Namespace) -> list[Setting]:
    if not (args.config or args.folder):
        raise ConfigError("say where to store: -f FILE, or --folder DIR --to NAMES")
    if not (args.config or args.to):
        raise ConfigError("say in which backends to store: --to parquet, say")
    settings = read_config(args.config, args.defines).settings if args.config else []
    given = [("folder", args.folder), ("fprefix", args.fprefix)]
    options = [Setting(CORE, name, value, f"--{name}") for name, value in given if value is not None]
    if args.to:
        place = f"--to {args.to}"
        options.append(Setting(CORE, "mode", 0, place))
        options += [Setting(CORE, "backend", name.strip(), place) for name in args.to.split(",")]
    return override(settings, options)


class _Importer:
    """Stores the records of one file."""

    def __init__(self, workshop: Workshop, names: Sequence[str], rotate: float, progress: Progress) -> None:
        self.records = 0
        self.segments = 0
        self._site = workshop.site()
        self._backends = [workshop.backend(name, self._site) for name in names]
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
        while batch := list(islice(records, _BATCH)):
            while batch:
                if self._segment is None or batch[0].time_us >= self._until_us:
                    self._begin(batch[0], source)
                count = next((n for n, record in enumerate(batch) if record.time_us >= self._until_us), len(batch))
                for backend in self._backends:
                    with blaming(backend, "write"):
                        backend.write(batch[:count])
                self.records += count
                self._progress.step(count)
                batch = batch[count:]
        self._seal()

    def _begin(self, first: Record, source: Segment) -> None:
        """Open a segment: the first one has the time of the file's name, if it has any, so that both are one."""
        self._seal()
        segment = Segment.starting(self._site.prefix, first.time_us / 1_000_000)
        if not self.segments and source.stamp:
            segment = attrs.evolve(segment, stamp=source.stamp)
        self._until_us = first.time_us + self._rotate_us
        suffixes = [backend.suffix for backend in self._backends if isinstance(backend, FolderBackend)]
        if suffixes:
            segment = meta_file.claim(attrs.evolve(self._site, meta=lambda: _META), segment, suffixes)
        for backend in self._backends:
            self._open(backend, segment)
        self._segment = segment
        self.segments += 1

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
                with blaming(backend, "close"):
                    backend.close()

    @staticmethod
    def _stop(backend: Backend) -> None:
        with blaming(backend, "stop"):
            backend.close()
            backend.stop()

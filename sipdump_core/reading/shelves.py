"""Shelves: where segments are, as it was said: a configuration, a folder, files, a bucket."""

import argparse
import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import Dates, Lists, Reads, Searches, Spans, Unites, can
from sipdump_core.drivers.guard import blaming, each_of
from sipdump_core.drivers.names import names_in
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError, SipDumpError, StorageError
from sipdump_core.lifecycle.retention import PATIENCE, listed
from sipdump_core.pipeline.dead_letter import DeadLetters
from sipdump_core.plan import make_plan
from sipdump_core.reading.units import Holding
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.settings.options import Setting
from sipdump_core.workshop import Workshop

__all__ = ["BackendShelf", "FileShelf", "FolderShelf", "Shelf", "Shelved", "configs_of", "open_shelves"]

DEFAULT_CONFIG = "/etc/sipdump/sipdumpd.cfg"
_STEM = r"\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d(?:-[1-9]\d{0,5})?\."
_STAMPED = re.compile(_STEM)
_PREFIX = re.compile(rf"(.*?){_STEM}", re.DOTALL)
_SLACK = 86400.0
"""Seconds by which a message's time may be off its segment's: the default of sipdump_hep's ``time_window``."""
_S3_URL = re.compile(r"s3://([^/]+)(?:/(.*))?")


@attrs.frozen
class Shelved(Holding):
    """A segment on a shelf."""

    slack: float | None = _SLACK
    """Seconds by which its messages may be older or younger than its name and times say; None: these mean nothing."""

    @property
    def start(self) -> float | None:
        """When it starts, by its name: seconds since the epoch; None where its name has no time."""
        try:
            return self.stored.segment.start
        except ValueError:
            return None

    @property
    def open(self) -> bool:
        """Whether it may still grow."""
        return not self.stored.sealed

    @property
    def newest_us(self) -> int | None:
        """The time of its newest record, microseconds since the epoch; None where that would have to be read."""
        backend = self.backend
        if can(backend, Dates):
            with contextlib.suppress(SipDumpError), blaming(self.backend, "read"):
                return backend.newest(self.stored)
        return None

    @property
    def gone(self) -> bool:
        """Whether there is no file any more where it was; of what is no local file, it is not known, and True."""
        return not os.path.lexists(self.stored.location)

    def is_gone(self, error: SipDumpError) -> bool:
        """Return whether it could not be read because it is not there any more."""
        if "://" in self.stored.location:
            return isinstance(error, StorageError) and error.of_absence
        return self.gone

    def search(self, query: Query) -> Iterator[Record]:
        """Yield its records that are an answer, those of one call in the order in which they came.

        Raises:
            StorageError: it cannot be read.
            DriverError: its driver raises anything else.
        """
        backend, stored = self.backend, self.stored
        if can(backend, Searches):
            return each_of(self.backend, "search", lambda: backend.search(stored, query))
        return filter(query.matches, each_of(backend, "read", lambda: backend.read(stored)))


class Shelf(Protocol):
    """Where segments are."""

    def segments(self) -> Iterable[Shelved]:
        """List them.

        Raises:
            StorageError: they cannot be listed.
        """

    def __str__(self) -> str: ...


@attrs.frozen
class BackendShelf:
    """The segments of one backend.

    Args:
        backend: the backend.
        slack: see :class:`Shelved`.
        all_nodes: also what other collectors stored there.
    """

    backend: Backend
    slack: float | None = _SLACK
    all_nodes: bool = False
    place: str = ""
    """Where it is, for a reader; empty: the backend's folder."""

    def segments(self) -> Iterator[Shelved]:
        """List them, see :meth:`Shelf.segments`."""
        backend = self.backend
        place = os.path.realpath(backend.site.folder)
        if self.all_nodes and can(backend, Spans):
            for node, stored in each_of(self.backend, "list", backend.segments_of_all):
                yield self._shelved(stored, node or place)
            return
        for stored in listed(backend, PATIENCE):
            yield self._shelved(stored, place)

    def _shelved(self, stored: StoredSegment, node: str) -> Shelved:
        backend = self.backend
        if not (stored.sealed and stored.segment.sequence and can(backend, Unites)):
            return Shelved(self.backend, stored, node, slack=self.slack)  # what was merged never has the first name
        with blaming(self.backend, "read"):
            sources = backend.united(stored)
        return Shelved(
            self.backend,
            stored,
            node,
            frozenset(source.stem for source in sources),
            frozenset((source.prefix, source.stamp) for source in sources),
            self.slack,
        )

    def __str__(self) -> str:
        return self.place or f"{self.backend.name} in {self.backend.site.folder}"


class FolderShelf:
    """The segments of all backends of files in a folder.

    Args:
        workshop: makes the backends.
        folder: the folder.
        prefix: what names of segments begin with; None: anything, also what comes later.
    """

    def __init__(self, workshop: Workshop, folder: str, prefix: str | None = None) -> None:
        self._workshop = workshop
        self._folder = folder
        self._prefix = prefix
        self._made: dict[str, tuple[Sequence[BackendShelf], Sequence[SipDumpError]]] = {}

    def segments(self) -> Iterator[Shelved]:
        """List them, see :meth:`Shelf.segments`; an error comes after all that can be listed."""
        failed: list[SipDumpError] = []
        for prefix in _prefixes(self._folder) if self._prefix is None else [self._prefix]:
            shelves, errors = self._of(prefix)
            failed += errors
            for shelf in shelves:
                try:
                    yield from shelf.segments()
                except SipDumpError as error:
                    failed.append(error)
        if failed:
            raise failed[0]

    def _of(self, prefix: str) -> tuple[Sequence[BackendShelf], Sequence[SipDumpError]]:
        """Return what has the segments of a prefix, always the same, and why others cannot be asked."""
        known = self._made.get(prefix)
        if known is None:
            made, errors = self._workshop.keepers(self._folder, prefix)
            known = self._made[prefix] = [BackendShelf(backend) for backend in _readable(made)], errors
        return known

    def __str__(self) -> str:
        return self._folder


@attrs.frozen
class FileShelf:
    """One file that was given by itself: its name and times exclude nothing.

    Args:
        backend: what reads it.
        path: the file.
    """

    backend: Backend
    path: str

    def segments(self) -> Iterator[Shelved]:
        """Yield it."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise StorageError.from_os("read", self.path, error) from error
        name = os.path.basename(self.path)
        suffix = next((each for each in _suffixes(self.backend) if name.endswith(each)), "")
        segment = Segment.parse(name, _prefix(name) or "", suffix) or Segment(name.removesuffix(suffix), "", 0, suffix)
        stored = StoredSegment(segment, status.st_size, status.st_mtime, sealed=True, location=self.path)
        yield Shelved(self.backend, stored, os.path.realpath(self.backend.site.folder), slack=None)

    def __str__(self) -> str:
        return self.path


def open_shelves(
    *,
    configs: Sequence[str] = (),
    defines: Sequence[str] = (),
    folders: Sequence[str] = (),
    fprefix: str | None = None,
    files: Sequence[str] = (),
    urls: Sequence[str] = (),
    node: str = "",
) -> tuple[list[Shelf], list[str]]:
    """Open the stores that were named; with nothing named, that of the configuration in its usual place.

    Args:
        configs: configurations of daemons: all backends of their folder and prefix.
        defines: names for their preprocessor, as ``-A`` gives them.
        folders: folders with segments.
        fprefix: how the names of segments in ``folders`` begin; None: in any way.
        files: segment files by themselves.
        node: the node of what a network's capture holds.
        urls: ``s3://BUCKET/PREFIX``: what all collectors stored below it; how to reach it is as ``configs`` say.

    Returns:
        The shelves, and what could not be opened, one line each.

    Raises:
        ConfigError: nothing is named, or what is named is not there.
    """
    if not (configs or folders or files or urls):
        if not os.path.exists(DEFAULT_CONFIG):
            raise ConfigError(f"say what to read: -f CONFIG, --folder, --file or --store; there is no {DEFAULT_CONFIG}")
        configs = [DEFAULT_CONFIG]
    shelves: list[Shelf] = []
    problems: list[str] = []
    settings: list[Setting] = []
    if configs:
        from sipdump_core.config.reader import read_config  # noqa: PLC0415 - its grammar takes long to load
    for config in configs:
        given = read_config(config, defines).settings
        settings += [each for each in given if each.module == "sipdump_s3" or each.name == "folder"]
        plan = make_plan(given, to_start=False)
        window = plan.modules["sipdump_hep"].time_window
        slack = max(window, 60) if window else None
        made, errors = Workshop(plan).keepers()
        problems += map(str, errors)
        shelves += [BackendShelf(backend, slack) for backend in _readable(made)]
    for folder in folders:
        if not stat.S_ISDIR(_mode_of("--folder", folder)):
            raise ConfigError("this is a file: name it with --file", f"--folder {folder}")
        workshop = Workshop(make_plan([Setting("sipdump", "folder", folder, f"--folder {folder}")], to_start=False))
        shelves.append(FolderShelf(workshop, folder, fprefix))
    known: dict[tuple[str, str], Sequence[Backend]] = {}
    shelves += [_open_file(path, node, known) for path in files]
    shelves += [_open_url(url, settings) for url in urls]
    return shelves, problems


def configs_of(args: argparse.Namespace) -> list[str]:
    """Return the configurations that arguments of a store name; where these name nothing, that in its usual place."""
    named = args.configs or args.folders or args.files or args.urls
    return [*args.configs] if named else [DEFAULT_CONFIG]


def _readable(backends: Sequence[Backend]) -> list[Backend]:
    """Return those that can be read, and what reads their dead letters, which may come later."""
    found = [backend for backend in backends if can(backend, Lists) and can(backend, Reads)]
    if found and not any(isinstance(backend, DeadLetters) for backend in found):
        found.append(DeadLetters(found[0].site))
    return found


def _prefixes(folder: str) -> list[str]:
    """Return what names of segments in a folder begin with."""
    try:
        names = names_in(folder)
    except OSError as error:
        raise StorageError.from_os("list", folder, error) from error
    found: set[str] = set()
    last = ""
    for name in names:
        if last in found and name.startswith(last) and _STAMPED.match(name, len(last)):
            continue  # nearly all of 100,000
        prefix = _prefix(name)
        if prefix is not None:
            last = prefix
            found.add(prefix)
    return sorted(found)


def _prefix(name: str) -> str | None:
    """Return what a segment's name begins with, before its time; None for other names."""
    found = _PREFIX.match(name)
    return found[1] if found else None


def _suffixes(backend: Backend) -> tuple[str, ...]:
    return (backend.suffix, f"{backend.suffix}.wal")


def _mode_of(option: str, path: str) -> int:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        raise ConfigError(f"there is no such {option.strip('-')}", f"{option} {path}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{reason}", f"{option} {path}") from None


def _open_file(path: str, node: str, known: dict[tuple[str, str], Sequence[Backend]]) -> Shelf:
    """Open one file; files of one folder share their backends, so that all those of one second are read."""
    mode = _mode_of("--file", path)
    if not stat.S_ISREG(mode):
        hint = "this is a folder: name it with --folder" if stat.S_ISDIR(mode) else "this is not a regular file"
        raise ConfigError(hint, f"--file {path}")
    from sipdump_core.reading.capture.backend import CaptureBackend, is_foreign  # noqa: PLC0415 - few questions need it

    if is_foreign(path):
        return FileShelf(CaptureBackend(path, node), path)
    folder = os.path.dirname(os.path.abspath(path))
    key = folder, _prefix(os.path.basename(path)) or ""
    errors: Sequence[SipDumpError] = ()
    if key not in known:
        workshop = Workshop(make_plan([Setting("sipdump", "folder", folder, f"--file {path}")], to_start=False))
        known[key], errors = workshop.keepers(*key)
    made = known[key]
    for backend in made:
        if path.endswith(_suffixes(backend)) and can(backend, Reads):
            return FileShelf(backend, path)
    suffixes = ", ".join(sorted(backend.suffix for backend in made if can(backend, Reads)))
    faults = "".join(f"; {error}" for error in errors)
    raise ConfigError(f"no backend reads such a file; names end in {suffixes}{faults}", f"--file {path}")


def _open_url(url: str, settings: Sequence[Setting]) -> Shelf:
    """Open a bucket, for what all its collectors stored below a prefix."""
    place = f"--store {url}"
    found = _S3_URL.fullmatch(url)
    if not found:
        raise ConfigError('must be "s3://BUCKET/PREFIX"', place)
    mode = [Setting("sipdump", "mode", 32, place)]
    where = [Setting("sipdump_s3", "bucket", found[1], place), Setting("sipdump_s3", "prefix", found[2] or "", place)]
    others = [setting for setting in settings if setting.name not in ("bucket", "prefix")]
    workshop = Workshop(make_plan([*mode, *others, *where], to_start=False))
    return BackendShelf(workshop.backend("s3", workshop.site()), all_nodes=True, place=url)

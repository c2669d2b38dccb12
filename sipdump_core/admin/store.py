"""What the commands of upkeep work on: the backends that a command line and a configuration name."""

import argparse
import logging
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

from sipdump_core.admin.output import Output
from sipdump_core.drivers.capabilities import Ability, Located, can
from sipdump_core.drivers.contained import contained
from sipdump_core.drivers.folder import CANNOT_READ, FolderBackend
from sipdump_core.drivers.guard import blaming
from sipdump_core.drivers.names import names_in
from sipdump_core.errors import SipDumpError
from sipdump_core.lifecycle.meta_file import META_SUFFIX
from sipdump_core.log import Event, log
from sipdump_core.plan import make_plan
from sipdump_core.settings.modules import CORE
from sipdump_core.settings.options import Setting
from sipdump_core.workshop import Workshop

__all__ = ["Store"]

A = TypeVar("A", bound=Ability)


_STAMP = r"\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d"
_STAMPED = re.compile(rf"(?P<prefix>.*?){_STAMP}(?:-[1-9]\d{{0,5}})?(?P<suffix>(?:\.[\w+-]+)*)", re.ASCII | re.DOTALL)
"""A name of the form of :class:`~sipdump_core.segment.Segment`, with any prefix and suffix."""


class _Warnings(logging.Handler):
    """Prints what backends log; a segment that they could not read is an error."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        event = record.msg
        if isinstance(event, Event) and event.what == CANNOT_READ:
            self._output.error(event.fields["error"])
        else:
            self._output.note(f"warning: {record.getMessage()}")


class Store:
    """The backends whose segments are to be listed, pruned and so on. Within ``with``, what they log is printed.

    Args:
        args: of :func:`~sipdump_core.admin.arguments.add_store`.
        output: gets an error for each backend that cannot be made.

    Raises:
        ConfigError: the configuration is wrong, or a switched-on backend cannot be used.
    """

    def __init__(self, args: argparse.Namespace, output: Output) -> None:
        given = [
            Setting(CORE, name, value, f"--{name}")
            for name, value in (("folder", args.folder), ("fprefix", args.fprefix))
            if value is not None
        ]
        if args.config:
            from sipdump_core.config.reader import override, read_config  # noqa: PLC0415 - its grammar takes long to load

            given = override(read_config(args.config, args.defines).settings, given)
        plan = make_plan(given, to_start=False)
        self.params = plan.params
        self._output = output
        self._warnings = _Warnings(output)
        self.backends, errors = Workshop(plan).keepers()
        named = (
            "" if args.folder or plan.settings.of(CORE, "folder") else " (the default; name another by -f or --folder)"
        )
        output.note(f"segments are {self.params.folder}/{self.params.fprefix}*{named}")
        for backend in self.backends:
            there: object = backend
            if can(there, Located):
                with self.guarded(backend, output.error), blaming(backend, "where"):
                    output.note(f"segments of {backend.name} are {contained(backend.name, 'where()', there.where)}")
        for notice in plan.notices:
            output.note(f"warning: {notice}")
        for error in errors:
            output.error(error)

    def __enter__(self) -> Self:
        log.addHandler(self._warnings)
        return self

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self._warnings)

    def able(self, ability: type[A]) -> list[A]:
        """Return the backends that have an ability."""
        return [backend for backend in self.backends if can(backend, ability)]

    def survey(self) -> dict[str, int]:
        """Report what looks like a segment in the folder, and is not among those of the backends.

        Returns:
            How many there are of each other prefix, for backends that are installed.
        """
        suffixes = {backend.suffix for backend in self.backends if isinstance(backend, FolderBackend)}
        own = self.params.fprefix
        ends = "|".join(map(re.escape, (*suffixes, META_SUFFIX)))
        usual = re.compile(rf"{re.escape(own)}{_STAMP}(?:{ends})", re.ASCII)
        prefixes: dict[str, set[str]] = {}
        foreign: Counter[str] = Counter()
        try:
            names = names_in(self.params.folder)
        except OSError:  # the backends of files have said so
            return {}
        for name in names:
            found = None if usual.fullmatch(name) else _STAMPED.fullmatch(name)
            if found is None:
                continue
            prefix, suffix = found["prefix"], found["suffix"]
            # of an unsealed segment there is only a file with a longer suffix, as .parquet.wal
            known = next((each for each in suffixes if f"{suffix}.".startswith(f"{each}.")), "")
            if known and prefix != own:
                prefixes.setdefault(prefix, set()).add(name.removesuffix(suffix) + known)
            elif not known and prefix == own and not suffix.startswith(META_SUFFIX):
                foreign[suffix] += 1
        others = {prefix: len(found) for prefix, found in prefixes.items()}
        for prefix, count in others.items():
            self._output.note(f"other segments are there: {count} with --fprefix {shlex.quote(prefix)}")
        for suffix, count in foreign.items():
            self._output.note(f"other files are there: {count} end with {suffix!r}, which no installed backend has")
        return others

    @staticmethod
    @contextmanager
    def guarded(backend: Ability, failed: Callable[[object], None]) -> Iterator[None]:
        """Report what one backend raises, so that the others have their turn."""
        try:
            yield
        except ImportError as error:
            failed(f"{backend.name}: {error}; install it with: pip install 'sipdump[{backend.name}]'")
        except SipDumpError as error:
            failed(f"{backend.name}: {error}")

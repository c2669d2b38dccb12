"""What a driver declares, and what making one does: nothing."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.capabilities import Deletes, can
from sipdump_core.drivers.discovery import is_suffix, unusable
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import ConfigError
from sipdump_core.record import Flow
from sipdump_core.settings.options import Setting, build, describe
from sipdump_core.testing.kit import Kit, drivers
from sipdump_core.testing.promise import does_not_apply, promise
from sipdump_core.testing.samples import record
from sipdump_core.testing.watch import touching

__all__ = ["DriverChecks", "check_numbers"]

OWN_SUFFIXES = (".meta", ".dead", ".log")
"""What sipdump's own files beside segments end in."""


class DriverChecks(Kit):
    """The checks of a driver before it works."""

    @promise
    def test_the_driver_is_declared(self, site: Site) -> None:
        """A driver declares name, flag, suffix, version of the interface and options as sipdump needs them."""
        cls = type(self.make_backend(site))
        why = unusable(cls)
        assert not why, f"{cls.__qualname__} {why}"
        suffix = self.make_backend(site).suffix
        assert is_suffix(suffix), f"suffix {suffix!r} of an instance cannot end a file name like '.data'"
        if cls.has_lifecycle():
            assert can(cls, Deletes), "it has segments() without delete(): pruning always fails"
        unknown = set(cls.loses) - {*(field.name for field in attrs.fields(Flow)), "time_us"}
        assert not unknown, f"loses contains names that are not fields that may be lost: {sorted(unknown)}"

    @promise
    def test_options_round_trip(self, site: Site) -> None:
        """Every option has a type, a default and a line of help, and what an operator sets arrives in opts."""
        cls = type(self.make_backend(site))
        assert attrs.has(cls.options), f"options must be an attrs class, not {cls.options!r}"
        module = f"sipdump_{cls.name}"
        for told in describe(cls.options):
            assert told["help"], f"the option {told['name']} has no help"
            arrived = False
            for value, meant in _others(cls.options, told):
                try:
                    options = build(cls.options, [Setting(module, told["name"], value)])
                except ConfigError as error:
                    if meant == told["default"]:
                        raise AssertionError(f"the default of the option {told['name']} is refused: {error}") from error
                    continue  # its check refuses this value
                set_to = getattr(options, told["name"])
                assert set_to in (meant, (meant,)), f"the option {told['name']} set to {value!r} is {set_to!r}"
                arrived = True
                try:
                    backend = cls(options, site)
                except ConfigError:
                    continue  # it contradicts the other options' defaults
                assert attrs.asdict(backend.opts) == attrs.asdict(options), (
                    f"opts has not the {told['name']} {value!r} that was set"
                )
            assert arrived or "repeatable" in told["type"], f"no value of the option {told['name']} is taken"

    @promise
    def test_the_suffix_is_its_own(self, site: Site) -> None:
        """No other installed driver's segments end in the same suffix: one would list, read and delete the other's."""
        backend = self.make_backend(site)
        if not isinstance(backend, FolderBackend):
            with self.started(site) as writer:
                segment = self.write(writer, [record()])
            if not os.path.exists(os.path.join(site.folder, segment.name)):
                does_not_apply("the segments are no files in the folder")
        assert backend.suffix, "files need a suffix"
        taken = dict.fromkeys(OWN_SUFFIXES, "sipdump itself")
        for other in drivers():
            if other.name != backend.name and other.cls and issubclass(other.cls, FolderBackend):
                taken[other.cls.suffix] = f"{other.name} of {other.origin}"
        whose = taken.get(backend.suffix)
        assert not whose, f"the suffix {backend.suffix!r} is that of {whose}"

    @promise
    def test_the_constructor_touches_nothing(self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Making an instance opens, asks, creates and starts nothing: configurations are checked with it."""
        missing = tmp_path / "missing"
        threads, opened = threading.enumerate(), len(os.listdir("/proc/self/fd"))
        looked: list[str] = []
        with monkeypatch.context() as patch, touching() as first:
            for name in ("stat", "lstat", "access", "statvfs"):  # no audit event tells of these
                patch.setattr(os, name, _noting(getattr(os, name), site.folder, looked))
            made = [self.make_backend(site)]
        with touching() as again:  # what a library reads once is read
            made.append(self.make_backend(attrs.evolve(site, folder=str(missing))))
        touched = [str(one) for one in first if one.writes] + [str(one) for one in again] + looked
        assert not touched, f"the constructor touches {touched[0]}" + (
            f" and {len(touched) - 1} more" * (len(touched) > 1)
        )
        assert not missing.exists(), "the constructor makes the folder"
        left = sorted(path.name for path in tmp_path.rglob("*") if path.name != "store")
        assert not left, f"the constructor leaves {left}"
        assert not set(threading.enumerate()) - set(threads), "the constructor starts a thread"
        assert len(os.listdir("/proc/self/fd")) <= opened, "the constructor opens a file or a connection"
        assert all(backend.opts is not None and backend.site is not None for backend in made)

    @promise
    def test_health_and_stats_are_of_their_type(self, backend: Backend) -> None:
        """health() returns one line of text, empty while all is well, and stats() a mapping of names to integers."""
        fresh = self.reader(backend)
        for one, when in ((fresh, "before start()"), (backend, "after start()")):
            check_numbers(one, when)
        self.write(backend, [record()])
        check_numbers(backend, "after close()")


def _noting(call: Callable[..., Any], folder: str, looked: list[str]) -> Callable[..., Any]:
    """Return a call that also notes if it is about something in a folder."""

    def noting(path: Any, *args: Any, **more: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder):
            looked.append(f"{call.__name__} {os.fspath(path)}")
        return call(path, *args, **more)

    return noting


def _others(options: type[Any], told: Mapping[str, Any]) -> list[tuple[int | str, Any]]:
    """Return values to try for an option, as a configuration has them and as they arrive; first its default."""
    default = getattr(options(), told["name"])
    match told["type"]:
        case "int":
            return [(n, n) for n in (default, default + 1, default - 1, 2 * default + 1, 0, 1)]
        case "bool":
            return [(int(default), default), (1, True), (0, False)]
        case "float":
            return [(f"{default:f}", default), ("0.5", 0.5), ("1.25", 1.25), (2, 2.0)]
    texts = [*([default] if isinstance(default, str) else []), "x", "/tmp/x", "ü ☎", ""]  # noqa: S108 - none is opened
    return [(text, text) for text in texts]


def check_numbers(backend: Backend, when: str) -> None:
    """Fail unless health and stats are of their types and say that all is well."""
    health, stats = backend.health(), backend.stats()
    assert isinstance(health, str), f"health() {when} returns {health!r}"
    assert not health, f"health() {when} says that something is wrong: {health}"
    assert isinstance(stats, Mapping), f"stats() {when} returns {stats!r}"
    wrong = {key: value for key, value in stats.items() if type(key) is not str or type(value) is not int}
    assert not wrong, f"stats() {when} has {wrong}"

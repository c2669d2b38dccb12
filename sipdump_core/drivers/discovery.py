"""Finding the installed drivers: stevedore loads the entry points, conflicts are checked here."""

import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from stevedore import ExtensionManager

from sipdump_core.drivers.base import API_VERSION, Backend, Transform
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import DriverError
from sipdump_core.settings.core import MODE_EVENT_ROUTE
from sipdump_core.settings.modules import MODULES
from sipdump_core.settings.options import Setting, describe
from sipdump_core.version import VERSION

__all__ = ["NAMESPACE", "Driver", "discover", "reload", "select", "unusable"]

NAMESPACE = "sipdump.backends"
THIRD_PARTY_FLAGS = 256
"""Third parties take mode flags from here up."""
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_SUFFIX = re.compile(r"|(?!\.(?:meta|dead))(?:\.[\w+-]+)+", re.ASCII)


@attrs.frozen
class Driver:
    """One entry point: a driver's class, or why it could not be loaded."""

    name: str
    distribution: str
    version: str
    cls: type[Backend] | type[Transform] | None = None
    error: str = ""

    @property
    def flag(self) -> int:
        """The mode flag; 0 if the driver has none or was not loaded."""
        return self.cls.flag if self.cls else 0

    @property
    def fault(self) -> str:
        """Why it cannot be used now; empty when it can."""
        if self.cls is None:
            return self.error
        for module in self.cls.requires if issubclass(self.cls, Backend) else ():
            if not _is_there(module):
                install = f"pip install '{self.distribution}[{self.name}]'"
                return f"it needs the module {module}, which is not installed; install it with: {install}"
        return ""

    @property
    def origin(self) -> str:
        """The distribution with its version."""
        return f"{self.distribution} {self.version}"

    @property
    def kind(self) -> str:
        """``backend``, ``transform``, or ``unknown`` if it was not loaded."""
        if self.cls is None:
            return "unknown"
        return "backend" if issubclass(self.cls, Backend) else "transform"


class _Manager(ExtensionManager):  # type: ignore[type-arg,misc,unused-ignore]  # generic, and typed, only in new releases
    """Looks up entry points without stevedore's cache on disk, which hides what an editable install has just added."""

    def __init__(self) -> None:
        self.failed: list[Driver] = []
        super().__init__(NAMESPACE, invoke_on_load=False)

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        return [point for point in importlib.metadata.entry_points(group=NAMESPACE) if self._loads(point)]

    def _loads(self, point: importlib.metadata.EntryPoint) -> bool:
        driver = _load(point)
        if driver.error:
            self.failed.append(driver)
        return not driver.error


def discover() -> list[Driver]:
    """Find and load every installed driver, in the order of their names.

    Raises:
        DriverError: two drivers claim one name or one flag.
    """
    manager = _Manager()
    drivers = manager.failed + [_check(extension.entry_point, extension.plugin) for extension in manager]
    drivers.sort(key=lambda driver: driver.name)
    _refuse_conflicts(drivers)
    return drivers


def reload(name: str) -> Driver:
    """Load one driver again: what it lacked may have been installed or fixed meanwhile.

    Raises:
        DriverError: no distribution has it any more.
    """
    importlib.invalidate_caches()
    for point in importlib.metadata.entry_points(group=NAMESPACE, name=name):
        driver = _load(point)
        if driver.error:  # a module that was read half-written must not stay
            sys.modules.pop(point.module, None)
        return driver
    raise DriverError(f"no installed distribution has the driver {name} any more")


def select(drivers: Sequence[Driver], mode: Setting, names: Iterable[Setting]) -> list[Driver]:
    """Return the drivers that a mode and a list of names switch on.

    Drivers that cannot be used are among them as long as one can: the others must not keep it from storing. A flag that
    no driver owns is taken to belong to the drivers that could not be loaded.

    Raises:
        ConfigError: a bit that no driver owns, an unknown name, or a mode without any sink that can be used.
    """
    assert isinstance(mode.value, int)  # noqa: S101 - the option's type was checked
    chosen = [driver for driver in drivers if driver.flag & mode.value]
    unowned = mode.value & ~MODE_EVENT_ROUTE
    for driver in chosen:
        unowned &= ~driver.flag
    unloaded = [driver for driver in drivers if driver.cls is None]
    if unowned and unowned >= THIRD_PARTY_FLAGS:
        chosen += unloaded
    if unowned and (not unloaded or unowned % THIRD_PARTY_FLAGS):
        bits = ", ".join(str(1 << bit) for bit in range(unowned.bit_length()) if unowned >> bit & 1)
        raise mode.error(f"no installed backend owns the flag {bits}; {_installed(drivers)}")
    for setting in names:
        named = next((driver for driver in drivers if driver.name == setting.value), None)
        if named is None:
            raise setting.error(f"no such backend is installed; {_installed(drivers)}")
        if named not in chosen:
            chosen.append(named)
    if mode.value & MODE_EVENT_ROUTE or any(driver.kind == "backend" and not driver.fault for driver in chosen):
        return chosen
    for driver in chosen:
        if driver.fault:
            raise mode.error(refusal(driver))
    raise mode.error(
        f"invalid mode parameter: it switches on nothing that stores; add a backend or the event route (2); "
        f"{_installed(drivers)}"
    )


def refusal(driver: Driver) -> str:
    """Return that a driver cannot be used, and why."""
    return f"the backend {driver.name} of {driver.origin} cannot be used: {driver.fault}"


def _driver(point: importlib.metadata.EntryPoint, **kwargs: Any) -> Driver:
    dist = point.dist
    return Driver(point.name, dist.name if dist else "?", dist.version if dist else "?", **kwargs)


def _load(point: importlib.metadata.EntryPoint) -> Driver:
    with Guard() as guard:
        cls = point.load()
    if guard.error:
        where = traceback.extract_tb(guard.error.__traceback__)[-1]
        return _driver(point, error=f"{guard.text} ({where.filename}:{where.lineno})")
    return _check(point, cls)


def unusable(cls: Any) -> str:
    """Return why a class cannot be a driver, whatever its entry point says; empty when it can."""
    with Guard() as guard:
        return _unusable(cls)
    return f"cannot be looked at: {guard.text}"


def _unusable(cls: Any) -> str:
    if not (isinstance(cls, type) and issubclass(cls, (Backend, Transform))):
        return "is no subclass of sipdump_core.Backend or sipdump_core.Transform"
    if type(cls.api) is not int or not 1 <= cls.api <= API_VERSION:
        newer = isinstance(cls.api, int) and cls.api > API_VERSION
        return (
            f"was made for version {cls.api!r} of the backend interface, sipdump {VERSION} has version {API_VERSION}; "
            f"install {'a newer sipdump' if newer else 'a newer release of this driver'}, or an older release of "
            f"{'the driver' if newer else 'sipdump'}"
        )
    if not isinstance(cls.name, str) or not _NAME.fullmatch(cls.name):
        return f"has the name {cls.name!r}; a name is of lower-case letters, digits and _, and begins with a letter"
    if f"sipdump_{cls.name}" in MODULES:
        return f"has the name {cls.name}, and sipdump_{cls.name} has parameters of sipdump itself; it needs another one"
    flag = cls.flag
    if type(flag) is not int or flag < 0 or flag & (flag - 1):
        return f"declares the flag {flag!r}, which is no power of two"
    with Guard() as guard:
        if not attrs.has(cls.options):
            return f"has options that are no attrs class: {cls.options!r}"
        describe(cls.options)
    if guard.error:
        return f"has options that cannot be used: {guard.text}"
    return _unusable_backend(cls) if issubclass(cls, Backend) else ""


def _unusable_backend(cls: type[Backend]) -> str:
    if not is_suffix(cls.suffix):
        return f"declares the suffix {cls.suffix!r}, which is no end of a file name, as '.data'"
    if not isinstance(cls.requires, (tuple, list)) or not all(isinstance(module, str) for module in cls.requires):
        return f"declares that it requires {cls.requires!r}, which is no tuple of names of modules"
    if getattr(cls.has_lifecycle, "__func__", None) is not Backend.has_lifecycle.__func__:  # type: ignore[attr-defined]  # of a class method
        return "overrides has_lifecycle(), which says whether there is a segments()"
    return ""


def is_suffix(suffix: Any) -> bool:
    """Return whether names of segments may end so: empty, or a dot and more."""
    return isinstance(suffix, str) and _SUFFIX.fullmatch(suffix) is not None


def _check(point: importlib.metadata.EntryPoint, cls: Any) -> Driver:
    why = unusable(cls)
    driver = _driver(point, cls=None if why else cls)
    if not why and cls.name != point.name:
        why = f"calls itself {cls.name!r}, its entry point {point.name!r}"
    if not why and 0 < cls.flag < THIRD_PARTY_FLAGS and driver.distribution != "sipdump":
        why = f"declares the flag {cls.flag}; third parties take {THIRD_PARTY_FLAGS} or more, or 0"
    return attrs.evolve(driver, cls=None, error=f"{point.value} {why}") if why else driver


def _is_there(module: str) -> bool:
    with Guard():  # for a.b the package a is imported, which may be missing, or fail
        return importlib.util.find_spec(module) is not None
    return False


def _refuse_conflicts(drivers: Iterable[Driver]) -> None:
    seen: dict[object, Driver] = {}
    for driver in drivers:
        for claim in (f"name {driver.name}", f"flag {driver.flag}" if driver.flag else None):
            other = seen.setdefault(claim, driver) if claim else driver
            if other is not driver:
                raise DriverError(
                    f"two drivers claim the {claim}: {other.name} of the distribution {other.distribution} and "
                    f"{driver.name} of {driver.distribution}; uninstall one of them"
                )


def _installed(drivers: Iterable[Driver]) -> str:
    parts = [f"{driver.name} ({driver.flag or 'by name'})" for driver in drivers if driver.cls]
    parts += [f"{driver.name} (cannot be loaded: {driver.error})" for driver in drivers if not driver.cls]
    return "installed are the event route (2), " + ", ".join(parts)

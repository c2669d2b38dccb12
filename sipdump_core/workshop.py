"""The workshop: makes a plan's backends, and knows which of its drivers can be used by now."""

import math
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs

from sipdump_core.drivers.base import Backend, Filter, Site, Transform
from sipdump_core.drivers.batch import batching
from sipdump_core.drivers.contained import contained
from sipdump_core.drivers.deferred import DeferredBackend
from sipdump_core.drivers.discovery import Driver, disabled, is_suffix, load, refusal, reload
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import ConfigError, DriverError, SipDumpError, StorageError
from sipdump_core.lifecycle.meta_file import META_SUFFIX
from sipdump_core.lifecycle.rotation import LONGEST_SHIFT
from sipdump_core.log import Event, log
from sipdump_core.pipeline.dead_letter import DeadLetters
from sipdump_core.pipeline.spool import SpoolOptions
from sipdump_core.plan import Plan
from sipdump_core.settings.core import MODE_EVENT_ROUTE
from sipdump_core.settings.options import build

__all__ = ["Workshop"]


class Workshop:
    """Makes backends as a plan says.

    The plan never changes. What does change while it runs is kept here: a driver that could not be loaded may be
    installed or mended meanwhile. All methods may be called from any thread.

    Args:
        plan: what is to run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._drivers = {driver.name: driver for driver in plan.drivers}
        self._options = dict(plan.options)

    @property
    def drivers(self) -> list[Driver]:
        """Every installed driver, as it is now."""
        return list(self._drivers.values())

    @property
    def chosen(self) -> list[Driver]:
        """The drivers that mode and name switch on, as they are now."""
        return [self._drivers[driver.name] for driver in self.plan.chosen]

    def site(self, folder: str = "", prefix: str | None = None, meta: Callable[[], str] = str) -> Site:
        """Return the site that the parameters describe, or one with another folder or prefix."""
        params = self.plan.params
        return Site(
            folder or params.folder,
            params.fprefix if prefix is None else prefix,
            params.file_mode,
            meta,
            rotate=params.rotate + (LONGEST_SHIFT if params.rotate_align else 0),
            make=self.backend,
            sync=params.sync,
            node=params.node or socket.gethostname(),
        )

    def backends(self, site: Site) -> list[Backend]:
        """Make the chosen backends for storing.

        A backend that cannot be used now is replaced by one that tries again.

        Raises:
            ConfigError: options of one contradict each other, or one is missing.
            DriverError: none can be used, because of what the constructors raise.
        """
        made: list[Backend] = []
        faults: list[DriverError] = []
        for driver in self.chosen:
            if driver.kind in ("filter", "transform"):
                continue
            try:
                backend = self._usable(driver, site)
            except DriverError as fault:
                faults.append(fault)
                backend = self._deferred(driver, site)
            made.append(backend)
        if faults and len(faults) == len(made) and not self.plan.params.mode & MODE_EVENT_ROUTE:
            raise faults[0]
        for each in faults:
            log.error(Event("a backend cannot be used; the others store without it", error=each))
        return made

    def filters(self) -> list[Filter]:
        """Make the chosen filters, in the order in which records go through: by flag, then as they are named.

        Raises:
            ConfigError: options of one contradict each other, or what they name cannot be read.
            DriverError: one cannot be used; nothing may be stored without it.
        """
        mode, names = self.plan.params.mode, self.plan.params.backend
        chosen = [driver for driver in self.chosen if driver.kind == "filter"]
        by_mode = sorted((each for each in chosen if each.flag & mode), key=lambda driver: driver.flag)
        by_name = sorted((each for each in chosen if not each.flag & mode), key=lambda driver: names.index(driver.name))
        return [self._filter(driver) for driver in (*by_mode, *by_name)]

    def check(self) -> None:
        """Check what a start would tolerate: every chosen driver can be used, and its backend made.

        Raises:
            ConfigError: a driver cannot be used, or its options contradict each other.
            DriverError: a constructor raises.
        """
        self.filters()
        for driver in self.chosen:
            if driver.fault:
                raise ConfigError(refusal(driver))
            if driver.kind == "backend":
                self._make(driver, self.site())

    def backend(self, name: str, site: Site) -> Backend:
        """Make one backend by its name, whether or not it is switched on.

        Raises:
            ConfigError: no such backend is installed, or its options contradict each other.
            DriverError: its constructor raises anything else.
        """
        driver = self._loaded(name) if name in self._drivers else None
        if driver and driver.error:
            raise DriverError(refusal(driver))
        if driver and driver.kind == "backend":
            return self._make(driver, site)
        names = ", ".join(
            driver.name for driver in self.drivers if driver.kind in ("backend", "unknown") and not driver.error
        )
        raise ConfigError(f"no backend {name!r} is installed; there are: {names}")

    def keepers(self, folder: str = "", prefix: str | None = None) -> tuple[list[Backend], list[SipDumpError]]:
        """Make the backends whose segments are to be listed and pruned: the chosen ones, and every one of files.

        Files are looked after even where their backend is no longer switched on; otherwise what an earlier mode left
        would never be pruned. That of a third party is imported only if there are files that may be its own.

        Args:
            folder: where the segments are; by default the folder of the parameters.
            prefix: how their names begin; by default the prefix of the parameters.

        Returns:
            The backends, and an error for each that cannot be made.
        """
        site = self.site(folder, prefix)
        backends: list[Backend] = []
        errors: list[SipDumpError] = []
        chosen = {driver.name for driver in self.chosen}
        wanted = chosen | self._with_files(site)
        for name in self._drivers:
            try:
                driver = self._loaded(name) if name in wanted else self._drivers[name]
                if driver.cls is None and name in wanted:
                    raise DriverError(refusal(driver))
                if (name in chosen and driver.kind == "backend") or _keeps_files(driver):
                    backends.append(self._make(driver, site))
            except SipDumpError as error:  # one driver's fault must not hide the others
                errors.append(error)
        return backends + self._dead_letters(site), errors

    @staticmethod
    def _dead_letters(site: Site) -> list[Backend]:
        """Return what lists, reads and prunes the dead letters, if there are any."""
        letters = DeadLetters(site)
        with suppress(StorageError):  # the backends of files will say so
            return [letters] if any(letters.segments()) else []
        return []

    def _with_files(self, site: Site) -> set[str]:
        """Return the names of drivers that are not loaded, and may have files at a site.

        Those of sipdump itself are always asked, so that a command says of each what it has done.
        """
        strangers = [driver for driver in self.drivers if not (driver.loaded or driver.is_ours)]
        wanted = {driver.name for driver in self.drivers if driver.is_ours and driver.suffix and not driver.blocked}
        if strangers:
            endings = _endings(site)
            wanted |= {driver.name for driver in strangers if any(_ends(each, driver.suffix) for each in endings)}
            if not all(any(_ends(each, driver.suffix) for driver in self.drivers) for each in endings):
                wanted |= {driver.name for driver in strangers if driver.suffix is None}
        return wanted

    def _loaded(self, name: str) -> Driver:
        """Return a driver that is needed now, loaded, and its options built.

        Raises:
            ConfigError: what is set for it is wrong.
        """
        driver = self._drivers[name]
        if not driver.loaded:
            driver = load(driver, self.plan.params.load_timeout)
            driver = next(each for each in disabled([*self._others(name), driver]) if each.name == name)
            if driver.cls:
                self._options[name] = build(driver.cls.options, self.plan.settings.of(f"sipdump_{name}"))
            self._drivers[name] = driver
        return driver

    def _others(self, name: str) -> list[Driver]:
        return [driver for driver in self.drivers if driver.name != name]

    def _usable(self, driver: Driver, site: Site) -> Backend:
        if driver.fault:
            raise DriverError(refusal(driver))
        return self._make(driver, site)

    def _deferred(self, driver: Driver, site: Site) -> Backend:
        """Make what stands in for a backend until it can be made."""
        options = self._options[driver.name] if driver.cls else self._spool_options(driver.name)
        where = attrs.evolve(site, distribution=driver.origin)
        return DeferredBackend(driver.name, options, where, partial(self._remake, driver.name, site))

    def _remake(self, name: str, site: Site) -> Backend:
        """Make the backend of a driver that could not be used before."""
        params = self.plan.params
        driver = reload(name, params.block, params.load_timeout)
        driver = next(each for each in disabled([*self._others(name), driver]) if each.name == name)
        if driver.fault or not driver.cls:
            raise DriverError(refusal(driver))
        if not driver.flag & params.mode and name not in params.backend:
            raise DriverError(f"the backend {name} can be loaded now, but its flag {driver.flag} is not in mode")
        self._options[name] = build(driver.cls.options, self.plan.settings.of(f"sipdump_{name}"))
        backend = self._make(driver, site)
        self._drivers[name] = driver  # from now on it is listed and pruned too
        return backend

    def _spool_options(self, name: str) -> SpoolOptions:
        """Return the options of the spool of a driver that cannot be loaded: its records wait there for it."""
        own = (field.name for field in attrs.fields(SpoolOptions))
        return build(SpoolOptions, self.plan.settings.of(f"sipdump_{name}", *own))

    def _make(self, driver: Driver, site: Site) -> Backend:
        if not (driver.cls and issubclass(driver.cls, Backend)):
            raise DriverError(f"{driver.name} of {driver.distribution} is no backend")
        if driver.cls.transformed:
            transforms = tuple(self._transform(each) for each in self.chosen if _is_transform(each))
            site = attrs.evolve(site, transforms=transforms)
        site = attrs.evolve(site, distribution=driver.origin)
        with Guard() as guard:
            backend: Backend = self._construct(driver, site)
            _verify(backend)
            self._verify_suffix(driver, backend)
            return backend
        raise self._unmade(driver, guard) from guard.error

    def _filter(self, driver: Driver) -> Filter:
        with Guard() as guard:
            made = self._construct(driver)
            _verify_filter(made)
            assert isinstance(made, Filter)  # noqa: S101 - it was verified
            return made
        raise self._unmade(driver, guard) from guard.error

    def _transform(self, driver: Driver) -> Transform:
        with Guard() as guard:
            transform = self._construct(driver)
            if not isinstance(transform, Transform):
                raise TypeError(f"the class returns {transform!r} instead of an instance")
            return transform
        raise self._unmade(driver, guard) from guard.error

    def _construct(self, driver: Driver, *site: Site) -> Any:
        cls, options = driver.cls, self._options[driver.name]
        assert cls is not None  # noqa: S101 - the caller has seen that
        return contained(driver.name, "constructor", lambda: cls(options, *site), self.plan.params.load_timeout)

    def _unmade(self, driver: Driver, guard: Guard) -> SipDumpError:
        """Return the error that a constructor has failed."""
        if isinstance(guard.error, ConfigError):
            return self._located(driver.name, guard.error)
        text = str(guard.error) if isinstance(guard.error, DriverError) else guard.text
        return DriverError(f"the {driver.kind} {driver.name} of {driver.origin} cannot be made: {text}")

    def _verify_suffix(self, driver: Driver, backend: Backend) -> None:
        """Check the suffix that a constructor has set: files of another driver must not be taken for its own.

        Raises:
            DriverError: another one has it.
        """
        if driver.is_ours or not isinstance(backend, FolderBackend):
            return
        for other in self._others(driver.name):
            if other.suffix and other.suffix == backend.suffix:
                raise DriverError(f"it has the suffix {backend.suffix}, which is that of {other.name}")

    def _located(self, driver: str, error: ConfigError) -> ConfigError:
        """Add to a backend's own error where the parameter was set that it names, or else the first one."""
        settings = self.plan.settings.of(f"sipdump_{driver}")
        if error.place or not settings:
            return error
        named = [each for each in settings if str(error).startswith(f"{each.name}:")]
        return ConfigError(str(error), (named[-1] if named else settings[0]).place)


def _keeps_files(driver: Driver) -> bool:
    return driver.cls is not None and issubclass(driver.cls, FolderBackend)


def _is_transform(driver: Driver) -> bool:
    return driver.kind == "transform"


def _endings(site: Site) -> set[str]:
    """Return how the names of the files of a site end, from their first dot on; nothing if they cannot be listed."""
    found = set()
    with suppress(OSError):
        for name in os.listdir(site.folder):
            if name.startswith(site.prefix):
                _, dot, ending = name.removeprefix(site.prefix).partition(".")
                found.add(dot + ending)
    return found - {"", META_SUFFIX}


def _ends(ending: str, suffix: str | None) -> bool:
    """Return whether a file may be one of a suffix: it, or something that is made on the way to it."""
    return bool(suffix) and (ending.endswith(suffix or "") or f"{suffix}." in ending)


def _verify_filter(made: Any) -> None:
    """Check what a filter's constructor has made.

    Raises:
        TypeError: it is no filter, or not initialized, or ``seconds`` or ``before_route`` make no sense.
    """
    if not isinstance(made, Filter):
        raise TypeError(f"the class returns {made!r} instead of an instance")
    if not hasattr(made, "opts"):
        raise TypeError("its constructor does not call super().__init__(options)")
    if type(made.seconds) not in (int, float) or not 0 < made.seconds < math.inf:
        raise TypeError(f"its seconds is {made.seconds!r}, which is no number of seconds")
    for name in ("before_route", "prompt"):
        if type(getattr(made, name)) is not bool:
            raise TypeError(f"its {name} is {getattr(made, name)!r}, which is not True or False")


def _verify(backend: Backend) -> None:
    """Check what a driver's constructor has made.

    Raises:
        TypeError: it is not a backend, or not initialized, or its suffix or its wishes for batches make no sense.
    """
    if not isinstance(backend, Backend):
        raise TypeError(f"the class returns {backend!r} instead of an instance")
    if not (hasattr(backend, "opts") and isinstance(getattr(backend, "site", None), Site)):
        raise TypeError("its constructor does not call super().__init__(options, site)")
    if backend.api >= 2:  # an earlier driver may have attributes and options of these names for itself
        batching(backend)
    if not is_suffix(backend.suffix):
        raise TypeError(f"it has the suffix {backend.suffix!r}, which is no end of a file name, as '.data'")

"""The workshop: makes a plan's backends, and knows which of its drivers can be used by now."""

import contextlib
import socket
from collections.abc import Callable
from functools import partial

import attrs

from sipdump_core.drivers.base import Backend, Site, Transform
from sipdump_core.drivers.batch import batching
from sipdump_core.drivers.deferred import DeferredBackend
from sipdump_core.drivers.discovery import Driver, is_suffix, refusal, reload
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import ConfigError, DriverError, SipDumpError, StorageError
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
            if driver.kind == "transform":
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

    def check(self) -> None:
        """Check what a start would tolerate: every chosen driver can be used, and its backend made.

        Raises:
            ConfigError: a driver cannot be used, or its options contradict each other.
            DriverError: a constructor raises.
        """
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
        driver = self._drivers.get(name)
        if driver and driver.kind == "backend":
            return self._make(driver, site)
        names = ", ".join(driver.name for driver in self.drivers if driver.kind == "backend")
        raise ConfigError(f"no backend {name!r} is installed; there are: {names}")

    def keepers(self, folder: str = "", prefix: str | None = None) -> tuple[list[Backend], list[SipDumpError]]:
        """Make the backends whose segments are to be listed and pruned: the chosen ones, and every one of files.

        Files are looked after even where their backend is no longer switched on; otherwise what an earlier mode left
        would never be pruned.

        Args:
            folder: where the segments are; by default the folder of the parameters.
            prefix: how their names begin; by default the prefix of the parameters.

        Returns:
            The backends, and an error for each that cannot be made.
        """
        site = self.site(folder, prefix)
        backends: list[Backend] = []
        errors: list[SipDumpError] = []
        chosen = self.chosen
        for driver in self.drivers:
            if driver.cls is None and driver in chosen:
                errors.append(DriverError(refusal(driver)))
            if not (driver.cls and issubclass(driver.cls, Backend)):
                continue
            if driver in chosen or issubclass(driver.cls, FolderBackend):
                try:
                    backends.append(self._make(driver, site))
                except SipDumpError as error:  # one driver's fault must not hide the others
                    errors.append(error)
        return backends + self._dead_letters(site), errors

    @staticmethod
    def _dead_letters(site: Site) -> list[Backend]:
        """Return what lists, reads and prunes the dead letters, if there are any."""
        letters = DeadLetters(site)
        with contextlib.suppress(StorageError):  # the backends of files will say so
            return [letters] if any(letters.segments()) else []
        return []

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
        driver = reload(name)
        if driver.fault or not driver.cls:
            raise DriverError(refusal(driver))
        params = self.plan.params
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
            transforms = [d.cls(self._options[d.name]) for d in self.chosen if d.cls and issubclass(d.cls, Transform)]
            site = attrs.evolve(site, transforms=tuple(transforms))
        site = attrs.evolve(site, distribution=driver.origin)
        with Guard() as guard:
            backend = driver.cls(self._options[driver.name], site)
            _verify(backend)
            return backend
        if isinstance(guard.error, ConfigError):
            raise self._located(driver.name, guard.error) from guard.error
        what = f"the backend {driver.name} of {driver.origin} cannot be made"
        raise DriverError(f"{what}: {guard.text}") from guard.error

    def _located(self, driver: str, error: ConfigError) -> ConfigError:
        """Add to a backend's own error where the parameter was set that it names, or else the first one."""
        settings = self.plan.settings.of(f"sipdump_{driver}")
        if error.place or not settings:
            return error
        named = [each for each in settings if str(error).startswith(f"{each.name}:")]
        return ConfigError(str(error), (named[-1] if named else settings[0]).place)


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

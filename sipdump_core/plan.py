"""From settings to a plan: everything is checked before anything is started."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from sipdump_core.drivers.base import Backend, Site, Transform
from sipdump_core.drivers.deferred import DeferredBackend
from sipdump_core.drivers.discovery import SOURCES, Driver, discover, is_suffix, refusal, reload, select
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import ConfigError, DriverError, SipDumpError
from sipdump_core.log import Event, log
from sipdump_core.pipeline.spool import SpoolOptions
from sipdump_core.routes.event_route import Callback, EventRoute, load_callback
from sipdump_core.settings.core import MODE_EVENT_ROUTE, Params
from sipdump_core.settings.options import Setting, build

if TYPE_CHECKING:
    from sipdump_core.config.reader import RouteBlock

__all__ = ["Plan", "make_backends", "make_plan"]

CORE = "sipdump"
EVENT = "sipdump:msg"
KAMAILIO_KEMI = ("app_lua", "app_python3", "app_python3s")


@attrs.frozen
class Plan:
    """A checked configuration."""

    settings: Sequence[Setting]
    """What it was made of."""
    params: Params
    drivers: list[Driver]
    """Every driver that is installed; one that could not be loaded is replaced when it can."""
    chosen: list[Driver]
    """Those that mode and name switch on; the same."""
    options: dict[str, Any]
    """The options of each driver, by its name."""
    modules: dict[str, Any]
    """The options of what isn't a driver (``SOURCES``), by module name, as ``sipdump_hep``."""
    route: EventRoute

    def backends(self, site: Site) -> list[Backend]:
        """Make the chosen backends.

        In the place of one that cannot be used now stands one that tries again.

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
                if driver.fault:
                    raise DriverError(refusal(driver))  # noqa: TRY301 - told as what a constructor raises
                backend = self._make(driver, site)
            except DriverError as fault:
                faults.append(fault)
                where = attrs.evolve(site, distribution=driver.origin)
                options = self.options[driver.name] if driver.cls else self._spool_options(driver.name)
                backend = DeferredBackend(driver.name, options, where, partial(self._remake, driver.name, site))
            made.append(backend)
        if faults and len(faults) == len(made) and not self.params.mode & MODE_EVENT_ROUTE:
            raise faults[0]
        for each in faults:
            log.error(Event("a backend cannot be used; the others store without it", error=each))
        return made

    def check(self) -> None:
        """Check what a start would put up with: every chosen driver can be used, and made.

        Raises:
            ConfigError: one cannot.
            DriverError: the constructor of one raises.
        """
        for driver in self.chosen:
            if driver.fault:
                raise ConfigError(refusal(driver))
            if driver.kind == "backend":
                self._make(driver, self.site())

    def backend(self, name: str, site: Site) -> Backend:
        """Make one backend by its name, whether or not it is chosen.

        Raises:
            ConfigError: no such backend is installed, or its options contradict each other.
            DriverError: its constructor raises anything else.
        """
        for driver in self.drivers:
            if driver.name == name and driver.kind == "backend":
                return self._make(driver, site)
        names = ", ".join(driver.name for driver in self.drivers if driver.kind == "backend")
        raise ConfigError(f"no backend {name!r} is installed; there are: {names}")

    def site(self, folder: str = "", prefix: str | None = None, meta: Callable[[], str] = str) -> Site:
        """Give the site that the parameters describe, or one with another folder or prefix."""
        params = self.params
        return Site(
            folder or params.folder,
            params.fprefix if prefix is None else prefix,
            params.file_mode,
            meta,
            rotate=params.rotate,
            make=self.backend,
        )

    def _remake(self, name: str, site: Site) -> Backend:
        """Make the backend of a driver that could not be used before."""
        driver = reload(name)
        if driver.fault or not driver.cls:
            raise DriverError(refusal(driver))
        if not driver.flag & self.params.mode and name not in self.params.backend:
            raise DriverError(f"the backend {name} can be loaded now, and its flag {driver.flag} is not in mode")
        module = f"sipdump_{name}"
        self.options[name] = build(driver.cls.options, [s for s in self.settings if s.module == module])
        backend = self._make(driver, site)
        for those in (self.drivers, self.chosen):  # from now on it is listed and pruned too
            those[:] = [driver if one.name == name else one for one in those]
        return backend

    def _spool_options(self, name: str) -> SpoolOptions:
        """Give what is said of the spool of a driver that cannot be loaded: its records are to wait there for it."""
        module, own = f"sipdump_{name}", {field.name for field in attrs.fields(SpoolOptions)}
        return build(SpoolOptions, [s for s in self.settings if s.module == module and s.name in own])

    def _make(self, driver: Driver, site: Site) -> Backend:
        if not (driver.cls and issubclass(driver.cls, Backend)):
            raise DriverError(f"{driver.name} of {driver.distribution} is no backend")
        if driver.cls.transformed:
            transforms = [d.cls(self.options[d.name]) for d in self.chosen if d.cls and issubclass(d.cls, Transform)]
            site = attrs.evolve(site, transforms=transforms)
        site = attrs.evolve(site, distribution=driver.origin)
        with Guard() as guard:
            backend = driver.cls(self.options[driver.name], site)
            _look_at(backend)
            return backend
        if isinstance(guard.error, ConfigError):
            raise self._located(driver.name, guard.error) from guard.error
        what = f"the backend {driver.name} of {driver.origin} cannot be made"
        raise DriverError(f"{what}: {guard.text}") from guard.error

    def _located(self, driver: str, error: ConfigError) -> ConfigError:
        """Add to a backend's own error where its first parameter was set, if one was."""
        place = next((s.place for s in self.settings if s.module == f"sipdump_{driver}"), "")
        return error if error.place or not place else ConfigError(str(error), place)


def _look_at(backend: Backend) -> None:
    """See whether a constructor has made what it should have."""
    if not isinstance(backend, Backend):
        raise TypeError(f"the class gives {backend!r} in the place of an instance")
    if not (hasattr(backend, "opts") and isinstance(getattr(backend, "site", None), Site)):
        raise TypeError("its constructor does not call super().__init__(options, site)")
    if not is_suffix(backend.suffix):
        raise TypeError(f"it has the suffix {backend.suffix!r}, which is no end of a file name, as '.data'")


def make_plan(
    settings: Sequence[Setting],
    drivers: Sequence[Driver] | None = None,
    *,
    event_routes: Mapping[str, "RouteBlock"] = MappingProxyType({}),
    to_start: bool = True,
) -> Plan:
    """Check settings, one by one and against each other.

    Args:
        settings: the modparams; those of modules that are not sipdump's are passed over.
        drivers: the installed drivers; looked up when not given.
        event_routes: the event routes of the configuration, by name; with one for ``sipdump:msg``, event_callback
            is not called, as in Kamailio.
        to_start: check also what only a start needs: the folder, and the event callback, which is loaded.

    Raises:
        ConfigError: a setting is wrong; the error names its place and what is allowed.
        DriverError: the installed drivers contradict each other.
    """
    drivers = discover() if drivers is None else drivers
    modules: dict[str, type[Any]] = {CORE: Params, **SOURCES}
    modules |= {f"sipdump_{driver.name}": driver.cls.options for driver in drivers if driver.cls}
    # what is said to a driver that cannot be loaded is kept until it can
    unloaded = [f"sipdump_{driver.name}" for driver in drivers if not driver.cls]
    settings = _resolve(settings, [*modules, *unloaded, *KAMAILIO_KEMI])
    built = {name: build(cls, [s for s in settings if s.module == name]) for name, cls in modules.items()}
    params: Params = built[CORE]
    given = {s.name: s for s in settings if s.module == CORE}
    mode = given.get("mode", Setting(CORE, "mode", params.mode, "default"))
    named = [s for s in settings if s.module == CORE and s.name == "backend"]
    chosen = select(drivers, mode, named)
    if to_start and any(driver.cls and issubclass(driver.cls, FolderBackend) for driver in chosen):
        _check_folder(given.get("folder", Setting(CORE, "folder", params.folder, "default")))
    route = EventRoute()
    if to_start:
        wanted = bool(params.mode & MODE_EVENT_ROUTE)
        if event_routes:  # read in any case, so that its mistakes are seen
            compiled = _compile_route(event_routes, params)
            route.callback = compiled if wanted else None
        elif params.event_callback and wanted:
            route.callback = _load_callback(settings, given["event_callback"], params, route)
        _warn_of_idle_scripts(settings, event_routes, wanted=wanted)
    options = {d.name: built[f"sipdump_{d.name}"] for d in drivers if d.cls}
    return Plan(settings, params, [*drivers], chosen, options, {name: built[name] for name in SOURCES}, route)


def _resolve(settings: Sequence[Setting], modules: Sequence[str]) -> list[Setting]:
    """Give each setting to the modules that its expression matches, as Kamailio does."""
    resolved = []
    for setting in settings:
        matched = [name for name in modules if setting.is_for(name)]
        if not matched and setting.module.startswith("sipdump") and setting.module.replace("_", "").isalnum():
            raise setting.error(f"no such module; there are: {', '.join(modules[: -len(KAMAILIO_KEMI)])}")
        if CORE in matched and "sipdump_" not in setting.module:
            # an expression for Kamailio's modules does not mean ours that no Kamailio has
            matched = [name for name in matched if not name.startswith("sipdump_")]
        resolved += [attrs.evolve(setting, module=name) for name in matched]
    return resolved


def _warn_of_idle_scripts(
    settings: Sequence[Setting], event_routes: Mapping[str, "RouteBlock"], *, wanted: bool
) -> None:
    callback = next((s for s in settings if (s.module, s.name) == (CORE, "event_callback") and s.value), None)
    if not wanted:
        if event_routes:
            log.warning(Event("event_route is not run: mode lacks the event route (2)", name=EVENT))
        if callback:
            log.warning(Event("event_callback is not called: mode lacks the event route (2)", at=callback.place))
    elif event_routes and callback:
        log.warning(Event("event_callback is not called: there is an event_route", name=EVENT))
    if not callback:
        for load in settings:
            if (load.module, load.name) == ("sipdump_kemi", "load"):
                log.warning(Event("script is not loaded: no event_callback names a function of it", at=load.place))


def _compile_route(event_routes: Mapping[str, "RouteBlock"], params: Params) -> Callback:
    for name, block in event_routes.items():
        if name != EVENT:
            raise ConfigError(f"event_route[{name}]: sipdump has no such event; there is {EVENT}", block.place(0))
    from sipdump_core.routes.script import compile_route  # noqa: PLC0415 - few have a route, and it loads a parser

    return compile_route(event_routes[EVENT], parse_call_id=bool(params.parse_call_id))


def _load_callback(settings: Sequence[Setting], function: Setting, params: Params, route: EventRoute) -> Callback:
    """Load the event callback from a KEMI script, or from the module or file that it names itself."""
    if ":" in str(function.value):
        return load_callback(function)
    loads = [s for s in settings if (s.module, s.name) == ("sipdump_kemi", "load")]
    # a Kamailio's own configuration loads its script with these
    loads = loads or [s for s in settings if s.module in KAMAILIO_KEMI and s.name in ("load", "script_name")]
    if not loads:
        raise function.error(
            'must be "module:function" or "file.py:function", or a function of a KEMI script; '
            'such a script is loaded by modparam("sipdump_kemi", "load", "callback.py")'
        )
    from sipdump_core.routes.kemi import load_kemi  # noqa: PLC0415 - few have a script, and it loads a parser

    return load_kemi(loads, function, route, parse_call_id=bool(params.parse_call_id))


def _check_folder(setting: Setting) -> None:
    folder = str(setting.value)
    if not os.path.isdir(folder):
        raise setting.error("there is no such folder; create it, or name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise setting.error("the folder is not writable for this user; change its owner or mode, or name another")


def make_backends(plan: Plan, folder: str, prefix: str) -> tuple[list[Backend], list[SipDumpError]]:
    """Make the backends whose segments an operator looks after: the chosen ones, and every one of files.

    Files are looked after whether or not their backend is still switched on, or nobody would ever prune what
    an earlier mode left.

    Returns:
        The backends, and an error for each that cannot be made.
    """
    site = plan.site(folder, prefix)
    backends: list[Backend] = []
    errors: list[SipDumpError] = []
    for driver in plan.drivers:
        if driver.cls is None and driver in plan.chosen:
            errors.append(DriverError(refusal(driver)))
        if not (driver.cls and issubclass(driver.cls, Backend)):
            continue
        if driver in plan.chosen or issubclass(driver.cls, FolderBackend):
            try:
                backends.append(plan.backend(driver.name, site))
            except SipDumpError as error:  # one driver's fault must not hide the others
                errors.append(error)
    return backends, errors

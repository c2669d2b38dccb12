"""From settings to a plan: everything is checked before anything is started."""

import os
from collections.abc import Sequence
from typing import Any

import attrs

from sipdump_core.backend import Backend, Site, Transform
from sipdump_core.drivers import Driver, discover, select
from sipdump_core.errors import ConfigError
from sipdump_core.event_route import EventRoute, load_callback
from sipdump_core.folder import FolderBackend
from sipdump_core.hep_options import HepOptions
from sipdump_core.options import Setting, build
from sipdump_core.params import MODE_EVENT_ROUTE, Params

__all__ = ["Plan", "make_backends", "make_plan"]

CORE = "sipdump"
SOURCES: dict[str, type[Any]] = {"sipdump_hep": HepOptions}


@attrs.frozen
class Plan:
    """A checked configuration."""

    params: Params
    drivers: Sequence[Driver]
    """Every driver that is installed."""
    chosen: Sequence[Driver]
    """Those that mode and name switch on."""
    options: dict[str, Any]
    """The options of each driver, by its name."""
    modules: dict[str, Any]
    """The options of what isn't a driver (``SOURCES``), by module name, as ``sipdump_hep``."""
    route: EventRoute

    def backends(self, site: Site) -> list[Backend]:
        """Make the chosen backends."""
        return [d.cls(self.options[d.name], site) for d in self.chosen if d.cls and issubclass(d.cls, Backend)]

    def transforms(self) -> list[Transform]:
        """Make the chosen transforms."""
        return [d.cls(self.options[d.name]) for d in self.chosen if d.cls and issubclass(d.cls, Transform)]


def make_plan(settings: Sequence[Setting], drivers: Sequence[Driver] | None = None, *, to_start: bool = True) -> Plan:
    """Check settings, one by one and against each other.

    Args:
        settings: the modparams; those of modules that are not sipdump's are passed over.
        drivers: the installed drivers; looked up when not given.
        to_start: check also what only a start needs: the folder, and the event callback, which is loaded.

    Raises:
        ConfigError: a setting is wrong; the error names its place and what is allowed.
        DriverError: the installed drivers contradict each other.
    """
    drivers = discover() if drivers is None else drivers
    modules: dict[str, type[Any]] = {CORE: Params, **SOURCES}
    modules |= {f"sipdump_{driver.name}": driver.cls.options for driver in drivers if driver.cls}
    for setting in settings:
        if setting.module not in modules and setting.module.startswith("sipdump_"):
            raise setting.error(f"no such module; there are: {', '.join(modules)}")
    built = {name: build(cls, [s for s in settings if s.module == name]) for name, cls in modules.items()}
    params: Params = built[CORE]
    given = {s.name: s for s in settings if s.module == CORE}
    mode = given.get("mode", Setting(CORE, "mode", params.mode, "default"))
    named = [s for s in settings if s.module == CORE and s.name == "backend"]
    chosen = select(drivers, mode, named)
    if to_start and any(driver.cls and issubclass(driver.cls, FolderBackend) for driver in chosen):
        _check_folder(given.get("folder", Setting(CORE, "folder", params.folder, "default")))
    route = EventRoute()
    if to_start and params.event_callback and params.mode & MODE_EVENT_ROUTE:
        route.callback = load_callback(given["event_callback"])
    options = {d.name: built[f"sipdump_{d.name}"] for d in drivers if d.cls}
    return Plan(params, drivers, chosen, options, {name: built[name] for name in SOURCES}, route)


def _check_folder(setting: Setting) -> None:
    folder = str(setting.value)
    if not os.path.isdir(folder):
        raise setting.error("there is no such folder; create it, or name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise setting.error("the folder is not writable for this user; change its owner or mode, or name another")


def make_backends(plan: Plan, folder: str, prefix: str) -> tuple[list[Backend], list[ConfigError]]:
    """Make the backends whose segments an operator looks after: the chosen ones, and every one of files.

    Files are looked after whether or not their backend is still switched on, or nobody would ever prune what
    an earlier mode left.

    Returns:
        The backends, and an error for each that cannot be made.
    """
    site = Site(folder, prefix, plan.params.file_mode)
    backends, errors = [], []
    for driver in plan.drivers:
        if not (driver.cls and issubclass(driver.cls, Backend)):
            continue
        if driver in plan.chosen or issubclass(driver.cls, FolderBackend):
            try:
                backends.append(driver.cls(plan.options[driver.name], site))
            except Exception as error:  # noqa: BLE001 - one driver's fault must not hide the others
                errors.append(ConfigError(f"backend {driver.name}: {type(error).__name__}: {error}"))
    return backends, errors

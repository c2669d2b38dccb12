"""From settings to a plan: everything is checked before anything is started."""

import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from sipdump_core.drivers.discovery import Driver, Stock, load, refusal, select, switched_on, take_stock
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import ConfigError
from sipdump_core.routes.event_route import Route, load_callback
from sipdump_core.settings.core import MODE_EVENT_ROUTE, Params
from sipdump_core.settings.modules import CORE, KAMAILIO_KEMI, MODULES, misspelled, refuse_unknown, resolve
from sipdump_core.settings.options import Notice, Setting, Settings, build, marked

if TYPE_CHECKING:
    from sipdump_core.config.route_block import RouteBlock

__all__ = ["EVENT", "Plan", "make_plan"]

EVENT = "sipdump:msg"


@attrs.frozen
class Plan:
    """A checked configuration. It never changes; :class:`~sipdump_core.workshop.Workshop` makes backends of it."""

    settings: Settings
    """The settings of sipdump's modules, each by the name of one module."""
    params: Params
    drivers: Sequence[Driver]
    """Every driver that is installed; those that are not switched on were not imported, as a rule."""
    chosen: Sequence[Driver]
    """Those that mode and name switch on."""
    options: Mapping[str, Any]
    """The options of each driver that could be loaded, by its name."""
    modules: Mapping[str, Any]
    """The options of what is not a driver (``MODULES``), by module name, as ``sipdump_hep``."""
    route: Route | None = None
    """The event route; None where it is not run, or where the caller registers one."""
    notices: Sequence[Notice] = ()
    """What its author should know; whoever starts it logs them."""


def make_plan(
    settings: Sequence[Setting],
    drivers: Sequence[Driver] | None = None,
    *,
    event_routes: Mapping[str, "RouteBlock"] = MappingProxyType({}),
    to_start: bool = True,
) -> Plan:
    """Check settings, one by one and against each other.

    Args:
        settings: the modparams; those of modules that are not sipdump's are ignored.
        drivers: the installed drivers; by default they are looked up, and those that are switched on imported.
        event_routes: the event routes of the configuration, by name; with one for ``sipdump:msg``, event_callback
            is not called, as in Kamailio.
        to_start: check also what only a start needs: the folder, and the event callback, which is loaded.

    Raises:
        ConfigError: a setting is wrong; the error names its place and what is allowed.
    """
    params = build(Params, resolve(settings, [CORE]))
    stock = take_stock(params.block) if drivers is None else Stock(drivers)
    names = [CORE, *MODULES, *map(_module, stock.drivers)]
    refuse_unknown(settings, names)
    resolved = resolve(settings, [*names, *KAMAILIO_KEMI])
    # those of sipdump itself are also loaded to check what is set for them
    drivers = [_loaded_if_set(driver, resolved, params) for driver in stock.drivers]
    drivers = switched_on(drivers, params.mode, params.backend, params.load_timeout)
    # what is set for a driver that is not loaded is kept until it is
    classes = {**MODULES, **{_module(driver): driver.cls.options for driver in drivers if driver.cls}}
    options: dict[str, type[Any]] = {CORE: Params, **classes}
    resolved = Settings(marked(each, options[each.module]) if each.module in options else each for each in resolved)
    built = {name: build(cls, resolved.of(name)) for name, cls in classes.items()}
    chosen = select(drivers, resolved.last(CORE, "mode", params.mode), resolved.of(CORE, "backend"))
    for rule in params.keep:
        if rule.value.backend and not any(driver.name == rule.value.backend for driver in drivers):
            raise rule.setting.error(f"backend={rule.value.backend}: no such backend is installed")
    route, notices = None, [*stock.notices, *misspelled(settings, names), *_unused(stock, drivers, resolved)]
    if to_start:
        if any(driver.cls and issubclass(driver.cls, FolderBackend) for driver in chosen):
            _check_folder(resolved.last(CORE, "folder", params.folder))
        route = _route(resolved, event_routes, params)
        notices += _idle_filters(drivers, chosen, resolved)
        notices += _idle_scripts(resolved, event_routes, wanted=bool(params.mode & MODE_EVENT_ROUTE))
    return Plan(
        resolved,
        params,
        tuple(drivers),
        tuple(chosen),
        MappingProxyType({driver.name: built[_module(driver)] for driver in drivers if driver.cls}),
        MappingProxyType({name: built[name] for name in MODULES}),
        route,
        tuple(notices),
    )


def _module(driver: Driver) -> str:
    return f"sipdump_{driver.name}"


def _loaded_if_set(driver: Driver, settings: Settings, params: Params) -> Driver:
    return load(driver, params.load_timeout) if driver.is_ours and settings.of(_module(driver)) else driver


def _unused(stock: Stock, drivers: Sequence[Driver], settings: Settings) -> Iterator[Notice]:
    """Notice installed drivers that are refused or blocked, and settings that nobody looks at."""
    for driver in stock.refused:
        if not driver.blocked:
            yield Notice(refusal(driver))
    for setting in settings.of(CORE, "block"):
        if not any(setting.value in (each.name, each.distribution) for each in (*drivers, *stock.refused)):
            yield Notice(f"block: no backend and no distribution {setting.value!r} is installed", setting.place)
    for setting in settings.of(CORE, "backend"):
        if any(driver.blocked and driver.name == setting.value for driver in drivers):
            yield Notice(f"backend: {setting.value} is blocked, and not switched on", setting.place)
    mode = settings.last(CORE, "mode", 0)
    for driver in drivers:
        if driver.blocked and isinstance(mode.value, int) and driver.flag & mode.value:
            yield Notice(f"mode has {driver.name} ({driver.flag}), which is blocked, and not switched on", mode.place)
        elif not driver.loaded and (own := settings.of(_module(driver))):
            yield Notice(f"{driver.name} is not switched on: what is set for it is not checked", own[0].place)


def _route(settings: Settings, event_routes: Mapping[str, "RouteBlock"], params: Params) -> Route | None:
    """Compile or load the event route; None where mode lacks it, or there is none."""
    wanted = bool(params.mode & MODE_EVENT_ROUTE)
    if event_routes:  # compiled in any case, so that its mistakes are seen
        route = _compile_route(event_routes, params)
        return route if wanted else None
    return _load_callback(settings, params) if params.event_callback and wanted else None


def _compile_route(event_routes: Mapping[str, "RouteBlock"], params: Params) -> Route:
    for name, block in event_routes.items():
        if name != EVENT:
            raise ConfigError(f"event_route[{name}]: sipdump has no such event; there is {EVENT}", block.place(0))
    from sipdump_core.routes.script import compile_route  # noqa: PLC0415 - few have a route, and it loads a parser

    callback = compile_route(event_routes[EVENT], parse_call_id=bool(params.parse_call_id))
    return lambda _: callback


def _load_callback(settings: Settings, params: Params) -> Route:
    """Load the event callback from a KEMI script, or from the module or file that it names itself."""
    function = settings.last(CORE, "event_callback", params.event_callback)
    if ":" in params.event_callback:
        callback = load_callback(function)
        return lambda _: callback
    # a Kamailio's own configuration loads its script with parameters of KAMAILIO_KEMI
    loads = settings.of("sipdump_kemi", "load") or settings.of(KAMAILIO_KEMI, "load", "script_name")
    if not loads:
        raise function.error(
            'must be "module:function" or "file.py:function", or a function of a KEMI script; '
            'such a script is loaded by modparam("sipdump_kemi", "load", "callback.py")'
        )
    from sipdump_core.routes.kemi import load_kemi  # noqa: PLC0415 - few have a script, and it loads a parser

    return load_kemi(loads, function, parse_call_id=bool(params.parse_call_id))


def _idle_filters(drivers: Sequence[Driver], chosen: Sequence[Driver], settings: Settings) -> Iterator[Notice]:
    """Notice filters that are set and not switched on, and ours that are switched on and not set: they do nothing."""
    for driver in drivers:
        if driver.kind != "filter":
            continue
        own = settings.of(_module(driver))
        if own and driver not in chosen:
            flag = f" ({driver.flag})" if driver.flag else ""
            what = f"{driver.name}{flag} is set, but neither mode nor backend switches it on: nothing is filtered by it"
            yield Notice(what, own[0].place)
        elif driver in chosen and driver.is_ours and not own:
            what = f"{driver.name} is switched on, and none of its parameters is set: it changes nothing"
            yield Notice(what, settings.last(CORE, "mode", 0).place)


def _idle_scripts(settings: Settings, event_routes: Mapping[str, "RouteBlock"], *, wanted: bool) -> list[Notice]:
    """Return a notice for each event route, callback and script that will not run."""
    notices = []
    callback = settings.last(CORE, "event_callback", "")
    if not wanted:
        lacks = "mode lacks the event route (2)"
        notices += [Notice(f"event_route is not run: {lacks}", block.place(0)) for block in event_routes.values()]
        if callback.value:
            notices.append(Notice(f"event_callback is not called: {lacks}", callback.place))
    elif event_routes and callback.value:
        notices.append(Notice("event_callback is not called: there is an event_route", callback.place))
    if not callback.value:
        what = "script is not loaded: no event_callback names a function of it"
        notices += [Notice(what, load.place) for load in settings.of("sipdump_kemi", "load")]
    return notices


def _check_folder(setting: Setting) -> None:
    folder = str(setting.value)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise setting.error("there is no such folder: it is a file; name the folder that the segments are to be in")
    if not os.path.isdir(folder):
        raise setting.error("there is no such folder; create it, or name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise setting.error("the folder is not writable for this user; change its owner or mode, or name another")

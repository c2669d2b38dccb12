"""Finding the installed drivers; only what is switched on, or asked for, is imported.

What is installed is known from the distributions' metadata, and each driver's flag and suffix from its source
(:mod:`sipdump_core.drivers.declared`). stevedore loads the entry points. Drivers that claim the same are found here.
"""

import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import attrs
from stevedore import ExtensionManager

from sipdump_core.drivers.base import API_VERSION, Backend, Filter, Transform
from sipdump_core.drivers.contained import LOAD_TIMEOUT, contained
from sipdump_core.drivers.declared import Declared, declared
from sipdump_core.drivers.guard import Guard
from sipdump_core.drivers.metadata import OURS, Entry, entries, is_object
from sipdump_core.errors import ConfigError, DriverError
from sipdump_core.settings.core import MODE_EVENT_ROUTE
from sipdump_core.settings.modules import MODULES
from sipdump_core.settings.options import Notice, Setting, describe
from sipdump_core.version import VERSION

__all__ = [
    "NAMESPACE",
    "Driver",
    "Stock",
    "discover",
    "disabled",
    "load",
    "refusal",
    "reload",
    "select",
    "switched_on",
    "take_stock",
    "unusable",
]

NAMESPACE = "sipdump.backends"
THIRD_PARTY_FLAGS = 256
"""Third parties take mode flags from here up."""
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_SUFFIX = re.compile(r"|(?!\.(?:meta|dead))(?:\.[\w+-]+)+", re.ASCII)


@attrs.frozen
class Driver:
    """An installed driver: its class, why it cannot be used or, as long as nobody needs it, neither."""

    name: str
    distribution: str
    version: str
    cls: type[Backend] | type[Filter] | type[Transform] | None = None
    error: str = ""
    declared: Declared = attrs.field(factory=Declared)
    """What its source says, as far as that is read."""
    entry: Entry | None = None
    """What is imported; None if it was made in another way."""
    blocked: bool = False
    """Whether the operator has blocked it: it is never imported, and nobody waits for it."""

    @property
    def loaded(self) -> bool:
        """Whether its import was tried, or is refused."""
        return self.cls is not None or bool(self.error)

    @property
    def flag(self) -> int:
        """The mode flag; 0 if the driver has none, or it is not known."""
        return self.cls.flag if self.cls else self.declared.flag or 0

    @property
    def suffix(self) -> str | None:
        """What names of its segments end with; None if that is not known, or each instance has its own."""
        return getattr(self.cls, "suffix", "") if self.cls else self.declared.suffix

    @property
    def transformed(self) -> bool:
        """Whether it is a backend that stores what transforms make, as far as that is known."""
        return bool(getattr(self.cls, "transformed", False) if self.cls else self.declared.transformed)

    @property
    def is_ours(self) -> bool:
        """Whether it is part of sipdump."""
        return self.distribution == OURS

    @property
    def fault(self) -> str:
        """Why it cannot be used now; empty when it can, as far as that is known."""
        if self.cls is None:
            return self.error
        for module in self.cls.requires if issubclass(self.cls, Backend) else ():
            if not _is_there(self.name, module):
                install = f"pip install '{self.distribution}[{self.name}]'"
                return f"it needs the module {module}, which is not installed; install it with: {install}"
        return ""

    @property
    def origin(self) -> str:
        """The distribution with its version."""
        return f"{self.distribution} {self.version}"

    @property
    def kind(self) -> str:
        """``backend``, ``filter``, ``transform``, or ``unknown`` if it could not be loaded."""
        if self.cls is None:
            return "unknown" if self.error else self.declared.kind or "unknown"
        return _kind(self.cls)

    @property
    def may_filter(self) -> bool:
        """Whether it is a filter, or may be one as far as is known: nothing may be stored without it."""
        return self.declared.may_filter if self.cls is None else self.kind == "filter"


@attrs.frozen
class Stock:
    """What is installed."""

    drivers: Sequence[Driver]
    """In the order of their names, one of each name."""
    refused: Sequence[Driver] = ()
    """Further ones that claim such a name, with the reason why they are not used."""
    notices: Sequence[Notice] = ()
    """What is wrong with the distributions' metadata."""


class _One(ExtensionManager):  # type: ignore[type-arg,misc,unused-ignore]  # generic, and typed, only in new releases
    """Has stevedore load one entry point, without its cache on disk, which hides what an install has just added."""

    def __init__(self, entry: Entry) -> None:
        self._point = importlib.metadata.EntryPoint(entry.name, entry.value, NAMESPACE)
        self.errors: list[BaseException] = []
        super().__init__(NAMESPACE, on_load_failure_callback=lambda _, __, error: self.errors.append(error))

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        return [self._point]


def take_stock(blocked: Collection[str] = ()) -> Stock:
    """Find the installed drivers, and import none.

    Args:
        blocked: names of drivers, and of distributions, that are not to be used.
    """
    found, notices = entries(NAMESPACE)
    drivers = [_of(entry) for entry in found]
    drivers = [_blocked(each) if {each.name, each.distribution} & {*blocked} else each for each in drivers]
    drivers = disabled(sorted(drivers, key=lambda driver: (driver.name, not driver.is_ours, bool(driver.error))))
    first: dict[str, Driver] = {}
    for driver in drivers:
        first.setdefault(driver.name, driver)
    refused = [driver for driver in drivers if first[driver.name] is not driver]
    return Stock(list(first.values()), refused, notices)


def discover(blocked: Collection[str] = (), timeout: float = LOAD_TIMEOUT) -> list[Driver]:
    """Find and load every installed driver, in the order of their names.

    Args:
        blocked: names of drivers, and of distributions, that are not to be used.
        timeout: seconds that an import may take.
    """
    return disabled([load(driver, timeout) for driver in take_stock(blocked).drivers])


def load(driver: Driver, timeout: float = LOAD_TIMEOUT) -> Driver:
    """Import a driver, unless that was done, or is refused; what is wrong with it is in what is returned.

    Args:
        driver: as :func:`take_stock` has found it.
        timeout: seconds that it may take.
    """
    entry = driver.entry
    if driver.loaded or entry is None:
        return driver
    with Guard() as guard:
        if _is_imported(entry.module):
            manager = _One(entry)
        else:
            manager = contained(driver.name, "import", lambda: _One(entry), timeout)
        if manager.errors:
            raise manager.errors[0]
        return _checked(driver, manager.extensions[0].plugin)
    assert guard.error  # noqa: S101 - or it had returned
    if isinstance(guard.error, DriverError):
        return attrs.evolve(driver, error=str(guard.error))
    where = traceback.extract_tb(guard.error.__traceback__)[-1]
    return attrs.evolve(driver, error=f"{guard.text} ({where.filename}:{where.lineno})")


def _is_imported(module: str) -> bool:
    """Return whether nothing is left to import, or an import of its package is what leads here.

    The latter, as where a program's package makes a SipDump with a backend of its own, can go on in this thread alone.
    """
    parts = module.split(".")
    packages = [sys.modules.get(".".join(parts[:count])) for count in range(1, len(parts))]
    found = sys.modules.get(module)
    return (found is not None and not _begins(found)) or any(map(_begins, packages))


def _begins(module: object) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def reload(name: str, blocked: Collection[str] = (), timeout: float = LOAD_TIMEOUT) -> Driver:
    """Load one driver again: what it lacked may have been installed or fixed meanwhile.

    Args:
        name: the driver's name.
        blocked: names of drivers, and of distributions, that are not to be used.
        timeout: seconds that the import may take.

    Raises:
        DriverError: no distribution has it any more.
    """
    importlib.invalidate_caches()
    for found in take_stock(blocked).drivers:
        if found.name != name:
            continue
        driver = load(found, timeout)
        if driver.error and driver.entry and not found.error:  # a module that was read half-written must not stay
            sys.modules.pop(driver.entry.module, None)
        return driver
    raise DriverError(f"no installed distribution has the driver {name} any more")


def disabled(drivers: Sequence[Driver]) -> list[Driver]:
    """Return the drivers, those of third parties that claim the same with an error in place of their class.

    What sipdump claims itself is its own: a third party that claims it too is refused alone.
    """
    claims: dict[str, list[Driver]] = {}
    for driver in drivers:
        for claim in _claims(driver):
            claims.setdefault(claim, []).append(driver)
    return [_disabled(driver, claims) for driver in drivers]


def _claims(driver: Driver) -> list[str]:
    """Return what no two drivers may have."""
    if driver.blocked:
        return []
    claims = [f"the name {driver.name}"]
    claims += [f"the flag {driver.flag}"] if driver.flag else []
    # a file that is on its way to its name is claimed with it
    suffix = (driver.suffix or "").removesuffix(".wal").removesuffix(".tmp")
    return claims + ([f"the suffix {suffix}"] if suffix else [])


def _disabled(driver: Driver, claims: dict[str, list[Driver]]) -> Driver:
    if driver.is_ours or driver.error:
        return driver
    for claim in _claims(driver):
        others = [other for other in claims[claim] if other is not driver]
        ours = next((other for other in others if other.is_ours), None)
        if ours:
            why = f"claims {claim}, which is sipdump's own; its author must choose another one"
        elif {other.origin for other in others} == {driver.origin} and claim == f"the name {driver.name}":
            place = driver.entry.place if driver.entry else ""
            why = f"has several entry points of that name ({place}): none of them is used; install it again"
        elif others:
            named = " and ".join(sorted({f"{other.name} of {other.origin}" for other in others}))
            block = f'modparam("sipdump", "block", "{driver.distribution}")'
            why = (
                f"claims {claim}, and so does {named}: neither is used; uninstall one of them, or block one, "
                f"as with {block}"
            )
        else:
            continue
        known = driver.declared
        known = attrs.evolve(known, flag=driver.flag, suffix=driver.suffix, may_filter=driver.may_filter)
        return attrs.evolve(driver, cls=None, error=why, declared=known)
    return driver


def _blocked(driver: Driver) -> Driver:
    return attrs.evolve(driver, blocked=True, error='it is blocked by modparam("sipdump", "block", ...)')


def _of(entry: Entry) -> Driver:
    """Return the driver of an entry point, with the reason if it can be refused before its import."""
    driver = Driver(entry.name, entry.distribution, entry.version, entry=entry)
    if not is_object(entry.value):
        error = f"its entry point must be module:Class, not {entry.value[:80]!r} ({entry.place})"
        return attrs.evolve(driver, error=error)
    known = declared(entry.module, entry.attribute)
    if known.flag and (known.flag < 0 or known.flag & (known.flag - 1)):
        known = attrs.evolve(known, flag=None)  # it will be refused, and owns none
    driver = attrs.evolve(driver, declared=known)
    error = _name_fault(entry.name) or _flag_fault(driver)
    return (
        attrs.evolve(driver, declared=attrs.evolve(known, flag=0), error=f"{entry.value} {error}") if error else driver
    )


def switched_on(drivers: Sequence[Driver], mode: int, names: Collection[str], timeout: float) -> list[Driver]:
    """Return the drivers, with those loaded that a mode and a list of names switch on.

    A flag that no driver is known to own may be that of any driver whose flag only its import shows.

    Args:
        drivers: what is installed.
        mode: the sum of the flags.
        names: the backends that are switched on by name.
        timeout: seconds that an import may take.
    """
    drivers = [load(each, timeout) if each.flag & mode or each.name in names else each for each in drivers]
    if _unowned(drivers, mode) >= THIRD_PARTY_FLAGS:
        drivers = [load(each, timeout) if each.declared.flag is None else each for each in drivers]
    return disabled(drivers)


def _unowned(drivers: Iterable[Driver], mode: int) -> int:
    """Return the flags of a mode that no driver is known to own."""
    mode &= ~MODE_EVENT_ROUTE
    for driver in drivers:
        mode &= ~driver.flag
    return mode


def select(drivers: Sequence[Driver], mode: Setting, names: Iterable[Setting]) -> list[Driver]:
    """Return the drivers that a mode and a list of names switch on.

    Drivers that cannot be used are among them as long as one can: the others must not keep it from storing. But nothing
    is stored without a filter that was switched on. A flag that no driver owns is taken to belong to the drivers that
    could not be loaded.

    Raises:
        ConfigError: a bit that no driver owns, an unknown name, a filter that cannot be used, or a mode without any
            sink that can be used.
    """
    assert isinstance(mode.value, int)  # noqa: S101 - the option's type was checked
    chosen = [driver for driver in drivers if driver.flag & mode.value]
    unowned = _unowned(drivers, mode.value)
    unloaded = [driver for driver in drivers if driver.cls is None and driver.declared.flag is None]
    if unowned >= THIRD_PARTY_FLAGS:
        chosen += (driver for driver in unloaded if driver not in chosen)
    if unowned and (not unloaded or unowned % THIRD_PARTY_FLAGS):
        bits = ", ".join(str(1 << bit) for bit in range(unowned.bit_length()) if unowned >> bit & 1)
        raise mode.error(f"no installed backend owns the flag {bits}; {_installed(drivers)}")
    for setting in names:
        named = next((driver for driver in drivers if driver.name == setting.value), None)
        if named is None:
            raise setting.error(f"no such backend is installed; {_installed(drivers)}")
        if named not in chosen:
            chosen.append(named)
    for driver in chosen:
        if driver.fault and driver.may_filter:
            raise _unfiltered(driver, mode, names)
    blocked = [driver for driver in chosen if driver.blocked]
    chosen = [driver for driver in chosen if not driver.blocked]
    if mode.value & MODE_EVENT_ROUTE or any(driver.kind == "backend" and not driver.fault for driver in chosen):
        return chosen
    for driver in (*chosen, *blocked):
        if driver.fault:
            raise mode.error(refusal(driver))
    raise mode.error(
        f"invalid mode parameter: it switches on nothing that stores; add a backend or the event route (2); "
        f"{_installed(drivers)}"
    )


def _unfiltered(driver: Driver, mode: Setting, names: Iterable[Setting]) -> ConfigError:
    """Return the error that nothing may be stored, because what is switched on is a filter, or may be one."""
    setting = next((each for each in names if each.value == driver.name), mode)
    what = "it is a filter" if driver.declared.kind == "filter" else "it may be a filter"
    return setting.error(
        f"{refusal(driver)}; {what}, and nothing is stored without it: mend it, or do not switch it on"
    )


def _kind(cls: type[Any]) -> str:
    if issubclass(cls, Backend):
        return "backend"
    return "filter" if issubclass(cls, Filter) else "transform"


def refusal(driver: Driver) -> str:
    """Return that a driver cannot be used, and why."""
    kind = (driver.declared.kind or "backend") if driver.kind == "unknown" else driver.kind
    return f"the {kind} {driver.name} of {driver.origin} cannot be used: {driver.fault}"


def unusable(cls: Any) -> str:
    """Return why a class cannot be a driver, whatever its entry point says; empty when it can."""
    with Guard() as guard:
        return _unusable(cls)
    return f"cannot be looked at: {guard.text}"


def _unusable(cls: Any) -> str:
    if not (isinstance(cls, type) and issubclass(cls, (Backend, Filter, Transform))):
        return "is no subclass of sipdump_core.Backend, sipdump_core.Filter or sipdump_core.Transform"
    if type(cls.api) is not int or not 1 <= cls.api <= API_VERSION:
        newer = isinstance(cls.api, int) and cls.api > API_VERSION
        return (
            f"was made for version {cls.api!r} of the backend interface, sipdump {VERSION} has version {API_VERSION}; "
            f"install {'a newer sipdump' if newer else 'a newer release of this driver'}, or an older release of "
            f"{'the driver' if newer else 'sipdump'}"
        )
    fault = _name_fault(cls.name)
    if fault:
        return fault
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


def _name_fault(name: Any) -> str:
    """Return why no driver can have a name; empty if one can."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"has the name {name!r}; a name is of lower-case letters, digits and _, and begins with a letter"
    if f"sipdump_{name}" in MODULES:
        return f"has the name {name}, and sipdump_{name} has parameters of sipdump itself; it needs another one"
    return ""


def _flag_fault(driver: Driver) -> str:
    """Return why a driver cannot have its flag, which is a power of two; empty if it can."""
    if 0 < driver.flag < THIRD_PARTY_FLAGS and not driver.is_ours:
        return f"declares the flag {driver.flag}; third parties take {THIRD_PARTY_FLAGS} or more, or 0"
    return ""


def _checked(driver: Driver, cls: Any) -> Driver:
    """Return a driver with what its import has brought, or with what is wrong with that."""
    why = unusable(cls)
    if not why and cls.name != driver.name:
        why = f"calls itself {cls.name!r}, its entry point {driver.name!r}"
    if not why:
        loaded = attrs.evolve(driver, cls=cls)
        why = _flag_fault(loaded)
        if not why:
            return loaded
    return attrs.evolve(driver, error=f"{driver.entry.value if driver.entry else cls!r} {why}")


def _is_there(name: str, module: str) -> bool:
    with Guard():  # for a.b the package a is imported, which may be missing, or fail
        if "." not in module:
            return importlib.util.find_spec(module) is not None
        return contained(name, f"look for {module}", lambda: importlib.util.find_spec(module)) is not None
    return False


def _installed(drivers: Iterable[Driver]) -> str:
    return "installed are the event route (2), " + ", ".join(f"{driver.name} ({_known(driver)})" for driver in drivers)


def _known(driver: Driver) -> str:
    """Return the flag of a driver, or why it is of no use."""
    if driver.blocked:
        return "blocked"
    if driver.error:
        return f"cannot be loaded: {driver.error}"
    return str(driver.flag or ("by name" if driver.cls or driver.declared.flag == 0 else "its flag is not known"))

"""The modules that a configuration can name, and which of them a setting is for."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from sipdump_core.settings.ctl import CtlOptions
from sipdump_core.settings.hep import HepOptions
from sipdump_core.settings.kemi import KemiOptions
from sipdump_core.settings.ksr import KsrOptions
from sipdump_core.settings.options import Notice, Setting, Settings

__all__ = ["CORE", "KAMAILIO_KEMI", "MODULES", "is_like_ours", "misspelled", "refuse_unknown", "resolve"]

CORE = "sipdump"
MODULES: dict[str, type[Any]] = {
    "sipdump_hep": HepOptions,
    "sipdump_ksr": KsrOptions,
    "sipdump_ctl": CtlOptions,
    "sipdump_kemi": KemiOptions,
}
"""Modules that belong neither to the core nor to a driver; no driver may take their names."""
KAMAILIO_KEMI = ("app_lua", "app_python3", "app_python3s")
"""Kamailio's modules whose scripts a KEMI callback of ours may live in."""


def resolve(settings: Iterable[Setting], modules: Sequence[str]) -> Settings:
    """Return each setting once for every module that it is for, as Kamailio does; settings of other modules go.

    Args:
        settings: from the configuration; the name of a module is a regular expression in them.
        modules: the names of the modules.

    Raises:
        ConfigError: a module's name is not a regular expression.
    """
    resolved = []
    for setting in settings:
        matched = [name for name in modules if setting.is_for(name)]
        if CORE in matched and "sipdump_" not in setting.module:
            # an expression for Kamailio's modules does not mean ours, which no Kamailio has
            matched = [name for name in matched if not name.startswith("sipdump_")]
        resolved += [attrs.evolve(setting, module=name) for name in matched]
    return Settings(resolved)


def refuse_unknown(settings: Iterable[Setting], modules: Sequence[str]) -> None:
    """Refuse a setting for ``sipdump_NAME`` if no such module exists.

    Raises:
        ConfigError: there is such a setting.
    """
    for setting in settings:
        ours = setting.module.startswith("sipdump") and setting.module.replace("_", "").isalnum()
        if ours and not any(map(setting.is_for, modules)):
            raise setting.error(f"no such module; there are: {', '.join(modules)}")


def is_like_ours(name: str) -> bool:
    """Return whether a name looks as if one of our modules was meant: ``sipdmup``."""
    name = name.lower()
    return CORE in name or bool(difflib.get_close_matches(name, [CORE, *MODULES], 1, 0.8))


def misspelled(settings: Iterable[Setting], modules: Sequence[str]) -> list[Notice]:
    """Return a notice for each module in the settings that is not ours, but looks as if it was meant to be.

    Args:
        settings: from the configuration.
        modules: the names of the modules.
    """
    found = {}
    for setting in settings:
        if setting.module not in found and is_like_ours(setting.module) and not any(map(setting.is_for, modules)):
            (close,) = difflib.get_close_matches(setting.module.lower(), modules, 1, 0.0)
            text = f'modparam("{setting.module}", ...) sets nothing here; did you mean "{close}"?'
            found[setting.module] = Notice(text, setting.place)
    return list(found.values())

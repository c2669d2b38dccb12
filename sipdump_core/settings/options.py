"""Options: typed values, declared once in an attrs class and filled from modparams at the edge.

::

    @attrs.frozen
    class TextOptions:
        \"\"\"Options of the text backend.\"\"\"

        width: int = option(20, unit="characters", help="how wide the separators are", check=at_least(1))

makes ``modparam("sipdump_text", "width", 30)`` work, with its type and range checked and its place named in
errors. Kamailio knows two types of parameters, int and str; an option is annotated ``int``, ``str`` or, when it
may be given several times, ``tuple[str, ...]``.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar, get_type_hints

import attrs

from sipdump_core.errors import ConfigError, kind_and_text
from sipdump_core.posix_regex import Pattern

__all__ = ["Check", "Setting", "at_least", "build", "describe", "duration", "in_range", "one_of", "option"]

Check = Callable[[Any], str | None]
"""Gives None for a good value, else what is allowed, as ``"must be 1 or more"``."""

T = TypeVar("T")
_TYPES: dict[Any, str] = {int: "int", str: "str", tuple[str, ...]: "str, repeatable"}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@attrs.frozen
class Setting:
    """One modparam: a value for a parameter of a module, and where that was said."""

    module: str
    name: str
    value: int | str
    place: str = ""
    line: str = attrs.field(default="", eq=False, repr=False)
    """The line of the configuration file, for errors."""

    def error(self, message: str) -> ConfigError:
        """Make the error that points at this setting."""
        shown = f'"{self.value}"' if isinstance(self.value, str) else self.value
        within = f"; in: {self.line}" if self.line else ""
        return ConfigError(f'modparam("{self.module}", "{self.name}", {shown}): {message}{within}', self.place)

    def is_for(self, module: str) -> bool:
        """Say whether this is a parameter of a module: as in Kamailio, the name given is a regular expression.

        Raises:
            ConfigError: it is no regular expression.
        """
        try:
            return _pattern(self.module).fullmatch(module.encode())
        except ValueError as error:
            raise self.error(f"the module's name is no regular expression: {error}") from error


def option(default: Any, *, help: str, unit: str = "", check: Check | None = None) -> Any:
    """Declare one option of an attrs options class.

    Args:
        default: the value when no modparam gives one.
        help: one line that says what it does.
        unit: the value's unit, as ``"seconds"``.
        check: refuses values that make no sense.
    """
    return attrs.field(default=default, metadata={"help": help, "unit": unit, "check": check})


def at_least(low: int) -> Check:
    """Allow integers from ``low`` up."""
    return lambda value: None if value >= low else f"must be {low} or more"


def in_range(low: int, high: int) -> Check:
    """Allow integers from ``low`` to ``high``, both included."""
    return lambda value: None if low <= value <= high else f"must be {low} to {high}"


def one_of(*allowed: Any) -> Check:
    """Allow just these values."""
    return lambda value: None if value in allowed else f"must be one of: {', '.join(map(str, allowed))}"


def duration(text: str) -> int:
    """Read a time expression of Kamailio's ``fagex``: numbers with units, as ``2d6h40m30s``.

    Returns:
        Seconds.

    Raises:
        ValueError: the text is no such expression.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise ValueError('must be numbers with the units d, h, m, s in that order, as "2d" or "2d6h40m30s"')
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def build(cls: type[T], settings: Iterable[Setting]) -> T:
    """Fill an options class from the settings of one module; of a single-valued option the last one counts.

    Raises:
        ConfigError: an unknown name, a wrong type, or a value that the option's check or the class refuses.
    """
    hints = get_type_hints(cls)
    fields = {field.name: field for field in attrs.fields(cls)}  # type: ignore[arg-type]  # T is any attrs class
    values: dict[str, Any] = {}
    setting = None
    for setting in settings:
        field = fields.get(setting.name)
        if field is None:
            raise setting.error(_unknown(setting.name, list(fields)))
        kind = hints[setting.name]
        wanted = int if kind is int else str
        if type(setting.value) is not wanted:
            names = {int: "an integer, without quotes", str: "a string, in quotes"}
            raise setting.error(f"must be {names[wanted]}")
        refusal = _refusal(field.metadata.get("check"), setting.value)
        if refusal:
            raise setting.error(refusal)
        if kind in (int, str):
            values[setting.name] = setting.value
        else:
            values[setting.name] = (*values.get(setting.name, ()), setting.value)
    try:
        return cls(**values)
    except Exception as error:
        if setting is None:
            raise
        raise ConfigError(f"the parameters of {setting.module}: {kind_and_text(error)}", setting.place) from error


def describe(cls: type[Any]) -> list[dict[str, Any]]:
    """Describe an options class: for each option its name, type, unit, default and help.

    Raises:
        TypeError: it cannot be made of its defaults, or an option is of another type than a modparam can have.
    """
    hints = get_type_hints(cls)
    defaults = cls()
    described = []
    for field in attrs.fields(cls):
        kind = hints[field.name]
        if kind not in _TYPES:
            raise TypeError(f"{field.name} is annotated {kind}; an option is int, str or tuple[str, ...]")
        if not field.init or field.alias != field.name:
            raise TypeError(f"{field.name} cannot be given to {cls.__name__} by that name")
        default = getattr(defaults, field.name)
        if not isinstance(default, kind if kind in (int, str) else tuple):
            raise TypeError(f"{field.name} is annotated {kind}, and its default is {default!r}")
        described.append(
            {
                "name": field.name,
                "type": _TYPES[kind],
                "unit": field.metadata.get("unit", ""),
                "default": default,
                "help": field.metadata.get("help", ""),
            }
        )
    return described


def _refusal(check: Check | None, value: Any) -> str | None:
    try:
        return check(value) if check else None
    except Exception as error:  # noqa: BLE001 - a check is a driver's, and may fail in any way
        return f"it cannot be checked: {kind_and_text(error)}"


@lru_cache(256)
def _pattern(module: str) -> Pattern:
    return Pattern(module.encode("utf-8", "surrogateescape"), ignore_case=True)


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    meant = f' (did you mean "{close[0]}"?)' if close else ""
    return f"no such parameter{meant}; there are: {', '.join(known) or 'none'}"

"""Options: typed values, declared once in an attrs class and filled from modparams at the edge.

::

    @attrs.frozen
    class TextOptions:
        \"\"\"Options of the text backend.\"\"\"

        width: int = option(20, unit="characters", help="how wide the separators are", check=at_least(1))

makes ``modparam("sipdump_text", "width", 30)`` work, with its type and range checked and its place named in
errors. Kamailio knows two types of parameters, int and str. An option is annotated ``int``, ``str``, ``tuple[str,
...]`` when it may be repeated, ``bool``, set as 1 or 0 (Kamailio's ``yes`` and ``no`` are these), or ``float``, set as
a string, ``"0.5"``, or an integer.

An option with ``parse`` holds what its text means, together with the setting that said so, for errors that come
later (a port that is taken, say)::

    listen: tuple[Given[Listen], ...] = option((), help="where to listen", parse=parse_listen)
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar, get_type_hints

import attrs

from sipdump_core.errors import ConfigError, kind_and_text
from sipdump_core.log import Event
from sipdump_core.posix_regex import Pattern
from sipdump_core.redaction import REDACTED, hide, redacted

__all__ = [
    "Check",
    "Given",
    "Notice",
    "Parse",
    "Setting",
    "Settings",
    "a_size",
    "at_least",
    "build",
    "describe",
    "duration",
    "in_range",
    "is_secret",
    "marked",
    "may_be_secret",
    "one_of",
    "option",
    "permissions",
    "size",
    "without_user",
]

Check = Callable[[Any], str | None]
"""Returns None for a good value, else what is allowed, as ``"must be 1 or more"``."""
Parse = Callable[[Any], Any]
"""Returns what a value means, or raises ValueError, whose text says what is allowed."""

T = TypeVar("T")
_TYPES: dict[Any, str] = {
    int: "int",
    str: "str",
    bool: "bool",
    float: "float",
    tuple[str, ...]: "str, repeatable",
}
_OWN = re.compile(r"sipdump(_(hep|ksr|ctl|kemi))?")
"""The modules whose secrets are known by their names; any other one of ours is a driver's."""
_FLAGS = {"1": True, "0": False, "yes": True, "no": False, "on": True, "off": False, "true": True, "false": False}
_SECRET = re.compile(r"pass|secret|token|auth|credential", re.IGNORECASE)
_USER_INFO = re.compile(r"//[^/\s]*@")
_SIZE = re.compile(r"(\d{1,18})([KMGT]?)", re.ASCII)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@attrs.frozen
class Notice:
    """Something in a configuration that is allowed, but probably not what its author meant."""

    text: str
    place: str = ""
    """``file:line:column``; empty if no single place is the reason."""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text

    def event(self) -> Event:
        """Return it as it goes to the log."""
        return Event(self.text, at=self.place) if self.place else Event(self.text)


@attrs.frozen
class Setting:
    """One modparam: a value for a parameter of a module, and where the configuration sets it."""

    module: str
    name: str
    value: int | float | str = attrs.field(repr=False)
    place: str = ""
    """``file:line:column``, or the command line's option."""
    line: str = attrs.field(default="", eq=False, repr=False)
    """The line of the configuration file, for errors."""
    secret: bool | None = attrs.field(default=None, eq=False, repr=False)
    """Whether its option was declared secret; None: its driver has not been asked yet."""

    @property
    def hidden(self) -> bool:
        """Whether nobody is to see the value; a switch, 0 or 1, is no secret whatever its name."""
        if type(self.value) is int and self.value in (0, 1):
            return False
        return may_be_secret(self.module, self.name) if self.secret is None else self.secret or is_secret(self.name)

    @property
    def shown_value(self) -> str:
        """The value for people: that of a secret, and user and password of an address, are ``...``."""
        return REDACTED if self.hidden else without_user(str(self.value))

    def error(self, message: str) -> ConfigError:
        """Return the error that points at this setting, for the caller to raise."""
        value = self.shown_value
        shown = f'"{value}"' if isinstance(self.value, str) else value
        what = f'modparam("{self.module}", "{self.name}", {shown})' if self.module else shown
        within = f"; in: {self.line}" if self.line else ""
        return ConfigError(f"{what}: {message}{within}", self.place)

    def is_for(self, module: str) -> bool:
        """Return whether this sets a parameter of a module: as in Kamailio, its own name is a regular expression.

        Raises:
            ConfigError: it is not a regular expression.
        """
        try:
            return _pattern(self.module).fullmatch(module.encode())
        except ValueError as error:
            raise self.error(f"the module's name is no regular expression: {error}") from error


class Settings(tuple[Setting, ...]):
    """Settings in the order of the configuration, looked up by module and name."""

    __slots__ = ()

    def of(self, module: str | Sequence[str], *names: str) -> "Settings":
        """Return those of a module, or of several: all, or those of some of its parameters."""
        modules = (module,) if isinstance(module, str) else module
        return Settings(s for s in self if s.module in modules and (not names or s.name in names))

    def last(self, module: str, name: str, default: int | str) -> Setting:
        """Return the setting that counts for a single-valued parameter, or one of the default value."""
        found = self.of(module, name)
        return found[-1] if found else Setting(module, name, default, "default")


@attrs.frozen
class Given(Generic[T]):
    """What a setting means, together with that setting."""

    value: T = attrs.field(repr=False)
    setting: Setting = attrs.field(eq=False, repr=lambda setting: setting.shown_value)

    @classmethod
    def of(cls, value: Any, parse: Callable[[Any], T]) -> "Given[T]":
        """Parse a value that comes from Python, not from a configuration.

        Raises:
            ValueError: it is not of the form that the option takes.
        """
        return cls(parse(value), Setting("", "", value))

    def error(self, message: str) -> ConfigError:
        """Return the error that points at the setting, for the caller to raise."""
        return self.setting.error(message)


def option(
    default: Any,
    *,
    help: str,
    unit: str = "",
    check: Check | None = None,
    parse: Parse | None = None,
    secret: bool = False,
) -> Any:
    """Declare one option of an attrs options class.

    Args:
        default: the value when no modparam sets one.
        help: one line that says what it does.
        unit: the value's unit, as ``"seconds"``.
        check: refuses values that make no sense.
        parse: turns the value, which is then of the type of ``default``, into what the options class holds: a
            :class:`Given`; a tuple of them where ``default`` is a tuple; None for an empty text, which is not parsed.
        secret: nobody is to see the value: ``...`` stands for it in messages, logs and the repr of the options.
    """
    metadata = {"help": help, "unit": unit, "check": check, "parse": parse, "secret": secret}
    shown: Any = (lambda _: REDACTED) if secret else True
    # with a converter, the class can be made of plain values in Python, too
    converter = _converter(parse) if parse else None
    if secret:
        converter = _hiding(converter, default)
    return attrs.field(default=default, metadata=metadata, repr=shown, converter=converter)


def may_be_secret(module: str, name: str) -> bool:
    """Return whether a value is not to be shown before it is known what its driver says of it."""
    parts = module.lower().split("|")  # it may be a pattern
    return is_secret(name) or any("sipdump" in part and not _OWN.fullmatch(part) for part in parts)


def is_secret(name: str) -> bool:
    """Return whether the value of a parameter with this name is not to be shown."""
    return _SECRET.search(name) is not None


def without_user(text: str) -> str:
    """Return a text with ``...`` for the user and the password of each address in it."""
    return _USER_INFO.sub("//...@", text)


def at_least(low: int) -> Check:
    """Allow integers from ``low`` up."""
    return lambda value: None if value >= low else f"must be {low} or more"


def in_range(low: int, high: int) -> Check:
    """Allow integers from ``low`` to ``high``, both included."""
    return lambda value: None if low <= value <= high else f"must be {low} to {high}"


def one_of(*allowed: Any) -> Check:
    """Allow just these values."""
    return lambda value: None if value in allowed else f"must be one of: {', '.join(map(str, allowed))}"


def permissions(low: int = 0) -> Check:
    """Allow permission bits from ``low`` up; the refusal of 640 says that 0640 was meant."""

    def check(value: int) -> str | None:
        if low <= value <= 0o777:
            return None
        meant = f"; {value} is decimal, octal is 0{value}" if re.fullmatch("[0-7]{3}", str(value)) else ""
        return f"must be 0{low:03o} to 0777, octal with a leading 0{meant}"

    return check


def size(text: str) -> int:
    """Read a number of bytes: ``"80G"``, with K, M, G or T for 1024 to its powers, or digits alone.

    Raises:
        ValueError: it is not of this form.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'{text!r} is no size; write "80G", with K, M, G or T, or a number of bytes')
    return int(found[1]) << 10 * " KMGT".index(found[2] or " ")


def a_size(value: str) -> str | None:
    """Check an option: None for a number of bytes as :func:`size` reads it, or nothing, else what is wrong."""
    try:
        size(value or "0")
    except ValueError as error:
        return str(error)
    return None


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
        ConfigError: an unknown name, a wrong type, or a value that the option or the class refuses.
    """
    fields = {field.name: field for field in attrs.fields(cls)}  # type: ignore[arg-type]  # T is any attrs class
    kinds = _kinds(cls)
    values: dict[str, Any] = {}
    setting = None
    for setting in settings:
        field = fields.get(setting.name)
        if field is None:
            raise setting.error(_unknown(setting.name, list(fields)))
        kind = kinds[setting.name]
        many = kind == tuple[str, ...]
        value = _value(field, marked(setting, cls), str if many else kind)
        values[setting.name] = (*values.get(setting.name, ()), value) if many else value
    try:
        return cls(**values)
    except Exception as error:
        if setting is None:
            raise
        raise ConfigError(f"the parameters of {setting.module}: {kind_and_text(error)}", setting.place) from error


def marked(setting: Setting, cls: type[Any]) -> Setting:
    """Return a setting that knows whether its option, of this class, is secret; the secret is shown nowhere then."""
    fields = [field for field in attrs.fields(cls) if field.name == setting.name]
    if not fields:
        return setting
    secret = bool(fields[0].metadata.get("secret"))
    if secret:
        hide(str(setting.value))
    return attrs.evolve(setting, secret=secret)


def describe(cls: type[Any]) -> list[dict[str, Any]]:
    """Describe an options class: for each option its name, type, unit, default and help.

    Raises:
        TypeError: it cannot be made of its defaults, or an option is of another type than a modparam can have.
    """
    defaults = cls()
    kinds = _kinds(cls)
    described = []
    for field in attrs.fields(cls):
        kind = kinds[field.name]
        if kind not in _TYPES:
            raise TypeError(f"{field.name} is annotated {kind}; an option is int, float, bool, str or tuple[str, ...]")
        if not field.init or field.alias != field.name:
            raise TypeError(f"{field.name} cannot be given to {cls.__name__} by that name")
        default = field.default if field.metadata.get("parse") else getattr(defaults, field.name)
        if not isinstance(default, {float: int | float}.get(kind, tuple if kind == tuple[str, ...] else kind)):
            raise TypeError(f"{field.name} is annotated {kind}, and its default is {default!r}")
        if default and field.metadata.get("secret"):
            default = REDACTED
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


def _kinds(cls: type[Any]) -> dict[str, Any]:
    """Return the type of each option's settings: as it is annotated or, where it is parsed, that of its default."""
    kinds = get_type_hints(cls)
    for field in attrs.fields(cls):
        if field.metadata.get("parse"):
            kinds[field.name] = tuple[str, ...] if isinstance(field.default, tuple) else type(field.default)
    return kinds


def _typed(setting: Setting, wanted: type) -> Any:
    """Return a setting's value as what the option is; Kamailio's modparams are integers and strings only.

    Raises:
        ConfigError: it is not of that type.
    """
    value: Any = setting.value
    if wanted is bool and str(value).lower() in _FLAGS:
        return _FLAGS[str(value).lower()]
    if wanted is float:
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    if type(value) is wanted and wanted in (int, str):
        return value
    names = {
        int: "an integer, without quotes",
        str: "a string, in quotes",
        bool: "1 or 0 (or yes, no, on, off, true, false)",
        float: 'a number: a string with a point, "0.5", or an integer',
    }
    raise setting.error(f"must be {names[wanted]}")


def _hiding(converter: Callable[[Any], Any] | None, default: Any) -> Callable[[Any], Any]:
    """Return a converter that hides what it is given; the default is in the driver's source, and no secret."""

    def convert(value: Any) -> Any:
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if value != default and type(each) in (int, float, str):
                hide(str(each))
        return converter(value) if converter else value

    return convert


def _value(field: Any, setting: Setting, wanted: type) -> Any:
    """Check a setting's value, and parse it where the option asks for that."""
    value = _typed(setting, wanted)
    check, parse = field.metadata.get("check"), field.metadata.get("parse")
    try:
        refusal = check(value) if check else None
    except Exception as error:  # noqa: BLE001 - a check is a driver's, and may fail in any way
        refusal = f"it cannot be checked: {kind_and_text(error)}"
    if refusal:
        raise setting.error(redacted(str(refusal)))
    if parse is None or (value == "" and not isinstance(field.default, tuple)):
        return value
    try:
        return Given(parse(value), setting)
    except ValueError as error:
        raise setting.error(redacted(str(error))) from error


def _converter(parse: Parse) -> Callable[[Any], Any]:
    def one(value: Any) -> Any:
        return value if isinstance(value, Given) else Given.of(value, parse)

    def convert(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(one, value))
        return None if value in ("", None) else one(value)

    return convert


@lru_cache(256)
def _pattern(module: str) -> Pattern:
    return Pattern(module.encode("utf-8", "surrogateescape"), ignore_case=True)


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    meant = f' (did you mean "{close[0]}"?)' if close else ""
    return f"no such parameter{meant}; there are: {', '.join(known) or 'none'}"

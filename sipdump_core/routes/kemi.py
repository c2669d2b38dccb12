"""KEMI: event callbacks in Python and Lua scripts that were written for Kamailio.

A script finds what Kamailio's app_python3 and app_lua give it, as far as an event route of sipdump has use for it: the
module (in Lua the table) ``KSR`` with its log functions, ``KSR.set_drop``, ``KSR.x``, ``KSR.pv`` and ``KSR.sipdump``.
What a function returns, and what a callback's end and errors mean, is as Kamailio 5.6.3 was seen to do it. But bytes
that are no UTF-8 do not raise in Python, a drop counts for sent messages too, not when the callback raises, and
``KSR.sipdump.send`` stores the message at hand (Kamailio stores a made-up one).
"""

import inspect
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import attrs

from sipdump_core.log import Event, log
from sipdump_core.record import Record
from sipdump_core.routes.event_route import DROP, Route, Send, load_file, locate
from sipdump_core.routes.variables import compile_pv
from sipdump_core.settings.options import Setting

if TYPE_CHECKING:
    from sipdump_core.routes.kemi_lua import LuaScripts

__all__ = ["EVENT", "LEVELS", "Kemi", "load_kemi", "log_line"]

EVENT: Final = "sipdump:msg"
"""The event's name, which callbacks get as an argument."""

LEVELS: Final = {
    "dbg": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warn": logging.WARNING,
    "err": logging.ERROR,
    "crit": logging.CRITICAL,
}
"""The level of the daemon's log for each level that ``KSR.log`` knows; it takes any other for ``err``."""

_RANK: Final = 1
"""What child_init gets: the rank of Kamailio's first worker."""
_CACHE_LIMIT = 1000
_NUMBER = re.compile(rb"\s*[+-]?\d{1,18}")

Handler = Callable[[Record, Send], Any]
"""Runs a script's function for a record."""

Value = int | bytes | None
_running = threading.local()
"""Its ``call`` is the call of a callback that runs in this thread, so that one ``KSR`` serves all scripts."""


def load_kemi(loads: Sequence[Setting], function: Setting, *, parse_call_id: bool) -> Route:
    """Load scripts, and return the route that runs the function of that name in them.

    Args:
        loads: the scripts, each a file beside the configuration that names it; where several have the function, the
            last one's runs.
        function: the name, and where it was said.
        parse_call_id: provide ``$sipdump(call_id)``.

    Returns:
        A route. Its callback may be called from several threads; the scripts run one call at a time, as
        in a process of Kamailio.

    Raises:
        ConfigError: a script is not there, or does not load, or none has the function, or lupa is missing.
    """
    kemi = Kemi(parse_call_id)
    name = str(function.value)
    found: Handler | None = None
    lua: LuaScripts | None = None
    for load in loads:
        path = locate(str(load.value), load)
        if not path.is_file():
            raise load.error(f"no such file: {path}")
        if path.suffix == ".py":
            found = _load_python(kemi, path, load, name) or found
            continue
        if lua is None:
            from sipdump_core.routes import kemi_lua  # noqa: PLC0415 - it builds on this module

            lua = kemi_lua.LuaScripts(kemi, load)
        lua.load(path, load)
        found = lua.callback(name) or found
    if found is None:
        scripts = ", ".join(str(load.value) for load in loads)
        raise function.error(f"no such function in {scripts}")
    handler = found
    return lambda send: lambda record: handler(record, send)


@attrs.define
class _Call:
    """One run of a callback."""

    kemi: "Kemi"
    record: Record
    send: Send
    dropped: bool = False


class Kemi:
    """What the functions of ``KSR`` do, in terms of bytes as Lua has them; Python's are built on them.

    Outside a call (while a script loads, or in a thread of its own) there is no record: all values are null.
    """

    def __init__(self, parse_call_id: bool) -> None:
        self._parse_call_id = parse_call_id
        self._pvs: dict[str, Callable[[Record], Value]] = {}
        self._lock = threading.RLock()  # a callback may bring a record itself, in the same thread

    def run(self, record: Record, send: Send, function: Callable[..., Any], *args: Any) -> Any:
        """Run a script's function for a record; ``send`` stores it for ``KSR.sipdump.send``.

        Returns:
            DROP when the script asked for that; what its function returned means nothing.
        """
        call = _Call(self, record, send)
        with self._lock:
            outer = getattr(_running, "call", None)
            _running.call = call
            try:
                function(*args)
            except SystemExit:
                pass  # KSR.x.exit, sys.exit: the end of this callback
            finally:
                _running.call = outer
        return DROP if call.dropped else None

    def pv(self, name: str, record: Record) -> Value:
        """Give the value of a pseudo-variable; one that is not known is logged, once, and null as in Kamailio."""
        getter = self._pvs.get(name)
        if getter is None:
            try:
                getter = compile_pv(name, parse_call_id=self._parse_call_id)
            except ValueError as error:
                log.error(Event(f"KSR.pv: {error}; it is null", name=name))
                getter = _null
            if len(self._pvs) >= _CACHE_LIMIT:
                self._pvs.clear()
            self._pvs[name] = getter
        return getter(record)


def log_line(level: int, text: str) -> None:
    """Log a script's text, without its final newline; the log itself sees to it that an event is one line."""
    if log.isEnabledFor(level):
        log.log(level, Event(text.rstrip("\r\n")))


def current_record() -> Record | None:
    """Give the record that a callback in this thread was called for."""
    call: _Call | None = getattr(_running, "call", None)
    return call.record if call else None


def get_pv(name: str) -> Value:
    """Give the value of a pseudo-variable for the record at hand."""
    call: _Call | None = getattr(_running, "call", None)
    return call.kemi.pv(name, call.record) if call else None


def get_int(name: str) -> int:
    """Give the value of a pseudo-variable as a number: of a text the number at its start, 0 where there is none."""
    value = get_pv(name)
    if isinstance(value, bytes):
        found = _NUMBER.match(value)
        return int(found[0]) if found else 0
    return value or 0


def set_drop() -> None:
    """Drop the record at hand; the callback runs on."""
    call: _Call | None = getattr(_running, "call", None)
    if call:
        call.dropped = True


def send(tag: str) -> None:
    """Store the record at hand under a tag.

    Raises:
        ValueError: the tag has control characters.
    """
    call: _Call | None = getattr(_running, "call", None)
    if call:
        call.send(call.record, tag)


def _null(_: Record) -> None:
    return None


# Python


class _Module(ModuleType):
    """A module of KSR; where Kamailio would say just "no attribute", this says what there is."""

    def __init__(self, name: str, members: dict[str, Any]) -> None:
        super().__init__(name, "KEMI, as Kamailio gives it to scripts; see docs/kemi.md.")
        self.__dict__.update(members)

    def __getattr__(self, name: str) -> Any:
        there = ", ".join(member for member in sorted(self.__dict__) if not member.startswith("_"))
        raise AttributeError(f"sipdump gives scripts no {self.__name__}.{name}; {self.__name__} has: {there}")


class _Message:
    """Stands for the message object of Kamailio, which in this event is that of a made-up message."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"sipdump gives callbacks no msg.{name}; use KSR.sipdump and KSR.pv")


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"must be a str, not {type(value).__name__}")
    return value


def _text(value: Value) -> Any:
    # backslashreplace: what comes out can be logged, encoded and written without a further thought
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _logger(level: int) -> Callable[[str], int]:
    def write(text: str) -> int:
        log_line(level, _string(text))
        return 0

    return write


def _log(level: str, text: str) -> int:
    log_line(LEVELS.get(_string(level).lower(), logging.ERROR), _string(text))
    return 0


def _set_drop() -> int:
    set_drop()
    return 0


def _exit() -> None:
    raise SystemExit


def _get(name: str) -> Any:
    return _text(get_pv(_string(name)))


def _get_or(name: str, default: Any) -> Any:
    value = _get(name)
    return default if value is None else value


def _get_int(name: str) -> int:
    return get_int(_string(name))


def _field(name: str) -> Callable[[], str]:
    def get() -> str:
        record = current_record()
        return _text(getattr(record, name)) if record else ""

    return get


def _send(tag: str) -> int:
    send(_string(tag))
    return 1


def _make_ksr() -> dict[str, ModuleType]:
    pv = {
        "get": _get,
        "gete": lambda name: _get_or(name, ""),
        "getw": lambda name: _get_or(name, "<null>"),
        "getvn": _get_or,
        "getvs": _get_or,
        "geti": _get_int,
        "is_null": lambda name: _get(name) is None,
    }
    sipdump: dict[str, Any] = {f"get_{name}": _field(name) for name in ("buf", "tag", "src_ip", "dst_ip")}
    modules: dict[str, ModuleType] = {
        "KSR.pv": _Module("KSR.pv", pv),
        "KSR.x": _Module("KSR.x", {"exit": _exit}),
        "KSR.sipdump": _Module("KSR.sipdump", {**sipdump, "send": _send}),
    }
    members: dict[str, Any] = {name: _logger(level) for name, level in LEVELS.items()}
    members |= {"alert": _logger(logging.CRITICAL), "log": _log, "set_drop": _set_drop}
    members |= {name.removeprefix("KSR."): module for name, module in modules.items()}
    return {"KSR": _Module("KSR", members), **modules}


_KSR: Final = _make_ksr()
_MSG: Final = _Message()


def _load_python(kemi: Kemi, path: Path, setting: Setting, name: str) -> Handler | None:
    """Load a Python script as app_python3 does, and return its handler, or None where it has no such function."""
    sys.modules.update(_KSR)  # for as long as the process lives: functions may import it when they run
    folder = str(path.parent.absolute())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = load_file(path)
        handler: Any = module.mod_init() if hasattr(module, "mod_init") else None
        function = getattr(handler, name, None) or getattr(module, name, None)
        if function is None:
            return None
        refusal = handler.child_init(_RANK) if hasattr(handler, "child_init") else 0
    except BaseException as error:
        raise setting.error(f"cannot load it: {_where(error, path)}{type(error).__name__}: {error}") from error
    if isinstance(refusal, int) and refusal < 0:
        raise setting.error(f"child_init({_RANK}) returned {refusal}")
    try:
        inspect.signature(function).bind(_MSG, EVENT)
    except TypeError as error:
        raise setting.error(f"{name} is called with (msg, evname): {error}") from None
    except ValueError:
        pass  # some callables have no signature to look at
    return lambda record, send: kemi.run(record, send, function, _MSG, EVENT)


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == path.name]
    return f"{path}:{lines[-1]}: " if lines else ""

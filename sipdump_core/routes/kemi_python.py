"""KEMI scripts in Python: the module ``KSR`` that they import, and how they are loaded."""

import inspect
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sipdump_core.routes import ksr
from sipdump_core.routes.event_route import load_file
from sipdump_core.routes.values import Value
from sipdump_core.settings.options import Setting

__all__ = ["load_python"]

_RANK: Final = 1
"""What child_init gets: the rank of Kamailio's first worker."""


class _Module(ModuleType):
    """A module of KSR; where Kamailio would say just "no attribute", this says what there is."""

    def __init__(self, name: str, members: dict[str, Any]) -> None:
        super().__init__(name, "KEMI, as Kamailio has it for scripts; see docs/kemi.md.")
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
        ksr.log_line(level, _string(text))
        return 0

    return write


def _log(level: str, text: str) -> int:
    ksr.log_line(ksr.LEVELS.get(_string(level).lower(), logging.ERROR), _string(text))
    return 0


def _set_drop() -> int:
    ksr.set_drop()
    return 0


def _exit() -> None:
    raise SystemExit


def _get(name: str) -> Any:
    return _text(ksr.get_pv(_string(name)))


def _get_or(name: str, default: Any) -> Any:
    value = _get(name)
    return default if value is None else value


def _get_int(name: str) -> int:
    return ksr.get_int(_string(name))


def _field(name: str) -> Callable[[], str]:
    def get() -> str:
        record = ksr.current_record()
        return _text(getattr(record, name)) if record else ""

    return get


def _send(tag: str) -> int:
    ksr.send(_string(tag))
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
    members: dict[str, Any] = {name: _logger(level) for name, level in ksr.LEVELS.items()}
    members |= {"alert": _logger(logging.CRITICAL), "log": _log, "set_drop": _set_drop}
    members |= {name.removeprefix("KSR."): module for name, module in modules.items()}
    return {"KSR": _Module("KSR", members), **modules}


_KSR: Final = _make_ksr()
_MSG: Final = _Message()


def load_python(kemi: ksr.Kemi, path: Path, setting: Setting, name: str) -> ksr.Handler | None:
    """Load a Python script as app_python3 does.

    Args:
        kemi: runs the callback.
        path: the script.
        setting: the modparam that names it, for errors.
        name: the function to call.

    Returns:
        The handler, or None where the script has no such function.

    Raises:
        ConfigError: the script raises, refuses to start, or its function takes other arguments.
    """
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
        inspect.signature(function).bind(_MSG, ksr.EVENT)
    except TypeError as error:
        raise setting.error(f"{name} is called with (msg, evname): {error}") from None
    except ValueError:
        pass  # some callables have no signature to look at
    return lambda record, send: kemi.run(record, send, function, _MSG, ksr.EVENT)


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == path.name]
    return f"{path}:{lines[-1]}: " if lines else ""

"""What everything in a process shares, and a driver should leave as it was."""

import asyncio
import builtins
import decimal
import gc
import locale
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Mapping
from typing import Any

__all__ = ["changes", "surroundings"]

_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGALRM, signal.SIGQUIT, signal.SIGWINCH,
)  # fmt: skip
_WARNINGS = (
    UserWarning, DeprecationWarning, PendingDeprecationWarning, RuntimeWarning, FutureWarning, ResourceWarning,
    SyntaxWarning, ImportWarning, UnicodeWarning, BytesWarning,
)  # fmt: skip
_LOGGERS = ("", "sipdump", "somebody.else")
_FUNCTIONS = {
    builtins: ("open", "print", "input", "__import__", "eval", "exec"),
    socket: ("socket", "create_connection", "getaddrinfo", "gethostbyname"),
    ssl: ("create_default_context", "_create_default_https_context", "SSLContext", "SSLSocket", "match_hostname"),
    time: ("time", "monotonic", "sleep", "localtime", "strftime"),
    os: ("open", "write", "fsync", "rename", "unlink", "fork", "environ", "getpid"),
    threading: ("Thread", "Lock", "RLock", "excepthook"),
    sys: ("excepthook", "unraisablehook", "displayhook", "stdout", "stderr", "stdin"),
    logging: ("Logger", "LogRecord", "Formatter", "lastResort", "raiseExceptions"),
    warnings: ("showwarning", "formatwarning", "warn"),
}


def surroundings() -> dict[str, Any]:
    """Return the state that everything in a process shares, by what it is called."""
    umask = os.umask(0o022)
    os.umask(umask)
    return {
        "signal handlers": [signal.getsignal(number) for number in _SIGNALS],
        "the signal mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "the umask": umask,
        "the working directory": os.getcwd(),
        "the environment": dict(os.environ),
        "the time zone": time.tzname,
        "the locale": locale.setlocale(locale.LC_ALL),
        "the default time-out of sockets": socket.getdefaulttimeout(),
        "limits": [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)],
        "the priority": os.getpriority(os.PRIO_PROCESS, 0),
        "the interpreter's settings": _interpreter(),
        "logging": _logging(),
        "warnings": {category.__name__: _action(category) for category in _WARNINGS},
        "ssl": _tls(),
        "the opener of URLs": getattr(urllib.request, "_opener", None),
        "functions of the standard library": {
            f"{module.__name__}.{name}": getattr(module, name, None)
            for module, names in _FUNCTIONS.items()
            for name in names
        },
        "the asyncio policy": type(asyncio.get_event_loop_policy()),
    }


def changes(before: Mapping[str, Any]) -> list[str]:
    """Return what is no longer as it was, and where one of several is meant, which."""
    changed = []
    for what, value in surroundings().items():
        if value == before[what]:
            continue
        parts = []
        if isinstance(value, dict):
            parts = sorted(name for name in {*value, *before[what]} if value.get(name) != before[what].get(name))
        changed.append(what + (f" ({', '.join(parts)})" if parts else ""))
    return changed


def _interpreter() -> dict[str, Any]:
    context = decimal.getcontext()
    return {
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_debug()),
        "digits of int": sys.get_int_max_str_digits(),
        "trace": (sys.gettrace(), threading.gettrace()),
        "decimal": (context.prec, context.rounding),
        "stack size": threading.stack_size(),
        "bytecode": sys.dont_write_bytecode,
    }


def _logging() -> dict[str, Any]:
    found: dict[str, Any] = {
        "disable()": logging.root.manager.disable,
        "levels": [logging.getLevelName(level) for level in (10, 20, 30, 40, 50)],
        "setLoggerClass()": logging.getLoggerClass(),
        "setLogRecordFactory()": logging.getLogRecordFactory(),
    }
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        state = (logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled)
        found[f"logger {name or 'root'}"] = (*state, [handler.level for handler in logger.handlers])
    return found


def _action(category: type[Warning]) -> str:
    """Return what happens to such a warning of a module that nobody knows."""
    for action, message, kind, module, line in warnings.filters:
        if issubclass(category, kind) and _takes(message, "") and _takes(module, "somebody.else") and not line:
            return str(action)
    return str(getattr(warnings, "defaultaction", ""))


def _takes(pattern: Any, text: str) -> bool:
    """Return whether a part of a filter takes a text: an expression, a text of the interpreter's own, or anything."""
    if pattern is None or isinstance(pattern, str):
        return pattern in (None, text)
    return bool(pattern.match(text))


def _tls() -> tuple[Any, ...]:
    context = ssl._create_default_https_context()
    return context.verify_mode, context.check_hostname, context.minimum_version, context.options

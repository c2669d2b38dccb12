"""Runs what a driver does before it stores, its import and its constructor, so that it can hold nothing up.

It runs in a thread of its own, is given up when it takes too long, and what it changes of the process is set back.
"""

import faulthandler
import gc
import locale
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Generic, TypeVar

from sipdump_core.drivers.guard import Guard, labelled
from sipdump_core.errors import DriverError
from sipdump_core.log import Event, log
from sipdump_core.program import report_crashes

__all__ = ["LOAD_TIMEOUT", "contained"]

T = TypeVar("T")

LOAD_TIMEOUT = 10.0
"""Seconds that an import or a constructor may take, unless ``load_timeout`` says otherwise."""


class _Call(threading.Thread, Generic[T]):
    """One call, in a daemon thread."""

    def __init__(self, driver: str, what: str, call: Callable[[], T]) -> None:
        super().__init__(name=f"sipdump-{driver}-{what}", daemon=True)
        self._work = labelled(driver, what, call)
        self.began = time.monotonic()
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        with Guard() as guard:
            self.result = self._work()
        self.error = guard.error


_hanging: dict[str, _Call[Any]] = {}
"""What did not return in time, by the thread's name: it is not begun again until it does."""


def contained(driver: str, what: str, call: Callable[[], T], seconds: float = LOAD_TIMEOUT) -> T:
    """Make a call, and return what it returns.

    Args:
        driver: the driver's name.
        what: what is done, as ``import``.
        call: does it.
        seconds: how long it may take.

    Raises:
        DriverError: it did not return in time, or raised a KeyboardInterrupt.
        BaseException: what it raised.
    """
    if isinstance(threading.current_thread(), _Call):  # one driver makes another one
        return call()
    thread = _Call(driver, what, call)
    known = _hanging.get(thread.name)
    if known and known.is_alive():
        waited = time.monotonic() - known.began
        raise DriverError(f"its {what} has not returned for {waited:.0f} s")
    with _as_it_was(driver, what), _signals, redirect_stdout(sys.stderr):  # what a command prints on stdout is data
        thread.start()
        thread.join(seconds)
    if thread.is_alive():
        _hanging[thread.name] = thread
        raise DriverError(f"its {what} has not returned within {seconds:g} s, and is given up")
    _hanging.pop(thread.name, None)
    if isinstance(thread.error, KeyboardInterrupt):
        raise DriverError(f"its {what} raised KeyboardInterrupt") from thread.error
    if thread.error is not None:
        raise thread.error
    return thread.result  # type: ignore[return-value]  # None only where T may be


class _Signals:
    """While calls are made, their threads cannot change how the process handles signals.

    Python lets only the main thread do that, and a driver that tries it at its import would fail elsewhere. So they are
    told that it was done, and it is not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._real: dict[str, Any] = {}

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._real = {name: getattr(signal, name) for name in ("signal", "set_wakeup_fd")}
                signal.signal = self._stand_in(signal.signal, lambda number, _: signal.getsignal(number))
                signal.set_wakeup_fd = self._stand_in(signal.set_wakeup_fd, lambda *_, **__: -1)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                for name, real in self._real.items():
                    setattr(signal, name, real)

    @staticmethod
    def _stand_in(real: Callable[..., Any], instead: Callable[..., Any]) -> Any:
        def function(*args: Any, **more: Any) -> Any:
            call = threading.current_thread()
            if not isinstance(call, _Call):
                return real(*args, **more)
            what = "a driver wants to handle a signal; that is not its own, and passed over"
            log.warning(Event(what, by=call.name, signal=str(args[0]) if args else ""))
            return instead(*args, **more)

        return function


_signals = _Signals()


def _umask() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # reading it otherwise would set it
        return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))


def _log_state() -> tuple[Any, ...]:
    return log.disabled, log.level, log.propagate, tuple(log.handlers), logging.root.manager.disable


def _set_log(state: tuple[Any, ...]) -> None:
    log.disabled, log.level, log.propagate, handlers, logging.root.manager.disable = state
    log.handlers[:] = handlers
    log.setLevel(log.level)  # so that what loggers have cached is forgotten


def _set_zone(zone: str | None) -> None:
    os.environ.pop("TZ", None)
    if zone is not None:
        os.environ["TZ"] = zone
    time.tzset()


def _set_collector(state: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if state[0] else gc.disable)()
    gc.set_threshold(*state[1])


def _set_warnings(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]  # it is a list


_STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "working folder": (os.getcwd, os.chdir),
    "umask": (_umask, os.umask),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    "time zone": (lambda: os.environ.get("TZ"), _set_zone),
    "sys.excepthook": (lambda: sys.excepthook, lambda value: setattr(sys, "excepthook", value)),
    "sys.unraisablehook": (lambda: sys.unraisablehook, lambda value: setattr(sys, "unraisablehook", value)),
    "threading.excepthook": (lambda: threading.excepthook, lambda value: setattr(threading, "excepthook", value)),
    "sys.stdin": (lambda: sys.stdin, lambda value: setattr(sys, "stdin", value)),
    "sys.stdout": (lambda: sys.stdout, lambda value: setattr(sys, "stdout", value)),
    "sys.stderr": (lambda: sys.stderr, lambda value: setattr(sys, "stderr", value)),
    "default time-out of sockets": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "switch interval": (sys.getswitchinterval, sys.setswitchinterval),
    "garbage collector": (lambda: (gc.isenabled(), gc.get_threshold()), _set_collector),
    "logging": (_log_state, _set_log),
    "warnings": (lambda: list(warnings.filters), _set_warnings),
    "interval timer": (
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        lambda before: None if before else signal.setitimer(signal.ITIMER_REAL, 0),
    ),
    "faulthandler": (faulthandler.is_enabled, lambda value: report_crashes() if value else faulthandler.disable()),
}
"""What belongs to the process and not to a driver: how to read it, and how to set it back."""


@contextmanager
def _as_it_was(driver: str, what: str) -> Iterator[None]:
    """Set back what the block changes of the process, and log that."""
    before: dict[str, Any] = {}
    for name, (read, _) in _STATE.items():
        with Guard():
            before[name] = read()
    try:
        yield
    finally:
        changed = [name for name, value in before.items() if not _is(name, value)]
        for name in changed:
            with Guard():
                _STATE[name][1](before[name])
        if changed:
            what_of = "a driver changed what is not its own; it is set back"
            log.warning(Event(what_of, driver=driver, by=what, changed=", ".join(changed)))


def _is(name: str, value: Any) -> bool:
    with Guard() as guard:
        return bool(_STATE[name][0]() == value)
    return guard.error is None

"""KEMI, what scripts of Kamailio call: what the functions of ``KSR`` do, whatever the script's language.

A script finds what Kamailio's app_python3 and app_lua have, as far as an event route of sipdump has use for it: the
module (in Lua the table) ``KSR`` with its log functions, ``KSR.set_drop``, ``KSR.x``, ``KSR.pv`` and ``KSR.sipdump``.
What a function returns, and what a callback's end and errors mean, is as Kamailio 5.6.3 was seen to do it. But bytes
that are not UTF-8 do not raise in Python, a drop counts for sent messages too, though not when the callback raises, and
``KSR.sipdump.send`` stores the message at hand (Kamailio stores a made-up one).
"""

import logging
import re
import threading
from collections.abc import Callable
from typing import Any, Final

import attrs

from sipdump_core.cache import Cache
from sipdump_core.log import Event, log
from sipdump_core.record import Record
from sipdump_core.routes.event_route import DROP, Send
from sipdump_core.routes.values import Getter, Value
from sipdump_core.routes.variables import compile_pv

__all__ = ["EVENT", "LEVELS", "Handler", "Kemi", "current_record", "get_int", "get_pv", "log_line", "send", "set_drop"]

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

Handler = Callable[[Record, Send], Any]
"""Runs a script's function for a record."""

_NUMBER = re.compile(rb"\s*[+-]?\d{1,18}")
_running = threading.local()
"""Its ``call`` is the call of a callback that runs in this thread, so that one ``KSR`` serves all scripts."""


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
        self._pvs: Cache[str, Getter] = Cache(1000)
        self._lock = threading.RLock()  # a callback may bring a record itself, in the same thread

    def run(self, record: Record, send: Send, function: Callable[..., Any], *args: Any) -> Any:
        """Run a script's function for a record; ``send`` stores it for ``KSR.sipdump.send``.

        Returns:
            DROP where the script asked for that, else None; what its function returned means nothing.
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
        """Return the value of a pseudo-variable; an unknown one is logged, once, and is null as in Kamailio."""
        getter = self._pvs.get(name)
        if getter is None:
            try:
                getter = compile_pv(name, parse_call_id=self._parse_call_id)
            except ValueError as error:
                log.error(Event(f"KSR.pv: {error}; it is null", name=name))
                getter = _null
            self._pvs.keep(name, getter)
        return getter(record)


def log_line(level: int, text: str) -> None:
    """Log a script's text, without its final newline; the log itself makes an event one line."""
    if log.isEnabledFor(level):
        log.log(level, Event(text.rstrip("\r\n")))


def current_record() -> Record | None:
    """Return the record that a callback in this thread was called for."""
    call: _Call | None = getattr(_running, "call", None)
    return call.record if call else None


def get_pv(name: str) -> Value:
    """Return the value of a pseudo-variable for the record at hand."""
    call: _Call | None = getattr(_running, "call", None)
    return call.kemi.pv(name, call.record) if call else None


def get_int(name: str) -> int:
    """Return the value of a pseudo-variable as a number: for a text the number at its start, or 0."""
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

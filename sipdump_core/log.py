"""Structured logging: an event with fields, as key=value or JSON lines, and a limit on how often.

An event is one line, whatever is in it: what strangers send can neither forge a line nor control a terminal.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from sipdump_core.cache import Cache
from sipdump_core.redaction import redacted

__all__ = ["KEPT", "Event", "Limit", "escaped", "log", "setup", "warnings_to"]

log = logging.getLogger("sipdump")
KEPT = "\n\t"
"""What stays as it is in an error of several lines that a command prints."""


class Event:
    """A log message with named fields; as text it reads ``what key=value key="two words"``."""

    def __init__(self, what: str, **fields: Any) -> None:
        self.what = what
        self.fields = fields

    def __str__(self) -> str:
        return redacted(
            " ".join([self.what, *(f"{_shown(key)}={_shown(value)}" for key, value in self.fields.items())])
        )


class Limit:
    """Lets one event a second through for each key, and reports how many it held back meanwhile.

    It keeps no more keys than ``keys``, so that a stranger who varies them cannot fill the memory.
    """

    def __init__(self, interval: float = 1.0, keys: int = 1000) -> None:
        self._interval = interval
        self._last: Cache[str, tuple[float, int]] = Cache(keys)

    def warn(self, key: str, what: str, *, traceback: bool = False, **fields: Any) -> None:
        """Log a warning, unless one of this key was logged within the interval.

        Args:
            key: what it is about.
            what: the event.
            traceback: log the traceback of the exception that is being handled too.
            fields: the event's fields.
        """
        now = time.monotonic()
        logged, held = self._last.get(key, (-self._interval, 0))
        if now - logged < self._interval:
            self._last[key] = (logged, held + 1)
            return
        self._last.pop(key, None)
        self._last.keep(key, (now, 0))
        if held:
            fields["held_back"] = held
        log.warning(Event(what, **fields), exc_info=traceback)


def setup(style: str, level: str) -> None:
    """Send the log to stderr, one line an event.

    Args:
        style: ``kv`` for key=value, or ``json``.
        level: a name of the logging module, in any case.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _KeyValueFormatter())
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False


@contextlib.contextmanager
def warnings_to(take: Callable[[str], object]) -> Iterator[None]:
    """Hand the warnings that are logged in the block to a function, a line each, for a command that prints them."""

    class _Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            take(record.getMessage())

    handler = _Handler(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _KeyValueFormatter(logging.Formatter):
    """One line an event: ``time=... level=info event="segment opened" backend=text``."""

    def format(self, record: logging.LogRecord) -> str:
        return str(Event("", **_fields(record, self)))[1:]


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escaped(json.dumps(_fields(record, self), default=_text))


def _fields(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, Any]:
    event = record.msg if isinstance(record.msg, Event) else Event(record.getMessage())
    moment = datetime.fromtimestamp(record.created).astimezone()
    fields = {"time": moment.isoformat(timespec="milliseconds"), "level": record.levelname.lower()}
    fields |= {"event": event.what, **event.fields}
    if record.exc_info:
        fields["traceback"] = formatter.formatException(record.exc_info)
    return {
        key: value if isinstance(value, int | float | None) else redacted(_text(value)) for key, value in fields.items()
    }


def escaped(text: str, keep: str = "") -> str:
    r"""Return text with what is not printable escaped as JSON has it: ``\n``, ``\u0085``, ``\u202e``.

    These are Unicode's control and format characters, line and paragraph separators, surrogates, spaces other than
    that of ASCII, and what has no meaning yet (``str.isprintable``).

    Args:
        text: the text.
        keep: characters that stay as they are.
    """
    rest = text
    for one in keep:
        rest = rest.replace(one, "")
    if rest.isprintable():  # nearly all is, and a table may have 100,000 lines
        return text
    return "".join(one if one.isprintable() or one in keep else _escape(one) for one in text)


def _escape(one: str) -> str:
    return "\\u007f" if one == "\x7f" else json.dumps(one)[1:-1]  # DEL is ASCII, and JSON has it as it is


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a driver's object, say; what happened to it must be told all the same
        return f"<{type(value).__name__} that raises {type(error).__name__}>"


def _shown(value: Any) -> str:
    text = _text(value)
    plain = text and text.isprintable() and not any(c in ' "=' for c in text)
    return text if plain else escaped(json.dumps(text, ensure_ascii=False))

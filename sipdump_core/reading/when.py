"""Times and spans as people type them: ``10:32``, ``yesterday 10:30``, ``-15m``, ``2026-11-27T10:32:00Z``, ``15m``.

A time without a zone is local time, as ``TZ`` has it.
"""

import re
from datetime import date, datetime, time, timedelta

from sipdump_core.settings.options import duration

__all__ = ["AROUND", "parse_span", "parse_when", "zone"]

AROUND = 600.0
"""Seconds before and after the span in which the other messages of its calls are looked for, by default."""

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.(\d{1,6}))?)?")
_DAYS = {"today": 0, "yesterday": 1}
_FORMS = 'as "10:32", "yesterday 10:30", "-15m", "2026-11-27", "2026-11-27T10:32:00Z" or "now"'


def parse_span(text: str) -> int:
    """Read a span of time: numbers with the units d, h, m, s, as ``15m`` or ``1d12h``, or a number of seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: it is not of that form.
    """
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else duration(text)


def parse_when(text: str, now: datetime, *, after: datetime | None = None) -> datetime:
    """Read a time.

    A clock time alone is the last one that has passed; with ``after``, the first one that is not before it.

    Args:
        text: what was typed.
        now: the present, with its zone; relative times count from it, and times without a zone are in its zone.
        after: the start of the span that this time ends.

    Raises:
        ValueError: it is not of a form that is known; the message lists them.
    """
    text = " ".join(text.split())
    if text == "now":
        return now
    if text.startswith("-"):
        try:
            return now - timedelta(seconds=parse_span(text[1:]))
        except (ValueError, OverflowError):
            raise ValueError(f'{text!r} is not a span of time: write it as "-15m" or "-1d12h"') from None
    if text.startswith("@"):
        try:
            return datetime.fromtimestamp(float(text[1:]), now.tzinfo)
        except (ValueError, OverflowError, OSError):
            raise ValueError(f"{text!r}: after @ comes a number of seconds since 1970") from None
    day, _, clock = text.partition(" ")
    if day in _DAYS:
        return _at(_date(now, now) - timedelta(days=_DAYS[day]), clock or "0:00", text, now)
    if _CLOCK.fullmatch(text):
        if after is not None:
            found = _at(_date(after, now), text, text, now)
            return found if found >= after else _at(_date(after, now) + timedelta(days=1), text, text, now)
        found = _at(_date(now, now), text, text, now)
        return found if found <= now else _at(_date(now, now) - timedelta(days=1), text, text, now)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write it {_FORMS}") from None
    try:
        return parsed if parsed.tzinfo else _zoned(parsed, now)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is too far away") from None


def zone(now: datetime) -> str:
    """Return the zone of a time as people read it: its name and its offset, as ``CET (+01:00)``."""
    offset = now.strftime("%z")
    return f"{now.tzname()} ({offset[:3]}:{offset[3:5]})"


def _at(day: date, clock: str, text: str, now: datetime) -> datetime:
    found = _CLOCK.fullmatch(clock)
    if not found:
        raise ValueError(f"{text!r} is not a time: write it {_FORMS}")
    hour, minute, second, fraction = found.groups()
    micro = int((fraction or "0").ljust(6, "0"))
    return _zoned(datetime.combine(day, time(int(hour), int(minute), int(second or 0), micro)), now)


def _date(when: datetime, now: datetime) -> date:
    """Return the day of a time in the zone of ``now``: days are counted by the calendar, not all have 24 hours."""
    return (when.astimezone(now.tzinfo) if getattr(now.tzinfo, "key", None) else when.astimezone()).date()


def _zoned(naive: datetime, now: datetime) -> datetime:
    """Put a time without a zone into the zone of ``now``, as it is on that day: summer or winter time."""
    return naive.replace(tzinfo=now.tzinfo) if getattr(now.tzinfo, "key", None) else naive.astimezone()

"""The list of calls: a row each, in columns that a viewer chooses and sorts by."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from sipdump_core.calls.call import Call
from sipdump_core.calls.summary import Leg, Summary
from sipdump_core.errors import ConfigError
from sipdump_core.reading.lines import local_time
from sipdump_core.reading.render.plain import printable

__all__ = [
    "COLUMNS",
    "DEFAULT",
    "Column",
    "Row",
    "column",
    "columns_of",
    "joined",
    "mark_of",
    "row_of",
    "sort_key",
    "sort_of",
    "sorted_rows",
]

_MARKS = {
    "ended": "success", "answered": "success", "registered": "success", "unregistered": "success", "done": "success",
    "calling": "provisional", "ringing": "provisional", "challenged": "redirect", "cancelled": "redirect",
    "refused": "failure", "failed": "failure", "timed-out": "failure",
}  # fmt: skip


@attrs.frozen
class Row:
    """A call in the list."""

    summary: Summary
    """What happened in it."""
    method: str
    """The method of its first request; empty where only replies were seen."""
    agent: str
    """User-Agent of the first message that has one, else Server; empty where none has."""
    oldest_us: int
    """The time of its earliest message that was read, in microseconds since the epoch."""
    newest_us: int
    """The time of the latest one."""

    @property
    def call_id(self) -> str:
        """Its Call-ID."""
        return self.summary.call_id

    @property
    def mark(self) -> str:
        """How its state is coloured: ``success``, ``provisional``, ``redirect`` or ``failure``, as in a ladder."""
        return mark_of(self.summary.state)


@attrs.frozen
class Column:
    """A column of the list."""

    name: str
    """In URLs, in settings, and after ``sort=``; that of the field of ``find --json`` where there is one."""
    title: str
    """What stands above it."""
    width: int
    """Columns of a terminal that it usually needs."""
    text: Callable[[Row], str]
    """Returns what it has of a call, printable; empty where there is nothing."""
    value: Callable[[Row], Any]
    """Returns what it is sorted by; None comes last."""
    right: bool = False
    """Whether it is aligned to the right, as numbers are."""


def row_of(call: Call, now_us: int, legs: Sequence[Leg] = ()) -> Row:
    """Return a call's row.

    Args:
        call: the call.
        now_us: the time that ages are counted to, microseconds since the epoch.
        legs: its other legs, where they were looked for.
    """
    summary = call.summary(now_us, legs)
    messages = [arrow.message for arrow in call.arrows]
    method = next((message.method for message in messages if message.method), "")
    agent = next((agent for message in messages if (agent := message.header("user-agent"))), None)
    agent = agent or next((agent for message in messages if (agent := message.header("server"))), "")
    return Row(summary, method, agent, call.oldest_us, call.newest_us)


def joined(one: Row, other: Row) -> Row:
    """Return the row of a call of which two parts were read, not at once: a long one, whose first part was dropped.

    Args:
        one: the row that was known.
        other: the one that came later; it stands alone where the two have messages of the same time.
    """
    if one.newest_us >= other.oldest_us and other.newest_us >= one.oldest_us:
        return other
    first, last = (one, other) if one.oldest_us < other.oldest_us else (other, one)
    head, tail = first.summary, last.summary
    over = tail.state == "ended" and head.state in ("answered", "ended")
    answered = None if head.setup_time is None else head.began + int(head.setup_time * 1_000_000)
    both = attrs.evolve(
        head,
        ended=tail.ended if over else head.ended,
        state=tail.state if over else head.state,
        ended_by=tail.ended_by or head.ended_by,
        messages=head.messages + tail.messages,
        retransmissions=head.retransmissions + tail.retransmissions,
        release=list(dict.fromkeys((*head.release, *tail.release))),
        duration=(tail.ended - answered) / 1_000_000 if over and tail.ended and answered else head.duration,
        gaps=[gap for gap in head.gaps if not (over and "BYE" in gap)],
    )
    return Row(both, first.method or last.method, first.agent or last.agent, first.oldest_us, last.newest_us)


def mark_of(state: str) -> str:
    """Return how a state is coloured, see :attr:`Row.mark`."""
    return _MARKS.get(state, "other")


def column(name: str) -> Column:
    """Return a column by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    found = _BY_NAME.get(name.strip().lower())
    if found is None:
        raise ConfigError(f"{name!r} is not a column; choose from {', '.join(_BY_NAME)}")
    return found


def columns_of(names: str) -> tuple[Column, ...]:
    """Read the names of columns, with commas between, as ``began,state,call_id``.

    Raises:
        ConfigError: a name is none of a column, or there is none at all.
    """
    found = tuple(dict.fromkeys(column(name) for name in names.split(",") if name.strip()))
    if not found:
        raise ConfigError(f"name at least one column of {', '.join(_BY_NAME)}")
    return found


def sort_of(text: str) -> tuple[Column, bool]:
    """Read what a list is sorted by, as ``began`` or ``-duration``.

    Returns:
        The column, and whether it descends.

    Raises:
        ConfigError: there is no such column.
    """
    return column(text.removeprefix("-")), text.startswith("-")


def sort_key(by: Column, *, downwards: bool) -> Callable[[Row], tuple[Any, ...]]:
    """Return the key by which rows are sorted in ascending order; equal ones by their beginning, absent ones last.

    Args:
        by: the column.
        downwards: whether the largest comes first; of equal ones, the latest comes first then.
    """

    def key(row: Row) -> tuple[Any, ...]:
        value, summary = by.value(row), row.summary
        began = -summary.began if downwards else summary.began
        if value is None:
            return 1, 0, began, summary.call_id
        if downwards:
            # a text that is the beginning of another comes after it
            value = (*(-ord(each) for each in value), 1) if isinstance(value, str) else -value
        return 0, value, began, summary.call_id

    return key


def _user(user: str | None, uri: str | None) -> str:
    return printable(user or uri or "")


def _clock(row: Row) -> str:
    return local_time(row.summary.began).strftime("%H:%M:%S.%f")[:-3]


def _date(row: Row) -> str:
    return local_time(row.summary.began).strftime("%Y-%m-%d")


def _seconds(value: float | None) -> str:
    """Return an interval as a list has room for it, as ``2.0 s``, ``4:05`` or ``1:02:03``."""
    if value is None:
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, second = divmod(int(value), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _of_summary(name: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row.summary, name) or None


def _plain(value: Callable[[Row], Any]) -> Callable[[Row], str]:
    return lambda row: printable(str(value(row) or ""))


def _state(row: Row) -> str:
    return row.summary.state


def _of_state(name: str, title: str, width: int, value: Callable[[Row], Any], **more: Any) -> Column:
    return Column(name, title, width, _plain(value), value, **more)


def _interval(name: str, title: str) -> Column:
    def value(row: Row) -> float | None:
        found: float | None = getattr(row.summary, name)
        return found

    return Column(name, title, 9, lambda row: _seconds(value(row)), value, right=True)


COLUMNS = (
    Column("began", "time", 12, _clock, lambda row: row.summary.began),
    Column("date", "date", 10, _date, lambda row: row.summary.began),
    _of_state("state", "state", 12, _state),
    _of_state("status", "status", 6, _of_summary("status"), right=True),
    _of_state("reason", "reason", 20, _of_summary("reason")),
    _of_state("method", "method", 9, lambda row: row.method or None),
    _of_state("kind", "kind", 9, lambda row: row.summary.kind),
    Column("from_user", "from", 12, lambda row: _user(row.summary.from_user, row.summary.from_uri),
           lambda row: row.summary.from_user or row.summary.from_uri),
    Column("to_user", "to", 12, lambda row: _user(row.summary.to_user, row.summary.to_uri),
           lambda row: row.summary.to_user or row.summary.to_uri),
    _of_state("from_uri", "From URI", 26, _of_summary("from_uri")),
    _of_state("to_uri", "To URI", 26, _of_summary("to_uri")),
    Column("messages", "msgs", 4, lambda row: str(row.summary.messages), lambda row: row.summary.messages, right=True),
    Column("retransmissions", "again", 5, _plain(_of_summary("retransmissions")),
           lambda row: row.summary.retransmissions, right=True),
    _interval("duration", "duration"),
    _interval("post_dial_delay", "PDD"),
    _interval("setup_time", "setup"),
    _of_state("src", "source", 21, _of_summary("src")),
    _of_state("dst", "destination", 21, _of_summary("dst")),
    _of_state("agent", "user agent", 20, lambda row: row.agent or None),
    _of_state("ended_by", "ended by", 8, _of_summary("ended_by")),
    Column("ended", "ended", 12,
           lambda row: "" if row.summary.ended is None else local_time(row.summary.ended).strftime("%H:%M:%S.%f")[:-3],
           lambda row: row.summary.ended),
    _of_state("nodes", "nodes", 12, lambda row: ", ".join(row.summary.nodes) or None),
    _of_state("codecs", "codecs", 12, lambda row: ", ".join(row.summary.codecs) or None),
    _of_state("gaps", "missing", 20, lambda row: ", ".join(row.summary.gaps) or None),
    _of_state("call_id", "Call-ID", 30, lambda row: row.call_id),
)  # fmt: skip
"""All columns that there are."""
_BY_NAME = {each.name: each for each in COLUMNS}
DEFAULT = columns_of("began,state,method,from_user,to_user,messages,duration,post_dial_delay,src,dst,agent,call_id")
"""The columns of a list whose viewer chose none."""


def sorted_rows(rows: Iterable[Row], by: Column, *, downwards: bool) -> list[Row]:
    """Return rows in order, see :func:`sort_key`."""
    return sorted(rows, key=sort_key(by, downwards=downwards))

"""``sipdump-read find``: the calls that match, as a table, JSON or CSV."""

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import Any

import attrs

from sipdump_core.calls.summary import Summary
from sipdump_core.reading.arguments import add_filters, add_legs, add_store, query_of, rules_of, whole_number
from sipdump_core.reading.lines import as_json, printable
from sipdump_core.reading.render.plain import cells, fitted
from sipdump_core.reading.session import Session
from sipdump_core.reading.sorting import Sorter

__all__ = ["add_find", "find"]

LIMIT = 1000
_WIDTHS_OF = 1000
_WIDEST = 40
_NARROWEST = 8
SORTS = ("began", "ended", "duration", "messages", "retransmissions", "status", "state", "kind", "from_user", "to_user",
         "post_dial_delay", "setup_time", "call_id")  # fmt: skip
FIELDS = tuple(field.name for field in attrs.fields(Summary))


def add_find(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``find``."""
    parser.usage = "%(prog)s [STORE] [FILTERS] [--json | --jsonl | --csv] [--sort FIELD] [--limit N]"
    add_store(parser)
    add_filters(parser)
    add_legs(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", dest="form", const="json", help="print one JSON array")
    form.add_argument("--jsonl", action="store_const", dest="form", const="jsonl", help="print a JSON object a line")
    form.add_argument("--csv", action="store_const", dest="form", const="csv", help="print CSV")
    fields = f"by one of: {', '.join(SORTS)}; -FIELD: descending (default: began)"
    parser.add_argument("--sort", default="began", type=_sort, metavar="FIELD", help=fields)
    parser.add_argument(
        "--limit",
        default=LIMIT,
        type=whole_number,
        metavar="N",
        help=f"print at most N calls; 0: all (default: {LIMIT})",
    )
    parser.set_defaults(run=find)


def find(args: argparse.Namespace) -> int:
    """List the calls that match."""
    with Session(args, rules_of(args)) as session, Sorter() as sorter:
        query = query_of(args, session.now)
        field, downwards = args.sort.removeprefix("-"), args.sort.startswith("-")
        count = 0
        for found in session.shown(session.store.find(query, session.searched, around=args.around)):
            summary = found.summary
            row = json.dumps(summary.as_json(), ensure_ascii=False)
            key = _key(getattr(summary, field), downwards=downwards)
            sorter.add((key, summary.began, summary.call_id), row, len(row))
            count += 1
        rows: Iterator[dict[str, Any]] = (json.loads(row) for _, row in sorter.sorted())
        if args.limit and count > args.limit:
            session.searched.note(f"{args.limit} of {count} calls are shown; --limit 0 shows all")
            rows = islice(rows, args.limit)
        if count or args.form:
            PRINTERS[args.form](rows, session.now)
        return session.report(bool(count))


def _key(value: Any, *, downwards: bool) -> tuple[bool, Any]:
    """Return what a value is sorted by; what is absent comes last."""
    if value is None:
        return True, 0
    if not downwards:
        return False, value
    # a text that is the beginning of another comes after it
    return False, (*(-ord(each) for each in value), 1) if isinstance(value, str) else -value


def _print_json(rows: Iterable[dict[str, Any]], _now: datetime) -> None:
    separator = "[\n"
    for row in rows:
        print(separator, as_json(row), sep="", end="")
        separator = ",\n"
    print("\n]" if separator != "[\n" else "[]")


def _print_jsonl(rows: Iterable[dict[str, Any]], _now: datetime) -> None:
    for row in rows:
        print(as_json(row))


def _print_csv(rows: Iterable[dict[str, Any]], _now: datetime) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in rows:
        row["legs"] = [leg["call_id"] for leg in row["legs"]]
        values = (" ".join(value) if isinstance(value, list) else value for value in map(row.get, FIELDS))
        writer.writerow([printable(value) if isinstance(value, str) else value for value in values])


def _print_table(rows: Iterable[dict[str, Any]], now: datetime) -> None:
    """Print a line a call; the widths are those of the first lines, so that a long list is printed as it comes.

    A terminal's width is kept, if the Call-IDs leave room: they are never cut, because ``show`` wants them whole.
    """
    rows = iter(rows)
    first = list(islice(rows, _WIDTHS_OF))
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    columns, widths = _layout(first, now, room)
    print(_line([column.head(now) for column in columns], widths))
    for row in chain(first, rows):
        print(_line([column.cell(row, now) for column in columns], widths))


@attrs.frozen
class _Column:
    """A column of the table."""

    head: Callable[[datetime], str]
    cell: Callable[[dict[str, Any], datetime], str]
    """Returns what it has of a call, printable, given the present."""
    elastic: bool = False
    """It may be cut, where a terminal is too narrow."""


_BEGAN = _Column(lambda now: f"began ({now.tzname()})", lambda row, now: _began(row, now, "%Y-%m-%d %H:%M:%S.%f"))
_BEGAN_SHORT = _Column(lambda now: f"began ({now.tzname()})", lambda row, now: _began(row, now, "%m-%d %H:%M:%S"))
_FROM = _Column(lambda _: "from", lambda row, _: _shown(row["from_user"] or row["from_uri"]), elastic=True)
_TO = _Column(lambda _: "to", lambda row, _: _shown(row["to_user"] or row["to_uri"]), elastic=True)
_STATE = _Column(
    lambda _: "state", lambda row, _: row["state"] if row["kind"] == "call" else f"{row['kind']} {row['state']}"
)
_STATUS = _Column(lambda _: "status", lambda row, _: _shown(row["status"]))
_DURATION = _Column(lambda _: "duration", lambda row, _: _duration(row["duration"]))
_MESSAGES = _Column(lambda _: "msgs", lambda row, _: str(row["messages"]))
_CALL_ID = _Column(lambda _: "Call-ID", lambda row, _: _shown(row["call_id"]))
_LAYOUTS = (
    (_BEGAN, _FROM, _TO, _STATE, _STATUS, _DURATION, _MESSAGES, _CALL_ID),
    (_BEGAN_SHORT, _FROM, _TO, _STATE, _STATUS, _DURATION, _MESSAGES, _CALL_ID),
    (_BEGAN_SHORT, _FROM, _TO, _STATE, _STATUS, _CALL_ID),
)
"""From wide to narrow."""


def _layout(rows: Sequence[dict[str, Any]], now: datetime, room: int | None) -> tuple[Sequence[_Column], Sequence[int]]:
    """Return the columns that fit, and their widths."""
    for columns in _LAYOUTS:
        found = [max(cells(text) for text in _texts(column, rows, now)) for column in columns]
        widths = [min(width, _WIDEST) for width in found]
        over = sum(widths) + 2 * (len(widths) - 1) - (room or 0)
        if room is None or over <= 0:
            return columns, widths
        if columns is _LAYOUTS[-1]:
            for at, column in enumerate(columns):
                if column.elastic:
                    widths[at] = max(widths[at] - (over + 1) // 2, min(widths[at], _NARROWEST))
    return columns, widths


def _texts(column: _Column, rows: Iterable[dict[str, Any]], now: datetime) -> Iterator[str]:
    yield column.head(now)
    for row in rows:
        yield column.cell(row, now)


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line; all cells but the last, the Call-ID, are cut to their widths."""
    cut = [fitted(text, width) for text, width in zip(texts[:-1], widths, strict=False)]
    padded = (text + " " * (width - cells(text)) for text, width in zip(cut, widths, strict=False))
    return "  ".join((*padded, texts[-1]))


def _began(row: dict[str, Any], now: datetime, form: str) -> str:
    began = datetime.fromisoformat(row["began"]).astimezone()
    text = began.strftime(form)
    # the header names the zone; on days on which the clocks are set otherwise, the offset says so
    offset = "" if began.utcoffset() == now.utcoffset() else began.strftime("%z")
    return (text[:-3] if form.endswith("%f") else text) + offset


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def _shown(value: Any) -> str:
    return "-" if value is None else printable(str(value))


def _sort(text: str) -> str:
    if text.removeprefix("-") not in SORTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a field to sort by; choose from {', '.join(SORTS)}")
    return text


PRINTERS: dict[str | None, Callable[[Iterable[dict[str, Any]], datetime], None]] = {
    None: _print_table, "json": _print_json, "jsonl": _print_jsonl, "csv": _print_csv,
}  # fmt: skip

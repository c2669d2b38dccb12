"""``sipdump-read find``: the calls that match, as a table, JSON or CSV."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import Any

import attrs

from sipdump_core.calls.summary import Summary
from sipdump_core.reading.arguments import add_filters, add_legs, add_store, query_of, rules_of
from sipdump_core.reading.session import Session
from sipdump_core.reading.sorting import Sorter

__all__ = ["add_find", "find"]

LIMIT = 1000
_WIDTHS_OF = 1000
_WIDEST = 40
SORTS = ("began", "ended", "duration", "messages", "retransmissions", "status", "state", "kind", "from_user", "to_user",
         "post_dial_delay", "setup_time", "call_id")  # fmt: skip
FIELDS = tuple(field.name for field in attrs.fields(Summary))


def add_find(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``find``."""
    add_store(parser)
    add_filters(parser)
    add_legs(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", dest="form", const="json", help="print one JSON array")
    form.add_argument("--jsonl", action="store_const", dest="form", const="jsonl", help="print a JSON object a line")
    form.add_argument("--csv", action="store_const", dest="form", const="csv", help="print CSV")
    fields = f"by one of: {', '.join(SORTS)}; -FIELD: downwards (default: began)"
    parser.add_argument("--sort", default="began", type=_sort, metavar="FIELD", help=fields)
    parser.add_argument(
        "--limit", default=LIMIT, type=_limit, metavar="N", help=f"print N calls at most; 0: all (default: {LIMIT})"
    )
    parser.set_defaults(run=find)


def find(args: argparse.Namespace) -> int:
    """List the calls that match."""
    with Session(args, rules_of(args)) as session, Sorter() as sorter:
        query = query_of(args, session.now)
        field, downwards = args.sort.removeprefix("-"), args.sort.startswith("-")
        count = 0
        for found in session.store.find(query, session.searched, around=args.around):
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
        print(separator, json.dumps(row, ensure_ascii=False), sep="", end="")
        separator = ",\n"
    print("\n]" if separator != "[\n" else "[]")


def _print_jsonl(rows: Iterable[dict[str, Any]], _now: datetime) -> None:
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


def _print_csv(rows: Iterable[dict[str, Any]], _now: datetime) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in rows:
        row["legs"] = [leg["call_id"] for leg in row["legs"]]
        writer.writerow([" ".join(value) if isinstance(value, list) else value for value in map(row.get, FIELDS)])


def _print_table(rows: Iterable[dict[str, Any]], now: datetime) -> None:
    """Print a line a call; the widths are those of the first lines, so that a long list is printed as it comes."""
    head = (f"began ({now.tzname()})", "from", "to", "state", "status", "duration", "msgs", "Call-ID")
    rows = iter(rows)
    first = [head, *map(_cells, islice(rows, _WIDTHS_OF))]
    widths = [min(max(len(line[at]) for line in first), _WIDEST) for at in range(len(head))]
    for line in chain(first, map(_cells, rows)):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    began = datetime.fromisoformat(row["began"]).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    duration = row["duration"]
    return (
        began,
        _shown(row["from_user"] or row["from_uri"]),
        _shown(row["to_user"] or row["to_uri"]),
        row["state"] if row["kind"] == "call" else f"{row['kind']} {row['state']}",
        _shown(row["status"]),
        "-" if duration is None else f"{duration:.1f} s",
        str(row["messages"]),
        _shown(row["call_id"]),
    )


def _shown(value: Any) -> str:
    """Return a value for a terminal: what came from the network must not control it."""
    return "-" if value is None else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of calls")
    return int(text)


def _sort(text: str) -> str:
    if text.removeprefix("-") not in SORTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no field to sort by; there are: {', '.join(SORTS)}")
    return text


PRINTERS: dict[str | None, Callable[[Iterable[dict[str, Any]], datetime], None]] = {
    None: _print_table, "json": _print_json, "jsonl": _print_jsonl, "csv": _print_csv,
}  # fmt: skip

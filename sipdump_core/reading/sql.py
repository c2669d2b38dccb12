"""``sipdump-read sql``: SQL over everything that is stored, run by DuckDB."""

import argparse
import contextlib
import csv
import json
import math
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain, islice
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs

from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError
from sipdump_core.reading.arguments import add_span, add_store, span_of
from sipdump_core.reading.lines import as_json, printable
from sipdump_core.reading.session import Session

if TYPE_CHECKING:
    from sipdump_core.reading.database import Database

__all__ = ["add_sql", "sql"]

_CONVERT = "2g"
_SIZE = re.compile(r"(\d{1,15})([kmgt]?)", re.IGNORECASE)
_WIDTHS_OF = 1000
_WIDEST = 40
_FETCHED = 1000
_NUMBERS = frozenset(
    ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
     "FLOAT", "DOUBLE")
)  # fmt: skip
_ZONED = "TIMESTAMP WITH TIME ZONE"

Row = Sequence[Any]


@attrs.frozen
class Answer:
    """What DuckDB answers."""

    columns: Sequence[tuple[str, str]]
    """Their names, and DuckDB's names of their types."""
    rows: Iterator[Row]

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [name for name, _ in self.columns]


def add_sql(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sql``."""
    parser.add_argument("statement", metavar="STATEMENT", help="SQL; messages and calls are its tables")
    add_store(parser)
    add_span(parser)
    parser.add_argument(
        "--convert",
        type=_size,
        default=_size(_CONVERT),
        metavar="SIZE",
        help="convert at most SIZE of messages that are not in sealed Parquet files, as 500m; 0: no limit "
        f"(default: {_CONVERT})",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", dest="form", const="json", help="print one JSON array")
    form.add_argument("--csv", action="store_const", dest="form", const="csv", help="print CSV")
    parser.set_defaults(run=sql)


def sql(args: argparse.Namespace) -> int:
    """Ask in SQL."""
    try:
        from sipdump_core.reading.database import Database  # noqa: PLC0415 - DuckDB may not be installed
        from sipdump_core.reading.views import Views  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "duckdb":
            raise
        raise ConfigError("sql needs DuckDB, which is not installed: pip install 'sipdump[query]'") from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_stopped_by_sigterm())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sipdump-read-", ignore_cleanup_errors=True))
        database = stack.enter_context(Database(folder))
        with Session(args) as session:
            since_us, until_us = span_of(args, session.now)
            span = Query(since_us=since_us, until_us=until_us)
            views = Views(database, folder, session, span)
            if _names("messages", args.statement):
                views.make_messages(args.convert)
            if _names("calls", args.statement):
                views.make_calls()
        if session.store.interrupted:  # an answer about a part would look like one about all
            raise KeyboardInterrupt
        columns = database.execute(args.statement)
        rows = _rows(database)
        first = next(rows, None)
        if first is not None or args.form:
            answer = Answer(columns, chain(() if first is None else (first,), rows))
            PRINTERS[args.form](answer)
        return session.report(first is not None)


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does, so that temporary files are deleted.

    Raises:
        SystemExit: SIGTERM ended the block.
    """
    ended: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        ended.append(number)
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(number, frame)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: somebody else takes signals
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        if ended:
            raise SystemExit(128 + ended[0]) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _names(view: str, statement: str) -> bool:
    """Return whether a statement may name a view."""
    return re.search(rf"\b{view}\b", statement, re.IGNORECASE) is not None


def _rows(database: "Database") -> Iterator[Row]:
    while rows := database.fetch(_FETCHED):
        yield from rows


def _print_json(answer: Answer) -> None:
    separator = "[\n"
    names = _unique(answer.names)
    for row in answer.rows:
        fields = {name: _json(value) for name, value in zip(names, row, strict=True)}
        print(separator, as_json(fields), sep="", end="")
        separator = ",\n"
    print("\n]" if separator != "[\n" else "[]")


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(printable, answer.names))
    for row in answer.rows:
        writer.writerow(map(_csv, row))


def _print_table(answer: Answer) -> None:
    """Print a line a row; the widths are those of the first lines, so that a long answer is printed as it comes."""
    head = [f"{name} (UTC)" if kind == _ZONED else name for name, kind in answer.columns]
    right = [kind in _NUMBERS or kind.startswith("DECIMAL") for _, kind in answer.columns]
    lines = ([_cell(value) for value in row] for row in answer.rows)
    first = [[printable(name) for name in head], *islice(lines, _WIDTHS_OF)]
    widths = [min(max(len(line[at]) for line in first), _WIDEST) for at in range(len(head))]
    for line in chain(first, lines):
        padded = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, right, strict=True)
        )
        print("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    """Return a value for a terminal; of a message, its first line."""
    if value is None:
        return "-"
    if isinstance(value, bytes):
        first, _, rest = value.partition(b"\n")
        return printable(first.rstrip(b"\r").decode("utf-8", "backslashreplace")) + (" …" if rest else "")
    if isinstance(value, datetime):
        return _utc(value).strftime("%Y-%m-%d %H:%M:%S.%f")
    value = _json(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) or "-"


def _csv(value: Any) -> Any:
    """Return a value for CSV: as JSON has it, lists as JSON; of a text, what a terminal would obey is escaped."""
    value = _json(value)
    if isinstance(value, str):
        return "".join(one if one in "\t\r\n" else printable(one) for one in re.split(r"([\t\r\n])", value))
    return as_json(value) if isinstance(value, list | dict | bool) else value


def _json(value: Any) -> Any:
    """Return a value as JSON has it: times in ISO format, bytes that are not UTF-8 as ``\\xff``."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, datetime):
        return _utc(value).isoformat(timespec="microseconds") + ("" if value.tzinfo is None else "Z")
    if isinstance(value, dict):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    return str(value)


def _utc(value: datetime) -> datetime:
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def _unique(names: Sequence[str]) -> list[str]:
    """Return names as an object can have them: a name that comes again gets a number."""
    found: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in found:
            unique, number = f"{name}_{number}", number + 1
        found.append(unique)
    return found


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it as 500m or 2g")
    return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2].lower()]


PRINTERS: dict[str | None, Callable[[Answer], None]] = {None: _print_table, "json": _print_json, "csv": _print_csv}

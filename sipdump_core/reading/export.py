"""``sipdump-read export``: calls, written into a file of any format that a backend writes, or for a browser."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import attrs

from sipdump_core.calls.ladder import lay_out
from sipdump_core.calls.summary import iso_utc
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.plan import make_plan
from sipdump_core.reading.arguments import add_filters, add_legs, add_store, query_of, rules_of
from sipdump_core.reading.files import new_file, refuse_old, write_new
from sipdump_core.reading.finder import Found
from sipdump_core.reading.lines import counted, endpoint, printable
from sipdump_core.reading.pcapng import write_pcapng
from sipdump_core.reading.render.formats import Style, render
from sipdump_core.reading.session import Session
from sipdump_core.reading.show import names_of
from sipdump_core.reading.sorting import RecordSorter
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.modules import CORE
from sipdump_core.settings.options import Setting
from sipdump_core.workshop import Workshop

__all__ = ["add_export", "export", "form_of", "row_of", "write_page", "write_records"]

_BATCH = 1000
_CALLS_OF_A_PAGE = 20
_BY_ENDING = {".data": "text", ".pcap": "pcap", ".pcapng": "pcapng", ".parquet": "parquet", ".jsonl": "jsonl",
              ".html": "html", ".htm": "html"}  # fmt: skip
_HEADER_FLAG = 8


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``export``."""
    parser.usage = "%(prog)s (CALL-ID ... | FILTERS) [STORE] [--legs] -o FILE"
    parser.add_argument("call_ids", nargs="*", metavar="CALL-ID", help="default: all calls that match the filters")
    parser.add_argument(
        "-o", dest="output", required=True, metavar="FILE", help="the file to write; it must not exist yet"
    )
    help_form = "the format, or any backend of files (default: by the ending of FILE)"
    parser.add_argument("--format", dest="form", metavar="NAME", help=help_form)
    parser.add_argument("--legs", action="store_true", help="export the other legs of the calls too")
    parser.add_argument(
        "--ksr-header", action="store_true", help="put P-KSR-SIPDump into the messages of a pcap, as mode 8 does"
    )
    help_name = "a name for an address in a pcapng or HTML file, as 10.0.0.5=proxy"
    parser.add_argument("--name", dest="names", action="append", default=[], metavar="ADDRESS=NAME", help=help_name)
    add_store(parser)
    add_filters(parser, call_ids=False)
    add_legs(parser)
    parser.set_defaults(run=export)


def export(args: argparse.Namespace) -> int:
    """Write calls into a file."""
    form = args.form or form_of(args.output)
    names = names_of(args.names)
    refuse_old(args.output)
    with Session(args, rules_of(args)) as session:
        query = query_of(args, session.now)
        missing = set(query.call_ids)
        found = session.store.find(query, session.searched, around=args.around, legs=args.legs, with_legs=args.legs)
        found = _crossed_off(session.shown(found), missing)
        if form == "html":
            count = write_page(found, args.output, names, session.searched.notes)
        else:
            count = write_records(found, args.output, form, names, header=args.ksr_header)
        if count:
            print(f"sipdump-read: {args.output} has {counted(count, 'call')}", file=sys.stderr)
            for call_id in sorted(missing):
                session.searched.note(f"{printable(call_id)} was not found")
        return session.report(bool(count))


def form_of(path: str) -> str:
    """Return the format that a file's ending asks for.

    Raises:
        ConfigError: it asks for none.
    """
    form = _BY_ENDING.get(os.path.splitext(path)[1].lower(), "")
    if not form:
        raise ConfigError(f"say the format: a name that ends in {', '.join(_BY_ENDING)}, or --format NAME", "-o")
    return form


def row_of(record: Record) -> dict[str, Any]:
    """Return a record as JSON lines have it: all its fields; bytes that are not UTF-8 are escaped as ``\\xff``."""
    flow = record.flow
    return {
        "time": iso_utc(record.time_us),
        "tag": flow.tag,
        "pid": flow.pid,
        "procno": flow.procno,
        "proto": flow.proto,
        "src": endpoint(flow.src_ip, flow.src_port),
        "dst": endpoint(flow.dst_ip, flow.dst_port),
        "node": flow.node,
        "call_id": record.call_id,
        "correlation_id": record.correlation_id,
        "message": record.buf.decode("utf-8", "backslashreplace"),
    }


def _crossed_off(found: Iterable[Found], call_ids: set[str]) -> Iterator[Found]:
    """Yield calls, and take their Call-IDs out of those that were asked for."""
    for one in found:
        call_ids.discard(one.call.call_id)
        yield one


def write_page(found: Iterable[Found], output: str, names: dict[str, str], notes: Sequence[str]) -> int:
    """Write the ladder of calls as a page for a browser.

    Args:
        found: the calls; their notes may grow while these are read.
        output: the file, which must not exist yet.
        names: names by address.
        notes: what a reader has to know.

    Returns:
        How many calls it has; with none, there is no file.

    Raises:
        ConfigError: these are too many calls.
        StorageError: the file cannot be written.
    """
    some = list(islice(found, _CALLS_OF_A_PAGE + 1))
    calls = [one.call for one in some]
    if len(calls) > _CALLS_OF_A_PAGE:
        raise ConfigError(
            f"a page takes {_CALLS_OF_A_PAGE} calls: narrow the question, or export to another format", "-o"
        )
    if calls:
        summaries = [one.summary for one in some]
        ladder = lay_out(calls, names=names, summaries=summaries, notes=notes)
        write_new(output, render(ladder, "html", Style()).encode("utf-8", "surrogateescape"))
    return len(calls)


def write_records(
    found: Iterable[Found], output: str, form: str, names: dict[str, str], *, header: bool = False
) -> int:
    """Write the messages of calls, in order of time.

    Args:
        found: the calls.
        output: the file, which must not exist yet.
        form: ``jsonl``, ``pcapng``, or a backend of files.
        names: names by address, where the format has room for them.
        header: whether a pcap gets the header P-KSR-SIPDump.

    Returns:
        How many calls it has; with none, there is no file.

    Raises:
        ConfigError: there is no such format.
        StorageError: the file cannot be written.
    """
    count = 0
    with RecordSorter(by_call=False) as sorter:
        for one in found:
            count += 1
            for record in one.records:
                sorter.add(record)
        if count:
            with new_file(output) as draft:
                if form == "jsonl":
                    _write_lines(draft, sorter.sorted())
                elif form == "pcapng":
                    folder = os.path.dirname(draft)
                    packets = _write_by_backend(folder, "pcap", sorter.sorted(), header=header)
                    write_pcapng(draft, packets, sorter.sorted(), names)
                    os.unlink(packets)
                else:
                    os.rename(_write_by_backend(os.path.dirname(draft), form, sorter.sorted(), header=header), draft)
    return count


def _write_lines(path: str, records: Iterable[Record]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(row_of(record), ensure_ascii=False) + "\n")


def _write_by_backend(folder: str, name: str, records: Iterator[Record], *, header: bool) -> str:
    """Have a backend of files write one segment, and return its path.

    Raises:
        ConfigError: there is no such backend, or it is none of files.
        StorageError: it cannot be written.
    """
    place = f"--format {name}"
    settings = [
        Setting(CORE, "folder", folder, place),
        Setting(CORE, "mode", _HEADER_FLAG if header else 0, place),
        Setting(CORE, "backend", name, place),
        Setting(CORE, "sync", 0, place),  # the file is moved at once, and its folder removed
    ]
    workshop = Workshop(make_plan(settings, to_start=False))
    backend: Backend = workshop.backend(name, workshop.site(folder, "export-"))
    if not isinstance(backend, FolderBackend):
        raise ConfigError(f"{name} does not store files", place)
    first = next(records)
    segment = attrs.evolve(Segment.starting("export-", first.time_us / 1e6), suffix=backend.suffix)
    backend.start()
    try:
        backend.open(segment)
        batch = [first]
        while batch:
            backend.write(batch)
            batch = list(islice(records, _BATCH))
        backend.close()
    finally:
        backend.stop()
    path = os.path.join(folder, segment.name)
    if not os.path.exists(path):
        raise StorageError("write", path, backend.health() or "the backend has made no file")
    return path

"""``python -m bench [NAME ...] [--quick]``: runs benchmarks and prints one table."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import (
    decode,
    folders,
    hep,
    importing,
    machine,
    memory,
    parquet,
    reading,
    reading_parquet,
    redact,
    retention,
    search,
    speedups,
    table,
    terminal,
    tracking,
    web,
    writer,
)

BENCHMARKS: dict[str, Callable[[Path, bool], list[table.Row]]] = {
    "kamailio": writer.against_kamailio,
    "raw": writer.against_raw,
    "sync": writer.with_sync,
    "hep": hep.end_to_end,
    "hep-paired": hep.paired,
    "stages": hep.stages,
    "decode": decode.against_plain,
    "memory": memory.peak,
    "search": search.one_call,
    "files": search.many_files,
    "reading": reading.find,
    "calls": tracking.cost,
    "import": importing.cost,
    "terminal": terminal.looked_at,
    "web": web.watched,
    "folders": folders.cost,
    "parquet": speedups.cost,
    "parquet-queue": speedups.behind_queue,
    "parquet-loss": parquet.loss,
    "reading-parquet": reading_parquet.user_within_an_hour,
    "parquet-memory": parquet.peak,
    "redact": redact.cost,
    "retention": retention.cost,
}


def main() -> int:
    """Run what the command line names, by default all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure sipdump; prints a Markdown table.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)}; by default all")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its numbers mean little")
    parser.add_argument("--folder", help="where files are written and deleted again (default: the temporary folder)")
    args = parser.parse_args()
    unknown = set(args.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    rows: list[table.Row] = []
    with tempfile.TemporaryDirectory(prefix="sipdump-bench-", dir=args.folder) as folder:
        for name in args.names or BENCHMARKS:
            start = time.monotonic()
            print(f"{name} ...", file=sys.stderr, end=" ", flush=True)
            rows += BENCHMARKS[name](Path(folder), args.quick)
            print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    print(f"Machine: {machine.describe()}.\n")
    print(table.render(rows))
    missed = sum(row.met is False for row in rows)
    aims = sum(row.met is not None for row in rows)
    print(f"\n{aims - missed} of {aims} rows with an aim meet it." + (" (quick: no measure)" if args.quick else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())

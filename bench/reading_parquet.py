"""A user within an hour, asked of Parquet by the command, its start included.

The calls are those of bench/calls.py, stretched to ten hours, a segment an hour. All files are in the page cache.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import attrs

from bench import calls
from bench.reading import BATCH, ROUNDS, iso, peak
from bench.table import Row
from sipdump_core.drivers.base import Site
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions

HOURS = 10
HOUR_US = 3600 * 1_000_000
USER = "+49892000017"
AIM = 1.0


def user_within_an_hour(folder: Path, quick: bool) -> list[Row]:
    """Measure the question for users within the fourth hour."""
    total = 70_000 if quick else 5_000_000
    _store(folder, total)
    begin = calls.START_US // 1_000_000 + 3 * 3600
    span = [f"--since={iso(begin)}", f"--until={iso(begin + 3600)}", "--limit=0", "--jsonl"]
    argv = [sys.executable, "-m", "sipdump_core.reading", "find", "--folder", str(folder), "--user", USER, *span]
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
        taken.append(time.perf_counter() - start)
    found = done.stdout.count(b"\n")
    what = f"find the calls of {USER} within one of {HOURS} hours, {total:,} records in Parquet, {found} calls"
    row = Row(what, f"{min(taken):.2f} s", aim=f"at most {AIM:g} s", met=min(taken) <= AIM)
    return [row, peak("peak memory of that", argv)]


def _store(folder: Path, total: int) -> None:
    backend = ParquetBackend(ParquetOptions(), Site(str(folder), "b-"))
    records = _stretched(calls.records(total // calls.MESSAGES), total)
    for hour in range(HOURS):
        start_us = calls.START_US + hour * HOUR_US
        segment = attrs.evolve(Segment.starting("b-", start_us / 1e6), suffix=backend.suffix)
        backend.start()
        backend.open(segment)
        left = total // HOURS
        while left and (batch := list(islice(records, min(BATCH, left)))):
            backend.write(batch)
            left -= len(batch)
        backend.close()
        backend.stop()
        end_ns = (start_us + HOUR_US) * 1000
        os.utime(folder / segment.name, ns=(end_ns, end_ns))  # as if it had been written then


def _stretched(records: Iterator[Record], total: int) -> Iterator[Record]:
    """Yield records, spread evenly over the hours."""
    for number, record in enumerate(records):
        yield attrs.evolve(record, time_us=calls.START_US + number * HOURS * HOUR_US // total)

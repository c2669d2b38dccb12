"""Questions to a store of Parquet, asked by the command, its start included: one call, and a user within an hour.

The calls are those of bench/calls.py, stretched to ten hours, a segment an hour. All files are in the page cache.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import attrs

from bench import calls
from bench.table import Row
from sipdump_core.drivers.base import Site
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions

HOURS = 10
BATCH = 1000
ROUNDS = 5
USER = "+49892000017"


class _Asked(NamedTuple):
    """What a command took."""

    found: int
    seconds: float
    megabytes: float
    """Peak of its memory."""


def questions(folder: Path, quick: bool) -> list[Row]:
    """Measure both questions, the whole process each."""
    total = 70_000 if quick else 5_000_000
    count = total // calls.MESSAGES
    first_us = _store(folder, count)
    return [one_call(folder, count), user_within_an_hour(folder, count, first_us)]


def one_call(folder: Path, count: int) -> Row:
    """Measure the question for one Call-ID."""
    asked = _best(folder, ["--call-id", calls.call_id(count // 97)])
    if asked.found != 1:
        raise RuntimeError(f"found {asked.found} calls, not 1")
    return _row(f"sipdump-read find --call-id, {count * calls.MESSAGES:,} records in Parquet", asked, 0.3)


def user_within_an_hour(folder: Path, count: int, first_us: int) -> Row:
    """Measure the question for a user within the fourth hour."""
    begin = first_us // 1_000_000 + 3 * 3600
    span = [time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(each)) for each in (begin, begin + 3600)]
    asked = _best(folder, ["--user", USER, "--since", span[0], "--until", span[1]])
    what = f"sipdump-read find --user within an hour, {count * calls.MESSAGES:,} records in Parquet"
    return _row(f"{what}, {asked.found} calls", asked, 1.0)


def _store(folder: Path, count: int) -> int:
    """Store the calls, and return the time of the first record."""
    backend = ParquetBackend(ParquetOptions(), Site(str(folder), "b-"))
    records = _stretched(calls.records(count), count * calls.MESSAGES)
    limit = -(-count * calls.MESSAGES // HOURS)
    first_us = 0
    for _ in range(HOURS):
        backend.start()
        done = last_us = 0
        while done < limit and (batch := list(islice(records, min(BATCH, limit - done)))):
            if not done:
                first_us = first_us or batch[0].time_us
                segment = attrs.evolve(Segment.starting("b-", batch[0].time_us / 1e6), suffix=backend.suffix)
                backend.open(segment)
            backend.write(batch)
            done, last_us = done + len(batch), batch[-1].time_us
        backend.close()
        backend.stop()
        os.utime(folder / segment.name, ns=(last_us * 1000, last_us * 1000))  # as if it had been written then
    return first_us


def _stretched(records: Iterator[Record], total: int) -> Iterator[Record]:
    """Yield records, spread evenly over the hours."""
    step = HOURS * 3600 * 1_000_000 // total
    first = None
    for number, record in enumerate(records):
        first = record.time_us if first is None else first
        yield attrs.evolve(record, time_us=first + number * step)


def _best(folder: Path, filters: Sequence[str]) -> _Asked:
    return min((_ask(folder, filters) for _ in range(ROUNDS)), key=lambda asked: asked.seconds)


def _ask(folder: Path, filters: Sequence[str]) -> _Asked:
    argv = [sys.executable, "-m", "sipdump_core.reading", "find", "--folder", str(folder), "--json", *filters]
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: nothing found
        raise RuntimeError(f"{argv} ended with {process.returncode}")
    return _Asked(len(json.loads(answer)), seconds, usage.ru_maxrss / 1024)


def _row(what: str, asked: _Asked, aim: float) -> Row:
    measured = f"{asked.seconds:.2f} s, {asked.megabytes:.0f} MB at most"
    met = asked.seconds <= aim and asked.megabytes < 200
    return Row(what, measured, aim=f"at most {aim:g} s, below 200 MB", met=met)

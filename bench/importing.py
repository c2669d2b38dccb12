"""What it costs to import: a file of records, read and stored in each backend by ``sipdump-admin import``."""

import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

from bench import calls
from bench.table import Row
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.segment import Segment
from sipdump_text import TextBackend

_AIM = 30.0
"""Seconds for a million records, the process's start included."""
_BATCH = 1000


def cost(folder: Path, quick: bool) -> list[Row]:
    """Measure what it takes to import a .data file into text, pcap and Parquet."""
    total = 21_000 if quick else 1_000_000
    source = folder / "source"
    source.mkdir()
    backend = TextBackend(NoOptions(), Site(str(source), "b-"))
    backend.open(Segment("b-", "2026-11-22--23-31-00", 0, backend.suffix))
    records = islice(calls.records(-(-total // calls.MESSAGES)), total)
    while batch := list(islice(records, _BATCH)):
        backend.write(batch)
    backend.close()
    (file,) = source.iterdir()
    rows = []
    for name in ("text", "pcap", "parquet"):
        target = folder / name
        target.mkdir()
        command = [
            sys.executable,
            "-m",
            "sipdump_core.admin",
            "import",
            str(file),
            "--folder",
            str(target),
            "--to",
            name,
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        met = None if quick else taken * 1_000_000 / total <= _AIM
        rows.append(
            Row(
                f"import {total:,} records of .data into {name}",
                f"{taken:.1f} s",
                f"{spent / total * 1e6:.1f} µs CPU a record",
                f"{total / taken:,.0f} records/s",
                f"at most {_AIM:g} s a million",
                met,
            )
        )
    return rows

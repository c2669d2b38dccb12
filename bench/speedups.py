"""What the library in C saves the Parquet backend: with it and without, in turns."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from unittest.mock import patch

import sipdump_speedups
from bench import parquet
from bench.table import Row, compare
from sipdump_core.drivers.base import Site
from sipdump_parquet import ParquetBackend
from sipdump_parquet.native import best_puller
from sipdump_parquet.options import FIRST_COLUMNS, WAL_SUFFIX, ParquetOptions

AIM = 3.5
"""Microseconds of CPU a record, from the queue to the finished file, with the columns of schema version 1."""
_MISSING = Row("Parquet with speedups", "not built, or switched off")


def cost(folder: Path, quick: bool) -> list[Row]:
    """Compare the backend in Python with pyarrow alone, and pulling fields in C with doing it in Python."""
    with _library(used=False):
        rows = parquet.cost(folder, quick)
    if sipdump_speedups.library() is None:
        return [*rows, _MISSING]
    name, items = parquet._traffic(10_000 if quick else 200_000)
    parquet._append(ParquetBackend(ParquetOptions(), Site(str(folder), parquet.PREFIX)), items)
    wal = folder / (parquet.SEGMENT.stem + WAL_SUFFIX)
    columns = [frame.columns() for frame in parquet._frames(wal)]
    wal.unlink()
    batches = [(each.payload, list(accumulate(each.lengths, initial=each.base))) for each in columns]
    spent: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(1 if quick else parquet.ROUNDS):
        for native, found in spent.items():
            with _library(used=native):
                puller = best_puller({}, ())
            start = time.process_time()
            for payload, offsets in batches:
                puller.pull(payload, offsets)
            found.append((time.process_time() - start) / len(items) * 1e6)
    what = f"Parquet CPU a record, {name}: pulling fields in C"
    return [*rows, compare(what, min(spent[True]), min(spent[False]), None, other_is="in Python")]


def behind_queue(folder: Path, quick: bool) -> list[Row]:
    """Compare all that a record costs behind the queue with the library to that without."""
    with _library(used=False):
        rows = parquet.behind_queue(folder, quick)
    if sipdump_speedups.library() is None:
        return [*rows, _MISSING]
    name, items = parquet._traffic(10_000 if quick else 200_000)
    gc.collect()
    gc.freeze()  # no daemon has this much in memory for the garbage collector to scan
    for version in (1, 2):
        options = ParquetOptions(columns=",".join(FIRST_COLUMNS) if version == 1 else "")
        spent: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(1 if quick else parquet.ROUNDS):
            for native, found in spent.items():
                with _library(used=native):
                    found.append(sum(parquet._store(folder, items, options)))
        ours = min(spent[True])
        what = f"Parquet CPU a record behind the queue, with speedups, {name}, schema {version}"
        rows.append(compare(what, ours, min(spent[False]), None, other_is="without"))
        if version == 1:
            rows.append(compare(what, ours, AIM, 1.0, other_is="the aim"))
    return rows


@contextmanager
def _library(*, used: bool) -> Iterator[None]:
    """Have the library used here, and in processes that are started, or not."""
    found = sipdump_speedups.library() if used else None
    pure = os.environ.get("SIPDUMP_PURE", "")
    environment = {"SIPDUMP_PURE": pure if used else "1"}
    with patch.object(sipdump_speedups, "library", lambda: found), patch.dict(os.environ, environment):
        yield

"""What the library in C saves the Parquet backend: with it and without, in turns in one process."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sipdump_speedups
from bench import parquet
from bench.table import Row, compare
from sipdump_core.drivers.base import Site
from sipdump_core.pipeline.journal import Frame
from sipdump_parquet import ParquetBackend
from sipdump_parquet.conversion import seal
from sipdump_parquet.native import best_puller
from sipdump_parquet.options import FIRST_COLUMNS, WAL_SUFFIX, ParquetOptions

AIM = 3.5
"""Microseconds of CPU a record, from the queue to the finished file, with the columns of schema version 1."""


def cost(folder: Path, quick: bool) -> list[Row]:
    """Compare the backend in Python with pyarrow alone, and the backend with the library to that without."""
    with _library(used=False):
        rows = parquet.cost(folder, quick)
    if sipdump_speedups.library() is None:
        return [*rows, Row("Parquet with speedups", "not built, or switched off")]
    return rows + _with_and_without(folder, quick)


def _with_and_without(folder: Path, quick: bool) -> list[Row]:
    name, items = parquet._traffic(10_000 if quick else 100_000)
    site = Site(str(folder), parquet.PREFIX)
    segment = parquet.SEGMENT
    schemas = {"version 1": ParquetOptions(columns=",".join(FIRST_COLUMNS)), "version 2": ParquetOptions()}
    spent: dict[tuple[str, str, bool], float] = {}

    def measure(stage: str, schema: str, native: bool, run: Callable[[], Any]) -> None:
        before = time.process_time()
        run()
        cost = (time.process_time() - before) / len(items) * 1e6
        spent[stage, schema, native] = min(spent.get((stage, schema, native), 1e9), cost)

    gc.collect()
    gc.freeze()  # as in a daemon, see there
    for _ in range(1 if quick else parquet.ROUNDS):
        for schema, options in schemas.items():
            backend = ParquetBackend(options, site)
            for native in (False, True):
                with _library(used=native):
                    measure("append", schema, native, partial(parquet._append, backend, items))
                    frames = parquet._frames(folder / (segment.stem + WAL_SUFFIX))
                    measure("pull", schema, native, partial(_pull, frames))
                    measure("seal", schema, native, partial(seal, segment, options, site, own=True))
                (folder / segment.name).unlink()
    what = f"Parquet CPU a record, {name}"
    in_c, python = (min(spent["pull", schema, native] for schema in schemas) for native in (True, False))
    rows = [compare(f"{what}: pulling fields in C", in_c, python, None, other_is="in Python")]
    for schema in schemas:
        in_c, python = (spent["append", schema, native] + spent["seal", schema, native] for native in (True, False))
        row = f"{what}: all behind the queue, schema {schema}, with speedups"
        rows.append(compare(row, in_c, python, None, other_is="without"))
        if schema == "version 1":
            rows.append(compare(row, in_c, AIM, 1.0, other_is="the aim"))
    return rows


@contextmanager
def _library(*, used: bool) -> Iterator[None]:
    found = sipdump_speedups.library() if used else None
    with patch.object(sipdump_speedups, "library", lambda: found):
        yield


def _pull(frames: Sequence[Frame]) -> None:
    puller = best_puller({}, ())
    for frame in frames:
        columns = frame.columns()
        puller.pull(columns.payload, list(accumulate(columns.lengths, initial=columns.base)))

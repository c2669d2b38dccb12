"""What the Parquet backend costs, against pyarrow alone; ``python -m bench.parquet RECORDS FOLDER`` measures memory.

The traffic is generated calls (``bench.calls``), or the ``.data`` file that ``SIPDUMP_BENCH_DATA`` names.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench import calls, machine
from bench.table import Row, compare
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.pipeline.journal import RECORDS, Frame, scan
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.conversion import seal
from sipdump_parquet.fields import Puller
from sipdump_parquet.files import make
from sipdump_parquet.options import WAL_SUFFIX, ParquetOptions
from sipdump_parquet.table import Builder
from sipdump_text import TextBackend

BATCH = 1000
ROUNDS = 3
PREFIX = "b-"
SEGMENT = Segment(PREFIX, "2026-11-22--23-31-00", 0, ".parquet")


def cost(folder: Path, quick: bool) -> list[Row]:
    """Compare what a record takes with what pyarrow takes to write the same columns, and the size with text."""
    name, items = _traffic(10_000 if quick else 200_000)
    options = ParquetOptions()
    site = Site(str(folder), PREFIX)
    backend = ParquetBackend(options, site)
    wal = folder / (SEGMENT.stem + WAL_SUFFIX)
    target = folder / SEGMENT.name
    spent: dict[str, float] = {}

    def measure(stage: str, run: Callable[[], Any]) -> Any:
        before = time.process_time()
        result = run()
        spent[stage] = min(spent.get(stage, 1e9), (time.process_time() - before) / len(items) * 1e6)
        return result

    gc.collect()
    gc.freeze()  # no daemon has this much in memory for the garbage collector to scan
    for _ in range(1 if quick else ROUNDS):
        measure("append", lambda: _append(backend, items))
        frames = _frames(wal)
        measure("pull", partial(_pull, frames))
        plain = partial(make, str(folder / "plain"), _ready(wal, options), options, {}, mode=0o600, modified_ns=0)
        measure("plain", plain)
        measure("seal", lambda: seal(SEGMENT, options, site, own=True))
        sizes = (target.stat().st_size, (folder / "plain").stat().st_size)
        (folder / "plain").unlink()
        target.unlink()
    ours = spent["append"] + spent["seal"] - spent["pull"]
    text = _text_size(items)
    what = f"Parquet CPU a record, {name}"
    return [
        compare(
            f"{what}, all but pulling fields", ours, spent["plain"], 1.3, other_is="pyarrow, the same columns ready"
        ),
        Row(f"{what}: appending to the write-ahead file", f"{spent['append']:.2f} µs"),
        Row(f"{what}: pulling fields", f"{spent['pull']:.2f} µs"),
        Row(f"{what}: arrays, sorting, writing", f"{spent['seal'] - spent['pull']:.2f} µs"),
        compare(
            f"size of Parquet against text, {name}",
            sizes[0] / len(items),
            text / len(items),
            0.1,
            other_is="text",
            unit="bytes",
        ),
        Row(f"size of Parquet in the order of arrival, {name}", f"{sizes[1] / len(items):.2f} bytes"),
    ]


def peak(folder: Path, quick: bool) -> list[Row]:
    """Compare the peak memory of sealing a segment with that of one four times as long."""
    few = 20_000 if quick else 300_000
    short, long = (_run(count, folder) for count in (few, 4 * few))
    what = f"peak memory, sealing {4 * few:,} records, memory {ParquetOptions().memory >> 20} MiB"
    return [Row(what, f"{long:.1f} MB", f"{short:.1f} MB at {few:,}", f"{long - short:+.1f} MB")]


class _Ready:
    """Replaces a sorter: rows in order of arrival."""

    def __init__(self, tables: Sequence[Any]) -> None:
        self._whole = pa.concat_tables(tables).combine_chunks()
        self.rows = self.longest = len(self._whole)

    def parts(self) -> Iterator[Iterator[Any]]:
        yield iter([self._whole])


def _ready(wal: Path, options: ParquetOptions) -> Any:
    builder = Builder(options)
    first = 0
    tables = []
    for frame in _frames(wal):
        tables.append(builder.table(frame.columns(), first))
        first += frame.count
    return _Ready(tables)


def _traffic(count: int) -> tuple[str, list[Record]]:
    path = os.environ.get("SIPDUMP_BENCH_DATA")
    if path:
        with open(path, "rb") as file:
            return f"{Path(path).name}", list(islice(TextBackend(NoOptions(), Site("", "")).decode(file), count))
    return "calls", list(calls.records(count // calls.MESSAGES))


def _append(backend: ParquetBackend, items: Sequence[Record]) -> None:
    backend.open(SEGMENT)
    for at in range(0, len(items), BATCH):
        backend.write(items[at : at + BATCH])
    backend.close()


def _frames(wal: Path) -> list[Frame]:
    with wal.open("rb") as file:
        return [piece for piece in scan(file) if isinstance(piece, Frame) and piece.kind == RECORDS]


def _pull(frames: Sequence[Frame]) -> None:
    puller = Puller()
    for frame in frames:
        columns = frame.columns()
        puller.pull(columns.payload, list(accumulate(columns.lengths, initial=columns.base)))


def _text_size(items: Sequence[Record]) -> int:
    text = TextBackend(NoOptions(), Site("", ""))
    return sum(len(text.encode(items[at : at + BATCH])) for at in range(0, len(items), BATCH))


def _run(count: int, folder: Path) -> float:
    command = [sys.executable, "-m", "bench.parquet", str(count), str(folder)]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.PIPE, text=True, timeout=1200
    )
    return float(done.stdout)


def _child(count: int, folder: str) -> None:
    backend = ParquetBackend(ParquetOptions(), Site(folder, PREFIX))
    backend.open(SEGMENT)
    items = calls.records(count // calls.MESSAGES)
    while batch := list(islice(items, BATCH)):
        backend.write(batch)
    backend.close()
    (done,) = backend.recover()
    Path(done.location).unlink()
    print(machine.peak_mb())


if __name__ == "__main__":
    _child(int(sys.argv[1]), sys.argv[2])

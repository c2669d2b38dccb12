"""What the Parquet backend costs, against pyarrow alone; what it loses, and the memory that it takes.

The traffic is generated calls (``bench.calls``), or the ``.data`` file that ``SIPDUMP_BENCH_DATA`` names.
"""

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench import calls, hep, machine
from bench.table import Row, compare
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.pipeline.journal import RECORDS, Frame, scan
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.conversion import seal
from sipdump_parquet.fields import Puller
from sipdump_parquet.files import make
from sipdump_parquet.options import FIRST_COLUMNS, WAL_SUFFIX, ParquetOptions
from sipdump_parquet.table import Builder
from sipdump_text import TextBackend

_ROOT = Path(__file__).parent.parent
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


def behind_queue(folder: Path, quick: bool) -> list[Row]:
    """Measure all that a record costs behind the queue, in the daemon and in the process that seals."""
    name, items = _traffic(10_000 if quick else 200_000)
    rows = []
    for version, aim in ((1, 6.5), (2, None)):
        options = ParquetOptions(columns=",".join(FIRST_COLUMNS) if version == 1 else "")
        spent: list[tuple[float, float]] = []
        plain: list[float] = []
        for _ in range(1 if quick else ROUNDS):
            spent.append(_store(folder, items, options))
            plain.append(_plain(folder, items, options))
        own, child = (min(costs) for costs in zip(*spent, strict=True))
        total, other = own + child, min(plain)
        rows.append(
            Row(
                f"Parquet CPU a record behind the queue, {name}, schema {version}",
                f"{total:.2f} µs, {child:.2f} of it in the process that seals",
                f"{other:.2f} µs, pyarrow, the same columns ready",
                f"{total / other:.2f}",
                f"at most {aim} µs" if aim else "",
                total <= aim if aim else None,
            )
        )
    return rows


def loss(folder: Path, quick: bool) -> list[Row]:
    """Count what is lost, and look how much memory is taken, while segments are sealed under load."""
    rate, seconds, rotate = (10_000, 4, 2) if quick else (60_000, 60, 10)
    place = folder / "loss"
    place.mkdir()
    core, *others = machine.cores()
    with open(place / "log", "w") as log:
        command = hep.command(16, place, f"sipdump:rotate:i:{rotate}")
        daemon = subprocess.Popen(command, stderr=log, cwd=_ROOT)
    try:
        port = hep.port_of(place / "log", daemon)
        with machine.pinned(*(others or [core])):
            sender = [sys.executable, "-m", "bench.sender", str(port), str(rate * seconds), str(seconds)]
            took = float(subprocess.run(sender, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)
        time.sleep(hep.LAG)
        peak_mb = machine.peak_mb(daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        _, _, used = os.wait4(daemon.pid, 0)
        daemon.returncode = 0
    finally:
        if daemon.returncode is None:
            daemon.kill()
            daemon.wait()
    text = (place / "log").read_text()
    stored = int(re.findall(r"summary: backend\"? name=parquet stored=(\d+)", text)[-1])
    sealed = sum(pq.read_metadata(path).num_rows for path in place.glob("*.parquet"))
    segments = len(list(place.glob("*.parquet")))
    shutil.rmtree(place)
    sent = rate * seconds
    what = f"Parquet, HEP over UDP at {sent / took:,.0f}/s for {took:.0f} s"
    return [
        Row(f"{what}: lost", f"{sent - stored:,} of {sent:,}", f"{segments} segments, {sealed:,} records sealed",
            aim="0", met=sent == stored),
        Row(f"{what}: CPU a record, both processes", f"{(used.ru_utime + used.ru_stime) / sent * 1e6:.2f} µs"),
        Row(f"{what}: peak memory of the daemon", f"{peak_mb:.1f} MB", aim="at most 150 MB", met=peak_mb <= 150),
        Row(f"{what}: peak memory of the process that seals", f"{used.ru_maxrss * 1024 / 1e6:.1f} MB"),
    ]  # fmt: skip


def peak(folder: Path, quick: bool) -> list[Row]:
    """Compare the peak memory of storing a segment with that of one a hundred times as long."""
    few, many = (20_000, 80_000) if quick else (50_000, 5_000_000)
    short, long = (_run(count, folder) for count in (few, many))
    rows = []
    for place, process in enumerate(("the process that stores", "the process that seals")):
        what = f"peak memory of {process}, {many:,} records, memory {ParquetOptions().memory >> 20} MiB"
        more = long[place] - short[place]
        aimed = place == 0 and not quick
        rows.append(
            Row(
                what,
                f"{long[place]:.1f} MB",
                f"{short[place]:.1f} MB at {few:,}",
                f"{more:+.1f} MB",
                "at most 20 MB more" if aimed else "",
                more <= 20 if aimed else None,
            )
        )
    return rows


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


def _store(folder: Path, items: Sequence[Record], options: ParquetOptions) -> tuple[float, float]:
    """Store records; return the CPU microseconds a record of this process, and of the one that seals."""
    backend = ParquetBackend(options, Site(str(folder), PREFIX))
    backend.start()
    _append(backend, items[:BATCH])  # for this, that process is started
    _wait_for(folder / SEGMENT.name)
    (child,) = machine.children()
    before = machine.process_cpu_ns(child)
    start = time.process_time()
    _append(backend, items)
    _wait_for(folder / SEGMENT.name)
    spent = time.process_time() - start, (machine.process_cpu_ns(child) - before) / 1e9
    backend.stop()
    return spent[0] / len(items) * 1e6, spent[1] / len(items) * 1e6


def _wait_for(path: Path) -> None:
    """Wait until a segment is sealed, and remove it."""
    while not path.exists() or (path.parent / (SEGMENT.stem + WAL_SUFFIX)).exists():
        time.sleep(0.01)
    path.unlink()


def _plain(folder: Path, items: Sequence[Record], options: ParquetOptions) -> float:
    """Return the CPU microseconds a record of writing the same columns with pyarrow alone."""
    backend = ParquetBackend(options, Site(str(folder), PREFIX))
    _append(backend, items)
    wal = folder / (SEGMENT.stem + WAL_SUFFIX)
    ready = _ready(wal, options)
    wal.unlink()
    start = time.process_time()
    make(str(folder / "plain"), ready, options, {}, mode=0o600, modified_ns=0)
    spent = time.process_time() - start
    (folder / "plain").unlink()
    return spent / len(items) * 1e6


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


def _run(count: int, folder: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "bench.storing", str(count), str(folder)]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=3600)
    own, child = map(float, done.stdout.split())
    return own, child

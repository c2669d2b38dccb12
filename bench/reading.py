"""What ``sipdump-read find`` costs, its start included, against grep over .data and tshark over .pcap.

Every backend in ``STORES`` holds the same records of generated calls, in segments as a daemon would make them. The
call that is looked for is in the middle. All files are in the page cache when they are read; in each round every
program runs once, and the best of each counts. To measure another backend, add it to ``STORES``; to ask another
question, add a function that returns rows to ``QUESTIONS``.
"""

import compileall
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import attrs

import sipdump_core
from bench import calls
from bench.search import tshark
from bench.table import Row, compare
from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions
from sipdump_pcap import PcapBackend
from sipdump_text import TextBackend

STORES: dict[str, Callable[[Site], Backend]] = {
    "text": lambda site: TextBackend(NoOptions(), site),
    "pcap": lambda site: PcapBackend(NoOptions(), site),
    "parquet": lambda site: ParquetBackend(ParquetOptions(), site),
}
"""Backends by the name of their folder."""
BATCH = 1000
SEGMENTS = 10
ROUNDS = 7
AIM = 1.2
"""Times grep."""
PARQUET_AIM = 0.3
"""Seconds."""
TSHARK_AIM = 100
"""Times faster than tshark."""
MEMORY_AIM = 200
"""MB."""
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@attrs.frozen
class Filled:
    """Stores that are ready to be asked."""

    folder: Path
    total: int
    """Records in each of them."""
    part: Path
    """A pcap file with the first records alone, because tshark is slow."""
    part_records: int
    rounds: int

    @property
    def wanted(self) -> str:
        """The Call-ID that is looked for."""
        return calls.call_id(self.total // calls.MESSAGES // 2)


def find(folder: Path, quick: bool) -> list[Row]:
    """Fill the stores, and ask each question."""
    compileall.compile_dir(os.path.dirname(sipdump_core.__file__), quiet=1)  # as pip does at an installation
    filled = _fill(folder, 70_000, 7_000, 2) if quick else _fill(folder, 5_000_000, 100_000, ROUNDS)
    return [row for question in QUESTIONS for row in question(filled)]


def by_call_id(filled: Filled) -> list[Row]:
    """Look for one call by its Call-ID."""
    grep = ["grep", "-c", "-h", "-F", "-a", filled.wanted, *map(str, sorted((filled.folder / "text").iterdir()))]
    ways = {"grep": grep} | {
        name: _command(filled, name, "find", "--call-id", filled.wanted, "--jsonl") for name in STORES
    }
    best = _best(filled, ways)
    what = f"find one call in {filled.total:,} records, its start included"
    other_is = "grep -F over the .data"
    grepped = best["grep"]
    rows = [
        compare(f"{what}, {name}", best[name].wall, grepped.wall, AIM, other_is=other_is, unit="s") for name in STORES
    ]
    rows += [
        compare(f"CPU of that, {name}", best[name].cpu, grepped.cpu, None, other_is=other_is, unit="s")
        for name in STORES
    ]
    met = best["parquet"].wall <= PARQUET_AIM
    rows.append(Row(f"{what}, parquet", f"{best['parquet'].wall:.2f} s", aim=f"at most {PARQUET_AIM} s", met=met))
    rows += [peak(f"peak memory of that, {name}", ways[name]) for name in STORES]
    if shutil.which("tshark"):
        start = time.perf_counter()
        tshark(filled.part.parent, filled.wanted)
        whole = (time.perf_counter() - start) * filled.total / filled.part_records
        rows += [
            Row(
                f"{what}, {name}, against tshark",
                f"{best[name].wall:.2f} s",
                f"{whole:.0f} s, tshark over {filled.part_records:,} packets, scaled up",
                f"{whole / best[name].wall:.0f} times faster",
                f"at least {TSHARK_AIM}",
                whole / best[name].wall >= TSHARK_AIM,
            )
            for name in STORES
        ]
    return rows


def by_time(filled: Filled) -> list[Row]:
    """Look for the calls of one second, which is found by halving."""
    second = calls.START_US // 1_000_000 + filled.total * calls.STEP_US // 2_000_000
    span = [f"--since={iso(second)}", f"--until={iso(second + 1)}", "--around=1s", "--jsonl", "--limit=0"]
    ways = {name: _command(filled, name, "find", *span) for name in STORES}
    best = _best(filled, ways)
    what = f"find all calls of one second in {filled.total:,} records, its start included"
    rows = [Row(f"{what}, {name}", f"{took.wall:.2f} s, {took.cpu:.2f} s of CPU") for name, took in best.items()]
    return rows + [peak(f"peak memory of that, {name}", ways[name]) for name in STORES]


QUESTIONS: Sequence[Callable[[Filled], list[Row]]] = (by_call_id, by_time)


def _fill(folder: Path, total: int, part_records: int, rounds: int) -> Filled:
    """Store the same records in each backend."""
    backends = {name: make(Site(str(folder / name), "b-")) for name, make in STORES.items()}
    part = PcapBackend(NoOptions(), Site(str(folder / "part"), "b-"))
    for backend in (*backends.values(), part):
        Path(backend.site.folder).mkdir()
        backend.start()
    records = calls.records(total // calls.MESSAGES)
    per_segment = -(-total // SEGMENTS)
    done = 0
    while batch := list(islice(records, min(BATCH, per_segment - done % per_segment))):
        for backend in (*backends.values(), *([part] if done < part_records else [])):
            if done % per_segment == 0:
                backend.close()
                segment = Segment.starting("b-", batch[0].time_us / 1e6)
                backend.open(attrs.evolve(segment, suffix=backend.suffix, sequence=done // per_segment))
            backend.write(Batch(batch))
        done += len(batch)
    end_s = (calls.START_US + total * calls.STEP_US) / 1e6
    for backend in (*backends.values(), part):
        backend.close()
        backend.stop()
        for stored in backend.segments():
            os.utime(stored.location, (end_s, end_s))
    return Filled(folder, total, next(Path(part.site.folder).iterdir()), part_records, rounds)


def _command(filled: Filled, name: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "sipdump_core.reading", *args, "--folder", str(filled.folder / name)]


@attrs.frozen
class Took:
    """What a command took; the wall time counts."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds, user and system, which other programs on the machine disturb less."""


def _best(filled: Filled, ways: dict[str, list[str]]) -> dict[str, Took]:
    """Run each command in turn, several times; return the best round of each."""
    took: dict[str, list[Took]] = {name: [] for name in ways}
    for _ in range(filled.rounds):
        for name, argv in ways.items():
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(argv, stdout=subprocess.PIPE, env=_env(), check=True)
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            took[name].append(Took(wall, cpu))
            if not done.stdout:
                raise RuntimeError(f"{argv} found nothing")
    return {name: Took(min(each.wall for each in all_), min(each.cpu for each in all_)) for name, all_ in took.items()}


def peak(what: str, argv: Sequence[str]) -> Row:
    """Return the row of a command's peak memory."""
    peak = _peak_mb(argv)
    return Row(what, f"{peak:.0f} MB", "", "", f"at most {MEMORY_AIM} MB", peak <= MEMORY_AIM)


def _peak_mb(argv: Sequence[str]) -> float:
    """Return the peak memory of a command; its parent is small, because a child's peak begins with its parent's."""
    done = subprocess.run([sys.executable, "-c", _PEAK, *argv], stdout=subprocess.PIPE, env=_env(), check=True)
    return int(done.stdout) * 1024 / 1e6


def _env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def iso(second: int) -> str:
    """Return a time, seconds since the epoch, as the command reads it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))

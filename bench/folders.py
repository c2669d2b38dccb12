"""What a large folder costs: its names, and the commands that look through it."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from bench.table import Row
from sipdump_core.drivers.folder import RECORDS_XATTR
from sipdump_core.segment import Segment

_FILES = 100_000
_SUFFIXES = (".data", ".pcap", ".parquet", ".meta")
_PREFIX = "kamailio-sipdump-"
_STEP = 600
"""Seconds from one segment to the next: 25,000 of them are half a year."""
_ROUNDS = 3
_AIM = 1.5
"""Seconds for a command, the process's start included."""
_NAME_AIM = 10.0
"""Microseconds to parse a name."""


def cost(folder: Path, quick: bool) -> list[Row]:
    """Measure commands in a folder of segments of three backends and their .meta files."""
    there = folder / "large"
    there.mkdir()
    count = 400 if quick else _FILES
    _fill(there, count)
    where = ("--folder", str(there))
    prune = ("admin", "prune", "--fage", "3600", *where)
    past = ("--since", "2001-01-01T00:00:00", "--until", "2001-01-02T00:00:00")
    commands = {
        "sipdump-admin list": ("admin", "list", *where),
        "sipdump-admin list --json": ("admin", "list", "--json", *where),
        "sipdump-admin prune --dry-run, all is due": (*prune, "--dry-run"),
        "sipdump-read find, nothing of that time": ("reading", "find", *past, *where),
    }
    rows = [_parsing(there, quick)]
    for what, command in commands.items():
        rows.append(_row(f"{count:,} files: {what}", min(_run(command) for _ in range(1 if quick else _ROUNDS)), quick))
    pruned = _run(prune)
    left = len(os.listdir(there))
    if left:
        raise RuntimeError(f"prune left {left} files")
    _fill(there, count)
    return [
        *rows,
        _deleted(f"{count:,} files: sipdump-admin prune, all is due", pruned, _timed(["rm", "-r", str(there)])),
    ]


def _fill(folder: Path, count: int) -> None:
    newest = int(time.time()) - 86400
    for number in range(count // len(_SUFFIXES)):
        start = newest - number * _STEP
        stem = Segment.starting(_PREFIX, start).stem
        for suffix in _SUFFIXES:
            path = folder / (stem + suffix)
            path.write_bytes(b"x" * 100)
            if suffix != ".meta":
                os.setxattr(path, RECORDS_XATTR, b"1")  # as sealing leaves it
            os.utime(path, (start + _STEP, start + _STEP))


def _parsing(folder: Path, quick: bool) -> Row:
    names = [name for name in os.listdir(folder) if name.endswith(".data")]
    taken = []
    for _ in range(_ROUNDS):
        before = time.process_time()
        for name in names:
            Segment.parse(name, _PREFIX, ".data")
        taken.append((time.process_time() - before) / len(names) * 1e6)
    least = min(taken)
    met = None if quick else least < _NAME_AIM
    return Row("parse a segment's name", f"{least:.1f} µs CPU", aim=f"less than {_NAME_AIM:g} µs", met=met)


def _deleted(what: str, pruned: tuple[float, float], removed: tuple[float, float]) -> Row:
    """Return the row of what deletes: most of its time is the file system's, as of rm."""
    (cpu, wall), (least_cpu, least_wall) = pruned, removed
    against = f"{least_cpu:.2f} s CPU, {least_wall:.2f} s wall, rm -r"
    return Row(what, f"{cpu:.2f} s CPU, {wall:.2f} s wall", against, f"{wall / least_wall:.2f} of the wall time")


def _row(what: str, taken: tuple[float, float], quick: bool) -> Row:
    cpu, wall = taken
    met = None if quick else cpu <= _AIM
    return Row(what, f"{cpu:.2f} s CPU", f"{wall:.2f} s wall", aim=f"at most {_AIM:g} s CPU", met=met)


def _run(command: tuple[str, ...]) -> tuple[float, float]:
    """Return the seconds of CPU and of wall time that a command takes; finding nothing is no failure."""
    room, *rest = command
    return _timed([sys.executable, "-m", f"sipdump_core.{room}", *rest])


def _timed(command: list[str]) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise RuntimeError(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall

"""Writer CPU a record, against Kamailio's writer process, and wall time against a raw write(2)."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs

from bench import kamailio, machine, traffic
from bench.table import Row, compare
from sipdump_core import SipDump
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_pcap import HeaderTransform, PcapBackend
from sipdump_text import TextBackend

MODES = {1: "text", 13: "mode 13"}
GATHER = 20000
"""Microseconds that Kamailio's writer sleeps between two looks at its list: the least that ours gathers."""
DEFAULT_WAIT = 100
HEP_ROUND = 500
BATCH = 1000


def against_kamailio(folder: Path, quick: bool) -> list[Row]:
    """Measure (a): the same pace for both, two sizes in windows of the same length, the minimum of several rounds."""
    sizes = (2_000, 10_000) if quick else (10_000, 60_000)
    seconds, rounds = (0.5, 1) if quick else (3.0, 3)
    items = traffic.records(sizes[1])
    rows = []
    for mode, name in MODES.items():
        ours = Best(sizes)
        theirs = {GATHER: Best(sizes), DEFAULT_WAIT: Best(sizes)}
        for _ in range(rounds):
            ours.add(partial(_paced_cpu, folder, mode, items, seconds))
            for wait, best in theirs.items() if kamailio.program() else ():
                with kamailio.running(folder, mode, wait) as server:
                    best.add(partial(server.window, seconds))
        rate = f"{sizes[1] / seconds:,.0f}/s"
        full = min(_full_speed_cpu(folder, mode, items) for _ in range(rounds + 2))
        if not kamailio.program():
            rows.append(Row(f"writer CPU a record, {name}", f"{ours.slope():.2f} µs", "Kamailio is not installed"))
            rows.append(Row(f"writer CPU a record, {name}, at full speed", f"{full:.2f} µs"))
            continue
        fair, default = theirs[GATHER], theirs[DEFAULT_WAIT]
        what = f"writer CPU a record, {name}"
        rows += [
            compare(f"{what}, slope, same gathering", ours.slope(), fair.slope(), 0.5, other_is="Kamailio, wait 20000"),
            compare(f"{what}, all of it at {rate}, same gathering", ours.whole(), fair.whole(), 0.5,
                    other_is="Kamailio, wait 20000"),
            compare(f"{what}, all of it at {rate}, both as they come", ours.whole(), default.whole(), 0.5,
                    other_is="Kamailio, wait 100 (its polling included)"),
            compare(f"{what}, slope, both as they come", ours.slope(), default.slope(), 0.5,
                    other_is="Kamailio, wait 100 (its polling shrinks as load grows, see below)"),
            compare(f"{what}, at full speed", full, fair.slope(), 0.5, other_is="Kamailio, wait 20000, slope"),
        ]  # fmt: skip
    return rows


class Best:
    """The least CPU time for each size over several rounds."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self._sizes = sizes
        self._best: dict[int, tuple[int, int]] = {}

    def add(self, measure: Callable[[int], tuple[int, int]]) -> None:
        """Measure each size once; ``measure`` returns the records stored and the nanoseconds spent."""
        for size in self._sizes:
            stored, spent = measure(size)
            if stored < size // 2:
                raise RuntimeError(f"only {stored} of {size} messages were stored")
            known = self._best.get(size)
            if known is None or spent / stored < known[1] / known[0]:
                self._best[size] = (stored, spent)

    def slope(self) -> float:
        """Return the microseconds for one more record."""
        (few, base), (many, more) = (self._best[size] for size in self._sizes)
        return max(more - base, 1) / (many - few) / 1000

    def whole(self) -> float:
        """Return the microseconds a record at the larger size, everything included."""
        stored, spent = self._best[self._sizes[1]]
        return spent / stored / 1000


def against_raw(folder: Path, quick: bool) -> list[Row]:
    """Measure (b): wall time of encoding and writing, and of writing the same bytes already encoded."""
    items = traffic.records(5_000 if quick else 50_000)
    rounds = 3 if quick else 9
    rows = []
    for mode, name in MODES.items():
        ours: list[float] = []
        batched: list[float] = []
        single: list[float] = []
        pipeline: list[float] = []
        for _ in range(rounds):  # alternating, so that a noisy moment hits all
            ours.append(_encode_and_write(folder, mode, items))
            batched.append(_raw(folder, mode, items, BATCH))
            single.append(_raw(folder, mode, items, 1))
            pipeline.append(_pipeline_wall(folder, mode, items))
        what = f"wall a record, {name}"
        one, many = min(single), min(batched)
        rows += [
            compare(f"{what}, encode and write", min(ours), one, 1.5, other_is="raw, one write(2) a record"),
            compare(f"{what}, encode and write", min(ours), many, 1.5, other_is=f"raw, one write(2) for {BATCH}"),
            compare(f"{what}, queue and threads too", min(pipeline), one, None, other_is="raw, one write(2) a record"),
        ]
    return rows


def with_sync(folder: Path, quick: bool) -> list[Row]:
    """Measure (c): what it costs to sync the files every second, at full speed, and at 20,000 records/s."""
    items = traffic.records(20_000 if quick else 200_000)
    rounds, seconds = (1, 1.0) if quick else (3, 4.0)
    rows = []
    for mode, name in MODES.items():
        wall: dict[int, list[float]] = {0: [], 1: []}
        cpu: dict[int, list[float]] = {0: [], 1: []}
        for _ in range(rounds):  # alternating, so that a noisy moment hits both
            for sync, walls in wall.items():
                walls.append(_pipeline_wall(folder, mode, items, sync))
                count, spent = _paced_cpu(folder, mode, items, seconds, min(len(items), int(20_000 * seconds)), sync)
                cpu[sync].append(spent / count / 1000)
        rows += [
            compare(f"wall a record, {name}, sync 1", min(wall[1]), min(wall[0]), None, other_is="sync 0"),
            compare(f"writer CPU a record, {name}, sync 1", min(cpu[1]), min(cpu[0]), None, other_is="sync 0"),
        ]
    return rows


def backends(mode: int, folder: Path) -> list[FolderBackend]:
    """Make the backends of a mode."""
    site = Site(str(folder), "bench-")
    made: list[FolderBackend] = [TextBackend(None, site)]
    if mode & 4:
        header = [HeaderTransform(None)] if mode & 8 else []
        made.append(PcapBackend(None, attrs.evolve(site, transforms=header)))
    return made


def _paced_cpu(
    folder: Path, mode: int, items: list[Record], seconds: float, count: int, sync: int = 1
) -> tuple[int, int]:
    """Return the count, and the CPU nanoseconds that SipDump's threads take for that many records at a pace."""
    with running(folder, mode, sync) as dump:
        before = sum(machine.own_threads().values())
        traffic.paced(count, seconds, lambda first, end: dump.intercept(items[first:end]))
        time.sleep(0.1)
        return count, sum(machine.own_threads().values()) - before


def _full_speed_cpu(folder: Path, mode: int, items: list[Record]) -> float:
    """Return the CPU microseconds a record when lists of records, as from HEP, come as fast as they are taken."""
    with running(folder, mode) as dump:
        before = sum(machine.own_threads().values())
        _feed(dump, items)
        time.sleep(0.02)  # until all threads sleep: only then does the kernel count their time
        return (sum(machine.own_threads().values()) - before) / len(items) / 1000


def _pipeline_wall(folder: Path, mode: int, items: list[Record], sync: int = 1) -> float:
    with running(folder, mode, sync) as dump:
        start = time.perf_counter()
        _feed(dump, items)
        return (time.perf_counter() - start) / len(items) * 1e6


def _feed(dump: SipDump, items: list[Record]) -> None:
    for at in range(0, len(items), HEP_ROUND):
        dump.intercept(items[at : at + HEP_ROUND])
    dump.flush()


@contextlib.contextmanager
def running(folder: Path, mode: int, sync: int = 1) -> Iterator[SipDump]:
    place = folder / "ours"
    place.mkdir()
    try:
        with SipDump(enable=1, mode=mode, folder=place, sync=sync) as dump:
            yield dump
            dump.flush()
            for name, lane in dump.stats().backends.items():
                if lane.dropped:
                    raise RuntimeError(f"the backend {name} dropped records: {dict(lane.dropped)}")
    finally:
        shutil.rmtree(place)


def _encode_and_write(folder: Path, mode: int, items: list[Record]) -> float:
    """Return the wall microseconds a record of the backends' work for batches, in one thread."""
    made = backends(mode, folder)
    segment = Segment.starting("bench-", time.time())
    for backend in made:
        backend.open(attrs.evolve(segment, suffix=backend.suffix))
    start = time.perf_counter()
    for at in range(0, len(items), BATCH):
        batch = items[at : at + BATCH]
        for backend in made:
            backend.write(batch)
    spent = time.perf_counter() - start
    for backend in made:
        for stored in backend.segments():
            os.unlink(stored.location)
        backend.close()
    return spent / len(items) * 1e6


def _raw(folder: Path, mode: int, items: list[Record], batch: int) -> float:
    """Return the wall microseconds a record of writing the same bytes, encoded beforehand, to new files."""
    spent = 0.0
    for backend in backends(mode, folder):
        pieces = [backend.encode(items[at : at + batch]) for at in range(0, len(items), batch)]
        path = folder / "raw"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            start = time.perf_counter()
            for piece in pieces:
                os.write(fd, piece)
            spent += time.perf_counter() - start
        finally:
            os.close(fd)
            path.unlink()
    return spent / len(items) * 1e6

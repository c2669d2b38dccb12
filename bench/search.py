"""Finding one call among millions of records: DuckDB over Parquet, against grep over .data and tshark over .pcap.

The Parquet files really hold all records. The text and pcap files hold only the first ones; the times of grep and
tshark are scaled up by the number of records, because both read everything once. The call to be found is
among the first ones. All files are in the page cache when they are read.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from bench import calls
from bench.table import Row
from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions
from sipdump_pcap import PcapBackend
from sipdump_text import TextBackend

BATCH = 1000
SEGMENTS = 10  # of Parquet; the others have one segment, so that tshark's start counts once
ROUNDS = 5


def one_call(folder: Path, quick: bool) -> list[Row]:
    """Measure how long it takes to find the messages of one call, what the files take, and what writing them costs."""
    total, text_part, pcap_part = (70_000, 14_000, 14_000) if quick else (5_000_000, 500_000, 100_000)
    count = total // calls.MESSAGES
    wanted = calls.call_id(count // 97)
    parquet = folder / "parquet"
    made: list[tuple[str, Backend, int]] = [
        ("Parquet", ParquetBackend(ParquetOptions(), Site(str(parquet), "b-")), total),
        ("text", TextBackend(NoOptions(), Site(str(folder / "text"), "b-")), text_part),
        ("pcap", PcapBackend(NoOptions(), Site(str(folder / "pcap"), "b-")), pcap_part),
    ]
    rows = []
    sizes: dict[str, float] = {}
    for name, backend, part in made:
        Path(backend.site.folder).mkdir()
        spent = _write(backend, islice(calls.records(count), part), part, SEGMENTS if name == "Parquet" else 1)
        sizes[name] = sum(stored.size for stored in backend.segments()) / part
        against = f"{sizes['text']:.0f} bytes of text" if "text" in sizes else ""
        rows.append(Row(f"writer CPU a record, calls, {name}, all threads", f"{spent:.2f} µs"))
        rows.append(Row(f"bytes a record on disk, calls, {name}", f"{sizes[name]:.0f}", against))
    ratio = sizes["Parquet"] / sizes["text"]
    rows.append(
        Row(
            "size of Parquet against text, calls",
            f"{sizes['Parquet']:.0f} bytes",
            f"{sizes['text']:.0f} bytes",
            f"{ratio:.3f}",
            "at most 0.1",
            ratio <= 0.1,
        )
    )
    found = _best(lambda: _duckdb(parquet, wanted))
    what = f"find one call in {total:,} records"
    rows.append(Row(f"{what}, Parquet, DuckDB (its start apart)", f"{found * 1000:.0f} ms"))
    grep = _best(lambda: _grep(folder / "text", wanted))
    rows.append(_scaled(what, "grep over .data", grep, text_part, total, found))
    if shutil.which("tshark"):
        whole = _best(lambda: tshark(folder / "pcap", wanted), 1)
        rows.append(_scaled(what, "tshark over .pcap", whole, pcap_part, total, found))
    return rows


def many_files(folder: Path, quick: bool) -> list[Row]:
    """Measure what small files cost: the same records in more and more files, size and time to find a call."""
    total = 35_000 if quick else 350_000
    count = total // calls.MESSAGES
    wanted = calls.call_id(count // 97)
    rows = []
    first: tuple[float, float] | None = None
    for files in (10, 100) if quick else (10, 100, 1000):
        place = folder / f"{files}"
        place.mkdir()
        backend = ParquetBackend(ParquetOptions(), Site(str(place), "b-"))
        spent = _write(backend, calls.records(count), total, files)
        size = sum(stored.size for stored in backend.segments()) / total
        found = _best(partial(_duckdb, place, wanted))
        first = first or (found, size)
        rows.append(
            Row(
                f"{total:,} records in {files:,} Parquet files: find one call",
                f"{found * 1000:.0f} ms",
                f"{spent:.1f} µs CPU a record to write, {size:.0f} bytes a record",
                f"{found / first[0]:.1f} times, {size / first[1]:.2f} times the size",
            )
        )
    return rows


def _write(backend: Backend, records: Iterator[Record], part: int, segments: int) -> float:
    """Write records in segments; return the CPU microseconds a record of all threads, without making the records."""
    spent = 0.0
    limit = -(-part // segments)
    backend.start()
    for number in range(segments):
        done = 0
        while done < limit and (batch := list(islice(records, min(BATCH, limit - done)))):
            before = time.process_time()
            if not done:
                backend.open(Segment("b-", "2026-11-22--23-31-00", number, backend.suffix))
            backend.write(Batch(batch))
            spent += time.process_time() - before
            done += len(batch)
        before = time.process_time()
        backend.close()
        backend.stop()  # this waits for background work, so it is counted
        backend.start()
        spent += time.process_time() - before
    backend.stop()
    return spent / part * 1e6


def _duckdb(folder: Path, wanted: str) -> int:
    import duckdb  # noqa: PLC0415 - only this benchmark needs it

    query = "SELECT buf FROM read_parquet(?) WHERE call_id = ? ORDER BY time, seq"
    with duckdb.connect() as connection:
        return len(connection.execute(query, [f"{folder}/*.parquet", wanted]).fetchall())


def _grep(folder: Path, wanted: str) -> int:
    return _run(["grep", "-c", "-h", "-F", "-a", f"Call-ID: {wanted}", *map(str, sorted(folder.iterdir()))])


def tshark(folder: Path, wanted: str) -> int:
    """Return how many messages of a call tshark finds in the .pcap files of a folder."""
    found = 0
    for path in sorted(folder.iterdir()):
        argv = ["tshark", "-n", "-r", str(path), "-d", "udp.port==5061,sip", "-Y", f'sip.Call-ID == "{wanted}"']
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        found += len(done.stdout.splitlines())
    return found


def _run(argv: Sequence[str]) -> int:
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    return sum(int(line) for line in done.stdout.split())


def _best(search: Callable[[], int], rounds: int = ROUNDS) -> float:
    """Return the seconds of the fastest of several rounds; each must find the whole call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = search()
        times.append(time.perf_counter() - start)
        if found != calls.MESSAGES:
            raise RuntimeError(f"found {found} messages of the call, not {calls.MESSAGES}")
    return min(times)


def _scaled(what: str, how: str, seconds: float, part: int, total: int, found: float) -> Row:
    whole = seconds * total / part
    return Row(
        f"{what}, {how}",
        f"{whole:.2f} s",
        f"{seconds:.2f} s for {part:,}, scaled up",
        f"{whole / found:,.0f} times Parquet",
    )

"""Peak memory by the number of records; ``python -m bench.memory RECORDS FOLDER`` is one run of it."""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench import machine, traffic
from bench.table import Row
from sipdump_core import SipDump

_ROTATE = 20_000
_TMPFS = Path("/dev/shm")


def peak(folder: Path, quick: bool) -> list[Row]:
    """Compare the peak of a long run with those of two shorter ones."""
    few, some, many = (5_000, 20_000, 50_000) if quick else (50_000, 200_000, 5_000_000)
    with tempfile.TemporaryDirectory(dir=_TMPFS if _TMPFS.is_dir() else folder) as place:
        # in a short run it is chance how far the queues fill, hence the median
        short = statistics.median(_run(few, place) for _ in range(5))
        medium, long = (_run(count, place) for count in (some, many))
    rows = []
    for count, lower, why in ((few, short, ""), (some, medium, ", when the queues have been full once")):
        rows.append(
            Row(
                f"peak memory, {many:,} records, mode 13",
                f"{long:.1f} MB",
                f"{lower:.1f} MB at {count:,}{why}",
                f"{long - lower:+.1f} MB",
                "at most +20 MB",
                long - lower <= 20,
            )
        )
    return rows


def _run(count: int, folder: str) -> float:
    command = [sys.executable, "-m", "bench.memory", str(count), folder]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.PIPE, text=True, timeout=1200
    )
    return float(done.stdout)


def _child(count: int, folder: str) -> None:
    """Store ``count`` records, each with its own bytes object, deleting sealed segments on the way."""
    dump = SipDump(enable=1, mode=13, folder=folder, rotate_records=_ROTATE)
    ended = threading.Event()

    def clear() -> None:
        while not ended.wait(0.1):
            _delete(folder, keep=2)

    clearing = threading.Thread(target=clear)
    clearing.start()
    start = int(time.time() * 1e6)
    head, rest = traffic.message(0)[:60], traffic.message(0)[72:]
    for number in range(count):
        message = b"%b%012d%b" % (head, number, rest)
        source = (traffic.SERVER, 40000 + number % traffic.PEERS)
        dump.received(message, source, (traffic.SERVER, 5060), "udp", time_us=start + 20 * number)
    dump.close()
    ended.set()
    clearing.join()
    _delete(folder, keep=0)
    stored = {name: lane.stored for name, lane in dump.stats().backends.items()}
    if set(stored.values()) != {count}:
        raise RuntimeError(f"of {count} records these were stored: {stored}")
    print(machine.peak_mb())


def _delete(folder: str, keep: int) -> None:
    """Delete all but the newest segments of each backend."""
    for suffix in (".data", ".pcap", ".meta"):
        paths = sorted(Path(folder).glob("*" + suffix), key=lambda path: path.stat().st_mtime)
        for path in paths[: max(0, len(paths) - keep)]:
            path.unlink()


if __name__ == "__main__":
    _child(int(sys.argv[1]), sys.argv[2])

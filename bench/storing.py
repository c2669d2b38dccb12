"""Stores calls in Parquet as a daemon does: ``python -m bench.storing RECORDS FOLDER``; without pyarrow, as there.

It prints the peak memory in MB, of this process and of the one that seals.
"""

import resource
import sys
from itertools import islice
from pathlib import Path

from bench import calls, machine
from sipdump_core.drivers.base import Site
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions

_SEGMENT = Segment("b-", "2026-11-22--23-31-00", 0, ".parquet")
_BATCH = 1000


def main(count: int, folder: str) -> None:
    """Store so many records in one segment, and seal it."""
    backend = ParquetBackend(ParquetOptions(), Site(folder, _SEGMENT.prefix))
    backend.start()
    backend.open(_SEGMENT)
    items = calls.records(count // calls.MESSAGES)
    while batch := list(islice(items, _BATCH)):
        backend.write(batch)
    backend.close()
    backend.stop()
    Path(folder, _SEGMENT.name).unlink()
    print(machine.peak_mb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

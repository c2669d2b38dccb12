"""Reading segments back: the decoders as they are, beside the plain way, record by record.

The plain way is what they do with any record that is odd, and did with all before they were made quick. Both read the
same file, from the page cache, in turns in one process.
"""

import struct
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

from bench import calls
from bench.table import Row, compare
from sipdump_core.cache import Cache
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.record import Record
from sipdump_pcap import HeaderTransform, PcapBackend
from sipdump_pcap import decode as pcap_decode
from sipdump_text import TextBackend

BATCH = 1000
ROUNDS = 5


def against_plain(folder: Path, quick: bool) -> list[Row]:
    """Measure the CPU time that a record takes to be read, of text, pcap and pcap with flag 8."""
    count = 14_000 if quick else 140_000
    header = [HeaderTransform(NoOptions())]
    kinds: list[tuple[str, FolderBackend, Callable[[BinaryIO], Iterator[Record]], float]] = [
        ("text", TextBackend(NoOptions(), Site("", "")), _text, 0.5),
        ("pcap", PcapBackend(NoOptions(), Site("", "")), _pcap, 1.0),
        ("pcap with flag 8", PcapBackend(NoOptions(), Site("", "", transforms=header)), _pcap, 1.0),
    ]
    rows = []
    for name, backend, plain, aim in kinds:
        path = folder / "decode"
        records = islice(calls.records(count // calls.MESSAGES), count)
        with path.open("wb") as file:
            file.write(backend.preamble())
            while batch := list(islice(records, BATCH)):
                file.write(backend.encode(batch))
        costs = [(_cost(path, backend.decode, count), _cost(path, plain, count)) for _ in range(ROUNDS)]
        ours, other = (min(column) for column in zip(*costs, strict=True))
        rows.append(compare(f"read a record of {name}, CPU", ours, other, aim, other_is="plainly, one by one"))
    return rows


def _cost(path: Path, read: Callable[[BinaryIO], Iterator[Record]], count: int) -> float:
    """Return the microseconds of CPU that a record takes."""
    with path.open("rb") as file:
        before = time.process_time()
        found = sum(1 for _ in read(file))
        spent = time.process_time() - before
    if found != count:
        raise RuntimeError(f"found {found} records, not {count}")
    return spent / count * 1e6


def _text(file: BinaryIO) -> Iterator[Record]:
    with patch("sipdump_text.decode._quick", lambda *_: iter(())):
        yield from TextBackend(NoOptions(), Site("", "")).decode(file)


def _pcap(file: BinaryIO) -> Iterator[Record]:
    file.seek(24)
    header = struct.Struct("=IIII")
    flows: Cache[bytes, object] = Cache()
    while raw := file.read(header.size):
        seconds, micros, length, _ = header.unpack(raw)
        record = pcap_decode._parse(seconds * 1_000_000 + micros, file.read(length), True, flows)  # type: ignore[arg-type]
        if record:
            yield record

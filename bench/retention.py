"""What thinning a segment costs: a Parquet file of calls of which a part goes, against writing it."""

import time
from itertools import islice
from pathlib import Path

import attrs

from bench import calls
from bench.table import Row, compare
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.rewriting import Change
from sipdump_core.lifecycle.thinning import thin
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.settings.keeping import parse_rule
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions

_BATCH = 1000
_PREFIX = "b-"
_START = 1_795_000_000
_RULES = {
    "method": ["method=REGISTER,OPTIONS age=1d", "age=9d"],
    "state": ["state=failed,refused age=9d", "age=1d"],
}


def cost(folder: Path, quick: bool) -> list[Row]:
    """Compare erasing, and thinning by rules, with writing the same segment, in CPU time."""
    count = 20_000 if quick else 1_000_000
    begin = time.process_time()
    for _ in islice(calls.records(count), count):
        pass
    made = _since(begin)
    begin = time.process_time()
    backend, stored = _store(folder / "erase", count)
    wrote = _since(begin) - made
    ids = sorted({record.call_id or "" for record in backend.read(stored)})
    begin = time.process_time()
    backend.rewrite(stored, Change(frozenset(ids[::3])))
    erased = _since(begin)
    rows = [_row(f"erase a third of {count:,} records", erased, wrote, count)]
    for what, rules in _RULES.items():
        backend, stored = _store(folder / what, count)
        begin = time.process_time()
        list(thin(backend, [parse_rule(rule) for rule in rules], now=stored.modified + 2 * 86_400))
        rows.append(_row(f"thin {count:,} records by {what}", _since(begin), wrote, count))
    return rows


def _store(folder: Path, count: int) -> tuple[ParquetBackend, StoredSegment]:
    """Write a segment of whole calls: journal, and Parquet file."""
    folder.mkdir()
    backend = ParquetBackend(ParquetOptions(), Site(str(folder), _PREFIX))
    backend.open(attrs.evolve(Segment.starting(_PREFIX, _START), suffix=backend.suffix))
    records = islice(calls.records(count), count)
    while batch := list(islice(records, _BATCH)):
        backend.write(Batch(batch))
    backend.close()
    list(backend.recover())
    (stored,) = backend.segments()
    return backend, stored


def _since(begin: float) -> float:
    return time.process_time() - begin


def _row(what: str, mine: float, other: float, count: int) -> Row:
    return compare(what, mine / count * 1e6, other / count * 1e6, 1.5, other_is="to write it", unit="µs a record")

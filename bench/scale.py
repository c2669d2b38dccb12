"""What collectors cost, computed from measured figures and list prices: ``python -m bench.scale`` prints the tables.

Every input is a field with its unit. docs/scale.md shows what this prints; a test compares them.
"""

import math
from collections.abc import Sequence

import attrs

SECONDS_A_DAY = 86400
PRUNES_A_DAY = SECONDS_A_DAY / 600
KEYS_A_PAGE = 1000


@attrs.frozen
class Inputs:
    """The inputs; the defaults are those of docs/scale.md."""

    rate: float = 1000.0
    """r: messages a second that one collector stores, on average over the day."""
    raw_bytes: float = 800.0
    """b: bytes a record while the segment is open (message and details)."""
    parquet_bytes: float = 60.0
    """p: bytes a record in Parquet."""
    receive_us: float = 5.3
    """CPU, microseconds a record: HEP received, decoded, queued, dispatched (docs/benchmarks.md)."""
    parquet_us: float = 10.1
    """CPU, microseconds a record: write-ahead file, fields, sorting, writing (docs/benchmarks.md)."""
    upload_us: float = 0.4
    """CPU, microseconds a record: hashed, sent, verified."""
    rotate: float = 3600.0
    """T: seconds a segment."""
    rotate_size: float = 1024.0**3
    """S: bytes at which a segment is sealed sooner (of the open segment); 0: no limit."""
    days: float = 90.0
    """d: retention."""
    requests_per_object: tuple[float, float] = (1.0, 2.0)
    """PUT and HEAD of a segment below part_bytes."""
    storage_usd: float = 0.023
    """List price, USD a GB and month (standard storage)."""
    put_usd: float = 0.005
    """List price, USD for 1,000 PUT, COPY, POST or LIST requests."""
    get_usd: float = 0.0004
    """List price, USD for 1,000 GET or HEAD requests."""


@attrs.frozen
class Cost:
    """The results, for a number of collectors."""

    collectors: int
    cores: float
    """CPU of all collectors, in cores."""
    objects_a_day: float
    object_mb: float
    stored_objects: float
    stored_tb: float
    requests_a_day: float
    """PUT, LIST and HEAD; deletions cost nothing."""
    usd_a_month: float
    storage_part: float
    """The share of the money that goes to storage, 0 to 1."""


def work_out(given: Inputs, collectors: int, *, prunes: bool = True) -> Cost:
    """Do the sums of docs/scale.md.

    Args:
        given: the inputs.
        collectors: n, how many of them there are.
        prunes: sipdump prunes (``fage``); else the bucket's own lifecycle rule does.
    """
    cores = collectors * given.rate * (given.receive_us + given.parquet_us + given.upload_us) / 1e6
    seconds = given.rotate
    if given.rotate_size:
        seconds = min(seconds, given.rotate_size / (given.rate * given.raw_bytes))
    objects = collectors * SECONDS_A_DAY / seconds
    object_bytes = given.rate * seconds * given.parquet_bytes
    stored = objects * given.days
    pages = math.ceil(stored / collectors / KEYS_A_PAGE)
    lists = collectors * PRUNES_A_DAY * pages if prunes else 0.0
    puts, heads = (objects * count for count in given.requests_per_object)
    storage = stored * object_bytes / 1e9 * given.storage_usd
    requests = 30 * ((puts + lists) / 1000 * given.put_usd + heads / 1000 * given.get_usd)
    return Cost(
        collectors,
        cores,
        objects,
        object_bytes / 1e6,
        stored,
        stored * object_bytes / 1e12,
        puts + heads + lists,
        storage + requests,
        storage / (storage + requests),
    )


def by_collectors(given: Inputs) -> list[str]:
    """Return the table of one, ten and a thousand collectors, in Markdown."""
    return _table("collectors", [(f"{count:,}", work_out(given, count)) for count in (1, 10, 1000)])


def by_rotation(given: Inputs, collectors: int) -> list[str]:
    """Return the table of increasingly large segments, in Markdown."""
    given = attrs.evolve(given, rotate_size=0)
    costs = [(f"{n} s", work_out(attrs.evolve(given, rotate=n), collectors)) for n in (60, 600, 3600)]
    return _table("rotate", [*costs, ("3600 s, the bucket prunes", work_out(given, collectors, prunes=False))])


def _table(first: str, costs: Sequence[tuple[str, Cost]]) -> list[str]:
    head = (
        first,
        "cores",
        "objects a day",
        "of MB",
        "objects kept",
        "TB kept",
        "requests a day",
        "USD a month",
        "storage",
    )
    return ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head), *(_line(name, cost) for name, cost in costs)]


def _line(first: str, cost: Cost) -> str:
    cells = (
        first,
        f"{cost.cores:.2f}" if cost.cores < 1 else f"{cost.cores:.1f}",
        f"{cost.objects_a_day:,.0f}",
        f"{cost.object_mb:,.0f}",
        f"{cost.stored_objects:,.0f}",
        f"{cost.stored_tb:,.2f}",
        f"{cost.requests_a_day:,.0f}",
        f"{cost.usd_a_month:,.0f}",
        f"{cost.storage_part:.0%}",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print("\n".join([*by_collectors(Inputs()), "", *by_rotation(Inputs(), 1000)]))

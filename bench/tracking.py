"""What it costs to work out what happened: records → calls, in one thread, calls dropped when they are idle."""

import gc
import time
from collections.abc import Callable
from pathlib import Path

from bench import calls
from bench.table import Row
from sipdump_core.calls.call import Call
from sipdump_core.calls.tracker import CallTracker

_IDLE_US = 200_000
"""In the traffic of bench/calls.py, messages of a call are 20 ms apart."""
_EVERY = 1000
"""Records between two looks for idle calls."""


def cost(_: Path, quick: bool) -> list[Row]:
    """Measure tracking alone, with each call's state, and with all of its fields."""
    records = list(calls.records(2_000 if quick else 30_000))
    gc.collect()
    gc.freeze()  # a reader does not hold the whole store in memory, so collecting it is no part of the cost

    def run(ask: Callable[[Call], object]) -> float:
        tracker, found = CallTracker(), 0
        begin = time.process_time()
        for number, record in enumerate(records):
            tracker.feed(record)
            if number % _EVERY == 0:
                for call in tracker.idle(record.time_us - _IDLE_US):
                    found += 1
                    ask(call)
        for call in tracker.calls.values():
            ask(call)
        taken = time.process_time() - begin
        assert found + len(tracker.calls) == len(records) // calls.MESSAGES
        return taken / len(records) * 1e6

    def row(what: str, ask: Callable[[Call], object], aim: float | None) -> Row:
        best = min(run(ask) for _ in range(3))
        met = None if aim is None else best <= aim
        aimed = "" if aim is None else f"at most {aim:g} µs"
        return Row(what, f"{best:.2f} µs a record", f"{1e6 / best:,.0f} records/s", "", aimed, met)

    rows = [
        row("calls: records sorted into calls", lambda _: None, 10),
        row("calls: the same, with each call's state", Call.state, None),
        row("calls: the same, with all fields of each call", Call.summary, None),
    ]
    gc.unfreeze()
    return rows

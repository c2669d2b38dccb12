"""Sorting more than fits into memory."""

import errno
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.errors import StorageError
from sipdump_core.reading.sorting import RecordSorter, Sorter
from sipdump_core.record import Flow, Record


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=4)), max_size=300), st.integers(1, 20_000))
def test_as_sorted_does_whatever_goes_to_disk(items: list[tuple[int, bytes]], run_bytes: int) -> None:
    with Sorter(run_bytes) as sorter:
        for key, value in items:
            sorter.add(key, value, len(value))
        assert list(sorter.sorted()) == sorted(items, key=lambda item: item[0])


def records(count: int) -> list[Record]:
    flows = [Flow("rcv", 1, 2, "udp", "ipv4", "192.0.2.1", 5060 + n, "192.0.2.2", 5060, "node") for n in range(5)]
    calls = [b"OPTIONS sip:a SIP/2.0\r\nCall-ID: call-%d\r\n\r\n" % n for n in range(7)] + [b"no Call-ID \0\xff"]
    chance = random.Random(7)
    return [
        Record(chance.randrange(1000), chance.choice(flows), chance.choice(calls), f"id-{n % 3}") for n in range(count)
    ]


def test_records_by_time_and_by_call() -> None:
    made = records(500)
    for run_bytes in (5_000, 10_000_000):
        with RecordSorter(by_call=False, run_bytes=run_bytes) as sorter:
            for record in made:
                sorter.add(record)
            assert list(sorter.sorted()) == sorted(made, key=lambda record: record.time_us)
        with RecordSorter(by_call=True, run_bytes=run_bytes) as sorter:
            for record in made:
                sorter.add(record)
            assert list(sorter.sorted()) == sorted(made, key=lambda record: (record.call_id or "", record.time_us))


def test_memory_is_bounded_whatever_is_sorted_and_however_many_flows_there_are() -> None:
    tracemalloc.start()
    try:
        with RecordSorter(by_call=False, run_bytes=1 << 20) as sorter:
            for n in range(30_000):
                flow = Flow("rcv", n, 0, "udp", "ipv4", "192.0.2.1", n % 65536, "192.0.2.2", 5060)
                sorter.add(Record(-n, flow, b"x" * 400))
            before = None
            for record in sorter.sorted():
                assert before is None or before <= record.time_us
                before = record.time_us
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with Sorter(run_bytes=1) as sorter, pytest.raises(StorageError, match=r"sort in .*: No space left on device"):
        sorter.add(1, "x", 1)

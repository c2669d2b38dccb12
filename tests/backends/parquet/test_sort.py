"""The external sort: the same rows in the same order, however little memory there is."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_parquet import sort
from sipdump_parquet.sort import Sorter
from tests.support import examples

SCHEMA = pa.schema(
    [("call_id", pa.string()), ("time", pa.timestamp("us", "UTC")), ("seq", pa.int64()), ("buf", pa.binary())]
)
KEYS = ("call_id", "time", "seq")


def table(rows: list[tuple[Any, ...]]) -> Any:
    return pa.table(
        [pa.array(column, type_) for column, type_ in zip(zip(*rows, strict=True), SCHEMA.types, strict=True)],
        schema=SCHEMA,
    )


def run(rows: list[tuple[Any, ...]], memory: int, step: int, folder: Path) -> list[tuple[Any, ...]]:
    sorter = Sorter(KEYS, memory, str(folder))
    try:
        for at in range(0, len(rows), step):
            sorter.add(table(rows[at : at + step]))
        assert sorter.rows == len(rows)
        tables = list(sorter.sorted())
    finally:
        sorter.close()
    whole = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    times = whole["time"].cast(pa.int64())
    return list(
        zip(*(column.to_pylist() for column in (whole["call_id"], times, whole["seq"], whole["buf"])), strict=True)
    )


def expected(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=lambda row: (row[0] is None, (row[0] or "").encode(), row[1], row[2]))


CALL_IDS = st.one_of(st.none(), st.text("ab\0é☎\U0001f600", max_size=3))


@examples(60)
@given(
    drawn=st.lists(st.tuples(CALL_IDS, st.integers(-5, 5), st.binary(max_size=30)), max_size=60),
    memory=st.sampled_from([1, 200, 1000, 1 << 20]),
    step=st.integers(1, 20),
)
def test_rows_come_sorted(tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], memory: int, step: int) -> None:
    rows = [(call_id, time, seq, buf) for seq, (call_id, time, buf) in enumerate(drawn)]
    assert run(rows, memory, step, tmp_path_factory.getbasetemp()) == expected(rows)


def test_runs_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sort, "FAN_IN", 3)
    rows = [(f"c{n * 7919 % 101}", n % 13, n, b"m%d" % n) for n in range(2000)]
    before = len(os.listdir("/proc/self/fd"))
    assert run(rows, 1, 10, tmp_path) == expected(rows)  # a run each ten rows: 200, in five levels
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list(tmp_path.iterdir()), "temporary files have no names"


def test_open_files_do_not_grow_with_the_number_of_runs(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sorter = Sorter(KEYS, 1, str(tmp_path))
    for seq in range(2 * sort.FAN_IN + 3):
        sorter.add(table([("x", 0, seq, b"")]))
        assert len(os.listdir("/proc/self/fd")) <= before + sort.FAN_IN + 2
    sorter.close()
    assert len(os.listdir("/proc/self/fd")) == before

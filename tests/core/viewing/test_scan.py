"""Scanning from the newest call back."""

from pathlib import Path

import pytest

from sipdump_core.drivers.query import Query
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from sipdump_core.viewing.listing import Row, joined
from sipdump_core.viewing.live import Live
from sipdump_core.viewing.scan import Piece, Scan
from tests.core.reading.traffic import at, call, register, store

CALLS = [
    call(f"{number:02}@a", at(f"10:{number:02}:00"), caller="carol" if number % 7 == 0 else "alice")
    for number in range(60)
]
LONG = call("long@a", at("10:00:01"), seconds=3000, status=200, caller="dave")
REG = register("reg@a", at("10:30:00"))


@pytest.fixture(scope="module", params=["parquet", "text"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return store(tmp_path_factory.mktemp("store"), *CALLS, LONG, REG, backends=[request.param], minutes=20)


def scan(folder: Path, query: Query | None = None, around: float = 600) -> tuple[list[Piece], dict[str, Row]]:
    query = query or Query()
    live = Live(Store.open(folders=folder))
    live.look()
    pieces = list(Scan(Store.open(folders=folder), query, live.feed, around=around).pieces())
    rows: dict[str, Row] = {}
    for piece in pieces:
        rows |= {row.call_id: row for row in piece.rows}
        for call_id in piece.gone:
            rows.pop(call_id, None)
    return pieces, rows


def test_the_newest_calls_come_first_and_all_of_them_come(folder: Path) -> None:
    pieces, rows = scan(folder)
    order = list(dict.fromkeys(row.call_id for piece in pieces for row in piece.rows))
    assert order[0] == "59@a"
    assert "01@a" in order[-20:]
    assert len(rows) == 62
    backs = [piece.back_us for piece in pieces]
    assert backs == sorted(backs, reverse=True)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"from_users": ["carol"]},
        {"call_ids": ["07@a", "nosuch"]},
        {"states": ["registered"]},
        {"statuses": ["200"], "methods": ["REGISTER"]},
        {"greps": ["z9hG4bK109@a"]},
        {"since_us": at("10:10:00"), "until_us": at("10:20:00")},
        {"users": ["dave"], "until_us": at("10:49:00")},
        {"since_us": at("12:00:00")},
        {"until_us": at("09:00:00")},
    ],
    ids=str,
)
def test_it_finds_what_find_finds(folder: Path, query: dict[str, object]) -> None:
    asked = Query(**query)  # type: ignore[arg-type]
    _, rows = scan(folder, asked)
    there = Store.open(folders=folder)
    found = {one.summary.call_id: one.summary for one in there.find(asked, legs=False)}
    assert rows.keys() == found.keys()
    for call_id, row in rows.items():
        if "since_us" not in query and "until_us" not in query:
            assert row.summary == found[call_id]


def test_an_interrupted_scan_ends(folder: Path) -> None:
    live = Live(Store.open(folders=folder))
    there = Store.open(folders=folder)
    count = 0
    for _ in Scan(there, Query(), live.feed, around=600).pieces():
        count += 1
        there.interrupt()
    assert count == 1


def test_a_store_without_anything(tmp_path: Path) -> None:
    assert scan(tmp_path) == ([], {})


def test_parts_of_a_call_that_were_read_apart_make_one_row() -> None:
    def rows(*parts: list[Record]) -> list[Row]:
        return [Live(Store([])).feed(part)[0][0] for part in parts]

    whole, head, tail = rows(LONG, LONG[:4], LONG[4:])
    for one in (joined(head, tail), joined(tail, head)):
        assert one.summary.state == "ended"
        assert one.summary.duration == whole.summary.duration
        assert (one.summary.began, one.summary.ended) == (whole.summary.began, whole.summary.ended)
        assert (one.summary.messages, one.summary.gaps, one.agent) == (6, [], whole.agent)
        assert (one.oldest_us, one.newest_us) == (whole.oldest_us, whole.newest_us)
    assert joined(head, whole) is whole

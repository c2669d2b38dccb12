"""Calls newest first: the same as find has them, each once and whole, however the scan is cut."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bench.calls as traffic
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.query import Query
from sipdump_core.reading.shelves import open_shelves
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from sipdump_core.viewing import recent, scan
from sipdump_core.viewing.listing import Row
from sipdump_core.viewing.recent import Recent
from tests.core.reading.stores import PREFIX, fill, workshop
from tests.core.reading.traffic import at, call, register, store


def found(folder: Path, query: Query | None = None, limit: int = 1000) -> list[Row]:
    return [
        row for step in Recent(Store.open(folders=folder), query or Query(), limit=limit).steps() for row in step.rows
    ]


def day() -> list[list[Record]]:
    """Return calls over a day, some long, some at the same time, some of them of one Call-ID over hours."""
    draw = random.Random(7)
    calls = []
    for number in range(60):
        began = at("08:00:00") + draw.randrange(8 * 3600) * 1_000_000
        calls.append(
            call(f"c{number}@a", began, status=draw.choice([200, 200, 486, 503]), seconds=draw.choice([5, 60, 500]),
                 caller=draw.choice(["alice", "carol", "dave"]))
        )  # fmt: skip
    same = at("12:00:00")
    return [*calls, *(call(f"same{number}@a", same) for number in range(5)), register("r@a", at("09:00:00"), 401, 200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("day"), *day())


@pytest.mark.parametrize(
    "query",
    [
        {}, {"from_users": "alice"}, {"states": "failed"}, {"statuses": "4xx"}, {"users": "alice", "states": "ended"},
        {"methods": "BYE"}, {"methods": "REGISTER"}, {"call_ids": "c3@a"}, {"greps": "486"}, {"users": "nobody"},
        {"since_us": at("12:00:00")}, {"until_us": at("12:00:00")},
        {"since_us": at("11:00:00"), "until_us": at("13:00:00"), "from_users": "carol"},
        {"since_us": at("11:00:00"), "until_us": at("11:20:00"), "states": "ended"},
        {"since_us": at("11:00:00"), "until_us": at("11:20:00")}, {"until_us": at("09:00:02"), "kinds": "register"},
        {"since_us": at("09:00:02"), "kinds": "register"}, {"until_us": at("11:20:00"), "statuses": "503"},
        {"since_us": at("11:00:00"), "until_us": at("11:20:00"), "kinds": "attempt"},
    ],
)  # fmt: skip
def test_the_calls_are_those_of_find_the_newest_first(folder: Path, query: dict[str, Any]) -> None:
    wanted = sorted(
        (one.summary for one in Store.open(folders=folder).find(Query(**query), legs=False)),
        key=lambda summary: (-summary.began, summary.call_id),
    )
    assert [row.summary for row in found(folder, Query(**query))] == wanted


@pytest.mark.parametrize("limit", [1, 7, 66])
def test_a_limit_takes_the_newest(folder: Path, limit: int) -> None:
    assert found(folder, limit=limit) == found(folder)[:limit]


def test_it_says_whether_there_are_more(folder: Path) -> None:
    for limit, more in ((10, True), (1000, False)):
        scan = Recent(Store.open(folders=folder), Query(), limit=limit)
        for _ in scan.steps():
            pass
        assert scan.more is more


def test_the_first_calls_come_before_everything_is_read(folder: Path) -> None:
    scan = Recent(Store.open(folders=folder), Query(), limit=1000)
    steps = scan.steps()
    rows: list[Row] = []
    while not rows:
        rows += next(steps).rows
    assert len(rows) < 60
    assert rows == found(folder)[: len(rows)]


@pytest.mark.parametrize("query", [{}, {"methods": "BYE"}, {"from_users": "alice"}, {"states": "ended"}])
def test_a_long_call_is_whole_and_in_its_place(tmp_path: Path, query: dict[str, Any]) -> None:
    store(tmp_path, call("long@a", at("10:00:00"), seconds=3 * 3600), call("late@a", at("12:59:00")), minutes=30)
    rows = found(tmp_path, Query(**query))
    assert [(row.call_id, row.summary.state, row.summary.messages) for row in rows] == [
        ("late@a", "ended", 6), ("long@a", "ended", 6),
    ]  # fmt: skip


def test_an_interrupted_search_has_what_it_found(folder: Path) -> None:
    opened = Store.open(folders=folder)
    rows: list[Row] = []
    for step in Recent(opened, Query(), limit=1000).steps():
        rows += step.rows
        if rows:
            opened.interrupted = True
    assert 0 < len(rows) < 66
    assert [row.call_id for row in rows] == [row.call_id for row in found(folder)][: len(rows)]


def test_calls_that_never_began_are_not_held_without_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "_HELD", 20_000)
    scan = Recent(Store.open(folders=folder), Query(), limit=1000)
    count = sum(len(step.rows) for step in scan.steps())
    assert count == 66
    assert "these are many calls that go on: some may be shown without their beginning" in scan.searched.notes


def test_calls_are_whole_where_there_are_many_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (recent, "_HELD"), (recent, "_QUIET_US"), (recent, "_AIM"), (scan, "_FIRST_US"), (traffic, "OPEN"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name) // 10)  # a tenth of all, to be fast
    store(tmp_path, list(traffic.records(600)))
    search = Recent(Store.open(folders=tmp_path), Query(), limit=500)
    assert {row.summary.messages for step in search.steps() for row in step.rows} == {traffic.MESSAGES}
    assert search.searched.notes == []


def test_an_empty_store_has_none(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize("query", [{}, {"from_users": "alice"}, {"states": "ended"}])
@pytest.mark.parametrize("day", [10, 15, 22])
def test_times_that_are_far_from_those_of_the_segment_are_found(
    tmp_path: Path, query: dict[str, Any], day: int
) -> None:
    backend = workshop(tmp_path).backend("text", Site(str(tmp_path), PREFIX))
    fill(backend, call("one@a", at("10:00:00", day)), at("10:00:00", 15) / 1e6)
    (path,) = tmp_path.iterdir()
    os.utime(path, (at("11:00:00", 15) / 1e6, at("11:00:00", 15) / 1e6))
    assert [row.call_id for row in found(tmp_path, Query(**query))] == ["one@a"]


def test_a_registration_that_is_renewed_is_one_row_in_its_place(tmp_path: Path) -> None:
    renewed = [each for number in range(5) for each in register("reg@a", at("10:00:00") + number * 300_000_000, 200)]
    store(tmp_path, renewed, call("old@a", at("09:59:00")), call("new@a", at("10:10:01")))
    rows = found(tmp_path)
    assert [(row.call_id, row.summary.messages) for row in rows] == [("new@a", 6), ("reg@a", 10), ("old@a", 6)]


@pytest.mark.parametrize("query", [{}, {"kinds": "attempt"}, {"states": "ended"}])
def test_around_a_span_only_its_calls_are_read(folder: Path, query: dict[str, Any]) -> None:
    asked: list[Query] = []

    class Watched(Store):
        def unsorted(self, query: Query, *args: Any) -> Iterator[Record]:
            asked.append(query)
            return super().unsorted(query, *args)

    since, until = at("11:00:00"), at("11:20:00")
    wanted = found(folder, Query(since_us=since, until_us=until, **query))
    opened = Watched(open_shelves(folders=[str(folder)])[0])
    steps = Recent(opened, Query(since_us=since, until_us=until, **query), limit=1000).steps()
    assert [row for step in steps for row in step.rows] == wanted
    for one in asked:
        assert one.call_ids or (since <= (one.since_us or 0) and (one.until_us or 0) <= until)


@pytest.mark.parametrize("plain", [0, 30, 10_000])
@pytest.mark.parametrize("exact", [0, 10_000])
@pytest.mark.parametrize(
    "query", [{"from_users": "alice"}, {"methods": "BYE"}, {"statuses": "4xx"}, {"states": "failed"}]
)
def test_the_way_that_is_taken_makes_no_difference(
    folder: Path, query: dict[str, Any], plain: int, exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = found(folder, Query(**query))
    monkeypatch.setattr(recent, "_PLAIN", plain)
    monkeypatch.setattr(recent, "_SAMPLE", plain)
    monkeypatch.setattr(recent, "_EXACT", exact)
    assert found(folder, Query(**query)) == wanted

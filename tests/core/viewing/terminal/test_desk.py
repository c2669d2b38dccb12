"""The reader, a process of its own, over a real store."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sipdump_core.drivers.batch import Batch
from sipdump_core.viewing.terminal.desk import Desk
from sipdump_core.viewing.terminal.wire import (
    Broken,
    Came,
    Found,
    Hold,
    Open,
    Opened,
    Options,
    Refused,
    Report,
    Save,
    Saved,
    Scanned,
    Seek,
)
from tests.core.reading.stores import fill, workshop
from tests.core.reading.traffic import PROXY, at, call, store

R = TypeVar("R", bound=Report)
MAIN = call("main@a", at("10:00:00"), headers="X-CID: leg@a\r\n")
LEG = call("leg@a", at("10:00:00"), src=PROXY, dst="198.51.100.9")
OTHER = call("other@a", at("10:30:00"), status=503, caller="carol")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("store"), MAIN, LEG, OTHER)


@contextmanager
def desk(folder: Path, *redact: dict[str, Any]) -> Iterator[Desk]:
    nothing: dict[str, Any] = {"configs": [], "defines": [], "fprefix": None, "files": [], "urls": []}
    found = Desk(Options(nothing | {"folders": [str(folder)]}, {}, redact))
    with closing(found):
        yield found


def wait(desk: Desk, kind: type[R], which: Callable[[R], bool] = lambda _: True) -> R:
    """Return the next report of a kind."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        report = desk.take()
        if isinstance(report, kind) and which(report):
            return report
        assert not isinstance(report, Broken), report.error
        if report is None:
            time.sleep(0.002)
    raise AssertionError(f"no {kind.__name__} came")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Desk]:
    with desk(folder) as found:
        yield found


def listed(desk: Desk, number: int, *words: tuple[str, str], limit: int = 0) -> tuple[list[str], Scanned]:
    desk.ask(Seek(number, words, limit))
    rows: dict[str, None] = {}
    while True:
        report = desk.take()
        if not isinstance(report, Found | Scanned) or report.number != number:
            assert not isinstance(report, Broken), report.error
            time.sleep(0.002)
            continue
        if isinstance(report, Scanned):
            return list(rows), report
        rows |= dict.fromkeys(row.call_id for row in report.rows)


def test_calls_are_found_the_newest_first(running: Desk) -> None:
    rows, ended = listed(running, 1)
    assert rows[0] == "other@a"
    assert set(rows) == {"other@a", "main@a", "leg@a"}
    assert (ended.why, ended.problems, ended.notes) == ("all", [], [])
    assert ended.segments == 1


def test_a_search_and_a_limit(running: Desk) -> None:
    assert listed(running, 2, ("state", "failed"))[0] == ["other@a"]
    rows, ended = listed(running, 3, limit=1)
    assert (rows[0], ended.why) == ("other@a", "limit")
    running.ask(Seek(4, [("since", "noon")], 0))
    assert "'noon' is not a time" in wait(running, Refused).error


def test_a_ladder_and_its_legs(running: Desk) -> None:
    running.ask(Open(5, ["main@a"], legs=False))
    opened = wait(running, Opened, lambda one: one.complete)
    assert opened.ladder is not None
    assert (len(opened.ladder.calls), opened.legs) == (1, 1)
    running.ask(Open(6, ["main@a"], legs=True))
    opened = wait(running, Opened, lambda one: one.complete and one.number == 6)
    assert opened.ladder is not None
    assert [summary.call_id for summary in opened.ladder.calls] == ["main@a", "leg@a"]
    running.ask(Open(7, ["nosuch@a"], legs=False))
    assert wait(running, Opened, lambda one: one.number == 7).ladder is None


@pytest.mark.parametrize("ending", ["pcap", "pcapng", "txt", "html", "data", "jsonl", "parquet"])
def test_a_file_is_written_and_none_is_replaced_unasked(running: Desk, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    wanted: dict[str, Any] = {"call_ids": ["main@a", "gone@a"], "path": str(path), "legs": False}
    running.ask(Save(8, replace=False, **wanted))
    saved = wait(running, Saved)
    assert (saved.path, saved.calls, saved.missing) == (str(path), 1, 1)
    before = path.read_bytes()
    assert b"main@a" in before or ending == "parquet"
    running.ask(Save(9, replace=False, **wanted))
    assert wait(running, Refused).exists
    path.write_bytes(b"mine")
    running.ask(Save(10, replace=True, **wanted | {"legs": True}))
    assert wait(running, Saved).calls == 2
    assert b"leg@a" in path.read_bytes() or ending == "parquet"
    assert len(path.read_bytes()) > len(b"mine")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_written_is_told(running: Desk, tmp_path: Path) -> None:
    running.ask(Save(11, ["main@a"], str(tmp_path / "no" / "x.pcap"), legs=False, replace=False))
    assert "No such file" in wait(running, Refused).error
    running.ask(Save(12, ["main@a"], str(tmp_path / "x.doc"), legs=False, replace=False))
    assert "say the format" in wait(running, Refused).error
    running.ask(Save(13, ["gone@a"], str(tmp_path / "x.pcap"), legs=False, replace=False))
    assert "not in the store any more" in wait(running, Refused).error
    assert list(tmp_path.iterdir()) == []


def test_a_text_file_has_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    evil = call("e@a", at("10:00:00"), headers="X: \x1b[2J\u202e\r\n")
    (tmp_path / "store").mkdir()
    with desk(store(tmp_path / "store", evil)) as found:
        found.ask(Save(1, ["e@a"], str(tmp_path / "x.txt"), legs=False, replace=False))
        wait(found, Saved)
    text = (tmp_path / "x.txt").read_text()
    assert "\\x1b[2J\\u202e" in text
    assert text.replace("\n", "").isprintable()


def test_what_comes_is_told_and_joins_what_was_stored(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    backend = shop.backend("text", shop.site())
    began = round(time.time() * 1e6)
    records = call("now@a", began)
    fill(backend, records[:1], began / 1e6, close=False)
    try:
        with desk(tmp_path) as found:
            rows, _ = listed(found, 1)
            assert rows == ["now@a"]
            backend.write(Batch(records[1:3]))
            backend.flush()
            came = wait(found, Came, lambda one: bool(one.rows))
            assert [(row.call_id, row.summary.state, row.summary.messages) for row in came.rows] == [
                ("now@a", "answered", 3)
            ]
            assert came.counts.messages == 2
            found.ask(Open(2, ["now@a"], legs=False))
            first = wait(found, Opened)
            assert not first.complete
            assert first.ladder is not None
            assert len(first.ladder.steps) == 3
            assert wait(found, Opened).complete
    finally:
        backend.close()
        backend.stop()


def test_a_scan_is_interrupted_or_gives_way_to_another(tmp_path: Path) -> None:
    many = [call(f"{number}@a", at("10:00:00") + number * 1_000_000) for number in range(800)]
    with desk(store(tmp_path, *many)) as found:
        found.ask(Seek(1, (), 0))
        wait(found, Found)
        found.ask(Hold())
        assert wait(found, Scanned).why in ("held", "all")
        found.ask(Seek(2, (), 0))
        found.ask(Seek(3, [("call-id", "5@a")], 0))
        assert [row.call_id for row in wait(found, Found, lambda one: one.number == 3 and bool(one.rows)).rows] == [
            "5@a"
        ]


def test_a_store_that_is_not_there() -> None:
    with desk(Path("/no/such/folder")) as found, pytest.raises(AssertionError, match="there is no such folder"):
        wait(found, Scanned)


def test_a_reader_that_is_killed_says_so(folder: Path) -> None:
    with desk(folder) as found:
        listed(found, 1)
        os.kill(found._process.pid, signal.SIGKILL)
        with pytest.raises(AssertionError, match="the reader has ended"):
            wait(found, Scanned)
        found.ask(Seek(2, (), 0))


def test_it_ends_with_the_terminal(folder: Path) -> None:
    with desk(folder) as found:
        process = found._process
        listed(found, 1)
    assert process.poll() == 0


def test_a_jsonl_file_is_what_export_writes(running: Desk, tmp_path: Path) -> None:
    running.ask(Save(14, ["other@a"], str(tmp_path / "x.jsonl"), legs=False, replace=False))
    wait(running, Saved)
    assert [json.loads(line)["call_id"] for line in (tmp_path / "x.jsonl").read_text().splitlines()] == ["other@a"] * 4


def test_what_is_to_be_redacted_is_seen_nowhere_and_yet_found(folder: Path, tmp_path: Path) -> None:
    with desk(folder, {"users": ("", "")}) as found:
        found.ask(Seek(1, [("from", "carol")], 0))
        row = wait(found, Found, lambda one: bool(one.rows)).rows[0]
        assert row.call_id == "other@a"
        assert row.summary.from_user not in (None, "carol")
        found.ask(Open(2, ["other@a"], legs=True))
        for _ in range(2):
            opened = wait(found, Opened)
            assert opened.ladder is not None
            assert not any(b"carol" in step.arrow.message.buf for step in opened.ladder.steps)
            assert opened.ladder.calls[0].from_user == row.summary.from_user
            if opened.complete:
                break
        for ending in ("jsonl", "html", "txt", "pcap"):
            found.ask(Save(3, ["other@a"], str(tmp_path / f"x.{ending}"), legs=False, replace=False))
            wait(found, Saved)
            assert b"carol" not in (tmp_path / f"x.{ending}").read_bytes()

"""Holds: what they keep survives retention, and nothing else does."""

import os
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.rewriting import Change
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.lifecycle import holds
from sipdump_core.lifecycle.holds import Hold
from sipdump_core.lifecycle.retention import prune
from tests.core.lifecycle.rewrites import KINDS, START, calls, ids, make, store
from tests.core.reading.traffic import at, call

DAY = 86_400
HELD = [
    Hold("case", call_ids=["two"]),
    Hold("case", users=["+4930123"]),
    Hold("case", since_us=at("11:59:00"), until_us=at("12:00:10")),
]


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """``two`` is in both segments; the second one is of another hour."""
    made = make(tmp_path, request.param)
    two = call("two", at("12:00:00"), caller="+4930123", headers="")
    store(made, [*calls("one"), *two[:3]])
    store(made, [*two[3:], *call("three", at("12:30:00"), caller="carol")], START + 7200)
    return made


@pytest.mark.parametrize("hold", HELD, ids=["call", "user", "span"])
def test_what_is_due_goes_but_for_what_is_held(backend: Backend, tmp_path: Path, hold: Hold) -> None:
    before = [record for stored in backend.segments() for record in backend.read(stored) if record.call_id == "two"]
    holds.add(str(tmp_path), hold)
    now = at("12:00:00") / 1_000_000 + 3 * DAY
    dry = list(prune([backend], DAY, now=now, dry_run=True))
    assert [(one.holds, one.is_whole) for one in dry] == [(["case"], False)] * 2
    assert all(one.why.startswith("fage 1d: written ") for one in dry)
    done = list(prune([backend], DAY, now=now))
    assert [one.removed for one in done] == [len(call())] * 2
    left = [record for stored in backend.segments() for record in backend.read(stored)]
    assert left == before
    assert list(prune([backend], DAY, now=now)) == []  # there is nothing more to do
    holds.release(str(tmp_path), "case")
    assert [one.is_whole for one in prune([backend], DAY, now=now)] == [True, True]
    assert list(backend.segments()) == []


@pytest.mark.parametrize("hold", HELD, ids=["call", "user", "span"])
def test_a_hold_survives_compaction(tmp_path: Path, hold: Hold) -> None:
    """Parquet: before the merge and after it, the same messages are held."""
    backend: Any = make(tmp_path, "parquet")
    two = call("two", at("12:00:00"), caller="+4930123")
    store(backend, [*calls("one"), *two[:3]])
    store(backend, [*two[3:], *call("three", at("12:30:00"), caller="carol")], START + 600)
    holds.add(str(tmp_path), hold)
    (merged,) = backend.compact(min_age=0)
    assert (len(merged.sources), merged.error) == (2, None)
    assert sorted(set(ids(backend))) == ["one", "three", "two"]
    now = at("12:00:00") / 1_000_000 + 3 * DAY
    assert [one.is_whole for one in prune([backend], DAY, now=now)] == [False]
    assert ids(backend) == ["two"] * len(two)
    assert list(backend.compact(min_age=0)) == []
    assert ids(backend) == ["two"] * len(two)


def test_what_is_not_due_is_not_touched(backend: Backend, tmp_path: Path) -> None:
    holds.add(str(tmp_path), HELD[0])
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert list(prune([backend], DAY, now=at("12:31:00") / 1_000_000)) == []
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before


def test_a_segment_without_anything_held_goes_as_a_whole(backend: Backend, tmp_path: Path) -> None:
    holds.add(str(tmp_path), Hold("case", call_ids=["three"]))
    done = list(prune([backend], DAY, now=START + 3 * DAY))
    assert sorted(one.is_whole for one in done) == [False, True]
    assert set(ids(backend)) == {"three"}


def test_a_backend_that_cannot_rewrite_keeps_the_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(tmp_path, "text")
    store(backend, calls("one", "two"))
    holds.add(str(tmp_path), HELD[0])
    monkeypatch.setattr(type(backend), "rewrite", None)
    assert list(prune([backend], DAY, now=START + 3 * DAY)) == []
    assert set(ids(backend)) == {"one", "two"}


def test_nothing_is_deleted_if_the_holds_cannot_be_read(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / holds.FILE).write_text("no JSON")
    with pytest.raises(ConfigError, match=r"holds cannot be read"):
        list(prune([backend], DAY, now=START + 3 * DAY))
    assert len(list(backend.segments())) == 2


def test_nothing_is_deleted_if_what_is_held_cannot_be_found_out(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds.add(str(tmp_path), HELD[1])

    def fail(*_: object) -> None:
        raise StorageError("search", "x", "broken")

    monkeypatch.setattr(holds, "matching", fail)
    holds._FOUND.clear()
    with pytest.raises(StorageError, match="broken"):
        list(prune([backend], DAY, now=START + 3 * DAY))
    assert len(list(backend.segments())) == 2


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 101, "a\nb"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name has letters"):
        holds.add(str(tmp_path), Hold(name, call_ids=["x"]))


def test_no_two_holds_have_one_name_and_only_one_that_is_there_is_released(tmp_path: Path) -> None:
    holds.add(str(tmp_path), Hold("a", call_ids=["x"]))
    with pytest.raises(ConfigError, match="there is a hold of this name"):
        holds.add(str(tmp_path), Hold("a", call_ids=["y"]))
    with pytest.raises(ConfigError, match="no hold of this name; there are: a"):
        holds.release(str(tmp_path), "b")
    assert [hold.call_ids for hold in holds.listed_holds(str(tmp_path))] == [("x",)]
    assert os.stat(tmp_path / holds.FILE).st_mode & 0o007 == 0


def test_a_change_may_keep_messages_without_a_call_id(tmp_path: Path) -> None:
    backend = make(tmp_path, "text")
    first, *rest = calls("one")
    bare = type(first)(first.time_us, first.flow, b"OPTIONS sip:+4930123@a SIP/2.0\r\nl: 0\r\n\r\n", "")
    stored = store(backend, [first, bare, *rest])
    held = holds.Held([HELD[1]], backend)
    assert held.of(stored) == ["case"]
    backend.rewrite(stored, held.change())  # type: ignore[attr-defined]
    assert [record.buf for after in backend.segments() for record in backend.read(after)] == [bare.buf]
    assert Change(set(), others=True).apply(bare) is None

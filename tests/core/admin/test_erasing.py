"""``sipdump-admin erase`` and ``hold``."""

import base64
import json
import os
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers import discovery
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.lifecycle import audit
from sipdump_core.pipeline.dead_letter import DeadLetter, DeadLetters
from sipdump_core.segment import Segment
from tests.core.admin.run import run
from tests.core.lifecycle.rewrites import KINDS, START, calls, ids, jsonl, make, store
from tests.core.reading.stores import PREFIX
from tests.core.reading.traffic import call

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = discovery.Driver("jsonl", "sipdump-jsonl", "1", jsonl().JsonlBackend)
    known = discovery.take_stock().drivers
    monkeypatch.setattr("sipdump_core.plan.take_stock", lambda *_: discovery.Stock([*known, driver]))


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Backend]:
    """Two segments of each kind; ``two`` is in both."""
    two = call("two", caller="+4930123")
    made = {kind: make(tmp_path, kind) for kind in KINDS}
    for backend in made.values():
        store(backend, [*calls("one"), *two[:3]])
        store(backend, [*two[3:], *call("three", caller="carol")], START + 7200)
    return made


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / audit.NAME).read_text().splitlines()]


def test_a_user_is_erased_from_all_segments_of_all_backends(
    stores: dict[str, Backend], tmp_path: Path, capsys: Capture
) -> None:
    code, out, err = run(capsys, "erase", "--folder", tmp_path, "--user", "+4930123", "--reason", "ticket 12")
    assert code == 0, err
    for kind, backend in stores.items():
        assert set(ids(backend)) == {"one", "three"}, kind
    assert "1 calls erased" in out
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert [name for name, data in held.items() if b"4930123" in data] == []
    (line,) = lines(tmp_path)
    assert (line["what"], line["calls"], line["segments"], line["reason"]) == ("erase", 1, 8, "ticket 12")
    assert line["complete"] is True
    ((_, salt, _),) = [str(each).split(":") for each in line["users"]]  # type: ignore[attr-defined]
    assert audit.sealed_name("+4930123", base64.b64decode(salt)) in line["users"]  # type: ignore[operator]
    code, out, err = run(capsys, "erase", "--folder", tmp_path, "--user", "+4930123")
    assert code == 0, err
    assert "0 calls erased: 0 messages in 0 segments" in out


@pytest.mark.parametrize("spelled", ["4930123", "+4930123@example.com", "4930123@example.com"])
def test_a_number_is_found_with_and_without_its_plus(
    spelled: str, stores: dict[str, Backend], tmp_path: Path, capsys: Capture
) -> None:
    assert run(capsys, "hold", "add", "case", "--folder", tmp_path, "--user", spelled)[0] == 0
    code, out, err = run(capsys, "erase", "--folder", tmp_path, "--user", spelled, "--dry-run")
    assert code == 1
    assert "1 calls are held by case" in err
    assert run(capsys, "hold", "release", "case", "--folder", tmp_path)[0] == 0
    code, out, err = run(capsys, "erase", "--folder", tmp_path, "--user", spelled)
    assert code == 0, err
    assert "1 calls erased" in out
    for kind, backend in stores.items():
        assert set(ids(backend)) == {"one", "three"}, kind


def test_a_call_that_nobody_has_is_none(stores: dict[str, Backend], tmp_path: Path, capsys: Capture) -> None:
    assert stores
    code, out, err = run(capsys, "erase", "--folder", tmp_path, "--call-id", "four")
    assert code == 0, err
    assert "0 calls erased: 0 messages in 0 segments" in out
    assert lines(tmp_path)[0]["calls"] == 0


def test_a_dry_run_says_what_would_be_done(stores: dict[str, Backend], tmp_path: Path, capsys: Capture) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, _ = run(capsys, "erase", "--folder", tmp_path, "--call-id", "two", "--dry-run", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["calls"], found["segments"], found["messages"]) == (1, 8, 4 * len(call()))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_calls_are_masked(stores: dict[str, Backend], tmp_path: Path, capsys: Capture) -> None:
    code, _, err = run(capsys, "erase", "--folder", tmp_path, "--user", "+4930123", "--mask")
    assert code == 0, err
    for backend in stores.values():
        assert set(ids(backend)) == {"one", "two", "three"}
    assert [path.name for path in tmp_path.iterdir() if b"4930123" in path.read_bytes()] == []


def test_a_span_counts_for_a_message_and_the_call_goes_as_a_whole(
    stores: dict[str, Backend], tmp_path: Path, capsys: Capture
) -> None:
    span = ("--since", "2026-11-22T10:32:00Z", "--until", "2026-11-22T10:32:01Z")
    code, _, err = run(capsys, "erase", "--folder", tmp_path, "--user", "bob", *span)
    assert code == 0, err
    assert [ids(backend) for backend in stores.values()] == [[]] * 4


def test_dead_letters_are_rewritten(tmp_path: Path, capsys: Capture) -> None:
    site = make(tmp_path, "text").site
    letter = DeadLetter(site, "sql", 1 << 20)
    records = calls("one", "two")
    letter.put(Segment.starting(PREFIX, START), Batch(records), "too large")
    letter.close()
    code, _, err = run(capsys, "erase", "--folder", tmp_path, "--call-id", "two")
    assert code == 0, err
    letters = DeadLetters(site)
    assert set(ids(letters)) == {"one"}
    again = DeadLetter(site, "sql", 1 << 20, recall=True)
    again._known = None
    assert {index for _, index in again._kept()} == {n for n, one in enumerate(records) if one.call_id == "one"}


def test_what_is_held_stays_and_is_said(stores: dict[str, Backend], tmp_path: Path, capsys: Capture) -> None:
    code, _, err = run(capsys, "hold", "add", "case-7", "--folder", tmp_path, "--user", "+4930123", "--reason", "court")
    assert code == 0, err
    code, _, err = run(capsys, "erase", "--folder", tmp_path, "--user", "bob")
    assert code == 1
    assert "1 calls are held by case-7" in err
    for backend in stores.values():
        assert set(ids(backend)) == {"two"}
    code, out, _ = run(capsys, "hold", "list", "--folder", tmp_path, "--json")
    (row,) = json.loads(out)
    assert (row["name"], row["users"], row["reason"]) == ("case-7", ["+4930123", "4930123"], "court")
    assert run(capsys, "hold", "release", "case-7", "--folder", tmp_path)[0] == 0
    assert [line["what"] for line in lines(tmp_path)] == ["hold add", "erase", "hold release"]
    code, _, err = run(capsys, "erase", "--folder", tmp_path, "--user", "bob")
    assert code == 0, err
    assert [ids(backend) for backend in stores.values()] == [[]] * 4


def test_a_damaged_hold_file_stops_everything(stores: dict[str, Backend], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "sipdump-holds.json").write_text("{")
    code, _, err = run(capsys, "erase", "--folder", tmp_path, "--user", "bob")
    assert code == 1
    assert "the holds cannot be read" in err
    assert all(ids(backend) for backend in stores.values())


def test_open_segments_and_damaged_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    backend = make(tmp_path, "text")
    backend.open(attrs.evolve(Segment.starting(PREFIX, START), suffix=".data"))
    backend.write(Batch(call("two")))
    aside = tmp_path / f"{PREFIX}2026-11-22--10-00-00.parquet.wal.damaged"
    aside.write_bytes(b"junk Call-ID: two\r\n junk")
    try:
        code, _, err = run(capsys, "erase", "--folder", tmp_path, "--call-id", "two")
    finally:
        backend.close()
    assert code == 1
    assert "it is not sealed: open" in err
    assert str(aside) in err
    (line,) = lines(tmp_path)
    assert line["complete"] is False


def test_what_a_crash_has_left_is_sealed_first(tmp_path: Path, capsys: Capture) -> None:
    backend = make(tmp_path, "parquet")
    backend.open(attrs.evolve(Segment.starting(PREFIX, START), suffix=".parquet"))
    backend.write(Batch(calls("one", "two")))
    backend.close()
    assert list(tmp_path.glob("*.wal"))
    code, _, err = run(capsys, "erase", "--folder", tmp_path, "--call-id", "two")
    assert code == 0, err
    assert set(ids(backend)) == {"one"}


@pytest.mark.parametrize("args", [[], ["--user", "a", "--call-id", "b"]])
def test_it_is_to_be_said_whose_calls(args: list[str], tmp_path: Path, capsys: Capture) -> None:
    code, _, err = run(capsys, "erase", "--folder", tmp_path, *args)
    assert code == 1
    assert "--user NUMBER or --call-id ID" in err


def test_a_segment_that_cannot_be_written_is_named(
    stores: dict[str, Backend], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def refuse(source: str, target: str) -> None:
        if target.endswith(".pcap"):
            raise PermissionError(13, "Permission denied", target)
        real(source, target)

    monkeypatch.setattr("sipdump_core.drivers.rewriting.os.replace", refuse)
    code, out, err = run(capsys, "erase", "--folder", tmp_path, "--call-id", "two", "--json")
    assert code == 1
    assert ".pcap: Permission denied" in err
    assert {one["backend"] for one in json.loads(out)["failed"]} == {"pcap"}
    assert [set(ids(stores[kind])) for kind in ("text", "parquet", "jsonl")] == [{"one", "three"}] * 3
    assert set(ids(stores["pcap"])) == {"one", "two", "three"}


def test_prune_by_rules_explains_each_decision(stores: dict[str, Backend], tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "s.cfg"
    config.write_text(
        f'modparam("sipdump", "folder", "{tmp_path}")\nmodparam("sipdump", "mode", 1)\n'
        'modparam("sipdump", "keep", "state=failed age=9000d")\nmodparam("sipdump", "keep", "age=1")\n'
    )
    assert run(capsys, "hold", "add", "case-7", "-f", config, "--call-id", "two")[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("kamailio")}
    code, out, err = run(capsys, "prune", "-f", config, "--dry-run")
    assert code == 0, err
    assert "1 calls (1 calls by 'age=1'; calls that are due are held by case-7)" in out
    code, out, _ = run(capsys, "prune", "-f", config, "--dry-run", "--json")
    decisions = {row["backend"]: row["decisions"] for row in json.loads(out)["backends"]}
    assert [len(decisions[kind]) for kind in KINDS] == [2] * 4
    assert decisions["text"][0]["holds"] == ["case-7"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("kamailio")} == before
    code, out, err = run(capsys, "prune", "-f", config)
    assert code == 0, err
    for backend in stores.values():
        assert set(ids(backend)) == {"two"}
    code, out, _ = run(capsys, "prune", "-f", config, "--fage", "1d", "--dry-run")
    assert "(fage 1d: written " in out or "held by case-7" in out


@pytest.mark.parametrize(
    ("rule", "error"), [("age=3x", "age=3x"), ("state=x age=1d", "'x' is no state"), ("backend=nope age=1d", "no such")]
)
def test_a_wrong_rule_is_named_with_its_place(rule: str, error: str, tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "s.cfg"
    config.write_text(f'modparam("sipdump", "keep", "{rule}")\n')
    code, _, err = run(capsys, "prune", "-f", config)
    assert code == 1
    assert f"{config}:1" in err
    assert error in err


def test_prune_explains_and_applies_caps(stores: dict[str, Backend], tmp_path: Path, capsys: Capture) -> None:
    sealed = {kind: list(stores[kind].segments()) for kind in KINDS}
    first = {min(each, key=lambda one: one.segment).location for each in sealed.values()}
    total = sum(path.stat().st_size for path in tmp_path.iterdir() if path.name.startswith(PREFIX))
    due = sum(one.size for each in sealed.values() for one in each if one.location in first)
    config = tmp_path / "s.cfg"
    config.write_text(
        f'modparam("sipdump", "folder", "{tmp_path}")\nmodparam("sipdump", "fprefix", "{PREFIX}")\n'
        f'modparam("sipdump", "mode", 1)\nmodparam("sipdump", "max_bytes", "{total - due}")\n'
    )
    code, out, err = run(capsys, "prune", "-f", config, "--dry-run")
    assert code == 0, err
    assert out.count(f"(max_bytes: {total} bytes are used, {due} too many)") == len(KINDS)
    code, out, _ = run(capsys, "prune", "-f", config, "--dry-run", "--json")
    decisions = [one for row in json.loads(out)["backends"] for one in row["decisions"]]
    assert {one["location"] for one in decisions} == first
    code, out, err = run(capsys, "prune", "-f", config)
    assert code == 0, err
    assert {one.location for kind in KINDS for one in stores[kind].segments()} == {
        one.location for each in sealed.values() for one in each
    } - first
    code, out, err = run(capsys, "prune", "-f", config, "--json")
    assert [row["segments"] for row in json.loads(out)["backends"] if row["segments"]] == []

"""``sipdump-read find``: what it prints, and what it says where it finds nothing."""

import csv
import io
import json
import re
import sys
import time
from pathlib import Path

import pytest

from tests.core.reading.run import found, run
from tests.core.reading.traffic import at, call, record, register, store

SHORT, LONG = "short@a", "long-" + "x" * 40 + "@proxy.example.com"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(
        tmp_path_factory.mktemp("store"),
        call(SHORT, at("10:00:10"), seconds=75),
        call(LONG, at("10:10:00"), status=486, caller="someone-with-a-long-name", callee="+4930123456789"),
        register("reg@a", at("10:50:00")),
        call("unanswered@a", at("10:40:00"))[:2],
    )


@pytest.mark.usefixtures("utc")
def test_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "find", "--folder", folder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [re.split(r" {2,}", line) for line in lines] == [
        ["began (UTC)", "from", "to", "state", "status", "duration", "msgs", "Call-ID"],
        ["2026-11-22 10:00:10.000", "alice", "bob", "ended", "200", "75.0 s", "6", SHORT],
        ["2026-11-22 10:10:00.000", "someone-with-a-long-name", "+4930123456789", "refused", "486", "-", "4", LONG],
        ["2026-11-22 10:40:00.000", "alice", "bob", "timed-out", "-", "-", "2", "unanswered@a"],
        ["2026-11-22 10:50:01.000", "alice", "alice", "register registered", "200", "-", "4", "reg@a"],
    ]
    assert {line.rindex("  ") for line in lines} == {lines[0].rindex("  ")}


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_the_table_fits_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = run(capsys, "find", "--folder", folder, "--to", "alice", "--call-id", "reg@a")
    assert all(len(line) <= columns for line in out.splitlines())
    _, out, _ = run(capsys, "find", "--folder", folder)
    head, *lines = out.splitlines()
    starts = [line.index(call_id) for line, call_id in zip(lines, (SHORT, LONG, "unan", "reg@"), strict=True)]
    assert set(starts) == {head.index("Call-ID")}  # in one column, and not cut
    assert lines[1].endswith(LONG)
    assert starts[0] <= columns - 8
    assert "someone…" in out if columns == 80 else "reg@a" in out


def test_json_is_one_array(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "find", "--folder", folder, "--json")
    calls = json.loads(out)
    assert code == 0
    assert [one["call_id"] for one in calls] == [SHORT, LONG, "unanswered@a", "reg@a"]
    assert calls[0] == {
        "call_id": SHORT, "kind": "call", "began": "2026-11-22T10:00:10.000000Z",
        "ended": "2026-11-22T10:01:27.000000Z", "state": "ended", "status": 200, "reason": "Because", "warning": None,
        "release": [], "from_user": "alice", "from_uri": "sip:alice@example.com", "to_user": "bob",
        "to_uri": "sip:bob@example.com", "request_uri": "sip:bob@example.com", "src": "192.0.2.10:5060",
        "dst": "203.0.113.1:5060", "hops": ["192.0.2.10:5060", "203.0.113.1:5060"], "nodes": ["fra-1"],
        "messages": 6, "retransmissions": 0, "post_dial_delay": 0.1, "setup_time": 2.0, "duration": 75.0,
        "ended_by": "caller", "codecs": [], "media": [], "legs": [], "gaps": [],
    }  # fmt: skip


def test_json_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, array, _ = run(capsys, "find", "--folder", folder, "--json")
    _, lines, _ = run(capsys, "find", "--folder", folder, "--jsonl")
    assert [json.loads(line) for line in lines.splitlines()] == json.loads(array)


def test_csv(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, array, _ = run(capsys, "find", "--folder", folder, "--json")
    _, out, _ = run(capsys, "find", "--folder", folder, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == list(json.loads(array)[0])
    assert rows[0]["hops"] == "192.0.2.10:5060 203.0.113.1:5060"
    assert [row["duration"] for row in rows] == ["75.0", "", "", ""]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("began", [SHORT, LONG, "unanswered@a", "reg@a"]),
        ("-began", ["reg@a", "unanswered@a", LONG, SHORT]),
        ("status", ["reg@a", SHORT, LONG, "unanswered@a"]),  # 200, 200 by their times, 486, none
        ("-status", [LONG, SHORT, "reg@a", "unanswered@a"]),
        ("duration", [SHORT, LONG, "unanswered@a", "reg@a"]),  # what has none comes last
        ("call_id", [LONG, "reg@a", SHORT, "unanswered@a"]),
        ("-call_id", ["unanswered@a", SHORT, "reg@a", LONG]),
        ("messages", ["unanswered@a", LONG, "reg@a", SHORT]),
        ("-from_user", [LONG, SHORT, "unanswered@a", "reg@a"]),
    ],
)
def test_order(folder: Path, capsys: pytest.CaptureFixture[str], sort: str, expected: list[str]) -> None:
    if sort == "status":
        expected = [SHORT, "reg@a", LONG, "unanswered@a"]
    assert found(capsys, "--folder", folder, "--sort", sort) == expected


def test_a_limit_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "find", "--folder", folder, "--limit", 2, "--jsonl")
    assert (code, len(out.splitlines())) == (0, 2)
    assert err == "sipdump-read: note: 2 of 4 calls are shown; --limit 0 shows all\n"
    assert len(found(capsys, "--folder", folder, "--limit", 0)) == 4


@pytest.mark.parametrize(("form", "expected"), [("", ""), ("--json", "[]\n"), ("--jsonl", ""), ("--csv", "call_id,")])
def test_nothing_found(folder: Path, capsys: pytest.CaptureFixture[str], form: str, expected: str) -> None:
    code, out, err = run(capsys, "find", "--folder", folder, "--call-id", "nosuch", *form.split())
    assert code == 1
    assert out.startswith(expected)
    assert len(out.splitlines()) <= 1
    begin = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at("10:00:10") / 1e6))
    assert err.startswith(f"sipdump-read: nothing was found in 1 segment of parquet, {begin} to ")
    offset = time.strftime("%z")
    assert err.endswith(f" ({offset[:3]}:{offset[3:]})\n")


@pytest.mark.usefixtures("utc")
def test_nothing_to_look_at(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "find", "--folder", tmp_path)
    assert (code, err) == (1, f"sipdump-read: nothing was found: there is no segment within the span in {tmp_path}\n")
    code, _, err = run(capsys, "find", "--folder", folder, "--since", "2020-01-01 10:32", "--until", "11:00")
    assert code == 1
    span = "from 2020-01-01 10:32:00 until 2020-01-01 11:00:00 UTC (+00:00)"
    told = f"nothing was found {span}: there is no segment within the span in {folder}"
    assert err == f"sipdump-read: {told}\n"


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_times_that_not_all_zones_have(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    for when in ("9999-12-31T23:59:59Z", "0001-01-01T00:00Z", "@-62135590000"):
        code, out, _ = run(capsys, "find", "--folder", folder, "--call-id", "nosuch", "--until", when)
        assert code in (1, 2)
        assert out == ""


def test_nothing_could_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kamailio-sipdump-2026-11-22--10-00-00.parquet").write_bytes(b"torn")
    code, _, err = run(capsys, "find", "--folder", tmp_path)
    assert code == 1
    assert "2026-11-22--10-00-00.parquet: " in err
    assert err.endswith(f"sipdump-read: nothing was found: nothing could be read in {tmp_path}\n")


def test_what_is_no_folder_and_what_is_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(folder.iterdir())
    for option, path, hint in (
        ("--folder", file, "this is a file: name it with --file"),
        ("--file", folder, "this is a folder: name it with --folder"),
        ("--folder", folder / "nosuch", "there is no such folder"),
        ("--file", folder / "nosuch", "there is no such file"),
        ("--file", file / "below", "Not a directory"),
    ):
        assert run(capsys, "find", option, path) == (2, "", f"sipdump-read: {option} {path}: {hint}\n")


def test_what_a_format_does_not_keep_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pcap has no tags: no message can match, which does not mean that there was none."""
    note = "note: pcap may not keep the tag: messages that only it has may be missing"
    for name in ("only", "both"):
        (tmp_path / name).mkdir()
    only = store(tmp_path / "only", call(SHORT, at("10:00:10")), backends=["pcap"])
    code, _, err = run(capsys, "find", "--folder", only, "--tag", "snd")
    assert code == 1
    assert note in err
    both = store(tmp_path / "both", call(SHORT, at("10:00:10")), backends=["pcap", "text"])
    assert "note:" not in run(capsys, "find", "--folder", both, "--tag", "snd")[2]
    assert "note:" not in run(capsys, "find", "--folder", only, "--user", "alice")[2]


HOSTILE = "\x1b]0;owned\x07\x9b31m\u202eevil"


@pytest.mark.parametrize("form", ["", "--json", "--jsonl", "--csv"])
def test_what_the_network_says_does_not_control_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    messages = call(f"id-{HOSTILE}", at("10:00:00"), caller=HOSTILE, callee=HOSTILE)
    messages.append(record("INVITE sip:x SIP/2.0", "bytes@a", at("10:00:01"), cseq="1 INVITE", caller="x"))
    store(tmp_path, messages)
    code, out, err = run(capsys, "find", "--folder", tmp_path, *form.split())
    assert code == 0
    assert all(one.isprintable() or one == "\n" for one in out + err)
    if form == "--json":
        assert json.loads(out)[0]["from_user"].replace(" ", "") == HOSTILE.replace(" ", "")
    for command in (
        ("show", f"id-{HOSTILE}"),
        ("show", f"id-{HOSTILE}", "--raw"),
        ("tail", "--once"),
        ("stats", "--by", "from"),
    ):
        _, out, err = run(capsys, *command, "--folder", tmp_path)
        assert out
        assert all(one.isprintable() or one == "\n" for one in out + err), command


def test_days_on_which_the_clocks_were_set_otherwise_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    summer = at("10:00:00") - 150 * 86400 * 1_000_000
    store(tmp_path, call("winter@a", at("10:00:00")), call("summer@a", summer))
    _, out, _ = run(capsys, "find", "--folder", tmp_path)
    cells = [line.split("  ")[0] for line in out.splitlines()[1:]]
    offsets = {cell.partition(".000")[2] for cell in cells}
    assert len(offsets) == 2
    assert offsets & {"+0200", "+0100"}


def test_hundreds_of_segments_are_listed_once_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = [call(f"{number}@a", at("10:00:00") + number * 60_000_000) for number in range(60)]
    store(tmp_path, *calls, backends=("text",), minutes=1)
    assert len(list(tmp_path.glob("*.data"))) == 60
    assert len(found(capsys, "--folder", tmp_path)) == 60
    assert found(capsys, "--folder", tmp_path, "--since", "2026-11-22T10:30Z", "--until", "2026-11-22T10:32Z") == [
        "30@a", "31@a",
    ]  # fmt: skip

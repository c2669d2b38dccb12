"""``sipdump-read stats``: numbers worked out by hand; ratios and delays as RFC 6076 defines them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.record import Record
from tests.core.reading.run import run
from tests.core.reading.traffic import PHONE, PROXY, at, call, record, register, store

TEN = at("10:00:00")


def stats(capsys: pytest.CaptureFixture[str], folder: Path, *args: object) -> dict[str, Any]:
    code, out, err = run(capsys, "stats", "--folder", folder, "--json", *args)
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def challenged(call_id: str, status: int, *, ringing: bool) -> list[Record]:
    """Return a call that is challenged after 10 ms, tried again at 100 ms, and decided 2 s after that."""
    uri = "sip:bob@example.com"
    back = {"src": PROXY, "dst": PHONE, "tag": "snd", "to_tag": "2"}
    found = [
        record(f"INVITE {uri} SIP/2.0", call_id, TEN, cseq="1 INVITE"),
        record("SIP/2.0 407 Proxy", call_id, TEN + 10_000, cseq="1 INVITE", **back),
        record(f"ACK {uri} SIP/2.0", call_id, TEN + 11_000, cseq="1 ACK", to_tag="2"),
        record(f"INVITE {uri} SIP/2.0", call_id, TEN + 100_000, cseq="2 INVITE"),
    ]
    if ringing:
        found.append(record("SIP/2.0 180 Ringing", call_id, TEN + 400_000, cseq="2 INVITE", **back))
    found.append(record(f"SIP/2.0 {status} X", call_id, TEN + 2_100_000, cseq="2 INVITE", **back))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven calls, of which the ends are named, and three registrations."""
    return store(
        tmp_path_factory.mktemp("store"),
        call("ended-1@a", TEN, seconds=10),
        call("ended-2@a", TEN, seconds=20),
        call("answered@a", TEN, bye=False),
        challenged("challenged-then-answered@a", 200, ringing=True),
        call("busy@a", TEN, status=486),
        challenged("declined@a", 603, ringing=False),
        call("not-found@a", TEN, status=404),
        call("failed-503@a", TEN, status=503),
        call("failed-500@a", TEN + 3_600_000_000, status=500, caller="carol"),
        call("moved@a", TEN, status=302),
        challenged("gave-up@a", 200, ringing=False)[:3],
        call("middle@a", TEN, seconds=5)[4:],  # only its BYE was seen: no attempt
        register("reg-1@a", TEN, 401, 200),
        register("reg-2@a", TEN, 401, 403),
        register("reg-3@a", TEN, 200, 503),
    )


def test_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = stats(capsys, folder)
    assert found["kinds"] == {"call": 12, "register": 3}
    assert found["states"] == {
        "call ended": 3, "call answered": 2, "call refused": 4, "call failed": 2, "call challenged": 1,
        "register registered": 1, "register refused": 1, "register failed": 1,
    }  # fmt: skip
    # requests: 2 a refused call, 3 an answered one without BYE ...
    requests = 3 + 3 + 2 + 3 + 2 + 3 + 2 + 2 + 2 + 2 + 2 + 1 + 6
    replies = 3 + 3 + 2 + 3 + 2 + 2 + 2 + 2 + 2 + 2 + 1 + 1 + 6
    assert found["messages"] == {"requests": requests, "replies": replies}


def test_ratios(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sections 4.6 to 4.9: 11 attempts, 4 of them answered, 1 redirected, 2 ended."""
    assert stats(capsys, folder)["sessions"] == {
        "attempts": 11,
        "answered": 4,
        "asr": 36.36,  # 4 of 11
        "ner": 54.55,  # and 486 and 603
        "ser": 40.0,  # 4 of 11 less 1
        "seer": 60.0,  # and 486 and 603
        "isa": 18.18,  # 500 and 503 of 11
        "scr": 18.18,  # 2 of 11
    }


def test_registrations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Section 4.2: challenges are no failures; 403 and 503 of 6 are. All are alice's."""
    assert stats(capsys, folder)["registrations"] == {
        "requests": 6, "accepted": 2, "challenged": 2, "unanswered": 0, "failed": 2, "users": 1, "ira": 33.33,
    }  # fmt: skip


def test_delays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    delays = stats(capsys, folder)["delays"]
    assert delays["rrd"] == {"count": 2, "mean": 0.02, "p50": 0.02, "p95": 0.02, "p99": 0.02, "max": 0.02}
    # to the first 101 to 199: 0.1 three times, 0.4 once
    assert delays["srd"] == {"count": 4, "mean": 0.175, "p50": 0.1, "p95": 0.4, "p99": 0.4, "max": 0.4}
    # failures: 486, 404, 503 and 500 rang after 0.1; 603 did not, and came after 2.1
    assert delays["srd_failed"] == {"count": 5, "mean": 0.5, "p50": 0.1, "p95": 2.1, "p99": 2.1, "max": 2.1}
    # both, and the one that 302 redirected, which rang after 0.1: seven times 0.1 and one of 0.1, 0.4, 2.1
    assert delays["pdd"] == {"count": 10, "mean": 0.33, "p50": 0.1, "p95": 2.1, "p99": 2.1, "max": 2.1}
    assert delays["setup"] == {"count": 4, "mean": 2.025, "p50": 2.0, "p95": 2.1, "p99": 2.1, "max": 2.1}
    # BYE to its 200, also of the call whose beginning was not seen
    assert delays["sdd"] == {"count": 3, "mean": 0.02, "p50": 0.02, "p95": 0.02, "p99": 0.02, "max": 0.02}
    assert delays["sdt"] == {"count": 2, "mean": 15.0, "p50": 10.0, "p95": 20.0, "p99": 20.0, "max": 20.0}


def test_by_method(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["method"]: row["messages"] for row in stats(capsys, folder, "--by", "method")["by"]}
    assert rows == {"INVITE": 13, "ACK": 11, "REGISTER": 6, "BYE": 3}


def test_by_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["status"]: row["messages"] for row in stats(capsys, folder, "--by", "status")["by"]}
    assert rows == {
        "180": 9, "200": 9, "407": 3, "401": 2, "302": 1, "403": 1, "404": 1, "486": 1, "500": 1, "503": 2, "603": 1,
    }  # fmt: skip


def test_by_caller(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = stats(capsys, folder, "--by", "from")["by"]
    assert {row["from"]: (row["calls"], row["answered"], row["failed"]) for row in rows} == {
        "alice": (11, 5, 1), "carol": (1, 0, 1),
    }  # fmt: skip


def test_by_hour_and_destination(
    folder: Path, capsys: pytest.CaptureFixture[str], live_in: Callable[[str], None]
) -> None:
    live_in("Asia/Tokyo")  # hours are local
    rows = stats(capsys, folder, "--by", "hour")["by"]
    assert [(row["hour"], row["calls"]) for row in rows] == [
        ("2026-11-22T19:00+0900", 11),
        ("2026-11-22T20:00+0900", 1),
    ]
    rows = stats(capsys, folder, "--by", "dst")["by"]
    assert {row["dst"]: row["calls"] for row in rows} == {f"{PROXY}:5060": 12, f"{PHONE}:5060": 0}


def test_by_agent_and_top(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = [
        call(f"{phone}-{number}@a", headers=f"User-Agent: Phone/{phone}\r\n")
        for phone in range(4)
        for number in range(phone + 1)
    ]
    store(tmp_path, *calls)
    rows = stats(capsys, tmp_path, "--by", "ua", "--top", 2)["by"]
    assert [(row["ua"], row["messages"]) for row in rows] == [("Phone/3", 4), ("Phone/2", 3)]
    assert len(stats(capsys, tmp_path, "--by", "ua", "--top", 0)["by"]) == 4


def test_strangers_who_make_up_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sipdump_core.reading.stats.MANY_KEYS", 5)
    store(tmp_path, *(call(f"{number}@a", caller=f"user{number}") for number in range(9)))
    rows = {row["from"]: row["calls"] for row in stats(capsys, tmp_path, "--by", "from")["by"]}
    assert rows.pop("others") == 4
    assert list(rows.values()) == [1] * 5


def test_for_a_person(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "stats", "--folder", folder, "--by", "method")
    assert (code, err) == (0, "")
    assert "sessions    11 attempts, 4 answered\n" in out
    assert "               40.00 % session establishment ratio (SER)\n" in out
    assert "               33.33 % ineffective registration attempts (IRA)\n" in out
    assert "                   2    15.000    10.000    20.000    20.000    20.000  session duration (SDT)\n" in out
    assert out.endswith("messages  method\n      13  INVITE\n      11  ACK\n       6  REGISTER\n       3  BYE\n")


def test_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "stats", "--folder", tmp_path, "--json")
    assert (code, out) == (1, "{}\n")
    assert "nothing was found" in err
    store(tmp_path, register("reg@a", TEN, 200))
    assert stats(capsys, tmp_path)["sessions"]["ser"] is None
    code, _, _ = run(capsys, "stats", "--folder", tmp_path, "--by", "nosuch")
    assert code == 2

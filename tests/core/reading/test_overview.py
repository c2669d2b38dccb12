"""The overview: numbers worked out by hand, buckets, bounds, and the same answers as ``stats`` and ``find``."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.calls.call import Call
from sipdump_core.drivers.query import Query
from sipdump_core.reading.attempts import Attempts
from sipdump_core.reading.overview import BUCKETS, Overview, measure
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.store import Store
from sipdump_core.reading.tally import Delays, Sketch
from sipdump_core.record import Record
from tests.core.reading.run import run
from tests.core.reading.traffic import PHONE, PROXY, at, call, record, register, store

TEN = at("10:00:00")
MINUTE = 60_000_000
GATEWAY = "203.0.113.9"


def invited(
    call_id: str, minute: int, status: int, *, rings: float | None, answers: float, headers: str = "", dst: str = PROXY
) -> list[Record]:
    """Return a call that began some minutes after ten, rang after some seconds, and had its answer after others."""
    time_us = TEN + minute * MINUTE
    uri = "sip:bob@example.com"
    back = {"src": dst, "dst": PHONE, "tag": "snd", "to_tag": "2", "cseq": "1 INVITE"}
    found = [record(f"INVITE {uri} SIP/2.0", call_id, time_us, cseq="1 INVITE", dst=dst, headers=headers)]
    if rings is not None:
        found.append(record("SIP/2.0 180 Ringing", call_id, time_us + round(rings * 1e6), **back))
    found.append(record(f"SIP/2.0 {status} X", call_id, time_us + round(answers * 1e6), **back))
    return found


def challenged(call_id: str, minute: int) -> list[Record]:
    """Return a call that is challenged, tried again after a minute, and answered 2 s later, without ringing."""
    first = invited(call_id, minute, 407, rings=None, answers=0.1)
    second = invited(call_id, minute + 1, 200, rings=None, answers=2)
    return [*first, *(attrs.evolve(each, buf=each.buf.replace(b" 1 INVITE", b" 2 INVITE")) for each in second)]


TRAFFIC: Sequence[Sequence[Record]] = (
    # 10:00: three of four are answered, all four reached somebody
    invited("fast@a", 0, 200, rings=0.1, answers=1),
    invited("slow@a", 0, 200, rings=0.4, answers=4),
    invited("busy@a", 0, 486, rings=None, answers=0.2, headers="User-Agent: Phone/1\r\n"),
    challenged("challenged@a", 0),
    # 10:02: a call through a B2BUA: the second leg is no attempt of its own
    invited("leg-a@a", 2, 503, rings=0.2, answers=2, headers="User-Agent: Phone/1\r\n"),
    [
        attrs.evolve(each, time_us=each.time_us + 1000)
        for each in invited("leg-b@b", 2, 503, rings=0.2, answers=1.9, headers="X-CID: leg-a@a\r\n", dst=GATEWAY)
    ],
    # and the network failed one, but delivered what rang until the caller or a timer gave up
    invited("unknown@a", 2, 404, rings=None, answers=0.3, dst=GATEWAY),
    invited("gave-up@a", 2, 487, rings=0.3, answers=9),
    invited("gave-up-early@a", 2, 487, rings=None, answers=9),
    invited("nobody@a", 2, 408, rings=0.3, answers=30),
    # 10:03: only registrations
    register("reg-1@a", TEN + 3 * MINUTE, 401, 200, user="alice"),
    register("reg-2@a", TEN + 3 * MINUTE, 200, 503, user="bob"),
    register("reg-3@a", TEN + 3 * MINUTE, 403, user="carol"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("store"), *TRAFFIC)


def overview(
    folder: Path,
    searched: Searched | None = None,
    *,
    most: int = 0,
    since_us: int | None = None,
    until_us: int | None = None,
) -> Overview:
    query = Query(since_us=since_us, until_us=until_us)
    return measure(Store.open(folders=folder), query, searched or Searched(), most=most)


def whole(folder: Path) -> Overview:
    return overview(folder, since_us=TEN, until_us=TEN + 4 * MINUTE)


def test_ratios(folder: Path) -> None:
    """4 + 5 attempts; 3 answered; and delivered are busy, and two of those that rang in vain."""
    sessions = whole(folder).total.sessions()
    assert (sessions["attempts"], sessions["answered"]) == (9, 3)
    assert sessions["asr"] == 33.33
    assert sessions["ner"] == 66.67  # 3 and 486, 487 and 408 after a 180


def test_ratios_of_a_minute(folder: Path) -> None:
    first = overview(folder, since_us=TEN, until_us=TEN + MINUTE).total.sessions()
    assert (first["attempts"], first["asr"], first["ner"]) == (4, 75.0, 100.0)
    third = overview(folder, since_us=TEN + 2 * MINUTE, until_us=TEN + 3 * MINUTE).total.sessions()
    assert (third["attempts"], third["asr"], third["ner"]) == (5, 0.0, 40.0)
    # a call counts when it began, not when it was tried again
    assert overview(folder, since_us=TEN + MINUTE, until_us=TEN + 2 * MINUTE).total.sessions()["attempts"] == 0


def test_delays(folder: Path) -> None:
    delays = whole(folder).total.delays()
    # 0.1, 0.4, busy 0.2, challenged 62 (its 200), 0.2, unknown 0.3, 0.3, gave up early 9, 0.3
    assert delays["pdd"] == {"count": 9, "mean": pytest.approx(72.8 / 9, abs=1e-6), "p50": 0.3, "p95": 62.0,
                             "p99": 62.0, "max": 62.0}  # fmt: skip
    # 1, 4, and 62 from the first INVITE
    assert delays["setup"] == {"count": 3, "mean": 22.333333, "p50": 4.0, "p95": 62.0, "p99": 62.0, "max": 62.0}


def test_failures(folder: Path) -> None:
    """Where the caller gave up is no failure."""
    total = whole(folder).total
    assert total.failures == {486: 1, 503: 1, 404: 1, 408: 1}
    assert total.failed_agents == {"Phone/1": 2, "": 2}
    assert total.failed_targets == {f"{PROXY}:5060": 3, f"{GATEWAY}:5060": 1}


def test_registrations(folder: Path) -> None:
    assert whole(folder).total.registrations() == {
        "requests": 5, "accepted": 2, "challenged": 1, "unanswered": 0, "failed": 2, "users": 2, "ira": 40.0,
    }  # fmt: skip


def test_messages(folder: Path) -> None:
    total = whole(folder).total
    # one INVITE a call, two of the challenged one, one of the second leg
    assert total.methods == {"INVITE": 11, "REGISTER": 5}
    assert total.statuses == {
        180: 6, 200: 5, 401: 1, 403: 1, 404: 1, 407: 1, 408: 1, 486: 1, 487: 2, 503: 3,
    }  # fmt: skip


def test_buckets_fill_the_span_that_was_asked_for(folder: Path) -> None:
    found = whole(folder)
    assert (found.step_s, len(found.buckets)) == (5, 48)
    assert (found.buckets[0].since_us, found.buckets[-1].until_us) == (TEN, TEN + 4 * MINUTE)
    for one, other in zip(found.buckets, found.buckets[1:], strict=False):
        assert one.until_us == other.since_us
    counts = [each.tally.sessions()["attempts"] for each in found.buckets]
    assert (counts[0], counts[24], sum(filter(None, counts))) == (4, 5, 9)


def test_percentiles_of_a_bucket_are_close(folder: Path) -> None:
    bucket = whole(folder).buckets[0]
    delay = bucket.tally.delays()["setup"]
    assert delay is not None
    assert delay["count"] == 3
    assert delay["p50"] == pytest.approx(4.0, rel=0.01)
    assert delay["max"] == 62.0


def test_by_default_the_last_day_that_something_was_stored(tmp_path: Path) -> None:
    early = call("early@a", TEN - 30 * 3600 * 1_000_000)
    found = overview(store(tmp_path, early, *TRAFFIC))
    assert found.total.sessions()["attempts"] == 9
    # from the first message to the last one: 3 min 2 s
    assert found.buckets[0].since_us == TEN
    assert found.step_s == 5
    assert found.buckets[-1].until_us == found.query.until_us == TEN + 3 * MINUTE + 2_020_001


def test_buckets_are_put_together_when_they_become_too_many(tmp_path: Path) -> None:
    calls = [call(f"{hour}@a", TEN + hour * 3600 * 1_000_000) for hour in range(12)]
    found = overview(store(tmp_path, *calls, minutes=600), until_us=TEN + 13 * 3600 * 1_000_000)
    assert found.step_s == 600  # 120 buckets at most, of 12 h
    assert len(found.buckets) <= BUCKETS
    assert [each.tally.sessions()["attempts"] for each in found.buckets if each.tally.states] == [1] * 12
    assert found.total.sessions()["attempts"] == 12
    merged = [each.tally.delays()["setup"] for each in found.buckets if each.tally.states]
    assert all(delay is not None and delay["count"] == 1 for delay in merged)


def test_midnight_begins_a_bucket(tmp_path: Path, live_in: Callable[[str], None]) -> None:
    live_in("Asia/Kolkata")  # half an hour off
    found = overview(store(tmp_path, call("one@a", TEN)), since_us=TEN - 5 * 86_400_000_000, until_us=TEN + MINUTE)
    assert found.step_s == 10_800
    assert (found.buckets[1].since_us // 1_000_000 + 19_800) % 10_800 == 0
    assert found.buckets[0].since_us == TEN - 5 * 86_400_000_000


def test_stats_say_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for since, until in ((None, None), ("10:00:00", None), ("10:02:00", "10:03:00")):
        since_us, until_us = at(since) if since else None, at(until) if until else None
        span = ["--since", f"@{since_us // 1_000_000}"] if since_us else []
        span += ["--until", f"@{until_us // 1_000_000}"] if until_us else []
        code, out, _ = run(capsys, "stats", "--folder", folder, "--json", *span)
        assert code == 0
        told = json.loads(out)
        found = overview(folder, since_us=since_us, until_us=until_us).as_json()["total"]
        for name in ("messages", "sessions", "registrations", "delays"):
            assert told[name] == found[name], (name, span)


def test_json(folder: Path) -> None:
    found = json.loads(json.dumps(whole(folder).as_json()))
    assert (found["since"], found["until"]) == ("2026-11-22T10:00:00.000000Z", "2026-11-22T10:04:00.000000Z")
    assert found["seconds"] == 5
    assert found["buckets"][24]["attempts"] == {"cancelled": 2, "failed": 2, "refused": 1}
    assert found["total"]["failures"]["status"] == {"486": 1, "503": 1, "404": 1, "408": 1}


def test_of_too_many_messages_the_last_are_read(tmp_path: Path) -> None:
    calls = [call(f"{minute}@a", TEN + minute * MINUTE, seconds=5) for minute in range(60)]
    store(tmp_path, *calls, minutes=10)
    searched = Searched()
    found = overview(tmp_path, searched, most=120, since_us=TEN, until_us=TEN + 60 * MINUTE)
    assert searched.notes
    assert "the span has about 360 messages, and 120 are read" in searched.notes[0]
    assert found.buckets[-1].until_us == TEN + 60 * MINUTE
    attempts = found.total.sessions()["attempts"]
    assert attempts is not None
    assert 18 <= attempts <= 22
    # filters leave few, and the store finds them without reading everything
    few = measure(Store.open(folders=tmp_path), Query(call_ids="7@a"), Searched(), most=120)
    assert few.total.sessions()["attempts"] == 1


def test_an_estimate_that_is_wrong_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.reading.overview._records_since", lambda *_: 0.0)
    store(tmp_path, *(call(f"{number}@a", TEN + number * 1000) for number in range(20)))
    searched = Searched()
    found = overview(tmp_path, searched, most=10)
    assert sum(found.total.messages.values()) == 30
    assert searched.notes == ["reading ended after 30 messages: narrow the span"]


def test_it_can_be_ended(folder: Path) -> None:
    searched = Searched()
    left = iter((True, True, False))
    found = measure(Store.open(folders=folder), Query(), searched, step=lambda: next(left))
    assert found.calls == 3
    assert searched.notes == ["the numbers are those of the first 3 calls that were read"]


def test_nothing(tmp_path: Path) -> None:
    found = overview(tmp_path)
    assert (found.buckets, found.calls, found.step_s) == ([], 0, 0)
    assert found.as_json()["buckets"] == []


def test_kind_attempt_lists_what_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def listed(*args: str) -> set[str]:
        _, out, _ = run(capsys, "find", "--folder", folder, "--json", "--kind", "attempt", *args)
        return {each["call_id"] for each in json.loads(out)}

    assert len(listed()) == 9
    assert "leg-b@b" not in listed()
    assert listed("--status", "503") == {"leg-a@a"}
    minute = ("--since", "@1795341600", "--until", "@1795341601")
    # what is asked of an attempt may come after the span in which it began
    assert listed("--status", "200", *minute) == {"fast@a", "slow@a", "challenged@a"}
    assert listed("--since", "@1795341660", "--until", "@1795341661") == set()
    _, out, _ = run(capsys, "find", "--folder", folder, "--json", "--kind", "register")
    assert len(json.loads(out)) == 3
    code, _, err = run(capsys, "find", "--folder", folder, "--kind", "calls")
    assert (code, "is not a kind" in err) == (2, True)


def attempts_of(*calls: Sequence[Record]) -> int:
    attempts = Attempts()
    for records in sorted(calls, key=lambda each: str(each[0].call_id)):
        one = Call.of(records)
        attempts.add(one, one.summary())
    return len(list(attempts.once()))


def test_legs_count_once() -> None:
    def leg(call_id: str, after: int, header: str) -> list[Record]:
        return call(call_id, TEN + after, headers=header)

    session = "Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=47755a9de7794ba387653f2099600ef2\r\n"
    assert attempts_of(call("a@a", TEN), leg("b@b", 10, "X-CID: a@a\r\n")) == 1
    assert attempts_of(leg("b@b", 10, "X-CID: a@a\r\n")) == 1  # the first leg was not stored
    assert attempts_of(leg("a@a", 0, session), leg("b@b", 10, session), leg("c@c", 20, session)) == 1
    assert attempts_of(call("x@a", TEN), call("x-b2b_1@a", TEN + 10)) == 1
    assert attempts_of(call("x@a", TEN), call("y@a", TEN + 10)) == 2
    crowd = [leg(f"{number}@a", number, "X-CID: same\r\n") for number in range(25)]
    assert attempts_of(*crowd) == 25  # a value on more than 20 links nothing


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60), st.lists(st.floats(1e-6, 1e6), max_size=60))
def test_a_sketch_is_at_most_one_percent_off(some: list[float], more: list[float]) -> None:
    exact, sketch, other = Delays(), Sketch(), Sketch()
    for measure_, values in ((sketch, some), (other, more)):
        for value in values:
            exact.add(value)
            measure_.add(value)
    sketch.merge(other)
    wanted, found = exact.result(), sketch.result()
    assert wanted is not None
    assert found is not None
    assert (found["count"], found["max"]) == (wanted["count"], wanted["max"])
    for name in ("p50", "p95", "p99"):
        assert found[name] == pytest.approx(wanted[name], rel=0.01, abs=2e-6)


def test_a_sketch_of_nothing_and_of_no_time() -> None:
    sketch = Sketch()
    sketch.add(None)
    assert sketch.result() is None
    sketch.add(0.0)
    assert sketch.result() == {"count": 1, "mean": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}

"""Retention by rule."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core.calls.call import Call
from sipdump_core.drivers.base import Backend
from sipdump_core.lifecycle import holds, thinning
from sipdump_core.lifecycle.caps import Caps, Limits
from sipdump_core.lifecycle.holds import Hold
from sipdump_core.lifecycle.rewriting import rewrite
from sipdump_core.lifecycle.thinning import Thinned, thin
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment
from sipdump_core.settings.keeping import Rule, parse_rule
from tests.core.lifecycle.rewrites import KINDS, START, ids, make, store
from tests.core.reading.stores import fill
from tests.core.reading.traffic import at, call
from tests.core.reading.traffic import record as message
from tests.flows import FLOWS, Flow

DAY, HOUR = 86_400, 3600
RULES = [parse_rule(text) for text in ("method=REGISTER,OPTIONS age=3d", "state=failed age=180d", "age=30d")]


def register(call_id: str, time_us: int) -> list[Record]:
    first = message("REGISTER sip:example.com SIP/2.0", call_id, time_us, cseq="1 REGISTER")
    return [first, message("SIP/2.0 200 OK", call_id, time_us + 1000, cseq="1 REGISTER", to_tag="9")]


def run(backend: Backend, days: float, rules: list[Rule] = RULES, start: float = START) -> list[Thinned]:
    return list(thin(backend, rules, now=start + days * DAY))


def a_day(day: int) -> list[Record]:
    """Return a registration, a call that was answered, and one that failed."""
    begin = at("10:00:00") + day * DAY * 1_000_000
    records = [*register(f"r{day}", begin), *call(f"g{day}", begin), *call(f"f{day}", begin, status=503)]
    random.Random(day).shuffle(records)
    return records


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    made = make(tmp_path, request.param)
    begin = at("10:00:00")
    store(made, [*register("reg", begin), *call("good", begin), *call("bad", begin, status=503)], START)
    return made


def test_the_first_rule_that_matches_counts_and_each_age_has_its_round(backend: Backend) -> None:
    assert run(backend, 2.9) == []
    (thinned,) = run(backend, 3.1)
    assert (thinned.calls, thinned.why) == (1, "1 calls by 'method=REGISTER,OPTIONS age=3d'")
    assert set(ids(backend)) == {"good", "bad"}
    assert run(backend, 29) == []
    (thinned,) = run(backend, 30.1)
    assert set(ids(backend)) == {"bad"}
    assert run(backend, 179) == []
    (thinned,) = run(backend, 181)
    assert thinned.deleted
    assert list(backend.segments()) == []


def test_a_segment_is_read_once_for_each_age(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    run(backend, 3.1)
    reads: list[StoredSegment] = []
    real = type(backend).read

    def read(self: Backend, stored: StoredSegment) -> Iterator[Record]:
        reads.append(stored)
        return real(self, stored)

    monkeypatch.setattr(type(backend), "read", read)
    for day in (3.2, 4, 10, 29):
        run(backend, day)
    assert reads == []
    run(backend, 30.1)
    assert len(reads) == 1


def test_a_lost_note_costs_only_a_look(backend: Backend, tmp_path: Path) -> None:
    run(backend, 3.1)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir() if not path.name.startswith(".")}
    (note,) = tmp_path.glob(".*keep-*.json")
    note.write_text("half")
    assert run(backend, 3.2) == []
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir() if not path.name.startswith(".")} == before


def test_what_a_crash_left_beside_is_removed(backend: Backend, tmp_path: Path) -> None:
    draft = tmp_path / ".kamailio-sipdump-2026-11-22--10-00-00.data.rewrite"
    draft.write_bytes(b"half")
    run(backend, 1)
    assert not draft.exists()


def test_a_dry_run_changes_nothing(backend: Backend, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (dry,) = thin(backend, RULES, now=START + 4 * DAY, dry_run=True)
    assert (dry.calls, dry.records) == (1, 0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_call_over_segments_is_judged_and_goes_as_a_whole(tmp_path: Path) -> None:
    backend = make(tmp_path, "text")
    long = call("long", at("10:59:59"))
    store(backend, [*call("first", at("10:00:00")), *long[:2]], START)
    store(backend, [*long[2:4], *call("second", at("11:30:00"))], START + HOUR)
    store(backend, [*call("third", at("12:30:00")), *long[4:]], START + 2 * HOUR)
    run(backend, 30 + 1.5 / 24)
    assert "first" not in ids(backend)
    assert ids(backend).count("long") == len(long)  # its last segment is younger
    run(backend, 30 + 2.2 / 24)
    assert ids(backend).count("long") == len(long)
    run(backend, 30 + 2.9 / 24)
    assert ids(backend) == []


def test_a_call_that_is_silent_for_hours_is_one(tmp_path: Path) -> None:
    backend = make(tmp_path, "text")
    long = call("long", at("10:00:00"))
    store(backend, long[:-2], START)
    for hour in (1, 2, 3):
        store(backend, call(f"c{hour}", at(f"1{hour}:00:00")), START + hour * HOUR)
    store(backend, long[-2:], START + 9 * HOUR)
    path = sorted(tmp_path.glob("*.data"))[-1]
    newest = START + 9 * HOUR
    os.utime(path, (newest, newest))
    run(backend, 30 + 5 / 24)
    assert ids(backend) == ["long"] * len(long)
    run(backend, 30 + 10 / 24)
    assert ids(backend) == []


def test_a_registration_that_goes_on_for_weeks_is_thinned(tmp_path: Path) -> None:
    backend = make(tmp_path, "text")
    for day in range(6):
        store(backend, register("reg", at("10:00:00") + day * DAY * 1_000_000), START + day * DAY)
    run(backend, 6)
    assert 2 <= len(list(backend.segments())) <= 4


def test_a_call_that_is_still_running_stays(tmp_path: Path) -> None:
    backend = make(tmp_path, "text")
    long = call("long", at("10:00:00"))
    store(backend, long[:3], START)
    fill(backend, long[3:4], START + 40 * DAY, close=False)
    try:
        run(backend, 40)
        assert ids(backend).count("long") == 4
    finally:
        backend.close()


def test_rules_of_other_backends_are_passed_over(tmp_path: Path) -> None:
    text = make(tmp_path, "text")
    store(text, register("reg", at("10:00:00")), START)
    rules = [parse_rule("backend=s3 method=REGISTER age=1d"), parse_rule("backend=s3 age=2d")]
    assert run(text, 10, rules) == []
    assert run(text, 10, [*rules, parse_rule("age=9d")])[0].deleted


def test_what_is_held_stays(backend: Backend, tmp_path: Path) -> None:
    holds.add(str(tmp_path), Hold("case", call_ids=["good"]))
    run(backend, 31)
    assert set(ids(backend)) == {"good", "bad"}


def test_messages_without_a_call_id_follow_the_rules_without_a_state(tmp_path: Path) -> None:
    backend = make(tmp_path, "text")
    (first, _) = register("reg", at("10:00:00"))
    bare = Record(first.time_us, first.flow, b"PING sip:a SIP/2.0\r\nl: 0\r\n\r\n", "")
    options = Record(first.time_us, first.flow, b"OPTIONS sip:a SIP/2.0\r\nl: 0\r\n\r\n", "")
    store(backend, [first, bare, options], START)
    run(backend, 4)
    assert [record.buf for stored in backend.segments() for record in backend.read(stored)] == [bare.buf]


def test_a_crash_between_two_segments_of_a_call_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(tmp_path, "text")
    bad = call("bad", at("10:59:59"), status=503)
    store(backend, [*call("one", at("10:00:00")), *bad[:2]], START)
    store(backend, [*bad[2:], *call("two", at("11:30:00"), status=503)], START + HOUR)
    rules = [parse_rule("state=failed age=1d"), parse_rule("age=90d")]
    real = rewrite

    def once(*args: object) -> object:
        monkeypatch.setattr(thinning, "rewrite", crash)
        return real(*args)  # type: ignore[arg-type]

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(thinning, "rewrite", once)
    with pytest.raises(KeyboardInterrupt):
        run(backend, 2, rules)
    assert 0 < ids(backend).count("bad") < len(bad)
    monkeypatch.setattr(thinning, "rewrite", real)
    run(backend, 2, rules)
    assert set(ids(backend)) == {"one"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_month_by_the_rules(kind: str, tmp_path: Path) -> None:
    """Each day a segment is stored, and a round is run: what is there is what the rules say, whatever the day."""
    backend = make(tmp_path, kind)
    rules = [parse_rule(text) for text in ("method=REGISTER age=3d", "state=failed age=20d", "age=7d")]
    for day in range(30):
        store(backend, a_day(day), START + day * DAY)
        run(backend, day + 0.1, rules)
        ages = (("r", 3), ("g", 7), ("f", 20))
        expected = {f"{kind}{n}" for kind, age in ages for n in range(day + 1) if day - n < age}
        assert set(ids(backend)) == expected, day
        assert len(list(backend.segments())) == min(day + 1, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_month_by_the_rules_and_within_a_cap(kind: str, tmp_path: Path) -> None:
    """The size never passes the cap, and what a rule would still keep goes from the oldest segment on."""
    backend = make(tmp_path, kind)
    now = 0.0
    store(backend, a_day(0), START)
    cap = int(9.5 * sum(stored.size for stored in backend.segments()))
    caps = Caps(lambda: [backend], list, [(str(tmp_path), "kamailio-")], Limits(max_bytes=cap), DAY, lambda: now)
    rules = [parse_rule("method=REGISTER age=3d"), parse_rule("age=20d")]
    bitten = 0
    for day in range(1, 30):
        now = START + (day + 0.1) * DAY
        store(backend, a_day(day), START + day * DAY)
        run(backend, day + 0.1, rules)
        before = sorted(backend.segments(), key=lambda stored: stored.segment)
        caps.check()
        left = sorted(backend.segments(), key=lambda stored: stored.segment)
        assert left == before[len(before) - len(left) :]
        assert sum(path.stat().st_size for path in tmp_path.glob("kamailio-*")) <= cap
        oldest = day + 1 - len(left)
        ages = (("r", 3), ("g", 20), ("f", 20))
        assert set(ids(backend)) == {
            f"{kind}{n}" for kind, age in ages for n in range(oldest, day + 1) if day - n < age
        }
        bitten += len(before) > len(left)
    assert bitten > 10


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("age=3x", "age=3x"),
        ("method=REGISTER", "it says no age"),
        ("methods=REGISTER age=3d", "'methods=REGISTER' is not understood"),
        ("state=broken age=3d", "'broken' is no state; there are: ended"),
        ("method=@ age=3d", "'@' is no method"),
        ("age=3d age=4d", "'age=4d': age is there twice"),
        ("age=0", "must be 1"),
        ("", "it says no age"),
        ("method= age=3d", "'method=' is not understood"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_word(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=r".*") as raised:
        parse_rule(text)
    assert error in str(raised.value)


def test_a_rule_is_read() -> None:
    rule = parse_rule("method=register,OPTIONS state=failed,Refused age=1d2h backend=s3")
    assert sorted(rule.methods) == ["OPTIONS", "REGISTER"]
    assert sorted(rule.states) == ["failed", "refused"]
    assert (rule.age_s, rule.backend) == (DAY + 2 * HOUR, "s3")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_what_a_look_tells_is_the_state_of_the_call(flow: Flow) -> None:
    calls: dict[str, list[Record]] = {}
    for record in flow.records:
        calls.setdefault(record.call_id or "", []).append(record)
    for call_id, records in calls.items():
        if call_id:
            seen = thinning._Seen([])
            for record in records:
                seen.add(record, 0.0)
            assert seen.state == Call.of(sorted(records, key=lambda one: one.time_us)).state(1 << 62)

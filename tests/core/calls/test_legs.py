"""What links Call-IDs, and what does not; the kinds of evidence are in tests/flows/legs.py."""

import attrs
import pytest

from sipdump_core.calls.call import Call
from sipdump_core.calls.legs import CROWD, Crowd, Evidence, LegIndex, LegRules, correlations
from sipdump_core.calls.summary import Leg
from sipdump_core.errors import ConfigError
from sipdump_core.record import Record
from tests.flows.legs import A_UUID, SBC, leg
from tests.flows.rfc3665 import ALICE, BOB
from tests.flows.scene import Scene


def index_of(*scenes: Scene, rules: LegRules | None = None) -> LegIndex:
    index = LegIndex(rules)
    for scene in scenes:
        index.add(Call.of(scene.done()))
    return index


def first_record(call_id: str, *headers: str) -> Record:
    return leg(call_id, 0, (ALICE, SBC), *headers).done()[0]


def test_a_value_on_many_call_ids_is_reported_and_not_followed() -> None:
    legs = [leg(f"{number}@x", number, (ALICE, SBC), "X-CID: everybody") for number in range(CROWD)]
    index = index_of(*legs)
    assert len(index.legs("0@x")) == CROWD - 1
    assert index.crowds == []
    for number in (20, 21):
        index.add(Call.of(leg(f"{number}@x", number, (ALICE, SBC), "X-CID: everybody").done()))
    assert index.legs("0@x") == index.legs("21@x") == []
    assert index.crowds == [Crowd("x-cid", "everybody", 22)]
    assert index.values("0@x") == {"0@x"}


def test_a_call_may_be_added_again() -> None:
    one, two = leg("one@x", 0, (ALICE, SBC)), leg("two@x", 0, (SBC, BOB), "X-CID: one@x")
    index = index_of(one, two, two, one)
    assert index.legs("one@x") == [Leg("two@x", "x-cid", "one@x", "one@x")]
    assert index.values("one@x") == {"one@x", "two@x"}


def test_what_is_not_there_has_no_legs() -> None:
    assert LegIndex().legs("x") == []
    assert LegIndex().values("x") == {"x"}


def test_evidence_of_a_message() -> None:
    record = first_record(
        "abc-leg2@host", "x-cid: one@x", "X-Call-ID: two@x", f"Session-ID: {A_UUID};remote={'0' * 32}",
        'P-Charging-Vector: orig-ioi=a; ICID-value = "icid 1";icid-generated-at=1', "X-Mine: 7;x=y",
    )  # fmt: skip
    usual = {
        Evidence("x-cid", "one@x"), Evidence("x-call-id", "two@x"), Evidence("session-id", A_UUID),
        Evidence("icid", "icid 1"), Evidence("suffix", "abc@host"),
    }  # fmt: skip
    assert LegRules().evidence(record) == usual
    assert correlations(record) == {"one@x", "two@x", A_UUID, "icid 1", "abc@host"}
    named = LegRules(headers=["x-mine"], patterns=[r"X-Mine:\s*(\d+);x=(\w)", "nowhere(.)"])
    assert named.evidence(record) == usual | {Evidence("header", "7")}


@pytest.mark.parametrize(
    ("call_id", "base"),
    [("a_b2b-1", "a"), ("a-b2b_12@h", "a@h"), ("a@h-leg1", "a@h"), ("a-legx@h", None), ("-leg1", None), ("a", None)],
)
def test_suffixes(call_id: str, base: str | None) -> None:
    assert correlations(first_record(call_id)) == ({base} if base else set())


def test_two_suffixed_legs_belong_together_without_the_first() -> None:
    index = index_of(leg("a_b2b-1", 0, (ALICE, SBC)), leg("a_b2b-2", 0, (SBC, BOB)))
    assert index.legs("a_b2b-1") == [Leg("a_b2b-2", "suffix", "a", "a_b2b-1")]


@attrs.frozen
class Correlated(Record):
    correlation_id: str = "one@x"


def test_a_correlation_id_of_hep_is_evidence() -> None:
    one, two = (first_record(call_id) for call_id in ("one@x", "two@x"))
    index = LegIndex()
    for record in (one, two):
        index.add(Call.of([Correlated(record.time_us, record.flow, record.buf)]))
    assert index.legs("one@x") == [Leg("two@x", "hep", "one@x", "one@x")]
    assert correlations(one) == frozenset()


def test_a_body_is_no_evidence() -> None:
    body = b"INVITE sip:x SIP/2.0\r\nCall-ID: c\r\n\r\nX-CID: other\r\nSession-ID: " + A_UUID.encode()
    record = Record.of(body, time_us=0, src_ip="192.0.2.1", src_port=1, dst_ip="192.0.2.2", dst_port=2)
    assert correlations(record) == frozenset()


def test_the_heuristic_asks_for_users_time_and_node() -> None:
    rules = LegRules(heuristic=True)
    one, late = leg("one@x", 0, (ALICE, SBC)), leg("late@x", 1002, (SBC, BOB))
    near = leg("near@x", 1001, (SBC, BOB))
    assert index_of(one, late, rules=rules).legs("one@x") == []
    assert index_of(one, near, rules=rules).legs("one@x") == [Leg("near@x", "heuristic", "alice to bob", "one@x")]
    assert index_of(one, near).legs("one@x") == []


@pytest.mark.parametrize(("pattern", "message"), [("(", "is not a regular expression"), ("x", "has no group")])
def test_wrong_patterns(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LegRules(patterns=[pattern])

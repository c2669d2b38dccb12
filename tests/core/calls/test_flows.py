"""Call flows are understood as they were worked out by hand, in whatever order their records come."""

import random

import pytest

from sipdump_core.calls.legs import LegIndex, LegRules
from sipdump_core.calls.tracker import CallTracker
from sipdump_core.record import Record
from tests.flows import FLOWS, Flow


def answers(flow: Flow, records: list[Record]) -> dict[str, object]:
    tracker = CallTracker()
    for record in records:
        tracker.feed(record)
    index = LegIndex(LegRules(headers=flow.headers, heuristic=flow.heuristic))
    for call in tracker.calls.values():
        index.add(call)
    now = tracker.newest_us if flow.now_us is None else flow.now_us
    return {call_id: call.summary(now, index.legs(call_id)).as_json() for call_id, call in tracker.calls.items()}


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_flow_is_understood(flow: Flow) -> None:
    assert answers(flow, list(flow.records)) == flow.answers


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_the_order_of_records_makes_no_difference(flow: Flow) -> None:
    shuffled = list(flow.records)
    random.Random(7).shuffle(shuffled)
    assert answers(flow, shuffled) == flow.answers


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_clocks_differ_where_they_do(flow: Flow) -> None:
    tracker = CallTracker()
    calls = {tracker.feed(record) for record in flow.records}
    assert [call.clocks for call in calls if call] == [flow.clocks] * len(calls)


def test_names_are_unique() -> None:
    assert len({flow.name for flow in FLOWS}) == len(FLOWS) >= 25

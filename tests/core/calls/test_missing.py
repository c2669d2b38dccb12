"""Whatever part of a call is there, something is said about it, and nothing raises."""

import json

from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.calls.call import Call
from sipdump_core.calls.ladder import lay_out
from sipdump_core.calls.summary import CALL_STATES, KINDS
from sipdump_core.reading.render.formats import FORMATS, render
from sipdump_core.record import Record
from tests.flows import FLOWS

RECORDS = [
    [record for record in flow.records if record.call_id == call_id] for flow in FLOWS for call_id in flow.answers
]


@st.composite
def parts(draw: st.DrawFn) -> list[Record]:
    records = draw(st.sampled_from(RECORDS))
    return draw(st.lists(st.sampled_from(records), min_size=1, max_size=len(records)))


@given(parts(), st.integers(-200, 10**9))
def test_any_part_of_a_call(records: list[Record], later_s: int) -> None:
    call = Call.of(records)
    now = call.newest_us + later_s * 1_000_000
    summary = call.summary(now)
    assert summary.state in CALL_STATES
    assert summary.state == call.state(now)
    assert summary.kind in KINDS
    assert 0 <= summary.retransmissions < summary.messages <= len(records)
    assert summary.messages == sum(arrow.copies for arrow in call.arrows)
    assert sorted(map(id, call.records)) == sorted(id(record) for arrow in call.arrows for record in arrow.records)
    assert summary.hops[0] == summary.src
    assert all(delay is None or delay >= 0 for delay in (summary.post_dial_delay, summary.setup_time, summary.duration))
    assert json.loads(json.dumps(summary.as_json()))["state"] == summary.state


@given(st.lists(parts(), min_size=1, max_size=3))
def test_any_part_can_be_drawn(legs: list[list[Record]]) -> None:
    ladder = lay_out([Call.of(leg) for leg in legs])
    for form in FORMATS:
        assert render(ladder, form)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=6))
def test_any_bytes_are_a_call(bufs: list[bytes]) -> None:
    made = [
        Record.of(buf, time_us=number, src_ip="::1", src_port=1, dst_ip="::1", dst_port=2, af="ipv6")
        for number, buf in enumerate(bufs)
    ]
    assert Call.of(made).summary().messages >= 1

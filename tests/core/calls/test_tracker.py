"""Records become calls one at a time, in any order, and are forgotten when the caller says so."""

import random
import re
import time
from pathlib import Path

import attrs
import pytest

from sipdump_core.calls.call import Call
from sipdump_core.calls.summary import CALL_STATES, Summary
from sipdump_core.calls.tracker import CallTracker
from sipdump_core.record import Record
from tests.flows.rfc3665 import ALICE, FRA, P1
from tests.flows.rfc5359 import PATH, established
from tests.flows.scene import START_US, Scene


def records(number: int, at: float) -> list[Record]:
    scene = Scene(FRA, f"{number}@x")
    request = scene.at(at).request("OPTIONS", ALICE, P1)
    scene.reply(request, "200 OK")
    return scene.done()


def test_what_happened_is_known_after_each_record() -> None:
    scene = Scene(FRA)
    established(scene, *PATH)
    bye = scene.at(9000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.reply(bye, "200 OK")
    tracker = CallTracker()
    states = []
    for record in scene.done():
        call = tracker.feed(record)
        assert call is not None
        states.append(call.state(tracker.newest_us))
    # INVITE, 180, 200, ACK, BYE, 200, each received and sent on; the caller gets the 200 as it is sent on
    assert states == ["calling"] * 2 + ["ringing"] * 2 + ["answered"] * 4 + ["ended"] * 4


def test_calls_that_are_idle_are_dropped_longest_idle_first() -> None:
    tracker = CallTracker()
    for number in range(5):
        for record in records(number, number * 1000):
            tracker.feed(record)
    for record in records(1, 10_000):  # this one lives again
        tracker.feed(record)
    dropped = tracker.idle(START_US + 3_500_000)
    assert [call.call_id for call in dropped] == ["0@x", "2@x", "3@x"]
    assert list(tracker.calls) == ["4@x", "1@x"]
    one = tracker.drop("1@x")
    assert one is not None
    assert len(one.records) == 4
    assert tracker.drop("1@x") is None
    assert tracker.newest_us == START_US + 10_001_000


def test_what_has_no_call_id_is_counted() -> None:
    tracker = CallTracker()
    flow = {"time_us": 5, "src_ip": "192.0.2.1", "src_port": 1, "dst_ip": "192.0.2.2", "dst_port": 2}
    for buf in (b"", b"\r\n\r\n", b"OPTIONS sip:x SIP/2.0\r\nCall-ID: \r\n\r\n"):
        assert tracker.feed(Record.of(buf, **flow)) is None  # type: ignore[arg-type]
    assert (tracker.ignored, tracker.calls) == (3, {})


def test_garbage_with_a_call_id_is_a_call() -> None:
    flow = {"src_ip": "192.0.2.1", "src_port": 1, "dst_ip": "192.0.2.2", "dst_port": 2}
    garbage = [b"garbage\r\nCall-ID: g\r\n\r\n", b"SIP/2.0 999 ?\r\ni: g\r\n\r\n", b" \r\ni: g\r\nCSeq: x\r\n\r\n"]
    made = [Record.of(buf, time_us=number, **flow) for number, buf in enumerate(garbage)]  # type: ignore[arg-type]
    for chosen in (made, made[:1], made[1:2], made[2:]):
        summary = Call.of(chosen).summary()
        assert (summary.call_id, summary.kind, summary.messages) == ("g", "other", len(chosen))


def test_large_and_hostile_calls_take_no_longer_than_their_messages() -> None:
    """One Call-ID with many branches, tags, sources and circles; minutes, if time grew with the square."""
    choose = random.Random(3)
    methods = ["INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "PRACK"]
    made = []
    for number in range(20_000):
        method, tag = choose.choice(methods), choose.randrange(4000)
        status = choose.choice([0, 0, 100, 180, 200, 200, 401, 487, 500])
        start = f"SIP/2.0 {status} x" if status else f"{method} sip:x SIP/2.0"
        vias = "".join(f"Via: SIP/2.0/UDP h;branch=z9hG4bK{choose.randrange(3000)}\r\n" for _ in range(3))
        buf = (
            f"{start}\r\n{vias}From: <sip:a@b>;tag={choose.randrange(3)}\r\nTo: <sip:c@d>;tag={tag}\r\nCall-ID: z\r\n"
            f"CSeq: {choose.randrange(3)} {method}\r\n\r\n"
        ).encode()
        made.append(
            Record.of(
                buf,
                time_us=choose.randrange(10**9),
                src_ip=f"10.0.{tag % 100}.1",
                src_port=1 + tag,
                dst_ip=f"10.0.{choose.randrange(100)}.1",
                dst_port=5060,
                node=f"n{number % 3}",
            )
        )
    begin = time.process_time()
    summary = Call.of(made).summary()
    assert time.process_time() - begin < 60
    assert summary.messages > 10_000


def test_the_example_in_the_documentation_works(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "calls.md").read_text()
    example = text.partition("```python\n")[2].partition("```")[0]
    scene = Scene(FRA, "find-me@192.0.2.10")
    established(scene, *PATH)
    exec(example, {"records": scene.done()})
    printed = capsys.readouterr().out
    assert printed.startswith("find-me@192.0.2.10 answered\n{'call_id': 'find-me@192.0.2.10', 'kind': 'call', ")
    assert "│◀╌" in printed


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "calls.md").read_text()
    table = text.partition("\n## Fields\n")[2].partition("\n## ")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert named == [field.name for field in attrs.fields(Summary)]
    states = text.partition("\n## States\n")[2].partition("\n## ")[0]
    assert [state for state in CALL_STATES if f"`{state}`" not in states] == []

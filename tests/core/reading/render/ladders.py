"""Ladders for the tests of renderers."""

from collections.abc import Iterable

from sipdump_core.calls.ladder import Ladder, lay_out
from sipdump_core.calls.legs import LegIndex
from sipdump_core.calls.tracker import CallTracker
from sipdump_core.record import Record
from tests.flows import FLOWS

__all__ = ["HOSTILE", "hostile", "ladder_of", "of_flow"]

HOSTILE = "</text><script>alert(1)</script>\x1b[31m\u202e\"'&]]>-->```|#end;\x00"
"""What should do nothing, wherever it comes."""


def ladder_of(records: Iterable[Record], **options: object) -> Ladder:
    """Lay out the first call of some records, with its legs."""
    tracker, index = CallTracker(), LegIndex()
    for record in records:
        tracker.feed(record)
    for call in tracker.calls.values():
        index.add(call)
    first = next(iter(tracker.calls))
    legs = [tracker.calls[leg.call_id] for leg in index.legs(first)]
    return lay_out([tracker.calls[first], *legs], **options)  # type: ignore[arg-type]


def of_flow(name: str, **options: object) -> Ladder:
    """Lay out a call flow."""
    return ladder_of(next(flow.records for flow in FLOWS if flow.name == name), **options)


def hostile() -> Ladder:
    """Lay out a call in which every field that a stranger may write is hostile."""
    bad = HOSTILE.encode()
    head = (
        b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1" + bad + b"\r\nFrom: <sip:" + bad + b"@x>;tag=" + bad
        + b"\r\nTo: <sip:" + bad + b"@y>\r\nCall-ID: " + bad + b"\r\nWarning: " + bad + b"\r\nReason: " + bad + b"\r\n"
    )  # fmt: skip
    sdp = b"Content-Type: application/sdp\r\n\r\nv=0\r\nc=IN IP4 " + bad + b"\r\nm=audio 1 RTP/AVP " + bad + b"\r\n"
    invite = b"INVITE sip:" + bad + b" SIP/2.0\r\n" + head + b"CSeq: 1 INVITE\r\n" + sdp
    reply = b"SIP/2.0 404 " + bad + b"\r\n" + head + b"CSeq: 1 INVITE\r\n\r\n\xff\xfe" + bad
    ends = {"src_port": 5060, "dst_port": 5060, "node": "<node>&"}
    return ladder_of(
        [
            Record.of(invite, time_us=1_000_000, src_ip="192.0.2.1", dst_ip="192.0.2.2", **ends),  # type: ignore[arg-type]
            Record.of(reply, time_us=1_000_500, src_ip="192.0.2.2", dst_ip="192.0.2.1", **ends),  # type: ignore[arg-type]
        ],
        names={"192.0.2.1": "<b>phone</b>"},
        notes=[HOSTILE],
    )

"""What is read from real captures is what tshark reads from them."""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.calls.message import Message
from sipdump_core.calls.tracker import CallTracker
from sipdump_core.record import Record

CORPUS = Path(os.environ.get("SIPDUMP_CORPUS", "/nowhere"))
CAPTURES = sorted(CORPUS.rglob("*.pcap"))
FIELDS = (
    "sip.Call-ID", "sip.Method", "sip.Status-Code", "sip.CSeq.seq", "sip.CSeq.method", "sip.from.tag", "sip.to.tag",
    "sip.Via.branch", "sip.from.user", "sip.to.user", "sip.r-uri", "sip.resend",
)  # fmt: skip
PLACES = ("frame.time_epoch", "ip.src", "udp.srcport", "tcp.srcport", "ip.dst", "udp.dstport", "tcp.dstport")

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed"),
    pytest.mark.skipif(not CAPTURES, reason="no folder with captures is named by SIPDUMP_CORPUS"),
]


def tshark(capture: Path, *options: str) -> str:
    command = ["tshark", "-r", str(capture), "-Y", "sip", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def packets(capture: Path) -> Iterator[tuple[Record, dict[str, str]]]:
    """Yield each SIP message of a capture, with the fields that tshark finds in it."""
    names = (*PLACES, *FIELDS)
    asked = [part for name in names for part in ("-e", name)]
    rows = tshark(capture, "-T", "fields", "-E", "separator=|", "-E", "occurrence=f", *asked).splitlines()
    frames: list[dict[str, Any]] = json.loads(tshark(capture, "-T", "json", "-x"))
    for row, frame in zip(rows, frames, strict=True):
        fields = dict(zip(names, row.split("|"), strict=True))
        seconds, _, fraction = fields["frame.time_epoch"].partition(".")
        raw = frame["_source"]["layers"]["sip_raw"][0]
        record = Record.of(
            bytes.fromhex(raw if isinstance(raw, str) else raw[0]), time_us=int(seconds) * 10**6 + int(fraction[:6]),
            tag="", proto="udp" if fields["udp.srcport"] else "tcp", src_ip=fields["ip.src"] or "192.0.2.1",
            src_port=int(fields["udp.srcport"] or fields["tcp.srcport"]), dst_ip=fields["ip.dst"] or "192.0.2.2",
            dst_port=int(fields["udp.dstport"] or fields["tcp.dstport"]),
        )  # fmt: skip
        yield record, fields


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_fields_calls_and_retransmissions(capture: Path) -> None:
    tracker = CallTracker()
    messages: Counter[str] = Counter()
    again: Counter[str] = Counter()
    finals: dict[str, str] = {}
    for record, fields in packets(capture):
        tracker.feed(record)
        message = Message(record.buf)
        number = "" if message.cseq is None else str(message.cseq)
        found = (
            message.call_id or "", message.method or "", str(message.status or ""), number,
            (message.cseq_method or "") if number else "", message.from_.tag or "", message.to.tag or "",
            message.via.branch, message.from_.user or "", message.to.user or "", message.request_uri or "",
        )  # fmt: skip
        assert found == tuple(fields[name] for name in FIELDS[:-1])
        call_id = fields["sip.Call-ID"]
        messages[call_id] += 1
        again[call_id] += fields["sip.resend"] == "1"
        if fields["sip.CSeq.method"] == "INVITE" and fields["sip.Status-Code"] >= "200":
            finals.setdefault(call_id, "")
            if finals[call_id] < "200" or finals[call_id] >= "300":
                finals[call_id] = fields["sip.Status-Code"]
    summaries = {call_id: call.summary() for call_id, call in tracker.calls.items()}
    del messages[""]
    assert {call_id: summary.messages for call_id, summary in summaries.items()} == messages
    for call_id, summary in summaries.items():
        # tshark counts no retransmissions of CANCEL
        methods = {arrow.message.method for arrow in tracker.calls[call_id].arrows if arrow.copies > 1}
        if "CANCEL" not in methods:
            assert summary.retransmissions == again[call_id]
        if summary.kind == "call":
            assert str(summary.status or "") == finals.get(call_id, "")

"""Calls that tests store: short, and different in everything that a filter asks for."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sipdump_core.record import Record
from tests.core.reading.stores import fill, workshop

PHONE, PROXY = "192.0.2.10", "203.0.113.1"


def at(clock: str, day: int = 22) -> int:
    """Return a time of a day of November 2026, in microseconds since the epoch."""
    return round(datetime.fromisoformat(f"2026-11-{day}T{clock}+00:00").timestamp() * 1_000_000)


def record(
    first: str,
    call_id: str,
    time_us: int,
    *,
    cseq: str,
    caller: str = "alice",
    callee: str = "bob",
    to_tag: str = "",
    src: str = PHONE,
    dst: str = PROXY,
    node: str = "fra-1",
    tag: str = "rcv",
    proto: str = "udp",
    headers: str = "",
) -> Record:
    to = f"<sip:{callee}@example.com>" + (f";tag={to_tag}" if to_tag else "")
    buf = (
        f"{first}\r\nVia: SIP/2.0/{proto.upper()} {PHONE}:5060;branch=z9hG4bK{cseq[0]}{call_id}\r\n"
        f"From: <sip:{caller}@example.com>;tag=1\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n"
        f"{headers}Content-Length: 0\r\n\r\n"
    ).encode()
    return Record.of(
        buf, time_us=time_us, tag=tag, pid=7, procno=2, proto=proto, af="ipv6" if ":" in src else "ipv4",
        src_ip=src, src_port=5060, dst_ip=dst, dst_port=5060, node=node,
    )  # fmt: skip


def call(
    call_id: str = "one@a",
    time_us: int = at("10:32:00"),
    *,
    status: int = 200,
    seconds: float = 30,
    caller: str = "alice",
    callee: str = "bob",
    src: str = PHONE,
    dst: str = PROXY,
    node: str = "fra-1",
    proto: str = "udp",
    headers: str = "",
    bye: bool = True,
) -> list[Record]:
    """Return a call: rings after 100 ms, has its final answer after 2 s, and ends some seconds later if that is 200."""
    ends = {"caller": caller, "callee": callee, "node": node, "proto": proto}
    there, back = {"src": src, "dst": dst, "tag": "rcv"}, {"src": dst, "dst": src, "tag": "snd"}
    uri = f"sip:{callee}@example.com"

    def sent(first: str, after: float, cseq: str, to_tag: str = "", **way: str) -> Record:
        more = headers if first.startswith("INVITE") else ""
        return record(
            first, call_id, time_us + round(after * 1e6), cseq=cseq, to_tag=to_tag, headers=more, **ends, **way
        )

    found = [
        sent(f"INVITE {uri} SIP/2.0", 0, "1 INVITE", **there),
        sent("SIP/2.0 180 Ringing", 0.1, "1 INVITE", "2", **back),
        sent(f"SIP/2.0 {status} Because", 2, "1 INVITE", "2", **back),
        sent(f"ACK {uri} SIP/2.0", 2.01, "1 ACK", "2", **there),
    ]
    if status == 200 and bye:
        found += [
            sent(f"BYE {uri} SIP/2.0", 2 + seconds, "2 BYE", "2", **there),
            sent("SIP/2.0 200 OK", 2.02 + seconds, "2 BYE", "2", **back),
        ]
    return found


def register(
    call_id: str = "reg@a", time_us: int = at("10:00:00"), *statuses: int, user: str = "alice"
) -> list[Record]:
    """Return a registration: a request for each answer, which takes 20 ms."""
    found = []
    for number, status in enumerate(statuses or (401, 200), 1):
        began = time_us + number * 1_000_000
        ends = {"caller": user, "callee": user, "cseq": f"{number} REGISTER"}
        contact = f"Contact: <sip:{user}@{PHONE}>;expires=60\r\n"
        found.append(record("REGISTER sip:example.com SIP/2.0", call_id, began, headers=contact, **ends))
        found.append(
            record(f"SIP/2.0 {status} X", call_id, began + 20_000, to_tag="2", src=PROXY, dst=PHONE, tag="snd", **ends)
        )
    return found


def store(folder: Path, *calls: Sequence[Record], backends: Sequence[str] = ("parquet",), minutes: int = 60) -> Path:
    """Store records by time, in segments of some minutes."""
    records = sorted((each for one in calls for each in one), key=lambda each: each.time_us)
    shop = workshop(folder)
    for name in backends:
        backend = shop.backend(name, shop.site())
        rest = records
        while rest:
            end = rest[0].time_us + minutes * 60_000_000
            fill(backend, [each for each in rest if each.time_us < end], rest[0].time_us / 1e6)
            rest = [each for each in rest if each.time_us >= end]
    return folder

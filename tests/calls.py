"""A day of SIP traffic with known answers, as two collectors store it, for the tests of what engines find in it.

The collector ``fra-1`` stands beside a proxy in one town, ``ams-1`` beside one in another. Users call through fra's
proxy; one call goes on to ams's, and both collectors see it. A proxy's collector has each message twice, as it is
received (``rcv``) and as it is sent on (``snd``). All times are of 2026-11-22 and -23, UTC.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import attrs
import pytest

from sipdump_core import segment
from sipdump_core.drivers.base import Backend, Site
from sipdump_core.record import Record
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import FIRST_COLUMNS, ParquetOptions
from sipdump_s3 import S3Backend, S3Options
from tests.s3_server import Server, object_bytes, objects

FRA, AMS = "fra-1", "ams-1"
PROXIES = {"192.0.2.1": FRA, "192.0.2.2": AMS}
FRA_PROXY, AMS_PROXY = PROXIES
GATEWAY, BAD_GATEWAY = "203.0.113.5", "203.0.113.6"
PHONE, SCANNER, OLD_PHONE = "198.51.100.10", "198.51.100.66", "198.51.100.20"

FIND_ME = "find-me@198.51.100.10"
RINGING_MS = [100 * n for n in range(1, 21)]
"""Milliseconds from INVITE to 180 of the calls at 07:10, one a call, each measured at the proxy."""
LATE = "late@198.51.100.10"
"""A call at 08:10, which stands in a segment that began at 07:00."""

FORKED = "forked@198.51.100.10"
"""A call at 07:26 that two gateways got, and one answered; a change of it was refused later."""

CHANGED = "changed@198.51.100.10"
"""A call at 07:27 that the caller changed; a change by the callee was refused."""
NEGOTIATED = "negotiated@198.51.100.10"
"""A call at 07:28 that was answered at the second try; the first one's session timer was too short."""

PREFIX = "kamailio-sipdump-"
COLLECTED = {FRA: 2, AMS: 3}
"""How many segments, and so files and partitions, each collector writes."""

_LINK_US = 500


def at(clock: str, day: int = 22) -> int:
    """Return a time of day of November 2026 in microseconds since the epoch."""
    return int(datetime.fromisoformat(f"2026-11-{day}T{clock}+00:00").astimezone(UTC).timestamp()) * 1_000_000


class Segment(NamedTuple):
    """What a collector writes between two rotations."""

    collector: str
    start: int
    """Seconds since the epoch."""
    records: Sequence[Record]


class Dialog(NamedTuple):
    """The headers that the messages of a call, or of a registration, have in common."""

    call_id: str
    caller: str = "alice"
    callee: str = "bob"
    agent: str = "Snom/10"
    from_tag: str = "1"
    to_tag: str = "2"

    @property
    def back(self) -> "Dialog":
        """The same dialog as the callee sees it, who numbers requests from 1, too."""
        return self._replace(caller=self.callee, callee=self.caller, from_tag=self.to_tag, to_tag=self.from_tag)

    def request(self, method: str, cseq: int = 1, *, within: bool = False) -> bytes:
        """Return a request; what is sent within the dialog has a To-tag, as ACK and BYE always have."""
        first = f"{method} sip:{self.callee}@example.com SIP/2.0"
        tagged = within or method in ("ACK", "BYE")
        return self._message(first, method, cseq, f"User-Agent: {self.agent}", tagged=tagged)

    def reply(self, status: int, method: str, cseq: int = 1) -> bytes:
        return self._message(f"SIP/2.0 {status} Because", method, cseq, "Server: gateway/2", tagged=status > 100)

    def _message(self, first: str, method: str, cseq: int, product: str, *, tagged: bool) -> bytes:
        to_tag = f";tag={self.to_tag}" if tagged else ""
        return (
            f"{first}\r\nVia: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bK{cseq}{self.call_id}{self.from_tag}\r\n"
            f"From: <sip:{self.caller}@example.com>;tag={self.from_tag}\r\n"
            f"To: <sip:{self.callee}@example.com>{to_tag}\r\n"
            f"Call-ID: {self.call_id}\r\nCSeq: {cseq} {method}\r\n{product}\r\nContent-Length: 0\r\n\r\n"
        ).encode()


class Day:
    """Collects what the collectors see."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Record]] = {FRA: [], AMS: []}

    def send(self, time_us: int, message: bytes, *path: str) -> int:
        """Send a message along a path of addresses, through its proxies; give the time of its arrival."""
        for src, dst in pairwise(path):
            if src in PROXIES:
                self._see(PROXIES[src], time_us, "snd", src, dst, message)
            time_us += _LINK_US
            if dst in PROXIES:
                self._see(PROXIES[dst], time_us, "rcv", src, dst, message)
        return time_us

    def call(self, dialog: Dialog, time_us: int, *path: str, rings_us: int, answer: int = 200, cseq: int = 1) -> None:
        """Call, ring after some time, answer 3 s later, and end after 30 s where the answer is 200."""
        back = path[::-1]
        self.send(time_us, dialog.request("INVITE", cseq), *path)
        # the first proxy has the INVITE one link after it was sent, and the 180 one link before it is back
        far = _LINK_US * (len(path) - 2)
        rings = time_us + _LINK_US + rings_us - far
        if answer < 400:
            self.send(rings, dialog.reply(180, "INVITE", cseq), *back)
        final = self.send(rings + (3_000_000 if answer < 400 else 0), dialog.reply(answer, "INVITE", cseq), *back)
        self.send(final, dialog.request("ACK", cseq), *path)
        if answer == 200:
            end = self.send(final + 30_000_000, dialog.request("BYE", cseq + 1), *path)
            self.send(end, dialog.reply(200, "BYE", cseq + 1), *back)

    def register(self, dialog: Dialog, time_us: int, phone: str, *statuses: int) -> None:
        """Register once for each status that is answered."""
        for cseq, status in enumerate(statuses, 1):
            time_us = self.send(time_us, dialog.request("REGISTER", cseq), phone, FRA_PROXY)
            time_us = self.send(time_us, dialog.reply(status, "REGISTER", cseq), FRA_PROXY, phone)

    def _see(self, collector: str, time_us: int, tag: str, src: str, dst: str, message: bytes) -> None:
        node = f"proxy-{collector[:3]}"
        record = Record.of(
            message, time_us=time_us, tag=tag, pid=7, procno=1, src_ip=src, src_port=5060, dst_ip=dst, dst_port=5060,
            node=node,
        )  # fmt: skip
        self.seen[collector].append(record)


def fork(day: Day, dialog: Dialog, time_us: int) -> None:
    """Call two gateways at once: one answers, the other is cancelled; a change of the call is refused later."""
    asked = day.send(time_us, dialog.request("INVITE"), PHONE, FRA_PROXY)
    for gateway in (GATEWAY, BAD_GATEWAY):
        day.send(asked, dialog.request("INVITE"), FRA_PROXY, gateway)
    day.send(asked + 80_000, dialog.reply(180, "INVITE"), GATEWAY, FRA_PROXY, PHONE)
    day.send(asked + 900_000, dialog.reply(200, "INVITE"), GATEWAY, FRA_PROXY, PHONE)
    day.send(asked + 901_000, dialog.request("CANCEL"), FRA_PROXY, BAD_GATEWAY)
    day.send(asked + 903_000, dialog.reply(487, "INVITE"), BAD_GATEWAY, FRA_PROXY)
    changed = day.send(asked + 5_000_000, dialog.request("INVITE", 2, within=True), PHONE, FRA_PROXY, GATEWAY)
    day.send(changed + 1000, dialog.reply(488, "INVITE", 2), GATEWAY, FRA_PROXY, PHONE)


def change(day: Day, dialog: Dialog, time_us: int) -> None:
    """Call; then both sides change the call: the caller's change is taken, the callee's is refused."""
    there, back = (PHONE, FRA_PROXY, GATEWAY), (GATEWAY, FRA_PROXY, PHONE)
    day.call(dialog, time_us, *there, rings_us=40_000)
    changed = day.send(time_us + 10_000_000, dialog.request("INVITE", 2, within=True), *there)
    accepted = day.send(changed + 1000, dialog.reply(200, "INVITE", 2), *back)
    day.send(accepted, dialog.request("ACK", 2), *there)
    changed = day.send(time_us + 20_000_000, dialog.back.request("INVITE", 1, within=True), *back)
    refused = day.send(changed + 1000, dialog.back.reply(488, "INVITE", 1), *there)
    day.send(refused, dialog.back.request("ACK", 1), *back)


def negotiate(day: Day, dialog: Dialog, time_us: int) -> None:
    """Call with a session timer that is too short (422, RFC 4028), and again with a longer one."""
    asked = day.send(time_us, dialog.request("INVITE"), PHONE, FRA_PROXY, GATEWAY)
    refused = day.send(asked + 1000, dialog.reply(422, "INVITE"), GATEWAY, FRA_PROXY, PHONE)
    day.send(refused, dialog.request("ACK"), PHONE, FRA_PROXY, GATEWAY)
    day.call(dialog, time_us + 100_000, PHONE, FRA_PROXY, GATEWAY, rings_us=70_000, cseq=2)


def segments() -> list[Segment]:
    """Return the segments of both collectors, in the order of their starts."""
    day = Day()
    day.call(Dialog(FIND_ME), at("07:30:00"), PHONE, FRA_PROXY, AMS_PROXY, GATEWAY, rings_us=2_000_000)
    for number, rings in enumerate(RINGING_MS):
        dialog, start = Dialog(f"pdd-{number}@x"), at("07:10:00") + number * 1_000_000
        challenged = number % 2
        if challenged:
            day.send(start, dialog.request("INVITE"), PHONE, FRA_PROXY)
            day.send(start + 600, dialog.reply(407, "INVITE"), FRA_PROXY, PHONE)
            day.send(start + 1200, dialog.request("ACK"), PHONE, FRA_PROXY)
        cseq = 1 + challenged
        day.call(dialog, start + 5000, PHONE, FRA_PROXY, GATEWAY, rings_us=rings * 1000, cseq=cseq)
    for number, answer in enumerate([200] * 5 + [503] * 4 + [404, 487]):
        dialog, start = Dialog(f"bad-{number}@x"), at("07:20:00") + number * 1_000_000
        day.call(dialog, start, PHONE, FRA_PROXY, BAD_GATEWAY, rings_us=50_000, answer=answer)
    over = Dialog("failover@x")  # refused by one gateway, taken by the next; the caller sees the second answer only
    day.send(at("07:25:00"), over.request("INVITE"), FRA_PROXY, BAD_GATEWAY)
    day.send(at("07:25:00") + 9000, over.reply(500, "INVITE"), BAD_GATEWAY, FRA_PROXY)
    day.call(over, at("07:24:59"), PHONE, FRA_PROXY, GATEWAY, rings_us=1_500_000)
    fork(day, Dialog(FORKED), at("07:26:00"))
    change(day, Dialog(CHANGED), at("07:27:00"))
    negotiate(day, Dialog(NEGOTIATED), at("07:28:00"))
    day.call(Dialog(LATE), at("08:10:00"), PHONE, FRA_PROXY, GATEWAY, rings_us=150_000)
    for number in range(5):
        phone = Dialog(f"phone-{number}@x", f"user{number}", f"user{number}")
        day.register(phone, at("07:00:01") + number * 1000, PHONE, 401, 200)
    for number in range(12):
        scan = Dialog(f"scan-{number}@x", str(1000 + number), str(1000 + number), "friendly-scanner")
        day.register(scan, at("07:40:00") + number * 1000, SCANNER, 401, 401)
    for number in range(2):
        old = Dialog(f"old-{number}@x", f"old{number}", f"old{number}", "OldPhone/1")
        day.register(old, at("07:50:00") + number * 1000, OLD_PHONE, 401, 403)
    for number in range(10):
        ping = Dialog(f"ping-{number}@x", "monitor", "monitor", "monitor/1")
        for proxy, start in ((FRA_PROXY, at("08:30:00")), (AMS_PROXY, at("08:30:00")), (AMS_PROXY, at("00:10:00", 23))):
            when = day.send(start + number * 1000, ping.request("OPTIONS"), GATEWAY, proxy)
            day.send(when, ping.reply(200, "OPTIONS"), proxy, GATEWAY)
    starts = {
        FRA: [at("07:00:00"), at("08:20:00")],
        AMS: [at("07:00:00"), at("08:00:00"), at("00:00:00", 23)],
    }
    found = []
    for collector, records in day.seen.items():
        records.sort(key=lambda record: record.time_us)
        begins = starts[collector]
        for begin, end in zip(begins, [*begins[1:], at("23:00:00", 23)], strict=True):
            held = [record for record in records if begin <= record.time_us < end]
            found.append(Segment(collector, begin // 1_000_000, held))
    return sorted(found, key=lambda segment: segment.start)


def store(root: Path, server: Server) -> Path:
    """Store the day through two S3 backends at the same time, and copy the bucket into a folder.

    Args:
        root: an empty folder.
        server: takes the bucket.

    Returns:
        The copy's folder: ``node=<collector>/date=yyyy-mm-dd/hour=hh/<file>``.
    """
    day = segments()
    begin = threading.Barrier(len(COLLECTED))

    def collect(collector: str, bucket: str) -> None:
        options = S3Options(bucket=bucket, endpoint_url=server.endpoint, prefix="sip", node=collector)
        spool = root / f"spool-{collector}"
        spool.mkdir()
        # one of the two is as before an update: its files are of schema version 1
        make = partial(_parquet, columns=",".join(FIRST_COLUMNS) if collector == AMS else "")
        backend = S3Backend(options, Site(str(spool), PREFIX, make=make))
        backend.start()
        begin.wait()
        for _, start, records in (one for one in day if one.collector == collector):
            backend.open(attrs.evolve(segment.Segment.starting(PREFIX, start), suffix=backend.suffix))
            for first in range(0, len(records), 50):
                backend.write(records[first : first + 50])
            backend.close()
        backend.stop()

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(COLLECTED)) as pool:
        server.enter(patch)
        with server.bucket() as bucket, server.client() as client:
            for done in [pool.submit(collect, collector, bucket) for collector in COLLECTED]:
                done.result()
            keys = objects(client, bucket)
            assert len(keys) == len(day), f"not all that was stored is in the bucket: {keys}"
            for key in keys:
                path = root / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(object_bytes(client, bucket, key))
    return root / "sip"


def _parquet(name: str, site: Site, *, columns: str) -> Backend:
    assert name == ParquetBackend.name
    return ParquetBackend(ParquetOptions(columns=columns), site)

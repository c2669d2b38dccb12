"""Our pcap files in tshark: it shows the headers of every message, also of one that had to be cut."""

import subprocess
from pathlib import Path

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_pcap import HeaderTransform, PcapBackend
from tests.e2e.peers import need, program
from tests.support import record

pytestmark = pytest.mark.peer

HEAD = (
    b"MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:5999;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
    b"From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: %s@example.com\r\n"
    b"CSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
)


def message(call_id: str, size: int) -> bytes:
    """Make a message of so many bytes."""
    head = HEAD % (call_id.encode(), size - len(HEAD % (call_id.encode(), size)))
    return head + b"x" * (size - len(head))


def fields(path: Path, *names: str) -> list[list[str]]:
    argv = [program("tshark") or "tshark", "-n", "-r", str(path), "-d", "udp.port==5070,sip", "-T", "fields",
            "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]  # fmt: skip
    for name in names:
        argv += ["-e", name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("headed", [False, True], ids=["mode 4", "mode 12"])
def test_tshark_shows_the_headers_of_long_messages(tmp_path: Path, headed: bool) -> None:
    need("tshark")
    sizes = {"short": 700, "fits": 65507, "over": 65528, "longer": 70_000, "longest": 1_000_000}
    batch: list[Record] = []
    for name, size in sizes.items():
        batch.append(record(message(f"{name}-4", size), proto="tcp"))
        batch.append(record(message(f"{name}-6", size), proto="tcp", af="ipv6", src_ip="::1", dst_ip="::2"))
    transforms = [HeaderTransform(NoOptions())] if headed else []
    backend = PcapBackend(NoOptions(), Site(str(tmp_path), "t-", transforms=transforms))
    segment = Segment("t-", "2026-11-22--23-31-00", 0, ".pcap")
    backend.open(segment)
    backend.write(batch)
    backend.close()
    names = ("sip.Call-ID", "sip.Method", "sip.from.user", "frame.len", "ip.checksum.status", "udp.checksum.status")
    rows = fields(tmp_path / segment.name, *names, "_ws.malformed")
    line = len(b"P-KSR-SIPDump: tcp pid=2738 pno=2\r\n") if headed else 0
    assert len(rows) == len(batch)
    for one, (call_id, method, user, length, ip_sum, udp_sum, malformed) in zip(batch, rows, strict=True):
        assert call_id == f"{one.call_id}"
        assert (method, user, malformed) == ("MESSAGE", "alice", "")
        assert int(length) == len(one.buf) + line + (42 if one.af == "ipv4" else 62)
        assert (ip_sum, udp_sum) == (("1", "3") if one.af == "ipv4" else ("", "1")), "1 is good, 3 not present"

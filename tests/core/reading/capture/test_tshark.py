"""What is read from captures is what tshark reads from them: messages, addresses and times."""

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from sipdump_core.reading.capture.reader import read_capture
from tests.core.reading.capture import frames
from tests.core.reading.capture.frames import (
    ETHERNET,
    LOOP,
    NULL,
    RAW,
    SLL,
    SLL2,
    SYN,
    A,
    B,
    at,
    ethernet,
    fragments4,
    fragments6,
    ipv4,
    ipv6,
    linked,
    message,
    pcap,
    tcp,
    udp,
)

CORPUS = Path(os.environ.get("SIPDUMP_CORPUS", "/nowhere"))
CAPTURES = sorted(CORPUS.rglob("*.pcap"))
FIELDS = ("frame.time_epoch", "ip.src", "ipv6.src", "udp.srcport", "tcp.srcport", "ip.dst", "ipv6.dst", "udp.dstport",
          "tcp.dstport", "sip.Call-ID")  # fmt: skip

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed"),
]

Seen = Counter[tuple[int, str, str, str, str, str]]
"""Time, addresses and ports, Call-ID of each message."""


def by_tshark(path: Path) -> Seen:
    asked = [part for name in FIELDS for part in ("-e", name)]
    order = ("-o", "tcp.reassemble_out_of_order:TRUE")
    command = ["tshark", "-n", *order, "-r", str(path), "-Y", "sip", "-T", "fields", "-E", "separator=|", *asked]
    found: Seen = Counter()
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        fields = dict(zip(FIELDS, (value.split(",") for value in line.split("|")), strict=True))
        seconds, _, fraction = fields["frame.time_epoch"][0].partition(".")
        time_us = int(seconds) * 1_000_000 + int(fraction[:6])

        def inner(*names: str, fields: dict[str, list[str]] = fields) -> str:
            return next((fields[name][-1] for name in names if fields[name] != [""]), "")

        ends = (inner("ip.src", "ipv6.src"), inner("udp.srcport", "tcp.srcport"), inner("ip.dst", "ipv6.dst"),
                inner("udp.dstport", "tcp.dstport"))  # fmt: skip
        for call_id in fields["sip.Call-ID"]:
            found[time_us, *ends, call_id] += 1
    return found


def by_us(path: Path) -> Seen:
    with path.open("rb") as file:
        return Counter(
            (
                record.time_us, record.src_ip, str(record.src_port), record.dst_ip, str(record.dst_port),
                record.call_id or "",
            )
            for record in read_capture(file)
        )  # fmt: skip


def check(path: Path, count: int) -> None:
    seen = by_us(path)
    assert seen == by_tshark(path)
    assert seen.total() == count


@pytest.mark.parametrize("linktype", [ETHERNET, SLL, SLL2, NULL, LOOP, RAW])
@pytest.mark.parametrize("order", ["<", ">"])
def test_link_types(tmp_path: Path, linktype: int, order: str) -> None:
    packets = [ipv4(udp(message("4@a"))), ipv6(udp(message("6@a"))), ipv4(tcp(1, message("tcp@a")), 6)]
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(at(linked(linktype, packet) for packet in packets), linktype, order))
    check(path, 3)


def test_vlans_tunnels_and_fragments(tmp_path: Path) -> None:
    large = udp(message("large@a", "x" * 3000))
    packets = [
        ethernet(ipv4(udp(message("vlan@a"))), tags=[0x8100]),
        ethernet(ipv4(udp(message("qinq@a"))), tags=[0x88A8, 0x8100]),
        ethernet(ipv4(ipv4(udp(message("ipip@a")), src="10.0.0.1", dst="10.0.0.2"), 4)),
        ethernet(ipv4(b"\0\0\x08\0" + ipv4(udp(message("gre@a")), src="10.0.0.1", dst="10.0.0.2"), 47)),
        *(ethernet(part) for part in reversed(fragments4(large, 1200))),
        *(ethernet(part) for part in fragments6(udp(message("large6@a", "x" * 3000)), 1200)),
        *(ethernet(part) for part in fragments4(large, 1200, ident=9)[1:]),
    ]
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(at(packets)))
    check(path, 6)


def test_tcp(tmp_path: Path) -> None:
    one, two, three = message("one@a", "a\r\n"), message("two@a", "x" * 2000 + "\r\n"), message("three@a")
    data = one + two + three + one
    cuts = [0, 100, len(one) + 300, len(one) + 1500, len(one + two), len(one + two + three) + 50, len(data)]
    parts = [(cuts[n], data[cuts[n] : cuts[n + 1]]) for n in range(len(cuts) - 1)]
    mixed = [parts[0], parts[0], parts[1], parts[3], parts[2], parts[2], *parts[4:]]
    base = (1 << 32) - 700
    packets = [ipv4(tcp(base - 1, flags=SYN), 6), ipv4(tcp(70, b"", SYN | 16, 5060, 5070), 6, B, A)]
    packets += [ipv4(tcp(base + at_, data), 6) for at_, data in mixed]
    packets += [ipv4(tcp(71, message("back@a") + message("again@a"), 16, 5060, 5070), 6, B, A)]
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(at(map(ethernet, packets))))
    check(path, 6)


def test_websocket(tmp_path: Path) -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    ask = (
        f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}"
        "Sec-WebSocket-Protocol: sip\r\n\r\n"
    ).encode()
    accept = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
    )
    up = frames.websocket(message("up@a"), mask=b"abcd")
    parted = frames.websocket(message("parts@a")[:90], final=False)
    parted += frames.websocket(message("parts@a")[90:], opcode=0)
    down = frames.websocket(message("down@a"))
    packets = [
        ipv4(tcp(99, b"", SYN, 40000, 80), 6), ipv4(tcp(499, b"", SYN | 16, 80, 40000), 6, B, A),
        ipv4(tcp(100, ask, 24, 40000, 80), 6), ipv4(tcp(500, accept, 24, 80, 40000), 6, B, A),
        ipv4(tcp(100 + len(ask), up, 24, 40000, 80), 6),
        ipv4(tcp(500 + len(accept), down + parted, 24, 80, 40000), 6, B, A),
    ]  # fmt: skip
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(at(map(ethernet, packets))))
    seen = by_us(path)
    assert sorted(call_id for *_, call_id in seen) == ["down@a", "parts@a", "up@a"]
    assert not by_tshark(path) - seen  # tshark 4.0 does not put frames together


def test_files_of_wiresharks_own_tools(tmp_path: Path) -> None:
    for name, call_id in (("a", "one@a"), ("b", "two@a")):
        text = message(call_id)
        dump = "".join(f"{offset:06x} {text[offset : offset + 16].hex(' ')}\n" for offset in range(0, len(text), 16))
        (tmp_path / f"{name}.txt").write_text(f"2026-11-22 10:32:0{len(name)}.123456\n{dump}")
        command = ["text2pcap", "-q", "-t", "%Y-%m-%d %H:%M:%S.%f", "-4", f"{A},{B}", "-u", "5060,5060"]
        subprocess.run([*command, f"{name}.txt", f"{name}.pcapng"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "c.pcap").write_bytes(pcap(at([ipv4(udp(message("raw@a")))]), RAW, ">"))
    subprocess.run(["mergecap", "-w", "all.pcapng", "a.pcapng", "b.pcapng", "c.pcap"], cwd=tmp_path, check=True)
    check(tmp_path / "all.pcapng", 3)
    subprocess.run(["editcap", "-F", "nsecpcap", "a.pcapng", "nano.pcap"], cwd=tmp_path, check=True)
    check(tmp_path / "nano.pcap", 1)
    joined = (tmp_path / "a.pcapng").read_bytes() + (tmp_path / "b.pcapng").read_bytes()
    (tmp_path / "sections.pcapng").write_bytes(joined)
    check(tmp_path / "sections.pcapng", 2)
    subprocess.run(["editcap", "-s", "200", "a.pcapng", "cut.pcapng"], cwd=tmp_path, check=True)
    assert by_us(tmp_path / "cut.pcapng").total() == by_tshark(tmp_path / "cut.pcapng").total() == 1


@pytest.mark.skipif(not CAPTURES, reason="no folder with captures is named by SIPDUMP_CORPUS")
@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_real_captures(path: Path) -> None:
    assert by_us(path) == by_tshark(path)

"""What Kamailio's own sipdump writes, and what we write of the same traffic, are the same.

One Kamailio has both: its sipdump module, mode 13, and siptrace, which mirrors the traffic to our daemon over HEP.
What must differ is left out and nothing else: HEP tells neither process ids nor ranks, and takes its own time stamps.
"""

import re
import socket
import struct
import subprocess
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.e2e.peers import (
    LOOPBACK,
    SCENARIOS,
    Daemon,
    Kamailio,
    Packet,
    Seen,
    Stage,
    bound,
    free_port,
    need,
    need_ipv6,
    program,
    read_pcap,
    request,
    request_scenario,
    until,
)

pytestmark = pytest.mark.peer

LONG = 40_000
CALL = 13
"""Messages of a call through a proxy, each seen once on every side: INVITE, 180, 200, ACK, BYE, 200, and a 100."""
TRANSPORTS = [("udp", "ipv4"), ("tcp", "ipv4"), ("udp", "ipv6"), ("tcp", "ipv6")]


@pytest.mark.parametrize(("proto", "af"), TRANSPORTS)
def test_calls_and_requests(stage: Stage, proto: str, af: str) -> None:
    need("kamailio", "sipp", "tshark")
    # Where the callers have another address than Kamailio, as they have in life, addresses tell received from sent.
    host = "127.0.0.2" if af == "ipv4" else "::1"
    if af == "ipv6":
        need_ipv6()
    daemon = stage.sipdumpd()
    callee = free_port()
    shown = f"[{host}]" if af == "ipv6" else host
    server = stage.kamailio(
        sipdump=True,
        hep=f"sip:127.0.0.1:{daemon.port}",
        uas=f"sip:{shown}:{callee};transport={proto}",
    )

    transport = ("-t", "u1" if proto == "udp" else "t1")
    target = f"{LOOPBACK[af] if af == 'ipv4' else shown}:{server.port}"
    answering = stage.sipp(SCENARIOS / "callee.xml", callee, *transport, host=host)
    answering.until(lambda: bound(callee, proto), "the callee listens")
    calling = stage.sipp(SCENARIOS / "caller.xml", free_port(), *transport, host=host, target=target)
    bodies = {"REGISTER": "", "OPTIONS": "", "MESSAGE": "hello", "MESSAGE long": "x" * LONG}
    asking = [
        stage.sipp(
            request_scenario(stage.path(f"{name.replace(' ', '-')}.xml"), name.split()[0], body),
            free_port(), *transport, host=host, target=target,
        )
        for name, body in bodies.items()
    ]  # fmt: skip
    for child in (calling, answering, *asking):
        assert child.wait() == 0, child.output()[-3000:]

    theirs, ours = settled(server, daemon, CALL + 2 * len(bodies))
    if proto == "tcp":
        ours = [as_sipdump_says(record, (host, callee), server.port) for record in ours]
    compare(theirs, ours)
    seen = {(record.tag, record.buf.split(b" ", 1)[0]) for record in ours}
    methods = (b"INVITE", b"ACK", b"BYE", b"REGISTER", b"OPTIONS", b"MESSAGE")
    assert {("rcv", method) for method in methods} <= seen
    assert {("snd", b"INVITE"), ("snd", b"ACK"), ("snd", b"BYE"), ("snd", b"SIP/2.0"), ("rcv", b"SIP/2.0")} <= seen
    assert {(record.proto, record.af) for record in ours} == {(proto, af)}
    assert any(b"\r\nm=audio " in record.buf for record in ours)
    assert max(len(record.buf) for record in ours) > LONG

    compare_pcaps(server, daemon, len(theirs), (host, callee) if proto == "tcp" else None)
    assert daemon.stop() == 0
    assert_tshark_likes(daemon, server.port, len(ours))


def test_odd_messages(stage: Stage) -> None:
    """8-bit bytes, separators in a body, other line ends; and datagrams that are no SIP.

    Of the last Kamailio's sipdump stores all, while its siptrace passes on only what begins like SIP: that is all that
    we can know over HEP.
    """
    need("kamailio")
    need_ipv6()
    daemon = stage.sipdumpd()
    server = stage.kamailio(sipdump=True, hep=f"sip:127.0.0.1:{daemon.port}")
    trap = b"||||||||||||||||||||\n====================\n"
    garbage = [
        b"a datagram that is no SIP at all, with no end of line",
        b"a datagram of several lines\nthat end with LF\nand are no SIP\n",
        b"\none that begins with a line end, and goes on with text",
        b"one with CR only\rsecond line, no SIP either\r",
    ]
    messages = [
        request("OPTIONS", 1).replace(b"\r\n", b"\n"),
        request("MESSAGE", 2, body=trap),
        request("MESSAGE", 3, body=bytes(range(1, 256))),
        request("MESSAGE", 4, body=trap + b"text without a line end"),
        request("MESSAGE", 5, body=b"cut")[:-1],
        b"OPTIONS sip:bob@example.com SIP/2.0\rno line end that counts\r",
    ]
    sent: list[bytes] = []
    for af in ("ipv4", "ipv6"):
        with socket.socket(socket.AF_INET6 if af == "ipv6" else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK[af], 0))
            host = f"{LOOPBACK[af] if af == 'ipv4' else '[::1]'}:{sock.getsockname()[1]}".encode()
            for datagram in garbage + messages:
                message = datagram.replace(b"192.0.2.1:5060", host)  # replies go where the Via says
                sock.sendto(message, (LOOPBACK[af], server.port))
                sent.append(message)
    replies = len(messages) - 1  # the last is too much for Kamailio
    everything = len(sent) + 2 * replies
    until(lambda: len(server.records()) == everything, "Kamailio stores all, and its replies")
    theirs = [record for record in server.records() if record.buf not in garbage]
    until(lambda: len(daemon.records()) >= len(theirs), "we store all")
    compare(theirs, daemon.records())
    assert Counter(record.buf for record in theirs if record.tag == "rcv") == Counter(
        m for m in sent if m not in garbage
    )


def test_tcp_reply_goes_where_via_says(stage: Stage) -> None:
    """Kamailio names a reply's destination port by the Via, though the reply goes back over the connection.

    That is a deviation of Kamailio's, but sipdump and siptrace agree in it, and so do we with both.
    """
    need("kamailio")
    daemon = stage.sipdumpd()
    server = stage.kamailio(sipdump=True, hep=f"sip:127.0.0.1:{daemon.port}")
    message = request("OPTIONS", 1, host="127.0.0.1:5099").replace(b"/UDP ", b"/TCP ")
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(message)
        sock.settimeout(60)
        assert sock.recv(4096).startswith(b"SIP/2.0 200")
        own = sock.getsockname()[1]
        theirs, ours = settled(server, daemon, 2)
    compare(theirs, ours)
    by_tag = {record.tag: record for record in ours}
    assert by_tag["rcv"].src == ("127.0.0.1", own)
    assert by_tag["snd"].dst == ("127.0.0.1", 5099)


def test_hep_over_tcp(stage: Stage) -> None:
    """Kamailio sends HEP over one TCP connection; a large frame and small ones come in order, and whole."""
    need("kamailio")
    daemon = stage.sipdumpd(listen=["tcp:127.0.0.1:0"])
    server = stage.kamailio(sipdump=True, hep=f"sip:127.0.0.1:{daemon.port};transport=tcp")
    bodies = [b"", b"x" * LONG, b"\xff\x80 8-bit", b"y" * LONG, b""]
    # from another address than Kamailio's: its port cannot tell received from sent when HEP comes over TCP
    with socket.create_connection(("127.0.0.1", server.port), 10, ("127.0.0.2", 0)) as sock:
        for number, body in enumerate(bodies):
            host = f"127.0.0.2:{sock.getsockname()[1]}"
            sock.sendall(request("MESSAGE", number, body=body, host=host).replace(b"/UDP ", b"/TCP "))
            assert sock.recv(4096).startswith(b"SIP/2.0 200")
    theirs, ours = settled(server, daemon, 2 * len(bodies))
    compare(theirs, ours)
    assert [record.what() for record in ours] == [record.what() for record in theirs], "one connection keeps the order"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("af", ["ipv4", "ipv6"])
def test_older_hep(stage: Stage, version: int, af: str) -> None:
    """Versions 1 and 2 as Kamailio writes them, with the padding that its header length leaves out."""
    need("kamailio")
    if af == "ipv6":
        need_ipv6()
    # text has no line for the node, so a callback tells it
    callback = stage.path("nodes.py")
    callback.write_text(
        "import pathlib\nout = pathlib.Path(__file__).with_suffix('.txt')\n"
        "def see(record):\n    with out.open('a') as file:\n        file.write(f'{record.node}\\n')\n"
    )
    callback_option = f"--modparam=sipdump:event_callback:s:{callback}:see"
    daemon = stage.sipdumpd(callback_option, mode=7)
    more = 'modparam("siptrace", "hep_capture_id", 4711)'
    server = stage.kamailio(sipdump=True, hep=f"sip:127.0.0.1:{daemon.port}", hep_version=version, more=more)
    before = time.time()
    with socket.socket(socket.AF_INET6 if af == "ipv6" else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK[af], 0))
        sock.settimeout(60)
        host = LOOPBACK[af] if af == "ipv4" else "[::1]"
        for number, body in enumerate([b"", b"\xff\x80", b"\x01\x02\x03", b"x" * LONG]):
            message = request("MESSAGE", number, body=body, host=f"{host}:{sock.getsockname()[1]}")
            sock.sendto(message, (LOOPBACK[af], server.port))
            assert sock.recv(65536).startswith(b"SIP/2.0 200")
    theirs, ours = settled(server, daemon, 8)
    compare(theirs, ours)
    for record in ours:
        assert before - 1 <= record.time <= time.time() + 1
    nodes = callback.with_suffix(".txt").read_text().splitlines()
    assert nodes == ["4711" if version == 2 else ""] * 8


def settled(server: Kamailio, daemon: Daemon, least: int) -> tuple[list[Seen], list[Seen]]:
    """Return both sides' records when they are all there: at least so many, and with us as many as with Kamailio."""

    def done() -> bool:
        theirs = server.records()
        return len(theirs) >= least and len(daemon.records()) >= len(theirs)

    try:
        until(done, f"{least} records on both sides")
    except AssertionError:
        compare(server.records(), daemon.records())
        raise
    return server.records(), daemon.records()


def compare(theirs: list[Seen], ours: list[Seen]) -> None:
    """Fail, and show what only one side has, unless both have the same records at about the same times."""
    missing = Counter(record.what() for record in theirs) - Counter(record.what() for record in ours)
    added = Counter(record.what() for record in ours) - Counter(record.what() for record in theirs)
    report = [
        f"{side}: {record.line()}"
        for side, records, odd in (("only Kamailio", theirs, missing), ("only we", ours, added))
        for record in records
        if record.what() in odd
    ]
    assert not report, "\n".join(["the records differ", *report])
    times: dict[object, list[list[float]]] = defaultdict(lambda: [[], []])
    for side, records in enumerate((theirs, ours)):
        for record in records:
            times[record.what()][side].append(record.time)
    for what, (one, other) in times.items():
        for mine, yours in zip(sorted(one), sorted(other), strict=True):
            assert abs(mine - yours) < 1, f"time of {what}"


def as_sipdump_says(record: Seen, callee: tuple[str, int], port: int) -> Seen:
    """Undo a deviation within Kamailio, in what the callee sends over the TCP connection that Kamailio opened.

    There sipdump names Kamailio's listening port as the destination; siptrace names the connection's own local port,
    which is the true one, and over HEP we know no other.
    """
    if record.src != callee:
        return record
    assert record.buf.startswith(b"SIP/2.0 ")
    assert record.dst[1] != port, "Kamailio does not deviate any more"
    return record._replace(dst=(record.dst[0], port))


def compare_pcaps(server: Kamailio, daemon: Daemon, count: int, callee: tuple[str, int] | None) -> None:
    """Fail unless both pcaps have the same packets, up to time, pid, pno and checksums.

    From a ``callee`` over TCP the destination port is left out too, see ``as_sipdump_says``.
    """

    def packets(child: Kamailio | Daemon) -> list[Packet]:
        return [packet for path in sorted(child.folder.glob("*.pcap")) for packet in read_pcap(path)]

    until(lambda: len(packets(server)) >= count and len(packets(daemon)) >= count, f"{count} packets in both pcaps")
    skip = callee[1] if callee else -1
    theirs, ours = (Counter(plain(packet, skip) for packet in packets(child)) for child in (server, daemon))
    assert sum(theirs.values()) == count
    report = [f"only Kamailio: {frame[:400]!r}" for frame in theirs - ours]
    report += [f"only we: {frame[:400]!r}" for frame in ours - theirs]
    assert not report, "\n".join(report)


def plain(packet: Packet, callee: int) -> bytes:
    """Return a packet's frame without what may differ; its lengths, which follow from pid and pno, must be right."""
    frame = bytearray(packet.frame)
    assert packet.original == len(frame)
    if frame[12:14] == b"\x08\x00":
        udp = 34
        assert struct.unpack_from(">H", frame, 16)[0] == len(frame) - 14
        frame[16:18] = frame[24:26] = b"\0\0"
    else:
        assert frame[12:14] == b"\x86\xdd"
        udp = 54
        assert struct.unpack_from(">H", frame, 18)[0] == len(frame) - 54
        frame[18:20] = b"\0\0"
    assert struct.unpack_from(">H", frame, udp + 4)[0] == len(frame) - udp
    frame[udp + 4 : udp + 8] = bytes(4)
    if struct.unpack_from(">H", frame, udp)[0] == callee:
        frame[udp + 2 : udp + 4] = b"\0\0"
    head, message = bytes(frame[: udp + 8]), bytes(frame[udp + 8 :])
    found = re.match(rb"[^\n]*\nP-KSR-SIPDump: \w+ pid=(\d+) pno=(\d+)\r\n", message)
    assert found, message[:200]
    return (
        head
        + message[: found.start(1)]
        + b"*"
        + message[found.end(1) : found.start(2)]
        + b"*"
        + message[found.end(2) :]
    )


def assert_tshark_likes(daemon: Daemon, port: int, count: int) -> None:
    """Fail unless tshark takes every packet for SIP, with nothing malformed and all checksums right."""
    fields = ("frame.protocols", "_ws.malformed", "ip.checksum.status", "udp.checksum.status", "ipv6.src", "sip.CSeq")
    rows = [row for path in daemon.files(".pcap") for row in tshark(path, port, fields)]
    assert len(rows) == count
    for protocols, malformed, ip_sum, udp_sum, ipv6, cseq in rows:
        assert protocols.split(":")[:5] == ["eth", "ethertype", "ipv6" if ipv6 else "ip", "udp", "sip"], protocols
        assert malformed == ""
        assert ip_sum == ("" if ipv6 else "1"), "1 is good"
        assert udp_sum == ("1" if ipv6 else "3"), "1 is good, 3 not present, which IPv4 allows"
        assert cseq


def tshark(path: Path, port: int, fields: tuple[str, ...]) -> list[list[str]]:
    """Read a pcap file with tshark; give the fields of each packet."""
    argv = [
        program("tshark") or "tshark", "-r", str(path), "-d", f"udp.port=={port},sip",
        "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields", "-E", "separator=/t",
    ]  # fmt: skip
    for field in fields:
        argv += ["-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]

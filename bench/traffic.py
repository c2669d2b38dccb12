"""The traffic that all benchmarks share: messages of one size, a few flows, a pace."""

import socket
import struct
import time
from collections.abc import Callable

from sipdump_core.record import Flow, Record

SIZE = 800
PEERS = 8
PROCESSES = 2
SERVER = "127.0.0.1"


def message(number: int, size: int = SIZE) -> bytes:
    """Return one SIP message of exactly ``size`` bytes."""
    head = (
        f"MESSAGE sip:bob@{SERVER} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {SERVER}:5071;branch=z9hG4bK{number:012d}\r\n"
        "Max-Forwards: 70\r\n"
        "From: <sip:alice@example.com>;tag=a73kszlfl\r\n"
        "To: <sip:bob@example.com>\r\n"
        f"Call-ID: {number:012d}@example.com\r\n"
        "CSeq: 1 MESSAGE\r\n"
        "Content-Type: text/plain\r\n"
    ).encode()
    body = size - len(head) - len("Content-Length: 500\r\n\r\n")
    return head + b"Content-Length: %03d\r\n\r\n" % body + b"m" * body


def records(count: int) -> list[Record]:
    """Return records as a server with two receiving processes and eight peers makes them, 20 us apart."""
    flows = [
        Flow("rcv", 4000 + process, process, "udp", "ipv4", SERVER, 40000 + peer, SERVER, 5060)
        for peer in range(PEERS)
        for process in range(PROCESSES)
    ]
    start = int(time.time() * 1e6)
    return [Record(start + 20 * n, flows[n % len(flows)], message(n)) for n in range(count)]


def hep_frame(record: Record) -> bytes:
    """Return a HEP3 frame with the chunks that Kamailio's siptrace sends."""
    seconds, micros = divmod(record.time_us, 1_000_000)
    chunks = (
        (1, b"\x02"),
        (2, b"\x11"),
        (3, socket.inet_aton(record.flow.src_ip)),
        (4, socket.inet_aton(record.flow.dst_ip)),
        (7, struct.pack(">H", record.flow.src_port)),
        (8, struct.pack(">H", record.flow.dst_port)),
        (9, struct.pack(">I", seconds)),
        (10, struct.pack(">I", micros)),
        (11, b"\x01"),
        (12, struct.pack(">I", 1)),
        (15, record.buf),
    )
    body = b"".join(struct.pack(">HHH", 0, kind, 6 + len(data)) + data for kind, data in chunks)
    return b"HEP3" + struct.pack(">H", 6 + len(body)) + body


def paced(count: int, seconds: float, emit: Callable[[int, int], None]) -> None:
    """Emit items 0 to ``count`` evenly over some seconds, once a millisecond: ``emit(first, end)``."""
    start = time.perf_counter()
    steps = max(1, int(seconds * 1000))
    done = 0
    for step in range(1, steps + 1):
        end = count * step // steps
        if end > done:
            emit(done, end)
            done = end
        rest = start + step * seconds / steps - time.perf_counter()
        if rest > 0:
            time.sleep(rest)

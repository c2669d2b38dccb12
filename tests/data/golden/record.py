"""Records the golden files: what a real Kamailio's sipdump, mode 13, writes of a small, varied sample.

Run it from the top of the tree, with Kamailio installed::

    python -m tests.data.golden.record

It starts a Kamailio on loopback, with ``TZ=UTC`` for the dates, sends it the messages below over UDP and TCP, IPv4 and
IPv6, and puts the ``.data``, ``.meta`` and ``.pcap`` beside this script, in the place of the former ones.
"""

import shutil
import socket
import sys
import tempfile
from pathlib import Path

from tests.e2e.peers import LOOPBACK, Stage, program, request, until

HERE = Path(__file__).parent
TRAP = b"||||||||||||||||||||\n====================\n"
SDP = (
    b"v=0\r\no=alice 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0\r\n"
    b"a=rtpmap:0 PCMU/8000\r\n"
)

SAMPLE = [
    request("REGISTER", 1),
    request("MESSAGE", 2, body=SDP),
    request("MESSAGE", 3, body=bytes(range(1, 256))),  # 8-bit bytes
    request("MESSAGE", 4, body=TRAP),  # separators in the body
    request("MESSAGE", 5, body=TRAP + TRAP[::-1] + b"and text without a line end"),
    request("MESSAGE", 6, body="Grüße".encode("latin-1")),  # no UTF-8, no final newline
    request("MESSAGE", 7, body=b"x" * 3000),
]
DATAGRAMS = [  # Kamailio takes what has 32 bytes or more
    b"garbage without any line end, as a scanner may send it",
    b"garbage of three lines\nthat end with LF\nand are no SIP at all\n",
    b"garbage with a CR only\rand no LF, which counts as no line end\r",
    b"\ngarbage that begins with a line end, and goes on after it",
    request("OPTIONS", 8).replace(b"\r\n", b"\n"),
    request("MESSAGE", 9, body=b"cut short")[:-4],
]


def via(message: bytes, transport: bytes, sock: socket.socket) -> bytes:
    """Return the message with a Via of this socket, so that replies stay on loopback."""
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return message.replace(b"SIP/2.0/UDP 192.0.2.1:5060", b"SIP/2.0/%b %b" % (transport, shown.encode()))


def main() -> int:
    """Record."""
    if not program("kamailio"):
        print("kamailio is not installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        server = stage.kamailio(sipdump=True, env={"TZ": "UTC"})
        expected = 0
        for af, family in (("ipv4", socket.AF_INET), ("ipv6", socket.AF_INET6)):
            with socket.socket(family, socket.SOCK_STREAM) as stream:
                stream.connect((LOOPBACK[af], server.port))
                for message in SAMPLE:
                    stream.sendall(via(message, b"TCP", stream))
                    stream.recv(65536)
            with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
                datagrams.bind((LOOPBACK[af], 0))
                for message in SAMPLE + DATAGRAMS:
                    datagrams.sendto(via(message, b"UDP", datagrams), (LOOPBACK[af], server.port))
            answered = 2 * len(SAMPLE) + sum(b" SIP/2.0" in message for message in DATAGRAMS)
            expected += 2 * len(SAMPLE) + len(DATAGRAMS) + answered
            until(lambda count=expected: len(server.records()) == count, "all is stored")  # type: ignore[misc]
        server.stop()
        for suffix in (".data", ".meta", ".pcap"):
            for former in HERE.glob(f"*{suffix}"):
                former.unlink()
            for path in server.folder.glob(f"*{suffix}"):
                shutil.copyfile(path, HERE / path.name)
                print(HERE / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

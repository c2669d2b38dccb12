"""Kamailio's workers for tests: the frames that they send, and a source that takes them."""

import socket
import struct
from pathlib import Path
from typing import Any

from sipdump_core.record import Record
from sipdump_core.settings.ksr import KsrOptions
from sipdump_core.sipdump import SipDump
from sipdump_core.sources.ksr import KsrSource
from tests.support import OPTIONS

HEAD = b"rcv\tudp\t192.0.2.1\t5060\t192.0.2.2\t5061"
TIME = 1_795_386_431_765_284


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload) + 1) + kind + payload


def hello(pid: int = 4711, procno: int = 3, rank: int = 2, version: int = 1) -> bytes:
    return frame(b"H", struct.pack(">HIii", version, pid, procno, rank))


def message(buf: bytes = OPTIONS, head: bytes = HEAD, when: int = TIME, kind: bytes = b"M") -> bytes:
    return frame(kind, struct.pack(">QH", when, len(head)) + head + buf)


class Bench:
    """A source, with an event route that takes down what comes."""

    def __init__(self, tmp_path: Path, **options: Any) -> None:
        self.path = tmp_path / "ksr"
        self.records: list[Record] = []
        self.dump = SipDump(enable=1, mode=3, folder=str(tmp_path), wait_mode=1)
        self.dump.event_route(self.records.append)
        self.source = KsrSource(KsrOptions(listen=f"unix:{self.path}", **options), self.dump)  # type: ignore[arg-type]

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(60)
        sock.connect(str(self.path))
        if data:  # one that is refused is closed by now, and would not even take nothing
            sock.sendall(data)
        return sock

    def close(self) -> None:
        self.source.close()
        self.dump.close()

    def stored(self) -> bytes:
        self.dump.flush()
        return b"".join(path.read_bytes() for path in self.path.parent.glob("*.data"))

    def meta(self) -> list[str]:
        return [line for line in self.dump.table.render().splitlines() if line.startswith("process: ")]


def closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True

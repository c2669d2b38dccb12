"""Kamailio's own sipdump, on the same messages."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from bench import machine, traffic

_CONFIG = """#!KAMAILIO
debug=0
log_stderror=yes
fork=yes
children={children}
auto_aliases=no
enable_tls=no
disable_tcp=yes
listen=udp:{host}:{port}
loadmodule "sipdump.so"
modparam("sipdump", "enable", 1)
modparam("sipdump", "mode", {mode})
modparam("sipdump", "wait", {wait})
modparam("sipdump", "folder", "{folder}")
request_route {{ exit; }}
"""
_MARK = b"||||||||||||||||||||\n===================="


def program() -> str | None:
    """Return the path of Kamailio, None if it is not installed."""
    return shutil.which("kamailio") or shutil.which("kamailio", path="/usr/sbin:/usr/local/sbin")


@attrs.define
class Kamailio:
    """A running Kamailio."""

    folder: Path
    sockets: list[socket.socket]
    messages: list[bytes]
    writer: int
    """Process id of the one that the .meta file calls SIPDUMP WRITE TIMER."""

    def window(self, seconds: float, count: int) -> tuple[int, int]:
        """Send messages for a time; return how many were stored, and the writer's CPU nanoseconds."""
        before, start = self._stored(), machine.cpu_ns(self.writer)
        sockets, messages = self.sockets, self.messages

        def emit(first: int, end: int) -> None:
            for number in range(first, end):
                sockets[number % traffic.PEERS].send(messages[number % 2000])

        traffic.paced(count, seconds, emit)
        time.sleep(0.1)
        spent = machine.cpu_ns(self.writer) - start
        return self._stored() - before, spent

    def _stored(self) -> int:
        return sum(path.read_bytes().count(_MARK) for path in self.folder.glob("*.data"))


@contextlib.contextmanager
def running(folder: Path, mode: int, wait: int) -> Iterator[Kamailio]:
    """Run Kamailio on a free loopback port, storing in a new folder.

    Args:
        folder: where to create that folder.
        mode: sipdump's mode.
        wait: sipdump's wait, microseconds.

    Raises:
        RuntimeError: it does not start, or does not store.
    """
    command = program()
    folder = folder / "kamailio"
    folder.mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((traffic.SERVER, 0))
        port = probe.getsockname()[1]
    config, log = folder / "kamailio.cfg", folder / "log"
    config.write_text(
        _CONFIG.format(children=traffic.PROCESSES, host=traffic.SERVER, port=port, mode=mode, wait=wait, folder=folder)
    )
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        output = stack.enter_context(log.open("w"))
        process = subprocess.Popen(
            [str(command), "-DD", "-f", str(config), "-Y", str(folder)], stdout=output, stderr=output
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        sockets = []
        for _ in range(traffic.PEERS):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.connect((traffic.SERVER, port))
            sockets.append(sock)
        messages = [traffic.message(number) for number in range(2000)]
        writer = _writer(folder, sockets[0], messages[0])
        if not writer:
            raise RuntimeError(f"Kamailio does not store: {log.read_text()[-500:]}")
        yield Kamailio(folder, sockets, messages, writer)


def _writer(folder: Path, sock: socket.socket, first: bytes) -> int | None:
    """Send messages until Kamailio opens its files; return the writer's process id from the .meta file."""
    for _ in range(100):
        time.sleep(0.1)
        with contextlib.suppress(ConnectionRefusedError):
            sock.send(first)
        for path in folder.glob("*.meta"):
            match = re.search(r"process: \d+ (\d+) SIPDUMP WRITE TIMER", path.read_text())
            if match:
                time.sleep(0.2)
                return int(match[1])
    return None

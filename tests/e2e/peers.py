"""Real programs for tests to talk to: Kamailio, sipp, tshark, and our own daemon.

Each is a child in the foreground, on loopback, with files of its own, and is ended by its process id alone. Nothing
here sleeps for a fixed time: ``until`` polls a condition up to a deadline.
"""

import itertools
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}
DATA_START = b"====================\n"
DATA_TRAILER = b"||||||||||||||||||||\n"
DEADLINE = 60.0
"""Seconds until a condition is given up: long, because only a failing test waits for it."""

_POLL = 0.005
_MORE_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def program(name: str) -> str | None:
    """Find a program; daemons stand in folders that a user's PATH may lack."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_PATH]))


def need(*names: str) -> None:
    """Skip the test where a peer is not installed, or fail it where the environment says that all peers are there."""
    missing = [name for name in names if not program(name)]
    if missing:
        lacking(f"not installed: {', '.join(missing)}")


def need_ipv6() -> None:
    """The same for IPv6 on loopback, which containers may lack."""
    if not has_ipv6():
        lacking("no IPv6 on loopback")


def has_ipv6() -> bool:
    """Say whether there is IPv6 on loopback."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def lacking(what: str) -> NoReturn:
    """Skip the test, or fail it where the environment says that all peers are there."""
    if os.environ.get("SIPDUMP_REQUIRE_PEERS") == "1":
        pytest.fail(f"{what}, and SIPDUMP_REQUIRE_PEERS=1 asks for it", pytrace=False)
    pytest.skip(what)


def until(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(_POLL)


def _ports() -> Iterator[int]:
    """Return port numbers below those that the kernel gives away, in a range of this xdist worker's own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
    low, high = 11000 + 1200 * worker, 11000 + 1200 * (worker + 1)
    start = random.randrange(low, high, 4)
    while True:
        yield from (*range(start, high, 4), *range(low, start, 4))


_NUMBERS = _ports()


def free_port() -> int:
    """Return a port that is free now on every address, for UDP and TCP; the three after it are its caller's too."""
    for port in itertools.islice(_NUMBERS, 300):
        hosts = ["0.0.0.0", *(["::"] if has_ipv6() else [])]
        if not any(taken(host, port + i, proto) for host in hosts for i in range(4) for proto in ("udp", "tcp")):
            return port
    raise AssertionError("no free port found")


def taken(host: str, port: int, proto: str) -> bool:
    """Say whether a program has bound this port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM) as sock:
        try:
            sock.bind((host, port))
        except OSError:
            return True
    return False


def bound(port: int, proto: str) -> bool:
    """Say whether a program has bound this port, without binding it for a try: it may be about to.

    Source: proc(5), /proc/net/tcp and /proc/net/udp; a TCP socket that listens is in the state 0A.
    """
    for table in (proto, f"{proto}6"):
        path = Path(f"/proc/self/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            _, local, _, state, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == port and (proto == "udp" or state == "0A"):
                return True
    return False


class Child:
    """A program in the foreground, with its output in a file.

    Args:
        argv: the command.
        log: the file for its output.
        env: changes to the environment; None removes a variable.
        nofile: how many files it may have open, as ``ulimit -n`` sets it.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        env: Mapping[str, str | None] | None = None,
        nofile: int | None = None,
    ) -> None:
        variables = {**os.environ, **(env or {})}
        self.argv = [str(part) for part in argv]
        # the shell is replaced by the program, so the pid is the program's
        limit = ["/bin/sh", "-c", f'ulimit -n {nofile}; exec "$@"', "sh"] if nofile else []
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*limit, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=log.parent,
                env={name: value for name, value in variables.items() if value is not None},
                start_new_session=True,  # so that it can be ended with its children
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text(errors="backslashreplace")

    def until(self, condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
        """Wait for a condition; a child that ended will not bring it about, so that fails at once."""

        def met() -> bool:
            ended = self.process.poll() is not None  # looked at first, so that its last deeds count
            if condition():
                return True
            assert not ended, f"{self.argv[0]} ended with {self.process.returncode}: {what}\n{self.output()}"
            return False

        try:
            until(met, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()[-5000:]}") from None

    def says(self, text: str, timeout: float = DEADLINE) -> None:
        """Wait until it has printed this."""
        self.until(lambda: text in self.output(), f"output {text!r}", timeout)

    def wait(self, timeout: float = DEADLINE) -> int:
        """Wait for its end, and give its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv[0]} did not end in {timeout} s\n{self.output()[-5000:]}") from None

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = DEADLINE) -> int:
        """Ask it to end, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.wait(timeout)

    def end(self) -> None:
        """End it in any case, and leave nothing of it behind.

        Kamailio 5.6 may wait a minute for a child that missed the signal.
        """
        try:
            self.stop(timeout=5)
        except AssertionError:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()


class Daemon(Child):
    """``sipdumpd``, ready: it listens, and ``ports`` says where."""

    folder: Path

    @property
    def port(self) -> int:
        """The first port that it listens on."""
        return self.ports()[0]

    def ports(self) -> list[int]:
        """Return its ports in the order of its listen parameters."""
        return [int(port) for port in re.findall(r"listening for HEP\b.*port=(\d+)", self.output())]

    def files(self, suffix: str) -> list[Path]:
        """Return its files, oldest first."""
        return files(self.folder, suffix)

    def records(self) -> list["Seen"]:
        """Read what stands in all its ``.data`` files."""
        return [record for path in self.files(".data") for record in read_data(path)]


class Kamailio(Child):
    """A Kamailio that is listening on ``port``, over UDP and TCP, on both families where there are two."""

    port: int
    folder: Path
    """Where its own sipdump writes."""

    def records(self) -> list["Seen"]:
        """Read what its own sipdump has written."""
        return [record for path in files(self.folder, ".data") for record in read_data(path)]


class Stage:
    """Starts programs for one test, and ends them all with it.

    Args:
        folder: where their files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            child.end()

    def path(self, name: str) -> Path:
        """Return a path that no other program of the stage uses."""
        return self.folder / f"{len(self._children)}-{name}"

    def run(self, argv: Sequence[str | Path], name: str, env: Mapping[str, str | None] | None = None) -> Child:
        """Start any program."""
        return self._keep(Child(argv, self.path(f"{name}.log"), env))

    def sipdumpd(
        self,
        *options: str,
        folder: Path | None = None,
        mode: int = 13,
        listen: Sequence[str] = ("udp:127.0.0.1:0",),
        env: Mapping[str, str | None] | None = None,
        nofile: int | None = None,
    ) -> Daemon:
        """Start the daemon and wait until it is ready; ``options`` go onto its command line."""
        folder = folder or self.path("sipdumpd")
        folder.mkdir(exist_ok=True)
        lines = [
            'modparam("sipdump", "enable", 1)',
            f'modparam("sipdump", "mode", {mode})',
            f'modparam("sipdump", "folder", "{folder}")',
            *(f'modparam("sipdump_hep", "listen", "{where}")' for where in listen),
        ]
        config = self.path("sipdumpd.cfg")
        config.write_text("\n".join(lines) + "\n")
        daemon = Daemon([*sipdumpd_command(), "-f", config, *options], self.path("sipdumpd.log"), env, nofile)
        self._keep(daemon)
        daemon.folder = folder
        daemon.says("sipdumpd started")
        return daemon

    def kamailio(
        self,
        *,
        sipdump: bool = False,
        hep: str = "",
        hep_version: int = 3,
        uas: str = "",
        more: str = "",
        hosts: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
    ) -> Kamailio:
        """Start a Kamailio and wait until it listens.

        Args:
            sipdump: load its own sipdump module, mode 13.
            hep: a SIP URI that siptrace sends HEP to.
            hep_version: 1, 2 or 3.
            uas: a SIP URI that calls are relayed to.
            more: more lines of configuration, before the routes.
            hosts: where it listens; by default on loopback, on both families.
            env: changes to its environment.
        """
        port = free_port()
        folder, run_dir, config = self.path("kamailio"), self.path("run"), self.path("kamailio.cfg")
        folder.mkdir()
        run_dir.mkdir()
        config.write_text(_kamailio_config(port, str(folder) if sipdump else "", hep, hep_version, uas, more, hosts))
        argv: list[str | Path] = [
            program("kamailio") or "kamailio",
            "-f",
            config,
            "-DD",
            "-E",
            "-Y",
            run_dir,
            "-m",
            "32",
        ]
        server = Kamailio(argv, self.path("kamailio.log"), env)
        self._keep(server)
        server.port, server.folder = port, folder
        server.until(lambda: _accepts(port), "Kamailio listens")
        return server

    def sipp(self, scenario: str | Path, port: int, *options: str, host: str = "127.0.0.1", target: str = "") -> Child:
        """Start sipp: a caller when there is a ``target``, else one who answers; one call unless told otherwise."""
        argv = [
            program("sipp") or "sipp", *(["-sn", scenario] if isinstance(scenario, str) else ["-sf", str(scenario)]),
            "-i", f"[{host}]" if ":" in host else host, "-p", str(port), "-m", "1", "-nostdin",
            "-cp", str(free_port()), "-mp", str(free_port()), "-timeout", "60", "-timeout_error",
            "-max_socket", "64", *options, *([target] if target else []),
        ]  # fmt: skip
        return self.run(argv, "sipp", {"TERM": "dumb"})

    def _keep(self, child: Child) -> Child:
        self._children.append(child)
        return child


def sipdumpd_command() -> list[str]:
    """Return the command as a user has it, or the module where no console script is installed beside this Python."""
    script = Path(sys.executable).with_name("sipdumpd")
    return [str(script)] if script.exists() else [sys.executable, "-m", "sipdump_core.daemon"]


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _kamailio_config(
    port: int, sipdump: str, hep: str, hep_version: int, uas: str, more: str, hosts: Sequence[str]
) -> str:
    hosts = hosts or ["127.0.0.1", *(["[::1]"] if has_ipv6() else [])]
    lines = [
        "#!KAMAILIO",
        "debug=2\nlog_stderror=yes\nfork=yes\nchildren=1\ntcp_children=1\nenable_tls=no\nauto_aliases=no",
        "tcp_rd_buf_size=65536",  # by default a message over TCP may have 16 kB
        "tcp_conn_wq_max=1048576",  # by default 32 kB wait for a connection being made, and longer HEP frames get lost
        *(f"listen={proto}:{host}:{port}" for host in hosts for proto in ("udp", "tcp")),
        *(f'loadmodule "{name}.so"' for name in ("tm", "sl", "pv", "rr", "textops", "siputils")),
    ]
    if sipdump:
        lines += [
            'loadmodule "sipdump.so"',
            'modparam("sipdump", "enable", 1)\nmodparam("sipdump", "mode", 13)',
            f'modparam("sipdump", "folder", "{sipdump}")',
        ]
    if hep:
        lines += [
            'loadmodule "siptrace.so"',
            'modparam("siptrace", "trace_on", 1)\nmodparam("siptrace", "trace_mode", 1)',
            'modparam("siptrace", "hep_mode_on", 1)\nmodparam("siptrace", "trace_to_database", 0)',
            f'modparam("siptrace", "hep_version", {hep_version})',
            f'modparam("siptrace", "duplicate_uri", "{hep}")',
        ]
    lines += [more, _ROUTES.replace("@UAS@", uas)]
    return "\n".join(lines) + "\n"


_ROUTES = """
request_route {
    if (is_method("REGISTER|OPTIONS|MESSAGE")) { sl_send_reply("200", "OK"); exit; }
    if (has_totag()) {
        if (loose_route()) { t_relay(); }
        exit;
    }
    record_route();
    $du = "@UAS@";
    t_relay();
}
"""


class Seen(NamedTuple):
    """One record of a ``.data`` file, read by a few lines that share nothing with the code under test."""

    tag: str
    proto: str
    af: str
    src: tuple[str, int]
    dst: tuple[str, int]
    buf: bytes
    time: float
    pid: int
    procno: int

    def what(self) -> "tuple[str, str, str, tuple[str, int], tuple[str, int], bytes]":
        """Return what does not depend on who wrote it down."""
        return self[:6]

    def line(self) -> str:
        """Show it, for reports."""
        first = self.buf.split(b"\r\n", 1)[0][:60]
        return f"{self.tag} {self.proto} {self.af} {self.src} -> {self.dst} {len(self.buf)} bytes {first!r}"


_RECORD = re.compile(
    rb"={20}\ntag: (.*)\npid: (\d+)\nprocess: (\d+)\ntime: (\d+\.\d{6})\ndate: .*\nproto: (\w+) (\w+)\n"
    rb"srcip: (.*)\nsrcport: (\d+)\ndstip: (.*)\ndstport: (\d+)\n~{20}\n"
)


def read_data(path: Path) -> Iterator[Seen]:
    """Read a ``.data`` file up to its last full record; between two records nothing else may stand."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        head = _RECORD.match(data, at)
        if head is None:
            assert len(data) - at < 400, f"{path}: no record at {at}: {data[at : at + 60]!r}"
            return
        # a body may hold the separators, but none of the tests' goes on with "tag:"
        end = data.find(DATA_TRAILER + DATA_START + b"tag: ", head.end())
        if end < 0 and not data.endswith(DATA_TRAILER):
            return
        end = end if end >= 0 else len(data) - len(DATA_TRAILER)
        tag, pid, procno, when, proto, af, src, sport, dst, dport = (part.decode() for part in head.groups())
        yield Seen(
            tag, proto, af, (src, int(sport)), (dst, int(dport)), data[head.end() : end], float(when), int(pid),
            int(procno),
        )  # fmt: skip
        at = end + len(DATA_TRAILER)


class Packet(NamedTuple):
    """One packet of a pcap file."""

    original: int
    frame: bytes


def read_pcap(path: Path) -> Iterator[Packet]:
    """Read a classic pcap file up to its last full packet."""
    data = path.read_bytes()
    if len(data) < 24:
        return
    assert data[:24] in [struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snaplen, 1) for snaplen in (65535, 262144)]
    at = 24
    while len(data) - at >= 16:
        _, _, length, original = struct.unpack_from("=IIII", data, at)
        if len(data) - at - 16 < length:
            return
        yield Packet(original, data[at + 16 : at + 16 + length])
        at += 16 + length


def files(folder: Path, suffix: str) -> list[Path]:
    """Return a folder's segment files of one kind, oldest first."""
    return sorted(folder.glob(f"kamailio-sipdump-*{suffix}"), key=lambda path: (path.stat().st_ctime_ns, path.name))


def hep3(
    buf: bytes,
    *,
    src: tuple[str, int] = ("192.0.2.1", 5060),
    dst: tuple[str, int] = ("192.0.2.2", 5060),
    when: float | None = None,
    proto: int = 17,
) -> bytes:
    """Make a HEP3 frame of an IPv4 message, as Kamailio's siptrace makes them."""
    seconds, fraction = divmod(time.time() if when is None else when, 1)
    chunks = [
        (1, b"\x02"), (2, bytes([proto])), (3, socket.inet_aton(src[0])), (4, socket.inet_aton(dst[0])),
        (7, struct.pack(">H", src[1])), (8, struct.pack(">H", dst[1])),
        (9, struct.pack(">I", int(seconds))), (10, struct.pack(">I", int(fraction * 1e6))),
        (11, b"\x01"), (12, struct.pack(">I", 1)), (15, buf),
    ]  # fmt: skip
    body = b"".join(struct.pack(">HHH", 0, kind, len(value) + 6) + value for kind, value in chunks)
    return b"HEP3" + struct.pack(">H", len(body) + 6) + body


def request(method: str = "OPTIONS", number: int = 1, body: bytes = b"", host: str = "192.0.2.1:5060") -> bytes:
    """Make a small SIP request; the number makes it unlike all others."""
    head = (
        f"{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {host};branch=z9hG4bK{number}\r\n"
        f"From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: {number}@example.com\r\n"
        f"CSeq: {number} {method}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


SCENARIOS = Path(__file__).parent.parent / "data" / "sipp"
"""Where the sipp scenarios of a call stand."""


def request_scenario(path: Path, method: str, body: str = "") -> Path:
    """Write a sipp scenario: one request, and 200 to it."""
    kind = "Content-Type: text/plain\n" if body else ""
    path.write_text(
        f"""<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="{method}">
  <send retrans="500">
    <![CDATA[

{method} sip:[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: "Alice" <sip:alice@example.com>;tag=[pid]a[call_number]
To: "Alice" <sip:alice@example.com>
Call-ID: [call_id]
CSeq: 1 {method}
Contact: <sip:alice@[local_ip]:[local_port];transport=[transport]>
Max-Forwards: 70
Expires: 300
{kind}Content-Length: [len]

{body}
    ]]>
  </send>
  <recv response="200"/>
</scenario>
"""
    )
    return path

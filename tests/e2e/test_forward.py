"""A real Kamailio forwards its messages with our script, and what arrives is what its own sipdump wrote."""

import re
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.peers import (
    SCENARIOS,
    Child,
    Daemon,
    Seen,
    Stage,
    bound,
    files,
    free_port,
    has_ipv6,
    need,
    program,
    read_data,
    read_pcap,
    request,
)

EXAMPLES = Path(__file__).parents[2] / "examples" / "kamailio"

pytestmark = pytest.mark.peer

CALL = 13
"""Messages of a call through a proxy, each seen once on every side: INVITE, 180, 200, ACK, BYE, 200, and a 100."""
BODIES = {
    1: b"",
    2: b"a\0b",
    3: b"\xff\xfe8bit\xed\xa0\x80",
    4: "Grüße €".encode(),
    5: b"x" * 40_000,
    6: b"\xff" * 40_000,
    7: b"x" * 60_000,
    8: bytes(range(256)) * 234,
    9: b"||||||||||||||||||||\n====================\n",
}


_MISSING = """\
        KSR.tm.t_on_branch("manage_branch")
        KSR.tm.t_on_reply("ksr_onreply_manage")
        KSR.tm.t_on_failure("ksr_failure_manage")
        KSR.tm.t_on_branch_failure("ksr_branch_failure_manage")
"""


class Server(NamedTuple):
    """A Kamailio that forwards, and also writes ``.data`` itself."""

    child: Child
    port: int
    folder: Path

    def records(self) -> list[Seen]:
        return [record for path in files(self.folder, ".data") for record in read_data(path)]

    def processes(self) -> list[str]:
        return _processes(self.folder)


def _processes(folder: Path) -> list[str]:
    found = files(folder, ".meta")
    return [line for line in found[-1].read_text().splitlines() if line.startswith("process: ")] if found else []


def _kamailio(stage: Stage, kind: str, sock: Path, callee: str = "", *, missing: bool = False) -> Server:
    """Start a Kamailio from an example, with this test's paths and ports, and with ``.data`` files of its own.

    Args:
        callee: the URI that calls are relayed to.
        missing: let the KEMI script use routes and events that it lacks.
    """
    need("kamailio", "kamcmd")
    if not _has_python_module():
        need("kamailio-python3-modules")
    port, folder = free_port(), stage.path(f"{kind}-dump")
    lib = stage.path(f"{kind}-etc")
    for path in (folder, lib, run := stage.path(f"{kind}-run")):
        path.mkdir()
    text = (EXAMPLES / f"forward-{kind}.cfg").read_text()
    changes = {
        "/run/sipdump/ksr": str(sock),
        "/run/kamailio/kamailio_ctl": f"{sock}.ctl",
        "/etc/kamailio/": f"{lib}/",
        "127.0.0.1:5060\n": f"127.0.0.1:{port}\n",
        '"mode", 2)': f'"mode", 3)\nmodparam("sipdump", "folder", "{folder}")',
        'python_exec("sipdump_forward_send"': 'sipdump_send("cfg");\n        python_exec("sipdump_forward_send"',
        "tcp_children=2\n": "tcp_children=2\ntcp_rd_buf_size=262144\nauto_aliases=no\nlog_stderror=yes\ndebug=2\n"
        + (f"listen=udp:[::1]:{port}\n" if has_ipv6() else ""),
    }
    if callee:
        changes["record_route();\n"] = f'record_route();\n    $du = "{callee}";\n'
    if missing:
        changes['loadmodule "sl.so"\n'] = 'loadmodule "sl.so"\nmodparam("tm", "event_callback", "ksr_tm_event")\n'
    for old, new in changes.items():
        text = text.replace(old, new)
    for script in EXAMPLES.glob("*forward*.py"):
        source = script.read_text()
        old = '            self.sipdump_forward_send(msg, "cfg")\n'
        source = source.replace(old, '            KSR.sipdump.send("cfg")\n' + old)
        if callee:
            old = "        KSR.rr.record_route()\n"
            armed = _MISSING if missing else ""
            source = source.replace(old, f'{old}        KSR.pv.sets("$du", "{callee}")\n{armed}')
        if missing:  # a route that runs after the look-up of one that is not there
            old = "    def ksr_request_route"
            source = source.replace(old, f"    def ksr_onsend_route(self, msg):\n        return 1\n\n{old}")
        (lib / script.name).write_text(source)
    config = lib / "kamailio.cfg"
    config.write_text(text)
    argv: list[str | Path] = [program("kamailio") or "kamailio", "-f", config, "-DD", "-E", "-Y", run, "-m", "32"]
    child = stage.run(argv, "kamailio")
    # before the last of its processes is there, its own .meta is not whole
    child.until(lambda: "tcp main process" in (ps := _ps(sock)) and "attendant" in ps, "all of Kamailio's processes")
    child.until(lambda: _answers(port), "Kamailio answers")
    return Server(child, port, folder)


def _ps(sock: Path) -> str:
    argv = [program("kamcmd") or "kamcmd", "-s", f"unix:{sock}.ctl", "core.ps"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout


def _has_python_module() -> bool:
    return any(Path("/usr/lib").glob("**/kamailio/modules/app_python3.so"))


def _answers(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.connect(("127.0.0.1", port))
        try:
            sock.send(request(number=0, host=f"127.0.0.1:{sock.getsockname()[1]}"))
            return sock.recv(65535).startswith(b"SIP/2.0 200")
        except OSError:
            return False


def _sipdumpd(stage: Stage, sock: Path, ctl: str = "", folder: Path | None = None) -> Daemon:
    options = [f"--modparam=sipdump_ksr:listen:s:unix:{sock}"]
    options += [f"--modparam=sipdump_ksr:ctl:s:unix:{ctl}"] if ctl else []
    return stage.sipdumpd(*options, folder=folder)


@pytest.fixture(params=["native", "kemi"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _talk(host: str, port: int, proto: str, bodies: dict[int, bytes], first: int) -> list[bytes]:
    """Send requests and take the replies; give what was sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
    sent = []
    with socket.socket(family, kind) as sock:
        sock.settimeout(60)
        sock.connect((host, port))
        for number, body in bodies.items():
            via = f"{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
            data = request("MESSAGE" if number == 4 else "OPTIONS", first + number, body, via)
            data = data.replace(b"SIP/2.0/UDP", f"SIP/2.0/{proto.upper()}".encode())
            sock.sendall(data)
            assert sock.recv(65535).startswith(b"SIP/2.0 200"), number
            sent.append(data)
    return sent


def _ours(records: list[Seen]) -> list[Seen]:
    """Order as each worker had them; workers do not wait for each other."""
    return sorted(records, key=lambda record: record.pid)


def test_what_arrives_is_what_kamailios_own_sipdump_wrote(stage: Stage, kind: str) -> None:
    sock = stage.path("ksr")
    daemon = _sipdumpd(stage, sock, f"{sock}.ctl")
    server = _kamailio(stage, kind, sock)
    sent = _talk("127.0.0.1", server.port, "udp", BODIES, 100)
    sent += _talk("127.0.0.1", server.port, "tcp", BODIES, 200)
    if has_ipv6():
        sent += _talk("::1", server.port, "udp", {1: b"", 4: b"six"}, 300)

    def both() -> bool:
        theirs, ours = server.records(), daemon.records()
        return len(theirs) == len(ours) and len(ours) >= 2 * len(sent)

    daemon.until(both, "both have the same number of records")
    theirs, ours = _ours(server.records()), _ours(daemon.records())
    for their, our in zip(theirs, ours, strict=True):
        assert (their.tag, their.pid, their.procno, their.proto, their.af, their.src, their.dst) == (
            our.tag, our.pid, our.procno, our.proto, our.af, our.src, our.dst,
        )  # fmt: skip
        assert 0 <= our.time - their.time < 1.0
        whole, cut = our.buf, their.buf
        if b"\0" in whole:  # Kamailio ends a record there
            whole = whole.partition(b"\0")[0]
        assert whole == cut
    assert {record.tag for record in ours} == {"rcv", "snd", "cfg"}
    assert len({record.procno for record in ours}) > 1
    received = {record.buf for record in ours if record.tag == "rcv"}
    assert set(sent) <= received
    assert {record.buf for record in ours if record.tag == "cfg"} == {data for data in sent if b"MESSAGE" in data}

    daemon.until(lambda: _processes(daemon.folder) == server.processes(), "the same process table")
    assert len(server.processes()) > 8
    assert daemon.stop() == 0
    pcap = b"".join(packet.frame for packet in read_pcap(daemon.files(".pcap")[0]))
    headers = set(re.findall(rb"P-KSR-SIPDump: (\w+) pid=(\d+) pno=(\d+)\r\n", pcap))
    assert headers == {(r.proto.encode(), b"%d" % r.pid, b"%d" % r.procno) for r in ours}
    assert not sock.exists()


def _paused(stage: Stage, name: str) -> Path:
    """Write a scenario with time between its messages, so that Kamailio's workers do not reorder them."""
    scenario = stage.path(name)
    scenario.write_text(
        (SCENARIOS / name).read_text().replace("<send retrans=", '<pause milliseconds="200"/><send retrans=')
    )
    return scenario


@pytest.mark.parametrize(("kind", "missing"), [("native", False), ("kemi", False), ("kemi", True)])
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_relayed_calls_arrive_whole(stage: Stage, kind: str, proto: str, missing: bool) -> None:
    """Calls with Record-Route: a message is sent while another one is routed, so one callback runs within another.

    With ``missing`` the KEMI script arms routes, and configures an event callback, that it does not have.
    """
    need("sipp")
    sock, calls, callee = stage.path("ksr"), 10, free_port()
    daemon = _sipdumpd(stage, sock, f"{sock}.ctl")
    server = _kamailio(stage, kind, sock, f"sip:127.0.0.1:{callee};transport={proto}", missing=missing)
    options = ("-t", "u1" if proto == "udp" else "t1", "-m", str(calls), "-r", "5")
    answering = stage.sipp(_paused(stage, "callee.xml"), callee, *options)
    answering.until(lambda: bound(callee, proto), "the callee listens")
    calling = stage.sipp(_paused(stage, "caller.xml"), free_port(), *options, target=f"127.0.0.1:{server.port}")
    assert calling.wait() == 0, calling.output()[-3000:] + server.child.output()[-3000:]
    assert answering.wait() == 0, answering.output()[-3000:]

    def of_calls(records: list[Seen]) -> Counter[tuple[object, ...]]:
        # Kamailio writes neither the time at which we see a message, nor workers' messages, in the same order
        fields = ((r.tag, r.pid, r.procno, r.proto, r.af, r.src, r.dst, r.buf) for r in records)
        return Counter(record for record in fields if b"OPTIONS" not in record[-1])

    daemon.until(lambda: of_calls(daemon.records()).total() >= CALL * calls, "all messages arrive")
    assert of_calls(daemon.records()) == of_calls(server.records())
    assert not re.search("Traceback|exception|Error", server.child.output())


def test_longer_than_kamailios_own_file_can_hold(stage: Stage, kind: str) -> None:
    sock = stage.path("ksr")
    daemon = _sipdumpd(stage, sock)
    server = _kamailio(stage, kind, sock)
    sent = _talk("127.0.0.1", server.port, "tcp", {1: b"x" * 100_000, 2: bytes(range(256)) * 600}, 400)
    daemon.until(lambda: set(sent) <= {record.buf for record in daemon.records()}, "both messages are stored whole")


def test_sipdumpd_goes_and_comes_back(stage: Stage) -> None:
    sock = stage.path("ksr")
    daemon = _sipdumpd(stage, sock)
    server = _kamailio(stage, "native", sock)
    sent = _talk("127.0.0.1", server.port, "tcp", dict.fromkeys(range(50), b"before"), 1000)
    assert daemon.stop() == 0
    sent += _talk("127.0.0.1", server.port, "tcp", dict.fromkeys(range(50), b"away"), 2000)
    back = _sipdumpd(stage, sock)
    seen = {record.buf for record in daemon.records()}
    number = 3000

    def all_there() -> bool:  # a worker sends what waits when it has its next message
        nonlocal number
        number += 1
        sent.extend(_talk("127.0.0.1", server.port, "tcp", {1: b"after"}, number))
        return seen | {record.buf for record in back.records()} >= set(sent[:-1])

    back.until(all_there, "all messages are stored")
    assert "connection to sipdumpd lost" in server.child.output() or "cannot connect" in server.child.output()
    times = re.findall(r"sipdump_forward: ", server.child.output())
    assert len(times) < 40, "a line a second and worker at the most"


def test_what_finds_no_room_is_counted_and_reported(stage: Stage) -> None:
    sock = stage.path("ksr")
    server = _kamailio(stage, "native", sock)
    # 2 TCP workers with 1 MiB each; one connection stays with one worker
    _talk("127.0.0.1", server.port, "tcp", dict.fromkeys(range(40), b"x" * 60_000), 1000)
    daemon = _sipdumpd(stage, sock)
    number = 3000

    def reported() -> bool:
        nonlocal number
        number += 1
        _talk("127.0.0.1", server.port, "tcp", {1: b"after"}, number)
        return "worker dropped messages" in daemon.output()

    daemon.until(reported, "the loss is reported")
    assert "no room: sipdumpd is away or too slow" in server.child.output()
    assert daemon.stop() == 0
    everything = [r for r in server.records() if r.proto == "tcp" and r.tag != "cfg"]
    ours = [r for r in daemon.records() if r.proto == "tcp" and r.tag != "cfg"]
    dropped = sum(map(int, re.findall(r"dropped_by_kamailio=(\d+)", daemon.output())))
    assert dropped >= 20
    assert {record.buf for record in ours} <= {record.buf for record in everything}
    # the other worker may have had none of the last messages, and keep what waits
    assert len(everything) - len(ours) - dropped in range(5), (len(everything), len(ours), dropped)

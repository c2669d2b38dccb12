"""Records from a running Kamailio: the source, with a sender of the test's own, and the script that Kamailio runs."""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sipdump_core.control import binrpc
from sipdump_core.errors import ConfigError, FormatError, RpcError
from sipdump_core.net.unix_socket import bind_unix, remove_if_ours
from sipdump_core.record import Record
from sipdump_core.settings.ksr import KsrOptions
from sipdump_core.settings.options import Setting, build
from sipdump_core.sipdump import SipDump
from sipdump_core.sources.ksr import FRAME_MAX, KsrSource
from sipdump_core.sources.ksr_processes import parse_ps
from tests.support import OPTIONS, wait_for

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "kamailio" / "sipdump_forward.py"
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
        self.source = KsrSource(KsrOptions(listen=f"unix:{self.path}", **options), self.dump)

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
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


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Bench:
            bench = Bench(tmp_path, **options)
            stack.callback(bench.close)
            return bench

        yield make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def test_a_message_becomes_a_record_of_its_worker(bench: Bench) -> None:
    with bench.connect(hello() + message(b"a\0\xff")):
        wait_for(lambda: bench.records)
    (record,) = bench.records
    assert (record.tag, record.pid, record.procno, record.proto, record.af) == ("rcv", 4711, 3, "udp", "ipv4")
    assert (record.src_ip, record.src_port, record.dst_ip, record.dst_port) == ("192.0.2.1", 5060, "192.0.2.2", 5061)
    assert (record.time_us, record.buf) == (TIME, b"a\0\xff")
    assert bench.meta() == ["process: 3 4711 kamailio rank 2"]
    assert bench.source.stats()["messages"] == 1


def test_flows_are_shared_and_ipv6_brackets_go(bench: Bench) -> None:
    six = b"snd\twss\t[2001:DB8::1]\t1\t2001:db8::2\t2"
    with bench.connect(hello() + message() + message() + message(head=six)):
        wait_for(lambda: len(bench.records) == 3)
    first, second, third = bench.records
    assert first.flow is second.flow
    assert (third.src_ip, third.dst_ip, third.af, third.proto) == ("2001:db8::1", "2001:db8::2", "ipv6", "wss")


def test_every_way_to_cut_the_stream(bench: Bench) -> None:
    data = hello() + message(b"1") + message(b"2" * 300)
    with bench.connect() as sock:
        for at in range(len(data)):
            sock.sendall(data[at : at + 1])
        wait_for(lambda: len(bench.records) == 2)
    assert [len(record.buf) for record in bench.records] == [1, 300]
    assert bench.source.stats()["malformed"] == 0


def test_sipdump_send_runs_no_event_route(bench: Bench) -> None:
    head = HEAD.replace(b"rcv", b"cfg")
    with bench.connect(hello() + message(b"first") + message(b"second", head, kind=b"S") + message(b"third")):
        wait_for(lambda: len(bench.records) == 2)
    stored = bench.stored()
    assert [record.buf for record in bench.records] == [b"first", b"third"]
    assert re.findall(rb"tag: (\w+)", stored) == [b"rcv", b"cfg", b"rcv"]


def test_what_kamailio_dropped_is_counted(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with bench.connect(hello() + frame(b"D", struct.pack(">Q", 17) + b"no room")):
        wait_for(lambda: bench.source.stats()["dropped_by_kamailio"] == 17)
    assert "no room" in caplog.text
    assert "4711" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        message(),
        hello(version=2),
        hello() + hello(),
        frame(b"H", b"short"),
        hello() + frame(b"X"),
        hello() + struct.pack(">I", 0) + b"M",
        hello() + struct.pack(">I", FRAME_MAX + 1) + b"M",
        b"\xff" * 64,
        b"GET / HTTP/1.1\r\n\r\n",
        hello() + frame(b"M", b"short"),
        hello() + frame(b"M", struct.pack(">QH", TIME, 500) + HEAD),
        hello() + message(head=b"x" * 1025),
        hello() + frame(b"D", b"1234567"),
    ],
)
def test_frames_that_cannot_be_read_end_the_connection(
    bench: Bench, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with bench.connect(data) as sock:
        assert closed(sock)
    assert bench.source.stats()["malformed"] == 1
    assert f"peer_pid={os.getpid()}" in caplog.text
    with bench.connect(hello() + message()):
        wait_for(lambda: bench.records)


@pytest.mark.parametrize(
    "bad",
    [
        message(head=HEAD + b"\tmore"),
        message(head=b""),
        message(head=HEAD.replace(b"192.0.2.1", b"nowhere")),
        message(head=HEAD.replace(b"192.0.2.1", b"::1")),
        message(head=HEAD.replace(b"5060", b"70000")),
        message(head=HEAD.replace(b"5060", b"-1")),
        message(head=HEAD.replace(b"rcv", b"a\nb")),
        message(head=HEAD.replace(b"rcv", b"\xff")),
        message(when=2**64 - 1),
    ],
)
def test_fields_that_make_no_sense_are_passed_over(bench: Bench, bad: bytes) -> None:
    with bench.connect(hello() + bad + message(b"good")):
        wait_for(lambda: bench.records)
    assert [record.buf for record in bench.records] == [b"good"]
    assert bench.source.stats()["malformed"] == 1


def test_an_unknown_transport_is_none(bench: Bench) -> None:
    with bench.connect(hello() + message(head=HEAD.replace(b"udp", b"pigeon"))):
        wait_for(lambda: bench.records)
    assert bench.records[0].proto == "none"


def test_a_torn_frame_counts_and_logs_once_a_second(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    start = time.monotonic()
    for _ in range(20):
        bench.connect(hello() + message() + message()[:-5]).close()
    wait_for(lambda: bench.source.stats()["malformed"] == 20)
    lines = caplog.text.count("malformed frame")
    assert 1 <= lines <= 2 + time.monotonic() - start
    assert len(bench.records) == 20


def test_too_many_workers_are_refused(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_connections=1)
    with bench.connect(hello()), bench.connect() as second:
        assert closed(second)
        assert bench.source.stats()["connections_refused"] == 1


def test_half_open_clients_hold_up_nobody(bench: Bench) -> None:
    with contextlib.ExitStack() as stack:
        for data in (b"", b"\0", hello()[:-1], hello(), hello() + message()[:-1]):
            stack.enter_context(bench.connect(data))
        stack.enter_context(bench.connect(hello() + message()))
        wait_for(lambda: bench.records)


def test_close_takes_what_has_arrived_and_tells_the_worker(bench: Bench) -> None:
    socks = [bench.connect(hello(pid) + message() * 50 + message()[:-1]) for pid in (1, 2, 3)]
    bench.source.close()
    assert len(bench.records) == 150
    assert bench.source.stats()["malformed"] == 0  # the worker still has the frame that it sent partly
    assert not bench.path.exists()
    for sock in socks:
        with pytest.raises(BrokenPipeError):
            sock.sendall(b"x" * 10)
        sock.close()


# --- the process table -----------------------------------------------------------------------------------------


PS = [100, "main process - attendant", 4711, "udp receiver child=0 sock=127.0.0.1:5060"]


def test_the_process_table_of_kamailio(make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def call(*args: object, timeout: float) -> list[object]:
        asked.append(args)
        return PS

    monkeypatch.setattr(binrpc, "call", call)
    bench = make_bench(ctl=("unix:/nowhere",))
    with bench.connect(hello(4711, procno=-1) + message() * 3):
        wait_for(lambda: len(bench.records) == 3)
        assert {record.procno for record in bench.records} == {1}
        assert bench.meta() == [
            "process: 0 100 main process - attendant",
            "process: 1 4711 udp receiver child=0 sock=127.0.0.1:5060",
        ]
    with bench.connect(hello(4711, procno=-1) + message()):
        wait_for(lambda: len(bench.records) == 4)
    assert asked == [("unix:/nowhere", "core.ps")]


def test_without_an_answer_the_number_is_zero(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*args: object, timeout: float) -> list[object]:
        raise RpcError("nobody there")

    monkeypatch.setattr(binrpc, "call", call)
    bench = make_bench(ctl=("unix:/nowhere",))
    with bench.connect(hello(4711, procno=-1) + message()), bench.connect(hello(4712, procno=5) + message()):
        wait_for(lambda: len(bench.records) == 2)
    assert {(record.pid, record.procno) for record in bench.records} == {(4711, 0), (4712, 5)}
    assert bench.source.stats()["ctl_failures"] >= 1


def test_a_hanging_kamailio_holds_up_its_new_workers_two_seconds_and_nobody_else(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def call(*args: object, timeout: float) -> list[object]:
        release.wait(20)
        return PS

    monkeypatch.setattr(binrpc, "call", call)
    bench = make_bench(ctl=("unix:/nowhere",))
    start = time.monotonic()
    with bench.connect(hello(4711, procno=-1) + message(b"held")), bench.connect(hello(4712, procno=5) + message()):
        wait_for(lambda: bench.records)
        assert bench.records[0].pid == 4712
        wait_for(lambda: len(bench.records) == 2)
        assert time.monotonic() - start >= 1.5
        assert bench.records[1].procno == 0
        release.set()


def test_a_restarted_kamailio_has_another_table(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [PS, [200, "main", 201, "worker"]]
    monkeypatch.setattr(binrpc, "call", lambda *args, timeout: tables.pop(0))
    bench = make_bench(ctl=("unix:/nowhere",))
    with bench.connect(hello(4711, procno=1) + message()):
        wait_for(lambda: len(bench.meta()) == 2)
    with bench.connect(hello(201, procno=1) + message()):
        wait_for(lambda: len(bench.meta()) == 4)
        bench.stored()
        bench.dump.rotate()
    with bench.connect(hello(201, procno=1) + message()):
        wait_for(lambda: bench.meta() == ["process: 0 200 main", "process: 1 201 worker"])


def test_a_process_that_was_starting_is_listed_once(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [[100, "main"], [100, "main process - attendant", 4711, "worker"]]
    monkeypatch.setattr(binrpc, "call", lambda *args, timeout: tables.pop(0))
    bench = make_bench(ctl=("unix:/nowhere",))
    with bench.connect(hello(4711, procno=1)):
        wait_for(lambda: bench.meta() == ["process: 0 100 main"])
        with bench.connect(hello(4711, procno=1)):
            wait_for(lambda: bench.meta() == ["process: 0 100 main process - attendant", "process: 1 4711 worker"])


def test_core_ps_answers() -> None:
    assert parse_ps([1, "a", 2, "b\nprocess: 9 9 forged"]) == [(1, "a"), (2, "b?process: 9 9 forged")]
    for wrong in (["a", 1], [1], [1, 2], [{"a": 1}, "x"]):
        with pytest.raises(FormatError):
            parse_ps(wrong)


# --- the socket ------------------------------------------------------------------------------------------------


def test_the_socket_is_private_unless_told_otherwise(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make_bench()
    assert stat.S_IMODE(os.stat(bench.path).st_mode) == 0o600
    sock = bind_unix(str(tmp_path / "open"), socket.SOCK_DGRAM, 0o666, str(os.getuid()), str(os.getgid()))
    assert stat.S_IMODE(os.stat(tmp_path / "open").st_mode) == 0o666
    remove_if_ours(sock)
    sock.close()
    assert not (tmp_path / "open").exists()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_stale_sockets_are_replaced_and_live_ones_are_not_stolen(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(path)
    sock = bind_unix(path, kind)
    for other in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with pytest.raises(ConfigError, match="another program is listening there"):
            bind_unix(path, other, place="a.cfg:1:1")
    os.unlink(path)
    Path(path).write_text("not ours")
    remove_if_ours(sock)
    sock.close()
    assert Path(path).read_text() == "not ours"
    with pytest.raises(ConfigError, match="no socket"):
        bind_unix(path, kind)
    assert Path(path).read_text() == "not ours"


@pytest.mark.parametrize(
    ("path", "user", "group", "message"),
    [
        ("nosuch/s", "", "", "create its folder"),
        ("s" * 120, "", "", "too long"),
        ("s", "no-such-user", "", "there is no user 'no-such-user'"),
        ("s", "", "no-such-group", "there is no group 'no-such-group'"),
    ],
)
def test_sockets_that_cannot_be_made(tmp_path: Path, path: str, user: str, group: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        bind_unix(str(tmp_path / path), socket.SOCK_STREAM, 0o600, user, group, place="a.cfg:1:1")
    assert str(raised.value).startswith("a.cfg:1:1: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("listen", ["/run/x", "udp:127.0.0.1:1", "unix:", "unix:relative", "unix:/" + "x" * 110])
def test_listen_takes_a_path(listen: str) -> None:
    with pytest.raises(ConfigError, match="listen"):
        build(KsrOptions, [Setting("sipdump_ksr", "listen", listen, "a.cfg:1:1")])


# --- the script that Kamailio runs -----------------------------------------------------------------------------


class FakeKSR(ModuleType):
    """What the script uses of Kamailio's module KSR."""

    def __init__(self, path: Path) -> None:
        super().__init__("KSR")
        self.buf = OPTIONS
        self.log: list[str] = []
        self.values: dict[str, object] = {
            "$def(SIPDUMP_KSR)": f'"{path}"',
            "$sipdump(proto)": "udp",
            "$sipdump(src_port)": 5060,
            "$sipdump(dst_port)": 5061,
        }
        self.sipdump = SimpleNamespace(
            get_tag=lambda: "rcv",
            get_buf=lambda: self.buf.decode(),  # noqa: PLW0108 - of the bytes that it has when it is called
            get_src_ip=lambda: "192.0.2.1",
            get_dst_ip=lambda: "192.0.2.2",
        )
        self.pv = SimpleNamespace(get=self.values.get)
        self.warn = self.log.append


@pytest.fixture
def ksr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKSR:
    fake = FakeKSR(tmp_path / "ksr")
    monkeypatch.setitem(sys.modules, "KSR", fake)
    return fake


@pytest.fixture
def script(ksr: FakeKSR) -> Any:
    spec = importlib.util.spec_from_file_location("sipdump_forward", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Worker:
    """The script's object, and how long its slowest call took."""

    def __init__(self, script: Any, ksr: FakeKSR) -> None:
        self.object = script.mod_init()
        self.object.child_init(2)
        self.ksr = ksr
        self.slowest = 0.0

    def message(self, buf: bytes = OPTIONS) -> bool:
        self.ksr.buf = buf
        start = time.thread_time()
        assert self.object.ksr_sipdump_event(None, "sipdump:msg") == 1
        self.slowest = max(self.slowest, time.thread_time() - start)
        return True

    def close(self) -> None:
        if getattr(self.object, "_sock", None):
            self.object._sock.close()


@pytest.fixture
def worker(script: Any, ksr: FakeKSR) -> Iterator[Worker]:
    made = Worker(script, ksr)
    yield made
    made.close()


@pytest.mark.parametrize(
    "buf", [OPTIONS, b"", b"a\0b", b"\xff\xfe\0\xed\xa0\x80", "Grüße".encode(), bytes(range(256)) * 1000]
)
def test_the_script_hands_over_every_byte(bench: Bench, worker: Worker, buf: bytes) -> None:
    before = time.time_ns() // 1000
    worker.message(buf)
    wait_for(lambda: bench.records)
    (record,) = bench.records
    assert (record.buf, record.tag, record.pid, record.proto) == (buf, "rcv", os.getpid(), "udp")
    assert (record.src_ip, record.src_port, record.dst_ip, record.dst_port) == ("192.0.2.1", 5060, "192.0.2.2", 5061)
    assert before <= record.time_us <= time.time_ns() // 1000


def test_the_companion_of_sipdump_send(bench: Bench, worker: Worker, ksr: FakeKSR) -> None:
    ksr.values |= {"$proto": "tls", "$si": "2001:db8::1", "$sp": 1, "$Ri": "2001:db8::2", "$Rp": 2, "$mb": "text"}
    assert worker.object.sipdump_forward_send(None, "cfg\tx\n" + "y" * 500) == 1
    wait_for(lambda: bench.source.stats()["messages"])
    stored = bench.stored()
    assert b"tag: cfg?x?yyy" in stored
    assert b"proto: tls ipv6\nsrcip: 2001:db8::1\nsrcport: 1\ndstip: 2001:db8::2\ndstport: 2\n" in stored
    assert bench.records == []


def test_the_script_without_sipdumpd_keeps_a_mebibyte_then_drops_and_counts(
    make_bench: Callable[..., Bench], worker: Worker, ksr: FakeKSR
) -> None:
    start = time.monotonic()
    for number in range(300):
        worker.message(b"%08d" % number * 1000)
    assert time.monotonic() - start < 5
    assert worker.slowest < 0.1
    lines = "".join(ksr.log)
    assert "cannot connect" in lines
    assert "messages dropped" in lines
    assert len(ksr.log) <= 2 * (2 + time.monotonic() - start)

    bench = make_bench()
    worker.object._retry = 0.0
    wait_for(lambda: worker.message(b"after") and bench.source.stats()["dropped_by_kamailio"])
    whole = [record.buf for record in bench.records if record.buf != b"after"]
    assert whole == [b"%08d" % number * 1000 for number in range(len(whole))]
    assert 100 < len(whole) < 140
    assert len(whole) + bench.source.stats()["dropped_by_kamailio"] == 300


def test_a_reader_that_does_not_read_blocks_nothing(tmp_path: Path, worker: Worker, script: Any) -> None:
    listener = bind_unix(str(tmp_path / "ksr"), socket.SOCK_STREAM)
    for _ in range(2000):
        worker.message(b"x" * 5000)
    assert worker.slowest < 0.1
    assert worker.object._bytes <= script.WAITING
    dropped = sum(worker.object._dropped.values())
    assert dropped > 0
    sock, _ = listener.accept()
    sock.settimeout(10)
    received, messages, reported = bytearray(), 0, 0
    while reported < dropped:  # it goes on where it was, with whole frames
        received += sock.recv(1 << 20)
        while len(received) >= 5 and len(received) >= 4 + (length := int.from_bytes(received[:4], "big")):
            kind, payload = received[4:5], received[5 : 4 + length]
            messages += kind == b"M"
            reported += int.from_bytes(payload[:8], "big") if kind == b"D" else 0
            del received[: 4 + length]
        worker.message(b"x")
    assert reported == dropped
    assert messages >= 2000 - dropped
    for each in (sock, listener):
        each.close()


def test_a_full_backlog_blocks_nothing(tmp_path: Path, worker: Worker, ksr: FakeKSR) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(tmp_path / "ksr"))
        listener.listen(0)
        for _ in range(3):
            other = stack.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(str(tmp_path / "ksr"))
        start = time.monotonic()
        worker.message()
        assert time.monotonic() - start < 1
        assert "cannot connect" in ksr.log[0]


def test_sipdumpd_restarts_and_no_frame_is_torn_or_lost(make_bench: Callable[..., Bench], worker: Worker) -> None:
    sent, seen = [], []
    for round_number in range(4):
        bench = make_bench()
        for number in range(200):
            sent.append(b"%d-%d " % (round_number, number) * 50)
            worker.message(sent[-1])
        bench.close()
        seen += [record.buf for record in bench.records]
        assert bench.source.stats()["malformed"] == 0
    bench = make_bench()
    wait_for(lambda: worker.message(b"end") and bench.records and bench.records[-1].buf == b"end")
    seen += [record.buf for record in bench.records]
    assert bench.source.stats()["dropped_by_kamailio"] == 0
    assert [buf for buf in seen if buf != b"end"] == sent


def test_a_forked_worker_connects_for_itself(bench: Bench, worker: Worker) -> None:
    worker.message(b"parent")
    wait_for(lambda: bench.records)
    code = (
        "import sys, types\n"
        "sys.modules['KSR'] = types.ModuleType('KSR')\n"
        "import importlib.util as u, os, KSR\n"
        f"spec = u.spec_from_file_location('f', {str(SCRIPT)!r})\n"
        "f = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(f)\n"
        f"KSR.pv = types.SimpleNamespace(get={{'$def(SIPDUMP_KSR)': {str(bench.path)!r}}}.get)\n"
        "KSR.warn = print\n"
        "KSR.sipdump = types.SimpleNamespace(get_tag=lambda: 'rcv', get_buf=lambda: str(os.getpid()),"
        " get_src_ip=lambda: '::1', get_dst_ip=lambda: None)\n"
        "w = f.mod_init()\n"
        "w.ksr_sipdump_event(None)\n"
        "pid = os.fork()\n"
        "w.child_init(1)\n"
        "w.ksr_sipdump_event(None)\n"
        "if pid: os.waitpid(pid, 0)\n"
        "else: os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    wait_for(lambda: len(bench.records) == 4)
    others = [record for record in bench.records if record.buf != b"parent"]
    assert all(int(record.buf) == record.pid for record in others)
    assert len({record.pid for record in others}) == 2
    assert {(record.src_ip, record.dst_ip, record.proto) for record in others} == {("::1", "::", "none")}


def test_an_error_in_the_script_is_counted_and_hurts_nobody(bench: Bench, worker: Worker, ksr: FakeKSR) -> None:
    ksr.sipdump.get_tag = lambda: 1 / 0
    worker.message()
    assert any("ZeroDivisionError" in line for line in ksr.log)
    ksr.sipdump.get_tag = lambda: "rcv"
    worker.message()
    wait_for(lambda: bench.source.stats()["dropped_by_kamailio"] == 1)


# --- cleanup from outside --------------------------------------------------------------------------------------


def _prune_command(line: str, tmp_path: Path) -> None:
    """Run a command line of an example, with this test's folder and this installation's command."""
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(f'modparam("sipdump", "folder", "{tmp_path}")\n')
    old, young = tmp_path / "kamailio-sipdump-2020-01-01--00-00-00.data", tmp_path / "other.data"
    for path in (old, young):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    script = Path(sys.executable).with_name("sipdump-admin")
    command = shlex.join([str(script)] if script.exists() else [sys.executable, "-m", "sipdump_core.admin"])
    assert "/usr/bin/sipdump-admin" in line
    assert "/etc/sipdump/sipdumpd.cfg" in line
    line = line.replace("/usr/bin/sipdump-admin", command).replace("/etc/sipdump/sipdumpd.cfg", str(config))
    subprocess.run(["/bin/sh", "-c", line], check=True, timeout=60)
    assert not old.exists()
    assert young.exists()


def _unit(name: str) -> dict[str, str]:
    lines = (ROOT / "examples" / "systemd" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_the_systemd_timer_prunes(tmp_path: Path) -> None:
    timer, service = _unit("sipdump-prune.timer"), _unit("sipdump-prune.service")
    assert timer["WantedBy"] == "timers.target"
    assert timer["OnCalendar"]
    assert service["Type"] == "oneshot"
    daemon = _unit("sipdumpd.service")
    assert (service["User"], service["Group"]) == (daemon["User"], daemon["Group"])
    _prune_command(service["ExecStart"], tmp_path)


def test_the_cron_line_prunes(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "cron" / "sipdump-prune").read_text()
    (line,) = [line for line in text.splitlines() if line and line[0] in "*0123456789"]
    *when, user, command = line.split(None, 6)
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in when)
    assert len(when) == 5
    assert user == "sipdump"
    assert "%" not in command
    assert text.endswith("\n")
    _prune_command(command, tmp_path)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("sipdump-prune.service", "sipdump-prune.timer"):
        text = (ROOT / "examples" / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/bin/sipdump-admin", "/bin/true"))  # it looks for the program
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "sipdump-prune.service", tmp_path / "sipdump-prune.timer"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")

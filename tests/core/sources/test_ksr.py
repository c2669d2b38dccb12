"""Records from a running Kamailio: the source, with a sender of the test's own, and the script that Kamailio runs."""

import contextlib
import importlib.util
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sipdump_core.errors import ConfigError
from sipdump_core.net.unix_socket import bind_unix, remove_if_ours
from sipdump_core.settings.ksr import KsrOptions
from sipdump_core.settings.options import Setting, build
from sipdump_core.sources import ksr as ksr_source
from sipdump_core.sources.ksr import FRAME_MAX
from tests.core.sources.workers import HEAD, TIME, Bench, closed, frame, hello, message
from tests.support import OPTIONS, wait_for

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "kamailio" / "sipdump_forward.py"


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


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


def test_too_many_workers_cost_the_longest_idle_one_its_place(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_connections=2)
    with bench.connect(hello(1)) as first, bench.connect(hello(2)) as second:
        wait_for(lambda: len(bench.meta()) == 2)
        first.sendall(message())
        wait_for(lambda: bench.records)
        with bench.connect(hello(3) + message()):
            assert closed(second)
            wait_for(lambda: len(bench.records) == 2)
        assert bench.source.stats()["connections_evicted"] == 1
        first.sendall(message())
        wait_for(lambda: len(bench.records) == 3)


def test_an_idle_worker_is_let_go(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(idle_timeout=1)
    with bench.connect(hello()) as sock:
        assert closed(sock)
    assert bench.source.stats()["connections_timed_out"] == 1


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


# --- the socket ------------------------------------------------------------------------------------------------


def test_the_socket_is_private_unless_told_otherwise(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make_bench()
    assert stat.S_IMODE(os.stat(bench.path).st_mode) == 0o600
    sock = bind_unix(str(tmp_path / "open"), socket.SOCK_DGRAM, 0o666, str(os.getuid()), str(os.getgid()))
    assert stat.S_IMODE(os.stat(tmp_path / "open").st_mode) == 0o666
    remove_if_ours(sock)
    sock.close()
    assert not (tmp_path / "open").exists()


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
    assert time.monotonic() - start < 20
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
    sock.settimeout(60)
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
        assert time.monotonic() - start < 5
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
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
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


def test_a_worker_of_whose_frames_none_makes_sense_is_closed(bench: Bench) -> None:
    nonsense = message(head=b"rcv\tudp\tnowhere\t5060\t192.0.2.2\t5061")
    with bench.connect(hello() + (nonsense * 90 + message()) * 2) as sock:
        wait_for(lambda: len(bench.records) == 2)
        sock.sendall(nonsense * 200)
        assert closed(sock)
    assert 280 < bench.source.stats()["malformed"] < 290


def test_flows_are_bounded_in_bytes_over_all_workers_and_go_with_them(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ksr_source, "_MEMORY", 100_000)
    bench = make_bench()
    known = bench.source._flows
    with contextlib.ExitStack() as stack:
        for worker in range(20):
            heads = [b"%s\tudp\t192.0.2.1\t%d\t192.0.2.2\t5061" % (b"t" * 900, port) for port in range(30)]
            stack.enter_context(bench.connect(hello(pid=worker) + b"".join(message(head=head) for head in heads)))
            wait_for(lambda worker=worker: len(bench.records) == 30 * (worker + 1))  # type: ignore[misc]
            assert 0 < known.size <= 100_000
            assert known.size == sum(each.size for each in known.values())
        assert {record.pid for record in bench.records} == set(range(20))
    wait_for(lambda: (len(known), known.size) == (0, 0))

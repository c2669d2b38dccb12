"""The control sockets: good clients, and hostile ones, which must neither hold up nor end the daemon."""

import contextlib
import json
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.control.binrpc import call, encode_values
from sipdump_core.control.commands import Method, Rpc
from sipdump_core.control.server import Ctl
from sipdump_core.errors import ConfigError, RpcFault
from sipdump_core.net.address import Address
from sipdump_core.settings.ctl import CtlOptions
from sipdump_core.settings.options import Setting, build
from sipdump_core.sipdump import SipDump
from tests.support import wait_for

Start = Callable[..., Ctl]


@pytest.fixture
def rpc(tmp_path: Path) -> Iterator[Rpc]:
    with SipDump(enable=1, folder=tmp_path) as dump:
        yield Rpc(dump)


@pytest.fixture
def start(rpc: Rpc) -> Iterator[Start]:
    """Start control sockets, which end with the test."""
    started: list[Ctl] = []

    def run(**options: Any) -> Ctl:
        started.append(Ctl(CtlOptions(**options), rpc))
        return started[-1]

    yield run
    for ctl in started:
        ctl.close()


def packet(method: str, *args: Any) -> bytes:
    body = encode_values([method, *args])
    return b"\xa1\x07" + len(body).to_bytes(2, "big") + b"abcd" + body


def connect(where: Address) -> socket.socket:
    if where.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(10)
        sock.connect(where.path)
        return sock
    return socket.create_connection((where.host, where.port), 10)


def read_all(sock: socket.socket) -> bytes:
    """Read until the other side closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


def works(ctl: Ctl) -> bool:
    return call(str(ctl.addresses[0]), "core.echo", "x", timeout=5) == ["x"]


def query(sock: socket.socket, **members: Any) -> Any:
    sock.send(json.dumps({"jsonrpc": "2.0", "id": 1, **members}).encode())
    return json.loads(sock.recv(65536))


@pytest.mark.parametrize(
    "address", ["unix:{}/ctl", "unixd:{}/ctl", "tcp:127.0.0.1:0", "udp:127.0.0.1:0", "tcp:[::1]:0"]
)
def test_binrpc(start: Start, rpc: Rpc, tmp_path: Path, address: str) -> None:
    try:
        ctl = start(binrpc=(address.format(tmp_path),))
    except ConfigError as error:
        if "::1" in address:
            pytest.skip(str(error))
        raise
    where = str(ctl.addresses[0])
    assert call(where, "sipdump.enable", 0) == [{"oldval": 1, "newval": 0}]
    assert call(where, "sipdump.rotate") == [{"rotated": 1}]
    with pytest.raises(RpcFault, match="command nosuch not found"):
        call(where, "nosuch")


def test_json_by_datagram(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    start(jsonrpc=(f"unix:{tmp_path}/rpc.sock",))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind("")
        sock.connect(f"{tmp_path}/rpc.sock")
        assert query(sock, method="sipdump.enable", params=["0"])["result"] == {"oldval": 1, "newval": 0}
        assert query(sock, method="system.listMethods")["result"] == sorted(rpc.methods)
        assert query(sock, method="x")["error"] == {"code": 500, "message": "Method Not Found"}
        sock.send(b"garbage")
        assert json.loads(sock.recv(4096))["error"]["code"] == -32700


def test_a_datagram_client_without_a_name_and_one_that_reads_nothing(start: Start, tmp_path: Path) -> None:
    ctl = start(binrpc=(f"unixd:{tmp_path}/ctl",))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(f"{tmp_path}/ctl")
        sock.send(packet("core.echo", "x"))
        sock.send(b"")
        sock.send(b"\xa1")
        sock.send(packet("core.echo", "x")[:9])
        assert works(ctl)
        sock.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")
        sock.connect(f"{tmp_path}/ctl")
        sock.settimeout(10)
        for _ in range(200):  # more than its queue has room for
            sock.send(packet("core.echo", "x"))
        assert works(ctl)


def fifo_call(path: Path, replies: Path, name: str, **members: Any) -> Any:
    os.mkfifo(replies / name)
    reader = os.open(replies / name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        request = {"jsonrpc": "2.0", "reply_name": name, "id": 1, **members}
        path.write_text(json.dumps(request) + "\n")
        data = b""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            select.select([reader], [], [], 0.05)
            with contextlib.suppress(BlockingIOError):
                data += os.read(reader, 65536)
            with contextlib.suppress(ValueError):
                return json.loads(data)
        raise AssertionError(f"no answer: {data!r}")
    finally:
        os.close(reader)
        os.unlink(replies / name)


def test_json_by_fifo(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    replies = tmp_path / "replies"
    replies.mkdir()
    path = tmp_path / "rpc.fifo"
    start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(replies))
    assert fifo_call(path, replies, "r1", method="sipdump.enable", params=[0])["result"]["newval"] == 0
    big = ["é" * 1000] * 10
    assert fifo_call(path, replies, "r2", method="core.echo", params=big)["result"] == big
    path.write_bytes(b"garbage } \n\0")
    assert fifo_call(path, replies, "r3", method="core.version")["result"]


def test_a_fifo_gets_over_a_request_that_never_ends(start: Start, tmp_path: Path) -> None:
    replies = tmp_path / "replies"
    replies.mkdir()
    path = tmp_path / "rpc.fifo"
    start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(replies), request_timeout=1)
    path.write_bytes(b'{"a": ')

    def answered() -> bool:
        try:
            return bool(fifo_call_once(path, replies))
        except TimeoutError:
            return False

    wait_for(answered)
    path.write_bytes(b"{" * 4000)
    for _ in range(40):
        path.write_bytes(b"{" * 4000)
    wait_for(answered)


def fifo_call_once(path: Path, replies: Path) -> bytes:
    """Ask once, and wait half a second for the answer."""
    name = f"r{time.monotonic_ns()}"
    os.mkfifo(replies / name)
    reader = os.open(replies / name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        path.write_text(json.dumps({"jsonrpc": "2.0", "reply_name": name, "id": 1, "method": "core.version"}))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            select.select([reader], [], [], 0.02)
            with contextlib.suppress(BlockingIOError):
                if data := os.read(reader, 65536):
                    return data
        raise TimeoutError
    finally:
        os.close(reader)
        os.unlink(replies / name)


def test_reply_fifos_of_strangers(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    """No name leads out of the folder, nothing but a fifo is written to, and nobody who never reads holds it up."""
    replies = tmp_path / "replies"
    replies.mkdir()
    path = tmp_path / "rpc.fifo"
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(replies))
    outside = tmp_path / "outside"
    os.mkfifo(outside)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (replies / "file").write_text("precious")
    (replies / "link").symlink_to(victim)
    (replies / "fifolink").symlink_to(outside)
    os.mkfifo(replies / "hard")
    os.link(replies / "hard", replies / "hard2")
    os.mkfifo(replies / "nobody")
    reader = os.open(outside, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for name in ("../outside", str(outside), "file", "link", "fifolink", "hard", "nobody", "missing", "", 7):
            path.write_text(json.dumps({"jsonrpc": "2.0", "method": "core.version", "reply_name": name, "id": 1}))
            assert works(ctl)
        assert fifo_call(path, replies, "good", method="core.version")["result"]
        with contextlib.suppress(BlockingIOError):
            assert os.read(reader, 100) == b""
    finally:
        os.close(reader)
    assert victim.read_text() == (replies / "file").read_text() == "precious"
    off = {"jsonrpc": "2.0", "method": "sipdump.enable", "params": [0], "reply_name": "../x", "id": 1}
    path.write_text(json.dumps(off))
    assert fifo_call(path, replies, "good", method="sipdump.enable")["result"] == {"oldval": 1, "newval": 1}


def http(where: Address, body: bytes, head: str = "POST /RPC HTTP/1.1") -> tuple[bytes, Any]:
    with connect(where) as sock:
        sock.sendall(f"{head}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer, _, content = read_all(sock).partition(b"\r\n\r\n")
        return answer.split(b"\r\n")[0], content


def test_json_by_http(start: Start, rpc: Rpc) -> None:
    (where,) = start(jsonrpc=("http:127.0.0.1:0",)).addresses
    status, body = http(where, b'{"jsonrpc": "2.0", "method": "sipdump.enable", "params": ["0"], "id": 1}')
    assert status == b"HTTP/1.1 200 OK"
    assert json.loads(body)["result"] == {"oldval": 1, "newval": 0}
    assert http(where, b'{"jsonrpc": "2.0", "method": "x"}')[0] == b"HTTP/1.1 500 Method Not Found"
    assert http(where, b"", "GET /RPC HTTP/1.1")[0] == b"HTTP/1.1 405 Method Not Allowed"
    with connect(where) as sock:  # kept alive, and pipelined
        one = b'POST /RPC HTTP/1.1\r\nContent-Length: 49\r\n\r\n{"jsonrpc": "2.0", "method": "core.echo", "id": 1}'
        one = one.replace(b"49", b"%d" % len(one.partition(b"\r\n\r\n")[2]))
        sock.sendall(one * 3)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\xa1\x0f\xff\xff\xff\xff",
        b"\xa1\x0f\x7f\xff\xff\xffabcd" + b"x" * 100_000,
        b"\x00" * 300_000,
        packet("core.echo")[:1] + b"\xff" * 70_000,
        b"\xa1\x03\x00abcd",
    ],
    ids=range(6),
)
def test_garbage_gets_a_fault_and_a_closed_connection(start: Start, tmp_path: Path, data: bytes) -> None:
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    with connect(ctl.addresses[0]) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        answer = read_all(sock)
    assert b"bad request" in answer or answer == b""
    assert works(ctl)


def test_deep_nesting(start: Start, tmp_path: Path) -> None:
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    body = encode_values(["core.echo", "x"]) + b"\x03\x25a\0" * 15_000
    with connect(ctl.addresses[0]) as sock:
        sock.sendall(b"\xa1\x07" + len(body).to_bytes(2, "big") + b"abcd" + body)
        assert sock.recv(100) == bytes.fromhex("a1130361626364217800")
    assert works(ctl)


@pytest.mark.parametrize("half", [b"", b"\xa1\x07", packet("core.echo", "x")[:-1]])
def test_half_open_clients_time_out(start: Start, tmp_path: Path, half: bytes) -> None:
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), request_timeout=1, idle_timeout=1)
    with connect(ctl.addresses[0]) as sock:
        sock.sendall(half)
        assert works(ctl)
        assert read_all(sock) == b""


def test_a_client_that_drips_times_out(start: Start) -> None:
    """Slowloris: every byte that comes must not win it more time."""
    (where,) = start(jsonrpc=("http:127.0.0.1:0",), request_timeout=1, idle_timeout=3600).addresses
    began = time.monotonic()
    with connect(where) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in b"POST /RPC HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000:
            sock.sendall(bytes([byte]))
            if select.select([sock], [], [], 0.05)[0]:
                assert sock.recv(100) == b""
                break
    assert time.monotonic() - began < 8


def test_a_client_that_never_reads_its_answers(start: Start, tmp_path: Path) -> None:
    """It is not read from either, so it fills its own buffers and not the daemon's, and times out."""
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), request_timeout=1)
    with connect(ctl.addresses[0]) as sock:
        one = packet("core.echo", "x" * 60_000)
        sock.setblocking(False)
        sent = 0

        def refused() -> bool:
            nonlocal sent
            try:
                sent += sock.send(one)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        wait_for(refused)
        assert sent < 10_000_000
    assert works(ctl)


def test_more_connections_than_allowed(start: Start, tmp_path: Path) -> None:
    """The longest idle one makes room, so that strangers who just sit there lock nobody out."""
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), max_connections=4)
    socks = [connect(ctl.addresses[0]) for _ in range(20)]
    try:
        assert works(ctl)
        assert len(ctl._connections) <= 4
        assert read_all(socks[0]) == b""
        socks[-1].sendall(packet("core.echo", "y"))
        assert socks[-1].recv(100).endswith(b"y\0")
    finally:
        for sock in socks:
            sock.close()


def test_a_slow_command_holds_up_nobody(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    go = threading.Event()
    rpc.methods["slow"] = Method(lambda _: [go.wait(10)], "waits", slow=True)
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), request_timeout=1, idle_timeout=1)
    socks = [connect(ctl.addresses[0]) for _ in range(10)]
    try:
        for sock in socks:
            sock.sendall(packet("slow") + packet("core.echo", "after"))
        assert works(ctl)
        refused = [sock for sock in socks if select.select([sock], [], [], 0.2)[0]]
        assert len(refused) == 2, "two more than may be under way"
        assert b"too many commands are under way" in refused[0].recv(1000)
        go.set()
        for sock in set(socks) - set(refused):
            data = b""
            while b"after" not in data:
                data += sock.recv(1000)
            assert data.startswith(b"\xa1\x13\x02abcd\x10\x01")
    finally:
        for sock in socks:
            sock.close()


def test_a_command_that_raises(start: Start, rpc: Rpc, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rpc.methods["bad"] = Method(lambda _: [1 // 0], "raises")
    rpc.methods["odd"] = Method(lambda _: [object()], "gives what BINRPC has not")
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    with pytest.raises(RpcFault, match="500 - internal server error: ZeroDivisionError"):
        call(str(ctl.addresses[0]), "bad")
    with pytest.raises(RpcFault, match="500 - BINRPC has no object"):
        call(str(ctl.addresses[0]), "odd")
    assert works(ctl)
    assert "ZeroDivisionError" in caplog.text


def test_an_answer_too_long_for_a_datagram(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    rpc.methods["long"] = Method(lambda _: ["x" * 100_000], "long")
    ctl = start(binrpc=("udp:127.0.0.1:0", f"unix:{tmp_path}/ctl"))
    with pytest.raises(RpcFault, match="does not fit into a datagram"):
        call(str(ctl.addresses[0]), "long")
    assert call(str(ctl.addresses[1]), "long") == ["x" * 100_000]


def test_files_are_private_and_removed(start: Start, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ctl = start(
            binrpc=(f"unix:{tmp_path}/a", f"unixd:{tmp_path}/b"), jsonrpc=(f"unix:{tmp_path}/c", f"fifo:{tmp_path}/d")
        )
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).lstat().st_mode) for name in "abcd"} == {0o600}
    (tmp_path / "b").unlink()
    (tmp_path / "b").write_text("another's by now")
    ctl.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    ctl.close()


def test_mode_user_and_group(start: Start, tmp_path: Path) -> None:
    options = {"mode": 0o660, "user": str(os.getuid()), "group": str(os.getgid())}
    start(binrpc=(f"unix:{tmp_path}/a",), jsonrpc=(f"fifo:{tmp_path}/d",), **options)
    for name in "ad":
        found = (tmp_path / name).lstat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, os.getuid(), os.getgid())
    for name, address in (
        ("unix", {"binrpc": (f"unix:{tmp_path}/x",)}),
        ("fifo", {"jsonrpc": (f"fifo:{tmp_path}/x",)}),
    ):
        with pytest.raises(ConfigError, match="nosuchuser"):
            start(**address, user="nosuchuser")
        assert not (tmp_path / "x").exists(), name


@pytest.mark.parametrize("address", ["unix:{}", "unixd:{}"])
def test_a_stale_socket_is_replaced(start: Start, tmp_path: Path, address: str) -> None:
    path = f"{tmp_path}/ctl"
    kind = socket.SOCK_STREAM if address.startswith("unix:") else socket.SOCK_DGRAM
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(path)
    ctl = start(binrpc=(address.format(path),))
    assert works(ctl)


def test_a_stale_fifo_is_replaced(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "rpc.fifo"
    os.mkfifo(path, 0o666)
    start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(tmp_path))
    assert fifo_call(path, tmp_path, "reply", method="core.version")["result"]


@pytest.mark.parametrize(
    "options",
    [{"binrpc": "unix:{}"}, {"binrpc": "unixd:{}"}, {"jsonrpc": "unix:{}"}, {"jsonrpc": "fifo:{}"}],
    ids=str,
)
def test_a_living_daemons_address_is_not_stolen(start: Start, tmp_path: Path, options: dict[str, str]) -> None:
    ((name, address),) = options.items()
    path = tmp_path / "x"
    start(**{name: (address.format(path),)})
    found = path.lstat()
    other = tmp_path / "y"
    wanted = {name: (f"unix:{other}", address.format(path))}
    with pytest.raises(ConfigError, match="another program is listening there"):
        start(**wanted)
    assert path.lstat().st_ino == found.st_ino
    assert not other.exists(), "what was opened before is removed again"


@pytest.mark.parametrize("options", [{"binrpc": "unix:{}"}, {"jsonrpc": "unix:{}"}, {"jsonrpc": "fifo:{}"}], ids=str)
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(start: Start, tmp_path: Path, options: dict[str, str], what: str) -> None:
    path = tmp_path / "x"
    if what == "file":
        path.write_text("precious")
    elif what == "folder":
        path.mkdir()
    else:
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match=r"a file that is no (socket|fifo) stands there"):
        start(**{name: (address.format(path),) for name, address in options.items()})
    assert os.path.lexists(path)
    assert what != "file" or path.read_text() == "precious"


def test_errors_name_their_place(rpc: Rpc, tmp_path: Path) -> None:
    settings = [Setting("sipdump_ctl", "binrpc", f"unix:{tmp_path}/no/ctl", "x.cfg:3:1")]
    with pytest.raises(ConfigError) as caught:
        Ctl(build(CtlOptions, settings), rpc, settings)
    assert caught.value.place == "x.cfg:3:1"
    with pytest.raises(ConfigError, match="fifo_reply_dir /nonexistent"):
        Ctl(CtlOptions(jsonrpc=(f"fifo:{tmp_path}/f",), fifo_reply_dir="/nonexistent"), rpc)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot listen there"):
        Ctl(CtlOptions(binrpc=(f"tcp:127.0.0.1:{taken.getsockname()[1]}",)), rpc)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("binrpc", "fifo:/x", 'must be "unix:/path"'),
        ("binrpc", "unix:ctl", "absolute"),
        ("binrpc", "tcp:host", "host:port"),
        ("jsonrpc", "tcp:127.0.0.1:1", 'must be "unix:/path"'),
        ("jsonrpc", "http:127.0.0.1", "http:host:port"),
        ("jsonrpc", "fifo:x", "absolute"),
        ("mode", 0o1777, "0001 to 0777"),
        ("fifo_reply_dir", "tmp", "absolute"),
        ("max_connections", 0, "1 or more"),
    ],
)
def test_options(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(CtlOptions, [Setting("sipdump_ctl", name, value)])


def test_without_an_address_there_is_no_thread(start: Start) -> None:
    ctl = start()
    assert ctl.addresses == []
    assert not [thread for thread in threading.enumerate() if thread.name == "sipdump-ctl"]

"""The control sockets: where they are, whose, and what is left alone."""

import json
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.control.binrpc import call, take_request
from sipdump_core.control.commands import Rpc
from sipdump_core.control.jsonrpc import take_whole
from sipdump_core.control.server import Ctl
from sipdump_core.errors import ConfigError, RpcFault
from sipdump_core.settings.ctl import CtlOptions
from sipdump_core.settings.options import Setting, build
from tests.core.control.clients import Start, packet, query, works


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
        sock.settimeout(60)
        sock.bind("")
        sock.connect(f"{tmp_path}/rpc.sock")
        assert query(sock, method="sipdump.enable", params=["0"])["result"] == {"oldval": 1, "newval": 0}
        assert query(sock, method="system.listMethods")["result"] == sorted(rpc.methods)
        assert query(sock, method="x")["error"] == {"code": 500, "message": "Method Not Found"}
        sock.send(b"garbage")
        assert json.loads(sock.recv(4096))["error"]["code"] == -32700


def test_json_over_udp(start: Start, rpc: Rpc) -> None:
    (where,) = start(jsonrpc=("udp:127.0.0.1:0",)).addresses
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.connect((where.host, where.port))
        assert query(sock, method="sipdump.enable", params=["0"])["result"] == {"oldval": 1, "newval": 0}
        assert query(sock, method="system.listMethods")["result"] == sorted(rpc.methods)


STRAYS = {
    "binrpc": [
        b"\xa1\x13\x03abcd\x10\x01",  # a reply
        b"\xa1\x33\x03abcd\x20\x01\x91",  # a fault
        b"\xa1\x1f\xff\xff\xff\xffabcd",  # a reply that is too long
        b"an echo of something",
    ],
    "jsonrpc": [
        b'{"jsonrpc": "2.0", "result": 1, "id": 1}',
        b'{"jsonrpc": "2.0", "error": {"code": 1, "message": "x"}, "id": 1}',
        b'{"error": "x"}',
        b'[{"result": 1}]',
        b"an echo of something",
    ],
}


@pytest.mark.parametrize("protocol", STRAYS)
@pytest.mark.parametrize("unix", [False, True])
def test_answers_of_other_servers_are_not_answered(start: Start, tmp_path: Path, protocol: str, unix: bool) -> None:
    """One forged datagram would have two servers, or one and itself, answer each other for ever."""
    where = f"unixd:{tmp_path}/ctl" if unix else "udp:127.0.0.1:0"
    (address,) = start(**{protocol: (where,)}).addresses
    ask = packet("core.echo", "x") if protocol == "binrpc" else b'{"jsonrpc": "2.0", "method": "core.version", "id": 7}'
    strays = STRAYS[protocol][: -1 if unix else None]  # nobody can forge the sender of a unix datagram
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.bind("" if unix else ("127.0.0.1", 0))
        sock.connect(address.path if unix else (address.host, address.port))
        for stray in strays:
            sock.send(stray)
        sock.send(ask)
        answer = sock.recv(65536)
        assert b"abcd" in answer if protocol == "binrpc" else json.loads(answer)["id"] == 7
        sock.send(answer)  # as a server does that takes it for a request
        sock.send(ask)
        assert sock.recv(65536) == answer


@pytest.mark.parametrize("protocol", STRAYS)
def test_what_a_server_says_to_requests_that_are_wrong_is_a_stray(start: Start, protocol: str) -> None:
    """So two of them end at once, whatever the first datagram was."""
    (address,) = start(**{protocol: ("udp:127.0.0.1:0",)}).addresses
    wrong = {"binrpc": [b"\xa1\x03\x00abcd"], "jsonrpc": [b"{}", b"[]", b"1", b'{"method": 1}', b'{"jsonrpc": "2.0"}']}
    take = take_request if protocol == "binrpc" else take_whole
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.connect((address.host, address.port))
        for data in wrong[protocol]:
            sock.send(data)
            answered = take(bytearray(sock.recv(65536)))
            assert answered is not None
            assert answered.stray


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
        sock.settimeout(60)
        for _ in range(200):  # more than its queue has room for
            sock.send(packet("core.echo", "x"))
        assert works(ctl)


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
    with pytest.raises(ConfigError, match=r"there is a file that is no (socket|fifo)"):
        start(**{name: (address.format(path),) for name, address in options.items()})
    assert os.path.lexists(path)
    assert path.is_dir() if what == "folder" else path.read_text() == "precious"


def test_errors_name_their_place(rpc: Rpc, start: Start, tmp_path: Path) -> None:
    settings = [Setting("sipdump_ctl", "binrpc", f"unix:{tmp_path}/no/ctl", "x.cfg:3:1")]
    with pytest.raises(ConfigError) as caught:
        Ctl(build(CtlOptions, settings), rpc)
    assert caught.value.place == "x.cfg:3:1"
    with pytest.raises(ConfigError, match="fifo_reply_dir /nonexistent"):
        start(jsonrpc=(f"fifo:{tmp_path}/f",), fifo_reply_dir="/nonexistent")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot listen there"):
        start(binrpc=(f"tcp:127.0.0.1:{taken.getsockname()[1]}",))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("binrpc", "fifo:/x", 'must be "unix:/path"'),
        ("binrpc", "unix:ctl", "absolute"),
        ("binrpc", "tcp:host", "host:port"),
        ("jsonrpc", "tcp:127.0.0.1:1", 'must be "unix:/path"'),
        ("jsonrpc", "http:127.0.0.1", "http:host:port"),
        ("jsonrpc", "udp:127.0.0.1", "udp:host:port"),
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

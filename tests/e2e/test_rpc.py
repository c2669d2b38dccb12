"""The same command lines of the real kamcmd, kamctl, kamcli and curl, against a real Kamailio and against the daemon.

Same output and exit code is asked for; both are shown where they differ.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from sipdump_core.control.binrpc import call, encode_values
from tests.e2e.peers import Daemon, Stage, free_port, hep3, need, program, request

BINRPC = ("unix", "unixd", "tcp", "udp")
JSON = "Content-Type: application/json"


class Server(NamedTuple):
    """Where one of the two takes commands."""

    binrpc: dict[str, str]
    sock: Path
    fifo: Path
    http: str
    kamcli: Path


class Pair(NamedTuple):
    kamailio: Server
    ours: Server
    daemon: Daemon

    def reset(self, enable: int = 1) -> None:
        for server in (self.kamailio, self.ours):
            call(server.binrpc["unix"], "sipdump.enable", enable)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    need("kamailio", "kamcmd")
    folder = tmp_path_factory.mktemp("rpc")
    with Stage(folder) as stage:
        theirs = _addresses(folder, "k")
        more = [
            'loadmodule "ctl.so"\nloadmodule "xhttp.so"\nloadmodule "jsonrpcs.so"',
            *(f'modparam("ctl", "binrpc", "{address}")' for address in theirs.binrpc.values()),
            'modparam("jsonrpcs", "transport", 7)',
            f'modparam("jsonrpcs", "fifo_name", "{theirs.fifo}")',
            f'modparam("jsonrpcs", "dgram_socket", "{theirs.sock}")',
            "tcp_accept_no_cl=yes",
            'event_route[xhttp:request] {\n  if ($hu =~ "^/RPC") { jsonrpc_dispatch(); exit; }\n'
            '  xhttp_reply("404", "Not Found", "text/plain", "no");\n}',
        ]
        kamailio = stage.kamailio(sipdump=True, more="\n".join(more))
        ours = _addresses(folder, "o")
        http = ours.http.removeprefix("http://").removesuffix("/RPC")
        daemon = stage.sipdumpd(
            *(f"--modparam=sipdump_ctl:binrpc:s:{address}" for address in ours.binrpc.values()),
            f"--modparam=sipdump_ctl:jsonrpc:s:unix:{ours.sock}",
            f"--modparam=sipdump_ctl:jsonrpc:s:fifo:{ours.fifo}",
            f"--modparam=sipdump_ctl:jsonrpc:s:http:{http}",
            "--modparam=sipdump:fage:i:3600",
        )
        theirs = theirs._replace(http=f"http://127.0.0.1:{kamailio.port}/RPC")
        kamailio.until(lambda: theirs.fifo.exists() and theirs.sock.exists(), "Kamailio's control sockets")
        yield Pair(theirs, ours, daemon)


def _addresses(folder: Path, name: str) -> Server:
    port = free_port()
    kamcli = folder / f"{name}.ini"
    sock, fifo = folder / f"{name}.sock", folder / f"{name}.fifo"
    kamcli.write_text(
        "[main]\n[db]\ntype=mysql\n[ctl]\ntype=jsonrpc\n[jsonrpc]\ntransport=socket\n"
        f"srvaddr={sock}\nrcvaddr={folder}/{name}-reply.sock\npath={fifo}\nrplnamebase=x\nrpldir=/tmp\noutformat=json\n"
    )
    binrpc = {
        "unix": f"unix:{folder}/{name}.ctl",
        "unixd": f"unixd:{folder}/{name}.ctld",
        "tcp": f"tcp:127.0.0.1:{port}",
        "udp": f"udp:127.0.0.1:{port + 1}",
    }
    return Server(binrpc, sock, fifo, f"http://127.0.0.1:{port + 2}/RPC", kamcli)


def run(argv: Sequence[str | Path], stdin: str = "", **env: str) -> tuple[int, str]:
    """Run a client, and give exit code and output, without what tells one run from another: pids as ids."""
    done = subprocess.run(
        [program(str(argv[0])) or str(argv[0]), *map(str, argv[1:])],
        input=stdin, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env},
    )  # fmt: skip
    return done.returncode, re.sub(r'("?id"?:\s*)\d+', r"\1N", done.stdout + done.stderr)


def same(theirs: tuple[int, str], ours: tuple[int, str]) -> None:
    assert ours == theirs, f"\n--- Kamailio: exit {theirs[0]}\n{theirs[1]}\n--- sipdumpd: exit {ours[0]}\n{ours[1]}"


ENABLE = ["", "0", "1", "7", "-1", "abc", "s:1", "s:0", "1 2 3", "0 x", "1.0", "f:1"]
COMMANDS = [
    *(f"sipdump.enable {value}".strip() for value in ENABLE),
    "nosuch.method",
    "nosuch.method 1 a",
    "help sipdump.enable",
    "help core.version",
    "help core.uptime",
    "help core.ps",
    "help core.psx",
    "help core.echo",
    "help system.listMethods",
    "help system.methodHelp",
    "help system.methodSignature",
    "help nosuch",
    "system.methodHelp",
    "system.methodHelp 1",
    "system.methodSignature sipdump.enable",
    "system.methodSignature",
    "core.echo 1 2.5 s:3 hello",
    "core.echo a b 3",
    "core.echo",
]


@pytest.mark.peer
@pytest.mark.parametrize("proto", BINRPC)
def test_kamcmd(pair: Pair, proto: str) -> None:
    for start in (1, 0):
        for command in COMMANDS:
            pair.reset(start)
            theirs, ours = (
                run(["kamcmd", "-s", server.binrpc[proto], *command.split()]) for server in (pair.kamailio, pair.ours)
            )
            same(theirs, ours)


@pytest.mark.peer
def test_kamcmd_interactive(pair: Pair) -> None:
    """At its start it asks for all methods, for completion."""
    pair.reset()
    stdin = "\n".join([*COMMANDS, "?nosuch", "quit"]) + "\n"
    same(*(run(["kamcmd", "-s", server.binrpc["unix"]], stdin) for server in (pair.kamailio, pair.ours)))


@pytest.mark.peer
@pytest.mark.parametrize("proto", BINRPC)
def test_kamcmd_lists(pair: Pair, proto: str) -> None:
    """Our own commands stand beside those that Kamailio has too, in the same order."""
    listed = []
    for server in (pair.kamailio, pair.ours):
        code, output = run(["kamcmd", "-s", server.binrpc[proto], "system.listMethods"])
        assert code == 0
        listed.append(output.split())
    own = {f"sipdump.{name}" for name in ("stats", "rotate", "prune", "list", "backends")}
    assert [name for name in listed[0] if name in listed[1]] == [name for name in listed[1] if name not in own]
    assert own < set(listed[1])


@pytest.mark.peer
def test_kamcmd_shows_the_same_form(pair: Pair) -> None:
    """What holds times and pids has the same form."""
    for command in ("core.uptime", "core.psx"):
        theirs, ours = (
            re.findall(r"^\s*(\w+):", run(["kamcmd", "-s", server.binrpc["unix"], command])[1], re.MULTILINE)
            for server in (pair.kamailio, pair.ours)
        )
        assert theirs[:3] == ours[:3]
    pids = run(["kamcmd", "-s", pair.ours.binrpc["unix"], "core.ps"])[1].splitlines()
    assert pids[:2] == [str(pair.daemon.pid), "main process"]


@pytest.mark.peer
def test_kamcmd_own_commands(pair: Pair) -> None:
    pair.reset()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(3):
            sock.sendto(hep3(request(number=number)), ("127.0.0.1", pair.daemon.port))
    pair.daemon.until(lambda: len(pair.daemon.records()) >= 3, "3 records")
    outputs = {}
    for name in ("stats", "rotate", "list", "prune", "backends"):
        code, outputs[name] = run(["kamcmd", "-s", pair.ours.binrpc["unix"], f"sipdump.{name}"])
        assert code == 0
        assert outputs[name].startswith("{\n"), name
    assert "\tsources: {\n\t\thep: {\n\t\t\tpackets: 3\n" in outputs["stats"]
    assert re.search(r"\n\t\ttext: \{\n(\t\t\t.*\n)*?\t\t\tstate: ok\n", outputs["stats"])
    assert outputs["rotate"] == "{\n\trotated: 1\n}\n"
    assert "\tstate: sealed\n" in outputs["list"]
    assert "\tstate: open\n" not in outputs["list"]
    assert outputs["prune"].count("segments: 0") == 3
    assert outputs["backends"].count("kind: backend") >= 2


KAMCTL = [
    *(f"sipdump.enable {value}".strip() for value in ("", "0", "1", "7", "-1", "1 2 3")),
    "nosuch.method",
    "system.methodHelp sipdump.enable",
    "system.methodHelp nosuch",
    "system.methodHelp",
    "system.methodSignature core.ps",
    "core.echo a b 3",
]


@pytest.mark.peer
def test_kamctl(pair: Pair, tmp_path: Path) -> None:
    need("kamctl")
    for command in KAMCTL:
        pair.reset()
        theirs, ours = (
            run(["kamctl", "rpc", *command.split()], RPCFIFOPATH=str(server.fifo), HOME=str(tmp_path))
            for server in (pair.kamailio, pair.ours)
        )
        same(theirs, ours)
        assert '"jsonrpc":' in ours[1]


@pytest.mark.peer
def test_kamctl_does_not_fall_into_the_trap(pair: Pair, tmp_path: Path) -> None:
    need("kamctl")
    for value, shown in (("s:1", '"newval": 1'), ("abc", '"code": 400')):
        pair.reset()
        argv = ["kamctl", "rpc", "sipdump.enable", value]
        assert '"newval": 0' in run(argv, RPCFIFOPATH=str(pair.kamailio.fifo), HOME=str(tmp_path))[1]
        assert shown in run(argv, RPCFIFOPATH=str(pair.ours.fifo), HOME=str(tmp_path))[1]
        assert call(pair.ours.binrpc["unix"], "sipdump.enable") == [{"oldval": 1, "newval": 1}]


@pytest.mark.peer
def test_kamctl_uptime_and_ps(pair: Pair, tmp_path: Path) -> None:
    need("kamctl")
    for name in ("uptime", "ps"):
        theirs, ours = (
            run(["kamctl", name], RPCFIFOPATH=str(server.fifo), HOME=str(tmp_path))
            for server in (pair.kamailio, pair.ours)
        )
        keys = [re.findall(r'"(\w+)":', output)[:5] for _, output in (theirs, ours)]
        assert keys[0] == keys[1]
        assert theirs[0] == ours[0] == 0


@pytest.mark.peer
def test_kamcli(pair: Pair) -> None:
    need("kamcli")
    for command in ("", "i:0", "i:1", "i:7"):
        pair.reset()
        argv = ["rpc", "sipdump.enable", *command.split()]
        same(*(_kamcli(server, *argv) for server in (pair.kamailio, pair.ours)))
    for argv in (["rpc", "nosuch"], ["rpc", "system.methodHelp", "sipdump.enable"], ["rpc", "core.echo", "a", "i:1"]):
        same(*(_kamcli(server, *argv) for server in (pair.kamailio, pair.ours)))
    pair.reset(0)
    assert '"newval": 1' in _kamcli(pair.ours, "rpc", "sipdump.enable", "1")[1], "which Kamailio takes as 0"
    for name in ("uptime", "rpcmethods"):
        code, output = _kamcli(pair.ours, name)
        assert code == 0
        assert '"result"' in output


def _kamcli(server: Server, *argv: str) -> tuple[int, str]:
    return run(["kamcli", "--no-default-configs", "-c", str(server.kamcli), *argv])


REQUESTS = [
    '{"jsonrpc":"2.0","method":"sipdump.enable","id":1}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","params":[0],"id":"abc"}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","params":[1],"id":1}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","params":[7],"id":1}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","params":[true],"id":1}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","params":[false],"id":1}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","params":[1.0],"id":1}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","params":{"value":0},"id":1}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","params":[]}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","id":null}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","id":1.5}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","id":true}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","id":[1]}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","id":12345678901234}',
    '{"jsonrpc":"2.0","method":"sipdump.enable","id":-1}',
    '{"jsonrpc":"2.0","method":"nosuch","id":1}',
    '{"jsonrpc":"2.0","method":"system.methodHelp","id":1}',
    '{"jsonrpc":"2.0","method":"system.methodHelp","params":["nosuch"],"id":1}',
    '{"jsonrpc":"2.0","method":"system.methodHelp","params":["core.ps"],"id":1}',
    '{"jsonrpc":"2.0","method":"system.methodSignature","params":["x"],"id":1}',
    '{"jsonrpc":"2.0","method":"core.echo","params":["a\\"\\u00e9\\n/\\u0001",2],"id":1}',
    '{"jsonrpc":"2.0","method":"core.echo","params":[],"id":1}',
    '{"jsonrpc":"2.0","method":"core.echo","params":[1.5,"a",2.0,3.7,"b"],"id":1}',
    '{"jsonrpc":"2.0","method":"core.echo","params":[true,"a"],"id":1}',
    '{"jsonrpc":"2.0","method":"core.echo","params":["a",null,"b"],"id":1}',
    '{"jsonrpc":"2.0","method":"core.echo","params":["a",{"b":1}],"id":1}',
    '{"jsonrpc":"2.0","method":"core.echo","params":{"x":"a","y":2},"id":1}',
]


@pytest.mark.peer
@pytest.mark.parametrize("data", REQUESTS)
def test_curl(pair: Pair, data: str) -> None:
    need("curl")
    pair.reset()
    options = ["-s", "--max-time", "10", "-H", JSON, "-d", data, "-w", "\n%{http_code} %{content_type}\n"]
    theirs, ours = (_curl(server, *options) for server in (pair.kamailio, pair.ours))
    same(theirs, ours)
    assert ours[0] == 0


def _curl(server: Server, *options: str) -> tuple[int, str]:
    done = subprocess.run(["curl", *options, server.http], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


@pytest.mark.peer
@pytest.mark.parametrize("data", REQUESTS)
def test_datagrams(pair: Pair, data: str) -> None:
    pair.reset()
    answers = []
    for server in (pair.kamailio, pair.ours):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(60)
            sock.bind("")
            sock.sendto(data.encode(), str(server.sock))
            answers.append((0, sock.recv(65536).decode()))
    same(*answers)


@pytest.mark.peer
def test_datagrams_over_udp(stage: Stage) -> None:
    need("kamailio")
    ports = free_port(), free_port()
    more = 'loadmodule "jsonrpcs.so"\nmodparam("jsonrpcs", "transport", 4)\n'
    stage.kamailio(sipdump=True, more=f'{more}modparam("jsonrpcs", "dgram_socket", "udp:127.0.0.1:{ports[0]}")')
    stage.sipdumpd(f"--modparam=sipdump_ctl:jsonrpc:s:udp:127.0.0.1:{ports[1]}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(60)
        for data in REQUESTS:
            answers = []
            for port in ports:
                sock.sendto(data.encode(), ("127.0.0.1", port))
                answers.append((0, sock.recv(65536).decode()))
            same(*answers)


@pytest.mark.peer
def test_curl_and_the_trap(pair: Pair) -> None:
    need("curl")
    for params in ('["abc"]', "[null]", "[[1]]", "[0.5]", '[""]'):
        pair.reset()
        data = f'{{"jsonrpc":"2.0","method":"sipdump.enable","params":{params},"id":1}}'
        theirs, ours = (
            json.loads(_curl(server, "-s", "-H", JSON, "-d", data)[1]) for server in (pair.kamailio, pair.ours)
        )
        assert theirs["result"] == {"oldval": 1, "newval": 0}
        assert ours["error"]["code"] == 400
        assert call(pair.ours.binrpc["unix"], "sipdump.enable") == [{"oldval": 1, "newval": 1}]


def _raw(address: str, data: bytes) -> bytes:
    """Send bytes, and give what comes back until the connection ends or nothing comes for a while."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(address.removeprefix("unix:"))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
        return answer


def _packet(body: bytes, kind: int = 0, cookie: bytes = b"\1\2\3\4") -> bytes:
    return bytes((0xA1, kind << 4 | 1 << 2 | len(cookie) - 1)) + len(body).to_bytes(2, "big") + cookie + body


_ENABLE = encode_values(["sipdump.enable"])


@pytest.mark.peer
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n", b"\xa2\x03\x01abcd\x01", b"\xa1", b"", _packet(_ENABLE)[:12], _packet(b""),
        _packet(_ENABLE, 1), _packet(_ENABLE, 2), _packet(_ENABLE, 3), _packet(b"\x10\x01"), _packet(b"\x36abc"),
        _packet(b"\x03\x83"), _packet(b"\x07"), _packet(_ENABLE, 0, b"\0"), _packet(_ENABLE, 0, b"\7"),
        _packet(_ENABLE) * 3, _packet(_ENABLE + b"\x41ab"), _packet(_ENABLE + b"\x91\xffab"),
        _packet(_ENABLE + b"\x03\x25a\0\x10\0\x83"), _packet(_ENABLE + b"\x22\x03\xe8"), _packet(_ENABLE + b"\0"),
        _packet(_ENABLE + b"\x04\x00\x84"), _packet(_ENABLE + b"\x07"), _packet(_ENABLE + b"\x50\0\0\0\0\0"),
        _packet(_ENABLE + b"\x90\x01\0"), _packet(_ENABLE + b"\x40\xff\xff\xff\xff"), _packet(_ENABLE + b"\x83"),
        _packet(b"\x01"), _packet(encode_values(["co\0re"])), _packet(encode_values(["system.methodHelp", 1])),
        _packet(encode_values(["core.echo", 1, {"a": 1}, "b"])),
        _packet(encode_values(["core.echo", 1.5, "a"])), _packet(encode_values(["core.echo", "a", 1.5, "b"])),
        _packet(encode_values(["core.echo", {"a": 1}])), _packet(encode_values(["core.echo", b"ab"])),
        _packet(encode_values(["core.echo", 2**31])), _packet(encode_values(["core.echo", ["a"], "b"])),
        _packet(encode_values(["a" * 200])),
    ],
    ids=lambda data: data[:40].hex() or "nothing",
)  # fmt: skip
def test_raw_binrpc(pair: Pair, data: bytes) -> None:
    """Broken packets, too, are answered byte for byte as Kamailio answers them."""
    pair.reset()
    same(*((0, _raw(server.binrpc["unix"], data).hex()) for server in (pair.kamailio, pair.ours)))
    assert call(pair.ours.binrpc["unix"], "core.echo", "alive") == ["alive"]


def admin(*argv: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sipdump_core.admin", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_sipdump_admin(stage: Stage, tmp_path: Path) -> None:
    ctl = f"unix:{tmp_path}/ctl"
    daemon = stage.sipdumpd(f"--modparam=sipdump_ctl:binrpc:s:{ctl}", "--modparam=sipdump:enable:i:0")
    daemon.says(f"kamcmd -s {ctl} sipdump.enable 1")
    config = tmp_path / "admin.cfg"
    config.write_text(f'modparam("sipdump_ctl", "binrpc", "{ctl}")\nmodparam("sipdump_ctl", "binrpc", "udp:h:1")\n')
    done = admin("enable", "1", "-f", str(config))
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n\toldval: 0\n\tnewval: 1\n}\n", "")
    done = admin("enable", "--socket", ctl, "--json")
    assert json.loads(done.stdout) == [{"oldval": 1, "newval": 1}]
    assert "core.version" in admin("rpc", "system.listMethods", "-f", str(config)).stdout.split()
    assert admin("rpc", "core.echo", "s:1", "a", "-f", str(config)).stdout == "1\na\n"
    done = admin("rpc", "nosuch", "--socket", ctl)
    assert (done.returncode, done.stderr) == (1, "sipdump-admin: 500 - command nosuch not found\n")
    assert admin("enable", "2", "--socket", ctl).returncode == 2
    daemon.stop()
    done = admin("enable", "--socket", ctl)
    assert done.returncode == 1
    assert "is it running?" in done.stderr
    assert "-f FILE" in admin("enable").stderr
    assert "must be" in admin("enable", "--socket", "nonsense").stderr
    config.write_text("")
    assert "takes no commands" in admin("enable", "-f", str(config)).stderr


def test_sockets_of_the_daemon(stage: Stage, tmp_path: Path) -> None:
    """Private, not stolen by a second daemon, replaced after a kill, removed at an orderly end."""
    ctl, fifo = tmp_path / "ctl", tmp_path / "fifo"
    options = (f"--modparam=sipdump_ctl:binrpc:s:unix:{ctl}", f"--modparam=sipdump_ctl:jsonrpc:s:fifo:{fifo}")
    daemon = stage.sipdumpd(*options)
    assert oct(ctl.stat().st_mode)[-3:] == oct(fifo.stat().st_mode)[-3:] == "600"
    second = subprocess.run([*daemon.argv], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert second.returncode == 1
    assert "another program is listening there" in second.stderr
    assert call(f"unix:{ctl}", "core.echo", "x") == ["x"]
    daemon.process.send_signal(signal.SIGKILL)
    daemon.wait()
    assert ctl.exists()
    again = stage.sipdumpd(*options)
    assert call(f"unix:{ctl}", "core.echo", "x") == ["x"]
    assert again.stop() == 0
    assert not ctl.exists()
    assert not fifo.exists()

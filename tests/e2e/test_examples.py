"""Each example of the documentation of Kamailio's sipdump module, as a file that sipdumpd runs as it is."""

import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from sipdump_core.config.reader import read_config
from tests.e2e.peers import Child, Stage, files, free_port, need, program, read_data, request, sipdumpd_command
from tests.e2e.test_forward import _answers, _has_python_module
from tests.hep import hep3

EXAMPLES = Path(__file__).parents[2] / "examples" / "kamailio"


class Running:
    """The daemon with an example for its configuration; folder and ports are the test's."""

    def __init__(self, stage: Stage, example: str, *options: str, folder: Path | None = None) -> None:
        self.folder = folder or stage.path(example)
        self.folder.mkdir(exist_ok=True)
        argv: list[str | Path] = [*sipdumpd_command(), "-f", EXAMPLES / example]
        argv += [f"--modparam=sipdump:folder:s:{self.folder}", "--modparam=sipdump_hep:listen:s:udp:127.0.0.1:0"]
        self.child: Child = stage.run([*argv, *options], "sipdumpd")
        self.child.says("sipdumpd started")

    def send(self, data: bytes) -> None:
        found = re.search(r"listening for HEP.*port=(\d+)", self.child.output())
        assert found
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(hep3(data, seconds=int(time.time())), ("127.0.0.1", int(found[1])))

    def stores(self, data: bytes) -> None:
        self.send(data)
        found = self.folder.glob
        self.child.until(lambda: data in [r.buf for path in found("*.data") for r in read_data(path)], "stored")


@pytest.mark.parametrize(
    "example",
    ["enable", "mode", "wait", "wait_mode", "rotate", "fprefix", "fage", "fagex", "event_callback", "event_route"],
)
def test_an_example_stores_what_comes_in(stage: Stage, example: str) -> None:
    running = Running(stage, f"{example}.cfg")
    running.stores(request())
    assert running.child.stop() == 0


@pytest.mark.parametrize(
    ("example", "name", "value"),
    [
        ("enable", "enable", 1),
        ("mode", "mode", 3),
        ("wait", "wait", 2000),
        ("wait_mode", "wait_mode", 1),
        ("rotate", "rotate", 3600),
        ("folder", "folder", "/run/kamailio"),
        ("fprefix", "fprefix", "ksipdump-"),
        ("fage", "fage", 172800),
        ("fagex", "fagex", "2d6h40m30s"),
        ("event_callback", "event_callback", "ksr_sipdump_event"),
    ],
)
def test_an_example_sets_its_parameter_as_pasted(tmp_path: Path, example: str, name: str, value: int | str) -> None:
    """The documentation shows the line between two lines of dots; that can be pasted whole."""
    text = (EXAMPLES / f"{example}.cfg").read_text()
    (line,) = re.findall(rf'^modparam\("sipdump", "{name}", .*$', text, re.MULTILINE)
    pasted = tmp_path / "pasted.cfg"
    pasted.write_text(f"...\n{line}\n...\n")
    for path in (EXAMPLES / f"{example}.cfg", pasted):
        assert [s.value for s in read_config(path).settings if (s.module, s.name) == ("sipdump", name)] == [value]


def test_the_folder_must_be_there(stage: Stage, tmp_path: Path) -> None:
    config = tmp_path / "folder.cfg"
    folder = tmp_path / "run"
    config.write_text((EXAMPLES / "folder.cfg").read_text().replace("/run/kamailio", str(folder)))
    check = [*sipdumpd_command(), "-c", "-f", str(config)]
    missing = subprocess.run(check, capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert f"{config}:3:1: " in missing.stderr
    assert "there is no such folder" in missing.stderr
    folder.mkdir()
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_the_prefix_is_used(stage: Stage) -> None:
    running = Running(stage, "fprefix.cfg")
    running.stores(request())
    assert {path.name[:9] for path in running.folder.iterdir()} == {"ksipdump-"}


@pytest.mark.parametrize("example", ["fage", "fagex"])
def test_old_files_are_deleted(stage: Stage, example: str) -> None:
    folder = stage.path("aged")
    folder.mkdir()
    old, young = (folder / f"kamailio-sipdump-2026-01-0{n}--00-00-00.data" for n in (1, 2))
    for path, days in ((old, 3), (young, 1)):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - days * 86400,) * 2)
    running = Running(stage, f"{example}.cfg", folder=folder)
    running.child.until(lambda: not old.exists(), "the old file is deleted")
    assert young.exists()


def test_the_event_route_logs_each_message(stage: Stage) -> None:
    running = Running(stage, "event_route.cfg")
    running.stores(request(number=5))
    first = request(number=5).split(b"\r\n")[0].decode()
    assert re.search(rf"\[(rcv|snd|hep)\] \[\[{re.escape(first)}", running.child.output())


def test_the_lua_callback_logs_each_message(stage: Stage) -> None:
    running = Running(stage, "event_callback.cfg")
    running.stores(request())
    running.child.says("===== sipdump module triggered event: sipdump:msg")


@pytest.mark.peer
def test_the_enable_command_three_ways(stage: Stage) -> None:
    need("kamcmd")
    sock = stage.path("ctl")
    running = Running(stage, "rpc_enable.cfg", f"--modparam=sipdump_ctl:binrpc:s:unix:{sock}")
    path = f"{Path(program('kamcmd') or '').parent}:{os.environ['PATH']}"
    argv = [str(EXAMPLES / "rpc_enable.sh"), f"unix:{sock}"]
    env = {**os.environ, "PATH": path}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert done.returncode == 0, done.stderr
    values = re.findall(r"(oldval|newval): (\d)", done.stdout)
    assert [(k, v) for k, v in values] == [
        ("oldval", "0"), ("newval", "0"), ("oldval", "0"), ("newval", "1"), ("oldval", "1"), ("newval", "0"),
    ]  # fmt: skip
    assert running.child.stop() == 0


@pytest.mark.peer
def test_sipdump_send_arrives_with_its_tag(stage: Stage) -> None:
    need("kamailio")
    if not _has_python_module():
        need("kamailio-python3-modules")
    sock, port = stage.path("ksr"), free_port()
    running = Running(stage, "enable.cfg", f"--modparam=sipdump_ksr:listen:s:unix:{sock}")
    theirs, run = stage.path("kamailio"), stage.path("run")
    theirs.mkdir()
    run.mkdir()
    text = (EXAMPLES / "sipdump_send.cfg").read_text()
    for old, new in {
        "/run/sipdump/ksr": str(sock),
        "/etc/kamailio/": f"{EXAMPLES}/",
        "127.0.0.1:5060\n": f"127.0.0.1:{port}\nauto_aliases=no\nlog_stderror=yes\n",
        '"mode", 1)': f'"mode", 1)\nmodparam("sipdump", "folder", "{theirs}")',
    }.items():
        text = text.replace(old, new)
    config = stage.path("kamailio.cfg")
    config.write_text(text)
    argv: list[str | Path] = [program("kamailio") or "kamailio", "-f", config, "-DD", "-E", "-Y", run, "-m", "32"]
    kamailio = stage.run(argv, "kamailio")
    kamailio.until(lambda: _answers(port), "Kamailio answers")

    def tagged(folder: Path) -> list[tuple[object, ...]]:
        found = [r for path in files(folder, ".data") for r in read_data(path) if r.tag == "cfg"]
        return [(r.pid, r.procno, r.src, r.dst, r.buf) for r in found]

    running.child.until(lambda: tagged(running.folder) and tagged(theirs), "the message under its tag")
    assert tagged(running.folder)[0] == tagged(theirs)[0]

"""sipdump-admin send, to a daemon that is in this process."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.config.reader import parse_config
from sipdump_core.control.commands import Rpc
from sipdump_core.control.server import Ctl
from sipdump_core.plan import make_plan
from sipdump_core.sipdump import SipDump
from sipdump_core.sources.hep import HepSource
from tests.core.admin.run import run
from tests.e2e.peers import free_port

Start = Callable[..., tuple[Path, SipDump]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts what sipdumpd would, and writes its configuration."""
    closing: list[Any] = []

    def started(*lines: str, proto: str = "udp") -> tuple[Path, SipDump]:
        text = "\n".join(
            [
                f'modparam("sipdump", "folder", "{tmp_path}")',
                'modparam("sipdump", "enable", 1)',
                'modparam("sipdump", "mode", 5)',
                f'modparam("sipdump_hep", "listen", "{proto}:0.0.0.0:{free_port()}")',
                f'modparam("sipdump_ctl", "binrpc", "unix:{tmp_path}/ctl")',
                *lines,
            ]
        )
        config = tmp_path / "k.cfg"
        config.write_text(text)
        plan = make_plan(parse_config(text, "k.cfg").settings)
        dump = SipDump(plan=plan)
        source = HepSource(plan.modules["sipdump_hep"], dump)
        closing.extend([Ctl(plan.modules["sipdump_ctl"], Rpc(dump, {"hep": source.stats})), source, dump])
        return config, dump

    yield started
    for each in closing:
        each.close()


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_a_message_arrives_and_is_stored(
    start: Start, proto: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = start('modparam("sipdump_hep", "auth_key", "secret")', proto=proto)
    code, out, err = run(capsys, "send", "-f", config)
    assert (code, err) == (0, "")
    sent, arrived = out.splitlines()
    assert sent.startswith(f"sent to {proto}:127.0.0.1:")
    assert arrived == "it arrived, and is stored by pcap, text"
    call_id = sent.rpartition(" ")[2]
    (data,) = tmp_path.glob("*.data")
    assert f"Call-ID: {call_id}\r\n".encode() in data.read_bytes()
    code, out, _ = run(capsys, "send", "-f", config, "--json")
    assert {**json.loads(out), "to": "", "call_id": ""} == {
        "to": "", "call_id": "", "arrived": True, "stored": ["pcap", "text"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "more", "why"),
    [
        ('modparam("sipdump", "enable", 0)', [], "it is not stored: enable is 0"),
        (
            'modparam("sipdump_hep", "auth_key", "secret")',
            ["wrong"],
            "it is not stored: the daemon wants another auth_key",
        ),
    ],
)
def test_why_it_is_not_stored(
    start: Start, line: str, more: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = start(line)
    if more:
        config.write_text(config.read_text().replace("secret", "wrong"))
    code, _, err = run(capsys, "send", "-f", config)
    assert (code, err) == (1, f"sipdump-admin: {why}\n")


def test_an_event_route_that_drops(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    config, dump = start('modparam("sipdump", "mode", 7)')
    dump.event_route(lambda _: False)
    code, _, err = run(capsys, "send", "-f", config)
    assert (code, err) == (1, "sipdump-admin: it is not stored: the event route dropped it\n")


def test_it_did_not_arrive(start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.admin.send._WAIT_S", 0.2)
    config, _ = start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        code, out, err = run(capsys, "send", "-f", config, "--to", f"udp:127.0.0.1:{nobody.getsockname()[1]}")
    why = "does the daemon of this control socket listen there?"
    assert (code, err) == (1, f"sipdump-admin: it did not arrive within 0.2 s; {why}\n")
    assert out.startswith("sent to udp:127.0.0.1:")


def test_without_a_control_socket_it_only_sends(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = start()
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "binrpc" not in line))
    code, out, _ = run(capsys, "send", "-f", config)
    assert code == 0
    assert "whether it arrived cannot be checked here: no control socket is known" in out
    code, out, _ = run(capsys, "send", "-f", config, "--json")
    assert (code, json.loads(out)["arrived"]) == (0, None)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--to", "127.0.0.1"], '--to: must be "udp:host:port"'),
        (["--to", "tcp:127.0.0.1:1"], "cannot send to tcp:127.0.0.1:1: Connection refused; is the daemon running, and"),
        (["--to", "udp:127.0.0.1:1"], "cannot send to udp:127.0.0.1:1: Connection refused; is the daemon running, and"),
        (["--socket", "unix:/nonexistent"], "cannot reach the daemon at unix:/nonexistent"),
    ],
)
def test_what_cannot_be_sent(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "send", *args)
    assert code == 1
    assert message in err


def test_hep_that_is_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "k.cfg"
    config.write_text('modparam("sipdump_hep", "listen", "off")')
    assert run(capsys, "send", "-f", config)[0::2] == (
        1, f"sipdump-admin: {config}: HEP is switched off: it listens nowhere\n",
    )  # fmt: skip


def test_a_port_that_the_kernel_chooses_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "k.cfg"
    config.write_text('modparam("sipdump_hep", "listen", "udp:127.0.0.1:0")')
    code, _, err = run(capsys, "send", "-f", config)
    assert code == 1
    assert f"{config}:1:1: " in err
    assert "name it with --to" in err

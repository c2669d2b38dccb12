"""enable, rpc, backends."""

import errno
import json
from pathlib import Path

import pytest

from tests.core.admin.run import run


def test_backends(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "backends", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert (rows["text"]["flag"], rows["text"]["suffix"], rows["text"]["distribution"]) == (1, ".data", "sipdump")
    assert (rows["header"]["kind"], rows["header"]["flag"], rows["header"]["suffix"]) == ("transform", 8, None)
    assert {row["state"] for row in rows.values()} == {"loaded"}
    assert "pcap" in run(capsys, "backends")[1]


@pytest.mark.parametrize("address", ["unix:/nonexistent/ctl", "tcp:127.0.0.1:1"])
def test_the_socket_is_the_first_of_the_configuration(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "k.cfg"
    config.write_text(f'modparam("sipdump_ctl", "binrpc", "{address}")\nmodparam("sipdump_ctl", "binrpc", "udp:x:1")\n')
    code, _, err = run(capsys, "enable", "-f", config)
    assert code == 1
    assert err.startswith(f"sipdump-admin: cannot reach the daemon at {address}: ")


def test_backends_without_a_control_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "k.cfg"
    config.write_text('modparam("sipdump", "mode", 5)')
    code, out, err = run(capsys, "backends", "-f", config)
    assert code == 0
    assert "text     backend    1     .data" in out
    assert f'{config}: it has no modparam("sipdump_ctl", "binrpc", ...)' in err
    code, out, err = run(capsys, "backends", "--socket", f"unix:{tmp_path}/ctl")
    assert code == 1
    assert "text     backend    1     .data" in out
    assert "No such file or directory; is it running?" in err


def test_a_control_socket_of_somebody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("sipdump_core.control.binrpc._connect", refuse)
    code, _, err = run(capsys, "enable", "--socket", f"unix:{tmp_path}/ctl")
    assert code == 1
    assert "Permission denied; run this as the daemon's user, or open the socket to your group: modparam(" in err

"""enable, rpc, backends."""

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

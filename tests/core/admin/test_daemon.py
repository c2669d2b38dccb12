"""enable, rpc, backends."""

import json

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

"""JSON-RPC by fifo: good clients, and hostile ones."""

import contextlib
import json
import os
from pathlib import Path

from sipdump_core.control.commands import Rpc
from tests.core.control.clients import Start, fifo_call, fifo_call_once, works
from tests.support import wait_for


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


def test_a_stale_fifo_is_replaced(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "rpc.fifo"
    os.mkfifo(path, 0o666)
    start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(tmp_path))
    assert fifo_call(path, tmp_path, "reply", method="core.version")["result"]

"""JSON-RPC by fifo: good clients, and hostile ones."""

import contextlib
import json
import os
import select
import stat
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.control.commands import Rpc
from sipdump_core.control.fifo import ReplyFifos
from sipdump_core.net.loop import Loop
from sipdump_core.settings.ctl import CtlOptions
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


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_a_reply_fifo_that_is_replaced_while_it_is_opened_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A stranger who may write in the folder looks for the moment between the look and the opening."""
    outside = tmp_path / "outside"
    replies = tmp_path / "replies"
    replies.mkdir()
    os.mkfifo(replies / "mine")
    os.mkfifo(outside)
    reader = os.open(outside, os.O_RDONLY | os.O_NONBLOCK)
    real = os.open

    def swap(path: str, flags: int, **where: int) -> int:
        if path == "mine":
            os.unlink(replies / "mine")
            if kind == "link":
                (replies / "mine").symlink_to(outside)
            else:
                os.rename(outside, replies / "mine")
        return real(path, flags, **where)

    loop = Loop("test", "test")
    sender = ReplyFifos(CtlOptions(fifo_reply_dir=str(replies)), loop, "")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", swap)
        sender.send("mine", b"secret")
    assert "the answer was not sent" in caplog.text
    polled = select.poll()
    polled.register(reader)
    if kind == "link":
        assert polled.poll(0) == [], "it was not even opened"
    with contextlib.suppress(BlockingIOError):
        assert os.read(reader, 100) == b""
    os.close(reader)
    sender.close()
    loop.close()


def test_a_fifo_is_private_until_it_has_its_owner(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rpc.fifo"
    steps: list[tuple[Any, ...]] = []
    make = os.mkfifo

    def mode() -> int:
        return stat.S_IMODE(path.lstat().st_mode)

    def mkfifo(where: str, wanted: int) -> None:
        make(where, wanted)
        steps.append(("mkfifo", mode()))

    monkeypatch.setattr(os, "mkfifo", mkfifo)
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: steps.append(("fchown", uid, gid, mode())))
    umask = os.umask(0)
    try:
        start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(tmp_path), mode=0o662, group="123")
    finally:
        os.umask(umask)
    assert steps == [("mkfifo", 0o600), ("fchown", -1, 123, 0o600)]
    assert mode() == 0o662

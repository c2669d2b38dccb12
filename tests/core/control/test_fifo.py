"""JSON-RPC by fifo: good clients, and hostile ones."""

import contextlib
import fcntl
import json
import os
import select
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.control import fifo, jsonrpc
from sipdump_core.control.commands import Rpc
from sipdump_core.control.fifo import ReplyFifos
from sipdump_core.errors import ConfigError
from sipdump_core.net import unix_socket
from sipdump_core.net.loop import Action, Loop
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


def test_a_request_that_is_too_long_is_dropped_at_once(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replies = tmp_path / "replies"
    replies.mkdir()
    path = tmp_path / "rpc.fifo"
    start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(replies), request_timeout=600)
    for _ in range(17):
        path.write_bytes(b"{" * 4000)
    wait_for(lambda: "a request is too long" in caplog.text)
    assert fifo_call(path, replies, "next", method="core.version")["result"]


def test_answers_without_a_reader_are_bounded(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fifo, "_MAX_REPLIES", 2)
    monkeypatch.setattr(fifo, "_REPLY_WAIT_S", 600)
    path = tmp_path / "rpc.fifo"
    start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(tmp_path))
    for number in range(3):
        os.mkfifo(tmp_path / f"r{number}")
        path.write_text(json.dumps({"jsonrpc": "2.0", "method": "core.version", "reply_name": f"r{number}", "id": 1}))
    wait_for(lambda: "too many answers wait for their readers" in caplog.text)


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


def test_a_request_that_is_too_long_is_given_up_at_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jsonrpc, "MAX_REQUEST", 1000)
    path = tmp_path / "rpc.fifo"
    start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(tmp_path), request_timeout=3600)
    path.write_bytes(b"{" * 1001)
    wait_for(lambda: "a request is too long" in caplog.text)
    assert fifo_call(path, tmp_path, "r", method="core.version")["result"]


def test_a_reply_fifo_with_two_names_gets_nothing(
    patience: "tuple[Patience, ReplyFifos]", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be another program's, linked here so that it gets our answer."""
    _, sender = patience
    os.mkfifo(tmp_path / "r")
    os.link(tmp_path / "r", tmp_path / "elsewhere")
    reader = os.open(tmp_path / "r", os.O_RDONLY | os.O_NONBLOCK)
    sender.send("r", b"secret")
    assert os.read(reader, 100) == b""
    assert "no fifo with one name" in caplog.text
    os.close(reader)


class Patience(Loop):
    """A loop that does nothing by itself, and keeps what it would do later."""

    def __init__(self) -> None:
        super().__init__("test", "test")
        self.later: list[tuple[float, Action]] = []

    def call_later(self, delay_s: float, action: Action) -> None:
        self.later.append((delay_s, action))


@pytest.fixture
def patience(tmp_path: Path) -> Iterator[tuple[Patience, ReplyFifos]]:
    loop = Patience()
    sender = ReplyFifos(CtlOptions(fifo_reply_dir=str(tmp_path), request_timeout=7), loop, "")
    yield loop, sender
    sender.close()
    loop.close()


def test_answers_that_nobody_reads_are_given_up_and_bounded(
    patience: tuple[Patience, ReplyFifos],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, sender = patience
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    os.mkfifo(tmp_path / "r")
    for _ in range(64):
        assert not sender.full
        sender.send("r", b"answer")
    assert sender.full
    now += 1.9
    waiting, loop.later = loop.later, []
    for _, action in waiting:
        action()
    assert sender.full
    assert len(loop.later) == 64
    now += 0.2
    for _, action in loop.later[:]:
        action()
    assert not sender.full
    assert len(loop.later) == 64, "none is tried again"
    assert "the answer was not sent" in caplog.text


def test_an_answer_that_its_reader_does_not_take_is_given_up(
    patience: tuple[Patience, ReplyFifos], tmp_path: Path
) -> None:
    loop, sender = patience
    os.mkfifo(tmp_path / "r")
    reader = os.open(tmp_path / "r", os.O_RDONLY | os.O_NONBLOCK)
    polled = select.poll()
    polled.register(reader, select.POLLHUP)
    sender.send("r", bytes(1 << 20))  # more than a pipe holds
    assert polled.poll(0) == []
    ((seconds, give_up),) = loop.later
    assert seconds == 7
    give_up()
    assert polled.poll(0) == [(reader, select.POLLHUP)], "it is at its end"
    os.close(reader)


def test_an_answer_ends_with_its_last_byte(patience: tuple[Patience, ReplyFifos], tmp_path: Path) -> None:
    _, sender = patience
    os.mkfifo(tmp_path / "r")
    reader = os.open(tmp_path / "r", os.O_RDONLY | os.O_NONBLOCK)
    sender.send("r", b"answer")
    assert os.read(reader, 100) == b"answer"
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_a_fifo_that_a_live_daemon_serves_is_not_stolen(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "rpc.fifo"
    options = {"jsonrpc": (f"fifo:{path}",), "fifo_reply_dir": str(tmp_path)}
    start(**options)
    before = path.stat()
    with pytest.raises(ConfigError, match="another program is listening there"):
        start(**options)
    assert os.path.samestat(path.stat(), before)


def test_a_fifo_that_is_anothers_by_now_is_not_removed(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "rpc.fifo"
    ctl = start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(tmp_path))
    path.unlink()
    path.write_text("precious")
    ctl.close()
    assert path.read_text() == "precious"
    with pytest.raises(ConfigError, match="no fifo"):
        start(jsonrpc=(f"fifo:{path}",), fifo_reply_dir=str(tmp_path))
    assert path.read_text() == "precious"


def test_two_do_not_make_a_fifo_at_once(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_socket, "_LOCK_TIMEOUT", 0.01)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="its folder stays locked"):
        start(jsonrpc=(f"fifo:{tmp_path}/rpc.fifo",), fifo_reply_dir=str(tmp_path))
    os.close(folder)


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

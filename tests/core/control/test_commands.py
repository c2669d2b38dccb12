"""The control commands, in process."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.control.commands import Rpc
from sipdump_core.errors import RpcFault
from sipdump_core.sipdump import SipDump
from sipdump_core.version import VERSION
from tests.support import record


@pytest.fixture
def dump(tmp_path: Path) -> Iterator[SipDump]:
    with SipDump(enable=1, mode=5, folder=tmp_path) as made:
        yield made


@pytest.fixture
def rpc(dump: SipDump) -> Rpc:
    return Rpc(dump, {"hep": lambda: {"packets": 3}})


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize(
    ("args", "new"),
    [([], None), ([0], 0), ([1], 1), ([7], None), ([-1], None), (["1"], None), ([1.0], None), ([{"a": 1}], None),
     ([1, 0], 1)],
)  # fmt: skip
def test_enable_over_binrpc(dump: SipDump, rpc: Rpc, start: int, args: list[Any], new: int | None) -> None:
    """As Kamailio answers: what is no int changes nothing."""
    dump.enable = bool(start)
    after = start if new is None else new
    assert rpc.call("sipdump.enable", args) == [{"oldval": start, "newval": after}]
    assert dump.enable is bool(after)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize(
    ("value", "new"),
    [
        ("1", 1),
        ("0", 0),
        (" 1 ", 1),
        ("7", None),
        (1.0, 1),
        (0.0, 0),
        (True, 1),
        (False, 0),
        (1 << 40, None),
        (-1, None),
    ],
)
def test_enable_over_json(dump: SipDump, rpc: Rpc, start: int, value: Any, new: int | None) -> None:
    dump.enable = bool(start)
    after = start if new is None else new
    assert rpc.call("sipdump.enable", [value], numeric_strings=True) == [{"oldval": start, "newval": after}]
    assert dump.enable is bool(after)


@pytest.mark.parametrize("value", ["abc", "", "1x", "0x1", None, 0.5, 1.7, [1], {"a": 1}, "\uff11"])
def test_kamailios_trap_is_mended(dump: SipDump, rpc: Rpc, value: Any) -> None:
    """There all of these switch dumping off."""
    with pytest.raises(RpcFault, match="400 - error at parameter 1"):
        rpc.call("sipdump.enable", [value], numeric_strings=True)
    assert dump.enable


def test_records_are_taken_or_not(dump: SipDump, rpc: Rpc) -> None:
    rpc.call("sipdump.enable", [0])
    dump.intercept([record()])
    rpc.call("sipdump.enable", [1])
    dump.intercept([record()] * 2)
    (stats,) = rpc.call("sipdump.stats")
    assert (stats["disabled"], stats["received"], stats["enable"]) == (1, 2, 1)
    assert stats["sources"] == {"hep": {"packets": 3}}
    assert stats["backends"].keys() == {"text", "pcap"}
    text = stats["backends"]["text"]
    assert (text["version"], text["state"], text["error"]) == (f"sipdump {VERSION}", "ok", "")
    assert datetime.strptime(text["since"], "%Y-%m-%dT%H:%M:%S%z") <= datetime.now(UTC)


def test_rotate_returns_when_it_is_sealed(dump: SipDump, rpc: Rpc) -> None:
    dump.intercept([record()])
    assert rpc.call("sipdump.rotate") == [{"rotated": 1}]
    assert [(row["backend"], row["state"]) for row in rpc.call("sipdump.list")] == [
        ("text", "sealed"),
        ("pcap", "sealed"),
    ]
    assert rpc.call("sipdump.rotate") == [{"rotated": 1}], "nothing is open, and that is no error"


def test_list(dump: SipDump, rpc: Rpc) -> None:
    for _ in range(3):
        dump.intercept([record()])
        rpc.call("sipdump.rotate")
    dump.intercept([record()])
    assert dump.flush(60)
    rows = rpc.call("sipdump.list")
    assert len(rows) == 8
    assert [row["state"] for row in rows] == ["sealed"] * 6 + ["open"] * 2
    assert rpc.call("sipdump.list", [2]) == rows[-2:]
    assert rpc.call("sipdump.list", ["2"], numeric_strings=True) == rows[-2:]
    for count in (0, -1, 1001):
        with pytest.raises(RpcFault, match="must be 1 to 1000"):
            rpc.call("sipdump.list", [count])


def test_prune_needs_an_age(rpc: Rpc) -> None:
    with pytest.raises(RpcFault, match="fage is 0"):
        rpc.call("sipdump.prune")


def test_prune(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=5, folder=tmp_path, fage=3600, start_pruning=False) as dump:
        rpc = Rpc(dump)
        dump.intercept([record()])
        rpc.call("sipdump.rotate")
        old = list(tmp_path.iterdir())
        size = {path.suffix: path.stat().st_size for path in old}
        for path in old:
            os.utime(path, (time.time() - 259_200,) * 2)
        dump.intercept([record()])
        assert dump.flush(60)
        assert rpc.call("sipdump.prune") == [
            {"backend": "parquet", "segments": 0, "bytes": 0},
            {"backend": "pcap", "segments": 1, "bytes": size[".pcap"]},
            {"backend": "text", "segments": 1, "bytes": size[".data"]},
        ]
        assert not [path for path in old if path.exists()]
        assert len(list(tmp_path.iterdir())) == 3


def test_backends(rpc: Rpc) -> None:
    rows = {row["name"]: row for row in rpc.call("sipdump.backends")}
    assert rows["text"]["state"] == "ok"
    assert rows["header"]["state"] == "off"
    assert rows["pcap"]["flag"] == 4


def test_core(rpc: Rpc) -> None:
    assert rpc.call("core.version")[0].startswith("sipdump ")
    assert rpc.call("core.echo", [1, "a", 2.5, "b"]) == ["1", "a"]
    assert rpc.call("core.echo") == []
    assert rpc.call("core.echo", [1.5, "a", -2.7, True, "b"], numeric_strings=True) == ["1", "a", "-2"]
    assert rpc.call("core.echo", [{}], numeric_strings=True) == []
    for arg, message in ((1.5, "float type"), ({}, "structure type"), (["a"], "structure type"), (b"", "bytes array")):
        with pytest.raises(RpcFault, match=f"400 - error at parameter 0: expected {message}"):
            rpc.call("core.echo", [arg])
    (uptime,) = rpc.call("core.uptime")
    assert list(uptime) == ["now", "up_since", "uptime"]
    assert time.strptime(uptime["now"])
    flat = rpc.call("core.ps")
    assert dict(zip(flat[::2], flat[1::2], strict=True))[os.getpid()] == "main process"
    assert any(row["DSC"] == "thread sipdump-text" for row in rpc.call("core.psx"))


def test_times_are_local(dump: SipDump, live_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    live_in("Asia/Kathmandu")
    monkeypatch.setattr(time, "time", lambda: 1_795_386_431.5)
    rpc = Rpc(dump)
    monkeypatch.setattr(time, "time", lambda: 1_795_386_500.0)
    (uptime,) = rpc.call("core.uptime")
    assert uptime == {"now": "Mon Nov 23 04:13:20 2026", "up_since": "Mon Nov 23 04:12:11 2026", "uptime": 68}
    dump.intercept([record()])
    assert dump.flush(60)
    row = rpc.call("sipdump.list")[0]
    assert row["start"].replace("-", "").replace(":", "").replace("T", "") == (
        row["name"].removeprefix("kamailio-sipdump-").partition(".")[0].replace("-", "") + "+0545"
    )


def test_system(rpc: Rpc) -> None:
    methods = rpc.call("system.listMethods", ["sipdump"])
    assert methods == sorted(rpc.methods)
    for method in methods:
        assert rpc.call("system.methodHelp", [method])[0]
    for args, reason in (([], "Method Name Expected"), ([1], "Method Name Expected"), (["x"], "command not found")):
        with pytest.raises(RpcFault, match=f"400 - {reason}"):
            rpc.call("system.methodHelp", args)
    with pytest.raises(RpcFault, match="500 - Not Implemented Yet"):
        rpc.call("system.methodSignature", ["core.ps"])
    with pytest.raises(RpcFault, match="500 - command nosuch not found"):
        rpc.call("nosuch")


def test_after_close(tmp_path: Path) -> None:
    dump = SipDump(enable=1, folder=tmp_path)
    rpc = Rpc(dump)
    dump.close()
    with pytest.raises(RpcFault, match="500 - sipdump is closed"):
        rpc.call("sipdump.rotate")


def test_two_prunes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> Iterator[Any]:
        started.set()
        go.wait(60)
        yield from ()

    with SipDump(enable=1, folder=tmp_path, fage=10, start_pruning=False) as dump:
        rpc = Rpc(dump)
        monkeypatch.setattr("sipdump_core.control.commands.prune_all", slow)
        thread = threading.Thread(target=rpc.call, args=("sipdump.prune",))
        thread.start()
        assert started.wait(60)
        with pytest.raises(RpcFault, match="under way"):
            rpc.call("sipdump.prune")
        go.set()
        thread.join()

"""Running commands, whatever protocol they came in."""

import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.control import stream
from sipdump_core.control.binrpc import call
from sipdump_core.control.commands import Method, Rpc
from sipdump_core.errors import RpcFault
from tests.core.control.clients import Start, connect, fifo_call, packet, post, works


def test_a_slow_command_holds_up_nobody(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    go = threading.Event()
    rpc.methods["slow"] = Method(lambda _: [go.wait(60)], "waits", slow=True)
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",), request_timeout=1, idle_timeout=1)
    socks = [connect(ctl.addresses[0]) for _ in range(10)]
    try:
        for sock in socks:
            sock.sendall(packet("slow") + packet("core.echo", "after"))
        assert works(ctl)
        refused = [sock for sock in socks if select.select([sock], [], [], 0.2)[0]]
        assert len(refused) == 2, "two more than may be under way"
        assert b"too many commands are under way" in refused[0].recv(1000)
        go.set()
        for sock in set(socks) - set(refused):
            data = b""
            while b"after" not in data:
                data += sock.recv(1000)
            assert data.startswith(b"\xa1\x13\x02abcd\x10\x01")
    finally:
        for sock in socks:
            sock.close()


def test_slow_commands_that_are_done_make_room_for_others(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    rpc.methods["slow"] = Method(lambda _: [1], "takes its time", slow=True)
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    assert [call(str(ctl.addresses[0]), "slow") for _ in range(20)] == [[1]] * 20


def test_a_client_with_many_requests_gives_the_others_their_turn(
    start: Start, rpc: Rpc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REQUESTS_A_ROUND", 5)
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    turns: list[object] = []
    soon = ctl._loop.call_soon

    def later(action: Callable[[], None]) -> None:
        turns.append(action)
        soon(action)

    monkeypatch.setattr(ctl._loop, "call_soon", later)
    with connect(ctl.addresses[0]) as sock:
        one = packet("core.echo", "x")
        sock.sendall(one * 50)
        data = b""
        while data.count(b"abcd") < 50:
            data += sock.recv(65536)
    assert len(turns) >= 9


def test_a_command_that_raises(start: Start, rpc: Rpc, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rpc.methods["bad"] = Method(lambda _: [1 // 0], "raises")
    rpc.methods["odd"] = Method(lambda _: [object()], "gives what BINRPC has not")
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    with pytest.raises(RpcFault, match="500 - internal server error: ZeroDivisionError"):
        call(str(ctl.addresses[0]), "bad")
    with pytest.raises(RpcFault, match="500 - BINRPC has no object"):
        call(str(ctl.addresses[0]), "odd")
    assert works(ctl)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_control_recovers_when_no_thread_can_be_started(
    start: Start, rpc: Rpc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise error

    rpc.methods["slow"] = Method(lambda _: ["done"], "takes its time", slow=True)
    (tmp_path / "replies").mkdir()
    ways = {
        "binrpc": (f"unix:{tmp_path}/ctl", "udp:127.0.0.1:0"),
        "jsonrpc": (f"fifo:{tmp_path}/fifo", "http:127.0.0.1:0", f"unix:{tmp_path}/rpc"),
    }
    ctl = start(**ways, fifo_reply_dir=str(tmp_path / "replies"))
    stream, datagram, fifo, web, _ = ctl.addresses

    def fifo_answer(name: str) -> Any:
        return fifo_call(Path(fifo.path), tmp_path / "replies", name, method="slow")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        for n in range(12):  # more than may be under way
            for where in (stream, datagram):
                with pytest.raises(RpcFault, match="no thread can be started"):
                    call(str(where), "slow")
            assert fifo_answer(f"no{n}")["error"]["code"] == 500
            assert post(web, "slow")["error"]["code"] == 500
        assert works(ctl)
    for n in range(12):
        assert call(str(stream), "slow") == call(str(datagram), "slow") == ["done"]
        assert fifo_answer(f"yes{n}")["result"] == "done"
        assert post(web, "slow")["result"] == "done"


@pytest.mark.parametrize("leave", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_command_that_wants_to_leave_costs_no_place(
    start: Start, rpc: Rpc, tmp_path: Path, leave: type[BaseException]
) -> None:
    def run(_: object) -> list[object]:
        raise leave

    rpc.methods["leave"] = Method(run, "wants to leave", slow=True)
    ctl = start(binrpc=(f"unix:{tmp_path}/ctl",))
    for _ in range(12):  # more than may be under way
        with pytest.raises(RpcFault, match=f"internal server error: {leave.__name__}"):
            call(str(ctl.addresses[0]), "leave")


def test_an_answer_too_long_for_a_datagram(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    rpc.methods["long"] = Method(lambda _: ["x" * 100_000], "long")
    ctl = start(binrpc=("udp:127.0.0.1:0", f"unix:{tmp_path}/ctl"))
    with pytest.raises(RpcFault, match="does not fit into a datagram"):
        call(str(ctl.addresses[0]), "long")
    assert call(str(ctl.addresses[1]), "long") == ["x" * 100_000]

"""Running commands, whatever protocol they came in."""

import select
import threading
from pathlib import Path

import pytest

from sipdump_core.control.binrpc import call
from sipdump_core.control.commands import Method, Rpc
from sipdump_core.errors import RpcFault
from tests.core.control.clients import Start, connect, packet, works


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


def test_an_answer_too_long_for_a_datagram(start: Start, rpc: Rpc, tmp_path: Path) -> None:
    rpc.methods["long"] = Method(lambda _: ["x" * 100_000], "long")
    ctl = start(binrpc=("udp:127.0.0.1:0", f"unix:{tmp_path}/ctl"))
    with pytest.raises(RpcFault, match="does not fit into a datagram"):
        call(str(ctl.addresses[0]), "long")
    assert call(str(ctl.addresses[1]), "long") == ["x" * 100_000]

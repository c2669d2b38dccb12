"""Everything on one host and one address, as in a first try: received and sent are told apart."""

from collections import Counter

import pytest

from tests.e2e.peers import SCENARIOS, Seen, Stage, bound, free_port, need, need_ipv6, request_scenario, until

pytestmark = pytest.mark.peer

CALLS = 3
MESSAGES = 13 * CALLS + 2


def told(record: Seen) -> tuple[str, str, bytes]:
    return record.tag, record.proto, record.buf


@pytest.mark.parametrize("hep", ["udp", "tcp"])
@pytest.mark.parametrize(
    ("caller", "callee", "af", "hosts"),
    [
        ("udp", "udp", "ipv4", ()),
        ("tcp", "tcp", "ipv4", ()),
        ("udp", "udp", "ipv6", ()),
        ("tcp", "tcp", "ipv6", ()),
        ("udp", "tcp", "ipv4", ()),
        ("tcp", "udp", "ipv4", ()),
        ("udp", "udp", "ipv4", ("0.0.0.0",)),
        ("tcp", "tcp", "ipv4", ("0.0.0.0",)),
    ],
)
def test_calls_on_one_host(stage: Stage, caller: str, callee: str, af: str, hosts: tuple[str, ...], hep: str) -> None:
    need("kamailio", "sipp")
    host = "127.0.0.1"
    if af == "ipv6":
        need_ipv6()
        host = "[::1]"
    daemon = stage.sipdumpd(listen=[f"{hep}:127.0.0.1:0"], mode=1)
    port = free_port()
    server = stage.kamailio(
        sipdump=True, hep=f"sip:127.0.0.1:{daemon.port};transport={hep}", uas=f"sip:{host}:{port};transport={callee}",
        hosts=hosts,
    )  # fmt: skip
    bare, target = host.strip("[]"), f"{host}:{server.port}"
    answering = stage.sipp(SCENARIOS / "callee.xml", port, "-t", f"{callee[0]}1", "-m", str(CALLS), host=bare)
    answering.until(lambda: bound(port, callee), "the callee listens")
    options = ("-t", f"{caller[0]}1")
    calling = stage.sipp(SCENARIOS / "caller.xml", free_port(), *options, "-m", str(CALLS), host=bare, target=target)
    assert calling.wait() == 0, calling.output()[-3000:]
    assert answering.wait() == 0
    scenario = request_scenario(stage.path("options.xml"), "OPTIONS")
    asking = stage.sipp(scenario, free_port(), *options, host=bare, target=target)
    assert asking.wait() == 0, asking.output()[-3000:]
    until(lambda: len(server.records()) >= MESSAGES and len(daemon.records()) >= MESSAGES, "all is stored")
    assert Counter(map(told, daemon.records())) == Counter(map(told, server.records()))

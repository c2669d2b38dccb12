"""Who sent it: what addresses, endpoints and messages tell."""

from typing import Any

import pytest

from sipdump_core.process_table import ProcessTable
from sipdump_core.settings.hep import HepOptions
from sipdump_core.sources import direction
from sipdump_core.sources.direction import is_ours
from sipdump_core.sources.hep_decoder import HepDecoder
from tests.hep import hep3

NOW = 1_795_386_432_000_000
HOST = "127.0.0.1"
CLIENT, SERVER, CALLEE = (HOST, 5999), (HOST, 5060), (HOST, 5080)
OUT = (HOST, 45123)
"""The server's end of a TCP connection that it opened to the callee."""
HEP_SOCKET = (HOST, 40404)


@pytest.fixture(autouse=True)
def no_address_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direction, "is_ours", lambda host: host in (HOST, "10.1.1.1"))


class Sender:
    """A HEP sender."""

    def __init__(self, peer: tuple[str, int] = HEP_SOCKET, **options: Any) -> None:
        self._decoder = HepDecoder(HepOptions(**options), ProcessTable(0))
        self._peer = peer

    def __call__(self, buf: bytes, src: tuple[str, int], dst: tuple[str, int], proto: int = 17) -> str:
        (record,) = self._decoder.decode(hep3(buf, src=src, dst=dst, proto=proto), self._peer, NOW)
        return record.flow.tag


def request(*vias: tuple[tuple[str, int], str], method: str = "INVITE", transport: str = "UDP") -> bytes:
    """Make a request with these Vias, the top one first: sent-by and branch."""
    lines = "".join(f"Via: SIP/2.0/{transport} {host}:{port};branch={branch}\r\n" for (host, port), branch in vias)
    return f"{method} sip:bob@example.com SIP/2.0\r\n{lines}\r\n".encode()


def reply(*vias: tuple[tuple[str, int], str], status: str = "200 OK", transport: str = "UDP") -> bytes:
    first, _, rest = request(*vias, transport=transport).partition(b"\r\n")
    del first
    return f"SIP/2.0 {status}\r\n".encode() + rest


A, B, C = (CLIENT, "a"), (SERVER, "b"), (CALLEE, "c")


@pytest.mark.parametrize("proto", [17, 6])
def test_a_relayed_call_with_hep_from_a_port_of_its_own(proto: int) -> None:
    """As from Asterisk over UDP, or from Kamailio over TCP."""
    sender = Sender()
    out = SERVER if proto == 17 else OUT
    assert sender(request(A), CLIENT, SERVER, proto) == "rcv"
    assert sender(reply(A, status="100 Trying"), SERVER, CLIENT, proto) == "snd"
    assert sender(request(B, A), out, CALLEE, proto) == "snd"
    assert sender(reply(B, A), CALLEE, out, proto) == "rcv"
    assert sender(reply(A), SERVER, CLIENT, proto) == "snd"
    assert sender(request((CLIENT, "ack"), method="ACK"), CLIENT, SERVER, proto) == "rcv"
    assert sender(request((SERVER, "ack2"), (CLIENT, "ack"), method="ACK"), out, CALLEE, proto) == "snd"
    assert sender(request(C, method="BYE"), CALLEE, out, proto) == "rcv"
    assert sender(request((SERVER, "bye"), C, method="BYE"), SERVER, CLIENT, proto) == "snd"
    assert sender(reply((SERVER, "bye"), C), CLIENT, SERVER, proto) == "rcv"
    assert sender(reply(C), out, CALLEE, proto) == "snd"


def test_a_b2bua_whose_legs_share_nothing() -> None:
    sender = Sender()
    assert sender(request(A), CLIENT, SERVER) == "rcv"
    assert sender(reply(A, status="100 Trying"), SERVER, CLIENT) == "snd"
    assert sender(request(B), SERVER, CALLEE) == "snd"
    assert sender(reply(B), CALLEE, SERVER) == "rcv"
    assert sender(reply(A), SERVER, CLIENT) == "snd"


def test_hep_from_the_socket_for_sip_tells_what_the_server_opened_over_tcp() -> None:
    sender = Sender(SERVER)
    assert sender(request(B), OUT, CALLEE, 6) == "rcv", "nothing is known yet"
    assert sender(request(A), CLIENT, SERVER) == "rcv"
    assert sender(request((SERVER, "b2"), A), OUT, CALLEE, 6) == "snd"
    assert sender(request((SERVER, "b3"), method="OPTIONS"), OUT, CALLEE, 6) == "snd"
    assert sender(reply((SERVER, "b3")), CALLEE, OUT, 6) == "rcv"
    assert sender(request(C, method="BYE"), CALLEE, OUT, 6) == "rcv"
    assert sender(reply(C), OUT, CALLEE, 6) == "snd"


SECOND = (HOST, 5061)
"""Another port of the server's."""


@pytest.mark.parametrize("proto", [17, 6])
def test_a_second_port_of_the_server_is_told_by_the_first_relayed_request(proto: int) -> None:
    """The addresses tell of the first port alone, where HEP comes from."""
    sender = Sender(SERVER)
    assert sender(request(A), CLIENT, SERVER) == "rcv"
    second = (SECOND, "b")
    assert sender(request(second, A), SECOND, CALLEE, proto) == "snd"
    assert sender(reply(second, A), CALLEE, OUT if proto == 6 else SECOND, proto) == "rcv"
    assert sender(request((SECOND, "o"), method="OPTIONS"), SECOND, CALLEE, proto) == "snd"
    assert sender(request(C, method="BYE"), CALLEE, OUT if proto == 6 else SECOND, proto) == "rcv"


def test_a_second_port_is_told_also_when_traffic_has_run_for_long() -> None:
    sender = Sender(SERVER)
    for n in range(100):
        assert sender(request((CLIENT, f"old{n}"), method="OPTIONS"), CLIENT, SERVER) == "rcv"
    via = (SECOND, "b")
    assert sender(request(via, (CLIENT, "old99")), SECOND, CALLEE) == "rcv", "a guess: nobody looked any more"
    assert sender(request(A), CLIENT, SERVER) == "rcv"
    assert sender(request((SECOND, "b2"), A), SECOND, CALLEE) == "snd"
    assert sender(request(via, (CLIENT, "old99")), SECOND, CALLEE) == "snd"


def test_a_reply_that_is_reported_before_its_request() -> None:
    """As by another of the server's processes."""
    sender = Sender(SERVER)
    assert sender(request(A), CLIENT, SERVER) == "rcv"
    assert sender(reply((SECOND, "b"), A), CALLEE, OUT, 6) == "rcv"
    assert sender(request((SECOND, "b"), A), SECOND, CALLEE, 6) == "snd"


def test_a_request_that_comes_back_relayed_by_another_server() -> None:
    sender = Sender(SERVER)
    other = ((HOST, 5090), "x")
    assert sender(request(B), SERVER, CALLEE) == "snd"
    assert sender(request(other, B), (HOST, 5090), SECOND, 6) == "rcv"
    assert sender(reply(other, B), SECOND, (HOST, 5090), 6) == "snd"
    assert sender(request(((HOST, 5090), "y"), method="OPTIONS"), (HOST, 5090), SECOND, 6) == "rcv"


def test_a_peer_that_talks_to_two_addresses_of_the_server_is_not_the_server() -> None:
    sender = Sender()
    first, second = ("127.0.0.5", 5060), ("127.0.0.6", 5060)
    assert sender(request(A), CLIENT, first, 6) == "rcv"
    assert sender(request((first, "b"), A), first, CALLEE) == "snd"
    assert sender(request(C, method="BYE"), CALLEE, second) == "rcv"
    assert sender(reply(C), second, CALLEE) == "snd"


def test_what_is_learned_later_corrects_what_was_guessed() -> None:
    sender = Sender()
    own = [request((SERVER, f"o{n}"), method="OPTIONS") for n in range(20)]
    assert [sender(buf, SERVER, CALLEE) for buf in own] == ["rcv"] * 20  # a guess that is wrong
    assert sender(request(A), CLIENT, SERVER) == "rcv"  # talks to two: it is the server
    assert sender(own[0], SERVER, CALLEE) == "snd"
    assert sender(reply((SERVER, "o0")), CALLEE, SERVER) == "rcv"


def test_a_server_that_sends_to_itself_reports_it_twice() -> None:
    sender = Sender(SERVER)
    assert sender(request(A), CLIENT, SERVER) == "rcv"
    assert [sender(request(B, A), SERVER, SERVER) for _ in range(2)] == ["snd", "rcv"]
    assert [sender(reply(B, A), SERVER, SERVER) for _ in range(2)] == ["snd", "rcv"]


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_wildcard_is_the_sender(wildcard: str) -> None:
    client = (HOST, 5999) if wildcard == "0.0.0.0" else ("::1", 5999)
    for peer in (SERVER, HEP_SOCKET, ("192.0.2.9", 1)):
        sender = Sender(peer)
        assert sender(request(A), client, (wildcard, 5060)) == "rcv"
        assert sender(reply(A), (wildcard, 5060), client) == "snd"


def test_a_wildcard_tells_the_sent_by_of_what_goes_out_over_tcp() -> None:
    sender = Sender()
    assert sender(request(A), CLIENT, ("0.0.0.0", 5060)) == "rcv"
    assert sender(request(B), OUT, CALLEE, 6) == "snd"


def test_local_takes_a_port() -> None:
    sender = Sender(("192.0.2.9", 1), local=("10.0.0.5:5060", "[2001:db8::5]:5060"))
    assert sender(b"x", ("10.0.0.5", 5060), ("10.0.0.5", 5070)) == "snd"
    assert sender(b"x", ("2001:db8::5", 5070), ("2001:db8::5", 5060)) == "rcv"
    assert sender(b"x", ("10.0.0.5", 5061), ("10.0.0.9", 5060)) == "hep"
    # what it opened itself: its own sent-by
    via = (("10.0.0.5", 5060), "b")
    assert sender(request(via), ("10.0.0.7", 45000), ("10.0.0.9", 5060), 6) == "snd"
    assert sender(reply(via), ("10.0.0.9", 5060), ("10.0.0.7", 45000), 6) == "rcv"


def test_an_address_of_its_own_in_via_tells_where_no_other_does() -> None:
    """A server with a second address that nobody has declared."""
    sender = Sender(("10.0.0.5", 40404))
    via = (("10.0.0.5", 5060), "b")
    assert sender(request(via), ("10.0.0.7", 45000), ("10.0.0.9", 5060), 6) == "snd"
    assert sender(reply(via), ("10.0.0.9", 5060), ("10.0.0.7", 45000), 6) == "rcv"
    assert sender(request((("10.0.0.9", 5060), "c")), ("10.0.0.9", 5060), ("10.0.0.7", 45000), 6) == "rcv"
    assert sender(request((("10.0.0.9", 5060), "c")), ("10.0.0.9", 5060), ("10.0.0.7", 45001), 6) == "hep"


@pytest.mark.parametrize("proto", [17, 6])
@pytest.mark.parametrize("peer", [(HOST, 40404), ("10.1.1.1", 40404)])
def test_on_one_host_the_address_that_hep_comes_from_tells_nothing(peer: tuple[str, int], proto: int) -> None:
    """The kernel has chosen it: a server on 10.1.1.1 that reports to 127.0.0.1 has its clients' address."""
    for server, other in (("10.1.1.1", HOST), (HOST, "10.1.1.1")):
        sender = Sender(peer)
        own, client, callee = (server, 5060), (other, 5999), (other, 5080)
        a, b = (client, "a"), (own, "b")
        assert sender(request(a), client, own, proto) == "rcv"
        assert sender(request(b, a), own, callee, proto) == "snd"
        assert sender(reply(b, a), callee, own, proto) == "rcv"
        assert sender(reply(a), own, client, proto) == "snd"


def test_a_sender_on_this_machine_has_its_addresses() -> None:
    """Kamailio on 10.1.1.1 that sends HEP over TCP to 127.0.0.1."""
    sender = Sender((HOST, 40404))
    assert sender(request((("192.0.2.1", 5060), "a")), ("192.0.2.1", 5060), ("10.1.1.1", 5060)) == "rcv"
    assert sender(request((("10.1.1.1", 5060), "b")), ("10.1.1.1", 5060), ("192.0.2.1", 5060)) == "snd"
    other = Sender(("192.0.2.9", 40404))
    assert other(b"x", ("192.0.2.1", 5060), ("10.1.1.1", 5060)) == "hep", "its addresses are not those of this machine"


def test_a_sniffer_between_others_knows_neither() -> None:
    sender = Sender(("192.0.2.9", 40404))
    vias = (("10.0.0.5", 5060), "b"), (("10.0.0.9", 5060), "a")
    assert sender(request(vias[1]), ("10.0.0.9", 5060), ("10.0.0.5", 5060)) == "hep"
    assert sender(request(*vias), ("10.0.0.5", 5060), ("10.0.0.8", 5060)) == "hep"
    assert sender(reply(*vias), ("10.0.0.8", 5060), ("10.0.0.5", 5060)) == "hep"


def test_two_servers_on_one_host_are_told_apart() -> None:
    decoder = HepDecoder(HepOptions(), ProcessTable(0))

    def tag(peer: tuple[str, int], buf: bytes, src: tuple[str, int], dst: tuple[str, int]) -> str:
        return decoder.decode(hep3(buf, src=src, dst=dst), peer, NOW)[0].flow.tag

    for n in range(3):
        via = (SERVER, f"b{n}")
        assert tag(SERVER, request(via), SERVER, CALLEE) == "snd"
        assert tag(CALLEE, request(via), SERVER, CALLEE) == "rcv"
        assert tag(CALLEE, reply(via), CALLEE, SERVER) == "snd"
        assert tag(SERVER, reply(via), CALLEE, SERVER) == "rcv"


def test_what_one_sender_teaches_costs_no_other_its_flows() -> None:
    decoder = HepDecoder(HepOptions(), ProcessTable(0))
    packet = hep3(src=("192.0.2.1", 5060), dst=("192.0.2.2", 5060))
    flow = decoder.decode(packet, ("192.0.2.1", 5060), NOW)[0].flow
    for port in range(1000, 1010):
        decoder.decode(hep3(request(A), src=(HOST, port), dst=SERVER), HEP_SOCKET, NOW)
    assert decoder.decode(packet, ("192.0.2.1", 5060), NOW)[0].flow is flow


def test_memory_is_bounded_and_a_flood_only_forgets() -> None:
    sender = Sender()
    assert sender(request(A), CLIENT, SERVER) == "rcv"
    for port in range(10_000, 25_000):
        assert sender(request(((HOST, port), f"x{port}")), (HOST, port), (HOST, 65000 - port % 7)) in ("rcv", "snd")
    assert sender(request((CLIENT, "z")), CLIENT, SERVER) == "rcv"


def test_the_kernel_says_which_addresses_are_this_machines() -> None:
    assert is_ours("127.0.0.1")
    assert not is_ours("192.0.2.1")
    assert not is_ours("2001:db8::1")
    assert not is_ours("a.name.that.is.no.address.invalid")


def test_a_name_in_a_via_is_looked_up_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's name would hold up all HEP for as long as its name server likes."""
    asked: list[str] = []

    def ours(host: str) -> bool:
        asked.append(host)
        return False

    monkeypatch.setattr(direction, "is_ours", ours)
    sender = Sender(("192.0.2.50", 9))
    for name in ("slow.example.com", "127.0.0.1.example.com", "localhost", "x" * 5000):
        buf = f"BYE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP {name}:5060;branch=z\r\n\r\n".encode()
        assert sender(buf, ("192.0.2.60", 5060), ("192.0.2.70", 5070)) == "hep"
    assert set(asked) <= {"192.0.2.50", "192.0.2.60", "192.0.2.70"}

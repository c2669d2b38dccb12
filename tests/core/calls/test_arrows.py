"""One arrow a hop: whoever saw it, however often."""

from sipdump_core.calls.call import Call
from sipdump_core.record import Record
from tests.flows.rfc3665 import ALICE, BOB, P1, P2
from tests.flows.scene import START_US, Host, Scene

MESSAGE = (
    b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/%b %b;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n"
    b"Call-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\n"
)


def seen(
    tag: str, node: str, src: tuple[str, int], dst: tuple[str, int], *, ms: float = 0, proto: str = "udp",
    via: bytes = b"192.0.2.1:5060",
) -> Record:  # fmt: skip
    return Record.of(
        MESSAGE % (proto.upper().encode(), via), time_us=START_US + round(ms * 1000), tag=tag, node=node, proto=proto,
        src_ip=src[0], src_port=src[1], dst_ip=dst[0], dst_port=dst[1],
    )  # fmt: skip


def arrows(*records: Record) -> list[tuple[str, str, int, list[str]]]:
    return [(arrow.src, arrow.dst, arrow.copies, list(arrow.nodes)) for arrow in Call.of(records).arrows]


A, B = ("192.0.2.1", 5060), ("192.0.2.2", 5060)
A_B = ("192.0.2.1:5060", "192.0.2.2:5060")


def test_sender_and_receiver_saw_one_message() -> None:
    assert arrows(seen("snd", "a", A, B), seen("rcv", "b", A, B, ms=2)) == [(*A_B, 1, ["a", "b"])]


def test_the_sender_is_named_first_whatever_the_clocks_say() -> None:
    assert arrows(seen("rcv", "b", A, B), seen("snd", "a", A, B, ms=900)) == [(*A_B, 1, ["a", "b"])]


def test_retransmissions_are_counted_once_however_many_saw_them() -> None:
    records = [
        seen(tag, node, A, B, ms=at + late)
        for at in (0, 500, 1500)
        for tag, node, late in (("snd", "a", 0), ("rcv", "b", 1))
    ]
    assert arrows(*records) == [(*A_B, 3, ["a", "b"])]
    assert Call.of(records).arrows[0].times == [START_US, START_US + 500_000, START_US + 1_500_000]
    assert arrows(*records[:-1]) == [(*A_B, 3, ["a", "b"])], "one node lost one of them"


def test_what_one_node_stored_twice_at_once_is_one_message() -> None:
    assert arrows(*[seen("hep", "a", A, B, ms=ms) for ms in (0, 0.3, 500, 500.2)]) == [(*A_B, 2, ["a"])]


def test_a_server_that_sends_to_itself_sees_it_twice() -> None:
    assert arrows(seen("snd", "a", A, A), seen("rcv", "a", A, A, ms=0.1)) == [(A_B[0], A_B[0], 1, ["a"])]


def test_translated_addresses_are_one_hop() -> None:
    """10.0.0.1 is 203.0.113.1 outside, and 203.0.113.2 is 10.1.0.2 inside."""
    sent = seen("snd", "a", ("10.0.0.1", 5060), ("203.0.113.2", 5060))
    received = seen("rcv", "b", ("203.0.113.1", 1024), ("10.1.0.2", 5060), ms=5)
    assert arrows(sent, received) == [("10.0.0.1:5060", "10.1.0.2:5060", 1, ["a", "b"])]


def test_a_load_balancer_without_via_is_another_hop() -> None:
    balancer = ("192.0.2.9", 5060)
    sent, received = seen("snd", "a", A, balancer), seen("rcv", "b", balancer, B, ms=1)
    assert arrows(sent, received) == [
        ("192.0.2.1:5060", "192.0.2.9:5060", 1, ["a"]), ("192.0.2.9:5060", "192.0.2.2:5060", 1, ["b"]),
    ]  # fmt: skip


def test_a_connection_has_the_port_that_is_listened_on() -> None:
    sent = seen("snd", "a", A, B, proto="tls")
    received = seen("rcv", "b", ("192.0.2.1", 41000), B, ms=1, proto="tls")
    assert arrows(sent, received) == [(*A_B, 1, ["a", "b"])]
    assert arrows(received) == [(*A_B, 1, ["b"])]
    behind_nat = seen("rcv", "b", ("198.51.100.7", 41000), B, proto="ws", via=b"x.invalid")
    assert arrows(behind_nat) == [("198.51.100.7:41000", "192.0.2.2:5060", 1, ["b"])]


def test_a_reply_over_a_connection_goes_to_the_same_participant() -> None:
    scene = Scene({P2: "p2"}, proto="tcp")
    scene.ports[P1, P2] = 43210
    request = scene.request("OPTIONS", P1, P2)
    scene.reply(request, "200 OK")
    assert {(arrow.src, arrow.dst) for arrow in Call.of(scene.done()).arrows} == {
        (str(P1), str(P2)), (str(P2), str(P1))
    }  # fmt: skip


def test_a_proxys_own_connection_does_not_make_another_participant() -> None:
    """It sends with its listening port, but gets the reply at the ephemeral one."""
    scene = Scene({P1: "fra-1"}, proto="tcp")
    scene.ports[P1, BOB] = 58_762
    options = scene.at(0).request("OPTIONS", ALICE, P1, BOB)
    scene.at(20).reply(options, "200 OK")
    ends = [(arrow.src, arrow.dst) for arrow in Call.of(scene.done()).arrows]
    assert ends == [(str(a), str(b)) for a, b in ((ALICE, P1), (P1, BOB), (BOB, P1), (P1, ALICE))]


def test_time_is_contradicted_on_one_node_too() -> None:
    """Processes of one server may store a reply before its request; times stay as they were stored."""
    scene = Scene({BOB: ""})
    request = scene.at(10).request("OPTIONS", ALICE, BOB)
    scene.at(5).reply(request, "200 OK")
    call = Call.of(scene.done())
    assert [arrow.message.label for arrow in call.arrows] == ["OPTIONS", "200 OK"]
    assert [arrow.time_us - START_US for arrow in call.arrows] == [11_000, 5_000]
    assert call.clocks == {}


def test_clocks_of_three_nodes() -> None:
    """The third one shares no hop with the first: its clock is compared by way of the second."""
    hosts = [Host(f"192.0.2.{number}") for number in (1, 2, 3)]
    skew = {"n1": 0, "n2": 5_000_000, "n3": -7_000_000}
    scene = Scene(dict(zip(hosts, skew, strict=True)), skew_us=skew)
    request = scene.at(0).request("OPTIONS", ALICE, *hosts, BOB)
    scene.at(20).reply(request, "200 OK")
    call = Call.of(scene.done())
    assert call.clocks == {"n2": 5_000_000, "n3": -7_000_000}
    assert [arrow.time_us - START_US for arrow in call.arrows] == [
        1000,
        1000,
        2000,
        3000,
        21_000,
        21_000,
        22_000,
        23_000,
    ]

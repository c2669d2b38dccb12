"""Flows after RFC 3665: registrations, and calls that succeed and fail."""

from tests.flows.scene import Flow, Host, Scene, answer, sdp

ALICE, BOB = Host("192.0.2.10"), Host("198.51.100.20")
P1, P2 = Host("203.0.113.1"), Host("203.0.113.2")
FRA = {P1: "fra-1"}
BOTH = {P1: "fra-1", P2: "ams-1"}
OFFER, ANSWER = sdp("192.0.2.10", 4000, "PCMA", "PCMU", "telephone-event"), sdp("198.51.100.20", 5000, "PCMA")
MEDIA = ["192.0.2.10:4000", "198.51.100.20:5000"]
REGISTRATION = {
    "kind": "register", "to_user": "alice", "to_uri": "sip:alice@example.com", "request_uri": "sip:example.com",
    "hops": [ALICE, P1], "nodes": ["fra-1"],
}  # fmt: skip


def register(scene: Scene, at: float, cseq: int, status: str, *headers: str) -> None:
    """Register, and answer it 4 ms after the request has arrived."""
    request = scene.at(at).request("REGISTER", ALICE, P1, cseq=cseq, uri="sip:example.com", headers=headers)
    scene.at(at + 5).reply(request, status, to_tag=f"p{cseq}", headers=headers if status[0] == "2" else ())


def registered() -> Flow:
    scene = Scene(FRA, callee="alice")
    register(scene, 0, 1, "401 Unauthorized", "Contact: <sip:alice@192.0.2.10>", "Expires: 3600")
    register(scene, 10, 2, "200 OK", "Contact: <sip:alice@192.0.2.10>;expires=3600", "Contact: <sip:a@x>;expires=0")
    return Flow("registered", "RFC 3665, 2.1", scene.done(), {
        scene.call_id: answer(
            **REGISTRATION, began="10:32:00.001000", ended="10:32:00.015000", state="registered", status=200,
            reason="OK", messages=4,
        ),
    })  # fmt: skip


def unregistered() -> Flow:
    scene = Scene(FRA, callee="alice")
    register(scene, 0, 1, "200 OK", "Contact: <sip:alice@192.0.2.10>;expires=3600")
    register(scene, 60_000, 2, "401 Unauthorized", "Contact: *", "Expires: 0")
    register(scene, 60_010, 3, "200 OK", "m: *", "Expires: 0")
    return Flow("unregistered", "RFC 3665, 2.4", scene.done(), {
        scene.call_id: answer(
            **REGISTRATION, began="10:32:00.001000", ended="10:33:00.015000", state="unregistered", status=200,
            reason="OK", messages=6,
        ),
    })  # fmt: skip


def query_of_contacts() -> Flow:
    scene = Scene(FRA, callee="alice")
    register(scene, 0, 7, "200 OK")
    return Flow("query of contacts", "RFC 3665, 2.3", scene.done(), {
        scene.call_id: answer(
            **REGISTRATION, began="10:32:00.001000", ended="10:32:00.005000", state="done", status=200, reason="OK",
            messages=2,
        ),
    })  # fmt: skip


def wrong_password() -> Flow:
    scene = Scene(FRA, callee="alice")
    register(scene, 0, 1, "401 Unauthorized", "Contact: <sip:alice@192.0.2.10>")
    register(scene, 10, 2, "401 Unauthorized", "Contact: <sip:alice@192.0.2.10>")
    return Flow("wrong password", "RFC 3665, 2.5", scene.done(), {
        scene.call_id: answer(
            **REGISTRATION, began="10:32:00.001000", ended="10:32:00.015000", state="challenged", status=401,
            reason="Unauthorized", messages=4,
        ),
    })  # fmt: skip


def direct_call() -> Flow:
    """Bob's own stack stores it; times are his."""
    scene = Scene({BOB: ""})
    invite = scene.at(0).request("INVITE", ALICE, BOB, body=OFFER)  # 1 ms
    scene.at(11).reply(invite, "180 Ringing")
    scene.at(2001).reply(invite, "200 OK", body=ANSWER)
    scene.at(2003).request("ACK", ALICE, BOB, to_tag="b1")
    bye = scene.at(32001).request("BYE", BOB, ALICE, by_callee=True, from_tag="b1", to_tag="a1", cseq=9,
                                  headers=['Reason: Q.850;cause=16;text="Normal call clearing"'])  # fmt: skip
    scene.at(32003).reply(bye, "200 OK")
    return Flow("direct call", "RFC 3665, 3.1", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:32.001000", state="ended", status=200, reason="OK",
            hops=[ALICE, BOB], messages=6, post_dial_delay=0.010, setup_time=2.0, duration=30.0, ended_by="callee",
            codecs=["PCMA"], media=MEDIA, release=['Q.850;cause=16;text="Normal call clearing"'],
        ),
    })  # fmt: skip


def two_proxies_with_challenge() -> Flow:
    """The first proxy asks for credentials; both proxies store each hop between them."""
    scene = Scene(BOTH)
    path = (ALICE, P1, P2, BOB)
    first = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)  # P1 at 1 ms
    scene.at(2).reply(first, "407 Proxy Authentication Required", to_tag="p1")  # leaves P1 at 2 ms
    scene.at(3).hop("ACK", first, to_tag="p1")
    second = scene.at(10).request("INVITE", *path, cseq=2, body=OFFER)  # P1 at 11, P2 at 12, Bob at 13 ms
    scene.at(11).reply(second, "100 Trying", to_tag=None, at=1)
    scene.at(12).reply(second, "100 Trying", to_tag=None, at=2, until=1)
    scene.at(50).reply(second, "180 Ringing")  # P2 at 51, P1 at 52 ms
    scene.at(5050).reply(second, "200 OK", body=ANSWER)  # P1 at 5052 ms
    scene.at(5055).request("ACK", *path, cseq=2, to_tag="b1")
    bye = scene.at(65_050).request("BYE", *path, cseq=3, to_tag="b1")  # P1 at 65,051 ms
    scene.at(65_060).reply(bye, "200 OK")
    return Flow("two proxies with challenge", "RFC 3665, 3.2", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:33:05.051000", state="ended", status=200, reason="OK",
            hops=[ALICE, P1, P2, BOB], nodes=["fra-1", "ams-1"],
            # INVITE, 407, ACK; INVITE, 180, 200, ACK, BYE and its 200 on three hops; two 100
            messages=3 + 6 * 3 + 2, post_dial_delay=0.051, setup_time=5.051, duration=59.999, ended_by="caller",
            codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def failover_to_second_proxy() -> Flow:
    """The first proxy never answers; Alice tries the second one with a new branch. Alice's own stack stores it."""
    scene = Scene({ALICE: ""})
    lost = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    for when in (500, 1500, 3500, 7500, 15_500, 31_500):  # Timer A
        scene.at(when).again(lost)
    found = scene.at(32_000).request("INVITE", ALICE, P2, BOB, body=OFFER)
    scene.at(32_003).reply(found, "180 Ringing")  # Alice at 32,005 ms
    scene.at(33_000).reply(found, "200 OK", body=ANSWER)  # Alice at 33,002 ms
    scene.at(33_010).request("ACK", ALICE, P2, BOB, to_tag="b1")
    bye = scene.at(43_000).request("BYE", ALICE, P2, BOB, cseq=2, to_tag="b1")
    scene.at(43_002).reply(bye, "200 OK")
    return Flow("failover to a second proxy", "RFC 3665, 3.3", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.000000", ended="10:32:43.000000", state="ended", status=200, reason="OK",
            hops=[ALICE, P2], messages=13, retransmissions=6, post_dial_delay=32.005, setup_time=33.002,
            duration=9.998, ended_by="caller", codecs=["PCMA"], media=MEDIA,
            gaps=["no final answer to INVITE seen"],
        ),
    })  # fmt: skip


def cancelled() -> Flow:
    """Nobody answers; Alice gives up. ACK of 487 and CANCEL go hop by hop."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", ALICE, P1, BOB, body=OFFER)
    scene.at(1).reply(invite, "100 Trying", at=1, to_tag=None)
    scene.at(20).reply(invite, "180 Ringing")
    scene.at(9000).hop("CANCEL", invite, 0, headers="Reason: SIP;cause=487\r\nReason: Q.850;cause=127\r\n")  # 9001
    scene.at(9001).reply(invite, "200 OK", at=1, method="CANCEL", to_tag="p1")
    scene.at(9001).hop("CANCEL", invite, 1)
    scene.at(9003).reply(invite, "200 OK", until=1, method="CANCEL")
    scene.at(9010).reply(invite, "487 Request Terminated", until=1)
    scene.at(9011).hop("ACK", invite, 1, to_tag="b1")
    scene.at(9012).reply(invite, "487 Request Terminated", at=1)  # leaves P1 at 9012 ms
    scene.at(9014).hop("ACK", invite, 0, to_tag="b1")
    return Flow("cancelled", "RFC 3665, 3.8", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:09.012000", state="cancelled", status=487,
            reason="Request Terminated", hops=[ALICE, P1, BOB], nodes=["fra-1"], messages=13,
            post_dial_delay=0.020, release=["SIP;cause=487", "Q.850;cause=127"],
            codecs=["PCMA", "PCMU", "telephone-event"], media=MEDIA[:1],
        ),
    })  # fmt: skip


def refused(status: str, *headers: str) -> Scene:
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", ALICE, P1, BOB)
    scene.at(10).reply(invite, status, until=1, headers=headers)
    scene.at(11).hop("ACK", invite, 1, to_tag="b1")
    scene.at(12).reply(invite, status, at=1, headers=headers)
    scene.at(14).hop("ACK", invite, 0, to_tag="b1")
    return scene


FAILED = {"began": "10:32:00.001000", "hops": [ALICE, P1, BOB], "nodes": ["fra-1"], "messages": 6}


def busy() -> Flow:
    scene = refused("486 Busy Here", "Reason: Q.850;cause=17")
    return Flow("busy", "RFC 3665, 3.9", scene.done(), {
        scene.call_id: answer(
            **FAILED, ended="10:32:00.012000", state="refused", status=486, reason="Busy Here",
            release=["Q.850;cause=17"],
        ),
    })  # fmt: skip


def no_response() -> Flow:
    """Bob's phone is off: the proxy repeats the INVITE, then says 408."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", ALICE, P1, BOB)
    for when in (501, 1501, 3501, 7501, 15_501, 31_501):
        scene.at(when).again(invite, 1)
    scene.at(32_001).reply(invite, "408 Request Timeout", at=1, to_tag="p1")
    scene.at(32_003).hop("ACK", invite, 0, to_tag="p1")
    return Flow("no response", "RFC 3665, 3.10", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:32.001000", state="failed", status=408, reason="Request Timeout",
            hops=[ALICE, P1, BOB], nodes=["fra-1"], messages=10, retransmissions=6,
        ),
    })  # fmt: skip


def unavailable() -> Flow:
    scene = refused("480 Temporarily Unavailable", 'Warning: 399 gw.example.com "No free line"')
    return Flow("temporarily unavailable", "RFC 3665, 3.11", scene.done(), {
        scene.call_id: answer(
            **FAILED, ended="10:32:00.012000", state="refused", status=480, reason="Temporarily Unavailable",
            warning='399 gw.example.com "No free line"',
        ),
    })  # fmt: skip


FLOWS = (
    registered, unregistered, query_of_contacts, wrong_password, direct_call, two_proxies_with_challenge,
    failover_to_second_proxy, cancelled, busy, no_response, unavailable,
)  # fmt: skip

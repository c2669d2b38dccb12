"""Flows after RFC 5359: hold, transfer, forward, park, find-me."""

from tests.flows.rfc3665 import ALICE, ANSWER, BOB, FRA, MEDIA, OFFER, P1
from tests.flows.scene import Flow, Host, Request, Scene, answer, sdp

CAROL, PARK = Host("198.51.100.30"), Host("203.0.113.9")
PATH = (ALICE, P1, BOB)
BACK = (BOB, P1, ALICE)


def established(scene: Scene, *path: Host, cseq: int = 1, headers: tuple[str, ...] = ()) -> Request:
    """Call at 0, ring at 20 ms, answer at 2000 ms, acknowledge at 2010 ms: of two hops, at the proxy at 1, 21, 2001."""
    invite = scene.at(0).request("INVITE", *path, cseq=cseq, body=OFFER, headers=headers)
    scene.at(20).reply(invite, "180 Ringing")
    scene.at(2000).reply(invite, "200 OK", body=ANSWER)
    scene.at(2010).request("ACK", *path, cseq=cseq, to_tag="b1")
    return invite


ANSWERED = {
    "began": "10:32:00.001000", "status": 200, "reason": "OK", "hops": [ALICE, P1, BOB], "nodes": ["fra-1"],
    "post_dial_delay": 0.020, "setup_time": 2.0, "codecs": ["PCMA"], "media": MEDIA,
}  # fmt: skip
"""Of a call that :func:`established` made over P1."""


def hold() -> Flow:
    scene = Scene(FRA)
    established(scene, *PATH)  # 8 messages
    held = scene.at(10_000).request(
        "INVITE", *BACK, by_callee=True, from_tag="b1", to_tag="a1", cseq=5,
        body=sdp("198.51.100.20", 5000, "PCMA", mode="sendonly"),
    )  # fmt: skip
    scene.at(10_010).reply(held, "200 OK", body=sdp("192.0.2.10", 4000, "PCMA", mode="recvonly"))
    scene.at(10_020).request("ACK", *BACK, by_callee=True, from_tag="b1", to_tag="a1", cseq=5)
    bye = scene.at(20_000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(20_010).reply(bye, "200 OK")
    return Flow("hold", "RFC 5359, 2.1", scene.done(), {
        scene.call_id: answer(
            **ANSWERED, ended="10:32:20.001000", state="ended", messages=18, duration=18.0, ended_by="caller",
        ),
    })  # fmt: skip


def unattended_transfer() -> Flow:
    """Bob sends Alice to Carol: her new call has a Call-ID of its own."""
    scene = Scene(FRA)
    established(scene, *PATH)
    refer = scene.at(10_000).request("REFER", *BACK, by_callee=True, from_tag="b1", to_tag="a1", cseq=7,
                                     headers=["Refer-To: <sip:carol@example.com>"])  # fmt: skip
    scene.at(10_010).reply(refer, "202 Accepted")
    trying = scene.at(10_020).request("NOTIFY", *PATH, cseq=2, to_tag="b1", headers=["Event: refer"],
                                      body="SIP/2.0 100 Trying\r\n", content_type="message/sipfrag")  # fmt: skip
    scene.at(10_030).reply(trying, "200 OK")
    bye = scene.at(11_000).request("BYE", *BACK, by_callee=True, from_tag="b1", to_tag="a1", cseq=8)
    scene.at(11_010).reply(bye, "200 OK")
    new = Scene(FRA, "transferred@192.0.2.10", callee="carol")
    invite = new.at(10_040).request("INVITE", ALICE, P1, CAROL, headers=["Referred-By: <sip:bob@example.com>"])
    new.at(10_060).reply(invite, "180 Ringing", to_tag="c1")
    new.at(12_040).reply(invite, "200 OK", to_tag="c1")
    new.at(12_050).request("ACK", ALICE, P1, CAROL, to_tag="c1")
    return Flow("unattended transfer", "RFC 5359, 2.4", [*scene.done(), *new.done()], {
        scene.call_id: answer(
            **ANSWERED, ended="10:32:11.001000", state="ended", messages=20, duration=9.0, ended_by="callee",
        ),
        new.call_id: answer(
            call_id=new.call_id, began="10:32:10.041000", state="answered", status=200, reason="OK", to_user="carol",
            to_uri="sip:carol@example.com", request_uri="sip:carol@example.com", hops=[ALICE, P1, CAROL],
            nodes=["fra-1"], messages=8, post_dial_delay=0.020, setup_time=2.0, gaps=["no BYE seen"],
        ),
    })  # fmt: skip


def attended_transfer() -> Flow:
    """Carol is called by the transferred Alice with Replaces; the operator names that header as evidence."""
    scene = Scene(FRA, "consult@198.51.100.20", caller="bob", callee="carol")
    established(scene, BOB, P1, CAROL)
    bye = scene.at(9_000).request("BYE", CAROL, P1, BOB, by_callee=True, from_tag="b1", to_tag="a1", cseq=3)
    scene.at(9_010).reply(bye, "200 OK")
    new = Scene(FRA, "replacing@192.0.2.10", callee="carol")
    invite = new.at(8_000).request("INVITE", ALICE, P1, CAROL, from_tag="x1",
                                   headers=[f"Replaces: {scene.call_id};to-tag=b1;from-tag=a1"])  # fmt: skip
    new.at(8_010).reply(invite, "200 OK", to_tag="c2")
    new.at(8_020).request("ACK", ALICE, P1, CAROL, from_tag="x1", to_tag="c2")
    to_carol = {
        "to_user": "carol", "to_uri": "sip:carol@example.com", "request_uri": "sip:carol@example.com",
        "nodes": ["fra-1"], "status": 200, "reason": "OK",
    }  # fmt: skip
    records = sorted([*scene.done(), *new.done()], key=lambda record: record.time_us)
    return Flow("attended transfer", "RFC 5359, 2.5", records, {
        scene.call_id: answer(
            **to_carol, call_id=scene.call_id, began="10:32:00.001000", ended="10:32:09.001000", state="ended",
            from_user="bob", from_uri="sip:bob@example.com", hops=[BOB, P1, CAROL], messages=12, duration=7.0,
            ended_by="callee", post_dial_delay=0.020, setup_time=2.0, codecs=["PCMA"], media=MEDIA,
            legs=[{"call_id": new.call_id, "evidence": "header"}],
        ),
        new.call_id: answer(
            **to_carol, call_id=new.call_id, began="10:32:08.001000", state="answered", hops=[ALICE, P1, CAROL],
            messages=6, post_dial_delay=0.010, setup_time=0.010, gaps=["no BYE seen"],
            legs=[{"call_id": scene.call_id, "evidence": "header"}],
        ),
    }, headers=("Replaces",))  # fmt: skip


def forwarded_when_busy() -> Flow:
    """Bob is busy, so the proxy tries Carol; Alice sees 181 and then Carol's answer."""
    scene = Scene(FRA)
    first = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    to_bob = scene.at(1).request("INVITE", P1, BOB, below=first, body=OFFER)
    scene.at(10).reply(to_bob, "486 Busy Here", until=1)  # P1 at 11 ms
    scene.at(11).hop("ACK", to_bob, 1, to_tag="b1")
    scene.at(12).reply(first, "181 Call Is Being Forwarded", at=1, to_tag="p1")
    to_carol = scene.at(12).request(
        "INVITE", P1, CAROL, below=first, uri="sip:carol@example.com", body=OFFER
    )  # fmt: skip
    scene.at(30).reply(to_carol, "180 Ringing", to_tag="c1")
    scene.at(1000).reply(to_carol, "200 OK", to_tag="c1", body=ANSWER)  # P1 at 1001 ms
    scene.at(1010).request("ACK", ALICE, P1, CAROL, to_tag="c1")
    bye = scene.at(5000).request("BYE", ALICE, P1, CAROL, to_tag="c1", cseq=2)
    scene.at(5010).reply(bye, "200 OK")
    return Flow("forwarded when busy", "RFC 5359, 2.7", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:05.001000", state="ended", status=200, reason="OK",
            # INVITE, INVITE, 486, ACK, 181, INVITE, 180 and 200, ACK, BYE and 200 on two hops
            hops=[ALICE, P1, CAROL], nodes=["fra-1"], messages=6 + 5 * 2, post_dial_delay=0.011, setup_time=1.0,
            duration=4.0, ended_by="caller", codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def parked() -> Flow:
    """Bob parks Alice: the park server calls her with a Call-ID of its own, replacing his call."""
    scene = Scene(FRA)
    established(scene, *PATH)
    bye = scene.at(12_000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(12_010).reply(bye, "200 OK")
    park = Scene(FRA, "park@203.0.113.9", caller="park", callee="alice")
    invite = park.at(11_000).request("INVITE", PARK, P1, ALICE, from_tag="k1", body=OFFER,
                                     headers=[f"Replaces: {scene.call_id};to-tag=b1;from-tag=a1"])  # fmt: skip
    park.at(11_010).reply(invite, "200 OK", to_tag="a9", body=ANSWER)
    park.at(11_020).request("ACK", PARK, P1, ALICE, from_tag="k1", to_tag="a9")
    gone = park.at(71_000).request("BYE", ALICE, P1, PARK, by_callee=True, from_tag="a9", to_tag="k1", cseq=4)
    park.at(71_010).reply(gone, "200 OK")
    records = sorted([*scene.done(), *park.done()], key=lambda record: record.time_us)
    return Flow("parked", "RFC 5359, 2.15", records, {
        scene.call_id: answer(
            **ANSWERED, ended="10:32:12.001000", state="ended", messages=12, duration=10.0, ended_by="caller",
            legs=[{"call_id": park.call_id, "evidence": "header"}],
        ),
        park.call_id: answer(
            call_id=park.call_id, began="10:32:11.001000", ended="10:33:11.001000", state="ended", status=200,
            reason="OK", from_user="park", from_uri="sip:park@example.com", to_user="alice",
            to_uri="sip:alice@example.com", request_uri="sip:alice@example.com", hops=[PARK, P1, ALICE],
            nodes=["fra-1"], messages=10, post_dial_delay=0.010, setup_time=0.010, duration=59.990,
            ended_by="callee", codecs=["PCMA"], media=MEDIA, legs=[{"call_id": scene.call_id, "evidence": "header"}],
        ),
    }, headers=("replaces",))  # fmt: skip


def find_me() -> Flow:
    """The proxy rings Bob and Carol at once; Carol answers, Bob's branch is cancelled."""
    scene = Scene(FRA)
    first = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    to_bob = scene.at(1).request("INVITE", P1, BOB, below=first, body=OFFER)
    to_carol = scene.at(1).request("INVITE", P1, CAROL, below=first, uri="sip:carol@198.51.100.30", body=OFFER)
    scene.at(20).reply(to_bob, "180 Ringing")  # P1 at 21 ms
    scene.at(30).reply(to_carol, "180 Ringing", to_tag="c1")
    scene.at(3000).reply(to_carol, "200 OK", to_tag="c1", body=ANSWER)
    scene.at(3001).hop("CANCEL", to_bob, 1)
    scene.at(3003).reply(to_bob, "200 OK", until=1, method="CANCEL")
    scene.at(3004).reply(to_bob, "487 Request Terminated", until=1)
    scene.at(3005).hop("ACK", to_bob, 1, to_tag="b1")
    scene.at(3010).request("ACK", ALICE, P1, CAROL, to_tag="c1")
    return Flow("find-me", "RFC 5359, 2.10", scene.done(), {
        scene.call_id: answer(
            # INVITE on three hops, 180 of both, 200 and ACK on two; CANCEL, 200, 487, ACK on one
            began="10:32:00.001000", state="answered", status=200, reason="OK", hops=[ALICE, P1, CAROL],
            nodes=["fra-1"], messages=3 + 4 + 2 + 2 + 4, post_dial_delay=0.020, setup_time=3.0, codecs=["PCMA"],
            media=MEDIA, gaps=["no BYE seen"],
        ),
    })  # fmt: skip


FLOWS = (hold, unattended_transfer, attended_transfer, forwarded_when_busy, parked, find_me)

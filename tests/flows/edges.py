"""Flows at the edges: forks that fail, tries that differ, messages that cross, connections, several nodes."""

from typing import Any

import attrs

from sipdump_core.record import Record
from tests.flows.corners import INNER, ONE_HOP
from tests.flows.rfc3665 import ALICE, ANSWER, BOB, BOTH, FRA, MEDIA, OFFER, P1, P2, REGISTRATION, register
from tests.flows.rfc5359 import ANSWERED, BACK, CAROL, PATH, established
from tests.flows.scene import Flow, Host, Scene, answer, sdp

OFFERED: dict[str, Any] = {"codecs": ["PCMA", "PCMU", "telephone-event"], "media": MEDIA[:1]}


def busy_and_answered() -> Flow:
    """Of a fork, Bob is busy and Carol answers: Alice gets only the 200."""
    scene = Scene(FRA)
    first = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    to_bob = scene.at(1).request("INVITE", P1, BOB, below=first, body=OFFER)
    to_carol = scene.at(1).request("INVITE", P1, CAROL, below=first, uri="sip:bob@198.51.100.30", body=OFFER)
    scene.at(10).reply(to_bob, "486 Busy Here", until=1)
    scene.at(11).hop("ACK", to_bob, 1, to_tag="b1")
    scene.at(20).reply(to_carol, "180 Ringing", to_tag="c1")  # P1 at 21 ms
    scene.at(1000).reply(to_carol, "200 OK", to_tag="c1", body=ANSWER)
    scene.at(1010).request("ACK", ALICE, P1, CAROL, to_tag="c1")
    bye = scene.at(2000).request("BYE", CAROL, P1, ALICE, from_tag="c1", to_tag="a1", by_callee=True)
    scene.at(2010).reply(bye, "200 OK")
    return Flow("busy and answered", "RFC 3261, 16.7", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:02.001000", status=200, reason="OK", hops=[ALICE, P1, CAROL],
            nodes=["fra-1"], messages=3 + 2 + 2 + 2 + 2 + 4, post_dial_delay=0.020, setup_time=1.0, duration=1.0,
            ended_by="callee", codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def declined_everywhere() -> Flow:
    """603 of one branch cancels the other (487): Alice gets the 603."""
    scene = Scene(FRA)
    first = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    to_bob = scene.at(1).request("INVITE", P1, BOB, below=first, body=OFFER)
    to_carol = scene.at(1).request("INVITE", P1, CAROL, below=first, body=OFFER)
    scene.at(20).reply(to_bob, "180 Ringing")
    scene.at(20).reply(to_carol, "180 Ringing", to_tag="c1")
    scene.at(500).reply(to_bob, "603 Decline", until=1, headers=['Reason: Q.850;cause=21;text="Call Rejected"'])
    scene.at(501).hop("ACK", to_bob, 1, to_tag="b1")
    scene.at(501).hop("CANCEL", to_carol, 1, headers='Reason: SIP;cause=603;text="Decline"\r\n')
    scene.at(503).reply(to_carol, "200 OK", until=1, method="CANCEL", to_tag="c1")
    scene.at(504).reply(to_carol, "487 Request Terminated", until=1, to_tag="c1")
    scene.at(505).hop("ACK", to_carol, 1, to_tag="c1")
    scene.at(505).reply(to_bob, "603 Decline", at=1)  # leaves P1 at 505 ms
    scene.at(507).hop("ACK", first, 0, to_tag="b1")
    return Flow("declined everywhere", "RFC 3261, 16.7", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:00.505000", state="refused", status=603, reason="Decline",
            hops=[ALICE, P1, BOB], nodes=["fra-1"], messages=3 + 4 + 6 + 2, post_dial_delay=0.020,
            release=['Q.850;cause=21;text="Call Rejected"', 'SIP;cause=603;text="Decline"'], **OFFERED,
        ),
    })  # fmt: skip


def challenged_twice() -> Flow:
    """A proxy asks with 407, Bob's server with 401: the third try is answered."""
    scene = Scene(FRA)
    for at, cseq, status in ((0, 1, "407 Proxy Authentication Required"), (10, 2, "401 Unauthorized")):
        request = scene.at(at).request("INVITE", ALICE, P1, cseq=cseq, body=OFFER)
        scene.at(at + 2).reply(request, status, to_tag=f"p{cseq}")
        scene.at(at + 4).hop("ACK", request, 0, to_tag=f"p{cseq}")
    invite = scene.at(20).request("INVITE", *PATH, cseq=3, body=OFFER)
    scene.at(40).reply(invite, "183 Session Progress", body=ANSWER)  # P1 at 41 ms
    scene.at(1040).reply(invite, "200 OK", body=ANSWER)
    scene.at(1050).request("ACK", *PATH, cseq=3, to_tag="b1")
    return Flow("challenged twice", "RFC 3261, 22", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, state="answered", status=200, reason="OK", messages=6 + 8, post_dial_delay=0.040,
            setup_time=1.040, codecs=["PCMA"], media=MEDIA, gaps=["no BYE seen"],
        ),
    })  # fmt: skip


def proxy_times_out() -> Flow:
    """Bob does not answer at all; the proxy repeats the INVITE to him and answers 408 itself."""
    scene = Scene(FRA)
    first = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    scene.at(1).reply(first, "100 Trying", to_tag=None)
    on = scene.at(2).request("INVITE", P1, BOB, below=first, body=OFFER)
    for when in (502, 1502, 3502):
        scene.at(when).again(on, 1)
    scene.at(32_002).reply(first, "408 Request Timeout", to_tag="p1", headers=['Warning: 399 p1 "no answer, Bob"'])
    scene.at(32_004).hop("ACK", first, 0, to_tag="p1")
    return Flow("proxy times out", "RFC 3261, 16.8", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:32.002000", state="failed", status=408, reason="Request Timeout",
            warning='399 p1 "no answer, Bob"', messages=8, retransmissions=3, **OFFERED,
        ),
    })  # fmt: skip


def glare() -> Flow:
    """Both change the call at once: both get 491, Alice tries again and Bob agrees."""
    scene = Scene(FRA)
    established(scene, *PATH)
    by_alice = scene.at(5000).request("INVITE", *PATH, cseq=2, to_tag="b1")
    by_bob = scene.at(5000.5).request("INVITE", *BACK, cseq=2, **INNER)
    scene.at(5003).reply(by_alice, "491 Request Pending", until=1)
    scene.at(5004).hop("ACK", by_alice, 1)
    scene.at(5004).reply(by_alice, "491 Request Pending", at=1)
    scene.at(5005).hop("ACK", by_alice, 0)
    scene.at(5006).reply(by_bob, "491 Request Pending", until=1)
    scene.at(5007).hop("ACK", by_bob, 1)
    scene.at(5007).reply(by_bob, "491 Request Pending", at=1)
    scene.at(5008).hop("ACK", by_bob, 0)
    again = scene.at(8000).request("INVITE", *PATH, cseq=3, to_tag="b1")
    scene.at(8010).reply(again, "200 OK")
    scene.at(8020).request("ACK", *PATH, cseq=3, to_tag="b1")
    bye = scene.at(9000).request("BYE", *BACK, cseq=3, **INNER)
    scene.at(9010).reply(bye, "200 OK")
    return Flow("glare", "RFC 3261, 14.1", scene.done(), {
        scene.call_id: answer(**ANSWERED, ended="10:32:09.001000", messages=8 + 12 + 6 + 4, duration=7.0,
                              ended_by="callee"),
    })  # fmt: skip


def replaced() -> Flow:
    """Carol's INVITE with Replaces takes Alice's call over: Bob ends the old one."""
    scene = Scene(FRA)
    established(scene, *PATH)
    bye = scene.at(6000).request("BYE", *BACK, cseq=1, **INNER)
    scene.at(6010).reply(bye, "200 OK")
    new = Scene(FRA, "new@198.51.100.30", caller="carol")
    invite = new.at(5000).request(
        "INVITE", CAROL, P1, BOB, from_tag="c1", headers=[f"Replaces: {scene.call_id};to-tag=b1;from-tag=a1"]
    )
    new.at(5010).reply(invite, "200 OK", to_tag="b9")
    new.at(5020).request("ACK", CAROL, P1, BOB, from_tag="c1", to_tag="b9")
    new_bye = new.at(7000).request("BYE", BOB, P1, CAROL, by_callee=True, from_tag="b9", to_tag="c1")
    new.at(7010).reply(new_bye, "481 Call/Transaction Does Not Exist")
    return Flow("replaced", "RFC 3891", [*scene.done(), *new.done()], {
        scene.call_id: answer(**ANSWERED, ended="10:32:06.001000", messages=12, duration=4.0, ended_by="callee"),
        new.call_id: answer(
            call_id=new.call_id, began="10:32:05.001000", ended="10:32:07.001000", status=200, reason="OK",
            from_user="carol", from_uri="sip:carol@example.com", hops=[CAROL, P1, BOB], nodes=["fra-1"], messages=10,
            post_dial_delay=0.010, setup_time=0.010, duration=1.990, ended_by="callee",
        ),
    })  # fmt: skip


def one_contact_removed() -> Flow:
    """Expires is 0, but one contact says otherwise: Alice is registered. Contacts are in one header."""
    scene = Scene(FRA, callee="alice")
    register(scene, 0, 1, "200 OK", 'Contact: "A, lice" <sip:alice@192.0.2.10>;expires=60, <sip:a@x>', "Expires: 0")
    return Flow("one contact removed", "RFC 3261, 10.2.2", scene.done(), {
        scene.call_id: answer(
            **REGISTRATION, began="10:32:00.001000", ended="10:32:00.005000", state="registered", status=200,
            reason="OK", messages=2,
        ),
    })  # fmt: skip


def interval_too_brief() -> Flow:
    """423, and a longer interval; afterwards both contacts are removed by their parameter."""
    scene = Scene(FRA, callee="alice")
    register(scene, 0, 1, "423 Interval Too Brief", "Contact: <sip:alice@192.0.2.10>;expires=5")
    register(scene, 10, 2, "200 OK", "Contact: <sip:alice@192.0.2.10>;expires=60")
    register(scene, 20, 3, "200 OK", "m: <sip:alice@192.0.2.10>;expires=0", "m: <sip:b@x>;expires=0", "Expires: 60")
    return Flow("interval too brief", "RFC 3261, 10.3", scene.done(), {
        scene.call_id: answer(
            **REGISTRATION, began="10:32:00.001000", ended="10:32:00.025000", state="unregistered", status=200,
            reason="OK", messages=6,
        ),
    })  # fmt: skip


def publication_conditional() -> Flow:
    scene = Scene(FRA)
    first = scene.at(0).request("PUBLISH", ALICE, P1, headers=["Event: presence", "SIP-If-Match: old"])
    scene.at(5).reply(first, "412 Conditional Request Failed", to_tag="p1")
    return Flow("PUBLISH 412", "RFC 3903, 4.1", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:00.005000", kind="publish", state="refused", status=412,
            reason="Conditional Request Failed", hops=[ALICE, P1], nodes=["fra-1"], messages=2,
        ),
    })  # fmt: skip


def subscription_terminated() -> Flow:
    """SUBSCRIBE is answered, and the notifier ends the subscription."""
    scene = Scene(FRA)
    subscribe = scene.at(0).request("SUBSCRIBE", *PATH, headers=["Event: presence", "Expires: 600"])
    scene.at(10).reply(subscribe, "200 OK")  # leaves P1 at 11 ms
    for at, cseq, state in ((20, 1, "active"), (9000, 2, "terminated;reason=noresource")):
        notify = scene.at(at).request(
            "NOTIFY", *BACK, cseq=cseq, headers=["Event: presence", f"Subscription-State: {state}"], **INNER
        )
        scene.at(at + 10).reply(notify, "200 OK")
    return Flow("subscription terminated", "RFC 6665", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, kind="subscribe", ended="10:32:00.011000", state="done", status=200, reason="OK", messages=12,
        ),
    })  # fmt: skip


def proxy_over_tcp() -> Flow:
    """The proxy's own connection to Bob has an ephemeral port, which only his replies show."""
    scene = Scene(FRA, proto="tcp")
    scene.ports[P1, BOB] = 58_762
    established(scene, *PATH)
    bye = scene.at(4000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(4010).reply(bye, "200 OK")
    return Flow("proxy over TCP", "RFC 3261, 18.2.2", scene.done(), {
        scene.call_id: answer(**ANSWERED, ended="10:32:04.001000", messages=12, duration=2.0, ended_by="caller"),
    })  # fmt: skip


def client_over_tcp() -> Flow:
    """A client behind an ephemeral port: its Via has the listening one. The proxy stores what it gets and sends."""
    scene = Scene(FRA, proto="tcp")
    scene.ports[ALICE, P1] = 49_152
    invite = scene.at(0).request("INVITE", *PATH, body=OFFER)
    scene.at(20).reply(invite, "486 Busy Here", until=1)
    scene.at(21).hop("ACK", invite, 1, to_tag="b1")
    scene.at(21).reply(invite, "486 Busy Here", at=1)
    scene.at(23).hop("ACK", invite, 0, to_tag="b1")
    return Flow("client over TCP", "RFC 3261, 18", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:00.021000", state="refused", status=486,
            reason="Busy Here", messages=6, **OFFERED,
        ),
    })  # fmt: skip


def translated(record: Record, private: Host, public: Host) -> Record:
    """Return a record as it is seen on the other side of a router."""
    flow = record.flow
    if flow.src_ip == private.ip:
        return attrs.evolve(record, flow=attrs.evolve(flow, src_ip=public.ip, src_port=public.port))
    return attrs.evolve(record, flow=attrs.evolve(flow, dst_ip=public.ip, dst_port=public.port))


def behind_nat() -> Flow:
    """Alice's Via has her private address, the proxy sees her router's; her node and the proxy's both store."""
    private, public = Host("10.0.0.10"), Host("192.0.2.99", 31_000)
    inside, outside = Scene({private: "home"}), Scene(FRA)
    for scene in (inside, outside):
        invite = scene.at(0).request("INVITE", private, P1, body=OFFER)
        scene.at(20).reply(invite, "404 Not Found")
        scene.at(22).hop("ACK", invite, 0, to_tag="b1")
        if scene is outside:
            scene.records = [translated(record, private, public) for record in scene.records]
    records = sorted([*inside.records, *outside.records], key=lambda record: record.time_us)
    return Flow("behind NAT", "RFC 3581", records, {
        inside.call_id: answer(
            # sent by her node at 0, the 404 by the proxy at 20 ms
            began="10:32:00.000000", ended="10:32:00.020000", state="refused", status=404, reason="Not Found",
            hops=[private, P1], nodes=["home", "fra-1"], messages=3, **OFFERED,
        ),
    }, of_nodes=True)  # fmt: skip


def seen_by_two_nodes() -> Flow:
    """Two nodes capture the same wire: each message counts once."""
    scene = Scene(FRA)
    established(scene, *PATH)
    bye = scene.at(4000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(4010).reply(bye, "200 OK")
    copies = Scene({P1: "tap"})
    established(copies, *PATH)
    bye = copies.at(4000).request("BYE", *PATH, cseq=2, to_tag="b1")
    copies.at(4010).reply(bye, "200 OK")
    records = [record for pair in zip(scene.done(), copies.done(), strict=True) for record in pair]
    return Flow("seen by two nodes", "two nodes on one wire", records, {
        scene.call_id: answer(
            **ANSWERED | {"nodes": ["fra-1", "tap"]}, ended="10:32:04.001000", messages=12, duration=2.0,
            ended_by="caller",
        ),
    })  # fmt: skip


def invite_of_a_minute() -> Flow:
    """No answer yet, a minute after the INVITE: it is calling."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH, body=OFFER)
    scene.at(2).reply(invite, "100 Trying", at=1, to_tag=None)
    return Flow("calling", "RFC 3261, 16.6", scene.done(), {
        scene.call_id: answer(**ONE_HOP, state="calling", messages=3, **OFFERED),
    }, now_us=scene.at(60_000).now)  # fmt: skip


def cancelled_before_trying() -> Flow:
    """CANCEL comes before the 100: the proxy ends it before Bob is asked."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    scene.at(1).hop("CANCEL", invite, 0, headers='Reason: SIP;cause=200;text="Call completed elsewhere"\r\n')
    scene.at(3).reply(invite, "100 Trying", to_tag=None)
    scene.at(4).reply(invite, "200 OK", method="CANCEL", to_tag="p1")
    scene.at(5).reply(invite, "487 Request Terminated", to_tag="p1")
    scene.at(7).hop("ACK", invite, 0, to_tag="p1")
    return Flow("cancelled before 100", "RFC 3261, 9.2", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:00.005000", state="cancelled", status=487,
            reason="Request Terminated", hops=[ALICE, P1], nodes=["fra-1"], messages=6,
            release=['SIP;cause=200;text="Call completed elsewhere"'], **OFFERED,
        ),
    })  # fmt: skip


def late_offer() -> Flow:
    """PRACK in an early dialog; the offer comes in the 200 and is answered in the ACK."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH)
    ringing = scene.at(20).reply(invite, "180 Ringing", headers=["Require: 100rel", "RSeq: 1"])
    scene.at(521).again(ringing)
    scene.at(522).again(ringing, 1)
    prack = scene.at(530).request("PRACK", *PATH, cseq=2, to_tag="b1", headers=["RAck: 1 1 INVITE"])
    scene.at(540).reply(prack, "200 OK")
    scene.at(3000).reply(invite, "200 OK", body=ANSWER)
    scene.at(3010).request("ACK", *PATH, to_tag="b1", body=sdp("192.0.2.10", 4000, "PCMA"))
    bye = scene.at(5000).request("BYE", *PATH, cseq=3, to_tag="b1")
    scene.at(5010).reply(bye, "200 OK")
    return Flow("late offer", "RFC 3262, RFC 3264", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:05.001000", status=200, reason="OK", messages=18, retransmissions=2,
            post_dial_delay=0.020, setup_time=3.0, duration=2.0, ended_by="caller", codecs=["PCMA"],
            media=list(reversed(MEDIA)),
        ),
    })  # fmt: skip


def invite_and_ack_lost() -> Flow:
    """Neither INVITE nor ACK was stored: the first request is the BYE of the callee."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH, body=OFFER, lost_after=0)
    scene.at(2000).reply(invite, "200 OK", body=ANSWER)  # P1 at 2001 ms
    bye = scene.at(4000).request("BYE", *BACK, cseq=2, **INNER)
    scene.at(4010).reply(bye, "200 OK")
    return Flow("INVITE and ACK lost", "lost messages", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP | {"began": "10:32:02.001000"}, ended="10:32:04.001000", status=200, reason="OK", messages=6,
            duration=2.0, ended_by="callee", codecs=["PCMA"], media=MEDIA[1:], request_uri=None,
            gaps=["no INVITE seen", "no ACK seen"],
        ),
    }, now_us=scene.at(60_000).now)  # fmt: skip


def from_the_answer_on() -> Flow:
    """Storing began between INVITE and 200."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH, body=OFFER, lost_after=0)
    scene.at(2000).reply(invite, "200 OK", body=ANSWER)  # P1 at 2001 ms
    scene.at(2010).request("ACK", *PATH, to_tag="b1")
    bye = scene.at(4000).request("BYE", *BACK, cseq=2, uri="sip:alice@192.0.2.10", **INNER)
    scene.at(4010).reply(bye, "200 OK")
    return Flow("from the answer on", "a late start", scene.done(), {
        scene.call_id: answer(
            # From and To as the 200 has them, the request URI as the ACK has it
            **ONE_HOP | {"began": "10:32:02.001000"}, ended="10:32:04.001000", status=200, reason="OK", messages=8,
            duration=2.0, ended_by="callee", codecs=["PCMA"], media=MEDIA[1:],
            gaps=["no INVITE seen"],
        ),
    })  # fmt: skip


def clock_ahead() -> Flow:
    """Bob's proxy is 2 s ahead, as the INVITE between the two proxies shows."""
    scene = Scene(BOTH, skew_us={"ams-1": 2_000_000})
    path = (ALICE, P1, P2, BOB)
    invite = scene.at(0).request("INVITE", *path, body=OFFER)
    for number in (3, 2, 1):
        at = 30 - number * 2
        scene.at(at).reply(invite, "486 Busy Here", at=number, until=number - 1)
        scene.hop("ACK", invite, number - 1, to_tag="b1")
    return Flow("clock ahead", "two nodes", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:00.028000", state="refused", status=486, reason="Busy Here",
            hops=[ALICE, P1, P2, BOB], nodes=["fra-1", "ams-1"], messages=9, **OFFERED,
        ),
    }, clocks={"ams-1": 2_000_000}, of_nodes=True)  # fmt: skip


FLOWS = (
    busy_and_answered, declined_everywhere, challenged_twice, proxy_times_out, glare, replaced, one_contact_removed,
    interval_too_brief, publication_conditional, subscription_terminated, proxy_over_tcp, client_over_tcp, behind_nat,
    seen_by_two_nodes, invite_of_a_minute, cancelled_before_trying, late_offer, invite_and_ack_lost,
    from_the_answer_on, clock_ahead,
)  # fmt: skip

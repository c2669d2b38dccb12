"""Flows after the corner cases of RFC 3261, 3262, 3311, 4028, 4320 and 2543."""

from typing import Any

from tests.flows.rfc3665 import ALICE, ANSWER, BOB, BOTH, FRA, MEDIA, OFFER, P1, P2
from tests.flows.rfc5359 import ANSWERED, BACK, CAROL, PATH, established
from tests.flows.scene import Flow, Scene, answer, sdp

ONE_HOP = {"began": "10:32:00.001000", "hops": [ALICE, P1, BOB], "nodes": ["fra-1"]}
INNER: dict[str, Any] = {"by_callee": True, "from_tag": "b1", "to_tag": "a1"}


def session_timer() -> Flow:
    """422 asks for a longer interval; the second try is answered, and refreshed by UPDATE."""
    scene = Scene(FRA)
    small = scene.at(0).request("INVITE", *PATH, headers=["Session-Expires: 50"])
    scene.at(10).reply(small, "422 Session Interval Too Small", until=1, headers=["Min-SE: 1800"])
    scene.at(11).hop("ACK", small, 1, to_tag="b1")
    scene.at(11).reply(small, "422 Session Interval Too Small", at=1, headers=["Min-SE: 1800"])
    scene.at(13).hop("ACK", small, 0, to_tag="b1")
    invite = scene.at(20).request("INVITE", *PATH, cseq=2, headers=["x: 1800"], body=OFFER)
    scene.at(40).reply(invite, "180 Ringing", to_tag="b2")  # P1 at 41 ms
    scene.at(1020).reply(invite, "200 OK", to_tag="b2", body=ANSWER)  # P1 at 1021 ms
    scene.at(1030).request("ACK", *PATH, cseq=2, to_tag="b2")
    update = scene.at(900_000).request("UPDATE", *PATH, cseq=3, to_tag="b2")
    scene.at(900_010).reply(update, "200 OK")
    return Flow("session timer", "RFC 4028, 12", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, state="answered", status=200, reason="OK", messages=6 + 8 + 4, post_dial_delay=0.040,
            setup_time=1.020, codecs=["PCMA"], media=MEDIA, gaps=["no BYE seen"],
        ),
    })  # fmt: skip


def cancel_crosses_answer() -> Flow:
    """Bob answers while the CANCEL is on its way: there is a call, and Alice ends it at once."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH, body=OFFER)
    scene.at(20).reply(invite, "180 Ringing")
    scene.at(4999).hop("CANCEL", invite, 0)  # P1 at 5000 ms
    scene.at(4999).reply(invite, "200 OK", body=ANSWER)  # P1 at 5000, Alice at 5001 ms
    scene.at(5000).reply(invite, "200 OK", at=1, method="CANCEL", to_tag="p1")
    scene.at(5000).hop("CANCEL", invite, 1)
    scene.at(5002).reply(invite, "481 Call/Transaction Does Not Exist", until=1, method="CANCEL")
    scene.at(5010).request("ACK", *PATH, to_tag="b1")
    bye = scene.at(5011).request("BYE", *PATH, cseq=2, to_tag="b1")  # P1 at 5012 ms
    scene.at(5020).reply(bye, "200 OK")
    return Flow("CANCEL crosses 200", "RFC 3261, 9.1", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:05.012000", state="ended", status=200, reason="OK", messages=16,
            post_dial_delay=0.020, setup_time=4.999, duration=0.012, ended_by="caller", codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def reinvite_refused_by_caller() -> Flow:
    """Bob's change of the call is refused by Alice: that is not an error of the call."""
    scene = Scene(FRA)
    established(scene, *PATH)
    change = scene.at(5000).request("INVITE", *BACK, cseq=1, body=sdp("198.51.100.20", 5002, "opus"), **INNER)
    scene.at(5010).reply(change, "488 Not Acceptable Here", until=1)
    scene.at(5011).hop("ACK", change, 1)
    scene.at(5011).reply(change, "488 Not Acceptable Here", at=1)
    scene.at(5012).hop("ACK", change, 0)
    bye = scene.at(12_000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(12_010).reply(bye, "200 OK")
    return Flow("re-INVITE refused by the caller", "RFC 3261, 14.1", scene.done(), {
        scene.call_id: answer(
            **ANSWERED | {"media": [*MEDIA, "198.51.100.20:5002"]}, ended="10:32:12.001000", state="ended",
            messages=18, duration=10.0, ended_by="caller",
        ),
    })  # fmt: skip


def reliable_provisional() -> Flow:
    """183 with RSeq twice, each acknowledged by PRACK; the answer is in the first one."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH, body=OFFER, headers=["Supported: 100rel"])
    scene.at(30).reply(invite, "183 Session Progress", body=ANSWER, headers=["Require: 100rel", "RSeq: 1"])
    prack = scene.at(40).request("PRACK", *PATH, cseq=2, to_tag="b1", headers=["RAck: 1 1 INVITE"])
    scene.at(50).reply(prack, "200 OK")
    scene.at(60).reply(invite, "183 Session Progress", headers=["Require: 100rel", "RSeq: 2"])
    prack = scene.at(70).request("PRACK", *PATH, cseq=3, to_tag="b1", headers=["RAck: 2 1 INVITE"])
    scene.at(80).reply(prack, "200 OK")
    scene.at(3000).reply(invite, "200 OK")
    scene.at(3010).request("ACK", *PATH, to_tag="b1")
    bye = scene.at(4000).request("BYE", *BACK, cseq=1, **INNER)
    scene.at(4010).reply(bye, "200 OK")
    return Flow("reliable provisional replies", "RFC 3262", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:04.001000", state="ended", status=200, reason="OK", messages=22,
            post_dial_delay=0.030, setup_time=3.0, duration=1.0, ended_by="callee", codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def retransmissions() -> Flow:
    """INVITE three times before the proxy answers, 200 twice before its ACK; the proxy repeats neither."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    scene.at(500).again(invite)
    scene.at(1500).again(invite)
    on = scene.at(1600).request("INVITE", P1, BOB, below=invite, body=OFFER)
    ok = scene.at(1700).reply(on, "200 OK", body=ANSWER)  # P1 at 1701 ms
    scene.at(2200).again(ok)
    scene.at(2201).again(ok, 1)
    scene.at(2300).request("ACK", *PATH, to_tag="b1")
    bye = scene.at(3000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(3010).reply(bye, "200 OK")
    return Flow("retransmissions", "RFC 3261, 17.1.1.2", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:03.001000", state="ended", status=200, reason="OK", messages=14,
            retransmissions=4, post_dial_delay=1.700, setup_time=1.700, duration=1.300, ended_by="caller",
            codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def two_answers() -> Flow:
    """Both branches of a fork answer at once: Alice keeps the first one and ends the other."""
    scene = Scene(FRA)
    first = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    to_bob = scene.at(1).request("INVITE", P1, BOB, below=first, body=OFFER)
    to_carol = scene.at(1).request("INVITE", P1, CAROL, below=first, uri="sip:bob@198.51.100.30", body=OFFER)
    scene.at(20).reply(to_bob, "180 Ringing")
    scene.at(22).reply(to_carol, "180 Ringing", to_tag="c1")
    scene.at(3000).reply(to_bob, "200 OK", body=ANSWER)  # P1 at 3001 ms
    scene.at(3001).reply(to_carol, "200 OK", to_tag="c1", body=ANSWER)  # P1 at 3002 ms
    scene.at(3010).request("ACK", ALICE, P1, BOB, to_tag="b1")
    scene.at(3011).request("ACK", ALICE, P1, CAROL, to_tag="c1")
    bye = scene.at(3012).request("BYE", ALICE, P1, CAROL, cseq=2, to_tag="c1")
    scene.at(3015).reply(bye, "200 OK")
    last = scene.at(20_000).request("BYE", BOB, P1, ALICE, cseq=1, **INNER)  # P1 at 20,001 ms
    scene.at(20_010).reply(last, "200 OK")
    return Flow("two answers", "RFC 3261, 13.2.2.4", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:20.001000", state="ended", status=200, reason="OK", messages=3 + 8 + 4 + 8,
            post_dial_delay=0.020, setup_time=3.0, duration=17.0, ended_by="callee", codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def clocks_differ() -> Flow:
    """The second node's clock is 3 s behind: its 180 seems to be there before the INVITE."""
    scene = Scene(BOTH, skew_us={"ams-1": -3_000_000})
    path = (ALICE, P1, P2, BOB)
    invite = scene.at(0).request("INVITE", *path, body=OFFER)
    scene.at(40).reply(invite, "180 Ringing")  # P1 at 42 ms
    scene.at(2000).reply(invite, "200 OK", body=ANSWER)  # P1 at 2002 ms
    scene.at(2010).request("ACK", *path, to_tag="b1")
    bye = scene.at(10_000).request("BYE", *reversed(path), cseq=2, **INNER)  # P2 at 10,001 ms
    scene.at(10_010).reply(bye, "200 OK")
    return Flow("clocks differ", "two nodes", scene.done(), {
        scene.call_id: answer(
            # both clocks agree that a message takes 1 ms between them when the second is put 3 s forward
            began="10:32:00.001000", ended="10:32:10.001000", state="ended", status=200, reason="OK",
            hops=[ALICE, P1, P2, BOB], nodes=["fra-1", "ams-1"], messages=18, post_dial_delay=0.041,
            setup_time=2.001, duration=7.999, ended_by="callee", codecs=["PCMA"], media=MEDIA,
        ),
    }, clocks={"ams-1": -3_000_000}, of_nodes=True)  # fmt: skip


def clock_behind_the_whole_call() -> Flow:
    """The second node's clock is 7 s behind: Bob's BYE seems to be there before Alice's INVITE."""
    scene = Scene(BOTH, skew_us={"ams-1": -7_000_000})
    path = (ALICE, P1, P2, BOB)
    invite = scene.at(0).request("INVITE", *path, body=OFFER)
    scene.at(40).reply(invite, "180 Ringing")  # P1 at 42 ms
    scene.at(1000).reply(invite, "200 OK", body=ANSWER)  # P1 at 1002 ms
    scene.at(1010).request("ACK", *path, to_tag="b1")
    bye = scene.at(6000).request("BYE", *reversed(path), cseq=1, **INNER)  # P1 at 6002 ms, P2 at 6001 ms
    scene.at(6010).reply(bye, "200 OK")
    return Flow("clock behind the whole call", "two nodes", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:06.001000", state="ended", status=200, reason="OK",
            hops=[ALICE, P1, P2, BOB], nodes=["fra-1", "ams-1"], messages=18, post_dial_delay=0.041,
            setup_time=1.001, duration=4.999, ended_by="callee", codecs=["PCMA"], media=MEDIA,
        ),
    }, clocks={"ams-1": -7_000_000}, of_nodes=True)  # fmt: skip


def spiral() -> Flow:
    """The proxy sends the request to itself with another URI before it goes on to Bob."""
    scene = Scene(FRA)
    path = (ALICE, P1, P1, BOB)
    invite = scene.at(0).request("INVITE", *path, body=OFFER)  # P1 at 1 and 2, Bob at 3 ms
    scene.at(20).reply(invite, "180 Ringing")  # P1 at 21 and 22 ms
    scene.at(1000).reply(invite, "200 OK", body=ANSWER)  # P1 at 1001 and 1002 ms
    scene.at(1010).request("ACK", *PATH, to_tag="b1")
    bye = scene.at(2000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(2010).reply(bye, "200 OK")
    return Flow("spiral", "RFC 3261, 16.3", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:02.001000", state="ended", status=200, reason="OK", messages=15,
            post_dial_delay=0.021, setup_time=1.001, duration=0.999, ended_by="caller", codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def loop() -> Flow:
    """Two proxies send the request to each other until one of them finds the loop."""
    scene = Scene(BOTH)
    invite = scene.at(0).request("INVITE", ALICE, P1, P2, P1)
    for number in (3, 2, 1):
        at = 10 - number * 2
        scene.at(at).reply(invite, "482 Loop Detected", at=number, until=number - 1, to_tag="p1")
        scene.hop("ACK", invite, number - 1, to_tag="p1")
    return Flow("loop", "RFC 3261, 16.3", scene.done(), {
        scene.call_id: answer(
            # the 482 leaves P1 for Alice at 8 ms
            began="10:32:00.001000", ended="10:32:00.008000", state="refused", status=482, reason="Loop Detected",
            hops=[ALICE, P1, P2, P1], nodes=["fra-1", "ams-1"], messages=9,
        ),
    })  # fmt: skip


def redirected() -> Flow:
    """302: Alice's phone calls the new address itself, with the same Call-ID."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", ALICE, P1)
    scene.at(2).reply(invite, "302 Moved Temporarily", headers=["Contact: <sip:carol@example.com>"])
    scene.at(4).hop("ACK", invite, 0, to_tag="b1")
    again = scene.at(10).request("INVITE", ALICE, P1, CAROL, cseq=2, uri="sip:carol@example.com")
    scene.at(30).reply(again, "603 Decline", until=1, to_tag="c1")
    scene.at(31).hop("ACK", again, 1, to_tag="c1")
    scene.at(31).reply(again, "603 Decline", at=1, to_tag="c1")
    scene.at(33).hop("ACK", again, 0, to_tag="c1")
    return Flow("redirected", "RFC 3261, 8.1.3.4", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:00.031000", state="refused", status=603, reason="Decline",
            hops=[ALICE, P1, CAROL], nodes=["fra-1"], messages=9,
        ),
    })  # fmt: skip


def ringing_after_challenge() -> Flow:
    """The second try rings: the first one's 407 decides nothing any more."""
    scene = Scene(FRA)
    first = scene.at(0).request("INVITE", ALICE, P1)
    scene.at(1).reply(first, "407 Proxy Authentication Required", to_tag="p1")
    scene.at(3).hop("ACK", first, 0, to_tag="p1")
    second = scene.at(10).request("INVITE", *PATH, cseq=2, body=OFFER)
    scene.at(100).reply(second, "180 Ringing")  # P1 at 101 ms
    return Flow("ringing after a challenge", "RFC 3261, 22.3", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, state="ringing", messages=7, post_dial_delay=0.100, codecs=["PCMA", "PCMU", "telephone-event"],
            media=MEDIA[:1],
        ),
    }, now_us=scene.at(180_000).now)  # fmt: skip


def timed_out() -> Flow:
    """It rang, and nothing more was seen for three minutes."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH)
    scene.at(100).reply(invite, "180 Ringing")  # on the first hop at 101 ms
    return Flow("timed out", "RFC 3261, 16.6", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, state="timed-out", messages=4, post_dial_delay=0.100, gaps=["no final answer to INVITE seen"],
        ),
    }, now_us=scene.at(180_101).now)  # fmt: skip


def beginning_not_seen() -> Flow:
    """Storing began in the middle of the call."""
    scene = Scene(FRA)
    update = scene.at(0).request("UPDATE", *PATH, cseq=8, to_tag="b1", uri="sip:bob@198.51.100.20")
    scene.at(10).reply(update, "200 OK")
    bye = scene.at(5000).request("BYE", *BACK, cseq=3, **INNER)
    scene.at(5010).reply(bye, "200 OK")
    return Flow("beginning not seen", "a late start", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:05.001000", state="ended", messages=8,
            request_uri="sip:bob@198.51.100.20", gaps=["no INVITE seen"],
        ),
    })  # fmt: skip


def messages_lost() -> Flow:
    """The answer to the caller and the ACK were not stored; neither was the answer to the BYE."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH, body=OFFER)
    scene.at(1000).reply(invite, "200 OK", body=ANSWER, lost_after=1)
    scene.at(9000).request("BYE", *PATH, cseq=2, to_tag="b1")
    return Flow("messages lost", "lost messages", scene.done(), {
        scene.call_id: answer(
            # the 200 was seen on the second hop, at P1 at 1001 ms
            **ONE_HOP, ended="10:32:09.001000", state="ended", status=200, reason="OK", messages=5, duration=8.0,
            ended_by="caller", codecs=["PCMA"], media=MEDIA,
            gaps=["no final answer to INVITE seen", "no answer to BYE seen"],
        ),
    }, now_us=scene.at(120_000).now)  # fmt: skip


def rfc_2543() -> Flow:
    """Old peers: no branch, no tags, so that a change of the call that Bob asks for looks like a new one."""
    scene = Scene(FRA)
    plain: dict[str, Any] = {"branch": "", "from_tag": ""}
    invite = scene.at(0).request("INVITE", *PATH, **plain)
    scene.at(20).reply(invite, "180 Ringing", to_tag=None)
    scene.at(1000).reply(invite, "200 OK", to_tag=None)
    scene.at(1010).request("ACK", *PATH, **plain)
    change = scene.at(2000).request("INVITE", *BACK, by_callee=True, cseq=1, **plain)
    scene.at(2010).reply(change, "488 Not Acceptable Here", to_tag=None, until=1)
    scene.at(2011).hop("ACK", change, 1)
    scene.at(2011).reply(change, "488 Not Acceptable Here", to_tag=None, at=1)
    scene.at(2013).hop("ACK", change, 0)
    bye = scene.at(6000).request("BYE", *BACK, by_callee=True, cseq=2, **plain)
    scene.at(6010).reply(bye, "200 OK", to_tag=None)
    return Flow("RFC 2543", "RFC 3261, 17.2.3", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:06.001000", state="ended", status=200, reason="OK", messages=18,
            post_dial_delay=0.020, setup_time=1.0, duration=5.0, ended_by="callee",
        ),
    })  # fmt: skip


def only_the_forks() -> Flow:
    """Bob's and Carol's nodes store what they get; the caller's side is not seen. Bob is busy, Carol answers."""
    scene = Scene({BOB: "bob", CAROL: "carol"})
    first = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    to_bob = scene.at(1).request("INVITE", P1, BOB, below=first, body=OFFER)  # Bob at 2 ms
    to_carol = scene.at(1).request("INVITE", P1, CAROL, below=first, body=OFFER)
    scene.at(10).reply(to_bob, "486 Busy Here", until=1)
    scene.at(11).hop("ACK", to_bob, 1, to_tag="b1")
    scene.at(100).reply(to_carol, "180 Ringing", to_tag="c1")
    scene.at(1002).reply(to_carol, "200 OK", to_tag="c1", body=ANSWER)
    scene.at(1010).request("ACK", ALICE, P1, CAROL, to_tag="c1")
    return Flow("only the forks", "RFC 3261, 16.7", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.002000", state="answered", status=200, reason="OK", hops=[P1, CAROL],
            nodes=["bob", "carol"], messages=7, post_dial_delay=0.098, setup_time=1.0, codecs=["PCMA"], media=MEDIA,
            gaps=["no BYE seen"],
        ),
    })  # fmt: skip


def both_hang_up() -> Flow:
    """Two BYEs cross: the one that was sent first ended the call."""
    scene = Scene(FRA)
    established(scene, *PATH)
    by_bob = scene.at(5000).request("BYE", *BACK, cseq=9, **INNER)  # P1 at 5001 ms
    by_alice = scene.at(5001).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(5004).reply(by_bob, "200 OK")
    scene.at(5005).reply(by_alice, "200 OK")
    return Flow("both hang up", "RFC 3261, 15", scene.done(), {
        scene.call_id: answer(
            **ANSWERED, ended="10:32:05.001000", state="ended", messages=16, duration=3.0, ended_by="callee",
        ),
    })  # fmt: skip


def answer_lost() -> Flow:
    """No 200 was stored at all: the BYE says that there was a call."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH, body=OFFER)
    scene.at(20).reply(invite, "180 Ringing")
    scene.at(2000).reply(invite, "200 OK", lost_after=0)
    scene.at(2010).request("ACK", *PATH, to_tag="b1")
    bye = scene.at(9000).request("BYE", *PATH, cseq=2, to_tag="b1")
    scene.at(9010).reply(bye, "200 OK")
    return Flow("answer lost", "lost messages", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:09.001000", state="ended", messages=10, post_dial_delay=0.020,
            ended_by="caller", codecs=["PCMA", "PCMU", "telephone-event"], media=MEDIA[:1],
            gaps=["no final answer to INVITE seen"],
        ),
    })  # fmt: skip


def invite_lost() -> Flow:
    """The initial INVITE was not stored: its answers say what became of it."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH, lost_after=0)
    scene.at(20).reply(invite, "180 Ringing")
    scene.at(2000).reply(invite, "486 Busy Here", until=1)  # P1 at 2001 ms
    scene.at(2001).hop("ACK", invite, 1, to_tag="b1")
    scene.at(2001).reply(invite, "486 Busy Here", at=1)
    scene.at(2003).hop("ACK", invite, 0, to_tag="b1")
    return Flow("INVITE lost", "lost messages", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP | {"began": "10:32:00.021000"}, ended="10:32:02.001000", state="refused", status=486,
            reason="Busy Here", messages=6, gaps=["no INVITE seen"],
        ),
    })  # fmt: skip


def cancelled_at_once() -> Flow:
    """The CANCEL was seen, and nothing after it."""
    scene = Scene(FRA)
    invite = scene.at(0).request("INVITE", *PATH)
    scene.at(500).hop("CANCEL", invite, 0)
    scene.at(501).reply(invite, "200 OK", at=1, method="CANCEL", to_tag="p1")
    return Flow("cancelled at once", "lost messages", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:00.501000", state="cancelled", messages=4,
            gaps=["no final answer to INVITE seen"],
        ),
    }, now_us=scene.at(60_000).now)  # fmt: skip


FLOWS = (
    only_the_forks, both_hang_up, answer_lost, invite_lost, cancelled_at_once,
    session_timer, cancel_crosses_answer, reinvite_refused_by_caller, reliable_provisional, retransmissions,
    two_answers, clocks_differ, clock_behind_the_whole_call, spiral, loop, redirected, ringing_after_challenge,
    timed_out, beginning_not_seen, messages_lost, rfc_2543,
)  # fmt: skip

"""Flows of other methods than INVITE, over other transports, and through what sits between."""

from tests.flows.corners import ONE_HOP
from tests.flows.rfc3665 import ALICE, ANSWER, BOB, BOTH, FRA, MEDIA, OFFER, P1, P2
from tests.flows.rfc5359 import ANSWERED, BACK, PATH, established
from tests.flows.scene import Flow, Host, Scene, answer

SERVER = [ALICE, P1]
ONE = {"began": "10:32:00.001000", "hops": SERVER, "nodes": ["fra-1"]}


def subscription() -> Flow:
    """SUBSCRIBE is challenged, accepted, refreshed and ended; the server notifies."""
    scene = Scene(FRA)
    first = scene.at(0).request("SUBSCRIBE", ALICE, P1, headers=["Event: presence"])
    scene.at(2).reply(first, "401 Unauthorized", to_tag="p1")
    second = scene.at(10).request("SUBSCRIBE", ALICE, P1, cseq=2, headers=["o: presence"])
    scene.at(12).reply(second, "202 Accepted")
    notify = scene.at(15).request("NOTIFY", P1, ALICE, by_callee=True, from_tag="b1", to_tag="a1", cseq=44)
    scene.at(17).reply(notify, "200 OK")
    third = scene.at(3_000_000).request("SUBSCRIBE", ALICE, P1, cseq=3, to_tag="b1", headers=["Expires: 0"])
    scene.at(3_000_002).reply(third, "200 OK")  # 50 minutes later
    return Flow("subscription", "RFC 6665", scene.done(), {
        scene.call_id: answer(
            **ONE, kind="subscribe", ended="11:22:00.002000", state="done", status=200, reason="OK", messages=8,
        ),
    })  # fmt: skip


def instant_message() -> Flow:
    scene = Scene(FRA)
    message = scene.at(0).request("MESSAGE", *PATH, body="hello", content_type="text/plain")
    scene.at(10).reply(message, "200 OK")  # P1 at 11 ms
    return Flow("instant message", "RFC 3428", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, kind="message", ended="10:32:00.011000", state="done", status=200, reason="OK", messages=4,
        ),
    })  # fmt: skip


def message_not_found() -> Flow:
    scene = Scene(FRA)
    message = scene.at(0).request("MESSAGE", ALICE, P1)
    scene.at(2).reply(message, "404 Not Found")
    return Flow("message to nobody", "RFC 3428", scene.done(), {
        scene.call_id: answer(
            **ONE, kind="message", ended="10:32:00.002000", state="refused", status=404, reason="Not Found", messages=2,
        ),
    })  # fmt: skip


def keep_alive() -> Flow:
    """OPTIONS every half minute with one Call-ID; the last one is answered 503."""
    scene = Scene(FRA)
    for number in range(5):
        options = scene.at(number * 30_000).request("OPTIONS", ALICE, P1, cseq=number + 1)
        status = "200 OK" if number < 4 else "503 Service Unavailable"
        scene.at(number * 30_000 + 2).reply(options, status, to_tag=f"p{number}")
    return Flow("keep-alive", "RFC 3261, 11", scene.done(), {
        scene.call_id: answer(
            **ONE, kind="options", ended="10:34:00.002000", state="failed", status=503, reason="Service Unavailable",
            messages=10,
        ),
    })  # fmt: skip


def publication() -> Flow:
    scene = Scene(FRA)
    first = scene.at(0).request("PUBLISH", ALICE, P1, headers=["SIP-If-Match: x"])
    scene.at(2).reply(first, "412 Conditional Request Failed")
    second = scene.at(10).request("PUBLISH", ALICE, P1, cseq=2)
    scene.at(12).reply(second, "200 OK", headers=["SIP-ETag: y"])
    return Flow("publication", "RFC 3903", scene.done(), {
        scene.call_id: answer(
            **ONE, kind="publish", ended="10:32:00.012000", state="done", status=200, reason="OK", messages=4,
        ),
    })  # fmt: skip


def unanswered_options() -> Flow:
    scene = Scene(FRA)
    options = scene.at(0).request("OPTIONS", ALICE, P1)
    for when in (500, 1500, 3500):
        scene.at(when).again(options)
    return Flow("unanswered OPTIONS", "RFC 3261, 17.1.2", scene.done(), {
        scene.call_id: answer(
            **ONE, kind="options", state="timed-out", messages=4, retransmissions=3,
            gaps=["no answer to OPTIONS seen"],
        ),
    }, now_us=scene.at(3_600_000).now)  # fmt: skip


def over_tcp() -> Flow:
    """Two proxies over TCP: the second one sees the ephemeral port of the first one's connection."""
    scene = Scene(BOTH, proto="tcp")
    scene.ports[P1, P2] = 43210
    path = (ALICE, P1, P2, BOB)
    invite = scene.at(0).request("INVITE", *path, body=OFFER)
    scene.at(20).reply(invite, "180 Ringing")  # P1 at 22 ms
    scene.at(1000).reply(invite, "200 OK", body=ANSWER)  # P1 at 1002 ms
    scene.at(1010).request("ACK", *path, to_tag="b1")
    bye = scene.at(5000).request("BYE", *path, cseq=2, to_tag="b1")
    scene.at(5010).reply(bye, "200 OK")
    return Flow("over TCP", "RFC 3261, 18", scene.done(), {
        scene.call_id: answer(
            began="10:32:00.001000", ended="10:32:05.001000", status=200, reason="OK", hops=[ALICE, P1, P2, BOB],
            nodes=["fra-1", "ams-1"], messages=18, post_dial_delay=0.021, setup_time=1.001, duration=3.999,
            ended_by="caller", codecs=["PCMA"], media=MEDIA,
        ),
    })  # fmt: skip


def stored_twice() -> Flow:
    """A node stores each message twice: these are not retransmissions."""
    scene = Scene(FRA)
    established(scene, *PATH)
    bye = scene.at(4000).request("BYE", *BACK, by_callee=True, from_tag="b1", to_tag="a1", cseq=3)
    scene.at(4010).reply(bye, "200 OK")
    records = [record for record in scene.done() for _ in range(2)]
    return Flow("stored twice", "one node", records, {
        scene.call_id: answer(
            **ANSWERED, ended="10:32:04.001000", messages=12, duration=2.0, ended_by="callee",
        ),
    })  # fmt: skip


def ipv6() -> Flow:
    proxy, alice = Host("2001:db8::1"), Host("2001:db8::a", 5070)
    scene = Scene({proxy: "v6"})
    options = scene.at(0).request("OPTIONS", alice, proxy)
    scene.at(2).reply(options, "200 OK")
    return Flow("IPv6", "RFC 5118", scene.done(), {
        scene.call_id: answer(
            **ONE | {"hops": [alice, proxy], "nodes": ["v6"]}, kind="options", ended="10:32:00.002000", state="done",
            status=200, reason="OK", messages=2,
        ),
    })  # fmt: skip


def through_an_sbc() -> Flow:
    """An SBC keeps the Call-ID and takes Via and tags off: the caller gets the SBC's answer, not Bob's."""
    scene = Scene(FRA)
    outside = scene.at(0).request("INVITE", ALICE, P1, body=OFFER)
    inside = scene.at(2).request("INVITE", P1, BOB, from_tag="s1", cseq=101)
    scene.at(20).reply(inside, "180 Ringing", to_tag="b7")
    scene.at(22).reply(outside, "180 Ringing", to_tag="s2")
    scene.at(3000).reply(inside, "500 Server Internal Error", to_tag="b7")
    scene.at(3002).hop("ACK", inside, 0, to_tag="b7")
    scene.at(3003).reply(outside, "480 Temporarily Unavailable", to_tag="s2")
    scene.at(3005).hop("ACK", outside, 0, to_tag="s2")
    return Flow("through an SBC", "a server that takes the Via off", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, ended="10:32:03.003000", state="refused", status=480, reason="Temporarily Unavailable",
            messages=8, post_dial_delay=0.021, codecs=["PCMA", "PCMU", "telephone-event"], media=MEDIA[:1],
        ),
    })  # fmt: skip


def middle_of_a_call() -> Flow:
    """Storing began after the answer: a refresh is accepted, and the call goes on."""
    scene = Scene(FRA)
    refresh = scene.at(0).request("INVITE", *PATH, cseq=5, to_tag="b1")
    scene.at(10).reply(refresh, "200 OK")
    scene.at(20).request("ACK", *PATH, cseq=5, to_tag="b1")
    return Flow("middle of a call", "a late start", scene.done(), {
        scene.call_id: answer(
            **ONE_HOP, state="answered", status=200, reason="OK", messages=6,
            gaps=["no INVITE seen", "no BYE seen"],
        ),
    })  # fmt: skip


FLOWS = (
    through_an_sbc, middle_of_a_call,
    subscription, instant_message, message_not_found, keep_alive, publication, unanswered_options, over_tcp,
    stored_twice, ipv6,
)  # fmt: skip

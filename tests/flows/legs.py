"""Flows through a B2BUA, which makes a new Call-ID for its other side: one for each kind of evidence."""

from sipdump_core.record import Record
from tests.flows.rfc3665 import ALICE, BOB
from tests.flows.scene import Flow, Host, Scene, answer

SBC = Host("203.0.113.7")
WATCHED = {SBC: "sbc-1"}
A_UUID, B_UUID, NIL = "ab30317f1a784dc48ff824d0d3715d86", "47755a9de7794ba387653f2099600ef2", "0" * 32
SHORT = {"nodes": ["sbc-1"], "state": "refused", "status": 486, "reason": "Busy Here", "messages": 3}


def leg(call_id: str, at: float, path: tuple[Host, Host], *headers: str, reply_headers: tuple[str, ...] = ()) -> Scene:
    """Make a leg of three messages: INVITE, 486 after 5 ms, ACK."""
    scene = Scene(WATCHED, call_id)
    invite = scene.at(at).request("INVITE", *path, headers=headers)
    scene.at(at + 5).reply(invite, "486 Busy Here", headers=reply_headers)
    scene.at(at + 7).hop("ACK", invite, 0, to_tag="b1")
    return scene


def two_legs(
    kind: str, a: str, b: str, a_headers: tuple[str, ...] = (), b_headers: tuple[str, ...] = (), **more: object
) -> Flow:
    """Make a flow of two legs, from Alice to the B2BUA and from there, 10 ms later, to Bob."""
    one, two = leg(a, 0, (ALICE, SBC), *a_headers), leg(b, 10, (SBC, BOB), *b_headers)
    records: list[Record] = [*one.done(), *two.done()]
    return Flow(f"legs by {kind}", "B2BUA", records, {
        # the B2BUA has the INVITE at 1 ms and answers at 5 ms
        a: answer(
            **SHORT, call_id=a, began="10:32:00.001000", ended="10:32:00.005000", hops=[ALICE, SBC],
            legs=[{"call_id": b, "evidence": kind}],
        ),
        # it sends its own INVITE at 10 ms, and has the answer at 16 ms
        b: answer(
            **SHORT, call_id=b, began="10:32:00.010000", ended="10:32:00.016000", hops=[SBC, BOB],
            legs=[{"call_id": a, "evidence": kind}],
        ),
    }, **more)  # type: ignore[arg-type]  # fmt: skip


def x_cid() -> Flow:
    return two_legs("x-cid", "one@a", "two@b", (), ("X-CID: one@a",))


def x_call_id() -> Flow:
    return two_legs("x-call-id", "one@a", "two@b", ("x-call-id: common",), ("X-Call-ID:\r\n  common",))


def session_id() -> Flow:
    """Alice's UUID is the local one of her leg and the remote one of Bob's."""
    return two_legs(
        "session-id", "one@a", "two@b", (f"Session-ID: {A_UUID.upper()};remote={NIL}",),
        (f"Session-ID: {B_UUID} ; remote={A_UUID}",),
    )  # fmt: skip


def icid() -> Flow:
    charging = "P-Charging-Vector: icid-value={};icid-generated-at=192.0.2.1"
    return two_legs("icid", "one@a", "two@b", (charging.format("1234bc"),), (charging.format('"1234bc"'),))


def suffix() -> Flow:
    return two_legs("suffix", "c0ffee@a", "c0ffee@a_b2b-1")


def named_header() -> Flow:
    return two_legs("header", "one@a", "two@b", ("X-Trunk-Call: 77",), ("x-trunk-call: 77",), headers=("X-Trunk-Call",))


def heuristic() -> Flow:
    return two_legs("heuristic", "one@a", "two@b", heuristic=True)


def transitive() -> Flow:
    """Three legs: the third names the second only."""
    one, two = leg("one@a", 0, (ALICE, SBC)), leg("two@b", 10, (SBC, SBC), "X-CID: one@a")
    three = leg("two-leg2@b", 20, (SBC, BOB))
    records = [*one.done(), *two.done(), *three.done()]
    evidence = {"one@a": "x-cid", "two@b": "x-cid", "two-leg2@b": "suffix"}

    def legs(*call_ids: str) -> list[dict[str, str]]:
        return [{"call_id": call_id, "evidence": evidence[call_id]} for call_id in call_ids]

    return Flow("legs by several steps", "B2BUA", records, {
        "one@a": answer(
            **SHORT, call_id="one@a", began="10:32:00.001000", ended="10:32:00.005000", hops=[ALICE, SBC],
            legs=legs("two@b", "two-leg2@b"),
        ),
        "two@b": answer(
            **SHORT, call_id="two@b", began="10:32:00.010000", ended="10:32:00.015000", hops=[SBC],
            legs=legs("one@a", "two-leg2@b"),
        ),
        "two-leg2@b": answer(
            **SHORT, call_id="two-leg2@b", began="10:32:00.020000", ended="10:32:00.026000", hops=[SBC, BOB],
            legs=[{"call_id": "two@b", "evidence": "suffix"}, {"call_id": "one@a", "evidence": "x-cid"}],
        ),
    })  # fmt: skip


def chain() -> Flow:
    """Eight legs in a row, each of which names only the one before it."""
    ids = [f"leg-no-{number}@sbc" for number in range(8)]
    scenes = [
        leg(one, number * 20, (ALICE, SBC), *([f"X-CID: {ids[number - 1]}"] if number else []))
        for number, one in enumerate(ids)
    ]
    return Flow("a chain of legs", "B2BUA", [record for scene in scenes for record in scene.done()], {
        one: answer(
            **SHORT, call_id=one, began=f"10:32:00.{number * 20 + 1:03}000", ended=f"10:32:00.{number * 20 + 5:03}000",
            hops=[ALICE, SBC],
            legs=[
                {"call_id": other, "evidence": "x-cid"}  # the nearest first
                for _, other in sorted((abs(place - number), other) for place, other in enumerate(ids) if other != one)
            ],
        )
        for number, one in enumerate(ids)
    })  # fmt: skip


def nil_links_nothing() -> Flow:
    """Two calls whose Session-ID has the nil UUID have nothing in common."""
    one = leg("one@a", 0, (ALICE, SBC), f"Session-ID: {A_UUID};remote={NIL}")
    two = leg("two@b", 10, (SBC, BOB), f"Session-ID: {B_UUID};remote={NIL}")
    return Flow("the nil UUID", "RFC 7989, 5", [*one.done(), *two.done()], {
        "one@a": answer(
            **SHORT, call_id="one@a", began="10:32:00.001000", ended="10:32:00.005000", hops=[ALICE, SBC],
        ),
        "two@b": answer(
            **SHORT, call_id="two@b", began="10:32:00.010000", ended="10:32:00.016000", hops=[SBC, BOB],
        ),
    })  # fmt: skip


FLOWS = (x_cid, x_call_id, session_id, icid, suffix, named_header, heuristic, transitive, chain, nil_links_nothing)

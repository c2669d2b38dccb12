"""The ladder on a terminal."""

import pytest

from sipdump_core.reading.render.formats import Style, render
from sipdump_core.reading.render.plain import cells, wrapped
from tests.core.reading.render.ladders import hostile, ladder_of, of_flow
from tests.flows import FLOWS, Flow
from tests.flows.scene import Host, Scene, sdp

RETRANSMISSIONS = """\
               192.0.2.10:5060       203.0.113.1:5060      198.51.100.20:5060
                      │                      │                      │
 1 0.000000           │── INVITE (SDP) ×3 ──▶│                      │
 2 1.599000           │                      │──── INVITE (SDP) ───▶│
 3 1.700000           │                      │◀╌ 200 OK (SDP) ×2 ╌╌╌│
 4 1.700000           │◀╌ 200 OK (SDP) ×2 ╌╌╌│                      │
 5 2.300000           │──────── ACK ────────▶│                      │
 6 2.300000           │                      │──────── ACK ────────▶│
 7 3.000000           │──────── BYE ────────▶│                      │
 8 3.000000           │                      │──────── BYE ────────▶│
 9 3.010000           │                      │◀╌╌╌╌╌╌ 200 OK ╌╌╌╌╌╌╌│
10 3.010000           │◀╌╌╌╌╌╌ 200 OK ╌╌╌╌╌╌╌│                      │
"""


def drawn(text: str) -> str:
    return text.rsplit("\n\n", maxsplit=1)[-1]


def test_a_ladder_at_80_columns() -> None:
    assert drawn(render(of_flow("retransmissions"), "text", Style(width=80))) == RETRANSMISSIONS


def test_what_happened_stands_above_it() -> None:
    text = render(of_flow("retransmissions"), "text", Style(width=80))
    assert "State:           ended by the caller, 200 OK\n" in text
    assert "Messages:        14 (4 retransmissions)\n" in text


def test_clocks_that_differ_are_named() -> None:
    assert "Note: Clocks differ: ams-1 is 3.000 s behind\n" in render(of_flow("clocks differ"))


def test_names_take_the_place_of_addresses() -> None:
    ladder = of_flow("busy", names={"203.0.113.1": "proxy", "198.51.100.20:5060": "phone"})
    assert [column.name for column in ladder.columns] == ["192.0.2.10:5060", "proxy", "phone"]
    lines = drawn(render(ladder, "text", Style(width=120))).split("\n")
    assert lines[0].split() == ["proxy", "phone"]
    assert lines[1].split() == ["192.0.2.10:5060", "203.0.113.1:5060", "198.51.100.20:5060"]


def test_a_star_for_sdp_is_explained_and_only_then() -> None:
    hosts = [Host(f"203.0.113.{number}") for number in range(1, 7)]
    scene = Scene(dict.fromkeys(hosts, ""))
    scene.at(0).request("INVITE", *hosts, body=sdp("192.0.2.1", 4000, "PCMA"))
    ladder = ladder_of(scene.done())
    narrow, wide = (drawn(render(ladder, "text", Style(width=width))).splitlines() for width in (80, 160))
    assert "│INVITE*──▶│" in narrow[4]
    assert narrow[-1] == "* with SDP"
    assert "INVITE (SDP)" in wide[2]
    assert "*" not in "".join(wide)


def test_no_number_of_an_address_is_torn_apart() -> None:
    assert wrapped("203.0.113.1:5060", 10) == ["203.0.113", ".1", ":5060"]
    assert wrapped("198.51.100.20:5060", 10) == ["198.51.100", ".20", ":5060"]
    assert wrapped("averylongname", 6) == ["averyl", "ongnam", "e"]


def test_legs_have_letters() -> None:
    lines = drawn(render(of_flow("legs by several steps"), "text", Style(width=100))).split("\n")
    assert [line.split()[1] for line in lines[2:-1]] == ["A"] * 3 + ["B"] * 3 + ["C"] * 3


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_no_ladder_is_wider_than_the_terminal(flow: Flow, width: int) -> None:
    text = render(of_flow(flow.name), "text", Style(width=width))
    assert max(cells(line) for line in drawn(text).split("\n")) <= width
    assert "\x1b" not in text


def test_seven_participants_fit_80_columns() -> None:
    hosts = [Host(f"2001:db8::{number}") for number in range(1, 8)]
    scene = Scene(dict.fromkeys(hosts, ""))
    invite = scene.at(0).request("INVITE", *hosts, body=sdp("192.0.2.1", 4000, "PCMA"))
    scene.at(500).again(invite)
    scene.at(700).reply(invite, "407 Proxy Authentication Required", until=5)
    lines = drawn(render(ladder_of(scene.done()), "text", Style(width=80))).split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[2:6] == [
        "             :5060     :5060     :5060     :5060     :5060     :5060     :5060",
        "               │         │         │         │         │         │         │",
        "1 0.000000     │INVITE×2▶│         │         │         │         │         │",
        "2 0.001000     │         │INVITE*─▶│         │         │         │         │",
    ]
    assert lines[-3] == "7 0.700000     │         │         │         │         │         │◀╌╌╌╌╌407│"


def test_colour_only_where_it_is_asked_for() -> None:
    ladder = of_flow("busy")
    coloured = render(ladder, "text", Style(colour=True))
    assert "\x1b[36m" in coloured
    assert "\x1b[31m" in coloured
    for code in (0, 31, 36):
        coloured = coloured.replace(f"\x1b[{code}m", "")
    assert coloured == render(ladder, "text")


def test_messages_below_it() -> None:
    ladder = of_flow("direct call")
    raw, headers = (render(ladder, "text", Style(messages=messages)) for messages in ("raw", "headers"))
    assert (
        "── 1. INVITE (SDP)  192.0.2.10:5060 → 198.51.100.20:5060  udp +0.000000 s\nINVITE sip:bob@example.com" in raw
    )
    assert "\nm=audio 4000 RTP/AVP 8 0 101\n" in raw
    assert "\nm=audio" not in headers
    assert "\nCSeq: 1 INVITE\n" in headers


def test_nothing_hostile_reaches_the_terminal() -> None:
    text = render(hostile(), "text", Style(messages="raw"))
    assert all(one.isprintable() or one == "\n" for one in text)

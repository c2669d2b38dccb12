"""Ladders, messages and differences in a terminal."""

import pytest

from sipdump_core.reading.render.plain import printable
from sipdump_core.record import Record
from sipdump_core.viewing.terminal.choices import TextView
from sipdump_core.viewing.terminal.colours import PLAIN
from sipdump_core.viewing.terminal.wire import Open, Refused, Save
from tests.core.reading.traffic import PHONE, PROXY, at, call, record
from tests.core.viewing.terminal.office import Desk, look

SDP = "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n"


def with_sdp(one: Record) -> Record:
    head = one.buf.replace(b"Content-Length: 0", b"Content-Type: application/sdp\r\nContent-Length: %d" % len(SDP))
    return Record(one.time_us, one.flow, head + SDP.encode())


OK = call("ok@x", at("10:00:00"))
FIRST = with_sdp(OK[0])
BUSY = call("busy@x", at("10:00:00"), status=486)
FAILED = [FIRST, Record(FIRST.time_us + 500_000, FIRST.flow, FIRST.buf), *call("ok@x", at("10:00:00"), status=503)[1:]]
LEG = call("ok@x-b2b_1", at("10:00:00"), src=PROXY, dst="198.51.100.9")


async def opened(desk: Desk, *calls: list[Record], legs: int = 0) -> None:
    await desk.list(OK)
    await desk.press("enter")
    assert " reading ..." in desk.text
    await desk.draw(*calls, legs=legs)


def test_a_ladder_with_arrows_sdp_and_folded_retransmissions() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk, FAILED, legs=1)
        assert "Ladder of ok@x" in desk.lines[0]
        assert desk.lines[1].startswith("failed, 503 Because  alice → bob  ")
        assert f"{PHONE}:5060" in desk.text
        assert "INVITE (SDP) ×2 ─" in desk.text
        assert "4 messages, 1 error, 1 other leg: x" in desk.text
        assert all(len(line) <= 80 for line in desk.lines)
        await desk.press("d")
        assert "INVITE PCMA 192.0.2.10:4000" in desk.text
        await desk.press("d")
        assert "ACK" not in desk.text
        await desk.press("d", "w")
        assert "+0.000000" in desk.text

    look(script)


def test_legs_side_by_side() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk, OK, legs=1)
        await desk.press("x")
        assert desk.office.last(Open).legs
        await desk.draw(OK, LEG)
        assert "with its other legs" in desk.lines[0]
        for address in (PHONE, PROXY, "198.51.100.9"):
            assert f"{address}:5060" in desk.text
        assert " 2 B  0.000000" in desk.text
        assert desk.lines[1].startswith("A ended, 200 Because")
        assert desk.lines[2].startswith("B ended, 200 Because  alice → bob  2026")
        assert desk.lines[2].endswith("  ok@x-b2b_1")
        await desk.press("c")
        assert "coloured by leg" in desk.text

    look(script, size=(100, 30))


def test_jumping_to_errors() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk, FAILED)
        sheet = desk.app.screen.sheet
        await desk.press("e")
        assert sheet.cursor == 2
        await desk.press("home", "E")
        assert sheet.cursor == 2
        await desk.press("enter", "p", "e")
        assert "3 of 4  503 Because" in desk.text

    look(script)


def test_messages_one_after_the_other_raw_and_compared() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk, FAILED)
        await desk.press("enter")
        assert "Message 1 of 4  ok@x" in desk.lines[0]
        assert "INVITE sip:bob@example.com SIP/2.0" in desk.text
        assert "m=audio 4000 RTP/AVP 8" in desk.text
        assert "rcv  udp  at fra-1  pid 7  process 2" in desk.text
        await desk.press("r")
        assert "INVITE sip:bob@example.com SIP/2.0\\r\\n" in desk.text
        await desk.press("r", "right")
        assert "SIP/2.0 180 Ringing" in desk.text
        await desk.press("d")
        assert "- 1. INVITE (SDP) ×2" in desk.text
        assert "- INVITE sip:bob@example.com SIP/2.0" in desk.text
        assert "+ SIP/2.0 180 Ringing" in desk.text
        await desk.press("u")
        assert " ≠ " in desk.text
        await desk.press("escape", "escape")
        assert "Ladder of" in desk.lines[0]

    look(script, size=(80, 40))


def test_two_marked_messages_are_compared() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk, OK)
        await desk.press("space")
        assert "message 1 is marked" in desk.text
        await desk.press("down", "down", "down", "space")
        assert "Differences of 1. INVITE and 4. ACK" in desk.lines[0]
        await desk.press("escape", "space", "space")
        assert "marked" not in desk.text

    look(script, size=(120, 30))


def test_the_message_stands_beside_the_ladder_where_there_is_room() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk, FAILED)
        assert "│ INVITE sip:bob@example.com SIP/2.0" in desk.text
        await desk.press("down")
        assert "│ SIP/2.0 180 Ringing" in desk.text
        await desk.press("t")
        assert "SIP/2.0 180 Ringing" not in desk.text
        await desk.press("t")
        await desk.pilot.resize_terminal(100, 30)
        await desk.pilot.pause()
        assert "SIP/2.0 180 Ringing" not in desk.text

    look(script, size=(140, 40))


def test_all_messages_and_all_facts() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk, FAILED)
        await desk.press("r")
        assert "1 of 4  INVITE (SDP) ×2" in desk.text
        await desk.press("escape", "i")
        assert "State:           failed, 503 Because" in desk.text

    look(script)


def test_what_came_is_drawn_at_once_and_the_rest_when_it_is_read() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(OK)
        await desk.press("enter")
        await desk.draw(OK[:2], complete=False)
        assert "2 messages, 0 errors, reading the rest ..." in desk.text
        await desk.draw(OK)
        assert "6 messages, 0 errors" in desk.text
        await desk.come(OK)
        desk.app.screen._asked = 0.0
        await desk.pilot.pause(0.2)
        assert len([one for one in desk.office.asked if isinstance(one, Open)]) == 2

    look(script)


def test_a_call_that_is_gone() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk)
        assert "this call is not stored any more" in desk.text
        await desk.press("x")
        await desk.give(Refused(desk.office.last(Open).number, "list /x: Permission denied"))
        assert "Permission denied" in desk.text
        await desk.press("r", "i", "e", "space", "enter", "escape")
        assert "no filter" in desk.text

    look(script)


def test_a_ladder_is_saved_with_its_legs() -> None:
    async def script(desk: Desk) -> None:
        await opened(desk, OK, legs=1)
        await desk.press("x")
        await desk.draw(OK, LEG)
        await desk.press("f2", "enter")
        wanted = desk.office.last(Save)
        assert (wanted.call_ids, wanted.legs) == (["ok@x"], True)

    look(script)


def test_several_calls_in_one_ladder() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(OK, BUSY)
        await desk.press("space", "space", "enter")
        assert set(desk.office.last(Open).call_ids) == {"ok@x", "busy@x"}
        assert "Ladder of 2 calls" in desk.lines[0]

    look(script)


def test_many_participants_are_reached_sideways() -> None:
    hops = [
        record("INVITE sip:b SIP/2.0", "wide@x", at("10:00:00") + number, cseq="1 INVITE",
               src=f"192.0.2.{number + 1}", dst=f"192.0.2.{number + 2}")
        for number in range(20)
    ]  # fmt: skip

    async def script(desk: Desk) -> None:
        await opened(desk, hops)
        assert "192.0.2.21" not in desk.text.replace("\n", "")
        for _ in range(40):
            await desk.press("right")
        assert ".21" in desk.text

    look(script)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_nothing_of_a_message_is_obeyed(size: tuple[int, int]) -> None:
    evil = record(
        "INVITE sip:[red]x\x1b[2J SIP/2.0", "e\x1b]0;t\x07@x", at("10:00:00"), cseq="1 INVITE",
        headers="X-\x07Bell: \x1b]0;title\x07\u202e[bold]b[/bold]\r\nX-Tab:\tafter\x9b31m\r\n",
    )  # fmt: skip

    async def script(desk: Desk) -> None:
        await opened(desk, [evil])
        await desk.press("enter")
        text = desk.text.replace("\n", "")
        assert "Message 1 of 1  e\\x1b]0;t\\x07@x" in desk.lines[0]
        assert "\\x1b]0;title\\x07\\u202e[bold]b[/bold]" in text
        assert "INVITE sip:[red]x\\x1b[2J SIP/2.0" in text
        for key in ("r", "d", "escape", "escape", "i", "escape", "r"):
            assert all(line.isprintable() for line in desk.lines), key
            await desk.press(key)
        assert all(line.isprintable() for line in desk.lines)

    look(script, size=size)


def test_no_control_character_is_drawn_whatever_a_view_says() -> None:
    async def script(desk: Desk) -> None:
        evil = "a\x1b]0;t\x07\u202eb"
        await desk.app.push_screen(TextView(desk.board, evil, lambda _width: [[(evil, PLAIN)]]))
        await desk.pilot.pause()
        assert [line for line in desk.lines if line][:2] == [f" {printable(evil)}", printable(evil)]

    look(script)

"""The call list in a terminal."""

import pytest
from textual import events

from sipdump_core.viewing.terminal.wire import Broken, Found, Hold, Open, Refused, Save, Saved, Scanned, Seek
from tests.core.reading.traffic import at, call, register
from tests.core.viewing.terminal.office import Desk, look, rows

A = call("a@x", at("10:00:00"), caller="alice")
B = call("b@x", at("10:01:00"), status=503, caller="bert")
C = call("c@x", at("10:02:00"), bye=False, caller="carla")
R = register("r@x", at("10:03:00"))


def body(desk: Desk) -> list[str]:
    """Return the lines of the list alone."""
    return [line for line in desk.lines[3:-2] if line.strip() and not line.startswith("Filter:")]


@pytest.mark.usefixtures("utc")
def test_the_newest_call_is_first_and_states_are_words() -> None:
    async def script(desk: Desk) -> None:
        assert "reading" in desk.lines[-2]
        await desk.list(A, B, C, R)
        lines = desk.lines
        assert lines[0].startswith(" sipdump  /var/lib/sipdump")
        assert lines[0].endswith("live")
        assert lines[2].split()[:6] == ["time↓", "state", "method", "from", "to", "msgs"]
        assert [line.split()[1] for line in body(desk)] == ["registered", "answered", "failed", "ended"]
        assert "4 calls; 1 ended, 1 failed, 1 answered, 1 registered; all of 3 segments read" in lines[-2]
        assert lines[-1].startswith("F1 Help  Enter Show")
        assert all(len(line) <= 80 for line in lines)

    look(script)


def test_it_is_sorted_reversed_and_narrowed() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B, C)
        await desk.press("z")
        assert [line.split()[3] for line in body(desk)] == ["alice", "bert", "carla"]
        await desk.press("greater_than_sign")
        assert "state↑" in desk.text
        assert [line.split()[1] for line in body(desk)] == ["answered", "ended", "failed"]
        await desk.press("slash")
        await desk.type("CARLA")
        await desk.press("enter")
        assert [line.split()[3] for line in body(desk)] == ["carla"]
        assert "1 call of 3" in desk.text
        assert "Text: CARLA" in desk.text
        await desk.press("f9")
        assert len(body(desk)) == 0  # it is read again
        assert len([one for one in desk.office.asked if isinstance(one, Seek)]) == 2

    look(script)


def test_the_filter_line_has_the_words_of_find() -> None:
    async def script(desk: Desk) -> None:
        assert "Filter: user=alice" in desk.text
        await desk.list(A)
        await desk.press("f7")
        await desk.type(" stat=x")
        await desk.press("enter")
        assert "'stat' is not a filter: is it state?" in desk.text
        assert len(body(desk)) == 1
        await desk.press(*["backspace"] * 7)
        await desk.type(" state=failed since=9:00")
        await desk.press("enter")
        assert desk.office.last(Seek).words == (("user", "alice"), ("state", "failed"), ("since", "9:00"))
        assert body(desk) == []
        old = desk.office.last(Seek).number - 1
        await desk.give(Found(old, rows(A), (), 0))  # of the search before
        assert body(desk) == []
        await desk.list(B)
        assert len(body(desk)) == 1
        await desk.press("f", "escape")
        assert desk.office.last(Seek).number == old + 1

    look(script, "user=alice")


def test_a_wrong_time_leaves_the_list_alone() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A)
        await desk.press("f")
        await desk.type("since=noon")
        await desk.press("enter")
        assert "--since: 'noon' is not a time" in desk.text
        assert len(body(desk)) == 1

    look(script)


def test_the_cursor_stays_with_the_newest_call_or_with_its_own() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B)
        await desk.come(C)
        assert desk.app.screen.sheet.cursor == 0
        await desk.press("down")
        await desk.come(R)
        assert desk.app.screen.sheet.cursor == 2
        await desk.press("enter")
        assert desk.office.last(Open).call_ids == ["b@x"]

    look(script)


def test_a_pause_holds_what_comes_back() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A)
        await desk.press("p")
        assert desk.lines[0].endswith("PAUSED")
        await desk.come(B)
        assert len(body(desk)) == 1
        await desk.press("p")
        assert len(body(desk)) == 2
        assert "1 came  live" in desk.lines[0]

    look(script)


def test_what_nobody_watches_is_not_kept() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A)
        await desk.come(B)
        await desk.press("enter")
        await desk.come(B)
        assert desk.board.changed == {"b@x"}
        await desk.press("escape")
        await desk.come(B)
        assert desk.board.changed == set()

    look(script)


def test_lost_changes_and_notes_are_told() -> None:
    async def script(desk: Desk) -> None:
        number = desk.office.last(Seek).number
        await desk.come(A, lost=7)
        await desk.give(Scanned(number, "held", 1, ["read x.data: it is torn\x1b[31m"], ["a note"]))
        assert "7 changes lost" in desk.text
        assert "2 notes: n" in desk.text
        assert "interrupted" in desk.text
        await desk.press("n")
        assert "it is torn\\x1b[31m" in desk.text
        await desk.press("escape")
        assert "2 notes" in desk.text

    look(script, size=(120, 24))


def test_only_so_many_are_listed() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B, C, over=False)
        await desk.give(Scanned(desk.office.last(Seek).number, "limit", 1, (), ()))
        assert len(body(desk)) == 2
        assert "1 older ones no longer listed" in desk.text
        assert "older ones are not listed (limit 2)" in desk.text

    look(script, limit=2, size=(120, 24))


def test_columns_are_chosen_and_moved() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A)
        await desk.press("f10")
        assert " [x] time" in desk.text
        await desk.press("space", "plus", "enter")  # hide the time; the state goes one to the right
        assert desk.lines[2].split()[:2] == ["method", "state"]
        await desk.press("t", "space", "escape")
        assert desk.lines[2].split()[:2] == ["method", "state"]
        for _ in range(20):
            await desk.press("right")
        assert "Call-ID" in desk.lines[2]
        assert "a@x" in desk.lines[3]
        assert desk.lines[2].startswith("< ")

    look(script)


def test_settings_change_the_list() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B, R)
        await desk.press("f8", "space", "down", "down", "space")
        assert "the smallest, or oldest" in desk.text
        await desk.press("escape")
        assert [line.split()[3] for line in body(desk)] == ["alice", "bert"]
        assert "calls only" in desk.lines[1]
        await desk.press("i")
        assert len(body(desk)) == 3

    look(script)


def test_the_help_lists_every_key() -> None:
    async def script(desk: Desk) -> None:
        keys = desk.app.screen.keys
        await desk.press("question_mark")
        seen = ""
        for _ in range(4):
            seen += desk.text
            await desk.press("pagedown")
        for key in keys:
            assert key.help[:30] in seen
        await desk.press("escape", "f1", "q")
        assert "no filter" in desk.text

    look(script)


def test_selected_calls_are_saved_and_no_file_is_replaced_unasked() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B, C)
        await desk.press("space", "down", "space")
        assert "2 selected" in desk.text
        assert [line[:2] for line in body(desk)] == ["* ", "  ", "* "]
        await desk.press("f2")
        assert "Save 2 calls (.pcap" in desk.text
        await desk.press("ctrl+u")
        await desk.type("x.html")
        await desk.press("enter")
        wanted = desk.office.last(Save)
        assert (wanted.call_ids, wanted.path, wanted.replace) == (["c@x", "a@x"], "x.html", False)
        await desk.give(Refused(wanted.number, "x.html is there already", exists=True))
        assert "x.html is there already. Replace it? (y/n)" in desk.text
        await desk.press("n")
        assert desk.office.last(Save) is wanted
        await desk.press("s", "enter")
        wanted = desk.office.last(Save)
        assert wanted.path == "calls.pcap"
        await desk.give(Refused(wanted.number, "calls.pcap is there already", exists=True))
        await desk.press("y")
        again = desk.office.last(Save)
        assert again.replace
        await desk.give(Saved(again.number, "/tmp/calls.pcap", 2, 1))
        assert "2 calls saved; 1 call is not stored any more: /tmp/calls.pcap" in desk.text
        await desk.press("s", "enter")
        await desk.give(Refused(desk.office.last(Save).number, "write calls.pcap: No space left"))
        assert "No space left" in desk.text
        await desk.press("escape")
        assert "selected" not in desk.text

    look(script)


def test_escape_ends_the_scan_first_and_asks_before_it_quits() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, over=False)
        await desk.press("escape")
        assert isinstance(desk.office.asked[-1], Hold)
        await desk.give(Scanned(desk.office.last(Seek).number, "held", 1, (), ()))
        await desk.press("escape")
        assert "Quit? (y/n)" in desk.text
        await desk.press("n")
        assert desk.app.is_running
        await desk.press("escape", "y")
        assert not desk.app.is_running

    look(script)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_it_quits(key: str) -> None:
    async def script(desk: Desk) -> None:
        await desk.press(key)
        assert not desk.app.is_running

    look(script)


def test_it_is_cleared() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B)
        await desk.press("f5")
        assert body(desk) == []
        await desk.give(Found(desk.office.last(Seek).number, rows(A), (), 0))  # it was on its way
        assert body(desk) == []
        await desk.come(C)
        assert len(body(desk)) == 1

    look(script)


def test_nothing_of_a_message_is_obeyed() -> None:
    evil = call("\x1b]0;t\x07[red]x[/red]@x", at("10:00:00"), caller="[bold]al\u202eice", callee="\x1b[2J\x9b31m")

    async def script(desk: Desk) -> None:
        await desk.list(evil)
        text = desk.text
        assert "[bold]al\\u2…" in text
        assert "\\x1b[2J" in text
        assert all(line.isprintable() for line in desk.lines)
        await desk.press(*["right"] * 20)
        assert "\\x1b]0;t\\x07[red]x[/red]@x" in desk.text
        await desk.press("enter")
        assert "[red]x[/red]@x" in desk.lines[0]
        await desk.draw(evil)
        assert all(line.isprintable() for line in desk.lines)

    look(script)


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 60), (20, 5)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B, C, R)
        assert len(desk.lines) == size[1]
        await desk.pilot.resize_terminal(size[0] // 2, size[1] // 2)
        await desk.pilot.pause()
        await desk.press("down", "enter")
        await desk.draw(B)
        await desk.pilot.resize_terminal(150, 30)
        await desk.pilot.pause()
        assert "503 Because" in desk.text

    look(script, size=size)


def test_the_mouse_chooses_sorts_and_presses_keys() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B, C)
        await desk.pilot.click(offset=(20, 4))
        assert desk.app.screen.sheet.cursor == 1
        await desk.pilot.click(offset=(20, 2))  # the head of the state
        assert "state↓" in desk.text
        await desk.pilot.click(offset=(3, 23))
        assert " Keys" in desk.lines[0]
        await desk.press("escape")
        await desk.pilot.click(offset=(20, 3))
        await desk.pilot.click(offset=(20, 3))
        await desk.pilot.pause()
        assert "Ladder of" in desk.lines[0]

    look(script)


def test_a_reader_that_ends_is_told_and_what_is_listed_stays() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A)
        await desk.give(Broken("the reader has ended: killed"))
        assert desk.lines[0].endswith("ENDED")
        assert "killed" in desk.text
        assert len(body(desk)) == 1

    look(script)


def test_a_store_that_is_not_there_ends_the_terminal() -> None:
    async def script(desk: Desk) -> None:
        desk.office.reports.append(Broken("there is no such folder", wrong=True))
        await desk.pilot.pause(0.2)
        assert not desk.app.is_running

    look(script)


def test_no_colour_when_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def script(desk: Desk) -> None:
        await desk.list(B)
        colours = {
            segment.style.color.name
            for strip in desk.app.screen._compositor.render_strips()
            for segment in strip.apply_filter(desk.app._filters[-1], desk.app.screen.styles.background)
            if segment.style and segment.style.color
        }
        assert colours <= {"default"}
        assert "failed" in desk.text

    look(script)


def test_keys_that_come_at_once_reach_what_they_are_meant_for() -> None:
    async def script(desk: Desk) -> None:
        await desk.list(A, B)
        view = desk.app.screen
        for key in (events.Key("f1", None), events.Key("q", "q"), events.Key("slash", "/"), events.Key("b", "b")):
            view.post_message(key)
        await desk.pilot.pause(0.1)
        assert "Text: b" in desk.text
        view.post_message(events.Key("enter", "\r"))
        await desk.pilot.pause(0.1)
        assert "Text: b" in desk.lines[1]
        await desk.press("f1")
        for _ in range(3):
            desk.app.screen.post_message(events.Key("escape", "\x1b"))
        await desk.pilot.pause(0.1)
        assert desk.app.is_running

    look(script)

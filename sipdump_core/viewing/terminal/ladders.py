"""The ladder of calls: arrows, legs side by side, and the message that the cursor is on."""

import time
from collections.abc import Callable, Iterable, Sequence

import attrs
from rich.style import Style
from textual.widget import Widget

from sipdump_core.calls.ladder import Ladder, Step
from sipdump_core.calls.summary import Summary
from sipdump_core.reading.lines import counted, local_time
from sipdump_core.reading.render.plain import cells, facts, fitted, leg_letter, printable, seconds
from sipdump_core.reading.render.text import Drawing
from sipdump_core.viewing.listing import mark_of
from sipdump_core.viewing.terminal.board import Board
from sipdump_core.viewing.terminal.choices import HelpView, SettingsView, TextView, following
from sipdump_core.viewing.terminal.colours import BOLD, DIM, MARKS, NAME, PARTIES, PLAIN, TITLE
from sipdump_core.viewing.terminal.messages import DiffView, MessageView, message_lines
from sipdump_core.viewing.terminal.saving import ask_where
from sipdump_core.viewing.terminal.sheet import Line, Sheet
from sipdump_core.viewing.terminal.texts import highlighted, wrapped_line
from sipdump_core.viewing.terminal.view import Key, View
from sipdump_core.viewing.terminal.wire import Opened, Refused, Report

__all__ = ["LadderView"]

_WIDE = 120
"""From so many columns on, the message stands beside the ladder."""
_PREVIEW = 0.42
_MOST_FACTS = 3
"""Calls that are described above a ladder."""
_MOST_RAW = 500
"""Messages that are shown one below the other."""
_REFRESHED = 1.0
"""Seconds between two questions for a call that goes on."""
_MARK = 2
"""Columns before a step, for its mark."""
_ARROWS = ("kind", "leg", "transaction", "none")
_CLOCKS = ("since", "delta", "time")
_SHOWN = ("all", "described", "only")
"""What is shown of session descriptions: a mark; codecs and addresses; only messages that have one."""


class LadderView(View):
    """The ladder of one call, or of several.

    Args:
        board: what is known.
        call_ids: the calls.
        legs: whether their other legs are drawn too.
        raw: whether their messages are shown at once, one below the other.
    """

    keys = (
        Key(("f1", "?", "h"), "Help", "this help", "help"),
        Key(("escape", "q"), "Calls", "go back to the list", "back"),
        Key(("enter",), "Message", "show the message that the cursor is on", "message"),
        Key(("f2", "s"), "Save", "save these calls: pcap, pcapng, text, HTML, ...", "save"),
        Key(("f4", "x"), "Legs", "draw the other legs of the call too; and back", "legs"),
        Key(("e",), "Error", "jump to the next error: an answer of 400 and more", "next_error"),
        Key(("E",), "", "jump to the error before", "error_before"),
        Key((" ",), "Mark", "mark a message; with a second one, compare the two", "mark"),
        Key(("f3", "t"), "Preview", "show the message beside the ladder, or not (from 120 columns on)", "preview"),
        Key(("f5", "d"), "SDP", "codecs and addresses of media in the arrows; only messages with SDP; all", "sdp"),
        Key(("f6", "r"), "Raw", "all messages, one below the other", "raw"),
        Key(("f7", "c"), "Colours", "colour by request or answer, by leg, by transaction, or not", "colours"),
        Key(("w",), "Times", "seconds since the first message, since the one before, or the time of day", "clock"),
        Key(("i",), "Facts", "everything that is known of the calls", "facts"),
        Key(("f8", "o"), "", "settings", "settings"),
        Key(("[", "9"), "", "scroll the message beside the ladder up", "preview_up"),
        Key(("]", "0"), "", "scroll it down", "preview_down"),
    )

    def __init__(self, board: Board, call_ids: Sequence[str], *, legs: bool = False, raw: bool = False) -> None:
        super().__init__(board, cursor=True)
        self.ladder: Ladder | None = None
        self._call_ids = call_ids
        self._legs = legs
        self._raw = raw
        self._others = 0
        self._complete = False
        self._error = ""
        self._marked: int | None = None
        self._sdp = "all"
        self._drawn: tuple[object, Drawing | None] = (None, None)
        self._steps: Sequence[Step] = ()
        self._previewed: tuple[object, Sequence[Line]] = (None, ())
        self._asked = 0.0
        self._request = 0
        self._preview = Sheet(cursor=False, id="preview")
        self._preview.can_focus = False
        self._preview.styles.width = "42%"
        self._preview.count = lambda: len(self._preview_lines(self._preview.size.width))
        self._preview.line = lambda place, width: self._preview_lines(width)[place]
        self.sheet.heads = self._heads
        self.sheet.count = lambda: len(self._steps)
        self.sheet.line = self._line
        self.sheet.wide = lambda width: self._drawing(width).width + _MARK if self.ladder else width

    def on_mount(self) -> None:
        """Ask for the ladder."""
        super().on_mount()
        self.board.watched = frozenset(self._call_ids)
        self._ask()
        self._place_preview()

    def on_unmount(self) -> None:
        """Want no answer any more."""
        self.board.watched = frozenset()
        self.board.changed.clear()
        self.board.forget(self._request)

    def on_resize(self) -> None:
        """Show the message beside the ladder, if there is room now."""
        self._place_preview()

    def tick(self) -> None:
        """Ask again, if a call has changed."""
        if self.board.changed and self._complete and time.monotonic() - self._asked > _REFRESHED:
            self.board.changed.clear()
            self._ask()

    def side(self) -> Iterable[Widget]:
        """Return the message beside the ladder."""
        yield self._preview

    def title_line(self, width: int) -> Line:
        """Return whose ladder it is."""
        several = f"{len(self._call_ids)} calls" if len(self._call_ids) > 1 else printable(self._call_ids[0])
        legs = " with its other legs" if self._legs else ""
        return [(fitted(f" Ladder of {several}{legs}", width), TITLE)]

    def status_line(self, width: int) -> Line:
        """Return what else there is."""
        if self._error:
            return [(fitted(f" {printable(self._error)}", width), MARKS["failure"] + BOLD)]
        if self.ladder is None:
            return [(" this call is not stored any more" if self._complete else " reading ...", BOLD)]
        errors = sum(step.mark == "failure" for step in self.ladder.steps)
        parts = [counted(len(self.ladder.steps), "message"), counted(errors, "error")]
        if not self._complete:
            parts.append("reading the rest ...")
        elif self._others and not self._legs:
            parts.append(f"{counted(self._others, 'other leg')}: x")
        parts += [printable(note) for note in self.ladder.notes]
        if self._marked is not None:
            parts.append(f"message {self._steps[self._marked].number} is marked: mark another one to compare")
        return [(fitted(" " + ", ".join(parts), width), PLAIN)]

    def on_sheet_chosen(self) -> None:
        """Show the message."""
        self.do_message()

    def on_sheet_moved(self) -> None:
        """Show it beside the ladder, too."""
        self._preview.move_to(0)
        self._preview.refresh()

    def do_help(self) -> None:
        """Show the keys."""
        self.app.push_screen(HelpView(self.board, type(self)))

    def do_back(self) -> None:
        """Go back."""
        self.leave()

    def do_message(self) -> None:
        """Show the message that the cursor is on."""
        if self.ladder and self._steps:
            place = self._steps[self.sheet.cursor].number - 1
            marked = None if self._marked is None else self._steps[self._marked].number - 1
            self.app.push_screen(MessageView(self.board, self.ladder, place, marked))

    def do_save(self) -> None:
        """Save the calls."""
        ask_where(self, self.board, self._call_ids, legs=self._legs)

    def do_legs(self) -> None:
        """Draw the other legs, or not."""
        self._legs = not self._legs
        self._marked = None
        self._ask()

    def do_next_error(self) -> None:
        """Jump to the next error."""
        self._jump(1)

    def do_error_before(self) -> None:
        """Jump to the error before."""
        self._jump(-1)

    def do_mark(self) -> None:
        """Mark a message, or compare it with the marked one."""
        if not self.ladder or not self._steps:
            return
        here = self.sheet.cursor
        if self._marked is None:
            self._marked = here
        elif self._marked == here:
            self._marked = None
        else:
            one, other = self._steps[self._marked].number - 1, self._steps[here].number - 1
            self._marked = None
            self.app.push_screen(DiffView(self.board, self.ladder, one, other))

    def do_preview(self) -> None:
        """Show the message beside the ladder, or not."""
        self.board.looks.preview = not self.board.looks.preview
        self._place_preview()

    def do_preview_up(self) -> None:
        """Scroll it."""
        self._preview.move(-3)

    def do_preview_down(self) -> None:
        """Scroll it."""
        self._preview.move(3)

    def do_sdp(self) -> None:
        """Show more of session descriptions, or less."""
        self._sdp = following(self._sdp, _SHOWN)
        self._marked = None
        self._choose_steps()
        names = {"all": "all messages", "described": "codecs and addresses of media", "only": "messages with SDP only"}
        self.tell(names[self._sdp])

    def do_raw(self) -> None:
        """Show all messages."""
        ladder = self.ladder
        if ladder is None:
            return
        first = self._steps[self.sheet.cursor].number - 1 if len(ladder.steps) > _MOST_RAW and self._steps else 0
        places = range(first, min(len(ladder.steps), first + _MOST_RAW))
        self.app.push_screen(TextView(self.board, "Messages", lambda _width: message_lines(ladder, places)))

    def do_colours(self) -> None:
        """Colour by something else."""
        looks = self.board.looks
        looks.arrows = following(looks.arrows, _ARROWS)
        names = {"kind": "request or answer", "leg": "leg", "transaction": "transaction", "none": "nothing"}
        self.tell(f"coloured by {names[looks.arrows]}")

    def do_clock(self) -> None:
        """Show other times."""
        looks = self.board.looks
        looks.clock = following(looks.clock, _CLOCKS)

    def do_facts(self) -> None:
        """Show what is known of the calls."""
        ladder = self.ladder
        if ladder is not None:
            self.app.push_screen(TextView(self.board, "Facts", lambda _width: _facts(ladder)))

    def do_settings(self) -> None:
        """Show the settings."""
        self.app.push_screen(SettingsView(self.board))

    def _ask(self) -> None:
        self.board.forget(self._request)
        self._complete = False
        self._asked = time.monotonic()
        self._request = self.board.open(self._call_ids, self._take, legs=self._legs)

    def _take(self, report: Report) -> None:
        if isinstance(report, Refused):
            self._error, self._complete = report.error, True
        elif isinstance(report, Opened) and (report.complete or self.ladder is None):
            self._error = "; ".join(report.problems)
            self._complete, self._others = report.complete, report.legs
            if report.ladder is not None or self.ladder is None:
                self.ladder = report.ladder
            self._choose_steps()
        if self.is_attached:
            self.redraw()
            if self._raw and self._complete and self.ladder is not None:
                self._raw = False
                self.do_raw()

    def _choose_steps(self) -> None:
        steps = self.ladder.steps if self.ladder else ()
        if self._sdp == "only":
            steps = [step for step in steps if step.sdp]
        if self._sdp != "all":
            steps = [_described(step) if step.sdp else step for step in steps]
        self._steps = steps
        if self.is_attached:
            self.sheet.move(0)

    def _jump(self, by: int) -> None:
        count = len(self._steps)
        places = ((self.sheet.cursor + by * number) % count for number in range(1, count + 1)) if count else ()
        found = next((place for place in places if self._steps[place].mark == "failure"), None)
        if found is None:
            self.tell("there is no error")
        else:
            self.sheet.move_to(found)

    def _place_preview(self) -> None:
        self._preview.display = self.board.looks.preview and self.app.size.width >= _WIDE

    def _drawing(self, width: int) -> Drawing:
        ladder = self.ladder
        if ladder is None:
            raise ValueError("there is no ladder yet")
        key = (id(ladder), width, self.board.looks.clock)
        drawing = self._drawn[1]
        if drawing is None or self._drawn[0] != key:
            drawing = Drawing(ladder, width - _MARK, with_nodes=width >= 100, clock=self._clock(ladder))
            self._drawn = key, drawing
        return drawing

    def _clock(self, ladder: Ladder) -> Callable[[Step], str] | None:
        clock = self.board.looks.clock
        if clock == "time":
            return lambda step: local_time(step.arrow.time_us).strftime("%H:%M:%S.%f")
        if clock == "delta":
            times = [step.since_us for step in ladder.steps]
            return lambda step: f"{(step.since_us - times[max(0, step.number - 2)]) / 1_000_000:+.6f}"
        return None

    def _heads(self, width: int) -> Sequence[Line]:
        ladder = self.ladder
        if ladder is None:
            return ()
        several = len(ladder.calls) > 1
        lines: list[Line] = []
        for number, call in enumerate(ladder.calls[:_MOST_FACTS]):
            lines += [_leg_line(call, number, width)] if several else _call_lines(call, width)
        if len(ladder.calls) > _MOST_FACTS:
            lines.append([(f"and {len(ladder.calls) - _MOST_FACTS} more: i", Style(bold=False, underline=False))])
        heads = self._drawing(width).headings
        return [*lines, *([(" " * _MARK + text, Style(underline=False))] for text in heads)]

    def _line(self, place: int, width: int) -> Line:
        step = self._steps[place]
        before, drawn, after = self._drawing(width).line(step)
        mark = "* " if place == self._marked else "  "
        return [(mark, BOLD), (before, PLAIN), (drawn, self._style(step)), (after, PLAIN)]

    def _style(self, step: Step) -> Style:
        arrows = self.board.looks.arrows
        if arrows == "kind":
            return MARKS[step.mark]
        if arrows == "leg":
            return PARTIES[step.call % len(PARTIES)]
        if arrows == "transaction":
            message = step.arrow.message
            return PARTIES[hash((message.cseq or 0, step.call)) % len(PARTIES)]
        return PLAIN

    def _preview_lines(self, width: int) -> Sequence[Line]:
        if not self._steps:
            return ()
        step = self._steps[min(self.sheet.cursor, len(self._steps) - 1)]
        key = (id(step.arrow), width, self._preview.size.height)
        if self._previewed[0] != key:
            room = max(10, width - 2)
            lines = [part for line in highlighted(step) for part in wrapped_line(line, room)]
            below = [[("", PLAIN)]] * (self._preview.size.height - len(lines))
            self._previewed = key, [[("│ ", DIM), *line] for line in [*lines, *below]]
        return self._previewed[1]


def _described(step: Step) -> Step:
    sdp = step.arrow.message.sdp
    if sdp is None:
        return step
    media = " ".join([*sdp.codecs[:3], *sdp.addresses[:2]])
    return attrs.evolve(step, label=f"{step.label} {media}", sdp=False) if media else step


_HEAD = Style(bold=False, underline=False)


def _leg_line(call: Summary, number: int, width: int) -> Line:
    """Return one line of a call, which stands above a ladder of several."""
    letter = f"{leg_letter(number)} "
    state, users, began = _told(call)
    rest = fitted(f"  {users}  {began}  {printable(call.call_id)}", max(0, width - cells(letter + state)))
    return [(letter, _HEAD + BOLD), (state, _HEAD + MARKS[mark_of(call.state)] + BOLD), (rest, _HEAD)]


def _call_lines(call: Summary, width: int) -> list[Line]:
    """Return two lines of a call: what became of it, and what else tells."""
    state, users, began = _told(call)
    timings = (("PDD", call.post_dial_delay), ("setup", call.setup_time), ("lasted", call.duration))
    more = [f"{name} {seconds(value)}" for name, value in timings if value is not None]
    more += [f"ended by the {call.ended_by}"] if call.ended_by else []
    more += [*call.codecs, *call.release, *call.gaps]
    first = fitted(f"  {users}  {began}", max(0, width - cells(state)))
    second = fitted(printable("  ".join(more)), width)
    lines: list[Line] = [[(state, _HEAD + MARKS[mark_of(call.state)] + BOLD), (first, _HEAD)]]
    return [*lines, [(second, _HEAD)]] if second else lines


def _told(call: Summary) -> tuple[str, str, str]:
    """Return what became of a call, between whom, and when it began."""
    answer = " ".join(str(one) for one in (call.status, call.reason) if one)
    state = f"{call.state}, {answer}" if answer else call.state
    users = f"{call.from_user or call.from_uri or '?'} → {call.to_user or call.to_uri or '?'}"
    return printable(state), printable(users), local_time(call.began).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _facts(ladder: Ladder) -> list[Line]:
    lines: list[Line] = []
    for number, call in enumerate(ladder.calls):
        if len(ladder.calls) > 1:
            lines.append([(f"Leg {leg_letter(number)}", BOLD)])
        lines += [[(f"{name + ':':<17}", NAME), (value, PLAIN)] for name, value in facts(call)]
        lines.append([("", PLAIN)])
    return [*lines, *([(f"Note: {printable(note)}", PLAIN)] for note in ladder.notes)]

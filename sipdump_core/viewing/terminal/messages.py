"""One message, and two beside each other."""

from collections.abc import Sequence

from rich.style import Style

from sipdump_core.calls.ladder import Ladder, Step
from sipdump_core.reading.render.plain import fitted, printable
from sipdump_core.reading.render.text import label_of
from sipdump_core.viewing.terminal.board import Board
from sipdump_core.viewing.terminal.choices import HelpView, TextView
from sipdump_core.viewing.terminal.colours import BOLD, DIM, MARKS, PLAIN, TITLE
from sipdump_core.viewing.terminal.sheet import Line
from sipdump_core.viewing.terminal.texts import compared, highlighted, raw, seen_lines, side_by_side, wrapped_line
from sipdump_core.viewing.terminal.view import Key, View

__all__ = ["DiffView", "MessageView", "message_lines"]

_WIDE = 120
"""From so many columns on, two messages stand side by side."""


class MessageView(View):
    """One message of a ladder.

    Args:
        board: what is known.
        ladder: the ladder.
        place: the message's place among its steps.
    """

    name_of_view = "Message"
    keys = (
        Key(("f1", "?", "h"), "Help", "this help", "help"),
        Key(("escape", "q"), "Back", "go back to the ladder", "back"),
        Key(("left", "p"), "Previous", "the message before", "previous"),
        Key(("right", "n", " "), "Next", "the next message", "next"),
        Key(("e",), "", "the next error: an answer of 400 and more", "next_error"),
        Key(("r", "f6"), "Raw", "as it was on the wire, line ends included; and back", "raw"),
        Key(("d",), "Diff", "compare it with the message before, or with the marked one", "diff"),
    )

    def __init__(self, board: Board, ladder: Ladder, place: int, marked: int | None = None) -> None:
        super().__init__(board, cursor=False)
        self._ladder = ladder
        self._place = place
        self._marked = marked
        self._is_raw = False
        self._made: tuple[object, Sequence[Line]] = (None, ())
        self.sheet.heads = lambda _width: seen_lines(ladder, self._step)[:1]
        self.sheet.count = lambda: len(self._lines(self.sheet.size.width))
        self.sheet.line = lambda place, width: self._lines(width)[place]

    @property
    def _step(self) -> Step:
        return self._ladder.steps[self._place]

    def title_line(self, width: int) -> Line:
        """Return the call that the message belongs to."""
        call_id = printable(self._ladder.calls[self._step.call].call_id)
        return [(fitted(f" Message {self._step.number} of {len(self._ladder.steps)}  {call_id}", width), TITLE)]

    def status_line(self, width: int) -> Line:
        """Return how long it is."""
        message = self._step.arrow.message
        size = f" {len(message.buf)} bytes, {len(message.buf) - message.head_end} of them in the body"
        return [(fitted(size + (", raw" if self._is_raw else ""), width), DIM)]

    def do_help(self) -> None:
        """Show the keys."""
        self.app.push_screen(HelpView(self.board, type(self)))

    def do_back(self) -> None:
        """Go back."""
        self.leave()

    def do_previous(self) -> None:
        """Show the message before."""
        self._show(self._place - 1)

    def do_next(self) -> None:
        """Show the next message."""
        self._show(self._place + 1)

    def do_next_error(self) -> None:
        """Show the next answer that is an error."""
        steps = self._ladder.steps
        places = [*range(self._place + 1, len(steps)), *range(self._place + 1)]
        found = next((place for place in places if steps[place].mark == "failure"), None)
        if found is None:
            self.tell("there is no error")
        else:
            self._show(found)

    def do_raw(self) -> None:
        """Show it raw, or not."""
        self._is_raw = not self._is_raw
        self.sheet.move_to(0)

    def do_diff(self) -> None:
        """Compare it with another one."""
        other = self._place - 1 if self._marked in (None, self._place) else self._marked
        if other is None or other < 0:
            self.tell("there is no message before the first one")
            return
        self.app.push_screen(DiffView(self.board, self._ladder, other, self._place))

    def _show(self, place: int) -> None:
        self._place = min(max(0, place), len(self._ladder.steps) - 1)
        self.sheet.move_to(0)

    def _lines(self, width: int) -> Sequence[Line]:
        key = (self._place, self._is_raw, width)
        if self._made[0] != key:
            step = self._step
            text = raw(step.arrow.message) if self._is_raw else highlighted(step)
            lines = [*seen_lines(self._ladder, step)[1:], [("", PLAIN)], *text]
            self._made = key, [part for line in lines for part in wrapped_line(line, max(10, width))]
        return self._made[1]


class DiffView(TextView):
    """Two messages of a ladder.

    Args:
        board: what is known.
        ladder: the ladder.
        one: a message's place among its steps.
        other: another one's.
    """

    keys = (
        Key(("escape", "q"), "Back", "go back", "back"),
        Key(("u",), "Side by side or one below the other", "side by side, or one below the other", "unify"),
    )

    def __init__(self, board: Board, ladder: Ladder, one: int, other: int) -> None:
        self._steps = [ladder.steps[min(one, other)], ladder.steps[max(one, other)]]
        self._beside: bool | None = None
        names = " and ".join(f"{step.number}. {label_of(step)}" for step in self._steps)
        super().__init__(board, f"Differences of {names}", self._compared)

    def do_unify(self) -> None:
        """Show them one below the other, or side by side."""
        self._beside = not self._is_beside(self.sheet.size.width)
        self._made = (0, ())

    def _is_beside(self, width: int) -> bool:
        return width >= _WIDE if self._beside is None else self._beside

    def _compared(self, width: int) -> Sequence[Line]:
        first, second = self._steps
        one, other = first.arrow.message, second.arrow.message
        if one.buf == other.buf:
            return [[("the two messages are the same, byte for byte", BOLD)]]
        if self._is_beside(width):
            return side_by_side(one, other, width)
        heads: list[Line] = [
            [(f"- {first.number}. {label_of(first)}", MARKS["failure"] + BOLD)],
            [(f"+ {second.number}. {label_of(second)}", MARKS["success"] + BOLD)],
            [("", PLAIN)],
        ]
        return [*heads, *compared(one, other)]


def message_lines(ladder: Ladder, places: Sequence[int]) -> list[Line]:
    """Return messages one below the other, each under its title."""
    lines: list[Line] = []
    for place in places:
        step = ladder.steps[place]
        lines += [*seen_lines(ladder, step), *highlighted(step), [("", Style())]]
    return lines

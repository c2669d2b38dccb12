"""Views to choose in: the help, the columns, the settings, and a text to read."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from sipdump_core.reading.render.plain import cells, fitted
from sipdump_core.viewing.listing import COLUMNS, Column
from sipdump_core.viewing.terminal.board import Board
from sipdump_core.viewing.terminal.colours import BOLD, PLAIN
from sipdump_core.viewing.terminal.sheet import Line
from sipdump_core.viewing.terminal.texts import wrapped_line
from sipdump_core.viewing.terminal.view import Key, View, documented

__all__ = ["ColumnsView", "HelpView", "SettingsView", "TextView", "following"]

_BACK = Key(("escape", "q"), "Back", "go back", "back")
_KEYS_WIDTH = 28


class TextView(View):
    """A text to read.

    Args:
        board: what is known.
        name: what it is.
        lines: returns its lines for a width.
    """

    keys: Sequence[Key] = (_BACK,)

    def __init__(self, board: Board, name: str, lines: Callable[[int], Sequence[Line]]) -> None:
        super().__init__(board, cursor=False)
        self.name_of_view = name
        self._lines = lines
        self._made: tuple[int, Sequence[Line]] = (0, ())
        self.sheet.count = lambda: len(self._all(self.sheet.size.width))
        self.sheet.line = lambda place, width: self._all(width)[place]

    def do_back(self) -> None:
        """Go back."""
        self.leave()

    def _all(self, width: int) -> Sequence[Line]:
        if self._made[0] != width:
            self._made = width, [part for line in self._lines(width) for part in wrapped_line(line, max(10, width))]
        return self._made[1]


class HelpView(TextView):
    """The keys of a view.

    Args:
        board: what is known.
        view: the view.
        more: lines below the keys.
    """

    def __init__(self, board: Board, view: type[View], more: Sequence[Line] = ()) -> None:
        keys = documented(view)

        def lines(width: int) -> Sequence[Line]:
            return [*(line for key in keys for line in _help_lines(*key, width)), [("", PLAIN)], *more]

        super().__init__(board, "Keys", lines)


def _help_lines(keys: str, text: str, width: int) -> Iterator[Line]:
    named = f"  {keys}"
    for part in textwrap.wrap(text, max(20, width - _KEYS_WIDTH)):
        yield [(named + " " * max(1, _KEYS_WIDTH - cells(named)), BOLD), (part, PLAIN)]
        named = ""


class ColumnsView(View):
    """Which columns the list has, and in which order.

    Args:
        board: what is known.
    """

    name_of_view = "Columns"
    keys = (
        Key(("enter",), "Use them", "use these columns", "use"),
        Key((" ",), "Show or hide", "show or hide the column", "toggle"),
        Key(("-",), "Up", "move the column up: further left", "up"),
        Key(("+",), "Down", "move the column down: further right", "down"),
        _BACK,
    )

    def __init__(self, board: Board) -> None:
        super().__init__(board, cursor=True)
        chosen = list(board.looks.columns)
        self._order: list[Column] = [*chosen, *(each for each in COLUMNS if each not in chosen)]
        self._chosen = set(chosen)
        self.sheet.count = lambda: len(self._order)
        self.sheet.line = self._line

    def _line(self, place: int, width: int) -> Line:
        column = self._order[place]
        mark = "[x]" if column in self._chosen else "[ ]"
        return [(fitted(f" {mark} {column.title:<14} {column.name}", width), PLAIN)]

    def do_toggle(self) -> None:
        """Show or hide a column."""
        self._chosen ^= {self._order[self.sheet.cursor]}
        self.sheet.move(1)

    def do_up(self) -> None:
        """Move it to the left."""
        self._swap(-1)

    def do_down(self) -> None:
        """Move it to the right."""
        self._swap(1)

    def do_use(self) -> None:
        """Use them."""
        chosen = [column for column in self._order if column in self._chosen]
        if not chosen:
            self.tell("choose at least one column", error=True)
            return
        self.board.looks.columns = chosen
        self.leave()

    def do_back(self) -> None:
        """Go back, and leave the columns as they are."""
        self.leave()

    def _swap(self, step: int) -> None:
        here, there = self.sheet.cursor, self.sheet.cursor + step
        if 0 <= there < len(self._order):
            self._order[here], self._order[there] = self._order[there], self._order[here]
            self.sheet.move(step)


_COLOURS = {"state": "the state", "line": "the whole line", "none": "nothing"}
_ARROWS = {"kind": "request or answer", "leg": "leg", "transaction": "transaction", "none": "nothing"}
_CLOCKS = {"since": "seconds since the first message", "delta": "seconds since the one before", "time": "time of day"}
_YES = {True: "yes", False: "no"}


class SettingsView(View):
    """How things are shown.

    Args:
        board: what is known.
    """

    name_of_view = "Settings"
    keys = (Key((" ", "enter"), "Change", "take the next choice", "change"), _BACK)

    def __init__(self, board: Board) -> None:
        super().__init__(board, cursor=True)
        self.sheet.count = lambda: len(self._settings())
        self.sheet.line = self._line

    def _settings(self) -> list[tuple[str, str]]:
        looks, rows = self.board.looks, self.board.rows
        return [
            ("The list begins with", "the largest, or newest" if rows.downwards else "the smallest, or oldest"),
            ("The cursor stays with the newest call", _YES[looks.follows]),
            ("Calls only, no registrations and the like", _YES[looks.calls_only]),
            ("The list colours", _COLOURS[looks.colours]),
            ("A ladder is coloured by", _ARROWS[looks.arrows]),
            ("A ladder's times", _CLOCKS[looks.clock]),
            ("A message beside the ladder, from 120 columns on", _YES[looks.preview]),
        ]

    def _line(self, place: int, width: int) -> Line:
        name, value = self._settings()[place]
        return [(f" {name:<50}", PLAIN), (fitted(value, max(1, width - 51)), BOLD)]

    def do_change(self) -> None:
        """Take the next choice."""
        board, looks = self.board, self.board.looks
        changes: Sequence[Callable[[], None]] = (
            lambda: board.rows.sort(board.rows.by, downwards=not board.rows.downwards),
            lambda: setattr(looks, "follows", not looks.follows),
            self._change_calls_only,
            lambda: setattr(looks, "colours", following(looks.colours, tuple(_COLOURS))),
            lambda: setattr(looks, "arrows", following(looks.arrows, tuple(_ARROWS))),
            lambda: setattr(looks, "clock", following(looks.clock, tuple(_CLOCKS))),
            lambda: setattr(looks, "preview", not looks.preview),
        )
        changes[self.sheet.cursor]()

    def do_back(self) -> None:
        """Go back."""
        self.leave()

    def _change_calls_only(self) -> None:
        self.board.looks.calls_only = not self.board.looks.calls_only
        self.board.narrow(self.board.text)


def following(value: str, choices: Sequence[str]) -> str:
    """Return the choice that follows another one, in a circle."""
    return choices[(choices.index(value) + 1) % len(choices)]

"""The sheet: the one widget that all views are made of. It draws the lines that are on the screen, and no others."""

from collections.abc import Callable, Iterable, Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from sipdump_core.reading.render.plain import printable
from sipdump_core.viewing.terminal.colours import CURSOR, HEAD, PLAIN

__all__ = ["Bar", "Line", "Sheet"]

Line = Sequence[tuple[str, Style]]
"""Printable texts, each with its style."""

_WHEEL = 3
"""Lines that a turn of a mouse's wheel scrolls."""
_SIDEWAYS = 8


class Sheet(Widget, can_focus=True):
    """Lines below heads that stay; with a cursor, or to be scrolled.

    What it shows is asked for line by line, with the width of the screen.

    Args:
        cursor: whether one line is marked.
    """

    DEFAULT_CSS = "Sheet { height: 1fr; width: 1fr; }"

    class Chosen(Message):
        """Enter was pressed, or a line was clicked that had the cursor already."""

        def __init__(self, sheet: "Sheet") -> None:
            super().__init__()
            self.sheet = sheet

    class Moved(Message):
        """The cursor is on another line."""

        def __init__(self, sheet: "Sheet") -> None:
            super().__init__()
            self.sheet = sheet

    class HeadClicked(Message):
        """A head was clicked."""

        def __init__(self, sheet: "Sheet", column: int) -> None:
            super().__init__()
            self.sheet = sheet
            self.column = column

    def __init__(self, *, cursor: bool, id: str | None = None) -> None:
        super().__init__(id=id)
        self.has_cursor = cursor
        self.cursor = 0
        self.top = 0
        self.left = 0
        self.heads: Callable[[int], Sequence[Line]] = lambda _width: ()
        self.count: Callable[[], int] = lambda: 0
        self.line: Callable[[int, int], Line] = lambda _place, _width: ()
        self.wide: Callable[[int], int] = lambda width: width
        """Returns how wide the lines are, on a screen of some width."""

    @property
    def room(self) -> int:
        """How many lines fit below the heads."""
        return max(1, self.size.height - len(self.heads(self.size.width)))

    def move_to(self, place: int) -> None:
        """Move the cursor, or what is at the top, to a line."""
        last = max(0, self.count() - 1)
        before = self.cursor
        if self.has_cursor:
            self.cursor = min(max(0, place), last)
            self.top = min(max(self.top, self.cursor - self.room + 1), self.cursor)
        else:
            self.top = place
        self.top = min(max(0, self.top), max(0, self.count() - self.room))
        self.refresh()
        if self.has_cursor and self.cursor != before:
            self.post_message(self.Moved(self))

    def move(self, lines: int) -> None:
        """Move by some lines."""
        self.move_to((self.cursor if self.has_cursor else self.top) + lines)

    def shift(self, columns: int) -> None:
        """Move sideways, as far as the lines are wider than the screen."""
        width = self.size.width
        self.left = min(max(0, self.left + columns), max(0, self.wide(width) - width))
        self.refresh()

    def handle(self, key: str) -> bool:
        """Do what a key says that moves about; return whether it was one."""
        page = max(1, self.room - 1)
        half = max(1, self.room // 2)
        moves = {
            "up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page, "ctrl+b": -page, "pagedown": page, "ctrl+f": page,
            "ctrl+u": -half, "ctrl+d": half,
        }  # fmt: skip
        if key in moves:
            self.move(moves[key])
        elif key in ("home", "ctrl+a"):
            self.move_to(0)
        elif key in ("end", "ctrl+e"):
            self.move_to(self.count() - 1)
        elif key == "left":
            self.shift(-_SIDEWAYS)
        elif key == "right":
            self.shift(_SIDEWAYS)
        elif key == "enter":
            self.post_message(self.Chosen(self))
        else:
            return False
        return True

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen."""
        width = self.size.width
        heads = self.heads(width)
        if y < len(heads):
            return self._strip([(text, HEAD + style) for text, style in heads[y]], HEAD)
        place = self.top + y - len(heads)
        if place >= self.count():
            return Strip.blank(width, PLAIN)
        line = self.line(place, width)
        if self.has_cursor and place == self.cursor:
            return self._strip([(text, style + CURSOR) for text, style in line], CURSOR)
        return self._strip(line, PLAIN)

    def on_resize(self) -> None:
        """Keep the cursor on the screen."""
        self.shift(0)
        self.move(0)

    def on_click(self, event: events.Click) -> None:
        """Move the cursor there; on a line that has it, choose it."""
        heads = len(self.heads(self.size.width))
        if event.y < heads:
            self.post_message(self.HeadClicked(self, event.x + self.left))
            return
        place = self.top + event.y - heads
        if not self.has_cursor or place >= self.count():
            return
        if place == self.cursor:
            self.post_message(self.Chosen(self))
        else:
            self.move_to(place)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll."""
        event.stop()
        self.move(_WHEEL)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll."""
        event.stop()
        self.move(-_WHEEL)

    def _strip(self, line: Line, filling: Style) -> Strip:
        width = self.size.width
        strip = _strip_of(line)
        if self.left:
            strip = strip.crop(self.left, self.left + width)
        return strip.adjust_cell_length(width, filling)


def _strip_of(line: Line) -> Strip:
    """Return a line as it is drawn: whatever it has, no control character reaches the terminal."""
    return Strip([Segment(text if text.isprintable() else printable(text), style) for text, style in line])


class Bar(Widget):
    """One line, as a title or a list of keys.

    Args:
        line: returns it, given the width of the screen.
        keys: a click on its parts presses these keys; a part is a text with its style.
    """

    DEFAULT_CSS = "Bar { height: 1; width: 1fr; }"

    def __init__(
        self, line: Callable[[int], Line], keys: Callable[[], Iterable[tuple[str, str]]] | None = None
    ) -> None:
        super().__init__()
        self._line = line
        self._keys = keys

    def render_line(self, y: int) -> Strip:  # noqa: ARG002 - there is one line
        """Draw it."""
        line = self._line(self.size.width)
        filling = line[-1][1] if line else PLAIN
        return _strip_of(line).adjust_cell_length(self.size.width, filling)

    async def on_click(self, event: events.Click) -> None:
        """Press the key that was clicked."""
        x = 0
        for key, label in self._keys() if self._keys else ():
            x += len(label)
            if event.x < x:
                await self.app.run_action(f"press({key!r})")
                return

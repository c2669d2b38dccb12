"""What all views of the terminal have in common: a title, a sheet, a prompt, a line of news, and keys."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from sipdump_core.reading.render.plain import cells, fitted, printable
from sipdump_core.viewing.terminal.board import Board
from sipdump_core.viewing.terminal.colours import BOLD, ERROR, LABEL, PLAIN, TITLE
from sipdump_core.viewing.terminal.sheet import Bar, Line, Sheet

__all__ = ["MOVING", "Key", "View", "name_of"]


@attrs.frozen
class Key:
    """What keys do in a view."""

    names: Sequence[str]
    """The keys, the one that is shown first."""
    label: str
    """In the line of keys; empty: it is not there."""
    help: str
    action: str
    """The method that is called, without ``do_``."""


MOVING = (
    (("Up", "Down", "k", "j"), "move by a line"),
    (("PgUp", "PgDn", "Ctrl-B", "Ctrl-F"), "move by a page; Ctrl-U and Ctrl-D by half of one"),
    (("Home", "End"), "go to the first, to the last line"),
    (("Left", "Right"), "move sideways, where lines are wider than the terminal"),
)
"""Keys of every sheet, for the help."""


class View(Screen[None]):
    """One view.

    Subclasses have ``keys``, a method ``do_ACTION`` for each of their actions, and fill :attr:`sheet`.
    """

    CSS = """
    View { background: ansi_default; color: ansi_default; layout: vertical; }
    #prompt { height: 1; display: none; }
    #prompt.open { display: block; }
    #prompt Bar { width: auto; }
    #answer, #answer:focus { height: 1; width: 1fr; border: none; padding: 0; background: ansi_default; }
    #body { height: 1fr; }
    """
    keys: Sequence[Key] = ()
    name_of_view = ""

    def __init__(self, board: Board, *, cursor: bool) -> None:
        super().__init__()
        self.board = board
        self.sheet = Sheet(cursor=cursor, id="sheet")
        self._news: tuple[str, bool] = ("", False)
        self._label = ""
        self._answered: Callable[[str], None] | None = None
        self._confirmed: Callable[[], None] | None = None

    # what subclasses say

    def title_line(self, width: int) -> Line:
        """Return the line at the top."""
        return [(fitted(f" {self.name_of_view}", width), TITLE)]

    def status_line(self, width: int) -> Line:  # noqa: ARG002 - subclasses need it
        """Return the line above the keys."""
        return []

    def side(self) -> Iterable[Widget]:
        """Return what stands beside the sheet."""
        return ()

    def above(self) -> Iterable[Widget]:
        """Return what stands between the title and the sheet."""
        return ()

    # what they use

    def tell(self, text: str, *, error: bool = False) -> None:
        """Show a piece of news in place of the status, until the next key."""
        self._news = (printable(text), error)
        self.redraw()

    def ask(self, label: str, value: str, answered: Callable[[str], None]) -> None:
        """Ask for a line; Esc asks no more."""
        self._label, self._answered = label, answered
        answer = self.query_one("#answer", Input)
        answer.value = value
        answer.cursor_position = len(value)
        label_bar = self.query_one("#prompt Bar")
        label_bar.styles.width = cells(label) + 1
        label_bar.refresh()
        self.query_one("#prompt").add_class("open")
        answer.focus()

    def confirm(self, question: str, confirmed: Callable[[], None]) -> None:
        """Ask a question that y answers; any other key is a no."""
        self.tell(f"{question} (y/n)")
        self._confirmed = confirmed

    def leave(self) -> None:
        """Go back to the view before."""
        if self.app.screen is self:
            self.app.pop_screen()

    def redraw(self) -> None:
        """Draw everything again that may have changed."""
        for widget in self.query("Sheet, Bar"):
            widget.refresh()

    def press(self, name: str) -> bool:
        """Do what a key says; return whether it says anything here."""
        if self._confirmed:
            confirmed, self._confirmed = self._confirmed, None
            self.tell("")
            if name in ("y", "Y"):
                confirmed()
            return True
        self._news = ("", False)
        for key in self.keys:
            if name in key.names:
                getattr(self, f"do_{key.action}")()
                self.redraw()
                return True
        handled = self.sheet.handle(name)
        self.redraw()
        return handled

    # what textual calls

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Bar(self.title_line)
        yield from self.above()
        with Horizontal(id="body"):
            yield self.sheet
            yield from self.side()
        with Horizontal(id="prompt"):
            yield Bar(lambda _width: [(f"{self._label} ", BOLD)])
            yield Input(id="answer", compact=True, select_on_focus=False)
        yield Bar(self._status)
        yield Bar(self._key_line, self._key_parts)

    def on_mount(self) -> None:
        """Give the keys to the sheet."""
        self.sheet.focus()

    async def on_key(self, event: events.Key) -> None:
        """Do what the key says.

        It may have been on its way here before the prompt, or another view, had the keys; then it is meant for that.
        """
        top = self.app.screen
        if self._answered is not None:
            handled = self._press_in_prompt(event)
        else:
            handled = isinstance(top, View) and top.press(name_of(event))
        if handled:
            event.stop()
            event.prevent_default()

    def _press_in_prompt(self, event: events.Key) -> bool:
        answer = self.query_one("#answer", Input)
        if event.key == "escape":
            self._close_prompt()
        elif event.key == "enter":
            self._answer(answer.value)
        elif event.is_printable and event.character:
            answer.insert_text_at_cursor(event.character)
        else:
            return False  # the prompt's own, as Home and Ctrl-U
        return True

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Pass the answer on."""
        self._answer(event.value)

    def _answer(self, value: str) -> None:
        answered = self._answered
        self._close_prompt()
        if answered:
            answered(value)
        self.redraw()

    def _close_prompt(self) -> None:
        self._answered = None
        self.query_one("#prompt").remove_class("open")
        self.sheet.focus()
        self.redraw()

    def _status(self, width: int) -> Line:
        text, error = self._news
        if text:
            return [(fitted(f" {text}", width), ERROR if error else BOLD)]
        return self.status_line(width)

    def _key_parts(self) -> list[tuple[str, str]]:
        return [(key.names[0], f"{_shown(key.names[0])} {key.label}  ") for key in self.keys if key.label]

    def _key_line(self, width: int) -> Line:
        line: list[tuple[str, Any]] = []
        used = 0
        for name, part in self._key_parts():
            used += cells(part)
            if used - 2 > width:
                break
            shown = _shown(name)
            line += [(shown, LABEL), (part[len(shown) :], PLAIN)]
        return line


def name_of(event: events.Key) -> str:
    """Return what a key is called in ``Key.names``: the character that it types, else its name."""
    character = event.character
    if character is not None and character.isprintable() and len(character) == 1:
        return character
    return event.key


def _shown(name: str) -> str:
    """Return how a key is called for people."""
    special = {"enter": "Enter", "escape": "Esc", " ": "Space", "tab": "Tab", "left": "Left", "right": "Right"}
    if name in special:
        return special[name]
    if name.startswith("ctrl+"):
        return f"Ctrl-{name[5:].upper()}"
    return name.upper() if name[0] == "f" and name[1:].isdigit() else name


def shown_keys(key: Key) -> str:
    """Return the keys that do one thing, for the help."""
    return ", ".join(_shown(name) for name in key.names)


def documented(view: type[View]) -> list[tuple[str, str]]:
    """Return the keys of a view, and what they do."""
    found = [(shown_keys(key), key.help) for key in view.keys]
    for key in view.keys:
        if not inspect.isfunction(getattr(view, f"do_{key.action}", None)):
            raise TypeError(f"{view.__name__} has no do_{key.action}")
    return [*found, *((", ".join(names), text) for names, text in MOVING)]

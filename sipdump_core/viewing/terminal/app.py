"""The application: views over a board, drawn by textual with the terminal's own 16 colours."""

import asyncio
import contextlib
import signal
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from sipdump_core.viewing.terminal.board import Board
from sipdump_core.viewing.terminal.ladders import LadderView
from sipdump_core.viewing.terminal.lists import ListView
from sipdump_core.viewing.terminal.view import View

__all__ = ["Terminal"]

_TICK = 0.05
"""Seconds between two looks at what came."""
_DRAWN = 4
"""Looks between two drawings of the list."""


class Terminal(App[None]):
    """The application.

    Args:
        board: what is known; the first search is made as soon as there is a frame.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+z", "suspend_process", show=False, priority=True)]
    INLINE_PADDING: ClassVar[int] = 0

    def __init__(self, board: Board) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.board = board
        self._ticks = 0
        self._stale = False

    def on_mount(self) -> None:
        """Show the list."""
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: somebody else takes signals
            for number in (signal.SIGTERM, signal.SIGHUP):  # the terminal is left as it was
                asyncio.get_running_loop().add_signal_handler(number, self.exit)
        self.push_screen(ListView(self.board))
        self.set_interval(_TICK, self._tick)

    def action_help_quit(self) -> None:
        """Quit at Ctrl-C."""
        self.exit()

    def action_press(self, name: str) -> None:
        """Press a key, for a click on the line of keys."""
        if isinstance(self.screen, View):
            self.screen.press(name)

    def _tick(self) -> None:
        """Take what came, and draw it now and then."""
        board = self.board
        if not self.screen_stack:  # it is about to end
            return
        self._ticks += 1
        empty = not len(board.rows)
        self._stale |= board.drain()
        if board.broken and board.broken.wrong:
            self.exit(return_code=2)
            return
        screen = self.screen
        if isinstance(screen, LadderView):
            screen.tick()
        elif isinstance(screen, ListView) and self._stale and (self._ticks % _DRAWN == 0 or empty):
            self._stale = False
            screen.tick()

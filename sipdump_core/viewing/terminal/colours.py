"""Colours: the 16 that every terminal has, on its own background, so that dark and light ones look right.

Nothing is said by colour alone: each state stands there in words, and marks are signs.
"""

from rich.style import Style

__all__ = ["BOLD", "CURSOR", "DIM", "ERROR", "HEAD", "KEY", "LABEL", "MARKS", "NAME", "PARTIES", "PLAIN", "TITLE"]

PLAIN = Style()
BOLD = Style(bold=True)
DIM = Style(dim=True)
HEAD = Style(bold=True, underline=True)
TITLE = Style(reverse=True, bold=True)
CURSOR = Style(reverse=True)
KEY = Style(bold=True)
LABEL = Style(reverse=True)
ERROR = Style(color="red", bold=True)
NAME = Style(color="cyan")

MARKS = {
    "request": Style(color="cyan"),
    "provisional": Style(color="yellow"),
    "success": Style(color="green"),
    "redirect": Style(color="magenta"),
    "failure": Style(color="red"),
    "other": PLAIN,
}
"""By the mark of a step or a state, as in ``sipdump-read show``."""

PARTIES = (
    Style(color="cyan"),
    Style(color="yellow"),
    Style(color="magenta"),
    Style(color="green"),
    Style(color="blue"),
    Style(color="red"),
)
"""For legs, or transactions: one after the other."""

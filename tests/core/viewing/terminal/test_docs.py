"""docs/terminal.md has every key."""

from pathlib import Path

import pytest

from sipdump_core.viewing.terminal.ladders import LadderView
from sipdump_core.viewing.terminal.lists import ListView
from sipdump_core.viewing.terminal.messages import DiffView, MessageView
from sipdump_core.viewing.terminal.view import View, documented, shown_keys

DOCUMENT = (Path(__file__).parents[4] / "docs" / "terminal.md").read_text()


@pytest.mark.parametrize(
    ("heading", "view"),
    [("The list", ListView), ("The ladder", LadderView), ("A message", MessageView), ("Two messages", DiffView)],
)
def test_every_key_is_documented(heading: str, view: type[View]) -> None:
    section = DOCUMENT.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    assert lines == [
        f"| {', '.join(f'`{name}`' for name in shown_keys(key).split(', '))} | {key.help} |" for key in view.keys
    ]
    assert documented(view)


@pytest.mark.parametrize("view", [ListView, LadderView, MessageView, DiffView])
def test_no_key_does_two_things(view: type[View]) -> None:
    names = [name for key in view.keys for name in key.names]
    assert len(names) == len(set(names))

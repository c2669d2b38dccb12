"""A ladder for documents: Mermaid's sequence diagrams, and Markdown with the ladder in a block of code."""

import re

from sipdump_core.calls.ladder import Ladder
from sipdump_core.reading.render.plain import facts, message_text, printable
from sipdump_core.reading.render.style import Style
from sipdump_core.reading.render.text import label_of, ladder_lines

__all__ = ["render_markdown", "render_mermaid"]

_SPECIAL = re.compile(r"[^\w .:/,()\[\]\u00d7@+-]")
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$-])")
_TICKS = re.compile(r"`+")


def render_mermaid(ladder: Ladder, _: Style) -> str:
    """Return a sequence diagram in Mermaid's language."""
    lines = ["sequenceDiagram"]
    lines += [f"    participant p{number} as {_code(column.name)}" for number, column in enumerate(ladder.columns)]
    for step in ladder.steps:
        arrow = "->>" if step.arrow.message.status is None else "-->>"
        text = f"{step.since_us / 1_000_000:.3f} {label_of(step)}"
        lines.append(f"    p{step.source}{arrow}p{step.target}: {_code(text)}")
    if ladder.columns and ladder.notes:
        over = f"p0,p{len(ladder.columns) - 1}" if len(ladder.columns) > 1 else "p0"
        lines += [f"    Note over {over}: {_code(note)}" for note in ladder.notes]
    return "\n".join(lines) + "\n"


def render_markdown(ladder: Ladder, style: Style) -> str:
    """Return what happened as a table, and the ladder and the messages as blocks of code."""
    lines: list[str] = []
    for summary in ladder.calls:
        rows = facts(summary)
        lines += [f"## {_escaped(rows[0][1])}", "", "| | |", "|-|-|"]
        lines += [f"| {name} | {_escaped(value)} |" for name, value in rows[1:]]
        lines.append("")
    lines += [f"- {_escaped(printable(note))}" for note in ladder.notes]
    lines += [""] * bool(ladder.notes)
    lines += _block("\n".join(ladder_lines(ladder, Style(width=style.width))))
    if style.messages:
        for step in ladder.steps:
            message = step.arrow.message
            end = message.head_end if style.messages == "headers" else None
            text = message_text(message.buf, headers_only=end)
            lines += ["", f"### {step.number}. {_escaped(label_of(step))}", "", *_block(text)]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Return text that Mermaid takes literally: special characters become its entity codes."""
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", printable(text))


def _escaped(text: str) -> str:
    return _MARKS.sub(r"\\\1", text)


def _block(text: str) -> list[str]:
    """Return a block of code, fenced by more backticks than it contains."""
    fence = "`" * max(3, max((len(run) for run in _TICKS.findall(text)), default=0) + 1)
    return [f"{fence}text", text, fence]

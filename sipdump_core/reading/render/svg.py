"""A ladder as SVG: one file, for dark and light screens and for paper, without scripts and without the network."""

import re
from html import escape

from sipdump_core.calls.ladder import Column, Ladder, Step
from sipdump_core.reading.render.plain import fitted, leg_letter, message_text, printable, wrapped
from sipdump_core.reading.render.style import Style
from sipdump_core.reading.render.text import label_of

__all__ = ["COLOURS", "figure", "render_svg", "xml_text"]

COLOURS = """
:root { --paper: #fff; --ink: #1b1f24; --dim: #5f6873; --rule: #c9d0d8; --panel: #f4f6f8; --request: #0757a8;
  --provisional: #8a5a00; --success: #12702b; --redirect: #7a3ba8; --failure: #b3182a; --other: #5f6873; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e4e8ec; --dim: #98a2ad; --rule: #3c4651;
  --panel: #1d232a; --request: #6cb0f5; --provisional: #e0b04a; --success: #63c97d; --redirect: #c493ee;
  --failure: #ff7a80; --other: #98a2ad; } }
@media print { :root { --paper: #fff; --ink: #000; --dim: #444; --rule: #bbb; --panel: #fff; --request: #0757a8;
  --provisional: #8a5a00; --success: #12702b; --redirect: #7a3ba8; --failure: #b3182a; --other: #444; } }
"""
"""Custom properties that a page needs around :func:`figure`. Texts have a contrast of at least 4.5 (WCAG 1.4.3)."""

FIGURE_STYLE = """
.ladder { font: 13px system-ui, sans-serif; fill: var(--ink); }
.ladder .life { stroke: var(--rule); stroke-dasharray: 2 3; }
.ladder .head { fill: var(--panel); stroke: var(--rule); }
.ladder .name { font-weight: 600; text-anchor: middle; }
.ladder .where { fill: var(--dim); font-size: 11px; text-anchor: middle; font-weight: 400; }
.ladder .time { fill: var(--dim); font: 11px ui-monospace, monospace; text-anchor: end; }
.ladder .leg { fill: var(--dim); font-weight: 600; }
.ladder .hit { fill: transparent; }
.ladder a:hover .hit, .ladder a:focus .hit { fill: var(--panel); }
.ladder a:focus { outline: 2px solid var(--request); }
.ladder .line { fill: none; stroke: currentColor; stroke-width: 1.5; }
.ladder .reply .line { stroke-dasharray: 5 3; }
.ladder .tip { fill: currentColor; }
.ladder .label { fill: currentColor; text-anchor: middle; }
.ladder .left { text-anchor: start; }
.ladder .request { color: var(--request); } .ladder .provisional { color: var(--provisional); }
.ladder .success { color: var(--success); } .ladder .redirect { color: var(--redirect); }
.ladder .failure { color: var(--failure); } .ladder .other { color: var(--other); }
"""
_STANDALONE_STYLE = """
svg { background: var(--paper); }
.message { display: none; } .message:target { display: inline; }
.message rect { fill: var(--panel); stroke: var(--ink); }
.message text { font: 12px ui-monospace, monospace; fill: var(--ink); white-space: pre; }
.message .title, .message .close { font: 600 13px system-ui, sans-serif; }
.message .close { text-anchor: end; }
@media print { .message { display: none !important; } }
"""
_LEFT, _ROW, _TOP = 104, 36, 22
_MARGIN = 24
_CHARACTER = 7.3
"""Pixels of an average character at 13 px, for cutting labels."""
_PANEL_WIDTH = 620
_LINE = 16
_XML_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def xml_text(text: str) -> str:
    """Return text escaped for an element or attribute of XML or HTML, without what XML forbids."""
    return escape(_XML_FORBIDDEN.sub("\ufffd", text))


def render_svg(ladder: Ladder, _: Style) -> str:
    """Return a self-contained file; an arrow opens its message."""
    width, height = _size(ladder)
    panels = [_lines_of(step) for step in ladder.steps]
    width = max(width, _PANEL_WIDTH + 2 * _MARGIN)
    height = max(height, max((len(lines) for lines in panels), default=0) * _LINE + 100)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{xml_text(_title(ladder))}">',
        f"<title>{xml_text(_title(ladder))}</title>",
        f"<style>{COLOURS}{FIGURE_STYLE}{_STANDALONE_STYLE}</style>",
        _drawing(ladder),
    ]
    top = _heading_height(ladder) + _TOP
    for step, lines in zip(ladder.steps, panels, strict=True):
        parts.append(_panel(step, lines, width, height, top + _ROW * step.number + _ROW // 2))
    return "\n".join([*parts, "</svg>"]) + "\n"


def figure(ladder: Ladder) -> str:
    """Return an ``svg`` element for a page that has :data:`COLOURS` and this module's ``FIGURE_STYLE``.

    Its arrows are links to ``#m1``, ``#m2`` and so on: the page's elements with the messages.
    """
    width, height = _size(ladder)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="group" aria-label="{xml_text(_title(ladder))}">\n{_drawing(ladder)}\n</svg>'
    )


def _drawing(ladder: Ladder) -> str:
    _, height = _size(ladder)
    top = _heading_height(ladder) + _TOP
    parts = ['<g class="ladder">']
    parts += [_heading(ladder, number, top, height) for number, column in enumerate(ladder.columns)]
    parts += [_step(ladder, step, top + _ROW * step.number) for step in ladder.steps]
    return "\n".join([*parts, "</g>"])


def _heading(ladder: Ladder, number: int, top: int, height: int) -> str:
    lines = _heading_lines(ladder.columns[number])
    x, width = _x(ladder, number), _spacing(ladder) - 12
    box, left = _TOP // 2, x - width // 2
    texts = [
        f'<text class="{kind}" x="{x}" y="{box + 17 + 15 * row}">{xml_text(line)}</text>'
        for row, (kind, line) in enumerate(lines)
    ]
    return (
        f'<line class="life" x1="{x}" y1="{top}" x2="{x}" y2="{height - 8}"/>'
        f'<rect class="head" x="{left}" y="{box}" width="{width}" height="{top - box}" rx="4"/>' + "".join(texts)
    )


def _heading_lines(column: Column) -> list[tuple[str, str]]:
    named = column.name != column.address
    lines = [("name", line) for line in wrapped(printable(column.name), 24)]
    return lines + [("where", line) for line in (wrapped(column.address, 28) if named else ())]


def _heading_height(ladder: Ladder) -> int:
    return 15 * max((len(_heading_lines(column)) for column in ladder.columns), default=1)


def _step(ladder: Ladder, step: Step, y: int) -> str:
    width, _ = _size(ladder)
    kind = "" if step.arrow.message.status is None else " reply"
    since = f"{step.since_us / 1_000_000:.6f}"
    tip = f"{step.number}. {label_of(step)}, {ladder.columns[step.source].name} to {ladder.columns[step.target].name}"
    if any(step.arrow.nodes):
        tip += f", seen by {', '.join(filter(None, step.arrow.nodes))}"
    shape = _arrow(ladder, step, y) if step.source != step.target else _loop(ladder, step, y)
    tip = xml_text(printable(tip))
    leg = f'<text class="leg" x="4" y="{y + 4}">{leg_letter(step.call)}</text>' if len(ladder.calls) > 1 else ""
    return (
        f'<a href="#m{step.number}" aria-label="{tip}"><g class="{step.mark}{kind}"><title>{tip}</title>'
        f'<rect class="hit" x="0" y="{y - _ROW + 10}" width="{width}" height="{_ROW}"/>'
        f'<text class="time" x="{_LEFT - 14}" y="{y + 4}">{since}</text>{leg}{shape}</g></a>'
    )


def _arrow(ladder: Ladder, step: Step, y: int) -> str:
    start, end = _x(ladder, step.source), _x(ladder, step.target)
    way = 1 if end > start else -1
    room = int((abs(end - start) - 20) / _CHARACTER)
    label = xml_text(_cut(step, room))
    return (
        f'<path class="line" d="M{start} {y}H{end - way * 8}"/>'
        f'<path class="tip" d="M{end} {y}l{-way * 9} -5v10z"/>'
        f'<text class="label" x="{(start + end) // 2}" y="{y - 7}">{label}</text>'
    )


def _loop(ladder: Ladder, step: Step, y: int) -> str:
    x = _x(ladder, step.source)
    label = xml_text(_cut(step, int((_spacing(ladder) - 50) / _CHARACTER)))
    return (
        f'<path class="line" d="M{x} {y - 10}h22v14h-14"/><path class="tip" d="M{x} {y + 4}l9 -5v10z"/>'
        f'<text class="label left" x="{x + 28}" y="{y}">{label}</text>'
    )


def _cut(step: Step, width: int) -> str:
    label = label_of(step)
    marks = label[len(printable(step.label)) :]
    return fitted(printable(step.label), width - len(marks)) + marks


def _panel(step: Step, lines: list[str], width: int, height: int, below: int) -> str:
    """Return a step's message, below its arrow if there is room."""
    tall = len(lines) * _LINE + 44
    y = max(8, min(below, height - tall - 8))
    x = max(8, (width - _PANEL_WIDTH) // 2)
    rows = "".join(
        f'<tspan x="{x + 12}" y="{y + 44 + _LINE * number}">{xml_text(line) or " "}</tspan>'
        for number, line in enumerate(lines)
    )
    return (
        f'<g class="message" id="m{step.number}"><rect x="{x}" y="{y}" width="{_PANEL_WIDTH}" height="{tall}" rx="6"/>'
        f'<text class="title" x="{x + 12}" y="{y + 22}">{step.number}. {xml_text(label_of(step))}</text>'
        f'<a href="#"><text class="close" x="{x + _PANEL_WIDTH - 12}" y="{y + 22}">close ✕</text></a>'
        f"<text>{rows}</text></g>"
    )


def _lines_of(step: Step) -> list[str]:
    """Return a message's lines, wrapped to the width of the panel."""
    lines: list[str] = []
    for line in message_text(step.arrow.message.buf).expandtabs(4).split("\n"):
        lines += [line[at : at + _PANEL_CHARACTERS] for at in range(0, max(1, len(line)), _PANEL_CHARACTERS)]
    return lines if len(lines) <= _PANEL_LINES else [*lines[:_PANEL_LINES], f"… {len(lines) - _PANEL_LINES} more lines"]


_PANEL_CHARACTERS = 82
_PANEL_LINES = 120


def _spacing(ladder: Ladder) -> int:
    """Return the distance of participants: wide enough for whole labels if there are few."""
    return 250 if len(ladder.columns) <= 3 else 200


def _x(ladder: Ladder, column: int) -> int:
    spacing = _spacing(ladder)
    return _LEFT + spacing // 2 + spacing * column


def _size(ladder: Ladder) -> tuple[int, int]:
    width = _LEFT + _spacing(ladder) * max(1, len(ladder.columns)) + _MARGIN // 2
    return width, _heading_height(ladder) + _TOP + _ROW * (len(ladder.steps) + 1)


def _title(ladder: Ladder) -> str:
    return printable("Ladder of " + ", ".join(summary.call_id for summary in ladder.calls))

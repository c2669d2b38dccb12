"""A ladder for a terminal."""

from collections.abc import Callable, Sequence

from sipdump_core.calls.ladder import Column, Ladder, Step
from sipdump_core.reading.render.plain import cells, facts, fitted, leg_letter, message_text, printable, wrapped
from sipdump_core.reading.render.style import Style

__all__ = ["Drawing", "label_of", "ladder_lines", "render_text"]

_COLOURS = {
    "request": "36", "provisional": "33", "success": "32", "redirect": "35", "failure": "31", "other": "0",
}  # fmt: skip
"""SGR codes of ECMA-48, from the 16 colours that every terminal has."""
_LEAST = 10
"""The least columns between two participants: what a method or a status needs."""
_REASON = 10
"""The least columns for a status with its reason phrase; with fewer the status stands alone."""
_SDP = "*"
"""Marks SDP where there is no room for more."""
_FACTS = 17
"""Columns of the names of facts."""


def render_text(ladder: Ladder, style: Style) -> str:
    """Return what happened, the ladder, and the messages if they are asked for."""
    lines: list[str] = []
    for number, summary in enumerate(ladder.calls):
        if len(ladder.calls) > 1:
            lines.append(f"Leg {leg_letter(number)}")
        for name, value in facts(summary):
            lines += _hanging(f"{name}:", value, style.width)
        lines.append("")
    lines += [f"Note: {printable(note)}" for note in ladder.notes]
    lines += [""] * bool(ladder.notes)
    lines += ladder_lines(ladder, style)
    if style.messages:
        for step in ladder.steps:
            lines += ["", _paint(_title(ladder, step), step.mark, style), *_message(step, style)]
    return "\n".join(lines) + "\n"


def ladder_lines(ladder: Ladder, style: Style) -> list[str]:
    """Return the lines of the ladder itself."""
    drawing = Drawing(ladder, style.width, with_nodes=style.width >= 100)
    lines = list(drawing.headings)
    for step in ladder.steps:
        before, drawn, after = drawing.line(step)
        lines.append((before + _paint(drawn, step.mark, style) + after).rstrip())
    if any(_SDP in line for line in lines):
        lines.append(f"{_SDP} with SDP")
    return lines


class Drawing:
    """A ladder laid out for a width; its lines are drawn one by one, as they are asked for.

    Args:
        ladder: the ladder.
        width: columns; too many participants make it wider.
        with_nodes: whether the capture nodes are named on the right, if there are several.
        clock: returns what stands before a step in place of the seconds since the first one.
    """

    def __init__(
        self, ladder: Ladder, width: int, *, with_nodes: bool, clock: Callable[[Step], str] | None = None
    ) -> None:
        steps = ladder.steps
        nodes = {node for step in steps for node in step.arrow.nodes}
        self._with_nodes = with_nodes and len(nodes) > 1
        self._several = len(ladder.calls) > 1
        self._when = clock or _since
        self._digits = len(str(len(steps)))
        self._clock = max((len(self._when(step)) for step in steps), default=0)
        self._left = self._digits + 1 + self._clock + (2 if self._several else 0)
        right = max((cells(_nodes(step)) for step in steps), default=0) + 2 if self._with_nodes else 0
        spacing = _spacing(width - self._left - right, len(ladder.columns))
        self._places = [self._left + spacing // 2 + spacing * number for number in range(len(ladder.columns))]
        self._end = self._left + spacing * len(ladder.columns)
        self.width = self._end + right
        """Columns that it takes."""
        lifelines = _lifelines(self._places, self._end).rstrip()
        self.headings = [*_headings(ladder.columns, self._places, spacing), lifelines]
        """The names of the participants, and the beginning of their lines."""

    def line(self, step: Step) -> tuple[str, str, str]:
        """Return what is before an arrow, the arrow, and what is after it."""
        before, drawn, after = _drawn(step, self._places, self._end, self._left)
        leg = f"{leg_letter(step.call)} " if self._several else ""
        before = f"{step.number:>{self._digits}} {leg}{self._when(step):>{self._clock}}{before}"
        if self._with_nodes:
            after += " " * (self._end - cells(before + drawn + after)) + "  " + _nodes(step)
        return before, drawn, after


def label_of(step: Step) -> str:
    """Return an arrow's label: what it is, whether it has SDP, and how often it was sent."""
    label = printable(step.label) + (" (SDP)" if step.sdp else "")
    return label + (f" ×{step.copies}" if step.copies > 1 else "")


def _short_label(step: Step, width: int) -> str:
    """Return a label cut to a width; the method or status is cut last."""
    label = label_of(step)
    if cells(label) <= width:
        return label
    head = printable(step.label)
    copies = f"×{step.copies}" if step.copies > 1 else ""
    whole = (" (SDP)" if step.sdp else "") + (f" {copies}" if copies else "")
    first = head.split(" ")[0]
    choices = (whole, (_SDP if step.sdp else "") + copies, copies)
    marks = next((each for each in choices if cells(first + each) <= width), "")
    room = width - cells(marks)
    if step.arrow.message.status is not None and room < _REASON:
        head = str(step.arrow.message.status)
    return fitted(fitted(head, room) + marks, width)


def _drawn(step: Step, places: Sequence[int], end: int, left: int) -> tuple[str, str, str]:
    """Return what is before the arrow, the arrow, and what is after it."""
    source, target = places[step.source], places[step.target]
    if source == target:
        return _to_itself(step, places, end, left)
    first, last = min(source, target), max(source, target)
    room = last - first - 1
    line = "─" if step.arrow.message.status is None else "╌"
    label = label_of(step)
    if cells(label) <= room - 4:
        dashes = room - cells(label) - 2
        body = f"{line * (dashes // 2)} {label} {line * (dashes - dashes // 2)}"
        arrow = body[:-1] + "▶" if target > source else "◀" + body[1:]
    else:
        label = _short_label(step, room - 2)
        if "…" in label or (step.copies > 1 and "×" not in label):
            label = _short_label(step, room - 1)
        fill = line * (room - cells(label) - 1)
        arrow = f"{label}{fill}▶" if target > source else f"◀{fill}{label}"
    canvas = _lifelines(places, end)
    return canvas[left : first + 1], arrow, canvas[last:]


def _to_itself(step: Step, places: Sequence[int], end: int, left: int) -> tuple[str, str, str]:
    place = places[step.source]
    canvas = _lifelines(places, end)
    following = [one for one in places if one > place]
    room = (following[0] if following else end) - place - 1
    drawn = "↺ " + _short_label(step, room - 3)
    return canvas[left : place + 1], drawn, canvas[place + 1 + cells(drawn) :]


def _lifelines(places: Sequence[int], end: int) -> str:
    line = [" "] * end
    for place in places:
        line[place] = "│"
    return "".join(line)


def _headings(columns: Sequence[Column], places: Sequence[int], spacing: int) -> list[str]:
    names = [_heading(column, spacing - 1) for column in columns]
    lines = []
    for number in range(max((len(name) for name in names), default=0)):
        line = ""
        for name, place in zip(names, places, strict=True):
            # aligned at the bottom: the last line of each is next to its lifeline
            offset = number - max(len(other) for other in names) + len(name)
            if offset >= 0:
                part = name[offset]
                line += " " * max(0, place - cells(part) // 2 - cells(line)) + part
        lines.append(line)
    return lines


def _heading(column: Column, width: int) -> list[str]:
    name = printable(column.name)
    lines = wrapped(name, width)
    return lines if column.name == column.address else [*lines, *wrapped(column.address, width)]


def _spacing(width: int, columns: int) -> int:
    return max(_LEAST, min(40, width // max(1, columns)))


def _since(step: Step) -> str:
    return f"{step.since_us / 1_000_000:.6f}"


def _nodes(step: Step) -> str:
    return ",".join(printable(node) for node in step.arrow.nodes)


def _paint(text: str, mark: str, style: Style) -> str:
    return f"\x1b[{_COLOURS[mark]}m{text}\x1b[0m" if style.colour else text


def _hanging(name: str, value: str, width: int) -> list[str]:
    lines, line = [], f"{name:<{_FACTS}}"
    for word in value.split(" "):
        if cells(line) > _FACTS and cells(line) + 1 + cells(word) > width:
            lines.append(line)
            line = " " * _FACTS
        line += word if cells(line) <= _FACTS else f" {word}"
    return [*lines, line]


def _title(ladder: Ladder, step: Step) -> str:
    record = step.arrow.records[0]
    source, target = ladder.columns[step.source].name, ladder.columns[step.target].name
    details = [record.flow.proto, *filter(None, step.arrow.nodes), f"+{_since(step)} s"]
    return f"── {step.number}. {label_of(step)}  {printable(source)} → {printable(target)}  {' '.join(details)}"


def _message(step: Step, style: Style) -> list[str]:
    message = step.arrow.message
    end = message.head_end if style.messages == "headers" else None
    return message_text(message.buf, headers_only=end).split("\n")

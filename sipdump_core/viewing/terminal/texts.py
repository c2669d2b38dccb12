"""Messages as lines of the terminal: highlighted, raw, and compared. Nothing in them is obeyed."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from rich.style import Style

from sipdump_core.calls.ladder import Ladder, Step
from sipdump_core.calls.message import Message
from sipdump_core.reading.lines import local_time
from sipdump_core.reading.render.plain import cells, message_text, printable
from sipdump_core.reading.render.text import label_of
from sipdump_core.viewing.terminal.colours import BOLD, DIM, MARKS, NAME, PLAIN
from sipdump_core.viewing.terminal.sheet import Line

__all__ = ["compared", "highlighted", "raw", "seen_lines", "side_by_side", "wrapped_line"]

_HEADER = re.compile(r"([A-Za-z0-9!%*_+`'~.-]+)(\s*:)(.*)", re.DOTALL)
_SDP = re.compile(r"([a-z])(=)(.*)", re.DOTALL)
_TELLING = frozenset({"call-id", "i", "cseq", "from", "f", "to", "t", "via", "v", "contact", "m", "reason", "warning"})
_SAME, _OLD, _NEW = " ", "-", "+"


def highlighted(step: Step) -> list[Line]:
    """Return a message with its parts told apart."""
    message = step.arrow.message
    head = message_text(message.buf, headers_only=message.head_end).split("\n")
    body = message_text(message.buf[message.head_end :]) if message.head_end < len(message.buf) else ""
    lines: list[Line] = [[(_untabbed(head[0]), MARKS[step.mark] + BOLD)]]
    lines += [_header(_untabbed(line)) for line in head[1:]]
    if body:
        if lines[-1] and lines[-1][0][0]:
            lines.append([("", PLAIN)])
        sdp = message.sdp is not None
        lines += [_sdp(_untabbed(line)) if sdp else [(_untabbed(line), PLAIN)] for line in body.split("\n")]
    return lines


def raw(message: Message) -> list[Line]:
    """Return a message as it was on the wire, line ends included."""
    parts = re.split(rb"(?<=\n)", message.buf)
    lines: list[Line] = []
    for part in parts:
        if part:
            text = part.rstrip(b"\r\n")
            end = part[len(text) :].decode("ascii").replace("\r", "\\r").replace("\n", "\\n")
            lines.append([(printable(text.decode("utf-8", "backslashreplace")), PLAIN), (end, DIM)])
    return lines


def seen_lines(ladder: Ladder, step: Step) -> list[Line]:
    """Return what is known of a message beside its text: where it went, who saw it, and when."""
    arrow = step.arrow
    source, target = printable(ladder.columns[step.source].name), printable(ladder.columns[step.target].name)
    lines: list[Line] = [
        [(f"{step.number} of {len(ladder.steps)}  ", DIM), (label_of(step), MARKS[step.mark] + BOLD),
         (f"  {source} → {target}", PLAIN)]
    ]  # fmt: skip
    for record in arrow.records:
        flow = record.flow
        when = local_time(record.time_us).strftime("%Y-%m-%d %H:%M:%S.%f")
        node = f"  at {flow.node}" if flow.node else ""
        process = f"  pid {flow.pid}  process {flow.procno}" if flow.pid or flow.procno else ""
        linked = f"  correlation {record.correlation_id}" if record.correlation_id else ""
        lines.append([(printable(f"{when}  {flow.tag}  {flow.proto}{node}{process}{linked}"), DIM)])
    return lines


def compared(one: Message, other: Message) -> list[Line]:
    """Return what two messages have in common and where they differ, a line each, as diff(1) does."""
    lines: list[Line] = []
    for sign, left, right in _pairs(one, other):
        if sign == _SAME:
            lines.append([("  ", PLAIN), (left, PLAIN)])
            continue
        if left:
            lines.append([("- ", MARKS["failure"] + BOLD), (left, MARKS["failure"])])
        if right:
            lines.append([("+ ", MARKS["success"] + BOLD), (right, MARKS["success"])])
    return lines


def side_by_side(one: Message, other: Message, width: int) -> list[Line]:
    """Return two messages beside each other."""
    room = (width - 3) // 2
    lines: list[Line] = []
    for sign, left, right in _pairs(one, other):
        style = [PLAIN, PLAIN] if sign == _SAME else [MARKS["failure"], MARKS["success"]]
        mark = {_SAME: " │ ", _OLD: " ◀ ", _NEW: " ▶ "}.get(sign, " ≠ ")
        lefts, rights = wrapped_text(left, room), wrapped_text(right, room)
        for number in range(max(len(lefts), len(rights))):
            first = lefts[number] if number < len(lefts) else ""
            second = rights[number] if number < len(rights) else ""
            between = mark if number == 0 else " │ "
            lines.append(
                [(first + " " * (room - cells(first)), style[0]), (between, DIM if sign == _SAME else BOLD),
                 (second, style[1])]
            )  # fmt: skip
    return lines


def wrapped_line(line: Line, width: int) -> list[Line]:
    """Return a line in as many as the width asks for; those that follow are indented."""
    if sum(cells(text) for text, _ in line) <= width:
        return [line]
    found: list[list[tuple[str, Style]]] = [[]]
    room = width
    for text, style in line:
        rest = text
        while rest:
            part = _fitting(rest, room)
            found[-1].append((part, style))
            rest = rest[len(part) :]
            room -= cells(part)
            if rest:
                found.append([("    ", PLAIN)])
                room = max(1, width - 4)
    return list(found)


def wrapped_text(text: str, width: int) -> list[str]:
    """Return a text in pieces that fit."""
    found = []
    while text:
        part = _fitting(text, width)
        found.append(part)
        text = text[len(part) :]
    return found or [""]


def _fitting(text: str, room: int) -> str:
    """Return as much of a text's beginning as fits, at least one character."""
    if text.isascii():
        return text[: max(1, room)]
    used = 0
    for number, one in enumerate(text):
        used += cells(one)
        if used > room:
            return text[: max(1, number)]
    return text


def _pairs(one: Message, other: Message) -> list[tuple[str, str, str]]:
    lefts, rights = _lines(one), _lines(other)
    found: list[tuple[str, str, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, lefts, rights, autojunk=False).get_opcodes():
        if kind == "equal":
            found += [(_SAME, line, line) for line in lefts[a:b]]
            continue
        for number in range(max(b - a, d - c)):
            left = lefts[a + number] if a + number < b else ""
            right = rights[c + number] if c + number < d else ""
            found.append(("≠" if left and right else _OLD if left else _NEW, left, right))
    return found


def _lines(message: Message) -> Sequence[str]:
    return [_untabbed(line) for line in message_text(message.buf).split("\n")]


def _header(line: str) -> Line:
    found = _HEADER.fullmatch(line)
    if not found:
        return [(line, PLAIN)]
    style = NAME + BOLD if found[1].lower() in _TELLING else NAME
    return [(found[1], style), (found[2], DIM), (found[3], PLAIN)]


def _sdp(line: str) -> Line:
    found = _SDP.fullmatch(line)
    if not found:
        return [(line, PLAIN)]
    return [(found[1], NAME), (found[2], DIM), (found[3], BOLD if found[1] in "mc" else PLAIN)]


def _untabbed(line: str) -> str:
    return line.expandtabs(8)

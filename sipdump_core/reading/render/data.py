"""A ladder as JSON."""

from sipdump_core.calls.ladder import Ladder, Step
from sipdump_core.calls.summary import iso_utc
from sipdump_core.reading.lines import as_json
from sipdump_core.reading.render.style import Style

__all__ = ["render_json"]


def render_json(ladder: Ladder, _: Style) -> str:
    """Return calls as ``find --json`` has them, participants, steps with their messages, and notes.

    Bytes of a message that are not UTF-8 are escaped, as ``\\xff``.
    """
    content = {
        "calls": [summary.as_json() for summary in ladder.calls],
        "participants": [{"address": column.address, "name": column.name} for column in ladder.columns],
        "steps": [_step(ladder, step) for step in ladder.steps],
        "notes": list(ladder.notes),
    }
    return as_json(content, indent=2) + "\n"


def _step(ladder: Ladder, step: Step) -> dict[str, object]:
    arrow = step.arrow
    return {
        "number": step.number,
        "time": iso_utc(arrow.time_us),
        "since": step.since_us / 1_000_000,
        "call_id": ladder.calls[step.call].call_id,
        "src": arrow.src,
        "dst": arrow.dst,
        "label": step.label,
        "sdp": step.sdp,
        "copies": step.copies,
        "proto": arrow.records[0].flow.proto,
        "seen": [
            {
                "time": iso_utc(record.time_us), "node": record.flow.node, "tag": record.flow.tag,
                "pid": record.flow.pid, "procno": record.flow.procno,
            }
            for record in arrow.records
        ],
        "message": arrow.message.buf.decode("utf-8", "backslashreplace"),
    }  # fmt: skip

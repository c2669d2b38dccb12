"""A ladder as a page: one file without scripts or network access, which can be sent to anybody."""

from sipdump_core.calls.ladder import Ladder, Step
from sipdump_core.calls.summary import iso_utc
from sipdump_core.reading.render.plain import facts, leg_letter, message_text, printable
from sipdump_core.reading.render.style import Style
from sipdump_core.reading.render.svg import COLOURS, FIGURE_STYLE, figure, xml_text
from sipdump_core.reading.render.text import label_of

__all__ = ["LADDER_STYLE", "message_section", "render_html"]

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { padding: 16px; max-width: 1600px; margin: auto; }
h1 { font-size: 20px; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 20px 0 8px; overflow-wrap: anywhere; }
"""
LADDER_STYLE = """
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr));
  gap: 4px 24px; margin: 0; }
dl div { display: flex; gap: 8px; }
dt { flex: 0 0 112px; color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
.note { border-left: 4px solid var(--provisional); padding: 4px 10px; margin: 12px 0; background: var(--panel); }
.hint { color: var(--dim); margin: 16px 0 4px; }
.ladder-box { overflow-x: auto; }
.message { display: none; position: fixed; inset: auto 0 0 0; max-height: 65vh; overflow: auto; padding: 12px 16px;
  background: var(--panel); border-top: 2px solid var(--ink); }
.message:target { display: block; }
.message nav { display: flex; gap: 16px; flex-wrap: wrap; } .message nav a { color: var(--request); padding: 4px 0; }
.message nav a:last-child { margin-left: auto; }
.message p { color: var(--dim); margin: 4px 0; overflow-wrap: anywhere; }
pre { margin: 8px 0 0; font: 12.5px/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
body:has(.message:target) main { padding-bottom: 66vh; }
@media (min-width: 1100px) {
  body:has(.message:target) main { padding-bottom: 16px; margin-right: min(620px, 36vw); }
  .message { inset: 0 0 0 auto; width: min(620px, 36vw); max-height: none; border-top: 0;
    border-left: 2px solid var(--ink); }
}
@media print {
  body:has(.message:target) main { padding: 0; margin: 0; }
  .hint, .message nav { display: none; }
  dl { grid-template-columns: 1fr 1fr; }
  .ladder-box { overflow: visible; } .ladder-box svg { max-width: 100%; height: auto; }
  .message, .message:target { display: block; position: static; width: auto; max-height: none; overflow: visible;
    border: 0; border-top: 1px solid var(--rule); break-inside: avoid; padding: 8px 0; }
}
"""
"""What a page needs that shows facts in a ``dl``, a ladder, and the messages of :func:`message_section`."""


def render_html(ladder: Ladder, _: Style) -> str:
    """Return a page with what happened, the ladder, and each message behind its arrow."""
    title = xml_text(printable(ladder.calls[0].call_id)) if ladder.calls else "Ladder"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{title}</title>\n<style>{COLOURS}{FIGURE_STYLE}{_STYLE}{LADDER_STYLE}</style>\n</head>\n<body>\n<main>",
        f"<h1>{title}</h1>",
    ]
    for number, summary in enumerate(ladder.calls):
        rows = facts(summary)
        if len(ladder.calls) > 1:
            parts.append(f"<h2>{leg_letter(number)}. {xml_text(rows[0][1])}</h2>")
        parts.append(
            "<dl>"
            + "".join(f"<div><dt>{name}</dt><dd>{xml_text(value)}</dd></div>" for name, value in rows[1:])
            + "</dl>"
        )
    parts += [f'<p class="note">{xml_text(printable(note))}</p>' for note in ladder.notes]
    parts.append('<p class="hint">Select an arrow to read its message.</p>')
    parts.append(f'<div class="ladder-box" tabindex="0" role="region" aria-label="Ladder">\n{figure(ladder)}\n</div>')
    parts += [message_section(ladder, step) for step in ladder.steps]
    return "\n".join([*parts, "</main>\n</body>\n</html>"]) + "\n"


def message_section(ladder: Ladder, step: Step) -> str:
    """Return an element with a step's message, which its arrow in ``figure`` of the SVG renderer opens."""
    source, target = ladder.columns[step.source].name, ladder.columns[step.target].name
    links = [f'<a href="#m{number}">{word}</a>' for number, word in _beside(ladder, step)]
    details = [
        f"{source} → {target}", step.arrow.records[0].flow.proto.upper(), iso_utc(step.arrow.time_us),
        *(f"seen by {node}" for node in step.arrow.nodes if node),
    ]  # fmt: skip
    if len(ladder.calls) > 1:
        details.append(f"Call-ID {ladder.calls[step.call].call_id}")
    return (
        f'<section class="message" id="m{step.number}" aria-label="Message {step.number}">'
        f'<nav>{"".join(links)}<a href="#">close</a></nav>'
        f"<h2>{step.number}. {xml_text(label_of(step))}</h2><p>{xml_text(printable(' · '.join(details)))}</p>"
        f"<pre>{xml_text(message_text(step.arrow.message.buf))}</pre></section>"
    )


def _beside(ladder: Ladder, step: Step) -> list[tuple[int, str]]:
    found = [(step.number - 1, "previous")] if step.number > 1 else []
    return found + ([(step.number + 1, "next")] if step.number < len(ladder.steps) else [])

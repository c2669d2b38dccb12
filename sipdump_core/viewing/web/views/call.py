"""One call: what happened, its ladder, its messages, its media, its files; and the link that shows it to others."""

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sipdump_core.calls.ladder import Ladder, Step, lay_out
from sipdump_core.reading.export import write_records
from sipdump_core.reading.finder import Found
from sipdump_core.reading.render.formats import Style, render
from sipdump_core.reading.render.html import message_section
from sipdump_core.reading.render.plain import facts, leg_letter
from sipdump_core.reading.render.svg import figure
from sipdump_core.reading.render.text import label_of
from sipdump_core.viewing.web.addresses import SHARED, Shared, named_call, query_of
from sipdump_core.viewing.web.desk import Desk, Scan, desk_of
from sipdump_core.viewing.web.gate import log_export
from sipdump_core.viewing.web.limits import BusyError

__all__ = ["FORMS", "call", "download", "share", "shared"]

_STEPS = 1000
"""Arrows of a ladder on the page; the files have all."""
_HOURS = (1, 8, 24, 168)
"""How long a link may last."""


@attrs.frozen
class Form:
    """A file that a call can be had as."""

    title: str
    kind: str
    make: Callable[[Sequence[Found], Ladder], bytes]


async def call(request: Request) -> Response:
    """Return the page of a call."""
    call_id = named_call(request.scope, "/call/")
    legs = dict(query_of(request.scope)).get("legs") == "1"
    return await _page(desk_of(request), call_id, legs=legs)


async def download(request: Request) -> Response:
    """Return a call as a file."""
    form = request.path_params["form"]
    call_id = named_call(request.scope, f"/download/{form}/")
    legs = dict(query_of(request.scope)).get("legs") == "1"
    return await _file(request, form, call_id, legs=legs)


async def share(request: Request) -> Response:
    """Return a page with a link that shows one call to others."""
    desk = desk_of(request)
    call_id = named_call(request.scope, "/share/")
    given = dict(query_of(request.scope))
    hours = int(given.get("hours", "")) if given.get("hours", "") in map(str, _HOURS) else 0
    legs = given.get("legs") == "1"
    link, until = "", 0
    if hours:
        until = int(time.time()) + hours * 3600
        link = SHARED + Shared(call_id, until, legs).signed(desk.keys.signing)
        log_export("share", call_id, request.scope)
    base = desk.base or f"{request.url.scheme}://{request.url.netloc}"
    return desk.pages.page(
        "share.html", call_id=call_id, link=f"{base}{link}" if link else "", until=until * 1_000_000, hours=hours or 24,
        choices=_HOURS, legs=legs,
    )  # fmt: skip


async def shared(request: Request) -> Response:
    """Return the page, or a file, of a call that a link shows, and nothing else."""
    desk = desk_of(request)
    text, _, rest = request.path_params["rest"].partition("/")
    opened = Shared.opened(text, desk.keys.signing)
    if opened is None:
        return desk.pages.problem(
            403, "This link is no good", "Its time is up, or it was made before the last start.", inside=False
        )
    if not rest:
        return await _page(desk, opened.call_id, legs=opened.legs, root=f"{SHARED}{text}/")
    kind, _, name = rest.partition("/")
    if kind == "static":
        return desk.pages.asset(name)
    if kind == "download":
        return await _file(request, name, opened.call_id, legs=opened.legs)
    raise HTTPException(404)


async def _page(desk: Desk, call_id: str, *, legs: bool, root: str = "") -> Response:
    """Return the page of a call.

    Args:
        desk: what it is read with.
        call_id: the call.
        legs: whether its other legs are drawn, too.
        root: where a shared call is; empty for a page that leads to others.
    """
    found, scan = await desk.asked(lambda scan: (desk.found(call_id, scan), scan))
    if not found:
        text = scan.ended or f"Nothing is stored of {call_id}."
        if scan.searched.problems:
            text = f"Nothing was found of {call_id}, but not everything could be read."
            if not root:  # where it is stored is nothing for others
                text = f"{text} {'; '.join(scan.searched.problems)}"
        return desk.pages.problem(404, "There is no such call", text, inside=not root)
    drawn = found if legs else found[:1]
    summaries = [one.summary for one in drawn]
    if root:  # the Call-IDs of others are not a part of what was shared
        shown = {one.summary.call_id for one in drawn}
        summaries = [attrs.evolve(each, legs=[leg for leg in each.legs if leg.call_id in shown]) for each in summaries]
    ladder = lay_out([one.call for one in drawn], summaries=summaries, notes=scan.searched.notes)
    values: dict[str, Any] = {
        "call_id": call_id,
        "ladder": ladder,
        "rows": [facts(each)[1:] for each in ladder.calls],
        "letters": [leg_letter(number) if len(ladder.calls) > 1 else "" for number in range(len(ladder.calls))],
        "legs": legs,
        "other_legs": [] if root else found[0].summary.legs,
        "messages": _messages(ladder),
        "media": _media(ladder),
        "all_steps": len(ladder.steps),
        "forms": {name: form.title for name, form in FORMS.items()},
        "problems": [*([scan.ended] if scan.ended else []), *scan.searched.problems],
    }
    short = attrs.evolve(ladder, steps=ladder.steps[:_STEPS])
    values["figure"] = Markup(figure(short))  # noqa: S704 - the renderers escape what is from the network
    values["sections"] = [Markup(message_section(short, step)) for step in short.steps]  # noqa: S704 - as above
    values |= {"shared": True, "root": root, "stores": []} if root else {}
    return desk.pages.page("call.html", **values)


def _messages(ladder: Ladder) -> list[dict[str, Any]]:
    """Return the messages as a table has them: for screen readers, and for times that a ladder has no room for."""
    found = []
    before: dict[int, int] = {}
    for step in ladder.steps[:_STEPS]:
        source, target = ladder.columns[step.source].name, ladder.columns[step.target].name
        last = before.get(-1)
        before[-1] = step.since_us
        found.append(
            {
                "number": step.number,
                "since": f"{step.since_us / 1_000_000:.6f}",
                "delta": "" if last is None else f"{(step.since_us - last) / 1_000_000:+.6f}",
                "leg": leg_letter(step.call) if len(ladder.calls) > 1 else "",
                "label": label_of(step),
                "mark": step.mark,
                "source": source,
                "target": target,
                "again": _again(step),
                "nodes": ", ".join(filter(None, step.arrow.nodes)),
                "proto": step.arrow.records[0].flow.proto,
            }
        )
    return found


def _again(step: Step) -> str:
    """Return when a message was sent again, in seconds after the first time."""
    first, *others = step.arrow.times
    return ", ".join(f"+{(each - first) / 1_000_000:.3f} s" for each in others[:10])


def _media(ladder: Ladder) -> list[dict[str, Any]]:
    """Return the streams of all session descriptions."""
    found = []
    for step in ladder.steps[:_STEPS]:
        sdp = step.arrow.message.sdp
        for media in sdp.media if sdp is not None else ():
            address = f"[{media.address}]" if ":" in media.address else media.address
            found.append(
                {
                    "number": step.number,
                    "label": label_of(step),
                    "kind": media.kind,
                    "address": f"{address}:{media.port}" if media.port else "refused",
                    "codecs": ", ".join(media.codecs),
                }
            )
    return found


async def _file(request: Request, name: str, call_id: str, *, legs: bool) -> Response:
    desk = desk_of(request)
    form = FORMS.get(name)
    if form is None:
        raise HTTPException(404)

    def made(scan: Scan) -> bytes | None:
        found = desk.found(call_id, scan, legs=legs)
        drawn = found if legs else found[:1]
        if scan.ended:
            raise BusyError(f"{scan.ended}; a part of a call is no file")
        if not drawn:
            return None
        summaries = [one.summary for one in drawn]
        ladder = lay_out([one.call for one in drawn], summaries=summaries, notes=scan.searched.notes)
        return form.make(drawn, ladder)

    content = await desk.asked(made)
    if content is None:
        raise HTTPException(404)
    log_export(name, call_id, request.scope)
    answer = Response(content, media_type=form.kind)
    answer.headers["Content-Disposition"] = _disposition(call_id, name)
    return answer


def _disposition(call_id: str, form: str) -> str:
    """Return the header that names a file: only harmless letters, and no folder (RFC 6266)."""
    stem = re.sub(r"[^A-Za-z0-9@._-]+", "_", call_id).strip("._")[:80] or "call"
    name = f"{stem}.{'txt' if form == 'text' else form}"
    return f"attachment; filename=\"{name}\"; filename*=UTF-8''{quote(name)}"


def _recorded(form: str, found: Sequence[Found], _ladder: Ladder) -> bytes:
    """Return the file that ``sipdump-read export`` writes; what it takes to write it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sipdump-web-") as folder:
        path = Path(folder, "call")
        write_records(found, str(path), form, {})
        return path.read_bytes()


def _drawn(form: str, _found: Sequence[Found], ladder: Ladder) -> bytes:
    style = Style(messages="raw") if form == "text" else Style()
    return render(ladder, form, style).encode("utf-8", "surrogateescape")


FORMS: Mapping[str, Form] = {
    "pcap": Form("pcap", "application/vnd.tcpdump.pcap", partial(_recorded, "pcap")),
    "pcapng": Form("pcapng", "application/x-pcapng", partial(_recorded, "pcapng")),
    "text": Form("text", "text/plain; charset=utf-8", partial(_drawn, "text")),
    "html": Form("HTML", "text/html; charset=utf-8", partial(_drawn, "html")),
    "json": Form("JSON", "application/json", partial(_drawn, "json")),
}
"""The files that there are, by their names in addresses."""

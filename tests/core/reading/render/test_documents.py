"""Mermaid, Markdown and JSON."""

import json
import re

import pytest

from sipdump_core.reading.render.formats import FORMATS, Style, render
from tests.core.reading.render.ladders import HOSTILE, hostile, of_flow
from tests.flows import FLOWS, Flow

BUSY = """\
sequenceDiagram
    participant p0 as 192.0.2.10:5060
    participant p1 as 203.0.113.1:5060
    participant p2 as 198.51.100.20:5060
    p0->>p1: 0.000 INVITE
    p1->>p2: 0.000 INVITE
    p2-->>p1: 0.010 486 Busy Here
    p1->>p2: 0.010 ACK
    p1-->>p0: 0.011 486 Busy Here
    p0->>p1: 0.014 ACK
"""


def test_mermaid() -> None:
    assert render(of_flow("busy"), "mermaid") == BUSY


def test_nothing_hostile_is_part_of_the_diagram() -> None:
    text = render(hostile(), "mermaid")
    assert len(text.splitlines()) == 1 + 2 + 2 + 1
    for line in text.splitlines()[1:]:
        assert not re.search(r"[<>;\"'`|]", re.sub(r"#\d+;", "", line.replace("->>", "").replace("-->>", "")))


def test_markdown() -> None:
    text = render(of_flow("busy"), "markdown")
    assert text.startswith("## flow@192.0.2.10\n\n| | |\n|-|-|\n| State | refused, 486 Busy Here |\n")
    assert text.count("```") == 2
    assert "◀╌" in text


def test_nothing_hostile_leaves_its_cell_or_its_block() -> None:
    text = render(hostile(), "markdown", Style(messages="raw"))
    fences = [line for line in text.split("\n") if re.fullmatch(r"`{3,}(text)?", line)]
    assert len(fences) == 6
    assert set(fences) == {"```text", "```", "````text", "````"}
    outside = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", text)
    assert not re.search(r"(?<!\\)[<>`]", outside)


def test_nothing_hostile_in_json_reaches_the_terminal() -> None:
    text = render(hostile(), "json")
    assert all(line.isprintable() for line in text.splitlines())
    assert HOSTILE in json.loads(text)["steps"][0]["message"]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_json_has_everything(flow: Flow) -> None:
    ladder = of_flow(flow.name)
    content = json.loads(render(ladder, "json"))
    assert [step["number"] for step in content["steps"]] == list(range(1, len(ladder.steps) + 1))
    assert content["calls"] == [summary.as_json() for summary in ladder.calls]
    seen = sum(len(step["seen"]) for step in content["steps"])
    assert seen == sum(len(step.arrow.records) for step in ladder.steps)
    assert content["steps"][0]["since"] == 0


def test_json_escapes_what_is_no_text() -> None:
    content = json.loads(render(hostile(), "json"))
    assert content["steps"][1]["message"].endswith("\\xff\\xfe" + HOSTILE)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_ends_in_a_line_end(form: str) -> None:
    text = render(of_flow("busy"), form)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="there are: text, svg, html"):
        render(of_flow("busy"), "pdf")

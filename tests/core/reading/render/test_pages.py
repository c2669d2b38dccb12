"""SVG and HTML: complete in themselves, and nothing in them that a stranger wrote is more than text."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from sipdump_core.calls.ladder import Ladder
from sipdump_core.reading.render.formats import render
from sipdump_core.reading.render.svg import COLOURS
from tests.core.reading.render.ladders import hostile, of_flow
from tests.flows import FLOWS, Flow

SVG = "{http://www.w3.org/2000/svg}"


def svg_of(ladder: Ladder, form: str) -> ElementTree.Element:
    text = render(ladder, form)
    return ElementTree.fromstring(text[text.index("<svg") : text.rindex("</svg>") + 6])


@pytest.mark.parametrize("form", ["svg", "html"])
def test_each_message_is_behind_its_arrow(form: str) -> None:
    ladder = of_flow("two proxies with challenge")
    targets = [link.get("href") for link in svg_of(ladder, form).iter(f"{SVG}a")]
    text = render(ladder, form)
    for step in ladder.steps:
        assert f"#m{step.number}" in targets
        assert text.count(f'id="m{step.number}"') == 1
    assert text.count("CSeq: 3 BYE\n" if form == "html" else "CSeq: 3 BYE</tspan>") == 6


@pytest.mark.parametrize("form", ["svg", "html"])
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_pages_need_no_network_and_no_script(flow: Flow, form: str) -> None:
    text = render(of_flow(flow.name), form)
    assert len(text.encode()) < 200_000
    assert "<script" not in text
    assert not re.search(r"\son\w+=|url\(|@import|src=", text)
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert all(href.startswith("#") for href in re.findall(r'href="([^"]*)"', text))


@pytest.mark.parametrize("form", ["svg", "html"])
def test_what_strangers_write_is_text(form: str) -> None:
    text = render(hostile(), form)
    assert "<script" not in text
    assert "<b>" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text)
    root = svg_of(hostile(), form)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "style", "g", "line", "rect", "text", "tspan", "a", "path",
    }  # fmt: skip
    assert not [key for element in root.iter() for key in element.attrib if key.startswith("on")]


def test_a_page_forbids_what_it_does_not_need() -> None:
    text = render(hostile(), "html")
    assert "Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    tags = set(re.findall(r"<([a-z0-9]+)", text))
    assert tags <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "dl", "div", "dt", "dd", "p", "svg", "g",
        "line", "rect", "text", "path", "a", "section", "nav", "pre",
    }  # fmt: skip


def test_dark_and_light_and_paper() -> None:
    for form in ("svg", "html"):
        text = render(of_flow("busy"), form)
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text


def test_columns_do_not_overlap() -> None:
    root = svg_of(of_flow("two proxies with challenge"), "svg")
    heads = [box for box in root.iter(f"{SVG}rect") if box.get("class") == "head"]
    ends = [(float(box.get("x", "")), float(box.get("x", "")) + float(box.get("width", ""))) for box in heads]
    assert len(ends) == 4
    assert all(one[1] < other[0] for one, other in pairwise(ends))
    assert ends[-1][1] <= float(root.get("width", ""))


def test_texts_can_be_read() -> None:
    """The contrast of every colour of text with both backgrounds (WCAG 2.2, 1.4.3)."""
    for scheme in re.findall(r":root \{(.*?)\}", COLOURS, re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#\w+);", scheme))
        for name in colours.keys() - {"paper", "panel", "rule"}:
            for ground in ("paper", "panel"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground, scheme)


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

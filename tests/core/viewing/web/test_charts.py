"""Charts: what they draw, that nothing in them is markup from elsewhere, and that a strict CSP takes them."""

import re
import xml.etree.ElementTree as ET
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from sipdump_core.viewing.web.charts import Amount, Chart, Series, axis, rank_bars

TIMES = ("10:00:00", "10:00:05", "10:00:10", "10:00:15")
HOSTILE = "<script>alert(1)</script>\u202e\x00\"'&"


def chart(*series: Series, **more: object) -> Chart:
    return Chart("calls", "Calls", TIMES, TIMES, series, **more)  # type: ignore[arg-type]


def series(name: str, *values: float | None, colour: int = 1) -> Series:
    return Series(name, colour, [Amount(value, f"/calls?at={at}&x=1") for at, value in enumerate(values)])


def drawn(one: Chart) -> ET.Element:
    svg = str(one.svg)
    assert "style=" not in svg
    assert not re.search(r"<(script|style)|\son[a-z]+=", svg)
    return ET.fromstring(svg)


def test_bars_stand_on_each_other() -> None:
    root = drawn(chart(series("answered", 3, 0, 1, 0), series("failed", 1, 0, 0, 2, colour=4)))
    bars = [(each.get("class"), float(each.get("y", "")), float(each.get("height", ""))) for each in root.iter("rect")]
    # of 4 at the top
    assert bars == [("c1", 25.0, 75.0), ("c4", 0.0, 25.0), ("c1", 75.0, 25.0), ("c4", 50.0, 50.0)]


def test_each_bar_is_a_link_and_says_what_it_is() -> None:
    root = drawn(chart(series("answered", 3, 0, 1, 0)))
    links = list(root.iter("a"))
    assert [link.get("href") for link in links] == ["/calls?at=0&x=1", "/calls?at=2&x=1"]
    assert [link.findtext("title") for link in links] == ["10:00:00: answered 3", "10:00:10: answered 1"]
    # the keyboard has the table instead of hundreds of bars
    assert all(link.get("tabindex") == "-1" for link in links)


def test_a_line_breaks_where_there_is_no_value() -> None:
    root = drawn(chart(series("p50", 1.0, 2.0, None, 0.0), unit="s", lines=True))
    line = next(path for path in root.iter("path") if path.get("class") == "line c1")
    assert line.get("d") == "M125.00 50.00L375.00 0.00M875.00 100.00"
    assert [link.findtext("title") for link in root.iter("a")] == [
        "10:00:00: p50 1.000 s", "10:00:05: p50 2.000 s", "10:00:15: p50 0.000 s",
    ]  # fmt: skip


def test_a_screen_reader_gets_a_sentence_and_a_table() -> None:
    one = chart(series("answered", 3, 0, 1200, 0), series("failed", 1, 0, 0, 0))
    root = drawn(one)
    image = next(each for each in root.iter() if each.get("role") == "img")
    named = {each.get("id"): each.text for each in image}
    assert [named[name] for name in (image.get("aria-labelledby") or "").split()] == [
        "Calls", "Calls, 10:00:00 to 10:00:15: answered 1,203, failed 1.",
    ]  # fmt: skip
    assert not list(image.iter("a"))  # an image has no links
    assert list(one.rows()) == [
        ("10:00:00", [("3", "/calls?at=0&x=1"), ("1", "/calls?at=0&x=1")]),
        ("10:00:10", [("1,200", "/calls?at=2&x=1"), ("0", "")]),
    ]
    lines = chart(series("ASR", 50.0, None, 100.0, None), unit="%", lines=True)
    assert lines.summary == "Calls, 10:00:00 to 10:00:15: ASR from 50.0 % to 100.0 %."


def test_nothing_to_draw() -> None:
    for empty in (chart(), chart(series("x", 0, 0, 0, 0)), chart(series("x", None, None, None, None), lines=True)):
        assert empty.empty
        assert not list(drawn(empty).iter("a"))
        assert empty.summary == "Calls: nothing."
    assert not chart(series("x", 0.0, None, None, None), lines=True).empty  # 0 % is something


def test_labels() -> None:
    assert chart(series("x", 1, 0, 0, 180)).scale == ["200", "100", "0"]
    assert chart(series("x", 0.03), unit="s", lines=True).scale == ["0.04 s", "0.02 s", "0 s"]
    assert chart(series("x", 1), unit="%", top=100).scale == ["100 %", "50 %", "0 %"]
    assert chart().labels == list(TIMES)
    many = [str(number) for number in range(101)]
    assert Chart("x", "X", many, many, []).labels == ["0", "25", "50", "75", "100"]


@pytest.mark.parametrize(
    ("value", "whole", "top"), [(0, False, 1), (0, True, 2), (1, True, 2), (3, True, 4), (5, True, 6), (7, True, 10),
     (1000, True, 1000), (1001, True, 2000), (0.003, False, 0.004), (0.5, False, 0.5), (9.9, False, 10)],
)  # fmt: skip
def test_axis(value: float, whole: bool, top: float) -> None:
    assert axis(value, whole=whole) == pytest.approx(top)


@given(st.floats(1e-6, 1e12), st.booleans())
def test_an_axis_is_never_too_short(value: float, whole: bool) -> None:
    assert value * (1 - 1e-9) <= axis(value, whole=whole) <= max(2.1, value * 2.6)


@given(st.text(max_size=20))
def test_nothing_is_markup(text: str) -> None:
    one = chart(Series(text, 1, [Amount(1, quote(text, errors="surrogatepass"))]))
    root = drawn(Chart("x", text, [text], [text], one.series))
    assert len(list(root.iter("a"))) == bool(text)
    assert {each.tag for each in root.iter()} <= {"a", "g", "path", "rect", "title", "desc"} | {root.tag}


def test_hostile_names() -> None:
    one = Chart("x", HOSTILE, [HOSTILE], [HOSTILE], [Series(HOSTILE, 1, [Amount(1, quote(HOSTILE))])])
    svg = str(one.svg)
    assert "<script" not in svg
    assert "\u202e" not in svg
    assert "\x00" not in svg
    drawn(one)


def test_rankings() -> None:
    rows = rank_bars([("503", Amount(40, "/x")), ("404", Amount(10)), ("500", Amount(0))])
    widths = [re.search(r'rect class="c4" width="([\d.]+)"', bar) for _, _, bar in rows]
    assert [found and found[1] for found in widths] == ["100.00", "25.00", "0.00"]
    assert rank_bars([]) == []
    assert escape(rows[0][2]) == rows[0][2]  # markup of our own

"""Times and spans as people type them."""

import time
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from sipdump_core.reading.when import parse_span, parse_when, zone

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 27, 11, 0, 0, tzinfo=BERLIN)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=BERLIN)  # type: ignore[arg-type,misc]  # year, month, day ...


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("10:32", at(2026, 11, 27, 10, 32)),
        ("10:32:05.25", at(2026, 11, 27, 10, 32, 5, 250000)),
        ("9:05", at(2026, 11, 27, 9, 5)),
        ("11:01", at(2026, 11, 26, 11, 1)),  # today's has not come yet
        ("today", at(2026, 11, 27)),
        ("yesterday", at(2026, 11, 26)),
        ("yesterday 10:30", at(2026, 11, 26, 10, 30)),
        ("yesterday  10:30", at(2026, 11, 26, 10, 30)),
        ("-15m", at(2026, 11, 27, 10, 45)),
        ("-1d12h", at(2026, 11, 25, 23, 0)),
        ("-90", at(2026, 11, 27, 10, 58, 30)),
        ("2026-11-27", at(2026, 11, 27)),
        ("2026-11-27 10:32", at(2026, 11, 27, 10, 32)),
        ("2026-11-27T10:32:00+00:00", at(2026, 11, 27, 11, 32)),
        ("2026-11-27T10:32:00Z", at(2026, 11, 27, 11, 32)),
        ("2026-07-01T10:00", at(2026, 7, 1, 10, 0)),
        ("@1795386431.5", at(2026, 11, 22, 23, 27, 11, 500000)),
    ],
)
def test_a_time(text: str, expected: datetime) -> None:
    assert parse_when(text, NOW) == expected


def test_summer_time_is_that_of_the_day_itself() -> None:
    assert parse_when("2026-07-01T10:00", NOW).utcoffset() != NOW.utcoffset()
    in_summer = datetime(2026, 10, 25, 12, 0, tzinfo=BERLIN)  # the clocks went back at 3:00
    assert parse_when("1:30", in_summer).isoformat() == "2026-10-25T01:30:00+02:00"


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("local_zone")
def test_days_are_counted_by_the_calendar() -> None:
    after_midnight = datetime.fromisoformat("2026-03-30T00:30+02:00")  # yesterday had 23 hours
    assert parse_when("yesterday", after_midnight).isoformat() == "2026-03-29T00:00:00+01:00"
    assert parse_when("00:45", after_midnight).isoformat() == "2026-03-29T00:45:00+01:00"
    noon = datetime.fromisoformat("2026-03-29T12:00+02:00")
    eve = parse_when("yesterday 23:30", noon)
    assert eve.isoformat() == "2026-03-28T23:30:00+01:00"
    assert parse_when("3:30", noon, after=eve).isoformat() == "2026-03-29T03:30:00+02:00"


def test_the_end_of_a_span_comes_after_its_start() -> None:
    start = parse_when("yesterday 23:00", NOW)
    assert parse_when("23:30", NOW, after=start) == at(2026, 11, 26, 23, 30)
    assert parse_when("1:30", NOW, after=start) == at(2026, 11, 27, 1, 30)
    assert parse_when("11:30", NOW, after=at(2026, 11, 27, 10, 0)) == at(2026, 11, 27, 11, 30)


@pytest.mark.parametrize(
    "text", ["", "25:00", "10:60", "tomorrow", "-x", "-", "@", "@x", "yesterday noon", "10h", "27.11.2026"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"yesterday 10:30|-15m|since 1970"):
        parse_when(text, NOW)


@pytest.mark.usefixtures("local_zone")
@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31T23:59:59.9"])
def test_what_no_zone_has(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is too far away"):
        parse_when(text, datetime.now().astimezone())


def test_a_span() -> None:
    assert [parse_span(text) for text in ("15m", "1d12h", "90", " 2h ")] == [900, 129600, 90, 7200]
    assert parse_span("15") == 15
    for text in ("", "-15m", "m", "1m1h"):
        with pytest.raises(ValueError, match="must be numbers with the units"):
            parse_span(text)


def test_the_zone_is_told_by_name_and_offset() -> None:
    assert zone(NOW) == "CET (+01:00)"


def test_a_fixed_offset_is_the_system_zone() -> None:
    now = datetime.now().astimezone()
    assert parse_when("2026-07-01T10:00", now) == datetime(2026, 7, 1, 10, 0).astimezone()

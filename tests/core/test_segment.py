"""Names of segments."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipdump_core.clock import local_iso
from sipdump_core.segment import Segment, Starts, StoredSegment


@given(st.text(max_size=20).filter(lambda t: "/" not in t), st.integers(0, 4_000_000_000), st.integers(0, 999_999))
def test_names_round_trip(prefix: str, start: int, sequence: int) -> None:
    segment = Segment.starting(prefix, start)
    for _ in range(sequence % 3):
        segment = segment.next()
    named = Segment(prefix, segment.stamp, segment.sequence, ".data")
    assert Segment.parse(named.name, prefix, ".data") == named
    assert Segment.parse(named.name, prefix, ".pcap") is None


def test_the_name_is_kamailios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    segment = Segment.starting("kamailio-sipdump-", 1_795_386_431.9)
    assert segment.name == "kamailio-sipdump-2026-11-22--22-27-11"
    assert segment.next().next().stem == "kamailio-sipdump-2026-11-22--22-27-11-2"
    assert segment.start == 1_795_386_431


def test_names_are_local_time(live_in: Callable[[str], None]) -> None:
    live_in("Asia/Kathmandu")
    segment = Segment.starting("p-", 1_795_386_431)
    assert segment.stamp == "2026-11-23--04-12-11"
    assert segment.start == 1_795_386_431


def test_names_when_the_clock_is_set_back_an_hour(live_in: Callable[[str], None]) -> None:
    live_in("Europe/Berlin")  # on 2026-10-25 at 03:00 it is 02:00
    first = 1_792_888_200  # 02:30 for the first time
    assert [Segment.starting("p-", first + seconds).stamp[12:] for seconds in (-3600, 0, 3600, 7200)] == [
        "01-30-00", "02-30-00", "02-30-00", "03-30-00",
    ]  # fmt: skip
    assert Segment.starting("p-", first).start in (first, first + 3600)  # the name cannot tell
    assert Segment.starting("p-", first + 7200).start == first + 7200


@pytest.mark.parametrize(
    "name",
    [
        "p-2026-11-22--23-31-00.dat",
        "p-2026-11-22--23-31-00-0.data",
        "p-2026-11-22--23-31-00-01.data",
        "p-2026-11-22--23-31-00-.data",
        "p-2026-13-22--23-31-00.data",
        "p-2026-02-30--23-31-00.data",
        "p-2026-11-22--24-31-00.data",
        "p-2026-11-22-23-31-00.data",
        "xp-2026-11-22--23-31-00.data",
        "p-2026-11-22--23-31-00.data.gz",
        "p-.data",
        "p-",
        "",
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert Segment.parse(name, "p-", ".data") is None


@given(st.tuples(st.integers(-1, 10_000), *[st.integers(-1, 99)] * 5))
def test_a_stamp_is_what_strptime_takes(fields: tuple[int, ...]) -> None:
    stamp = "{:04}-{:02}-{:02}--{:02}-{:02}-{:02}".format(*fields)
    try:
        time.strptime(stamp, "%Y-%m-%d--%H-%M-%S")
    except ValueError:
        assert Segment.parse(stamp, "", "") is None
        with pytest.raises(ValueError, match=r"."):
            _ = Segment("", stamp).start
    else:
        assert Segment.parse(stamp, "", "") == Segment("", stamp)


@given(
    st.lists(st.builds(Segment, st.sampled_from("ab"), st.just("2026-11-22--23-31-00"), st.integers(0, 20)), max_size=9)
)
def test_they_sort_by_their_parts(segments: list[Segment]) -> None:
    assert [attrs.astuple(each) for each in sorted(segments)] == sorted(attrs.astuple(each) for each in segments)


def test_digits_are_ascii() -> None:
    assert Segment.parse("p-2026-11-2٣--23-31-00.data", "p-", ".data") is None


@pytest.mark.parametrize(
    ("sealed", "pending", "state"),
    [
        (True, "", "sealed"),
        (False, "", "open"),
        (False, "unsealed", "unsealed"),
        (False, "waiting for upload", "waiting for upload"),
        (True, "unsealed", "sealed"),
    ],
)
def test_the_state_says_why_a_segment_is_not_sealed(sealed: bool, pending: str, state: str) -> None:
    assert StoredSegment(Segment("p-", "2026-11-22--00-00-00"), 5, 1.0, sealed, pending=pending).state == state


def starts(stamp: str) -> list[str]:
    """Return a stamp's start as Starts writes it, and as local_iso does."""
    segment = Segment("p-", stamp)
    return [Starts().iso(segment), local_iso(segment.start)]


@pytest.mark.parametrize(
    "zone", ["UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Africa/Monrovia"]
)
@given(st.datetimes(datetime(1900, 1, 1), datetime(2099, 12, 31)))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_starts_are_written_as_single_ones_are(live_in: Callable[[str], None], zone: str, at: datetime) -> None:
    live_in(zone)
    quick, slow = starts(at.strftime("%Y-%m-%d--%H-%M-%S"))
    assert quick == slow


@pytest.mark.parametrize(
    ("zone", "stamp"),
    [
        ("Europe/Berlin", "2026-03-29--01-30-00"),
        ("Europe/Berlin", "2026-03-29--02-30-00"),  # there is none
        ("Europe/Berlin", "2026-10-25--03-30-00"),
        ("Pacific/Apia", "2011-12-30--12-00-00"),  # a day that was left out
        ("UTC", "2016-12-31--23-59-60"),
        ("UTC", "0001-01-01--00-00-00"),
    ],
)
def test_starts_on_odd_days_are_written_as_single_ones_are(
    live_in: Callable[[str], None], zone: str, stamp: str
) -> None:
    live_in(zone)
    quick, slow = starts(stamp)
    assert quick == slow


def test_the_zone_is_asked_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = time.mktime

    def asking(parts: Any) -> float:
        asked.append(parts)
        return real(parts)

    monkeypatch.setattr(time, "mktime", asking)
    many = Starts()
    for minute in range(60):
        many.iso(Segment("p-", f"2026-11-22--10-{minute:02}-00"))
    assert len(asked) == 2

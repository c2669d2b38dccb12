"""Rotation: when a segment is full or stale."""

import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sipdump_core.lifecycle.rotation import LONGEST_SHIFT, Rotation, next_on_the_clock
from sipdump_core.record import Record
from tests.support import examples, record


def take(rotation: Rotation, records: Sequence[Record]) -> int:
    return rotation.take(len(records), rotation.weigh(records))


def test_rotation_by_time() -> None:
    rotation = Rotation(7200)
    rotation.begin(50.0, 0.0)
    assert rotation.due(50.0, 0.0) == 7200.0
    assert rotation.due(7250.0, -1e9) == 0.0
    assert take(rotation, [record()] * 1000) == 1000


def test_rotation_by_records_is_exact() -> None:
    rotation = Rotation(7200, records=5)
    assert [take(rotation, [record()] * 3) for _ in range(3)] == [3, 2, 0]
    rotation.begin(0, 0)
    assert take(rotation, [record()] * 9) == 5


def lengths(records: Sequence[Record]) -> list[int]:
    return [len(one.buf) for one in records]


def test_rotation_by_size_counts_the_largest_file_and_never_refuses_the_first_record() -> None:
    rotation = Rotation(7200, size=100, sizes=[lengths, lambda records: [2 * length for length in lengths(records)]])
    assert take(rotation, [record(b"x" * 20)] * 9) == 2  # 2 * 20 * 2 = 80, a third would make 120
    assert take(rotation, [record(b"x" * 20)]) == 0
    rotation.begin(0, 0)
    assert take(rotation, [record(b"x" * 999), record(b"x")]) == 1
    rotation.begin(0, 0)
    assert take(rotation, [record(b"x" * 50), record(b"x")]) == 1


def test_rotation_by_size_counts_what_a_file_begins_with() -> None:
    rotation = Rotation(7200, size=100, sizes=[lengths], preambles=[lambda: 24])
    rotation.begin(0, 0)
    assert take(rotation, [record(b"x" * 20)] * 9) == 3


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_rotation_by_size_is_exact_however_many_come_at_once(count: int) -> None:
    rotation = Rotation(7200, size=70 * 20, sizes=[lengths])
    rotation.begin(0, 0)
    batch = [record(b"x" * 20)] * count
    assert take(rotation, batch) == min(count, 70)
    assert take(rotation, batch) == max(0, min(count, 70 - count))


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def live_in(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield live_in
    monkeypatch.undo()
    time.tzset()


HOUR, DAY = 3600, 86400


def local(text: str, *, dst: int = -1) -> float:
    return time.mktime((*time.strptime(text, "%Y-%m-%d %H:%M:%S")[:8], dst))


def ends(start: float, interval: int, count: int) -> list[str]:
    """Return when segments end, each beginning where the last one ended."""
    found = []
    for _ in range(count):
        start = next_on_the_clock(start, interval)
        found.append(time.strftime("%d %H:%M:%S %Z", time.localtime(start)))
    return found


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (HOUR, ["22 23:00:00 IST", "23 00:00:00 IST"]),
        (900, ["22 22:30:00 IST", "22 22:45:00 IST"]),
        (6 * HOUR, ["23 00:00:00 IST", "23 06:00:00 IST"]),
        (DAY, ["23 00:00:00 IST", "24 00:00:00 IST"]),
        (2, ["22 22:27:12 IST", "22 22:27:14 IST"]),
    ],
)
def test_segments_end_on_the_local_clock(zone: Callable[[str], None], interval: int, expected: list[str]) -> None:
    zone("Asia/Kolkata")  # half an hour off UTC's hours
    assert ends(local("2026-11-22 22:27:11") + 0.9, interval, 2) == expected


def test_when_daylight_saving_time_begins_no_end_is_missed(zone: Callable[[str], None]) -> None:
    zone("Europe/Berlin")  # at 02:00 it is 03:00
    start = local("2026-03-29 00:30:00")
    assert ends(start, HOUR, 3) == ["29 01:00:00 CET", "29 03:00:00 CEST", "29 04:00:00 CEST"]
    assert ends(start, 2 * HOUR, 2) == ["29 04:00:00 CEST", "29 06:00:00 CEST"]
    assert ends(start, DAY, 2) == ["30 00:00:00 CEST", "31 00:00:00 CEST"]


def test_when_daylight_saving_time_ends_the_hour_that_comes_twice_has_two_segments(
    zone: Callable[[str], None],
) -> None:
    zone("Europe/Berlin")  # at 03:00 it is 02:00
    start = local("2026-10-25 01:30:00")
    assert ends(start, HOUR, 4) == [
        "25 02:00:00 CEST", "25 02:00:00 CET", "25 03:00:00 CET", "25 04:00:00 CET"
    ]  # fmt: skip
    assert ends(start, 6 * HOUR, 2) == ["25 06:00:00 CET", "25 12:00:00 CET"]
    assert ends(start, DAY, 2) == ["26 00:00:00 CET", "27 00:00:00 CET"]


def test_a_shift_of_half_an_hour(zone: Callable[[str], None]) -> None:
    zone("Australia/Lord_Howe")  # on 2026-04-05 at 02:00 it is 01:30
    assert [end[:8] for end in ends(local("2026-04-05 01:10:00", dst=1), HOUR, 2)] == ["05 02:00", "05 03:00"]


@examples(150)
@given(st.floats(1_767_000_000, 1_830_000_000), st.integers(1, 3 * DAY), st.sampled_from(["Europe/Berlin", "UTC"]))
@example(1_774_732_120.0, 14_020, "Europe/Berlin")  # a multiple in the hour that daylight saving time leaves out
def test_an_end_is_a_multiple_and_not_far(start: float, interval: int, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        end = next_on_the_clock(start, interval)
        assert start < end <= start + 2 * interval + LONGEST_SHIFT
        rotation = Rotation(interval, align=True)
        rotation.begin(0.0, start)
        assert 0 < rotation.due(0.0, start) <= interval + LONGEST_SHIFT
        assert (end + time.localtime(end).tm_gmtoff) % interval == 0
    time.tzset()


def test_rotation_on_the_clock(zone: Callable[[str], None]) -> None:
    zone("UTC")
    rotation = Rotation(HOUR, align=True)
    rotation.begin(50.0, local("2026-11-22 22:27:11"))
    assert rotation.due(50.0, local("2026-11-22 22:27:11")) == 32 * 60 + 49
    assert rotation.due(60.0, local("2026-11-22 23:00:00")) == 0  # the wall clock was set
    assert rotation.due(50.0 + HOUR, local("2026-11-22 20:00:00")) == LONGEST_SHIFT  # and set back: not for ever

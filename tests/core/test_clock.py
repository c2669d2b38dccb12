"""Times for people."""

from collections.abc import Callable

from sipdump_core.clock import Clock, local_iso


def test_times_are_local_with_their_offset(live_in: Callable[[str], None]) -> None:
    live_in("Asia/Kathmandu")
    assert local_iso(1_795_386_431.9) == "2026-11-23T04:12:11+0545"
    live_in("Europe/Berlin")
    assert [local_iso(1_792_888_200 + seconds) for seconds in (0, 3600)] == [
        "2026-10-25T02:30:00+0200", "2026-10-25T02:30:00+0100",
    ]  # fmt: skip


def test_intervals_do_not_follow_the_wall_clock() -> None:
    clock = Clock()
    assert clock.monotonic() <= clock.monotonic()
    assert abs(clock.time() - clock.monotonic()) > 3600

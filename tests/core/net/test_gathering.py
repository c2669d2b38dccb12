"""When datagrams are left to gather."""

import pytest

from sipdump_core.net.gathering import Gathering

LARGE = 32 << 20


def naps(gathering: Gathering, *, rate: int, windows: int = 3) -> list[float]:
    """Return the naps after rounds of a millisecond each, at so many datagrams a second."""
    return [gathering.nap(rate // 1000, 100 + ms / 1000) for ms in range(11 * windows)]


def test_under_load_datagrams_gather_for_two_milliseconds() -> None:
    assert naps(Gathering(LARGE), rate=60_000)[-1] == 0.002


def test_light_traffic_never_waits() -> None:
    assert not any(naps(Gathering(LARGE), rate=4_000))
    gathering = Gathering(LARGE)
    assert [gathering.nap(1, second) for second in range(100, 103)] == [0, 0, 0]


def test_a_burst_alone_is_no_load() -> None:
    gathering = Gathering(LARGE)
    gathering.nap(0, 100)
    assert gathering.nap(40, 100.001) == 0
    assert gathering.nap(1, 100.5) == 0


def test_after_load_the_next_single_message_does_not_wait() -> None:
    gathering = Gathering(LARGE)
    naps(gathering, rate=60_000)
    assert gathering.nap(1, 101) == 0


@pytest.mark.parametrize(("buffer", "nap"), [(212_992, 0), (1 << 20, 64 / 60_000), (LARGE, 0.002)])
def test_no_more_gather_than_the_buffer_has_room_for(buffer: int, nap: float) -> None:
    assert naps(Gathering(buffer), rate=60_000)[-1] == pytest.approx(nap, rel=0.2)

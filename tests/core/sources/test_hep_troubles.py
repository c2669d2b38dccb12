"""What is told of senders, a line a minute."""

from collections import Counter

import pytest

from sipdump_core.sources.hep_troubles import Troubles


def test_a_line_a_minute_with_the_count_and_the_worst_sender(caplog: pytest.LogCaptureFixture) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    troubles = Troubles()
    for second in range(121):
        counts["auth_failed", "192.0.2.1"] += 2
        counts["auth_failed", "192.0.2.2"] += 1
        if second == 30:
            counts["time_replaced", "192.0.2.3"] += 1
        troubles.log(counts, float(second))
    told = [line for line in caplog.messages if "auth key" in line]
    assert ["count=3 peer=192.0.2.1 peers=2" in told[0], "count=180 peer=192.0.2.1 peers=2" in told[1]] == [True, True]
    assert len(told) == 3
    assert sum("time_window" in line and "count=1 peer=192.0.2.3 hint=" in line for line in caplog.messages) == 1
    assert not counts

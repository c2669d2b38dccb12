"""The event route, with a plain Python callable."""

import sys
from pathlib import Path

from sipdump_core.sipdump import SipDump
from tests.support import record


def test_a_plain_callback_that_exits_ends_nothing(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=3, folder=tmp_path) as one:
        one.event_route(lambda _: sys.exit(1))
        one.intercept([record()])
        assert one.stats().route_errors == 1
    assert b"\ntag: rcv\n" in next(tmp_path.glob("*.data")).read_bytes()

"""What all tests share."""

import logging
import os
import time
from collections.abc import Iterator

import pytest

from sipdump_core.log import log


@pytest.fixture(autouse=True)
def _own_time_zone_and_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees another one's time zone or log handlers."""
    yield
    monkeypatch.undo()
    os.environ.setdefault("TZ", "")
    if not os.environ["TZ"]:
        del os.environ["TZ"]
    time.tzset()
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)

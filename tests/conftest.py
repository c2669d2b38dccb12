"""What all tests share."""

import logging
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

from sipdump_core.log import log

# On a CI machine the same examples each time: a change is judged by what it changes. Elsewhere, new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


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

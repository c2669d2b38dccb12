"""What all tests share."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sipdump_core.log import log
from tests.s3_server import Server, moto_server

# On a CI machine the same examples each time: a change is judged by what it changes. Elsewhere, new ones.
# Nowhere is an example too slow: the machine may be busy. What must be quick has a test of its own.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Programs that tests start keep what they compile, whatever the environment says: it takes half of their start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell's background job ignores Ctrl-C, and so would the programs that tests send it to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Each process lives in another zone, so that local time is never UTC by chance: "TZ=UTC make test" sets one for all.
_ZONES = ("Asia/Kathmandu", "America/St_Johns", "Europe/Berlin", "Australia/Lord_Howe")
_ZONE = os.environ.get("TZ") or _ZONES[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % len(_ZONES)]


def pytest_configure() -> None:
    if not Path("/usr/share/zoneinfo", _ZONE).exists():
        raise pytest.UsageError(f"the time zone {_ZONE} is not known: install tzdata, or set TZ to one that is")
    _live_in(_ZONE)


def pytest_report_header() -> str:
    return f"time zone: {_ZONE}"


def _live_in(zone: str) -> None:
    os.environ["TZ"] = zone
    time.tzset()


@pytest.fixture(autouse=True)
def _own_time_zone_and_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees another one's time zone or log handlers."""
    yield
    monkeypatch.undo()
    _live_in(_ZONE)
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture
def live_in() -> Callable[[str], None]:
    """Lets a test live in a time zone, until its end."""
    return _live_in


@pytest.fixture
def utc() -> None:
    """Lets a test live in UTC."""
    _live_in("UTC")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """An S3 server, for all tests of this process."""
    with moto_server() as running:
        yield running


@pytest.fixture
def s3_bucket(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of the test's own, and the environment in which boto3 gets in."""
    s3_server.enter(monkeypatch)
    with s3_server.bucket() as name:
        yield name

"""What all tests share."""

import logging
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sipdump_core.log import log
from sipdump_parquet import sealer
from tests.s3_server import Server, moto_server
from tests.sealing import Here

# On a CI machine the same examples each time: a change is judged by what it changes. Elsewhere, new ones.
# Nowhere is an example too slow: the machine may be busy. What must be quick has a test of its own.
settings.register_profile(
    "sipdump", derandomize="CI" in os.environ, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sipdump")

# Programs that tests start keep what they compile, whatever the environment says: it takes half of their start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell's background job ignores Ctrl-C, and so would the programs that tests send it to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# They take longest; at the end, one worker would wait for another.
_FIRST = ("tests/e2e/test_third_party.py", "tests/core/testing/", "tests/core/scaffold/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))


# Each process lives in another zone, so that local time is never UTC by chance: "TZ=UTC make test" sets one for all.
# Where a machine has no database of time zones, their rules as POSIX writes them do.
_ZONES = {
    "Asia/Kathmandu": "<+0545>-5:45",
    "America/St_Johns": "NST3:30NDT,M3.2.0,M11.1.0",
    "Europe/Berlin": "CET-1CEST,M3.5.0,M10.5.0/3",
    "Australia/Lord_Howe": "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
}
_NAME = list(_ZONES)[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % len(_ZONES)]
_ZONE = os.environ.get("TZ") or (_NAME if Path("/usr/share/zoneinfo", _NAME).exists() else _ZONES[_NAME])


def pytest_configure() -> None:
    _live_in(_ZONE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have no surrogates in what was captured: xdist cannot send them, and ends."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


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


@pytest.fixture(autouse=True)
def _seal_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet files are made in the process of the test, except where the test is about the one that makes them."""
    if "in_a_child" not in request.fixturenames:
        monkeypatch.setattr(sealer, "Child", Here)


@pytest.fixture
def in_a_child() -> None:
    """Has Parquet files made by a process of their own, as for users."""


@pytest.fixture
def live_in() -> Callable[[str], None]:
    """Lets a test live in a time zone, until its end."""
    return _live_in


@pytest.fixture
def utc() -> None:
    """Lets a test live in UTC."""
    _live_in("UTC")


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy knows of the standard library and of sipdump, for all tests of this process that run it."""
    return tmp_path_factory.mktemp("mypy")


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

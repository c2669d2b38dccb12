"""A check ends in time, whoever else has set a limit."""

import signal
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from sipdump_core.testing import does_not_apply, not_checked, promise
from sipdump_core.testing.promises import applies


class Checks:
    time_limit = 0.05

    @promise
    def hangs(self) -> None:
        """It ends."""
        threading.Event().wait(30)

    @promise
    def ends(self) -> None:
        """It ends."""


@pytest.fixture
def _alarm() -> Iterator[None]:
    """Somebody else's limit."""
    before, left = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, 50)
    yield
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, left)


def _ring(*_: object) -> None:
    raise TimeoutError


@pytest.mark.usefixtures("_alarm")
def test_a_check_that_hangs_is_ended_within_the_limit_of_another() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"It ends\.\nit did not end within 0\.05 s"):
        Checks().hangs()
    Checks().ends()
    assert signal.getsignal(signal.SIGALRM) is _ring
    assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50


def test_skips_say_whether_the_check_should_have_run() -> None:
    with pytest.raises(pytest.skip.Exception, match="not checked: no proxy") as first:
        not_checked("no proxy")
    with pytest.raises(pytest.skip.Exception, match="does not apply: no files") as second:
        does_not_apply("no files")
    assert applies(first.value)
    assert not applies(second.value)


def test_public_names_are_no_modules() -> None:
    from sipdump_core.testing import Contract, FaultProxy, record

    assert not any(isinstance(one, ModuleType) for one in (Contract, FaultProxy, record, promise, not_checked))

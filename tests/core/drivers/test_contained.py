"""What a driver does at its import and in its constructor holds nothing up, and leaves the process as it is."""

import faulthandler
import gc
import locale
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.contained import contained
from sipdump_core.errors import DriverError
from sipdump_core.log import log
from tests.support import wait_for


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """If one of these tests fails, the others do not."""
    folder, mask = os.getcwd(), os.umask(0o022)
    yield
    os.chdir(folder)
    os.umask(mask)
    socket.setdefaulttimeout(None)


def test_it_returns_what_the_call_returns_and_raises_what_it_raises() -> None:
    assert contained("bad", "import", lambda: 5) == 5
    for error in (ValueError("x"), SystemExit(3), DriverError("y")):
        with pytest.raises(type(error), match=str(error)):
            contained("bad", "import", lambda error=error: exec("raise error", {"error": error}))  # type: ignore[misc]


def test_a_ctrl_c_of_its_own_is_an_error_like_others() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(DriverError, match="its import raised KeyboardInterrupt"):
        contained("bad", "import", interrupt)


def test_a_call_that_hangs_is_given_up_and_not_begun_again() -> None:
    free = threading.Event()
    calls: list[int] = []

    def hang() -> str:
        calls.append(1)
        free.wait(30)
        return "at last"

    with pytest.raises(DriverError, match=r"its import has not returned within 0\.05 s, and is given up"):
        contained("hanging", "import", hang, 0.05)
    with pytest.raises(DriverError, match="its import has not returned for"):
        contained("hanging", "import", hang, 0.05)
    assert calls == [1]
    free.set()
    wait_for(lambda: "sipdump-hanging-import" not in [thread.name for thread in threading.enumerate()])
    assert contained("hanging", "import", hang, 5) == "at last"


def test_one_that_makes_another_does_not_wait_for_it() -> None:
    def outer() -> threading.Thread:
        return contained("inner", "constructor", threading.current_thread)

    assert contained("outer", "constructor", outer).name == "sipdump-outer-constructor"


def test_signals_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)  # pytest-timeout's
    real, before = signal.signal, signal.getsignal(signal.SIGTERM)
    kept: list[Callable[..., Any]] = []

    def ignore() -> Any:
        from signal import signal as taken

        kept.append(taken)
        signal.set_wakeup_fd(5)
        signal.setitimer(signal.ITIMER_REAL, 100)
        return taken(signal.SIGTERM, signal.SIG_IGN)

    assert contained("bad", "import", ignore) is before
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.signal is real
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert "signal=15" in caplog.text
    assert kept[0](signal.SIGTERM, before) is before  # later it is the real one


def _dict_config() -> None:
    import logging.config

    logging.config.dictConfig({"version": 1})


def _move() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "working folder": (os.getcwd, lambda: os.chdir("/")),
    "umask": (lambda: Path("/proc/self/status").read_text().partition("Umask:")[2][:6], lambda: os.umask(0)),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8")),
    "time zone": (lambda: time.tzname, _move),
    "sys.excepthook": (lambda: sys.excepthook, lambda: setattr(sys, "excepthook", None)),
    "sys.unraisablehook": (lambda: sys.unraisablehook, lambda: setattr(sys, "unraisablehook", None)),
    "threading.excepthook": (lambda: threading.excepthook, lambda: setattr(threading, "excepthook", None)),
    "sys.stderr": (lambda: sys.stderr, lambda: setattr(sys, "stderr", None)),
    "default time-out of sockets": (socket.getdefaulttimeout, lambda: socket.setdefaulttimeout(0.1)),
    "recursion limit": (sys.getrecursionlimit, lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1)),
    "switch interval": (sys.getswitchinterval, lambda: sys.setswitchinterval(1)),
    "garbage collector": (gc.isenabled, gc.disable),
    "logging": (lambda: (log.disabled, log.isEnabledFor(logging.ERROR)), _dict_config),
    "warnings": (lambda: warnings.filters[0], lambda: warnings.simplefilter("ignore")),
    "faulthandler": (faulthandler.is_enabled, faulthandler.disable),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_belongs_to_the_process_is_set_back(what: str, caplog: pytest.LogCaptureFixture) -> None:
    look, change = CHANGES[what]
    if what == "faulthandler" and not faulthandler.is_enabled():
        pytest.skip("it is not enabled here")
    if what == "locale" and locale.setlocale(locale.LC_ALL) == "C.UTF-8":
        pytest.skip("it has that already")
    before = look()
    contained("bad", "constructor", change)
    assert look() == before
    assert "a driver changed what is not its own" in caplog.text
    assert what in caplog.text


def test_nothing_is_said_of_one_that_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    contained("good", "import", lambda: None)
    assert caplog.text == ""


def test_what_it_prints_is_not_taken_for_data(capsys: pytest.CaptureFixture[str]) -> None:
    contained("bad", "import", lambda: print("hello"))
    print("data")
    assert capsys.readouterr() == ("data\n", "hello\n")

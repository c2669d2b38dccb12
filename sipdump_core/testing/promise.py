"""A check, and the promise that it tests."""

import contextlib
import functools
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import pytest

__all__ = ["DOES_NOT_APPLY", "NOT_CHECKED", "applies", "does_not_apply", "not_checked", "promise", "promise_of"]

NOT_CHECKED, DOES_NOT_APPLY = "not checked: ", "does not apply: "
"""What the reason for a skip begins with, if the check should have run and if it need not."""

Check = TypeVar("Check", bound=Callable[..., None])


def promise(check: Check) -> Check:
    """Turn a test into a check of the contract: the first line of its docstring is the promise, and begins a failure.

    Whatever the test raises breaks the promise; the exception is the detail after it.
    """
    sentence = promise_of(check)

    @functools.wraps(check)
    def run(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        try:
            with _limit(getattr(args[0], "time_limit", 0.0) if args else 0.0):
                check(*args, **kwargs)
        except (AssertionError, pytest.fail.Exception) as failure:  # pytest.raises fails with the latter
            raise _broken(sentence, str(failure), failure) from None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a driver may raise anything
            raise _broken(sentence, f"{type(error).__name__}: {error}", error) from None

    run.sipdump_promise = sentence  # type: ignore[attr-defined]  # the plugin's report reads it
    return run  # type: ignore[return-value]  # it is called as the check is


def _broken(sentence: str, detail: str, error: BaseException) -> BaseException:
    """Return the failure for the report: the promise, the detail, and where in the check it was raised."""
    said = detail.partition("\n")[0]  # without pytest's additions to assertions
    return pytest.fail.Exception(f"{sentence}\n{said}").with_traceback(error.__traceback__)


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, where possible: in the main thread, if nobody else uses SIGALRM."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGALRM) != signal.SIG_DFL:
        yield
        return

    def hangs(*_: object) -> None:
        raise AssertionError(f"it did not end within {seconds:g} s")

    signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def promise_of(check: Callable[..., Any]) -> str:
    """Return the promise that a check tests."""
    return (inspect.getdoc(check) or "").partition("\n")[0]


def not_checked(why: str) -> NoReturn:
    """Skip a check because the test does not let it run; the report says so. With ``--sipdump-strict`` it fails.

    Args:
        why: the reason, as ``"outage() is not overridden"``.
    """
    pytest.skip(f"{NOT_CHECKED}{why}")


def does_not_apply(why: str) -> NoReturn:
    """Skip a check of what this backend does not do, and need not do; the report says so.

    Args:
        why: the reason, as ``"the backend has no segments()"``.
    """
    skip = pytest.skip.Exception(f"{DOES_NOT_APPLY}{why}")
    skip.sipdump_does_not_apply = True  # type: ignore[attr-defined]  # see applies()
    raise skip


def applies(skip: BaseException) -> bool:
    """Return whether a check that was skipped should have run."""
    return not getattr(skip, "sipdump_does_not_apply", False)

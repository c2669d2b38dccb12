"""A driver may raise anything, and fails alone."""

import asyncio
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from typing import cast

import pytest

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.guard import Guard, blaming, each_of, labelled, timely
from sipdump_core.errors import ConfigError, DriverError
from tests.support import wait_for

BACKEND = Backend(NoOptions(), Site("", "", distribution="sipdump-bad 1.5"))
ANYTHING = [RuntimeError("bug"), SystemExit(3), asyncio.CancelledError(), GeneratorExit(), StopIteration(1)]


@pytest.mark.parametrize("error", ANYTHING, ids=repr)
def test_it_keeps_whatever_is_raised(error: BaseException) -> None:
    with Guard() as guard:
        raise error
    assert guard.error is error
    assert guard.text.startswith(type(error).__name__)


def test_it_keeps_nothing_where_nothing_is_raised() -> None:
    with Guard() as guard:
        pass
    assert guard.error is None
    assert guard.text == ""


def test_ctrl_c_passes_in_the_main_thread_only() -> None:
    with pytest.raises(KeyboardInterrupt), Guard():
        raise KeyboardInterrupt
    kept: list[BaseException | None] = []

    def run() -> None:
        with Guard() as guard:
            raise KeyboardInterrupt
        kept.append(guard.error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert isinstance(kept[0], KeyboardInterrupt)


@pytest.mark.parametrize("error", ANYTHING, ids=repr)
def test_a_drivers_error_names_the_driver(error: BaseException) -> None:
    with (
        pytest.raises(DriverError, match=r"list: the backend  of sipdump-bad 1\.5 raised ") as raised,
        blaming(BACKEND, "list"),
    ):
        raise error
    assert raised.value.__cause__ is error


def test_errors_of_sipdump_pass_as_they_are() -> None:
    error = ConfigError("wrong")
    with pytest.raises(ConfigError) as raised, blaming(BACKEND, "list"):
        raise error
    assert raised.value is error


def test_what_a_call_yields_comes_until_it_raises() -> None:
    def call() -> Iterator[int]:
        yield from (1, 2)
        raise SystemExit(3)

    items = each_of(BACKEND, "read", call)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(DriverError, match="raised SystemExit: 3"):
        next(items)


def test_an_end_before_the_last_item_is_no_error() -> None:
    items = each_of(BACKEND, "read", lambda: iter([1, 2]))
    assert next(items) == 1
    cast(Generator[int, None, None], items).close()
    assert list(items) == []


def test_a_call_is_labelled_in_a_traceback() -> None:
    def write(batch: list[int], *, more: int) -> int:
        return batch[5] + more

    call = labelled("kafka", "write()", write)
    assert call([0, 0, 0, 0, 0, 2], more=3) == 5
    with pytest.raises(IndexError) as raised:
        call([], more=3)
    assert "in backend kafka, write()" in "".join(traceback.format_tb(raised.tb))


def test_what_yields_is_labelled_while_it_yields() -> None:
    def segments() -> Iterator[str]:
        yield "".join(traceback.format_stack())

    (stack,) = each_of(BACKEND, "list", segments)
    assert "in backend , segments()" in stack


@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("labelled('kafka', 'write()', ctypes.string_at)(0)", "in backend kafka, write()"),
        ("list(each_of(B(None, None), 'read', lambda: map(ctypes.string_at, [0])))", "in backend kafka, read()"),
    ],
)
def test_a_crash_report_names_the_driver(code: str, label: str) -> None:
    script = (
        "import ctypes, faulthandler\nfrom sipdump_core.drivers.base import Backend\n"
        "from sipdump_core.drivers.guard import each_of, labelled\nfaulthandler.enable()\n"
        f"class B(Backend): name = 'kafka'\n{code}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode < 0
    assert label in done.stderr


def test_what_comes_in_time_comes_whole_and_in_order() -> None:
    def slow() -> Iterator[int]:
        for item in range(5):
            time.sleep(0.03)
            yield item

    assert list(timely(BACKEND, "list", slow, 5)) == [0, 1, 2, 3, 4]
    assert list(timely(BACKEND, "list", lambda: range(10_000), 5)) == list(range(10_000))
    assert list(timely(BACKEND, "list", tuple, 5)) == []


def test_what_is_silent_for_too_long_is_given_up_and_not_asked_again() -> None:
    free = threading.Event()

    asked: list[int] = []

    def hang() -> Iterator[int]:
        asked.append(1)
        yield 1
        yield 2
        free.wait(30)

    items = timely(BACKEND, "hang", hang, 0.2)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(
        DriverError, match=r"hang: the backend  of sipdump-bad 1\.5 has answered nothing for 0\.2 s, and"
    ):
        next(items)
    with pytest.raises(DriverError, match="and is given up"):
        next(timely(BACKEND, "hang", hang, 0.2))
    assert asked == [1]
    assert list(timely(BACKEND, "other", lambda: [1], 5)) == [1]
    free.set()
    wait_for(lambda: "sipdump--hang" not in [thread.name for thread in threading.enumerate()])
    assert list(timely(BACKEND, "hang", hang, 5)) == [1, 2]


def test_a_slow_taker_is_not_the_drivers_silence() -> None:
    items = timely(BACKEND, "list", lambda: range(3), 0.05)
    for item in range(3):
        time.sleep(0.06)
        assert next(items) == item
    assert list(items) == []


def test_what_a_timely_call_raises_comes_after_what_it_yields() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise SystemExit(3)

    items = timely(BACKEND, "list", broken, 5)
    assert next(items) == 1
    with pytest.raises(DriverError, match="raised SystemExit: 3"):
        next(items)


def test_a_driver_is_not_far_ahead_of_who_takes_and_ends_with_him() -> None:
    given: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            given.append(1)
            yield 1

    items = timely(BACKEND, "endless", endless, 5)
    assert next(items) == 1
    wait_for(lambda: len(given) >= 4096)
    cast(Generator[int, None, None], items).close()
    wait_for(lambda: "sipdump--endless" not in [thread.name for thread in threading.enumerate()])
    assert len(given) < 5000

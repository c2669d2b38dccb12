"""A driver may raise anything, and fails alone."""

import asyncio
import threading
from collections.abc import Generator, Iterator
from typing import cast

import pytest

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.guard import Guard, blaming, each_of
from sipdump_core.errors import ConfigError, DriverError

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

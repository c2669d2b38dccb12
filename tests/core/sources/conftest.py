"""Fixtures of the sources' tests."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.sources.workers import Bench


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Bench:
            bench = Bench(tmp_path, **options)
            stack.callback(bench.close)
            return bench

        yield make

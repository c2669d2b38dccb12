"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.peers import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Starts the programs of one test, and ends them with it."""
    with Stage(tmp_path) as programs:
        yield programs

"""What the tests of Parquet share."""

import ctypes

import pytest

from sipdump_speedups import load
from sipdump_speedups.build import build
from tests.e2e.peers import lacking


@pytest.fixture(scope="session")
def speedups(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library in C, built of the source as it is."""
    path = tmp_path_factory.mktemp("speedups") / "fields.so"
    refusal = build(path, ["-Wall", "-Wextra", "-Werror"])
    library = load(path)
    if library is None:
        lacking(f"the library in C cannot be built: {refusal}")
    return library

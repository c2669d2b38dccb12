"""A folder with segments."""

import os
import time
from pathlib import Path

import pytest

from sipdump_core.sipdump import SipDump
from tests.support import record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two segments, the first three days old."""
    with SipDump(enable=1, mode=5, folder=tmp_path) as dump:
        dump.intercept([record()] * 3)
        assert dump.flush(60)
        dump.rotate()
        dump.intercept([record()])
    first = sorted(p.stem for p in tmp_path.glob("*.data"))[-1]  # "-1" sorts before the plain name
    for path in tmp_path.glob(first + ".*"):
        os.utime(path, (time.time() - 259_200,) * 2)
    return tmp_path

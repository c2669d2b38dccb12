"""The base of backends of files."""

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.errors import StorageFullError
from sipdump_core.segment import Segment
from sipdump_text import TextBackend
from tests.core.support import read
from tests.support import record


def test_a_segment_is_sealed_though_a_forked_child_still_has_it_open(tmp_path: Path) -> None:
    """Not every child can be told to let go of it: a C library may have forked."""
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(Segment("p-", "2026-11-22--00-00-00", 0, ".data"))
    backend.write([record(b"first")])
    with subprocess.Popen(["sleep", "60"], pass_fds=[backend._fd]) as child:
        assert [stored.sealed for stored in backend.segments()] == [False]
        backend.close()
        assert [stored.sealed for stored in backend.segments()] == [True]
        child.kill()


def test_a_write_error_takes_the_torn_part_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(Segment("p-", "2026-11-22--00-00-00", 0, ".data"))
    backend.write([record(b"first")])
    real = os.write
    budget = [100]

    def scarce(fd: int, data: Any) -> int:
        if not budget[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(fd, bytes(data)[: budget[0]])
        budget[0] -= count
        return count

    monkeypatch.setattr(os, "write", scarce)
    with pytest.raises(StorageFullError, match=r"No space left on device.*free space"):
        backend.write([record(b"second")])
    monkeypatch.undo()
    backend.write([record(b"third")])
    backend.close()
    assert [one.buf for one in read(tmp_path, "p-")] == [b"first", b"third"]

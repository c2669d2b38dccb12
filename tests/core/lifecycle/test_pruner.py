"""Pruning in the background."""

import os
from pathlib import Path

from sipdump_core.sipdump import SipDump
from tests.support import wait_for


def test_prune_runs_at_start(tmp_path: Path) -> None:
    old = tmp_path / "kamailio-sipdump-2020-01-01--00-00-00.data"
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    with SipDump(folder=tmp_path, fage=60):
        wait_for(lambda: not old.exists())

"""Fixtures of the control sockets' tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.control.commands import Rpc
from sipdump_core.control.server import Ctl
from sipdump_core.settings.ctl import CtlOptions
from sipdump_core.sipdump import SipDump
from tests.core.control.clients import Start


@pytest.fixture
def rpc(tmp_path: Path) -> Iterator[Rpc]:
    with SipDump(enable=1, folder=tmp_path) as dump:
        yield Rpc(dump)


@pytest.fixture
def start(rpc: Rpc) -> Iterator[Start]:
    """Start control sockets, which end with the test."""
    started: list[Ctl] = []

    def run(**options: Any) -> Ctl:
        started.append(Ctl(CtlOptions(**options), rpc))
        return started[-1]

    yield run
    for ctl in started:
        ctl.close()

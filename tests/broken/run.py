"""Runs the contract over broken backends, in one pytest session, and tells what caught them."""

import contextlib
import io
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from sipdump_core import Backend
from sipdump_core.testing import Contract
from tests.broken.good import Fault, FileContract, GoodStream, StreamContract
from tests.broken.networks import GoodTcp, TcpContract

__all__ = ["caught"]


class _Results:
    def __init__(self) -> None:
        self.failed: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, name, check = report.nodeid.split("::")
        if report.failed and report.when != "call":
            self.problems.append(f"{report.nodeid}: {report.longreprtext}")
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failed[name.removeprefix("Test")][check.partition("[")[0]] = crash.message if crash else ""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.problems.append(report.longreprtext)


def caught(faults: Iterable[Fault], *, every_check: bool = False) -> dict[str, dict[str, str]]:
    """Run checks over backends.

    Args:
        faults: the backends, with the checks that must catch them.
        every_check: run all checks, not only those.

    Returns:
        For each backend's name the checks that failed, with what they said.
    """
    lines, select = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test_faults.py")
        for fault in faults:
            contract = _contract(fault.backend)
            name, module = fault.backend.__name__, fault.backend.__module__
            lines += [f"from {contract.__module__} import {contract.__name__}", f"from {module} import {name}"]
            lines += [
                f"class Test{name}({contract.__name__}):",
                f"    backend_class = {name}",
                f"    time_limit = {fault.time_limit}",
            ]
            node = f"{path}::Test{name}"
            select += [node] if every_check else [f"{node}::{check}" for check in fault.caught_by]
        path.write_text("\n".join(lines))
        results = _Results()
        options = ["-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={folder}"]
        with contextlib.redirect_stdout(io.StringIO()):
            status = pytest.main([*options, f"--basetemp={folder}/tmp", *select], plugins=[results])
        sys.modules.pop(path.stem, None)  # the next one is another module of the same name
    assert not results.problems, results.problems
    assert status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    return dict(results.failed)


def _contract(backend: type[Backend]) -> type[Contract]:
    for base, contract in ((GoodTcp, TcpContract), (GoodStream, StreamContract)):
        if issubclass(backend, base):
            return contract
    return FileContract

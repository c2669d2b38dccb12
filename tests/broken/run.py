"""Runs the contract over broken backends, in one pytest session, and tells what caught them."""

import contextlib
import io
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from sipdump_core import Backend, Filter
from sipdump_core.testing import Contract, FilterContract
from tests.broken.good import Fault, FileContract, GoodFilterContract, GoodStream, StreamContract
from tests.broken.networks import GoodTcp, TcpContract

__all__ = ["caught"]


class _Results:
    def __init__(self, wanted: Mapping[str, Collection[str]]) -> None:
        self.wanted = wanted
        self.failed: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.problems: list[str] = []

    def pytest_pycollect_makeitem(self, collector: pytest.Collector, name: str) -> list[pytest.Item] | None:
        """Make no item of a check that is not wanted: the contract has many, and making them takes as long as one."""
        checks = self.wanted.get(collector.name.removeprefix("Test"), ())
        return [] if checks and name.startswith("test_") and name not in checks else None

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
    lines: list[str] = []
    wanted: dict[str, Sequence[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test_faults.py")
        for fault in faults:
            contract = _contract(fault.backend)
            name, module = fault.backend.__name__, fault.backend.__module__
            lines += [f"from {contract.__module__} import {contract.__name__}", f"from {module} import {name}"]
            lines += [
                f"class Test{name}({contract.__name__}):",
                f"    {'filter' if issubclass(fault.backend, Filter) else 'backend'}_class = {name}",
                f"    time_limit = {fault.time_limit}",
            ]
            wanted[name] = () if every_check else fault.caught_by
        path.write_text("\n".join(lines))
        results = _Results(wanted)
        options = ["-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={folder}"]
        with contextlib.redirect_stdout(io.StringIO()):
            status = pytest.main([*options, f"--basetemp={folder}/tmp", str(path)], plugins=[results])
        sys.modules.pop(path.stem, None)  # the next one is another module of the same name
    assert not results.problems, results.problems
    assert status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    return dict(results.failed)


def _contract(backend: type[Backend] | type[Filter]) -> type[Contract] | type[FilterContract]:
    if issubclass(backend, Filter):
        return GoodFilterContract
    for base, contract in ((GoodTcp, TcpContract), (GoodStream, StreamContract)):
        if issubclass(backend, base):
            return contract
    return FileContract

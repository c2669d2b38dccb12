"""The certificate: what was checked of which backend, by which versions, and with what result, as JSON."""

import json
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import API_VERSION, Backend, Filter
from sipdump_core.testing.contract import Contract, checks
from sipdump_core.testing.filtering import FilterContract
from sipdump_core.testing.kit import drivers
from sipdump_core.testing.promises import NOT_CHECKED
from sipdump_core.version import VERSION

__all__ = ["FORMAT", "RESULTS", "Certificate"]

FORMAT = 1
"""Version of the certificate's format: it grows when a field is removed or changes its meaning."""
RESULTS = ("kept", "does not apply", "not checked", "broken")
"""What a check may have found, the best first; of a check with several cases the worst counts."""
_SUBJECT = "sipdump_subject"


class Certificate:
    """A plugin of pytest that gathers what is reported, and writes it at the end.

    Args:
        path: the file.
        told: returns the detail of a failure, or the reason for a skip.
        strict: whether a check that could not run fails.
        chosen: the backend that the command line names, if it does.
    """

    def __init__(
        self,
        path: Path,
        told: Callable[[pytest.TestReport], str],
        *,
        strict: bool,
        chosen: type[Backend] | type[Filter] | None,
    ) -> None:
        self._path = path.absolute()
        self._told = told
        self._chosen = chosen
        self._strict = strict
        self._suites: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Attach to a check what it checks, so that the report says so in any process."""
        cls = getattr(item, "cls", None)
        if cls is None or not issubclass(cls, (Contract, FilterContract)):
            return
        check = item.name.partition("[")[0]
        base = Contract if issubclass(cls, Contract) else FilterContract
        own = check in checks() and getattr(cls, check) is not getattr(base, check)
        subject = cls.backend_class if issubclass(cls, Contract) else cls.filter_class
        backend = self._chosen if self._chosen and subject in (Backend, Filter) else subject
        item.user_properties.append((_SUBJECT, (cls.__name__, _described(backend), own)))

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Enter a report, of one phase of a check."""
        properties: dict[str, Any] = dict(report.user_properties)
        if _SUBJECT not in properties or (report.passed and report.when != "call"):
            return
        where, _, case = report.nodeid.rpartition("::")
        name, backend, own = properties[_SUBJECT]
        suite = self._suites.setdefault(where, {"suite": name, "backend": backend, "checks": {}})
        entry = suite["checks"].setdefault(case.partition("[")[0], {"result": "kept", "cases": 0, "seconds": 0.0})
        entry["cases"] += 1
        entry["seconds"] += report.duration
        result, why = self._result(report)
        if own and result == "kept":
            result, why = "not checked", "the test class has a check of its own in its place"
        if RESULTS.index(result) > RESULTS.index(entry["result"]):
            entry |= {"result": result, "why": why}

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the file, in the process that all reports come to."""
        if not hasattr(session.config, "workerinput"):
            self._path.write_text(json.dumps(self._content(), indent=2, ensure_ascii=False) + "\n", "utf-8")

    def _result(self, report: pytest.TestReport) -> tuple[str, str]:
        """Return a report's result, and the detail of a failure or the reason for a skip."""
        if report.passed:
            return "kept", ""
        why = self._told(report)
        if report.failed and not why.startswith(NOT_CHECKED):
            return "broken", why
        kind, colon, rest = why.partition(": ")
        return (kind, rest) if colon and kind in RESULTS else ("not checked", why)

    def _content(self) -> dict[str, Any]:
        suites = [_finished(suite) for suite in self._suites.values()]
        return {
            "format": FORMAT,
            "kept": bool(suites) and all(suite["kept"] for suite in suites),
            "strict": self._strict,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": {
                "sipdump": VERSION,
                "api": API_VERSION,
                "python": platform.python_version(),
                "pytest": metadata.version("pytest"),
                "platform": f"{sys.platform} {platform.release()} {platform.machine()}",
            },
            "contracts": suites,
        }


def _finished(suite: dict[str, Any]) -> dict[str, Any]:
    """Add what did not run, the promises, and the sums."""
    ran = suite["checks"]
    absent = {"result": "not checked", "cases": 0, "seconds": 0.0, "why": "it was not run"}
    promises = {**checks(), **{check: "" for check in ran if check not in checks()}}  # a class may add its own
    listed = [{"check": check, "promise": promises[check], **ran.get(check, absent)} for check in promises]
    for entry in listed:
        entry["seconds"] = round(entry["seconds"], 3)
    counts = {result: sum(entry["result"] == result for entry in listed) for result in RESULTS}
    kept = not counts["broken"] and not counts["not checked"]
    return {"suite": suite["suite"], "backend": suite["backend"], "kept": kept, "counts": counts, "checks": listed}


def _described(cls: type[Backend] | type[Filter]) -> dict[str, Any]:
    driver = next((one for one in drivers() if one.cls is cls), None)
    return {
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "name": cls.name,
        "api": cls.api,
        "distribution": driver.distribution if driver else "",
        "version": driver.version if driver else "",
    }

"""The pytest plugin: ``pytest --sipdump-backend=NAME``, and the broken promises at the end of the report.

Every pytest on a machine with sipdump loads this: it imports nothing of sipdump, and prints nothing, until it is
used.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sipdump_core.drivers.base import Backend

__all__ = ["CHOSEN"]

CHOSEN: "pytest.StashKey[tuple[type[Backend], Any]]" = pytest.StashKey()
"""The backend's class and its options, if one was chosen on the command line."""

_SUITE = str(Path(__file__).with_name("suite.py"))
_PROMISE = "sipdump_promise"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("sipdump", "contract of sipdump's backends")
    group.addoption("--sipdump-backend", metavar="NAME", help="run the contract over the installed backend NAME")
    group.addoption(
        "--sipdump-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help='an option of that backend, as modparam("sipdump_<backend>", ...) would set it; may be repeated',
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the backend, and run the contract: alone, or together with the paths on the command line."""
    name = config.getoption("--sipdump-backend")
    if name is None:
        if config.getoption("--sipdump-option"):
            raise pytest.UsageError("--sipdump-option needs --sipdump-backend")
        return
    config.stash[CHOSEN] = _choose(name, config.getoption("--sipdump-option"))
    named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
    config.args = [_SUITE, *(arg for arg in named if arg != _SUITE)]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Name the checked backend in the report's header."""
    if CHOSEN not in config.stash:
        return None
    cls, options = config.stash[CHOSEN]
    return f"sipdump backend: {cls.name} ({cls.__module__}.{cls.__qualname__}), {options}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Attach the promise to the item, so that the report finds it in any process."""
    sentence = getattr(getattr(item, "function", None), _PROMISE, None)
    if sentence:
        item.user_properties.append((_PROMISE, sentence))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List each broken promise once, and what was not checked."""
    broken = dict(_by_check(terminalreporter.getreports("failed") + terminalreporter.getreports("error")))
    passed_over: dict[str, list[str]] = {}
    for check, (_, told) in _by_check(terminalreporter.getreports("skipped")):
        passed_over.setdefault(next(iter(told.values())), []).append(check)
    if broken:
        terminalreporter.section("broken promises")
        for check, (sentence, told) in broken.items():
            terminalreporter.line(f"{check}: {sentence}", red=True)
            for case, text in list(told.items())[:5]:
                terminalreporter.line(f"    {case}{text}")
            if len(told) > 5:
                terminalreporter.line(f"    ... and {len(told) - 5} more")
    if passed_over:
        terminalreporter.section("not checked")
        for why, those in passed_over.items():
            terminalreporter.line(f"{why}:")
            for check in those:
                terminalreporter.line(f"    {check}")


def _choose(name: str, given: list[str]) -> "tuple[type[Backend], Any]":
    from sipdump_core.drivers.base import Backend  # noqa: PLC0415 - see above: only when used
    from sipdump_core.drivers.discovery import load, take_stock  # noqa: PLC0415
    from sipdump_core.errors import SipDumpError  # noqa: PLC0415
    from sipdump_core.settings.options import Setting, build, describe  # noqa: PLC0415

    try:
        drivers = take_stock().drivers
        driver = next((driver for driver in drivers if driver.name == name), None)
        if driver is None:
            known = ", ".join(driver.name for driver in drivers if driver.kind != "transform")
            raise pytest.UsageError(f"--sipdump-backend: no backend {name} is installed; there are: {known}")
        driver = load(driver)
        if driver.error:
            raise pytest.UsageError(f"--sipdump-backend: {name} of {driver.distribution}: {driver.error}")
        if not (driver.cls and issubclass(driver.cls, Backend)):
            raise pytest.UsageError(f"--sipdump-backend: {name} is a transform, no backend")
        types = {told["name"]: told["type"] for told in describe(driver.cls.options)}
        settings = []
        for each in given:
            option, equals, text = each.partition("=")
            if not equals:
                raise pytest.UsageError(f"--sipdump-option {each}: must be NAME=VALUE")
            value: int | str = int(text) if types.get(option) == "int" and text.lstrip("-").isdecimal() else text
            settings.append(Setting(f"sipdump_{name}", option, value, f"--sipdump-option {each}"))
        return driver.cls, build(driver.cls.options, settings)
    except SipDumpError as error:
        raise pytest.UsageError(str(error)) from error


def _by_check(reports: list[Any]) -> Iterator[tuple[str, tuple[str, dict[str, str]]]]:
    """Yield each check with its promise and, for each of its cases, what the report says."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for report in reports:
        sentence = dict(getattr(report, "user_properties", ())).get(_PROMISE)
        if sentence:
            check, bracket, case = report.nodeid.rpartition("::")[2].partition("[")
            where = report.nodeid.rpartition("::")[0].rpartition("::")[2]
            told = found.setdefault(f"{where}::{check}", (sentence, {}))[1]
            told[f"{bracket}{case} " if case else ""] = _told(report)
    yield from found.items()


def _told(report: Any) -> str:
    """Return one line of a report: the detail after a broken promise, or the reason for a skip."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ").removeprefix("not checked: ")
    message = getattr(getattr(report.longrepr, "reprcrash", None), "message", "") or str(report.longrepr)
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0] if lines else ""

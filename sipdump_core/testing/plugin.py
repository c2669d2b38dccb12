"""The pytest plugin: ``pytest --sipdump-backend=NAME``, and the broken promises at the end of the report.

Every pytest on a machine with sipdump loads this: it imports nothing of sipdump, and prints nothing, until it is
used.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sipdump_core.testing.chosen import Chosen

__all__ = ["CHOSEN"]

CHOSEN: "pytest.StashKey[Chosen]" = pytest.StashKey()
"""The backend and its options, if one was chosen on the command line."""


_SUITE, _FILTER_SUITE = (str(Path(__file__).with_name(name)) for name in ("suite.py", "suite_filter.py"))
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
    group.addoption(
        "--sipdump-proxy",
        metavar="NAME",
        default="",
        help="the option of that backend that has its store's TCP port, host:port or URL: the kit puts a proxy between",
    )
    group.addoption(
        "--sipdump-strict",
        action="store_true",
        help="a check that could not run fails, unless it asks for what the backend does not do",
    )
    group.addoption(
        "--sipdump-certificate", metavar="FILE", help="write what was checked, with versions and results, as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the backend, and run the contract: alone, or together with the paths on the command line."""
    name, certificate = config.getoption("--sipdump-backend"), config.getoption("--sipdump-certificate")
    if name is not None:
        _choose(config, name)
    else:
        for option in ("--sipdump-option", "--sipdump-proxy"):
            if config.getoption(option):
                raise pytest.UsageError(f"{option} needs --sipdump-backend")
    if certificate:
        from sipdump_core.testing.certificate import Certificate  # noqa: PLC0415 - see above: only when used

        chosen = config.stash[CHOSEN].cls if CHOSEN in config.stash else None
        strict = config.getoption("--sipdump-strict")
        config.pluginmanager.register(Certificate(Path(certificate), _told, strict=strict, chosen=chosen))


def _choose(config: pytest.Config, name: str) -> None:
    from sipdump_core.testing.chosen import choose  # noqa: PLC0415 - see above: only when used

    config.stash[CHOSEN] = choose(name, config.getoption("--sipdump-option"), config.getoption("--sipdump-proxy"))
    named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
    suite = _SUITE if config.stash[CHOSEN].stores else _FILTER_SUITE
    config.args = [suite, *(arg for arg in named if arg != suite)]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Name the checked backend in the report's header."""
    if CHOSEN not in config.stash:
        return None
    chosen = config.stash[CHOSEN]
    return f"sipdump backend: {chosen.cls.name} ({chosen.cls.__module__}.{chosen.cls.__qualname__}), {chosen.options}"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Attach the promise to the item, so that the report finds it in any process."""
    name, cls = item.name.partition("[")[0], getattr(item, "cls", None)
    functions = (vars(each).get(name) for each in getattr(cls, "__mro__", ()))  # an own check of a name has its promise
    sentence = next((getattr(one, _PROMISE) for one in functions if hasattr(one, _PROMISE)), "")
    if sentence:
        item.user_properties.append((_PROMISE, sentence))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ``--sipdump-strict``, fail a check that was skipped, or is expected to fail, though it should have run."""
    report = yield
    if not (report.skipped and call.excinfo and item.config.getoption("--sipdump-strict") and _is_check(item)):
        return report
    from sipdump_core.testing.promises import NOT_CHECKED, applies  # noqa: PLC0415 - see above: only when used

    if applies(call.excinfo.value):
        why = getattr(report, "wasxfail", "") or str(call.excinfo.value).removeprefix(NOT_CHECKED)
        report.outcome = "failed"
        report.longrepr = f"{dict(item.user_properties).get(_PROMISE, item.name)}\n{NOT_CHECKED}{why}"
        vars(report).pop("wasxfail", None)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List each broken promise once, and what was not checked or does not apply."""
    broken = dict(_by_check(terminalreporter.getreports("failed") + terminalreporter.getreports("error")))
    if broken:
        terminalreporter.section("broken promises")
    for check, (sentence, cases) in broken.items():
        terminalreporter.line(f"{check}: {sentence}", red=True)
        for case, text in list(cases.items())[:5]:
            terminalreporter.line(f"    {case}{text}")
        if len(cases) > 5:
            terminalreporter.line(f"    ... and {len(cases) - 5} more")
    passed_over: dict[str, list[str]] = {}
    for check, (_, cases) in _by_check(terminalreporter.getreports("skipped")):
        passed_over.setdefault(next(iter(cases.values())), []).append(check)
    if passed_over:
        _tell_passed_over(terminalreporter, passed_over)


def _tell_passed_over(terminalreporter: pytest.TerminalReporter, checks: dict[str, list[str]]) -> None:
    from sipdump_core.testing.promises import DOES_NOT_APPLY, NOT_CHECKED  # noqa: PLC0415 - see above: only when used

    for section, apply in (("not checked", True), ("does not apply", False)):
        found = {why: those for why, those in checks.items() if why.startswith(DOES_NOT_APPLY) is not apply}
        if found:
            terminalreporter.section(section)
        for why, those in found.items():
            terminalreporter.line(f"{why.removeprefix(NOT_CHECKED).removeprefix(DOES_NOT_APPLY)}:")
            for check in those:
                terminalreporter.line(f"    {check}")


def _is_check(item: pytest.Item) -> bool:
    from sipdump_core.testing.contract import Contract  # noqa: PLC0415 - see above: only when used
    from sipdump_core.testing.filtering import FilterContract  # noqa: PLC0415

    cls = getattr(item, "cls", None)
    return cls is not None and issubclass(cls, (Contract, FilterContract))


def _by_check(reports: list[Any]) -> Iterator[tuple[str, tuple[str, dict[str, str]]]]:
    """Yield each check with its promise and, for each of its cases, what the report says."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for report in reports:
        sentence = dict(getattr(report, "user_properties", ())).get(_PROMISE)
        if sentence:
            check, bracket, case = report.nodeid.rpartition("::")[2].partition("[")
            where = report.nodeid.rpartition("::")[0].rpartition("::")[2]
            cases = found.setdefault(f"{where}::{check}", (sentence, {}))[1]
            cases[f"{bracket}{case} " if case else ""] = _told(report)
    yield from found.items()


def _told(report: Any) -> str:
    """Return one line of a report: the detail after a broken promise, or the reason for a skip."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    message = getattr(getattr(report.longrepr, "reprcrash", None), "message", "") or str(report.longrepr)
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0] if lines else ""

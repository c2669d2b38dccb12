"""The contract kit: good backends pass, each broken one is caught by the check that names its fault."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sipdump_core.testing.contract import checks
from tests.broken import contents, manners, networks, processes, searches, segments
from tests.broken.good import FAULTS, Fault, FileContract, GoodStream, GoodStreamWithSegments
from tests.broken.run import caught
from tests.broken.searches import GoodSearch
from tests.core.drivers.test_discovery import install

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
DRIVER = """
import sipdump_core
from sipdump_core import FolderBackend, option
import attrs

@attrs.frozen
class Options:
    width: int = option(80, help="how wide")
    colour: str = option("red", help="what colour")

class Upside(FolderBackend):
    name, suffix, options = "upside", ".upside", Options

    def encode(self, batch):
        return b"".join(b"%d %d %b" % (r.time_us, len(r.buf), r.buf) for r in reversed(batch))

    def decode(self, file):
        raise RuntimeError(f"not with {self.opts.width} {self.opts.colour}")
"""


class TestGood(FileContract):
    """A good backend of files passes."""


class TestGoodSearch(FileContract):
    """One that also answers questions, is followed, and merges."""

    backend_class = GoodSearch


def test_good_streams_pass() -> None:
    assert caught([Fault(GoodStream, [])], every_check=True) == {}
    assert caught([Fault(GoodStreamWithSegments, ["test_write_after_close_is_refused", "test_order_is_kept"])]) == {}


@pytest.mark.timeout(600)  # it runs the whole kit for some fifty backends
@pytest.mark.parametrize(
    "module", [contents, segments, processes, searches, manners, networks], ids=lambda module: module.__name__
)
def test_every_broken_backend_is_caught(module: ModuleType) -> None:
    faults = [fault for fault in FAULTS if fault.backend.__module__ == module.__name__]
    assert len(faults) >= 12
    found = caught(faults)
    for fault in faults:
        said = found.get(fault.backend.__name__, {})
        assert said.keys() == set(fault.caught_by), fault.backend.__name__
        for check, message in said.items():
            assert checks()[check] in message.splitlines()[0]


def test_every_check_has_a_fault_that_it_catches() -> None:
    assert {check for fault in FAULTS for check in fault.caught_by} == checks().keys()


def test_every_check_is_documented_with_its_promise() -> None:
    text = (ROOT / "docs" / "contract.md").read_text()
    assert dict(re.findall(r"^\| `(test_\w+)` \| (.*) \|$", text, re.MULTILINE)) == checks()
    assert set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "backends.md").read_text())) == checks().keys()
    assert all(promise.endswith(".") and len(promise) < 120 for promise in checks().values())


@pytest.fixture
def upside(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An installed driver that is wrong."""
    install(pytester.path, "sipdump-upside", DRIVER, "upside = sipdump_upside:Upside")
    monkeypatch.syspath_prepend(pytester.path)
    return pytester


def test_an_installed_driver_is_checked_by_its_name(upside: pytest.Pytester) -> None:
    upside.makepyfile(test_own="def test_own(): pass")
    result = upside.runpytest_inprocess(
        *("--sipdump-backend=upside", "--sipdump-option=width=100", "--sipdump-option=colour=blue"),
        *("-k", "order_is_kept or test_own"),
    )
    assert result.parseoutcomes()["failed"] == 5
    assert "passed" not in result.parseoutcomes()  # the folder's own tests are not run
    promise = checks()["test_order_is_kept"]
    result.stdout.fnmatch_lines(
        [
            "sipdump backend: upside (sipdump_upside.Upside), Options(width=100, colour='blue')",
            "*= broken promises =*",
            f"TestContract::test_order_is_kept: {promise}",
            "    [[](1,)] RuntimeError: not with 100 blue",
            f"FAILED *::test_order_is_kept* - Failed: {promise[:10]}*",
        ]
    )


def test_the_contract_runs_beside_the_tests_that_are_named(upside: pytest.Pytester) -> None:
    path = upside.makepyfile(test_own="def test_own(): pass")
    result = upside.runpytest_inprocess("--sipdump-backend=upside", "-k", "is_declared or test_own", str(path))
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--sipdump-backend=nosuch"], "no backend nosuch is installed; there are: "),
        (["--sipdump-backend=header"], "header is a transform, no backend"),
        (["--sipdump-option=width=1"], "--sipdump-option needs --sipdump-backend"),
        (["--sipdump-backend=upside", "--sipdump-option=width"], "must be NAME=VALUE"),
        (["--sipdump-backend=upside", "--sipdump-option=width=x"], "must be an integer"),
        (["--sipdump-backend=upside", "--sipdump-option=size=1"], "there are: width, colour"),
    ],
)
def test_a_wrong_command_line_is_told(upside: pytest.Pytester, args: list[str], error: str) -> None:
    result = upside.runpytest_inprocess(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert error in result.stderr.str()


def test_what_does_not_apply_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from tests.broken.good import Contract, GoodStream\n"
        "class TestContract(Contract):\n    backend_class = GoodStream\n"
    )
    result = pytester.runpytest_inprocess("-k", "order_is_kept or sealed")
    result.assert_outcomes(skipped=6)
    result.stdout.fnmatch_lines(
        [
            "*= does not apply =*",
            "the backend has no segments(): what it stored is neither listed nor pruned:",
            "    TestContract::test_order_is_kept",
            "    TestContract::test_a_closed_segment_is_sealed",
        ]
    )


def test_the_plugin_is_light_and_silent(pytester: pytest.Pytester) -> None:
    code = "import sys, sipdump_core.testing.plugin; print([m for m in sys.modules if m.startswith('sipdump_core')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['sipdump_core', 'sipdump_core.testing', 'sipdump_core.testing.plugin']"
    pytester.makepyfile("def test_fails(): assert 0")
    result = pytester.runpytest_inprocess()
    result.stdout.no_fnmatch_line("*promise*")
    result.stdout.no_fnmatch_line("*sipdump backend*")
    result.stdout.no_fnmatch_line("*not checked*")

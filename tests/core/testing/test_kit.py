"""The contract kit: good backends pass, each broken one is caught by the check that names its fault."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from sipdump_core.testing import certificate
from sipdump_core.testing.contract import checks
from sipdump_core.testing.failures import FailureChecks
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.network import NetworkChecks
from sipdump_core.testing.search import SearchChecks
from tests.broken import contents, filters, manners, networks, processes, searches, segments
from tests.broken.good import FAULTS, Fault, FileContract, GoodFilterContract, GoodStream, GoodStreamWithSegments
from tests.broken.networks import GoodTcp, Store
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


class TestGoodFilter(GoodFilterContract):
    """A good filter passes."""


class TestGoodSearch(SearchChecks):
    """One that also answers questions, is followed, and merges: what else it does is as above."""

    backend_class = GoodSearch


def test_good_streams_pass() -> None:
    assert caught([Fault(GoodStream, [])], every_check=True) == {}


def test_a_good_stream_over_tcp_passes() -> None:
    names = [name for part in (NetworkChecks, FailureChecks) for name in vars(part) if name.startswith("test_")]
    assert caught([Fault(GoodTcp, names)]) == {}


def test_a_good_stream_with_segments_passes() -> None:
    assert caught([Fault(GoodStreamWithSegments, ["test_write_after_close_is_refused", "test_order_is_kept"])]) == {}


@pytest.mark.timeout(600)  # it runs the whole kit for some fifty backends
@pytest.mark.parametrize(
    "module", [contents, segments, processes, searches, manners, networks, filters], ids=lambda module: module.__name__
)
def test_every_broken_backend_is_caught(module: ModuleType) -> None:
    faults = [fault for fault in FAULTS if fault.backend.__module__ == module.__name__]
    assert len(faults) >= 11
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
        (["--sipdump-proxy=width"], "--sipdump-proxy needs --sipdump-backend"),
        (["--sipdump-backend=upside", "--sipdump-proxy=size"], "upside has no option size; there are: width, colour"),
        (["--sipdump-backend=upside", "--sipdump-proxy=colour"], "colour must be a port, host:port or URL, not 'red'"),
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


PARTS = """
import pytest
from tests.broken.good import Good, GoodStream, FileContract, Contract

class TestFiles(FileContract):
    @pytest.mark.skip("it takes long")
    def test_close_twice(self): ...

    @pytest.mark.xfail(reason="known")
    def test_order_is_kept(self): assert 0

    def test_started_and_stopped_again(self): ...

class TestStream(Contract):
    backend_class = GoodStream
"""
SOME = "close_twice or order_is or stopped_again or an_outage_is or sealed or driver_is"


def test_strict_fails_what_should_have_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PARTS)
    result = pytester.runpytest_inprocess("-k", SOME)
    assert "failed" not in result.parseoutcomes()
    result = pytester.runpytest_inprocess("-k", SOME, "--sipdump-strict")
    text = result.stdout.str()
    for check, why in {
        "TestFiles::test_close_twice": "it takes long",
        "TestFiles::test_order_is_kept": "known",
        "TestStream::test_an_outage_is_a_storage_error": r"outage\(\) is not overridden, .*",
    }.items():
        assert re.search(rf"^{check}: .*\n    (\[.*\] )?not checked: {why}$", text, re.MULTILINE), check
    assert "TestStream::test_a_closed_segment_is_sealed: " not in text  # that does not apply


def test_a_certificate_says_what_was_checked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PARTS)
    pytester.runpytest_inprocess("-k", SOME, "--sipdump-certificate=certificate.json")
    content = json.loads((pytester.path / "certificate.json").read_text())
    assert (content["format"], content["kept"], content["strict"]) == (1, False, False)
    assert content["versions"].keys() == {"sipdump", "api", "python", "pytest", "platform"}
    files, stream = content["contracts"]
    assert files["backend"] == {
        "class": "tests.broken.good.Good", "name": "good", "api": 1, "distribution": "", "version": "",
    }  # fmt: skip
    results = {entry["check"]: (entry["result"], entry.get("why")) for entry in files["checks"]}
    assert results.keys() == checks().keys()
    assert results["test_the_driver_is_declared"] == ("kept", None)
    assert results["test_close_twice"] == ("not checked", "it takes long")
    assert results["test_started_and_stopped_again"][1] == "the test class has a check of its own in its place"
    assert results["test_links_are_not_followed"] == ("not checked", "it was not run")
    streamed = {entry["check"]: entry for entry in stream["checks"]}
    assert streamed["test_order_is_kept"]["result"] == "does not apply"
    assert streamed["test_order_is_kept"]["cases"] == 5
    assert not files["kept"]
    assert sum(files["counts"].values()) == len(checks())


def test_a_certificate_says_that_all_is_kept(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: promise for name, promise in checks().items() if name == "test_the_driver_is_declared"}
    monkeypatch.setattr(certificate, "checks", lambda: some)
    pytester.makepyfile("from tests.broken.good import FileContract\nclass TestFiles(FileContract): ...")
    pytester.runpytest_inprocess("-k", "driver_is", "--sipdump-certificate=certificate.json")
    content = json.loads((pytester.path / "certificate.json").read_text())
    assert content["kept"] is True
    assert content["contracts"][0]["counts"] == {"kept": 1, "does not apply": 0, "not checked": 0, "broken": 0}


ADDRESS = """
import socket
import attrs
from sipdump_core import Backend, StorageError, option

@attrs.frozen
class Options:
    server: str = option("", help="where")

class Remote(Backend):
    name, options, timeout = "remote", Options, {timeout}
    def write(self, batch):
        host, _, port = self.opts.server.removeprefix("tcp://user@").partition("/")[0].partition(":")
        try:
            with socket.create_connection((host, int(port)), self.timeout) as connection:
                connection.sendall(b"\\0\\1\\0\\0\\0\\1xy")
                connection.recv(1)
        except OSError as error:
            raise StorageError("write", "store", str(error)) from error
"""


@pytest.mark.parametrize(("timeout", "failed"), [("0.05", 0), ("None", 1)])
def test_a_proxy_stands_before_the_store_of_an_installed_driver(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, timeout: str, failed: int
) -> None:
    driver = ADDRESS.replace("{timeout}", timeout).replace("\\\\", "\\")
    install(pytester.path, "sipdump-remote", driver, "remote = sipdump_remote:Remote")
    monkeypatch.syspath_prepend(pytester.path)
    monkeypatch.setattr(Kit, "longest_call", 0.3)
    monkeypatch.setattr(Kit, "patience", 0.3)
    with Store() as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.01,))
        thread.start()
        server = f"--sipdump-option=server=tcp://user@127.0.0.1:{store.port}/a"
        result = pytester.runpytest_inprocess(
            *("--sipdump-backend=remote", server, "--sipdump-proxy=server", "-k", "silent_store or piles_up")
        )
        store.shutdown()
        thread.join()
    assert result.parseoutcomes().get("failed", 0) == failed
    assert ("they took more than 0.3 s" in result.stdout.str()) is bool(failed)

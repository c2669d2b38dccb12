"""sipdump-read's command line: exit codes, arguments that begin with a dash; it loads nothing that it does not need."""

import subprocess
import sys
from pathlib import Path

import pytest

from sipdump_core import subcommands
from sipdump_core.admin.command import main as admin
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.reading import find
from sipdump_core.reading.command import COMMANDS, main
from sipdump_core.reading.dashes import join_dashes
from tests.core.reading.run import run

SLOW = {"asyncio", "boto3", "duckdb", "lark", "pyarrow", "tqdm"}
STORES = {"stevedore", "sipdump_core.plan", "sipdump_core.reading.store", "sipdump_text", "sipdump_parquet"}


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        ("find --since -15m", "find --since=-15m"),
        ("find --until -1h --since -2h", "find --until=-1h --since=-2h"),
        ("find --sort -began --json", "find --sort=-began --json"),
        ("find --since --json", "find --since --json"),
        ("find --sort -15", "find --sort -15"),
        ("find --user -15m", "find --user -15m"),
        ("--since", "--since"),
        ("", ""),
    ],
)
def test_values_that_begin_with_a_dash(given: str, joined: str) -> None:
    assert join_dashes(given.split()) == joined.split()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("is wrong", "--x"), 2, "sipdump-read: --x: is wrong\n"),
        (StorageError("list", "/x", "is gone"), 1, "sipdump-read: list /x: is gone\n"),
        (OSError(28, "No space left on device"), 1, "sipdump-read: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(find, "find", fail)
    assert run(capsys, "find", "--folder", "/tmp") == (code, "", said)


def test_ctrl_c_while_a_command_is_loaded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subcommands, "import_module", interrupted)
    assert run(capsys, "find", "--folder", "/tmp") == (130, "", "")
    assert admin(["import"]) == 130
    assert capsys.readouterr().err == "sipdump-admin: interrupted: what was done so far stays\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_closed_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr(sys, name, None)  # as Python has it after a shell's >&-
    assert main(["find", "--folder", str(tmp_path)]) == 1
    assert admin(["list", "--folder", str(tmp_path)]) == 0
    getattr(sys, name).close()


@pytest.mark.parametrize("args", [[], ["nosuch"], ["find", "x"], ["show"], ["export"]])
def test_wrong_use(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert "usage: sipdump-read" in err


@pytest.mark.parametrize("command", ["find", "show", "export", "tail", "stats"])
def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert out.startswith(f"usage: sipdump-read {command} ")
    assert "--folder DIR" in out
    assert out.splitlines()[0].count("[") <= 6  # the groups below have the rest


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("sipdump ")


def loaded(*arguments: str) -> set[str]:
    """Return the modules that a command loads."""
    script = (
        "import sys\nfrom sipdump_core.reading.command import main\n"
        f"try: main({list(arguments)!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, sep=chr(10), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "usage: sipdump-read" in done.stdout
    return set(done.stderr.split())


def test_the_list_of_commands_loads_next_to_nothing() -> None:
    assert loaded("--help") & {*SLOW, *STORES, "attrs", "sipdump_core.reading.find"} == set()


def test_help_of_find_loads_nothing_that_reads_a_store() -> None:
    assert loaded("find", "--help") & {*SLOW, *STORES} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_slow(command: str) -> None:
    assert loaded(command, "--help") & SLOW == set()

"""``sipdump-read tui`` before there is anything on the screen."""

import subprocess
import sys

import pytest

from tests.core.reading.run import run

HELP = """
import sys
from sipdump_core.reading.command import main
try:
    main(["tui", "--help"])
except SystemExit:
    pass
print(sorted({"textual", "rich", "pyarrow", "lark"} & sys.modules.keys()))
"""


def test_it_says_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    code, _, err = run(capsys, "tui")
    assert code == 2
    assert "tui needs textual, which is not installed: pip install 'sipdump[tui]'" in err


def test_it_needs_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdin__", None)
    code, _, err = run(capsys, "tui")
    assert code == 2
    assert "tui needs a terminal: standard input and standard error must not be redirected; see find" in err


def test_help_answers_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "--columns" in done.stdout
    assert done.stdout.endswith("\n[]\n")

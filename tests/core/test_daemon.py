"""How ``sipdumpd`` ends; what it does before that is tested from outside, in tests/e2e."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

DAEMON = """
import sys
from sipdump_core import daemon
from sipdump_core.sipdump import SipDump

{patch}
sys.exit(daemon.main(sys.argv[1:]))
"""


def start(folder: Path, patch: str) -> "subprocess.Popen[str]":
    """Start a daemon with a patched SipDump, and wait until it is ready."""
    options = ["--modparam=sipdump_hep:listen:s:off", f"--modparam=sipdump:folder:s:{folder}"]
    code = [sys.executable, "-c", DAEMON.format(patch=patch), *options]
    process = subprocess.Popen(code, stderr=subprocess.PIPE, text=True)
    told(process, "sipdumpd started")
    return process


def told(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stderr
    assert any(text in line for line in process.stderr), f"it has ended without {text!r}"


def test_a_second_signal_ends_a_slow_stop_at_once(tmp_path: Path) -> None:
    slow = "import time; SipDump.close = lambda *_: (print('closing', file=sys.stderr, flush=True), time.sleep(60))"
    with start(tmp_path, slow) as process:
        process.send_signal(signal.SIGTERM)
        told(process, "closing")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT


@pytest.mark.parametrize(("whole", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_all_is_stored(tmp_path: Path, whole: bool, code: int) -> None:
    patch = f"close = SipDump.close; SipDump.close = lambda dump, *_: close(dump) and {whole}"
    with start(tmp_path, patch) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == code


def test_a_signal_behind_a_flood_of_others_is_not_lost(tmp_path: Path) -> None:
    """There are more than find room where they wait, while nobody looks."""
    flood = (
        "import os, signal\n"
        "def notify(state):\n"
        "    for number in [signal.SIGUSR1] * 1000 + [signal.SIGTERM]:\n"
        "        os.kill(os.getpid(), number)\n"
        "daemon._notify = notify\n"
        "signal.signal(signal.SIGALRM, signal.SIG_DFL)"
    )
    with start(tmp_path, flood) as process:
        told(process, "stopping signal=SIGTERM")
        process.kill()

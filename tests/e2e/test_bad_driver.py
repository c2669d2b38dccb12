"""The daemon with drivers of third parties that fail: it stores, stays up, says what is wrong, and stops in time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.core.drivers.test_discovery import install
from tests.e2e.peers import Stage, request
from tests.e2e.test_daemon import send, stored

BACKEND = """
import sys, time
from sipdump_core import Backend

class B(Backend):
    name = "bad"
    flag = 4096
    def write(self, batch):
        {}
"""
SOONER = """
# a call that does not return is told of after half a second, and not only after five
from sipdump_core.pipeline import delivery
delivery.STALL = 0.5
"""
FAULTS = {
    "import": ("import nosuchmodule", "retrying", "ModuleNotFoundError: No module named 'nosuchmodule'"),
    "syntax": ("def f(:", "retrying", "SyntaxError"),
    "raises": (BACKEND.format("raise RuntimeError('bug')"), "retrying", "RuntimeError: bug"),
    "exits": (BACKEND.format("sys.exit(3)"), "retrying", "SystemExit: 3"),
    "hangs": (BACKEND.format("time.sleep(60)") + SOONER, "stalled", "a call does not return"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_daemon_with_a_bad_driver(stage: Stage, tmp_path: Path, fault: str) -> None:
    code, state, error = FAULTS[fault]
    packages = tmp_path / "packages"
    packages.mkdir()
    install(packages, "sipdump-bad", code, "bad = sipdump_bad:B")
    ctl = f"unix:{tmp_path}/ctl"
    daemon = stage.sipdumpd(
        f"--modparam=sipdump_ctl:binrpc:s:{ctl}",
        "--modparam=sipdump:backend:s:bad",
        env={"PYTHONPATH": str(packages)},
    )
    messages = [request(f"{n}") for n in range(3)]
    for message in messages:  # one batch each, so that a driver which is given up meets more
        send(daemon.port, message)
        time.sleep(0.03)
    stored(daemon, *messages)

    def backends(*options: str) -> str:
        argv = [sys.executable, "-m", "sipdump_core.admin", "backends", "--socket", ctl, *options]
        env = {**os.environ, "PYTHONPATH": str(packages)}
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False).stdout

    def told() -> bool:
        (row,) = (row for row in json.loads(backends("--json")) if row["name"] == "bad")
        return row["daemon"]["state"] == state and error in row["daemon"]["error"]

    daemon.until(told, f"{state}: {error}")
    (line,) = (line for line in backends().splitlines() if line.startswith("bad "))
    assert "sipdump-bad" in line
    assert f"{state} since 20" in line
    assert error in line
    begin = time.monotonic()
    code_at_end = daemon.stop(signal.SIGTERM, timeout=60)
    assert time.monotonic() - begin < 30  # it would hang for a minute
    assert code_at_end == 1  # all waited for it to the end
    # what a store has refused alone is kept
    lost = "dropped=0 refused=3" if fault in ("raises", "exits") else "dropped=3"
    assert f"name=bad stored=0 {lost}" in daemon.output()


ENDLESS = (
    """
import atexit, signal, threading, time
from sipdump_core import program
program.GRACE = 0.5
signal.signal(signal.SIGTERM, signal.SIG_IGN)
atexit.register(time.sleep, 60)
"""
    + BACKEND.format("pass")
    + """
    stop_seconds = 0.0
    def start(self):
        threading.Thread(target=time.sleep, args=(60,)).start()
    def close(self):
        time.sleep(60)
"""
    + SOONER
)


def test_a_driver_cannot_keep_the_daemon(stage: Stage, tmp_path: Path) -> None:
    install(tmp_path, "sipdump-bad", ENDLESS, "bad = sipdump_bad:B")
    daemon = stage.sipdumpd("--modparam=sipdump:backend:s:bad", env={"PYTHONPATH": str(tmp_path)})
    send(daemon.port, request("1"))
    stored(daemon, request("1"))
    daemon.says('event="segment opened" backend=bad')
    begin = time.monotonic()
    assert daemon.stop(signal.SIGTERM, timeout=60) == 1
    assert time.monotonic() - begin < 30
    assert "a driver wants to handle a signal" in daemon.output()
    assert "backend did not stop in time" in daemon.output()
    assert "the process ends without waiting for it" in daemon.output()


def test_a_crash_names_the_driver(stage: Stage, tmp_path: Path) -> None:
    code = BACKEND.format("import ctypes; ctypes.string_at(0)")
    install(tmp_path, "sipdump-bad", code, "bad = sipdump_bad:B")
    daemon = stage.sipdumpd("--modparam=sipdump:backend:s:bad", env={"PYTHONPATH": str(tmp_path)})
    send(daemon.port, request("1"))
    assert daemon.wait() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in daemon.output()
    assert "in backend bad, write()" in daemon.output()

"""How ``sipdumpd`` ends; what it does before that is tested from outside, in tests/e2e."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import pytest

from sipdump_core import daemon as sipdump_daemon
from tests.forks import script

DAEMON = """
import os, signal, sys, time
os.dup2(1, 2)
from sipdump_core import daemon
from sipdump_core.sipdump import SipDump

{patch}
sys.exit(daemon.main(sys.argv[1:]))
"""


@contextmanager
def daemon(folder: Path, patch: str) -> Iterator[tuple[BaseProcess, TextIO]]:
    """Run a daemon with something patched; yield it, and its log, when it is ready."""
    options = ["--modparam=sipdump_hep:listen:s:off", f"--modparam=sipdump:folder:s:{folder}"]
    with script(DAEMON.format(patch=patch), *options) as (process, log):
        told(log, "sipdumpd started")
        yield process, log


def told(log: TextIO, text: str) -> None:
    assert any(text in line for line in log), f"it has ended without {text!r}"


def send(process: BaseProcess, number: signal.Signals) -> None:
    assert process.pid
    os.kill(process.pid, number)


def test_a_second_signal_ends_a_slow_stop_at_once(tmp_path: Path) -> None:
    slow = "SipDump.close = lambda *_: (print('closing', flush=True), time.sleep(60))"
    with daemon(tmp_path, slow) as (process, log):
        send(process, signal.SIGTERM)
        told(log, "closing")
        send(process, signal.SIGINT)
        process.join(60)
        assert process.exitcode == -signal.SIGINT


@pytest.mark.parametrize(("whole", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_all_is_stored(tmp_path: Path, whole: bool, code: int) -> None:
    with daemon(tmp_path, f"close = SipDump.close; SipDump.close = lambda *_: close(*_) and {whole}") as (process, _):
        send(process, signal.SIGTERM)
        process.join(60)
        assert process.exitcode == code


def test_a_signal_behind_a_flood_of_others_is_not_lost(tmp_path: Path) -> None:
    """There are more than find room where they wait, while nobody looks."""
    flood = "daemon._notify = lambda _: [os.kill(os.getpid(), n) for n in [signal.SIGUSR1] * 1000 + [signal.SIGTERM]]"
    with daemon(tmp_path, flood) as (_, log):
        told(log, "stopping signal=SIGTERM")


def test_cycles_are_looked_for_by_the_clock(tmp_path: Path) -> None:
    patch = "import gc; gc.collect = lambda: print('looked', flush=True); daemon._COLLECT_EVERY_S = 0.01"
    with daemon(tmp_path, patch) as (process, log):
        told(log, "looked")
        told(log, "looked")
        send(process, signal.SIGTERM)
        told(log, "signal=SIGTERM")


def test_cycles_are_still_looked_for_but_seldom() -> None:
    before = gc.get_threshold()
    try:
        sipdump_daemon._collect_seldom()
        assert 10_000 < gc.get_threshold()[0] < 1_000_000
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()

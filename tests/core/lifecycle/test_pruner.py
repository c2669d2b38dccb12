"""Pruning in the background."""

import os
import threading
from pathlib import Path

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.lifecycle.pruner import Pruner
from sipdump_core.segment import StoredSegment
from sipdump_core.sipdump import SipDump
from sipdump_text import TextBackend
from tests.support import FakeClock, wait_for


def test_prune_runs_at_start(tmp_path: Path) -> None:
    old = tmp_path / "kamailio-sipdump-2020-01-01--00-00-00.data"
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    with SipDump(folder=tmp_path, fage=60):
        wait_for(lambda: not old.exists())


class Pause(threading.Event):
    """Ends a pause of the pruner when the test says so, and keeps how long it is."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []
        self.over = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        self.over.wait(10)
        self.over.clear()
        return self.is_set()


def old(folder: Path, number: int) -> Path:
    path = folder / f"p-2020-01-01--00-00-{number:02}.data"
    path.write_bytes(b"x")
    os.utime(path, (0, 0))
    return path


@pytest.fixture
def backend(tmp_path: Path) -> TextBackend:
    return TextBackend(NoOptions(), Site(str(tmp_path), "p-"))


def test_it_prunes_again_every_600_seconds(
    tmp_path: Path, backend: TextBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = Pruner(lambda: [backend], 60, FakeClock())
    pause = Pause()
    monkeypatch.setattr(pruner, "_stopped", pause)
    first = old(tmp_path, 1)
    pruner.start()
    wait_for(lambda: not first.exists())
    second = old(tmp_path, 2)
    wait_for(lambda: pause.pauses)
    assert second.exists()
    pause.over.set()
    wait_for(lambda: not second.exists())
    pruner.stop()
    pause.over.set()
    assert set(pause.pauses) == {600.0}


def test_after_its_stop_it_deletes_no_more(
    tmp_path: Path, backend: TextBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [old(tmp_path, number) for number in range(3)]
    delete = backend.delete

    def deleting(stored: StoredSegment) -> None:
        delete(stored)
        pruner.stop()

    monkeypatch.setattr(backend, "delete", deleting)
    pruner = Pruner(lambda: [backend], 60, FakeClock())
    pruner.start()
    wait_for(lambda: not paths[0].exists())
    wait_for(lambda: not any(thread.name.startswith("sipdump-prune-") for thread in threading.enumerate()))
    assert [path.exists() for path in paths] == [False, True, True]


def test_a_store_that_is_slow_is_not_pruned_twice_at_once(
    tmp_path: Path, backend: TextBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    free = threading.Event()

    def segments() -> list[StoredSegment]:
        rounds.append(1)
        free.wait(10)
        return []

    monkeypatch.setattr(backend, "segments", segments)
    pruner = Pruner(lambda: [backend], 60, FakeClock())
    pause = Pause()
    monkeypatch.setattr(pruner, "_stopped", pause)
    pruner.start()
    wait_for(lambda: rounds)
    for count in range(1, 4):
        wait_for(lambda wanted=count: len(pause.pauses) == wanted)  # type: ignore[misc]
        pause.over.set()
    assert rounds == [1]
    pruner.stop()
    pause.over.set()
    free.set()

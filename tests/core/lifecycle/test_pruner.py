"""Pruning in the background."""

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.lifecycle import pruner
from sipdump_core.lifecycle.pruner import Pruner
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.sipdump import SipDump
from tests.support import FakeClock, wait_for

CLOCK = FakeClock()


class Store(Backend):
    """Has three old segments, and one that is being written; a test may hold it up."""

    name = "store"

    def __init__(self) -> None:
        super().__init__(NoOptions(), Site("", ""))
        self.held = threading.Event()
        self.held.set()
        self.listed = 0
        self.deleted: list[str] = []

    def segments(self) -> Iterator[StoredSegment]:
        self.listed += 1
        self.held.wait(60)
        for number in range(4):
            segment = Segment("p-", f"2026-11-20--00-00-0{number}")
            yield StoredSegment(segment, 5, CLOCK.now - 100, sealed=number < 3)

    def delete_many(self, stored: Iterable[StoredSegment]) -> Iterator[tuple[StoredSegment, Any]]:
        for one in stored:
            self.deleted.append(one.segment.stem[-2:])
            yield one, None


class Other(Store):
    """Another one."""

    name = "other"


def test_prune_runs_at_start(tmp_path: Path) -> None:
    old = tmp_path / "kamailio-sipdump-2020-01-01--00-00-00.data"
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    with SipDump(folder=tmp_path, fage=60):
        wait_for(lambda: not old.exists())


def test_it_waits_600_seconds_as_kamailio_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float | None] = []
    store = Store()
    one = Pruner(lambda: [store], 50, CLOCK)

    def wait(seconds: float | None = None) -> bool:
        pauses.append(seconds)
        return True

    monkeypatch.setattr(one._stopped, "wait", wait)
    one.start()
    wait_for(lambda: not threads())
    assert pauses == [600]
    assert store.listed == 1


def test_it_prunes_again_and_again_and_a_store_that_hangs_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "PRUNE_INTERVAL", 0.001)
    slow, quick = Store(), Other()
    slow.held.clear()
    one = Pruner(lambda: [slow, quick], 50, CLOCK)
    one.start()
    wait_for(lambda: quick.listed > 3)
    assert slow.listed == 1, "it is not asked again while it hangs"
    slow.held.set()
    wait_for(lambda: slow.listed > 2)
    one.stop()
    wait_for(lambda: not threads())
    assert Counter(slow.deleted).keys() == {"00", "01", "02"}


def test_what_is_not_that_old_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "PRUNE_INTERVAL", 0.001)
    store = Store()
    one = Pruner(lambda: [store], 100, CLOCK)
    one.start()
    wait_for(lambda: store.listed > 2)
    one.stop()
    assert store.deleted == []


def test_after_the_end_no_more_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    one = Pruner(lambda: [store], 50, CLOCK)
    real = store.delete_many

    def delete_many(stored: Iterable[StoredSegment]) -> Iterator[tuple[StoredSegment, Any]]:
        for done in real(stored):
            one.stop()  # while the first is being deleted
            yield done

    monkeypatch.setattr(store, "delete_many", delete_many)
    one.start()
    wait_for(lambda: store.deleted)
    wait_for(lambda: not threads())
    assert store.deleted == ["00"]


def test_a_round_that_fails_is_told_and_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pruner, "PRUNE_INTERVAL", 0.001)
    store, errors = Store(), [RuntimeError("no list of backends")]

    def backends() -> list[Backend]:
        if errors:
            raise errors.pop()
        return [store]

    one = Pruner(backends, 50, CLOCK)
    one.start()
    wait_for(lambda: store.deleted)
    one.stop()
    assert "prune failed" in caplog.text
    assert "no list of backends" in caplog.text


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sipdump-prune")]

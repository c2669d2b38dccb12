"""Following a store: calls stay up to date, memory is bounded, and a slow viewer loses only what is its own."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.query import Query
from sipdump_core.reading.finder import Judge
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from sipdump_core.viewing.live import Live, Viewer
from tests.core.reading.stores import fill, workshop
from tests.core.reading.traffic import at, call

BEGAN = at("10:00:00")


class SetClock(Clock):
    def __init__(self, time_us: int) -> None:
        self.time_us = time_us

    def time(self) -> float:
        return self.time_us / 1e6


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    """A backend with an open segment, which holds a call that is long over."""
    shop = workshop(tmp_path)
    backend = shop.backend("text", shop.site())
    fill(backend, call("old@a", BEGAN - 60_000_000), BEGAN / 1e6, close=False)
    yield backend
    backend.close()
    backend.stop()


@pytest.fixture
def clock() -> SetClock:
    return SetClock(BEGAN)


@pytest.fixture
def live(backend: Backend, tmp_path: Path, clock: SetClock) -> Live:
    found = Live(Store.open(folders=tmp_path), clock=clock)
    found.look()
    return found


def store(backend: Backend, records: list[Record]) -> None:
    backend.write(Batch(records))
    backend.flush()


def test_a_call_changes_as_its_messages_come(live: Live, backend: Backend) -> None:
    viewer = live.join(Viewer(messages=True))
    records = call("new@a", BEGAN, node="")  # text does not keep the node
    seen = []
    for record in records:
        store(backend, [record])
        assert live.look() == 1
        taken = viewer.take()
        assert [row.call_id for row in taken.rows] == ["new@a"]
        assert list(taken.messages) == [record]
        seen.append(taken.rows[0].summary.state)
    assert seen == ["calling", "ringing", "answered", "answered", "ended", "ended"]
    assert live.counts.messages == 6
    assert live.records("new@a") == records


def test_what_was_stored_before_is_fed_and_joins_what_comes(live: Live, backend: Backend) -> None:
    first, *_, bye, ok = call("new@a", BEGAN)
    viewer = live.join(Viewer())
    rows, others = live.feed([first])
    assert [row.summary.state for row in rows] == ["calling"]
    assert others == []
    assert viewer.take().rows == []
    store(backend, [bye, ok])
    live.look()
    (row,) = viewer.take().rows
    assert (row.summary.state, row.summary.began) == ("ended", first.time_us)


def test_a_viewer_sees_what_it_asked_for_and_what_ceases_to_match(live: Live, backend: Backend) -> None:
    viewer = live.join(Viewer(Query(states=["ringing"], from_users=["carol"]), messages=True))
    records = call("one@a", BEGAN, caller="carol")
    store(backend, [*call("two@a", BEGAN), *records[:2]])
    live.look()
    taken = viewer.take()
    assert [row.call_id for row in taken.rows] == ["one@a"]
    assert {record.call_id for record in taken.messages} == {"one@a"}
    store(backend, records[2:])
    live.look()
    taken = viewer.take()
    assert (taken.rows, taken.gone) == ([], ["one@a"])


def test_a_slow_viewer_loses_its_own_events_only(live: Live, backend: Backend) -> None:
    slow = live.join(Viewer(messages=True, waiting=3))
    fast = live.join(Viewer(messages=True))
    for number in range(5):
        store(backend, call(f"{number}@a", BEGAN))
        live.look()
    taken = slow.take()
    assert [row.call_id for row in taken.rows] == ["2@a", "3@a", "4@a"]
    assert (len(taken.messages), taken.lost_calls, taken.lost_messages) == (3, 2, 27)
    taken = fast.take()
    assert (len(taken.rows), len(taken.messages), taken.lost_calls, taken.lost_messages) == (5, 30, 0, 0)
    assert slow.take().lost_calls == 0


def test_memory_is_bounded_and_calls_that_are_over_go_first(backend: Backend, tmp_path: Path, clock: SetClock) -> None:
    live = Live(Store.open(folders=tmp_path), clock=clock, held=40_000)
    live.look()
    viewer = live.join(Viewer())
    store(backend, call("talking@a", BEGAN, bye=False))
    for number in range(100):
        store(backend, call(f"{number}@a", BEGAN))
        live.look()
    assert live.counts.held <= 40_000
    assert live.counts.dropped == 101 - live.counts.calls
    assert live.records("talking@a")
    assert live.records("99@a")
    assert not live.records("0@a")
    assert len(viewer.take().rows) == 101


def test_an_ack_that_comes_after_its_call_was_dropped_is_no_call(live: Live, backend: Backend) -> None:
    viewer = live.join(Viewer())
    store(backend, [call("gone@a", BEGAN)[3]])
    live.look()
    assert viewer.take().rows == []


def test_a_call_times_out_in_silence(live: Live, backend: Backend, clock: SetClock) -> None:
    viewer = live.join(Viewer())
    store(backend, call("new@a", BEGAN)[:1])
    live.look()
    assert [row.summary.state for row in viewer.take().rows] == ["calling"]
    clock.time_us = BEGAN + 181_000_000
    live.look()
    assert [row.summary.state for row in viewer.take().rows] == ["timed-out"]
    live.look()
    assert viewer.take().rows == []


def test_a_store_that_is_closed_has_the_time_of_its_newest_message(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    fill(shop.backend("text", shop.site()), call("new@a", BEGAN)[:1], BEGAN / 1e6)
    live = Live(Store.open(folders=tmp_path))
    live.look()
    rows, _ = live.feed(call("new@a", BEGAN)[:1])
    assert rows[0].summary.state == "calling"


def test_what_is_fed_is_judged(live: Live) -> None:
    judge = Judge(Query(from_users=["carol"]))
    rows, others = live.feed([*call("one@a", BEGAN), *call("two@a", BEGAN, caller="carol")], judge)
    assert ([row.call_id for row in rows], others) == (["two@a"], ["one@a"])


def test_a_late_viewer_gets_what_is_held(live: Live) -> None:
    live.feed(call("one@a", BEGAN))
    assert [row.call_id for row in live.join(Viewer(), with_held=True).take().rows] == ["one@a"]


def test_the_thread_wakes_viewers_and_ends(backend: Backend, tmp_path: Path) -> None:
    woken = threading.Event()
    with Live(Store.open(folders=tmp_path)) as live:
        assert live.ready.wait(10)
        viewer = live.join(Viewer(wake=woken.set))
        gone = live.join(Viewer())
        live.leave(gone)
        store(backend, call("new@a", round(time.time() * 1e6)))
        assert woken.wait(10)
        assert [row.call_id for row in viewer.take(10).rows] == ["new@a"]
        assert gone.take().rows == []
    assert not any(thread.name == "sipdump-live" for thread in threading.enumerate())


def test_what_cannot_be_read_is_told_once(live: Live, tmp_path: Path) -> None:
    away = tmp_path.rename(tmp_path.with_name("away"))
    try:
        live._follower._next_look = 0  # type: ignore[union-attr]  # at once
        live.look()
        assert len(live.problems()) == 1
        assert live.problems() == []
    finally:
        away.rename(tmp_path)

"""The process table, as .meta files list it."""

import time
from collections.abc import Callable

from sipdump_core.process_table import ProcessTable
from sipdump_core.version import VERSION


def rows(table: ProcessTable) -> list[str]:
    return table.render().splitlines()[4:]


def test_it_reads_as_kamailios() -> None:
    table = ProcessTable(1_795_386_431.0)
    table.add(1, 4711, "udp receiver child=0")
    table.add(0, 4710, "main process")
    assert table.render() == (
        f"v: 1.0\nversion: sipdump {VERSION}\nstart: {time.asctime(time.localtime(1_795_386_431))}\nnrprocs: 2\n"
        "process: 0 4710 main process\nprocess: 1 4711 udp receiver child=0\n"
    )


def test_the_start_is_local_time(live_in: Callable[[str], None]) -> None:
    live_in("Asia/Kathmandu")
    assert "\nstart: Mon Nov 23 04:12:11 2026\n" in ProcessTable(1_795_386_431.9).render()


def test_a_row_that_came_back_after_the_rotation_stays() -> None:
    table = ProcessTable(0)
    table.add(1, 2, "worker")
    table.retire(1, 2, "worker")
    table.begin_segment()
    assert rows(table) == []
    assert not table._retired, "workers come and go for years"
    table.add(1, 2, "worker")
    table.begin_segment()
    assert rows(table) == ["process: 1 2 worker"]


def test_a_row_is_entered_once_at_the_next_index() -> None:
    table = ProcessTable(0)
    assert [table.enter(9, "a"), table.enter(9, "b"), table.enter(9, "a")] == [0, 1, 0]
    assert table.changes == 2
    assert rows(table) == ["process: 0 9 a", "process: 1 9 b"]


def test_it_is_bounded() -> None:
    table = ProcessTable(0, limit=3)
    for n in range(10):
        table.add(n, n, "agent")
    assert len(rows(table)) == 3
    assert table.changes == 3


def test_a_retired_row_stays_for_the_open_segment() -> None:
    table = ProcessTable(0)
    table.add(1, 2, "ended")
    table.add(2, 3, "came back")
    table.retire(1, 2, "ended")
    table.retire(2, 3, "came back")
    table.add(2, 3, "came back")
    assert len(rows(table)) == 2
    table.begin_segment()
    assert rows(table) == ["process: 2 3 came back"]


def test_a_wrong_row_is_removed_at_once() -> None:
    table = ProcessTable(0)
    table.add(1, 2, "wrong")
    table.remove(1, 2, "wrong")
    table.remove(1, 2, "wrong")
    assert rows(table) == []
    assert table.changes == 2

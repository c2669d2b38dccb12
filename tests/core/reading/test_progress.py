"""A bar on the terminal while a scan takes long, and none otherwise."""

import io
import sys
from pathlib import Path

import pytest

from sipdump_core.drivers.query import Query
from sipdump_core.reading.progress import Bar
from sipdump_core.reading.shelves import open_shelves
from sipdump_core.reading.store import Store
from tests.core.reading.traffic import at, call, store
from tests.support import wait_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, delay: float = 0.01) -> Terminal:
    """Put a terminal in the place of standard error; in the test itself, because pytest changes it before that."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr("sipdump_core.reading.progress._DELAY", delay)
    monkeypatch.setattr("sipdump_core.reading.progress._REDRAWN", 0.01)
    return found


def test_a_long_scan_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    bar = Bar()
    bar.step(0, 3)
    wait_for(lambda: "0 of 3 segments" in screen.getvalue())
    bar.step(2, 3)
    wait_for(lambda: "2 of 3 segments" in screen.getvalue())
    bar.step(3, 3)
    assert screen.getvalue().endswith("\r")  # it is wiped off
    drawn = len(screen.getvalue())
    bar.step(0, 2)  # the next scan
    wait_for(lambda: "0 of 2 segments" in screen.getvalue()[drawn:])
    bar.close()
    bar.close()


def test_a_short_scan_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, delay=60)
    bar = Bar()
    bar.step(0, 3)
    bar.step(3, 3)
    assert screen.getvalue() == ""


def test_a_pipe_gets_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_core.reading.progress._DELAY", 0)
    bar = Bar()
    bar.step(0, 3)
    bar.close()
    assert capsys.readouterr().err == ""


def test_each_scan_ends_its_bar(tmp_path: Path) -> None:
    store(tmp_path, call("one@a"), call("two@a", at("12:00:00")), backends=("text",))
    steps: list[tuple[int, int]] = []
    shelves, _ = open_shelves(folders=[str(tmp_path)])
    opened = Store(shelves, progress=lambda done, total: steps.append((done, total)))
    assert len(list(opened.records(Query()))) == 12
    assert steps == [(0, 2), (1, 2), (2, 2)]
    steps.clear()
    for _ in opened.unsorted(Query()):
        opened.interrupt()
    assert steps == [(0, 2), (2, 2)]

"""Threads that do not end in silence."""

import pytest

from sipdump_core import threads
from sipdump_core.threads import lasting


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3), MemoryError()])
def test_work_that_fails_is_reported_and_begins_again(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "_PAUSES", (0.001, 0.002))
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        if len(runs) < 4:
            raise error

    thread = lasting(run, "sipdump-test")
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert len(runs) == 4
    assert caplog.text.count("thread=sipdump-test") == 3
    assert type(error).__name__ in caplog.text


def test_the_pauses_grow_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("sipdump_core.threads.time.sleep", pauses.append)

    def run() -> None:
        if len(pauses) < 6:
            raise ValueError("boom")

    thread = lasting(run, "sipdump-test")
    thread.start()
    thread.join(10)
    assert pauses == [1, 2, 4, 8, 10, 10]

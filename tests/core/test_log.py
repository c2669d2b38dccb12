"""The log: one event, one line, whatever strangers put into it."""

import io
import json
import logging
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator

import pytest

from sipdump_core.log import Event, Limit, escaped, log, setup

NASTY = [
    chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
]
"""Every control and format character, separator and surrogate of Unicode."""


class Broken:
    """As a driver's object may be."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture(params=["kv", "json"])
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    before = log.handlers[:], log.level, log.propagate
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    setup(request.param, "info")
    yield stream
    log.handlers[:], log.level, log.propagate = before


def test_nothing_that_a_terminal_obeys_is_in_a_line(lines: io.StringIO) -> None:
    for at in range(0, len(NASTY), 200):
        text = "x".join(NASTY[at : at + 200])
        log.warning(Event(f"what {text}", value=text, error=ValueError(text)))
        log.warning("a plain %s", text)
    log.warning(Event("nbsp", value="a\u00a0b"))
    found = lines.getvalue()
    assert len(found.splitlines()) == found.count("\n") == 2 * len(range(0, len(NASTY), 200)) + 1
    assert not set(found) & set(NASTY) - {"\n"}
    assert "\\u007f" in found
    assert "\\u202e" in found
    assert "\\u0085" in found
    assert "\\ud800" in found
    assert "\\udb40\\udc01" in found, "beyond 16 bits, as JSON has it"


def test_what_is_escaped_can_be_read_back(lines: io.StringIO) -> None:
    text = '\x7f\x85\x9b\u2028\u202e\U000e0001 "=\\'
    log.warning(Event("e", value=text))
    line = lines.getvalue()
    found = json.loads(line)["value"] if line.startswith("{") else json.loads(line.partition("value=")[2])
    assert found == text


def test_readable_text_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(Event("what", user="жаба", path="C:\\x", two="é 中")) == 'what user=жаба path=C:\\x two="é 中"'


def test_a_traceback_and_odd_fields_are_one_line(lines: io.StringIO) -> None:
    try:
        int("a\r\nb\u2029c")
    except ValueError:
        log.exception(Event("failed", **{"odd\nname": 1, "level ": "x"}, broken=Broken(), data=b"\n"))
    found = lines.getvalue()
    assert found.count("\n") == len(found.splitlines()) == 1
    assert "Traceback" in found
    assert "Broken that raises RuntimeError" in found


def test_what_is_kept() -> None:
    assert escaped("a\tb\nc\x1b", keep="\n\t") == "a\tb\nc\\u001b"
    assert logging.getLogger("sipdump") is log


def test_a_limit_lets_one_a_second_through_and_counts_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 5000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit = Limit()
    for _ in range(3):
        limit.warn("a", "lost", of="a")
    limit.warn("b", "lost", of="b")
    now += 0.999
    limit.warn("a", "lost", of="a")
    now += 0.001
    limit.warn("a", "lost", of="a")
    now += 1
    limit.warn("a", "lost", of="a")
    assert caplog.messages == ["lost of=a", "lost of=b", "lost of=a held_back=3", "lost of=a"]


def test_a_limit_keeps_a_bounded_number_of_keys() -> None:
    limit = Limit(keys=3)
    for number in range(100):
        limit.warn(f"stranger {number}", "lost")
    assert len(limit._last) <= 3


def test_times_are_local_with_their_offset(lines: io.StringIO, live_in: Callable[[str], None]) -> None:
    live_in("Asia/Kathmandu")
    made = logging.LogRecord("sipdump", logging.INFO, "x.py", 1, "e", (), None)
    made.created = 1_795_386_431.765
    log.handle(made)
    assert "2026-11-23T04:12:11.765+05:45" in lines.getvalue()

"""Caps: how much a store may take."""

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import Backend
from sipdump_core.errors import ConfigError
from sipdump_core.lifecycle import holds
from sipdump_core.lifecycle.caps import Caps, Limits, Usage
from sipdump_core.lifecycle.holds import Hold
from sipdump_core.sipdump import SipDump
from tests.core.lifecycle.rewrites import KINDS, START, calls, ids, make, store
from tests.support import record, wait_for

HOUR = 3600


def caps_of(folder: Path, backends: list[Backend], **limits: Any) -> Caps:
    return Caps(lambda: backends, list, [(str(folder), "kamailio-sipdump-")], Limits(**limits), 60, time.time)


def used(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it went meanwhile
            size += path.stat().st_size if path.name.startswith("kamailio") else 0
    return size


@pytest.mark.parametrize("kind", KINDS)
def test_the_oldest_go_until_the_cap_holds(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    for number in range(5):
        store(backend, calls(f"c{number}"), START + number * HOUR)
    size = used(tmp_path) // 5
    caps = caps_of(tmp_path, [backend], max_bytes=int(3.5 * size))
    caps.check()
    assert sorted(set(ids(backend))) == ["c2", "c3", "c4"]
    assert used(tmp_path) <= 3.5 * size
    assert (caps.stats.segments, caps.stats.biting) == (2, 1)
    caps.check()
    assert (caps.stats.segments, caps.stats.biting, caps.stats.used_bytes) == (2, 0, used(tmp_path))


def test_segments_of_all_backends_count_and_go(tmp_path: Path) -> None:
    made = [make(tmp_path, kind) for kind in ("text", "pcap")]
    for number in range(3):
        for backend in made:
            store(backend, calls(f"c{number}"), START + number * HOUR)
    caps_of(tmp_path, made, max_bytes=used(tmp_path) - 1).check()
    assert set(ids(made[0])) == {"c1", "c2"}
    assert set(ids(made[1])) >= {"c1", "c2"}


def test_an_open_segment_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SipDump(enable=1, folder=tmp_path, start_pruning=False) as dump:
        dump.intercept([record()])
        assert dump.flush(60)
        caps = caps_of(tmp_path, [make(tmp_path, "text")], max_bytes=1)
        with caplog.at_level(logging.WARNING):
            caps.check()
        assert list(tmp_path.glob("*.data"))
    assert "no sealed segment is left" in caplog.text


def test_what_is_held_stays(tmp_path: Path) -> None:
    backend = make(tmp_path, "text")
    for number in range(3):
        store(backend, calls(f"c{number}", f"d{number}"), START + number * HOUR)
    holds.add(str(tmp_path), Hold("case", call_ids=["c0"]))
    caps_of(tmp_path, [backend], max_bytes=1).check()
    assert set(ids(backend)) == {"c0"}


def test_the_log_says_once_that_a_cap_bites(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = make(tmp_path, "text")
    for number in range(3):
        store(backend, calls(f"c{number}"), START + number * HOUR)
    caps = caps_of(tmp_path, [backend], max_bytes=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            store(backend, calls("x"), START + 9 * HOUR)
            caps.check()
    assert caplog.text.count("a cap is reached") == 1


def test_free_space_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(tmp_path, "text")
    for number in range(4):
        store(backend, calls(f"c{number}"), START + number * HOUR)
    size = used(tmp_path) // 4
    real = os.statvfs(tmp_path)

    class Disk:
        f_frsize, f_blocks = 1, 10 * size

        @property
        def f_bavail(self) -> int:
            return 5 * size - used(tmp_path)

    assert real.f_bavail
    monkeypatch.setattr("sipdump_core.lifecycle.caps.os.statvfs", lambda _: Disk())
    caps_of(tmp_path, [backend], min_free_share=0.3).check()
    assert len(list(backend.segments())) == 2
    caps_of(tmp_path, [backend], min_free=4 * size).check()
    assert len(list(backend.segments())) == 1


def test_usage_follows_what_is_written_sealed_and_deleted(tmp_path: Path) -> None:
    usage = Usage([(str(tmp_path), "p-")], 60, time.time)
    (tmp_path / "q-other").write_bytes(b"x" * 50)
    assert usage.total() == 0
    one = tmp_path / "p-one.data"
    one.write_bytes(b"x" * 100)
    assert usage.total() == 100
    with one.open("ab") as file:
        file.write(b"x" * 10)
    (tmp_path / ".p-draft").write_bytes(b"x")
    assert usage.total() == 111
    other = tmp_path / "p-two.data"
    other.write_bytes(b"x" * 7)
    os.replace(other, one)
    assert usage.total() == 8
    one.unlink()
    assert usage.total() == 1


def test_a_flood_stays_within_the_cap_and_one_segment(tmp_path: Path) -> None:
    cap, segment = 200_000, 20_000
    with SipDump(enable=1, folder=tmp_path, max_bytes=str(cap), rotate_size=segment, wait_mode=1) as dump:
        for _ in range(60):
            dump.intercept([record(b"OPTIONS sip:a@b SIP/2.0\r\n\r\n" + b"x" * 1000)] * 18)
            assert dump.flush(60)
            wait_for(lambda: used(tmp_path) <= cap + segment)
        wait_for(lambda: dump.stats().caps.segments > 30)
        assert dump.stats().caps.bytes > 500_000
    assert used(tmp_path) > cap / 2


@pytest.mark.parametrize("value", ["80X", "G", "-1", "1.5G"])
def test_a_size_is_one(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'write "80G"'):
        SipDump(folder=tmp_path, max_bytes=value)


@pytest.mark.parametrize("value", ["100%", "x%", "-1%"])
def test_a_share_is_one(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='as "10%"'):
        SipDump(folder=tmp_path, min_free=value)

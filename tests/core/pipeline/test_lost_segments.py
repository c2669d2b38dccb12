"""Open files that somebody deletes or moves away: noticed within a second, and not counted as stored."""

import errno
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core.pipeline import delivery
from sipdump_core.pipeline.numbers import LaneStats
from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, files, read
from tests.support import wait_for

MODES = {1: [".data"], 4: [".pcap"], 16: [".parquet.wal"], 21: [".data", ".pcap", ".parquet.wal"]}


@pytest.fixture(autouse=True)
def _looked_after_often(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Look after the open segment more often than a user waits for; one test sees how often that is."""
    if request.function is not test_deleted_files:
        monkeypatch.setattr(delivery, "CHECK_EVERY", 0.02)
        monkeypatch.setattr("sipdump_core.pipeline.lane.CHECK_EVERY", 0.02)


@pytest.fixture(params=MODES)
def dump(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SipDump]:
    folder = tmp_path / "dump"
    folder.mkdir()
    with SipDump(enable=1, folder=folder, mode=request.param) as made:
        for n in range(3):
            made.received(b"%d" % n, A, B)
        assert made.flush(60)
        yield made


def lanes(dump: SipDump) -> list[LaneStats]:
    return list(dump.stats().backends.values())


def lost(dump: SipDump) -> bool:
    return all(sum(lane.dropped.values()) == 3 for lane in lanes(dump))


def end(folder: Path, suffixes: list[str]) -> list[Path]:
    return [path for suffix in suffixes for path in files(folder, suffix)]


def go_on(dump: SipDump, tmp_path: Path) -> None:
    """Store one record more, and see that it is where it belongs, and is all that counts."""
    suffixes = MODES[dump.workshop.plan.params.mode]
    dump.received(b"after", A, B)
    assert dump.flush(60)
    for lane in lanes(dump):
        assert (lane.state, lane.stored, sum(lane.dropped.values())) == ("ok", 1, 3)
    assert len(end(tmp_path / "dump", suffixes)) == len(suffixes)
    assert len(files(tmp_path / "dump", ".meta")) == 1
    if ".data" in suffixes:
        assert [one.buf for one in read(tmp_path / "dump")] == [b"after"]


def test_deleted_files(tmp_path: Path, dump: SipDump, caplog: pytest.LogCaptureFixture) -> None:
    before = set(os.listdir(tmp_path / "dump"))
    assert delivery.CHECK_EVERY < 1
    for path in (tmp_path / "dump").iterdir():
        path.unlink()
    wait_for(lambda: lost(dump))  # without any traffic
    assert all(lane.stored == 0 for lane in lanes(dump))
    assert all(set(lane.dropped) == {"the open file was deleted"} for lane in lanes(dump))
    assert "open segment is gone" in caplog.text
    go_on(dump, tmp_path)
    assert not before & set(os.listdir(tmp_path / "dump")), "the segment is a new one"


def test_moved_files(tmp_path: Path, dump: SipDump) -> None:
    (tmp_path / "away").mkdir()
    for path in (tmp_path / "dump").iterdir():
        path.rename(tmp_path / "away" / path.name)
    wait_for(lambda: lost(dump))
    assert all(set(lane.dropped) == {"the open file was moved away"} for lane in lanes(dump))
    sizes = {path: path.stat().st_size for path in (tmp_path / "away").iterdir()}
    go_on(dump, tmp_path)
    assert {path: path.stat().st_size for path in (tmp_path / "away").iterdir()} == sizes


def test_a_folder_that_was_replaced(tmp_path: Path, dump: SipDump) -> None:
    (tmp_path / "dump").rename(tmp_path / "away")
    (tmp_path / "dump").mkdir()
    wait_for(lambda: lost(dump))
    go_on(dump, tmp_path)


def test_a_folder_that_was_deleted(tmp_path: Path, dump: SipDump) -> None:
    shutil.rmtree(tmp_path / "dump")
    wait_for(lambda: lost(dump))
    dump.received(b"after", A, B)
    wait_for(lambda: all(lane.state == "retrying" for lane in lanes(dump)))
    (tmp_path / "dump").mkdir()
    wait_for(lambda: all(lane.stored == 1 for lane in lanes(dump)))


def test_another_file_in_its_place(tmp_path: Path, dump: SipDump) -> None:
    suffixes = MODES[dump.workshop.plan.params.mode]
    others = end(tmp_path / "dump", suffixes)
    for path in others:
        path.unlink()
        path.write_bytes(b"another one's")
    wait_for(lambda: lost(dump))
    dump.received(b"after", A, B)
    assert dump.flush(60)
    dump.close()
    assert [path.read_bytes() for path in others if path.exists()] == [b"another one's"] * len(others)


@pytest.mark.parametrize("how", ["rotate", "close"])
def test_deleted_just_before_the_end(tmp_path: Path, dump: SipDump, how: str) -> None:
    for path in (tmp_path / "dump").iterdir():
        path.unlink()
    getattr(dump, how)()
    wait_for(lambda: lost(dump))
    assert all(lane.stored == 0 for lane in lanes(dump))


def test_under_load_nothing_counts_twice(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        for n in range(20):
            for m in range(100):
                dump.received(b"%d %d" % (n, m), A, B)
            assert dump.flush(60)
            if n % 7 == 3:
                before = sum(lanes(dump)[0].dropped.values())
                for path in files(tmp_path, ".data"):
                    path.unlink()
                wait_for(lambda: sum(lanes(dump)[0].dropped.values()) > before)  # noqa: B023 - called at once
    (text,) = dump.stats().backends.values()
    assert text.stored == len(read(tmp_path))
    assert text.stored + sum(text.dropped.values()) == 2000


def test_a_full_disk_is_freed_by_deleting_the_open_file(
    tmp_path: Path, dump: SipDump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks are free only when it is closed, too."""
    real = os.write
    inodes = {path.stat().st_ino for path in (tmp_path / "dump").iterdir()}

    def full(fd: int, data: bytes) -> int:
        if os.fstat(fd).st_ino in inodes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    dump.received(b"after", A, B)
    wait_for(lambda: all(lane.state == "retrying" for lane in lanes(dump)))
    for path in (tmp_path / "dump").iterdir():
        path.unlink()
    wait_for(lambda: lost(dump))
    inodes.clear()
    wait_for(lambda: all(lane.stored == 1 for lane in lanes(dump)))


def test_a_segment_that_has_its_name_is_left_alone(dump: SipDump, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: Counter[str] = Counter()
    for backend in dump.backends:
        monkeypatch.setattr(backend, "check", lambda b=backend: (b.__class__.check(b), looks.update([b.name])))
    wait_for(lambda: len(looks) == len(dump.backends) and min(looks.values()) >= 3)
    assert all((lane.state, lane.stored, lane.dropped) == ("ok", 3, {}) for lane in lanes(dump))


class TestSync:
    """What a daemon makes of a disk that cannot sync."""

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    def test_one_failure_costs_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        real, failed = os.fdatasync, list[str]()

        def once(fd: int) -> None:
            path = os.readlink(f"/proc/self/fd/{fd}")
            if not any(path.endswith(one[-12:]) for one in failed):
                failed.append(path)
                raise OSError(number, os.strerror(number))
            real(fd)

        monkeypatch.setattr(os, "fdatasync", once)
        count = 0
        with SipDump(enable=1, folder=tmp_path, mode=17) as dump:
            while len(failed) < 2 or count < 500:
                dump.received(b"%d" % count, A, B)
                count += 1
                time.sleep(0.002)
            assert dump.flush(60)
            wait_for(lambda: all(lane.state == "ok" for lane in lanes(dump)))
            dump.received(b"%d" % count, A, B)
            dump.rotate()
            assert dump.flush(60)
        assert all((lane.stored, lane.dropped) == (count + 1, {}) for lane in lanes(dump))
        assert len(files(tmp_path, ".data")) >= 2, "the file that failed is written no more"
        assert sorted(int(one.buf) for one in read(tmp_path)) == list(range(count + 1))

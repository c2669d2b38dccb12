"""The dispatcher: segments of all backends together, their names and their .meta files."""

import errno
import fcntl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.errors import StorageError
from sipdump_core.lifecycle import meta_file
from sipdump_core.lifecycle.retention import prune
from sipdump_core.segment import Segment
from sipdump_core.sipdump import SipDump
from sipdump_text import TextBackend
from tests.core.support import A, B, Probe, files, plan, read
from tests.support import FakeClock, record, wait_for


def test_rotation_by_records_shares_names_and_splits_nothing(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=13, folder=tmp_path, rotate_records=10) as dump:
        dump.intercept([record(b"%d" % n) for n in range(35)])
    data, pcap = files(tmp_path, ".data"), files(tmp_path, ".pcap")
    assert len(data) == 4
    assert [p.stem for p in data] == [p.stem for p in pcap] == [p.stem for p in files(tmp_path, ".meta")]
    assert [one.buf for one in read(tmp_path)] == [b"%d" % n for n in range(35)]


def test_rotation_by_size(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=13, folder=tmp_path, rotate_size=5000) as dump:
        dump.intercept([record(b"x" * 700, time_us=n) for n in range(50)])
        dump.intercept([record(b"y" * 9000), record(b"z")])
    sizes = sorted(path.stat().st_size for path in files(tmp_path, ".data"))
    assert sizes[-1] > 9000  # a message that is longer stands alone
    assert sizes[-2] <= 5000
    assert sizes[2] > 4000
    assert sorted(len(one.buf) for one in read(tmp_path)) == [1, *[700] * 50, 9000]


def test_a_stale_segment_is_sealed_without_traffic(tmp_path: Path) -> None:
    clock = FakeClock()
    with SipDump(enable=1, folder=tmp_path, rotate=1, clock=clock) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(60)
        clock.advance(0.95)
        dump.received(b"0.05 s before it is stale", A, B)
        assert dump.flush(60)
        backend = TextBackend(NoOptions(), Site(str(tmp_path), "kamailio-sipdump-"))
        assert [s.sealed for s in backend.segments()] == [False]
        clock.advance(0.05)
        wait_for(lambda: [s.sealed for s in backend.segments()] == [True])
        dump.received(b"b", A, B)
        assert dump.flush(60)
        assert len(list(backend.segments())) == 2


def test_a_stepped_wall_clock_overwrites_and_delays_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    with SipDump(enable=1, folder=tmp_path, clock=clock, rotate=100) as dump:
        for step in (0, 0, -3600, 3600):
            clock.now += step
            dump.received(b"%d" % step, A, B)
            assert dump.flush(60)
            dump.rotate()
        dump.received(b"young", A, B)
        assert dump.flush(60)
        clock.ticks += 99
        dump.received(b"still young", A, B)
        assert dump.flush(60)
        clock.now -= 7200  # the wall clock steps back, the interval goes on
        clock.ticks += 1
        dump.received(b"old", A, B)
    names = [path.name for path in files(tmp_path, ".data")]
    assert len(names) == len(set(names)) == 6
    assert len(read(tmp_path)) == 7


def test_a_restart_in_the_same_second_overwrites_nothing(tmp_path: Path) -> None:
    for n in range(3):
        with SipDump(enable=1, mode=5, folder=tmp_path, clock=FakeClock()) as dump:
            dump.received(b"%d" % n, A, B)
    assert [one.buf for one in read(tmp_path)] == [b"0", b"1", b"2"]
    stems = [path.stem for path in files(tmp_path, ".data")]
    assert [stem[len(stems[0]) :] for stem in stems] == ["", "-1", "-2"]
    assert [path.stem for path in files(tmp_path, ".pcap")] == stems


def test_two_segments_of_a_second_have_two_names_without_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(Probe, "open", lambda _, segment: names.append(segment.stem))
    with SipDump(plan=plan(tmp_path, Probe, mode=0, rotate_records=1), clock=FakeClock()) as dump:
        dump.intercept([record()] * 3)
    assert [name.removeprefix(names[0]) for name in names] == ["", "-1", "-2"]


def test_a_name_is_taken_by_any_of_its_files(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=5, folder=tmp_path, clock=FakeClock()) as dump:
        dump.received(b"0", A, B)
    files(tmp_path, ".data")[0].unlink()
    files(tmp_path, ".meta")[0].unlink()
    with SipDump(enable=1, mode=5, folder=tmp_path, clock=FakeClock()) as dump:
        dump.received(b"1", A, B)
    assert [path.stem.rpartition("-")[2] for path in files(tmp_path, ".data")] == ["1"]


def test_a_link_at_the_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    clock = FakeClock()
    with SipDump(enable=1, folder=tmp_path, clock=clock) as dump:
        dump.received(b"0", A, B)
    (first,) = files(tmp_path, ".data")
    first.unlink()
    first.symlink_to(tmp_path / "victim")
    with SipDump(enable=1, folder=tmp_path, clock=clock) as dump:
        dump.received(b"1", A, B)
    assert (tmp_path / "victim").read_text() == "precious"
    assert [one.buf for one in read(tmp_path)] == [b"1"]


def test_meta_is_brought_up_to_date_while_the_segment_is_open(tmp_path: Path) -> None:
    clock = FakeClock()
    with SipDump(enable=1, folder=tmp_path, clock=clock) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(60)
        (meta,) = files(tmp_path, ".meta")
        clock.advance(0.95)
        dump.table.add(1, 0, "HEP agent id=77")
        dump.received(b"b", A, B)
        assert dump.flush(60)
        assert "agent" not in meta.read_text()
        clock.advance(0.05)
        wait_for(lambda: "process: 1 0 HEP agent id=77" in meta.read_text())
        assert len(list(tmp_path.iterdir())) == 2


def test_rows_that_came_just_before_a_rotation_are_in_its_meta(tmp_path: Path) -> None:
    clock = FakeClock()  # which stands still: no other write of it is due
    with SipDump(enable=1, folder=tmp_path, clock=clock) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(60)
        dump.table.add(1, 77, "just in time")
        dump.table.add(2, 78, "ended")
        dump.table.retire(2, 78, "ended")
        dump.rotate()
        dump.received(b"b", A, B)
        assert dump.flush(60)
        dump.table.add(3, 79, "before the end")
    first, second = (path.read_text() for path in files(tmp_path, ".meta"))
    assert "process: 1 77 just in time\nprocess: 2 78 ended\n" in first
    assert "process: 1 77 just in time\nprocess: 3 79 before the end\n" in second
    assert "nrprocs: 3\n" in second


def test_a_meta_file_is_brought_up_to_date_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    written: list[float] = []
    real = meta_file.rewrite

    def rewrite(site: Site, segment: Segment) -> None:
        written.append(clock.ticks - 1000)
        real(site, segment)

    monkeypatch.setattr(meta_file, "rewrite", rewrite)
    with SipDump(enable=1, folder=tmp_path, clock=clock) as dump:
        for number in range(10):
            dump.table.add(number, number, "agent")
            dump.received(b"%d" % number, A, B)
            assert dump.flush(60)
            if number == 5:
                assert 0.5 < (dump._dispatcher.wait() or 0.0) < 1.0  # the next one is due without any traffic
            clock.advance(0.25)
        assert written == [1.0, 2.0]


def test_a_meta_file_that_could_not_be_made_is_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    real, errors = meta_file._create, [StorageError("write", "x", "Too many open files")]

    def scarce(path: str, site: Site) -> int:
        if errors:
            raise errors.pop()
        return real(path, site)

    monkeypatch.setattr(meta_file, "_create", scarce)
    with SipDump(enable=1, folder=tmp_path, clock=clock) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(60)
        assert files(tmp_path, ".meta") == []
        clock.advance(1)
        dump.received(b"b", A, B)
        assert dump.flush(60)
        assert [path.stem for path in files(tmp_path, ".meta")] == [path.stem for path in files(tmp_path, ".data")]


def test_a_meta_file_of_another_segment_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    theirs = tmp_path / (Segment.starting("kamailio-sipdump-", clock.now).stem + ".meta")
    theirs.write_text("theirs")

    def fail(*_: object) -> Segment:
        raise StorageError("write", "x", "Too many open files")

    monkeypatch.setattr("sipdump_core.lifecycle.meta_file.claim", fail)
    with SipDump(enable=1, folder=tmp_path, clock=clock) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(60)
        dump.table.add(9, 9, "new row")
        clock.ticks += 5
        dump.received(b"b", A, B)
    assert theirs.read_text() == "theirs"
    assert len(read(tmp_path)) == 2


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with SipDump(enable=1, folder=tmp_path) as dump:
        dump.received(b"a", A, B)
    assert len(read(tmp_path)) == 1


def test_the_hour_that_comes_twice_has_two_segments_and_nothing_is_pruned_early(
    tmp_path: Path, live_in: Callable[[str], None]
) -> None:
    live_in("Europe/Berlin")  # on 2026-10-25 at 03:00 it is 02:00
    clock = FakeClock(1_792_888_200.0)  # 02:30 for the first time
    with SipDump(enable=1, folder=tmp_path, clock=clock, rotate=3600, rotate_align=1) as dump:
        for step in (0, 1799, 1, 3599, 1):
            clock.advance(step)
            dump.received(b"%d" % step, A, B, time_us=int(clock.now * 1e6))
            assert dump.flush(60)
    stamps = [path.name[len("kamailio-sipdump-2026-10-25--") : -len(".data")] for path in files(tmp_path, ".data")]
    assert stamps == ["02-00-00", "02-30-00", "03-00-00"]
    assert sorted(one.buf for one in read(tmp_path)) == [b"0", b"1", b"1", b"1799", b"3599"]
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "kamailio-sipdump-"))
    written = {stored.modified for stored in backend.segments()}
    assert not list(prune([backend], 3600, now=min(written) + 3600))  # by age, not by name
    assert len(list(prune([backend], 3600, now=max(written) + 3601))) == 3


def test_segments_end_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    clock = FakeClock(time.mktime(time.strptime("2026-11-22 22:27:11", "%Y-%m-%d %H:%M:%S")))
    with SipDump(enable=1, folder=tmp_path, clock=clock, rotate=3600, rotate_align=1) as dump:
        for step in (0, 1968, 1, 3600, 59):
            clock.advance(step)
            dump.received(b"%d" % step, A, B)
            assert dump.flush(60)
        clock.now += 7200  # the wall clock is set
        dump.received(b"set", A, B)
    monkeypatch.undo()
    time.tzset()
    stamps = [path.stem[-20:] for path in files(tmp_path, ".data")]
    assert stamps == ["2026-11-22--22-27-11", "2026-11-22--23-00-00", "2026-11-23--00-00-00", "2026-11-23--02-00-59"]
    assert [one.buf for one in read(tmp_path)] == [b"0", b"1968", b"1", b"3600", b"59", b"set"]


def test_a_segment_on_the_clock_is_sealed_without_traffic(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path, rotate=1, rotate_align=1) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(60)
        backend = TextBackend(NoOptions(), Site(str(tmp_path), "kamailio-sipdump-"))
        wait_for(lambda: [s.sealed for s in backend.segments()] == [True])

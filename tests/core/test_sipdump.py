"""The in-process interface."""

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from pathlib import Path

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.errors import ClosedError
from sipdump_core.pipeline import lane
from sipdump_core.record import Record
from sipdump_core.sipdump import SipDump
from sipdump_text import TextBackend
from tests.core.support import A, B, Probe, files, plan, probe, read
from tests.support import OPTIONS, record, wait_for


def test_received_and_sent(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=13, folder=tmp_path) as dump:
        dump.received(OPTIONS, A, B, "tls")
        dump.sent(bytearray(b"SIP/2.0 200 OK\r\n\r\n"), B, A, "tls", time_us=5, pid=7, procno=3)
        dump.received(memoryview(b"x"), ("::1", 5060, 0, 0), ("fe80::1%lo", 5061, 0, 1))
    one, two, three = read(tmp_path)
    assert (one.tag, one.proto, one.src_ip, one.src_port, one.dst_ip, one.dst_port) == ("rcv", "tls", *A, *B)
    assert one.buf == OPTIONS
    assert abs(one.time_us / 1e6 - time.time()) < 60
    assert (two.tag, two.pid, two.procno, two.time_us) == ("snd", 7, 3, 5)
    assert (three.af, three.src_ip, three.dst_ip, three.proto) == ("ipv6", "::1", "fe80::1", "udp")
    (meta,) = files(tmp_path, ".meta")
    lines = meta.read_text().splitlines()
    assert lines[0] == "v: 1.0"
    assert lines[1].startswith("version: sipdump ")
    assert lines[2].startswith("start: ")
    assert lines[3:] == ["nrprocs: 2", f"process: 0 {one.pid} thread MainThread", "process: 3 7 process"]
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o640] * 3


def test_send_stores_under_its_own_tag_without_the_event_route(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=3, folder=tmp_path) as dump:
        seen: list[Record] = []
        dump.event_route(seen.append)
        dump.received(b"a", A, B)
        dump.send(record(b"b"), "cfg")
        with pytest.raises(ValueError, match="tag must be text"):
            dump.send(record(b"b"), "c\nfg")
    assert [(one.tag, one.buf) for one in read(tmp_path)] == [("rcv", b"a"), ("cfg", b"b")]
    assert [one.buf for one in seen] == [b"a"]


def test_nothing_is_stored_while_not_enabled(tmp_path: Path) -> None:
    with SipDump(folder=tmp_path) as dump:
        dump.received(b"a", A, B)
        dump.enable = True
        dump.received(b"b", A, B)
        dump.enable = False
        dump.send(record(b"c"), "cfg")
        stats = dump.stats()
    assert [one.buf for one in read(tmp_path)] == [b"b"]
    assert (stats.received, stats.disabled) == (1, 2)


def test_the_event_route_drops_by_false_and_an_exception_drops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SipDump(enable=1, mode=3, folder=tmp_path) as dump:

        @dump.event_route
        def route(one: Record) -> object:
            if one.buf == b"boom":
                raise RuntimeError("what a callback")
            return {b"false": False, b"none": None, b"zero": 0, b"true": True}[one.buf]

        for buf in (b"false", b"none", b"zero", b"true", b"boom"):
            dump.received(buf, A, B)
            dump.sent(buf, A, B)
        stats = dump.stats()
    assert [one.buf for one in read(tmp_path)] == [x for b in (b"none", b"zero", b"true", b"boom") for x in (b, b)]
    assert (stats.route_dropped, stats.route_errors) == (2, 2)
    assert "what a callback" in caplog.text


def test_the_event_route_alone_is_a_mode(tmp_path: Path) -> None:
    seen: list[Record] = []
    with SipDump(enable=1, mode=2, folder=tmp_path) as dump:
        dump.event_route(seen.append)
        dump.received(b"a", A, B)
    assert len(seen) == 1
    assert not list(tmp_path.iterdir())


def test_without_flag_2_the_event_route_does_not_run(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=1, folder=tmp_path) as dump:
        dump.event_route(lambda _: False)
        dump.received(b"a", A, B)
    assert len(read(tmp_path)) == 1


def test_a_time_that_no_format_holds_is_refused(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        for time_us in (-1, 2**32 * 1_000_000, 10**20):
            with pytest.raises(ValueError, match="time_us must be microseconds"):
                dump.received(b"a", A, B, time_us=time_us)
        for time_us in (0, 2**32 * 1_000_000 - 1):
            dump.received(b"a", A, B, time_us=time_us)
    assert [one.time_us for one in read(tmp_path)] == [0, 2**32 * 1_000_000 - 1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_and_the_parents_segment_is_sealed(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        dump.received(b"parent", A, B)
        assert dump.flush(60)
        out, into = os.pipe()
        child = os.fork()
        if not child:
            answer = "stored"
            try:
                dump.received(b"child", A, B)
            except ClosedError:
                answer = "refused"
            dump.table.add(9, 9, "of the child")
            answer += f" {dump.close()} {_open_segments(tmp_path)}"
            os.write(into, answer.encode())
            signal.pause()
        try:
            assert os.read(out, 1000) == b"refused True []"  # and the segment stays its parent's
            assert len(_open_segments(tmp_path)) == 1
            dump.received(b"parent again", A, B)
            (meta,) = files(tmp_path, ".meta")
            assert "of the child" not in meta.read_text()
            assert dump.close()
            backend = TextBackend(NoOptions(), Site(str(tmp_path), "kamailio-sipdump-"))
            assert [stored.sealed for stored in backend.segments()] == [True]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(out)
            os.close(into)
    assert [one.buf for one in read(tmp_path)] == [b"parent", b"parent again"]


def _open_segments(folder: Path) -> list[str]:
    """Return the segments in a folder that this process has open."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    paths = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [path for path in paths if path.startswith(str(folder)) and path.endswith(".data")]


def test_a_flush_waits_for_every_backend_and_no_longer_than_it_may(tmp_path: Path) -> None:
    free = threading.Event()
    with SipDump(plan=plan(tmp_path, Probe)) as dump:
        probe(dump).on_write = lambda: free.wait(30)
        dump.received(b"a", A, B)
        wait_for(lambda: len(read(tmp_path)) == 1)
        assert not dump.flush(0.05)  # the text is stored, the probe's not

        def wait() -> None:
            free.wait(60)

        dump._intake.order(wait)
        began = time.monotonic()
        assert not dump.flush(0.05)  # not even handed on
        assert time.monotonic() - began < 30
        free.set()
        assert dump.flush(60)
        assert [one.buf for one in probe(dump).stored] == [b"a"]


def test_a_flush_is_of_all_that_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    with SipDump(plan=plan(tmp_path, Probe, wait=10_000_000)) as dump:
        dump.intercept([record(b"%d" % n) for n in range(500)])
        assert dump.flush(60)
        assert len(read(tmp_path)) == len(probe(dump).stored) == 500
        assert probe(dump).calls[-1] == "flush"


def test_at_the_end_the_writer_is_hurried_and_waited_for_before_the_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "_WATCH_EVERY", 0.01)
    free = threading.Event()
    dump = SipDump(plan=plan(tmp_path, Probe, queue=10))
    probe(dump).on_write = lambda: free.wait(60)
    for _ in range(3):  # it waits for room, which there is none of
        dump.intercept([record()] * 10)
    close = dump._dispatcher.close
    writing: list[bool] = []

    def note(timeout: float) -> bool:
        writing.append(dump._intake._thread.is_alive())
        free.set()
        return close(timeout)

    monkeypatch.setattr(dump._dispatcher, "close", note)
    assert not dump.close(3)
    assert writing == [False]
    numbers = dump.stats().backends["probe"]
    assert numbers.stored + sum(numbers.dropped.values()) == 30


def test_a_closed_one_is_forgotten(tmp_path: Path) -> None:
    dump = SipDump(enable=1, folder=tmp_path, fage=5)
    dump.received(b"a", A, B)
    assert dump.close()
    left = weakref.ref(dump)
    del dump

    def gone() -> bool:
        gc.collect()
        return left() is None

    wait_for(gone)


def test_after_close_nothing_is_taken(tmp_path: Path) -> None:
    dump = SipDump(enable=1, folder=tmp_path)
    dump.received(b"a", A, B)
    assert dump.close()
    assert dump.close()
    with pytest.raises(ClosedError):
        dump.received(b"a", A, B)
    assert len(read(tmp_path)) == 1


def test_no_threads_are_left(tmp_path: Path) -> None:
    before = threading.active_count()
    with SipDump(enable=1, mode=13, folder=tmp_path, fage=5) as dump:
        dump.received(b"a", A, B)
    wait_for(lambda: threading.active_count() == before)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), SystemExit(3)])
def test_whatever_a_callback_raises_the_record_is_stored(tmp_path: Path, error: BaseException) -> None:
    def route(_: Record) -> None:
        raise error

    with SipDump(enable=1, mode=3, folder=tmp_path) as dump:
        dump.event_route(route)
        dump.received(b"a", A, B)
        assert dump.stats().route_errors == 1
    assert len(read(tmp_path)) == 1


@pytest.mark.parametrize(("wait_mode", "wait_us", "gather_s"), [(0, 100, 0.02), (0, 500_000, 0.5), (1, 500_000, 0.0)])
def test_how_long_records_gather(tmp_path: Path, wait_mode: int, wait_us: int, gather_s: float) -> None:
    with SipDump(folder=tmp_path, wait_mode=wait_mode, wait=wait_us) as dump:
        assert dump._intake._gather == gather_s

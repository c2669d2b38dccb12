"""The in-process interface, with real backends or with backends that fail."""

import asyncio
import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.config.reader import parse_config
from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.discovery import Driver
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import ClosedError, ConfigError, DriverError, StorageError, StorageFullError
from sipdump_core.pipeline import delivery, lane
from sipdump_core.plan import Plan, make_plan
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.core import Params
from sipdump_core.settings.options import Setting, build
from sipdump_core.sipdump import SipDump
from sipdump_core.workshop import Workshop
from sipdump_text import TextBackend
from tests.support import OPTIONS, FakeClock, record, wait_for

A, B = ("192.0.2.1", 5060), ("192.0.2.2", 5070)


def read(folder: Path, prefix: str = "kamailio-sipdump-") -> list[Record]:
    backend = TextBackend(NoOptions(), Site(str(folder), prefix))
    return [one for stored in sorted(backend.segments(), key=lambda s: s.segment) for one in backend.read(stored)]


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"), key=lambda path: (path.stem[:36], len(path.stem), path.name))


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


def test_dual_stack_sockets_addresses_are_ipv4(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        dump.received(b"x", ("::ffff:192.0.2.1", 5060, 0, 0), ("::ffff:192.0.2.2", 5060, 0, 0))
    assert [(one.af, one.src_ip) for one in read(tmp_path)] == [("ipv4", "192.0.2.1")]


@pytest.mark.parametrize(
    ("src", "dst", "proto"),
    [(("localhost", 1), B, "udp"), (A, ("::1", 1), "udp"), (A, B, "quic"), (A, ("192.0.2.2", 70000), "udp")],
)
def test_wrong_addresses_are_refused(tmp_path: Path, src: Any, dst: Any, proto: str) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump, pytest.raises(ValueError, match=r".+"):
        dump.received(b"x", src, dst, proto)
    assert not files(tmp_path, "")


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


def test_event_callback_names_a_function(tmp_path: Path) -> None:
    (tmp_path / "cb.py").write_text("def drop_all(record):\n    return False\n")
    (tmp_path / "k.cfg").write_text("")
    place = f"{tmp_path}/k.cfg:1:1"
    settings = [
        Setting("sipdump", "mode", 3, place),
        Setting("sipdump", "enable", 1, place),
        Setting("sipdump", "folder", str(tmp_path), place),
        Setting("sipdump", "event_callback", "cb.py:drop_all", place),
    ]
    with SipDump(settings) as dump:
        dump.received(b"a", A, B)
        assert dump.stats().route_dropped == 1


@pytest.mark.parametrize(
    "name", ["nocolon", "no.such.module:f", "json:nosuch", "json:__doc__", "/nonexistent/x.py:f", ":f", "json:"]
)
def test_a_wrong_event_callback(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="event_callback"):
        SipDump(mode=3, folder=tmp_path, event_callback=name)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rotate": 0}, r"SipDump\(rotate=0\): modparam\(.*must be 1 to 2147483647"),
        ({"rotate": 9_999_999_999}, "must be 1 to 2147483647"),
        ({"fagex": "99999999d"}, "must be at most 2147483647 seconds"),
        ({"fprefix": "a\nb"}, "printable"),
        ({"rotate": "5"}, "must be an integer"),
        ({"fprefix": "a/b"}, "no slash"),
        ({"mode": 8}, "invalid mode parameter: it switches on nothing that stores"),
        ({"mode": 0}, "invalid mode parameter"),
        ({"mode": 64}, r"no installed backend owns the flag 64; installed are the event route \(2\), header \(8\)"),
        ({"mode": 1 + 64 + 1024}, "no installed backend owns the flag 64, 1024"),
        ({"folder": "/nonexistent"}, "there is no such folder"),
        ({"folder": "/etc/passwd"}, "there is no such folder"),
        ({"folder": "/proc/self"}, "not writable"),
        ({"backend": ["nosuch"]}, "no such backend is installed"),
        ({"fagex": "2x"}, "units d, h, m, s"),
        ({"queue_full": "wait"}, "must be one of"),
        ({"file_mode": 0o1777}, "must be 0 to 511"),
        ({"nosuch": 1}, "no such parameter"),
        ({"backend_options": {"nosuch": {"x": 1}}}, "no such module"),
        ({"backend_options": {"text": {"x": 1}}}, "no such parameter"),
    ],
)
def test_impossible_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SipDump(**{"folder": "/tmp", **params})


def test_a_backend_can_be_switched_on_by_name(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=1, backend=["pcap", "text"], folder=tmp_path) as dump:
        dump.received(b"a", A, B)
    assert len(files(tmp_path, ".pcap")) == len(files(tmp_path, ".data")) == 1


def test_a_backend_can_be_switched_on_by_name_alone(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=0, backend=["pcap"], folder=tmp_path) as dump:
        dump.received(b"a", A, B)
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".meta", ".pcap"]


def test_a_time_that_no_format_holds_is_refused(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        for time_us in (-1, 10**20):
            with pytest.raises(ValueError, match="time_us must be microseconds"):
                dump.received(b"a", A, B, time_us=time_us)


@pytest.mark.parametrize(("src", "dst"), [(("192.0.2.1", 5), ("::", 6)), (("0.0.0.0", 5), ("2001:db8::1", 6))])
def test_a_socket_bound_to_all_addresses_takes_the_others_family(tmp_path: Path, src: Any, dst: Any) -> None:
    with SipDump(enable=1, mode=5, folder=tmp_path) as dump:
        dump.received(b"a", src, dst)
    (one,) = read(tmp_path)
    assert (one.src_ip, one.dst_ip) in [("192.0.2.1", "0.0.0.0"), ("::", "2001:db8::1")]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_and_the_parents_segment_is_sealed(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        dump.received(b"parent", A, B)
        assert dump.flush(10)
        out, into = os.pipe()
        child = os.fork()
        if not child:
            answer = b"stored"
            try:
                dump.received(b"child", A, B)
            except ClosedError:
                answer = b"refused"
            os.write(into, answer)
            signal.pause()
        assert os.read(out, 10) == b"refused"
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "kamailio-sipdump-"))
    assert [stored.sealed for stored in backend.segments()] == [True]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(out)
    os.close(into)
    assert [one.buf for one in read(tmp_path)] == [b"parent"]


def test_ranks_of_many_short_threads_are_told_apart_and_bounded(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        for _ in range(3):
            threads = [
                threading.Thread(target=dump.received, args=(b"%d" % n, A, B), name=f"worker {n}") for n in range(40)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    ranks = [one.procno for one in read(tmp_path)]
    assert len(set(ranks)) == 40
    assert max(ranks) < 40


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
    with SipDump(enable=1, folder=tmp_path, rotate=1) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(10)
        backend = TextBackend(NoOptions(), Site(str(tmp_path), "kamailio-sipdump-"))
        assert [s.sealed for s in backend.segments()] == [False]
        wait_for(lambda: [s.sealed for s in backend.segments()] == [True])
        dump.received(b"b", A, B)
        assert dump.flush(10)
        assert len(list(backend.segments())) == 2


def test_a_stepped_wall_clock_overwrites_and_delays_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    with SipDump(enable=1, folder=tmp_path, clock=clock, rotate=100) as dump:
        for step in (0, 0, -3600, 3600):
            clock.now += step
            dump.received(b"%d" % step, A, B)
            assert dump.flush(10)
            dump.rotate()
        dump.received(b"young", A, B)
        assert dump.flush(10)
        clock.ticks += 99
        dump.received(b"still young", A, B)
        assert dump.flush(10)
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


def test_prune_runs_at_start(tmp_path: Path) -> None:
    old = tmp_path / "kamailio-sipdump-2020-01-01--00-00-00.data"
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    with SipDump(folder=tmp_path, fage=60):
        wait_for(lambda: not old.exists())


def test_records_of_many_threads_are_all_stored_in_each_ones_order(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=5, folder=tmp_path, queue=64) as dump:

        def bring(number: int) -> None:
            for n in range(500):
                dump.received(b"%d %d" % (number, n), A, B)

        threads = [threading.Thread(target=bring, args=(n,), name=f"worker {n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = read(tmp_path)
    for number in range(4):
        assert [one.buf for one in found if one.buf.startswith(b"%d " % number)] == [
            b"%d %d" % (number, n) for n in range(500)
        ]
    (meta,) = files(tmp_path, ".meta")
    assert meta.read_text().count("thread worker") == 4
    assert len({one.procno for one in found}) == 4


# --- backends that fail ---


class Probe(Backend):
    """A backend that keeps records in memory and does what a test tells it to."""

    name = "probe"
    flag = 256

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self.stored: list[Record] = []
        self.calls: list[str] = []
        self.on_write: Callable[[], object] = lambda: None

    def open(self, segment: Segment) -> None:
        self.calls.append("open")

    def write(self, batch: Sequence[Record]) -> None:
        self.on_write()
        self.calls.append("write")
        self.stored += batch

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")


class Broken(FolderBackend):
    """A backend without an encoding."""

    name = "broken"
    suffix = ".broken"


class Unmade(Backend):
    """A backend that cannot be made."""

    name = "unmade"

    def __init__(self, options: Any, site: Site) -> None:
        raise RuntimeError("no connection")


def driver(cls: type[Backend]) -> Driver:
    return Driver(cls.name, f"sipdump-{cls.name}", "1", cls)


def plan(folder: Path, *classes: type[Backend], **params: Any) -> Plan:
    settings = [
        Setting("sipdump", name, value) for name, value in {"folder": str(folder), "enable": 1, **params}.items()
    ]
    settings += [Setting("sipdump", "backend", cls.name) for cls in classes]
    return make_plan(settings, [driver(TextBackend), *map(driver, classes)])


def test_a_backend_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    why = "the backend unmade of sipdump-unmade 1 cannot be made: RuntimeError: no connection"
    with pytest.raises(DriverError, match=why):
        Workshop(plan(tmp_path, Unmade)).check()
    with pytest.raises(DriverError, match=why):
        Workshop(attrs.evolve(plan(tmp_path, Unmade), chosen=[driver(Unmade)])).backends(Site(str(tmp_path), ""))


def test_a_backend_without_an_encoding_is_told_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    with SipDump(plan=plan(tmp_path, Broken)) as made:
        made.received(b"a", A, B)
        assert made.flush(10)
        stats = made.stats().backends
        assert stats["broken"].dropped == {"NotImplementedError": 1}
        assert "Broken has no encode()" in stats["broken"].error
        assert stats["text"].stored == 1


@pytest.fixture
def dump(tmp_path: Path) -> Iterator[SipDump]:
    made = SipDump(plan=plan(tmp_path, Probe))
    yield made
    made.close(1)


def probe(dump: SipDump) -> Probe:
    return next(backend for backend in dump.backends if isinstance(backend, Probe))


def test_a_backend_sees_open_write_flush_close(dump: SipDump) -> None:
    dump.received(b"a", A, B)
    assert dump.flush(10)
    dump.close()
    assert probe(dump).calls == ["open", "write", "flush", "close"]


def test_flush_stays_rare_under_load(tmp_path: Path) -> None:
    with SipDump(plan=plan(tmp_path, Probe)) as made:
        for _ in range(200):
            made.intercept([record()] * 1000)
        assert made.flush(30)
        calls = probe(made).calls
    assert 200 <= calls.count("write") < 400
    assert calls.count("flush") < 400  # of 200,000 records


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), SystemExit(3), KeyboardInterrupt(), StorageError("write", "x", "y")]
)
def test_a_failing_backend_costs_the_others_nothing(
    dump: SipDump, tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))

    def fail() -> None:
        raise error

    probe(dump).on_write = fail
    for _ in range(3):
        dump.received(b"a", A, B)
    wait_for(lambda: len(read(tmp_path)) == 3)
    wait_for(lambda: dump.stats().backends["probe"].state == "retrying")
    assert type(error).__name__ in dump.stats().backends["probe"].error
    probe(dump).on_write = lambda: None
    dump.received(b"b", A, B)
    wait_for(lambda: probe(dump).stored and dump.stats().backends["probe"].state == "ok")
    assert dump.flush(10)
    stats = dump.stats().backends
    assert stats["text"].stored == 4
    assert stats["probe"].stored + sum(stats["probe"].dropped.values()) == 4
    if isinstance(error, StorageError):
        assert stats["probe"].stored == 4


def test_a_batch_that_a_backend_cannot_digest_is_given_up_with_a_count(
    dump: SipDump, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise ValueError("poison")

    probe(dump).on_write = fail
    dump.received(b"a", A, B)
    assert dump.flush(10)
    assert dump.stats().backends["probe"].dropped == {"ValueError": 1}
    assert len(attempts) == delivery.ATTEMPTS + 1  # and once more by itself
    assert "poison" in caplog.text
    assert "test_sipdump.py" in caplog.text  # where the driver raised


def test_one_record_that_a_backend_cannot_digest_costs_no_other(dump: SipDump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    target = probe(dump)

    def write(batch: Sequence[Record]) -> None:
        if any(one.buf == b"poison" for one in batch):
            raise ValueError("poison")
        target.stored += batch

    monkeypatch.setattr(target, "write", write)
    dump.intercept([record(b"poison" if n == 33 else b"%d" % n) for n in range(100)])
    assert dump.flush(10)
    assert [one.buf for one in target.stored] == [b"%d" % n for n in range(100) if n != 33]
    assert dump.stats().backends["probe"].dropped == {"ValueError": 1}


def test_a_record_size_that_raises_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SipDump(plan=plan(tmp_path, Probe, rotate_size=100_000)) as made:
        monkeypatch.setattr(probe(made), "record_size", lambda _: 1 // 0)
        made.received(b"a", A, B)
        assert made.flush(10)
        assert len(probe(made).stored) == len(read(tmp_path)) == 1


def test_a_full_store_goes_on_in_the_same_segment(dump: SipDump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.001))
    left = iter([True, True, False])

    def full() -> None:
        if next(left, False):
            raise StorageFullError("write", "x", "No space left on device")

    probe(dump).on_write = full
    dump.received(b"a", A, B)
    assert dump.flush(10)
    assert [call for call in probe(dump).calls if call != "flush"] == ["open", "write"]


def test_a_hanging_backend_stops_neither_the_others_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lane, "STALL", 0.05)
    free = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue=10))
    probe(made).on_write = lambda: free.wait(30)
    for n in range(100):
        made.received(b"%d" % n, A, B)
    wait_for(lambda: len(read(tmp_path)) == 100)
    assert made.stats().backends["probe"].state == "stalled"
    start = time.monotonic()
    assert not made.close(0.1)
    assert time.monotonic() - start < 5
    stats = made.stats().backends
    assert sum(stats["probe"].dropped.values()) == 100
    assert stats["text"].stored == 100
    assert "did not stop in time" in caplog.text
    free.set()


def test_what_waits_for_a_hanging_backend_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue_bytes=100_000, queue_full="drop"))
    probe(made).on_write = lambda: free.wait(30)
    for n in range(50):
        made.received(b"x" * 10_000, A, B)
        wait_for(lambda: made.stats().backends["text"].stored > n)  # noqa: B023 - called at once
    assert made.stats().backends["probe"].backlog <= 11
    assert made.stats().backends["probe"].dropped["backlog full"] >= 39
    free.set()
    made.close()


def test_the_end_comes_in_time_while_a_caller_waits_for_a_hanging_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue=10))
    probe(made).on_write = lambda: free.wait(30)
    made.intercept([record()] * 10)
    made.intercept([record()] * 10)
    start = time.monotonic()
    assert not made.close(0.5)
    assert time.monotonic() - start < 3
    free.set()


def test_what_is_lost_at_the_end_makes_close_false(tmp_path: Path) -> None:
    made = SipDump(plan=plan(tmp_path, Probe))

    def full() -> None:
        raise StorageFullError("write", "x", "No space left on device")

    probe(made).on_write = full
    made.received(b"a", A, B)
    assert not made.close(5)
    assert made.stats().backends["probe"].dropped == {"StorageFullError": 1}


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with SipDump(enable=1, folder=tmp_path) as dump:
        dump.received(b"a", A, B)
    assert len(read(tmp_path)) == 1


def test_a_slow_backend_is_waited_for_when_blocking(tmp_path: Path) -> None:
    with SipDump(plan=plan(tmp_path, Probe, queue=10)) as made:
        probe(made).on_write = lambda: time.sleep(0.002)
        for n in range(200):
            made.received(b"%d" % n, A, B)
        assert made.flush(30)
        assert [one.buf for one in probe(made).stored] == [b"%d" % n for n in range(200)]


def test_a_full_queue_drops_with_a_count(tmp_path: Path) -> None:
    release = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue=10, queue_full="drop"))
    probe(made).on_write = lambda: release.wait(30)
    made.intercept([record(b"%d" % n) for n in range(1000)])
    made.intercept([record(b"x")] * 10)
    stats = made.stats()
    assert stats.queue_dropped >= 990
    release.set()
    assert made.close()
    final = made.stats()
    total = final.backends["probe"].stored + sum(final.backends["probe"].dropped.values()) + final.queue_dropped
    assert total == final.received == 1010


def test_the_queue_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    release = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue_bytes=1000, queue_full="drop", wait=1_000_000))
    made.intercept([record(b"x" * 400)] * 5)
    assert made.stats().queue_dropped == 3
    made.intercept([record(b"x" * 5000)])
    assert made.stats().queue_dropped == 4
    release.set()
    made.close()
    with SipDump(plan=plan(tmp_path, Probe, queue_bytes=1000, queue_full="drop")) as other:
        other.intercept([record(b"x" * 5000)])  # one always finds room
        assert other.stats().queue_dropped == 0


def test_a_write_error_takes_the_torn_part_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    backend.open(Segment("p-", "2026-11-22--00-00-00", 0, ".data"))
    backend.write([record(b"first")])
    real = os.write
    budget = [100]

    def scarce(fd: int, data: Any) -> int:
        if not budget[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(fd, bytes(data)[: budget[0]])
        budget[0] -= count
        return count

    monkeypatch.setattr(os, "write", scarce)
    with pytest.raises(StorageFullError, match=r"No space left on device.*free space"):
        backend.write([record(b"second")])
    monkeypatch.undo()
    backend.write([record(b"third")])
    backend.close()
    assert [one.buf for one in read(tmp_path, "p-")] == [b"first", b"third"]


def test_meta_is_brought_up_to_date_while_the_segment_is_open(tmp_path: Path) -> None:
    with SipDump(enable=1, folder=tmp_path) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(10)
        (meta,) = files(tmp_path, ".meta")
        assert "agent" not in meta.read_text()
        dump.table.add(1, 0, "HEP agent id=77")
        dump.received(b"b", A, B)
        wait_for(lambda: "process: 1 0 HEP agent id=77" in meta.read_text())
        assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_goes_away_is_survived_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.01))
    folder = tmp_path / "spool"
    folder.mkdir()
    with SipDump(enable=1, folder=folder) as dump:
        folder.rmdir()
        dump.received(b"a", A, B)
        wait_for(lambda: dump.stats().backends["text"].state == "retrying")
        assert "create the folder" in dump.stats().backends["text"].error
        folder.mkdir()
        wait_for(lambda: dump.stats().backends["text"].stored == 1)
    assert [one.buf for one in read(folder)] == [b"a"]
    assert "works again" in caplog.text


def test_params_object_is_what_was_given(tmp_path: Path) -> None:
    with SipDump(folder=tmp_path, rotate=5) as dump:
        assert dump.params == build(
            Params, [Setting("sipdump", "folder", str(tmp_path)), Setting("sipdump", "rotate", 5)]
        )
        assert attrs.has(type(dump.stats()))


def test_a_meta_file_of_another_segment_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    theirs = tmp_path / (Segment.starting("kamailio-sipdump-", clock.now).stem + ".meta")
    theirs.write_text("theirs")

    def fail(*_: object) -> Segment:
        raise StorageError("write", "x", "Too many open files")

    monkeypatch.setattr("sipdump_core.lifecycle.meta_file.claim", fail)
    with SipDump(enable=1, folder=tmp_path, clock=clock) as dump:
        dump.received(b"a", A, B)
        assert dump.flush(10)
        dump.table.add(9, 9, "new row")
        clock.ticks += 5
        dump.received(b"b", A, B)
    assert theirs.read_text() == "theirs"
    assert len(read(tmp_path)) == 2


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), SystemExit(3)])
def test_whatever_a_callback_raises_the_record_is_stored(tmp_path: Path, error: BaseException) -> None:
    def route(_: Record) -> None:
        raise error

    with SipDump(enable=1, mode=3, folder=tmp_path) as dump:
        dump.event_route(route)
        dump.received(b"a", A, B)
        assert dump.stats().route_errors == 1
    assert len(read(tmp_path)) == 1


def test_a_route_that_is_not_run_is_read_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def made(text: str, mode: int) -> Plan:
        config = parse_config(f"event_route[sipdump:msg] {{\n{text}\n}}\n", "k.cfg")
        settings = [Setting("sipdump", "folder", str(tmp_path)), Setting("sipdump", "mode", mode)]
        return make_plan(settings, event_routes=config.event_routes)

    with pytest.raises(ConfigError, match=r"^k\.cfg:2:"):
        made("nonsense nonsense", 1)
    assert made("drop;", 1).route is None
    SipDump(plan=made("drop;", 1)).close()
    assert "event_route is not run: mode lacks the event route (2)" in caplog.text
    assert made("drop;", 3).route is not None


def test_an_expression_for_kamailios_modules_sets_only_what_kamailio_has(tmp_path: Path) -> None:
    settings = [Setting("sip.*", "mode", 5), Setting("sipdump|tm", "folder", str(tmp_path))]
    assert make_plan(settings).params.mode == 5
    assert make_plan([*settings, Setting("sipdump_(hep|ctl)", "rcvbuf", 5000)][:2]).params.folder == str(tmp_path)

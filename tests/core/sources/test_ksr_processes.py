"""The process tables of running Kamailios."""

import threading
import time
from collections.abc import Callable

import pytest

from sipdump_core.control import binrpc
from sipdump_core.errors import FormatError, RpcError
from sipdump_core.net.address import parse_address
from sipdump_core.sources.ksr_processes import parse_ps
from tests.core.sources.workers import Bench, hello, message
from tests.support import wait_for

PS = [100, "main process - attendant", 4711, "udp receiver child=0 sock=127.0.0.1:5060"]


def test_the_process_table_of_kamailio(make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def call(*args: object, timeout: float) -> list[object]:
        asked.append(args)
        return PS

    monkeypatch.setattr(binrpc, "call", call)
    bench = make_bench(ctl=("unix:/nowhere",))
    with bench.connect(hello(4711, procno=-1) + message() * 3):
        wait_for(lambda: len(bench.records) == 3)
        assert {record.procno for record in bench.records} == {1}
        assert bench.meta() == [
            "process: 0 100 main process - attendant",
            "process: 1 4711 udp receiver child=0 sock=127.0.0.1:5060",
        ]
    with bench.connect(hello(4711, procno=-1) + message()):
        wait_for(lambda: len(bench.records) == 4)
    assert asked == [(parse_address("unix:/nowhere"), "core.ps")]


def test_without_an_answer_the_number_is_zero(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*args: object, timeout: float) -> list[object]:
        raise RpcError("nobody there")

    monkeypatch.setattr(binrpc, "call", call)
    bench = make_bench(ctl=("unix:/nowhere",))
    with bench.connect(hello(4711, procno=-1) + message()), bench.connect(hello(4712, procno=5) + message()):
        wait_for(lambda: len(bench.records) == 2)
    assert {(record.pid, record.procno) for record in bench.records} == {(4711, 0), (4712, 5)}
    assert bench.source.stats()["ctl_failures"] >= 1


def test_a_hanging_kamailio_holds_up_its_new_workers_two_seconds_and_nobody_else(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def call(*args: object, timeout: float) -> list[object]:
        release.wait(20)
        return PS

    monkeypatch.setattr(binrpc, "call", call)
    bench = make_bench(ctl=("unix:/nowhere",))
    start = time.monotonic()
    with bench.connect(hello(4711, procno=-1) + message(b"held")), bench.connect(hello(4712, procno=5) + message()):
        wait_for(lambda: bench.records)
        assert bench.records[0].pid == 4712
        wait_for(lambda: len(bench.records) == 2)
        assert time.monotonic() - start >= 1.5
        assert bench.records[1].procno == 0
        release.set()


def test_a_restarted_kamailio_has_another_table(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [PS, [200, "main", 201, "worker"]]
    monkeypatch.setattr(binrpc, "call", lambda *args, timeout: tables.pop(0))
    bench = make_bench(ctl=("unix:/nowhere",))
    with bench.connect(hello(4711, procno=1) + message()):
        wait_for(lambda: len(bench.meta()) == 2)
    with bench.connect(hello(201, procno=1) + message()):
        wait_for(lambda: len(bench.meta()) == 4)
        bench.stored()
        bench.dump.rotate()
    with bench.connect(hello(201, procno=1) + message()):
        wait_for(lambda: bench.meta() == ["process: 0 200 main", "process: 1 201 worker"])


def test_a_process_that_was_starting_is_listed_once(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [[100, "main"], [100, "main process - attendant", 4711, "worker"]]
    monkeypatch.setattr(binrpc, "call", lambda *args, timeout: tables.pop(0))
    bench = make_bench(ctl=("unix:/nowhere",))
    with bench.connect(hello(4711, procno=1)):
        wait_for(lambda: bench.meta() == ["process: 0 100 main"])
        with bench.connect(hello(4711, procno=1)):
            wait_for(lambda: bench.meta() == ["process: 0 100 main process - attendant", "process: 1 4711 worker"])


def test_a_table_without_end_is_refused_and_a_long_description_is_cut() -> None:
    assert len(parse_ps([1, "worker"] * 4096)) == 4096
    with pytest.raises(FormatError):
        parse_ps([1, "worker"] * 4097)
    assert parse_ps([1, "x" * 1000]) == [(1, "x" * 200)]


def test_core_ps_answers() -> None:
    assert parse_ps([1, "a", 2, "b\nprocess: 9 9 forged"]) == [(1, "a"), (2, "b?process: 9 9 forged")]
    for wrong in (["a", 1], [1], [1, 2], [{"a": 1}, "x"]):
        with pytest.raises(FormatError):
            parse_ps(wrong)

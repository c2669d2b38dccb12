"""Drivers of third parties that fail in every way: the others store everything, and it is told which one, and why."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.discovery import Driver
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.errors import PartialWriteError, SegmentExistsError, StorageError
from sipdump_core.pipeline import delivery, lane
from sipdump_core.plan import make_plan
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.settings.options import Setting
from sipdump_core.sipdump import SipDump, _forget
from sipdump_text import TextBackend
from tests.core.drivers.test_discovery import install
from tests.support import record, wait_for

TEXT = Driver("text", "sipdump", "1", TextBackend)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.01))
    monkeypatch.setattr(lane, "BACKOFF", (0.001, 0.01))


def text_of(folder: Path) -> list[bytes]:
    backend = TextBackend(NoOptions(), Site(str(folder), "kamailio-sipdump-"))
    return [one.buf for stored in backend.segments() for one in backend.read(stored)]


def fail(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


def start(folder: Path, cls: type[Backend], **params: Any) -> SipDump:
    settings = [
        Setting("sipdump", name, value) for name, value in {"folder": str(folder), "enable": 1, **params}.items()
    ]
    settings.append(Setting("sipdump", "backend", cls.name))
    return SipDump(plan=make_plan(settings, [TEXT, Driver(cls.name, "sipdump-bad", "1.5", cls)]))


class Flaky(Backend):
    """Stores in memory; a test breaks one of its calls, and mends it again."""

    name = "flaky"

    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self.stored: list[bytes] = []

    def write(self, batch: Sequence[Record]) -> None:
        self.stored += [one.buf for one in batch]


@pytest.mark.parametrize("error", [StorageError("connect", "db", "refused"), RuntimeError("bug"), SystemExit(3)])
@pytest.mark.parametrize("operation", ["start", "open", "write", "flush", "close"])
def test_what_one_raises_costs_the_others_nothing_and_it_recovers(
    tmp_path: Path, operation: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    broken.set()
    whole = getattr(Flaky, operation)
    calls: Counter[str] = Counter()

    def call(self: Flaky, *args: Any) -> Any:
        calls[operation] += 1
        return fail(error)() if broken.is_set() else whole(self, *args)

    monkeypatch.setattr(Flaky, operation, call)
    with start(tmp_path, Flaky) as dump:
        dump.intercept([record(b"%d" % n) for n in range(10)])
        wait_for(lambda: len(text_of(tmp_path)) == 10)
        if operation == "close":
            dump.rotate()
        wait_for(lambda: dump.stats().backends["flaky"].state == "retrying")
        numbers = dump.stats().backends["flaky"]
        assert type(error).__name__ in numbers.error
        assert numbers.distribution == "sipdump-bad 1.5"
        assert time.time() - 60 < numbers.since <= time.time()
        broken.clear()
        dump.intercept([record(b"more")])
        wait_for(lambda: dump.stats().backends["flaky"].state == "ok")
        assert dump.flush(60)
        numbers = dump.stats().backends["flaky"]
        assert numbers.stored + sum(numbers.dropped.values()) == 11
        if operation != "write" or isinstance(error, StorageError):
            assert numbers.stored == 11  # what was raised before a record was looked at costs none
        assert len(text_of(tmp_path)) == 11
    assert calls[operation]


def test_a_start_that_fails_is_tried_again_without_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [StorageError("connect", "db", "refused")] * 3
    monkeypatch.setattr(Flaky, "start", lambda _: fail(errors.pop())() if errors else None)
    with start(tmp_path, Flaky) as dump:
        wait_for(lambda: not errors and dump.stats().backends["flaky"].state == "ok")


def test_records_that_a_write_names_come_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[bytes]] = []

    def write(self: Flaky, batch: Sequence[Record]) -> None:
        batches.append([one.buf for one in batch])
        if len(batches) == 1:
            raise PartialWriteError("insert", "db", "two rows are locked", [1, 3])
        assert len(batches) == 2

    monkeypatch.setattr(Flaky, "write", write)
    with start(tmp_path, Flaky) as dump:
        dump.intercept([record(b"%d" % n) for n in range(5)])
        assert dump.flush(60)
        numbers = dump.stats().backends["flaky"]
    assert batches == [[b"0", b"1", b"2", b"3", b"4"], [b"1", b"3"]]
    assert (numbers.stored, numbers.dropped, numbers.state) == (5, {}, "ok")


def test_records_that_are_refused_for_good_go_to_the_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: Flaky, batch: Sequence[Record]) -> None:
        bad = [at for at, one in enumerate(batch) if one.buf == b"bad"]
        if bad:
            raise PartialWriteError("insert", "db", "no such row", [*bad, 99])  # an index of nothing is passed over

    monkeypatch.setattr(Flaky, "write", write)
    with start(tmp_path, Flaky) as dump:
        dump.intercept([record(b"a"), record(b"bad"), record(b"b")])
        assert dump.flush(60)
        numbers = dump.stats().backends["flaky"]
    assert (numbers.stored, numbers.refused, numbers.dropped) == (2, 1, {})


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("stats", lambda _: ["no mapping"]),
        ("stats", lambda _: {"x": "no number"}),
        ("stats", fail(RuntimeError("bug"))),
        ("health", lambda _: 5),
        ("health", fail(SystemError("bug"))),
        ("health", fail(SystemExit(3))),
        ("stats", fail(SystemExit(3))),
        ("record_size", fail(SystemExit(3))),
        ("record_size", lambda *_: "large"),
        ("record_size", lambda *_: None),
        ("record_size", lambda *_: -(10**9)),
        ("write", lambda *_: "done"),
        ("open", lambda *_: object()),
        ("flush", lambda _: NotImplemented),
    ],
)
def test_nonsense_that_one_returns_stops_nobody(
    tmp_path: Path, attribute: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flaky, attribute, value)
    with start(tmp_path, Flaky, rotate_size=10_000) as dump:
        dump.intercept([record(b"%d" % n) for n in range(10)])
        assert dump.flush(60)
        assert dump.stats().backends["text"].stored == 10
        assert dump.stats().backends["flaky"].stored == 10
    assert len(text_of(tmp_path)) == 10


class UnspeakableError(Exception):
    """Its text cannot be made, as where a client library decodes what a server said."""

    def __str__(self) -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")


def partial(failed: Any) -> PartialWriteError:
    error = PartialWriteError("insert", "db", "locked", [0])
    error.failed = failed
    return error


@pytest.mark.parametrize("error", [UnspeakableError(), partial([0, 1, 2]), partial(None), partial([[0]])])
def test_errors_that_are_wrong_themselves_stop_nobody(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flaky, "write", fail(error))
    with start(tmp_path, Flaky) as dump:
        dump.intercept([record(b"%d" % n) for n in range(3)])
        wait_for(lambda: dump.stats().backends["flaky"].state == "retrying")
    numbers = dump.stats().backends["flaky"]
    assert (numbers.stored, numbers.refused, sum(numbers.dropped.values())) == (0, 3, 0)  # at the end
    assert len(text_of(tmp_path)) == 3


def test_names_that_are_all_taken_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Segment] = []

    def open_(self: Flaky, segment: Segment) -> None:
        taken.append(segment)
        if len(taken) < 2500:
            raise SegmentExistsError("open", segment.name, "taken")

    monkeypatch.setattr(Flaky, "open", open_)
    with start(tmp_path, Flaky) as dump:
        dump.intercept([record()])
        wait_for(lambda: dump.stats().backends["flaky"].stored == 1)
    assert len(set(taken)) == 2500 - 2  # each is tried once, but for the one at which it goes on after an error


def test_a_flush_that_always_fails_is_one_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Flaky, "flush", fail(RuntimeError("bug")))
    with start(tmp_path, Flaky) as dump:
        for n in range(10):
            dump.intercept([record(b"%d" % n)])
            assert dump.flush(60)
            numbers = dump.stats().backends["flaky"]
            assert (numbers.state, numbers.stored, numbers.error) == ("retrying", n + 1, "RuntimeError: bug")
        assert "works again" not in caplog.text
        monkeypatch.undo()
        dump.intercept([record()])
        assert dump.flush(60)
        assert dump.stats().backends["flaky"].state == "ok"
    (said,) = (line for line in caplog.text.splitlines() if "works again" in line)
    assert "backend=flaky" in said


def test_a_long_error_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flaky, "health", lambda _: "the statement was:\n" + "INSERT " * 100_000)
    with start(tmp_path, Flaky) as dump:
        error = dump.stats().backends["flaky"].error
    assert error.startswith("the statement was: INSERT INSERT")
    assert len(error) < 600


def without_super(self: Backend, options: Any, site: Site) -> None:
    self.own = options  # type: ignore[attr-defined]  # that is the fault


def slash(self: Backend, options: Any, site: Site) -> None:
    Backend.__init__(self, options, site)
    self.suffix = "/../x"


@pytest.mark.parametrize(
    ("method", "value", "error"),
    [
        ("__init__", without_super, "does not call super().__init__(options, site)"),
        ("__init__", slash, "it has the suffix '/../x'"),
        ("__init__", fail(SystemExit(3)), "SystemExit: 3"),
        ("__new__", lambda *_: None, "returns None instead of an instance"),
    ],
)
def test_a_constructor_that_is_wrong_stops_nobody(
    tmp_path: Path, method: str, value: Any, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unmade(Flaky):
        name = "unmade"

    setattr(Unmade, method, value)
    monkeypatch.setattr("sipdump_core.workshop.reload", lambda *_: Driver("unmade", "sipdump-bad", "1.5", Unmade))
    with start(tmp_path, Unmade, mode=1) as dump:
        dump.intercept([record()])
        wait_for(lambda: len(text_of(tmp_path)) == 1)
        wait_for(lambda: error in dump.stats().backends["unmade"].error)
        assert "the backend unmade of sipdump-bad 1.5 cannot be made" in dump.stats().backends["unmade"].error


def test_a_preamble_that_exits_stops_nobody(tmp_path: Path) -> None:
    class Preamble(FolderBackend):
        name = "preamble"
        suffix = ".preamble"

        def preamble(self) -> bytes:
            sys.exit(3)

    with start(tmp_path, Preamble) as dump:
        dump.intercept([record()])
        wait_for(lambda: len(text_of(tmp_path)) == 1)
        wait_for(lambda: "SystemExit" in dump.stats().backends["preamble"].error)


def test_a_fork_lets_go_of_all_whatever_one_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(TextBackend, "forget", fail(SystemExit(3)))
    monkeypatch.setattr(Flaky, "forget", lambda self: forgotten.append(self.name))
    with start(tmp_path, Flaky) as dump:
        assert [backend.name for backend in dump.backends] == ["text", "flaky"]
        _forget(dump)
        assert forgotten == ["flaky"]
        dump._forked = False
        dump._closed.release()


def test_what_one_says_of_its_background_work_is_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ill = [""]
    monkeypatch.setattr(Flaky, "health", lambda _: ill[0])
    with start(tmp_path, Flaky) as dump:
        assert dump.stats().backends["flaky"].state == "ok"
        ill[0] = "upload: bucket missing"
        numbers = dump.stats().backends["flaky"]
        assert (numbers.state, numbers.error) == ("retrying", "upload: bucket missing")
        assert dump.stats().backends["flaky"].since == numbers.since
        ill[0] = ""
        assert dump.stats().backends["flaky"].state == "ok"


GOOD = """
import attrs
from sipdump_core import Backend, at_least, option

@attrs.frozen
class Options:
    size: int = option(3, help="size", check=at_least(1))

class B(Backend):
    name = "late"
    flag = 512
    options = Options
    def write(self, batch):
        with open({path!r}, "a") as file:
            file.write(f"{{self.opts.size}} {{len(batch)}}\\n")
"""


@pytest.mark.parametrize("mode", [1, 513])
def test_a_driver_that_could_not_be_loaded_works_when_it_is_mended(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    packages, folder = tmp_path / "packages", tmp_path / "folder"
    packages.mkdir()
    folder.mkdir()
    monkeypatch.syspath_prepend(str(packages))
    sys.modules.pop("sipdump_late", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the mended file may have the same second and size
    install(packages, "sipdump-late", "import nosuchmodule", "late = sipdump_late:B")
    settings = [Setting("sipdump", "mode", mode), Setting("sipdump", "folder", str(folder))]
    settings += [Setting("sipdump", "enable", 1), Setting("sipdump_late", "size", 7)]
    if mode == 1:
        settings.append(Setting("sipdump", "backend", "late"))
    with SipDump(plan=make_plan(settings)) as dump:
        assert "the backend late of sipdump-late 1.5 cannot be used: ModuleNotFoundError" in caplog.text
        dump.intercept([record(b"a")])
        wait_for(lambda: len(text_of(folder)) == 1)
        wait_for(lambda: "nosuchmodule" in dump.stats().backends["late"].error)
        (error,) = dump.workshop.keepers(prefix="p-")[1]
        assert "the backend late of sipdump-late 1.5 cannot be used" in str(error)  # so a prune says it
        stored = packages / "stored"
        (packages / "sipdump_late.py").write_text(GOOD.format(path=str(stored)))
        wait_for(lambda: stored.exists() and stored.read_text() and dump.stats().backends["late"].state == "ok")
        assert stored.read_text() == "7 1\n"
        assert dump.stats().backends["late"].stored == 1
        backends, errors = dump.workshop.keepers(prefix="p-")
        assert "late" in [backend.name for backend in backends]  # it is listed and pruned from now on
        assert errors == []
    sys.modules.pop("sipdump_late", None)


def test_a_driver_that_hangs_is_seen_and_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "STALL", 0.05)
    free = threading.Event()
    monkeypatch.setattr(Flaky, "start", lambda _: free.wait(30))
    dump = start(tmp_path, Flaky, queue=10)
    for n in range(50):
        dump.intercept([record(b"%d" % n)])
    wait_for(lambda: len(text_of(tmp_path)) == 50)
    begin = time.monotonic()
    assert not dump.close(0.2)
    assert time.monotonic() - begin < 20
    assert sum(dump.stats().backends["flaky"].dropped.values()) == 50
    free.set()


@pytest.mark.parametrize("method", ["health", "stats"])
def test_numbers_are_told_while_what_a_driver_says_of_itself_waits_for_a_call_that_hangs(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "STALL", 0.05)
    monkeypatch.setattr(delivery, "_ANSWER", 0.05)
    free = threading.Event()
    for call in ("write", method):
        monkeypatch.setattr(Flaky, call, lambda *_: free.wait(30) and {})
    dump = start(tmp_path, Flaky)
    dump.intercept([record()])
    wait_for(lambda: dump.stats().backends["flaky"].state == "stalled")
    wait_for(lambda: len(text_of(tmp_path)) == 1)
    begin = time.monotonic()
    assert not dump.close(0.2)
    assert sum(dump.stats().backends["flaky"].dropped.values()) == 1
    assert time.monotonic() - begin < 20
    free.set()
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("sipdump-flaky")])

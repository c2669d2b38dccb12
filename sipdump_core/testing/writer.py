"""What a backend promises about writing: every byte of every record, once, in order, or an error."""

import copy
import gc
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site, Transform
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.capabilities import Deletes, can
from sipdump_core.drivers.discovery import is_suffix, unusable
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import ClosedError, ConfigError
from sipdump_core.record import Flow, Record
from sipdump_core.settings.options import Setting, build, describe
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promise import not_checked, promise
from sipdump_core.testing.samples import FIELDS, MESSAGES, mixed, numbered, record

__all__ = ["WriterChecks"]


class WriterChecks(Kit):
    """The checks of drivers, of writing, and of what is read back."""

    # ---- the driver ----

    @promise
    def test_the_driver_is_declared(self, site: Site) -> None:
        """A driver declares name, flag, suffix, version of the interface and options as sipdump needs them."""
        cls = type(self.make_backend(site))
        why = unusable(cls)
        assert not why, f"{cls.__qualname__} {why}"
        suffix = self.make_backend(site).suffix
        assert is_suffix(suffix), f"suffix {suffix!r} of an instance cannot end a file name like '.data'"
        if cls.has_lifecycle():
            assert can(cls, Deletes), "it has segments() without delete(): pruning always fails"
        unknown = set(cls.loses) - {*(field.name for field in attrs.fields(Flow)), "time_us"}
        assert not unknown, f"loses contains names that are not fields that may be lost: {sorted(unknown)}"

    @promise
    def test_options_round_trip(self, site: Site) -> None:
        """Every option has a type, a default and a line of help, and what an operator sets arrives in opts."""
        cls = type(self.make_backend(site))
        assert attrs.has(cls.options), f"options must be an attrs class, not {cls.options!r}"
        module = f"sipdump_{cls.name}"
        for told in describe(cls.options):
            assert told["help"], f"the option {told['name']} has no help"
            default = told["default"]
            for value in _others(told):
                try:
                    options = build(cls.options, [Setting(module, told["name"], value)])
                except ConfigError as error:
                    if value == default:
                        raise AssertionError(f"the default of the option {told['name']} is refused: {error}") from error
                    continue  # its check refuses this value
                set_to = getattr(options, told["name"])
                assert set_to in (value, (value,)), f"the option {told['name']} set to {value!r} is {set_to!r}"
                try:
                    backend = cls(options, site)
                except ConfigError:
                    continue  # it contradicts the other options' defaults
                assert attrs.asdict(backend.opts) == attrs.asdict(options), (
                    f"opts has not the {told['name']} {value!r} that was set"
                )

    @promise
    def test_the_constructor_touches_nothing(self, site: Site, tmp_path: Any) -> None:
        """Making an instance opens, creates and starts nothing: configurations are checked with it."""
        missing = tmp_path / "missing"
        threads, opened = threading.enumerate(), len(os.listdir("/proc/self/fd"))
        made = [self.make_backend(attrs.evolve(site, folder=str(missing))), self.make_backend(site)]
        assert not missing.exists(), "the constructor makes the folder"
        left = sorted(path.name for path in tmp_path.rglob("*") if path.name != "store")
        assert not left, f"the constructor leaves {left}"
        assert not set(threading.enumerate()) - set(threads), "the constructor starts a thread"
        assert len(os.listdir("/proc/self/fd")) <= opened, "the constructor opens a file or a connection"
        assert all(backend.opts is not None and backend.site is not None for backend in made)

    @promise
    def test_health_and_stats_are_of_their_type(self, backend: Backend) -> None:
        """health() returns one line of text, empty while all is well, and stats() a mapping of names to integers."""
        fresh = self.reader(backend)
        for one, when in ((fresh, "before start()"), (backend, "after start()")):
            _check_numbers(one, when)
        self.write(backend, [record()])
        _check_numbers(backend, "after close()")

    # ---- start, open, close, stop ----

    @promise
    def test_started_and_stopped_again(self, backend: Backend) -> None:
        """A backend that was stopped can be started again, and goes on storing."""
        self.write(backend, [record(b"first")])
        for _ in range(2):
            backend.stop()
            backend.start()
        self.write(backend, [record(b"second")], second=1)
        self.settle(backend)
        self.holds(backend, [record(b"first"), record(b"second")])

    @promise
    def test_close_twice(self, backend: Backend) -> None:
        """close() does nothing if no segment is open: before the first segment, and when called twice."""
        backend.close()
        self.write(backend, [record()])
        backend.close()
        self.settle(backend)
        backend.close()
        self.holds(backend, [record()])

    @promise
    def test_flush_where_nothing_is_open(self, backend: Backend) -> None:
        """flush() does nothing if no segment is open: it may come after close()."""
        backend.flush()
        self.write(backend, [record()])
        backend.flush()
        self.settle(backend)
        backend.flush()
        self.holds(backend, [record()])

    @promise
    def test_write_after_close_is_refused(self, backend: Backend) -> None:
        """write() without an open segment raises ClosedError; nothing is lost in silence."""
        self.needs_open(backend)
        with pytest.raises(ClosedError):
            backend.write(Batch([record(b"too early")]))
        self.write(backend, [record()])
        with pytest.raises(ClosedError):
            backend.write(Batch([record(b"too late")]))
        self.settle(backend)
        self.holds(backend, [record()])

    @promise
    def test_it_works_in_any_thread(self, site: Site) -> None:
        """One thread may make a backend, another write with it, and a third read."""
        backend = self.make_backend(site)
        _in_thread(backend.start)
        _in_thread(lambda: self.write(backend, numbered(3)))
        _in_thread(lambda: self.settle(backend))
        self.holds(backend, numbered(3))
        _in_thread(backend.stop)

    # ---- every byte, every field ----

    @promise
    def test_every_byte_is_kept(self, backend: Backend) -> None:
        """A message is read back byte for byte, whatever it holds, from nothing to 1 MiB."""
        batches = {name: [record(), record(message), record()] for name, message in MESSAGES.items()}
        backend.open(self.segment(backend))
        for name, batch in batches.items():
            try:
                backend.write(Batch(batch))
            except Exception as error:
                raise AssertionError(f"the message {name!r} is refused: {type(error).__name__}: {error}") from error
        backend.close()
        self.settle(backend)
        self.holds(backend, [one for batch in batches.values() for one in batch])

    @promise
    def test_every_message_alone_in_a_segment(self, backend: Backend) -> None:
        """A segment may hold one message only, and that may be any."""
        batch = [record(message) for message in MESSAGES.values()]
        for second, one in enumerate(batch):
            self.write(backend, [one], second=second)
        self.settle(backend)
        self.holds(backend, batch)

    @promise
    @pytest.mark.parametrize("name", FIELDS)
    def test_every_field_is_kept(self, backend: Backend, name: str) -> None:
        """Time to the microsecond, tag, process, transport, addresses, ports and node are read back as they were."""
        batch = [record(b"%d" % n, **fields) for n, fields in enumerate(FIELDS[name])]
        self.write(backend, batch, batch[::-1])
        self.settle(backend)
        self.holds(backend, batch + batch[::-1])

    @promise
    def test_a_random_mix_is_kept(self, backend: Backend) -> None:
        """Any mix of messages and fields is kept, in batches of any size."""
        records = mixed(400, seed=5)
        chance = random.Random(6)  # noqa: S311 - a reproducible mix
        at, batches = 0, []
        while at < len(records):
            batches.append(records[at : at + chance.choice((1, 2, 7, 50))])
            at += len(batches[-1])
        self.write(backend, *batches)
        self.settle(backend)
        self.holds(backend, records)

    @promise
    def test_flows_are_told_apart(self, backend: Backend) -> None:
        """Each record keeps its own flow: thousands in turn, and some at the address of one just freed."""
        many = [Record(n, record(src_ip=f"10.0.{n >> 8}.{n & 255}", pid=n % 7).flow, b"%d" % n) for n in range(12_000)]
        backend.open(self.segment(backend))
        backend.write(Batch(many[:6000]))
        backend.write(Batch(many[6000:] + many[:10] + many[5995:6005]))
        wrote = [(r.time_us, r.src_ip, r.pid, r.buf) for r in many + many[:10] + many[5995:6005]]
        many.clear()
        for port in range(300):  # CPython reuses the address, and so the id(), of the previous flow
            backend.write(Batch([record(b"short-lived", time_us=port, src_port=port)]))
            gc.collect(0)
            wrote.append((port, "127.0.0.1", 2738, b"short-lived"))
        backend.close()
        self.settle(backend)
        records = [
            record(buf, time_us=time_us, src_ip=ip, pid=pid, src_port=time_us if ip == "127.0.0.1" else 5999)
            for time_us, ip, pid, buf in wrote
        ]
        self.holds(backend, records)

    # ---- batches and order ----

    @promise
    @pytest.mark.parametrize("sizes", [(1,), (1, 1, 1), (2, 999), (10_000,), (1, 10_000, 2)], ids=str)
    def test_order_is_kept(self, backend: Backend, sizes: Sequence[int]) -> None:
        """Records are read back once each, in the order of writing, from batches of 1 to 10,000."""
        records = numbered(sum(sizes))
        at, batches = 0, []
        for size in sizes:
            batches.append(records[at : at + size])
            at += size
        self.write(backend, *batches)
        self.settle(backend)
        self.holds(backend, records)

    @promise
    def test_a_clock_that_steps_back_changes_no_order(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        """The order is that of writing, whatever the records' times and the machine's clock say."""
        batch = [record(b"%d" % n, time_us=time_us) for n, time_us in enumerate((5, 9, 2, 2, 7, 1, 10**15, 0, 5))]
        self.write(backend, batch, batch[::-1])
        clock, hours = time.time, itertools.count()
        backend.open(self.segment(backend, 1))
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: clock() - 3600 * next(hours))
            for one in batch:
                backend.write(Batch([one]))
                backend.flush()
        backend.close()
        self.settle(backend)
        self.holds(backend, batch + batch[::-1] + batch)

    @promise
    def test_equal_records_are_all_kept(self, backend: Backend) -> None:
        """A retransmission is a separate record: equal records are stored as often as they come."""
        one = record()
        batch = [one, one, record(), record(b"other"), one]
        self.write(backend, batch, batch)
        self.write(backend, batch, second=1)
        self.settle(backend)
        self.holds(backend, batch * 3)

    @promise
    def test_a_long_segment_is_kept(self, backend: Backend) -> None:
        """A segment may hold more than 65,536 records."""
        batch = [record(b"x", time_us=n) for n in range(10_000)]
        self.write(backend, *[batch] * 7)
        self.settle(backend)
        self.holds(backend, batch * 7)

    @promise
    def test_a_batch_is_any_sequence(self, backend: Backend) -> None:
        """A batch may be a list or a tuple."""
        self.write(backend, numbered(2), tuple(numbered(2, 2)))
        self.settle(backend)
        self.holds(backend, numbered(4))

    @promise
    def test_a_batch_is_not_changed(self, backend: Backend) -> None:
        """write() changes neither the batch nor its records: other backends get the same ones."""
        batch = mixed(20, seed=1)
        same, before = list(batch), copy.deepcopy(batch)
        self.write(backend, batch)
        self.settle(backend)
        assert [*map(id, batch)] == [*map(id, same)], "the batch is another one after write()"
        assert batch == before, "a record is another one after write()"

    @promise
    def test_a_batch_may_be_used_again(self, backend: Backend) -> None:
        """When write() has returned, the batch is stored: the list may be emptied and refilled."""
        backend.open(self.segment(backend))
        batch: list[Record] = []
        for first in range(0, 30, 3):
            batch[:] = numbered(3, first)
            backend.write(Batch(batch))
            batch.clear()
        backend.close()
        self.settle(backend)
        self.holds(backend, numbered(30))

    @promise
    def test_the_transforms_are_applied(self, site: Site) -> None:
        """A transformed backend stores each message as changed by the site's transforms, one after the other."""
        if not type(self.make_backend(site)).transformed:
            not_checked("the backend does not ask for transforms")
        with self.started(attrs.evolve(site, transforms=[_Append(b" one"), _Append(b" two")])) as backend:
            self.write(backend, [record(b"to bob"), record(b"to alice")])
            self.settle(backend)
            self.holds(backend, [record(b"to bob one two"), record(b"to alice")])

    # ---- flush ----

    @promise
    def test_written_is_visible_after_flush(self, backend: Backend) -> None:
        """What was written before flush() can be read while the segment is open."""
        backend.open(self.segment(backend))
        for first in (0, 3, 6):
            backend.write(Batch(numbered(3, first)))
            backend.flush()
            self.holds(backend, numbered(first + 3))
        backend.close()
        self.settle(backend)
        self.holds(backend, numbered(9))

    # ---- failures ----

    @promise
    def test_an_outage_is_a_storage_error(self, site: Site) -> None:
        """While the store cannot be reached, calls raise errors of sipdump_core; afterwards everything works again."""
        with self.started(site) as backend:
            self.write(backend, [record(b"before")])
            self.settle(backend)
        backend = self.make_backend(site)
        with self.outage(backend):
            if backend.has_lifecycle():
                self.raises_storage_error(lambda: list(backend.segments()))
            steps: list[Callable[[], Any]] = [
                backend.start,
                lambda: backend.open(self.segment(backend, 1)),
                lambda: backend.write(Batch([record(b"after")])),
                backend.flush,
                backend.close,
            ]
            failed = any(self.raises_storage_error(step) for step in steps)  # ends at the first that raises
            self.raises_storage_error(backend.close)
            self.raises_storage_error(backend.stop)
        with self.started(site) as backend:
            if failed:
                self.write(backend, [record(b"after")], second=2)
            self.settle(backend)
            self.holds(backend, [record(b"before"), record(b"after")])

    @promise
    def test_it_works_again_after_an_outage(self, site: Site) -> None:
        """After an outage the same instance works again: a failed start, segment or batch may be repeated."""
        backend = self.make_backend(site)
        with self.outage(backend):
            starts = not self.raises_storage_error(backend.start)
        with self.ended(backend):
            if not starts:
                backend.start()
            backend.open(self.segment(backend))
            backend.write(Batch([record(b"before")]))
            backend.flush()
            todo = [record(b"meanwhile")]
            with self.outage(backend):
                if not self.raises_storage_error(lambda: backend.write(Batch(todo))):
                    todo = []
                    self.raises_storage_error(backend.flush)
                self.raises_storage_error(backend.close)
                self.raises_storage_error(backend.close)  # an error of the first is about what was written
                self.raises_storage_error(lambda: backend.open(self.segment(backend, 1)))
            for second in range(2, 7):  # some notice only now that their connection is dead
                self.raises_storage_error(backend.close)
                again = partial(self._open_and_write, backend, [*todo, record(b"after")], second)
                if not self.raises_storage_error(again):
                    break
            else:
                raise AssertionError("it still raises when the outage is over")
            backend.close()
            self.settle(backend)
            _check_numbers(backend, "after an outage")
            self.holds(backend, [record(b"before"), record(b"meanwhile"), record(b"after")])

    def _open_and_write(self, backend: Backend, batch: Sequence[Record], second: int) -> None:
        backend.open(self.segment(backend, second))
        backend.write(Batch(batch))

    @promise
    def test_write_after_stop_loses_nothing_in_silence(self, backend: Backend) -> None:
        """write() after stop() raises an error of sipdump_core, or stores."""
        self.write(backend, [record(b"one")])
        backend.stop()
        todo = [record(b"two")]
        if self.raises_storage_error(lambda: backend.write(Batch(todo))):
            todo = []
        backend.start()
        self.settle(backend)
        self.holds(backend, [record(b"one"), *todo])

    @promise
    def test_storing_is_silent(
        self, site: Site, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """While all is well, nothing is printed, and the log has no line for each record."""
        with caplog.at_level("INFO"), self.started(site) as backend:
            self.write(backend, numbered(500), numbered(500, 500))
            self.settle(backend)
            if backend.has_lifecycle() and self.can_read(backend):
                self.holds(backend, numbered(1000))
        out, err = capfd.readouterr()
        assert not out, f"on the standard output there is {out[:100]!r}"
        assert not err, f"on the standard error output there is {err[:100]!r}"
        said = len(caplog.records)
        assert said < 100, f"for 1,000 records there are {said} lines in the log"


class _Append(Transform):
    name = "append"

    def apply(self, batch: Sequence[Record], bufs: Sequence[bytes]) -> Sequence[bytes]:
        """Append to each message that mentions bob."""
        return [buf + self.opts if b"bob" in one.buf else buf for one, buf in zip(batch, bufs, strict=True)]


def _check_numbers(backend: Backend, when: str) -> None:
    health, stats = backend.health(), backend.stats()
    assert isinstance(health, str), f"health() {when} returns {health!r}"
    assert not health, f"health() {when} says that something is wrong: {health}"
    assert isinstance(stats, Mapping), f"stats() {when} returns {stats!r}"
    wrong = {key: value for key, value in stats.items() if type(key) is not str or type(value) is not int}
    assert not wrong, f"stats() {when} has {wrong}"


def _others(told: Mapping[str, Any]) -> list[Any]:
    """Return values to try for an option: its default unless a tuple, and others."""
    default = told["default"]
    if told["type"] == "int":
        return [default, default + 1, default - 1, 2 * default + 1, 0, 1]
    return [*([default] if isinstance(default, str) else []), "x", "/tmp/x", "ü ☎", ""]  # noqa: S108 - nothing is opened


def _in_thread(call: Callable[[], Any]) -> None:
    """Run a call in a thread of its own; raise what it raises."""
    guard = Guard()

    def run() -> None:
        with guard:
            call()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if guard.error:
        raise guard.error

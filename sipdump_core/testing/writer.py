"""What a backend promises about writing: every byte of every record, once, in order, or an error."""

import contextlib
import copy
import gc
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site, Transform
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.capabilities import Searches, can
from sipdump_core.drivers.guard import Guard
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ClosedError
from sipdump_core.record import Record
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promises import does_not_apply, promise
from sipdump_core.testing.samples import CALL_IDS, FIELDS, MESSAGES, called, mixed, numbered, record
from sipdump_core.testing.watch import Decoys, closed_once

__all__ = ["WriterChecks"]


class WriterChecks(Kit):
    """The checks of writing, and of what is read back."""

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

    @promise
    def test_no_descriptor_is_closed_twice(self, site: Site, tmp_path: Path) -> None:
        """A descriptor is closed once: a moment later its number is that of somebody else's file."""
        with Decoys(tmp_path / "decoy") as decoys:
            with closed_once(decoys.open):
                backend = self.make_backend(site)
                for second in range(2):
                    backend.start()
                    segment = self.write(backend, [record()], second=second)
                    backend.flush()
                    backend.close()
                    with contextlib.suppress(Exception):  # another check tests whether the name is refused
                        backend.open(segment)
                    backend.close()
                    if backend.has_lifecycle() and self.can_read(backend):
                        for stored in [*backend.segments()]:
                            [*backend.read(stored)]
                            if stored.sealed:
                                backend.delete(stored)
                    backend.stop()
                del backend
                gc.collect()
            gone = decoys.gone()
        assert not gone, f"of {decoys.count} files of others it has closed {gone}"

    # ---- every byte, every field ----

    @promise
    def test_every_call_id_is_kept(self, backend: Backend) -> None:
        """A Call-ID may hold any byte, be folded and of any length: its messages are kept, and found by it."""
        batch = [record(called(call_id, n)) for n, call_id in enumerate(CALL_IDS.values())]
        batch += [record(called(call_id, 1000, b"i")) for call_id in CALL_IDS.values()]
        backend.open(self.segment(backend))
        for one in batch:
            try:
                backend.write(Batch([one, one]))
            except Exception as error:
                raise AssertionError(f"the Call-ID {one.call_id!r:.40} is refused: {error}") from error
        backend.close()
        self.settle(backend)
        twice = [one for one in batch for _ in range(2)]
        self.holds(backend, twice)
        reader: Any = self.reader(backend)
        if can(reader, Searches) and self.can_read(backend):
            (stored,) = self.segments(backend)
            for call_id in {one.call_id for one in batch if one.call_id}:
                found = [*reader.search(stored, Query(call_ids=[call_id]))]
                self.same(backend, [one for one in twice if one.call_id == call_id], found)

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
    def test_the_transforms_are_applied(self, site: Site) -> None:
        """A transformed backend stores each message as changed by the site's transforms, one after the other."""
        if not type(self.make_backend(site)).transformed:
            does_not_apply("the backend does not ask for transforms")
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

    # ---- what is said ----

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

"""What a backend promises when its store fails: errors of sipdump, nothing lost, nothing left behind."""

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import SipDumpError
from sipdump_core.record import Record
from sipdump_core.testing.driver import check_numbers
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promise import promise
from sipdump_core.testing.samples import EXTREMES, numbered, record
from sipdump_core.testing.watch import left_after, possessions, resident

__all__ = ["FailureChecks"]

_OUTAGES = 6
_PILE, _PILE_RECORDS = 800, 20
"""Batches, and records in each, that are written while the store is away: 16 MiB."""


class FailureChecks(Kit):
    """The checks of outages."""

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
            check_numbers(backend, "after an outage")
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
    def test_outages_leave_nothing_open(self, site: Site) -> None:
        """However many outages there were, no thread, file descriptor or child process is left of them."""
        with self.started(site) as backend:

            def fail() -> None:
                other = self.make_backend(site)
                backend.open(self.next_segment(backend))
                backend.write(Batch(numbered(1)))
                calls: list[Callable[[], object]] = [
                    *(other.start, other.start, other.stop),
                    *(partial(backend.write, Batch(numbered(1))), backend.flush, backend.close),
                    *(partial(backend.open, self.next_segment(backend)) for _ in range(2)),
                ]
                with self.outage(backend):
                    for call in calls:
                        with contextlib.suppress(SipDumpError, OSError):  # another check tests what it raises
                            call()
                with contextlib.suppress(SipDumpError, OSError):
                    backend.close()
                self.deliver(backend, numbered(1))

            for _ in range(2):  # what a library opens once and keeps is no leak
                fail()
            before = possessions()
            for _ in range(_OUTAGES):
                fail()
            more = left_after(before, self.patience, spare=_OUTAGES - 1)
            assert not more, f"{_OUTAGES} outages later there are more: {more}"

    @promise
    def test_nothing_piles_up_during_an_outage(self, site: Site) -> None:
        """What cannot be stored is refused by write(), or kept on disk: it does not pile up in the driver's memory."""
        with self.started(site) as backend:
            self.deliver(backend, [record()])
            segment = self.next_segment(backend)
            batches, refused = 0, False
            with self.outage(backend):
                with contextlib.suppress(SipDumpError, OSError):
                    backend.open(segment)
                before = resident()
                while batches < _PILE and not refused:
                    batch = Batch(record(os.urandom(1024)) for _ in range(_PILE_RECORDS))
                    with Guard() as guard:
                        backend.write(batch)
                        backend.flush()
                    refused = guard.error is not None
                    batches += 1
                    del batch
                grown = resident() - before
            wrote = batches * _PILE_RECORDS * 1024
            assert refused or grown < wrote / 2, (
                f"{batches * _PILE_RECORDS} records of 1 KiB later none was refused, and the process has grown by "
                f"{grown >> 20} MiB; raise a StorageError, sipdump has a backlog with a bound"
            )

    @promise
    def test_a_refused_record_holds_up_no_other(self, site: Site) -> None:
        """A record that the store refuses raises RecordError, which names it: what else is in the batch is stored."""
        stored: list[Record] = []
        tries = [*EXTREMES.items(), *((f"poison[{n}]", bad) for n, bad in enumerate(self.poison))]
        with self.started(site) as backend:
            for number, (name, bad) in enumerate(tries):
                first, last = numbered(2, 2 * number)
                with Guard() as guard:
                    refused = self.deliver(backend, [first, bad, last])
                assert not isinstance(guard.error, AssertionError), (
                    f"{name} is refused for ever, and all that follows waits; raise RecordError: {guard.error}"
                )
                if guard.error:  # sipdump tries the records one by one
                    refused = [bad]
                    self.raises_any(partial(self.deliver, backend, [bad]))
                    self.deliver(backend, [first])
                    self.deliver(backend, [last])
                assert refused in ([], [bad]), f"it refuses {len(refused)} records, at fault is one: {name!r}"
                assert refused or name in EXTREMES, f"the record {name} of poison is not refused"
                stored += [first, last] if refused else [first, bad, last]
            self.settle(backend)
            self.holds(backend, stored)

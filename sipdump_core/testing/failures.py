"""What a backend promises when its store fails: errors of sipdump, nothing lost, nothing left behind."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.record import Record
from sipdump_core.testing.driver import check_numbers
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promise import promise
from sipdump_core.testing.samples import record

__all__ = ["FailureChecks"]


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

"""What a backend that reaches its store by TCP promises: a network that fails costs no record."""

import os
import threading
from collections.abc import Callable
from functools import partial

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import Guard
from sipdump_core.record import Record
from sipdump_core.testing.kit import Kit
from sipdump_core.testing.promise import does_not_apply, not_checked, promise
from sipdump_core.testing.proxy import FaultProxy
from sipdump_core.testing.samples import numbered

__all__ = ["NetworkChecks"]

_BATCH = 50
_PARTS = (0.02, 0.3, 0.6, 0.95)
_MOST_ANSWERS = 8


class NetworkChecks(Kit):
    """The checks of connections that are cut, and of stores that say nothing. They need ``proxy``."""

    @promise
    def test_a_cut_in_mid_batch_stores_no_part_of_it(self, site: Site) -> None:
        """When a connection is cut in the midst of a batch, no part of it is stored; it comes again, and is stored."""
        proxy = self.needs_proxy(site)
        with self.started(site) as backend:
            sent, faults = proxy.sent, proxy.faults
            deliver = _Deliveries(self, backend, proxy)
            deliver()
            size = proxy.sent - sent
            for part in _PARTS:
                deliver(partial(proxy.cut_after, max(1, int(size * part))))
            deliver()
            self.settle(backend)
            self.holds_batches(backend, deliver.batches)
            if proxy.faults == faults:
                not_checked("the backend sends nothing through the proxy")

    @promise
    def test_a_lost_answer_loses_no_batch(self, site: Site) -> None:
        """When the store's answer is lost, the batch comes again: it is stored, whole, once or twice."""
        proxy = self.needs_proxy(site)
        with self.started(site) as backend:
            answers, faults = proxy.answers, proxy.faults
            deliver = _Deliveries(self, backend, proxy)
            deliver()
            for number in range(1, min(proxy.answers - answers, _MOST_ANSWERS) + 1):
                deliver(partial(proxy.lose_answer, number))
            deliver()
            self.settle(backend)
            self.holds_batches(backend, deliver.batches)
            if proxy.faults == faults:
                not_checked("the store answers nothing through the proxy")

    @promise
    def test_a_silent_store_is_given_up(self, site: Site) -> None:
        """write() and flush() end while the store is silent: they have a time-out, or wait for no answer."""
        proxy = self.needs_proxy(site)
        with self.started(site) as backend:
            deliver = _Deliveries(self, backend, proxy)
            deliver()
            backend.open(self.next_segment(backend))
            batch = deliver.next_batch()
            guard, written = Guard(), threading.Event()

            def write() -> None:
                with guard:
                    backend.write(Batch(batch))
                    written.set()
                    backend.flush()

            thread = threading.Thread(target=write, daemon=True)
            with proxy.silence():
                thread.start()
                thread.join(self.longest_call)
                in_time = not thread.is_alive()
            thread.join(self.patience)  # all connections are cut now
            assert in_time, f"they took more than {self.longest_call:g} s; give the client library a time-out"
            if guard.error:
                self.raises_storage_error(partial(_raise, guard.error))
            self.raises_storage_error(backend.close)
            if not written.is_set():
                deliver.again()
            deliver()
            self.settle(backend)
            self.holds_batches(backend, deliver.batches)

    def needs_proxy(self, site: Site) -> FaultProxy:
        """Return the proxy; skip the check if there is none."""
        if self.proxy:
            return self.proxy
        if isinstance(self.make_backend(site), FolderBackend):
            does_not_apply("the store is a folder")
        before = _sockets()
        with self.started(site) as backend:
            self.write(backend, numbered(1))
            now = _sockets()
        if now > before:
            not_checked("proxy is not set, so its connections cannot be cut")
        return does_not_apply("the backend opens no connection")


class _Deliveries:
    """Stores batch after batch, with a fault or without."""

    def __init__(self, kit: Kit, backend: Backend, proxy: FaultProxy) -> None:
        self._kit, self._backend, self._proxy = kit, backend, proxy
        self._late = False
        self.batches: list[list[Record]] = []

    def __call__(self, fault: Callable[[], None] | None = None) -> None:
        """Deliver the next batch; one that is sent in the background is waited for."""
        self.next_batch()
        self.again(fault)

    def next_batch(self) -> list[Record]:
        self.batches.append(numbered(_BATCH, _BATCH * len(self.batches)))
        return self.batches[-1]

    def again(self, fault: Callable[[], None] | None = None) -> None:
        """Deliver the last batch, or deliver it again."""
        sent = self._proxy.sent
        self._kit.deliver(self._backend, self.batches[-1], fault)
        self._late = self._late or self._proxy.sent == sent
        if self._late:
            self._kit.settle(self._backend)
        self._proxy.heal()


def _raise(error: BaseException) -> None:
    raise error


def _sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:  # the listing's own descriptor
            continue
    return count

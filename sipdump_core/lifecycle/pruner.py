"""Pruning in the background: at once and every 600 s, each backend in a thread of its own."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import ClosedError
from sipdump_core.lifecycle.holds import mark
from sipdump_core.lifecycle.retention import Pruned, log_pruned, prune_all
from sipdump_core.lifecycle.thinning import log_thinned, thin
from sipdump_core.log import Limit
from sipdump_core.settings.keeping import Rule
from sipdump_core.threads import lasting

__all__ = ["PRUNE_INTERVAL", "Pruner"]

_NICE = 10
PRUNE_INTERVAL = 600.0
"""Seconds between two prunes, as in Kamailio."""


class Pruner:
    """Deletes old segments from ``start`` to ``stop``; a slow store delays no other.

    Args:
        backends: returns the backends to prune; called before each round.
        fage: seconds, see :func:`~sipdump_core.lifecycle.retention.prune`.
        clock: the time.
        rules: see :mod:`~sipdump_core.lifecycle.thinning`.
    """

    def __init__(
        self, backends: Callable[[], Iterable[Backend]], fage: float, clock: Clock, rules: Sequence[Rule] = ()
    ) -> None:
        self._backends = backends
        self._fage = fage
        self._rules = rules
        self._clock = clock
        self._stopped = threading.Event()
        self._log = Limit()

    def start(self) -> None:
        """Begin the first round now."""
        lasting(self._run, "sipdump-prune").start()

    def stop(self) -> None:
        """Delete no more; a deletion that is under way is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        running: dict[str, threading.Thread] = {}
        while True:
            with Guard() as guard:
                for backend in self._backends():
                    if backend.name not in running or not running[backend.name].is_alive():
                        name = f"sipdump-prune-{backend.name}"
                        thread = threading.Thread(target=self._prune, args=(backend,), name=name, daemon=True)
                        thread.start()
                        running[backend.name] = thread
            if guard.error:  # no thread can be had, say: the next round may do better
                self._log.warn("round", "prune failed", error=guard.text)
            if self._stopped.wait(PRUNE_INTERVAL):
                return

    def _prune(self, backend: Backend) -> None:
        def each(pruned: Pruned) -> None:
            log_pruned(pruned)
            if self._stopped.is_set():
                raise ClosedError("sipdump is closed: the rest is pruned at the next start")

        error: object = None
        with suppress(OSError):  # of this thread alone: storing goes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        with Guard() as guard:
            if self._fage:
                for summary in prune_all([backend], self._fage, each, now=self._clock.time()):
                    error = summary.errors[-1] if summary.errors else None
            for thinned in thin(backend, self._rules, now=self._clock.time()):
                log_thinned(thinned)
                error = thinned.error or error
                if self._stopped.is_set():
                    return
        error = guard.text or error
        with Guard() as guard:
            mark(backend)
        if guard.error:  # that protects from the store's own rules alone
            what = "what is held cannot be marked in the store"
            self._log.warn(f"mark {backend.name}", what, backend=backend.name, error=guard.text)
        if error and not self._stopped.is_set():
            self._log.warn("prune", "prune failed", backend=backend.name, error=error)

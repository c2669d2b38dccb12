"""Pruning in the background: at once and every 600 s, each backend in a thread of its own."""

import threading
from collections.abc import Callable, Iterable

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.errors import ClosedError
from sipdump_core.lifecycle.retention import Pruned, log_pruned, prune_all
from sipdump_core.log import Limit

__all__ = ["PRUNE_INTERVAL", "Pruner"]

PRUNE_INTERVAL = 600.0
"""Seconds between two prunes, as in Kamailio."""


class Pruner:
    """Deletes old segments from ``start`` to ``stop``; a slow store delays no other.

    Args:
        backends: returns the backends to prune; called before each round.
        fage: seconds, see :func:`~sipdump_core.lifecycle.retention.prune`.
        clock: the time.
    """

    def __init__(self, backends: Callable[[], Iterable[Backend]], fage: float, clock: Clock) -> None:
        self._backends = backends
        self._fage = fage
        self._clock = clock
        self._stopped = threading.Event()
        self._log = Limit()

    def start(self) -> None:
        """Begin the first round now."""
        threading.Thread(target=self._run, name="sipdump-prune", daemon=True).start()

    def stop(self) -> None:
        """Delete no more; a deletion that is under way is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        running: dict[str, threading.Thread] = {}
        while True:
            for backend in self._backends():
                if backend.name not in running or not running[backend.name].is_alive():
                    thread = threading.Thread(target=self._prune, args=(backend,), daemon=True)
                    running[backend.name] = thread
                    thread.start()
            if self._stopped.wait(PRUNE_INTERVAL):
                return

    def _prune(self, backend: Backend) -> None:
        def each(pruned: Pruned) -> None:
            log_pruned(pruned)
            if self._stopped.is_set():
                raise ClosedError("sipdump is closed: the rest is pruned at the next start")

        for summary in prune_all([backend], self._fage, each, now=self._clock.time()):
            if summary.errors and not self._stopped.is_set():
                self._log.warn("prune", "prune failed", backend=backend.name, error=summary.errors[-1])

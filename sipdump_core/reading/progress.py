"""A bar on the terminal while a scan takes long, drawn beside it, so that a segment that takes long shows, too."""

import sys
import threading

__all__ = ["Bar"]

_DELAY = 1.0
_REDRAWN = 0.5


class Bar:
    """Shows how far a scan is, on standard error if that is a terminal, from its second second on."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self, done: int, total: int) -> None:
        """Take down how far a scan is; when it is done, the bar goes.

        Args:
            done: segments that were read.
            total: segments to read.
        """
        self._done, self._total = done, total
        if done >= total:
            self.close()
        elif self._thread is None and sys.stderr.isatty():
            self._ended.clear()
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Take the bar away."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None

    def _draw(self) -> None:
        if self._ended.wait(_DELAY):
            return
        from tqdm import tqdm  # noqa: PLC0415 - only a terminal needs it

        form = "reading: {n_fmt} of {total_fmt} segments {bar} {elapsed}"
        with tqdm(bar_format=form, total=self._total, leave=False, file=sys.stderr) as bar:
            while not self._ended.wait(_REDRAWN):
                bar.n, bar.total = self._done, self._total
                bar.refresh()

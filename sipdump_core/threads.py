"""Threads that do not end in silence."""

import threading
import time
from collections.abc import Callable

from sipdump_core.errors import one_line
from sipdump_core.log import Event, log

__all__ = ["lasting"]

_PAUSES = (1.0, 10.0)
"""Seconds before work that has failed begins again: the first time, and at most."""


def lasting(run: Callable[[], None], name: str) -> threading.Thread:
    """Make a daemon thread, still to be started, that ends only when its work returns.

    What the work raises, ``SystemExit`` included, is logged as a bug of ours, and the work begins again a while later.
    So ``run`` must be able to go on from what it left.

    Args:
        run: the work; it returns when it is told to stop.
        name: of the thread, for logs and debuggers.
    """

    def body() -> None:
        pause, longest = _PAUSES
        while True:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - whatever it is, others rely on this thread
                what = "thread failed and begins again; this is a bug in sipdump, please report it"
                log.error(Event(what, thread=name, error=one_line(repr(error))), exc_info=True)
                time.sleep(pause)
                pause = min(2 * pause, longest)
            else:
                return

    return threading.Thread(target=body, name=name, daemon=True)

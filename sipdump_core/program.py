"""What our programs have in common: a report of a crash, and an end that no driver can prevent."""

import faulthandler
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

__all__ = ["as_program", "report_crashes"]

GRACE = 5.0
"""Seconds that threads, and functions of ``atexit``, have when all is done."""
_LAST = 2.0
"""Seconds more for what comes after those, such as destructors."""


def as_program(name: str, run: Callable[[], int], *, data: bool = True) -> int:
    """Run what a process was started for, and see to it that the process then ends.

    A signal such as SIGSEGV leaves the stacks of all threads on standard error. Threads and ``atexit`` functions of
    others, which could keep the process, have five seconds after the end of ``run``.

    Args:
        name: of the program, for messages.
        run: returns the exit status.
        data: what ``sys.stdout`` gets is data; what drivers write there past it goes to standard error.
    """
    if data:
        _keep_stdout()
    report_crashes()
    status = 1
    try:
        status = run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):  # whoever reads it may take his time
            with suppress(Exception):
                _flush(stream)
        _end_in_time(name, status)
    return status


def _keep_stdout() -> None:
    """Move ``sys.stdout`` to a descriptor of its own: a library that writes to descriptor 1 must not spoil it."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return
    with suppress(OSError, ValueError):  # one of the two may be closed
        os.fstat(2)
        own = os.fdopen(os.dup(1), "wb")
        sys.stdout = io.TextIOWrapper(
            own, stream.encoding, stream.errors, line_buffering=stream.isatty(), write_through=stream.write_through
        )
        stream.flush()
        os.dup2(2, 1)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except BrokenPipeError:  # the reader went away, as head(1) does; what is left has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def report_crashes() -> None:
    """Have the stacks of all threads on standard error after a signal such as SIGSEGV.

    The alternate stack that this sets up is small, and Python runs the handlers of all signals on it: a dozen that come
    at once overflow it where the processor has many registers. It belongs to the calling thread, so that one ends.
    """

    def enable() -> None:
        with suppress(Exception):  # there may be no standard error
            faulthandler.enable()

    thread = threading.Thread(target=enable)
    with suppress(RuntimeError):  # no thread can be had
        thread.start()
        thread.join()


def _end_in_time(name: str, status: int) -> None:
    def watch() -> None:
        time.sleep(GRACE)
        kept = [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
        what = f"threads that do not end: {', '.join(kept)}" if kept else "what was left to do at the exit does not end"
        with suppress(Exception):
            print(f"{name}: {what}; the process ends without waiting for it", file=sys.stderr, flush=True)
        os._exit(status)

    with suppress(Exception):
        threading.Thread(target=watch, name="sipdump-end", daemon=True).start()
    with suppress(Exception):  # needs no interpreter, where the thread above needs one
        faulthandler.dump_traceback_later(GRACE + _LAST, exit=True)

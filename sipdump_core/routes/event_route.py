"""The event route: a Python callable that sees each record before it is stored, and may drop it."""

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

from sipdump_core.log import Limit
from sipdump_core.record import Record
from sipdump_core.settings.options import Setting

__all__ = ["DROP", "SLOW", "Callback", "EventRoute", "Route", "Send", "load_callback", "load_file", "locate"]

DROP: Final = False
"""What an event route returns to keep a record from being stored: ``False``, and nothing else."""

SLOW: Final = 10_000
"""Microseconds: a callback that takes longer is counted as slow, and logged."""

Callback = Callable[[Record], Any]

Send = Callable[[Record, str], None]
"""Stores a record under a tag of its own: ``SipDump.send``."""

Route = Callable[[Send], Callback]
"""What a configuration says of the event route: given what stores a record, its callback."""


class EventRoute:
    """Runs the callback, in the thread that brings the record, as Kamailio runs it in the SIP worker."""

    def __init__(self, callback: Callback | None = None) -> None:
        self.callback = callback
        self.dropped = 0
        self.errors = 0
        self.calls = 0
        self.total_ns = 0
        self.max_ns = 0
        self.slow = 0
        self._counts = threading.Lock()
        self._log = Limit()

    def filter(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return the records that are to be stored; a callback that raises has not dropped its record."""
        callback = self.callback
        if callback is None:
            return records
        kept = []
        for record in records:
            failed = False
            start = perf_counter_ns()
            try:
                drop = callback(record) is DROP
            except BaseException as error:  # whatever a user's code raises
                if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                    raise  # somebody pressed Ctrl-C; elsewhere it is the callback's own
                what = "event route raised; the record is stored"
                self._log.warn(repr(error), what, traceback=True, src=record.src_ip, dst=record.dst_ip)
                failed, drop = True, False
            self._count(perf_counter_ns() - start, drop, failed)
            if not drop:
                kept.append(record)
        return kept

    def _count(self, took: int, dropped: bool, failed: bool) -> None:
        # for each record, not each batch: a slow callback must show before a batch of a thousand is done
        slow = took > SLOW * 1000
        with self._counts:
            self.calls += 1
            self.total_ns += took
            self.max_ns = max(self.max_ns, took)
            self.slow += slow
            self.dropped += dropped
            self.errors += failed
        if slow:
            self._log.warn("slow", "event route is slow: records wait for it", us=took // 1000)


def load_callback(setting: Setting) -> Callback:
    """Load the callable that ``event_callback`` names: ``module:function`` or ``file.py:function``.

    A file is searched for beside the configuration file that names it, a module on the Python path.

    Raises:
        ConfigError: it cannot be loaded, or is not callable.
    """
    source, colon, name = str(setting.value).rpartition(":")
    if not (colon and source and name):
        raise setting.error('must be "module:function" or "file.py:function"')
    try:
        module = load_file(locate(source, setting)) if source.endswith(".py") else importlib.import_module(source)
        callback = module
        for part in name.split("."):
            callback = getattr(callback, part)
    except BaseException as error:
        raise setting.error(f"cannot load it: {type(error).__name__}: {error}") from error
    if not callable(callback):
        raise setting.error(f"{name} is not callable")
    return callback  # type: ignore[no-any-return]  # checked to be callable; what it takes shows when it runs


def locate(source: str, setting: Setting) -> Path:
    """Return the path of a file; a relative one starts at the folder of the configuration file that names it."""
    path = Path(source).expanduser()
    config = setting.place.partition(":")[0]
    if not path.is_absolute() and os.path.isfile(config):
        path = Path(config).parent / path
    return path


def load_file(path: Path) -> Any:
    """Load a Python file as a module of its own.

    Raises:
        FileNotFoundError: there is no such file; and whatever the file's code raises.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # so that its classes pickle and its annotations resolve
    spec.loader.exec_module(module)
    return module

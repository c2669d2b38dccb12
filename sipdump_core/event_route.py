"""The event route: a Python callable that sees each record before it is stored, and may drop it."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sipdump_core.log import Event, log
from sipdump_core.options import Setting
from sipdump_core.record import Record

__all__ = ["DROP", "Callback", "EventRoute", "load_callback"]

DROP: Final = False
"""What an event route returns to keep a record from being stored: ``False``, and nothing else."""

Callback = Callable[[Record], Any]


class EventRoute:
    """Runs the callback, in the thread that brings the record, as Kamailio runs it in the SIP worker."""

    def __init__(self, callback: Callback | None = None) -> None:
        self.callback = callback
        self.dropped = 0
        self.errors = 0

    def filter(self, records: Sequence[Record]) -> Sequence[Record]:
        """Give the records that are to be stored; a callback that raises has not dropped its record."""
        callback = self.callback
        if callback is None:
            return records
        kept = []
        for record in records:
            try:
                drop = callback(record) is DROP
            except Exception:  # noqa: BLE001 - whatever a user's code raises
                self.errors += 1
                log.exception(Event("event route raised; the record is stored", src=record.src_ip, dst=record.dst_ip))
                drop = False
            if drop:
                self.dropped += 1
            else:
                kept.append(record)
        return kept


def load_callback(setting: Setting) -> Callback:
    """Load the callable that ``event_callback`` names: ``module:function`` or ``file.py:function``.

    A file is looked for beside the configuration file that names it, a module on the Python path.

    Raises:
        ConfigError: it cannot be loaded, or is not callable.
    """
    source, colon, name = str(setting.value).rpartition(":")
    if not (colon and source and name):
        raise setting.error('must be "module:function" or "file.py:function"')
    try:
        module = _load_file(source, setting) if source.endswith(".py") else importlib.import_module(source)
        callback = module
        for part in name.split("."):
            callback = getattr(callback, part)
    except (Exception, SystemExit) as error:
        raise setting.error(f"cannot load it: {type(error).__name__}: {error}") from error
    if not callable(callback):
        raise setting.error(f"{name} is not callable")
    return callback  # type: ignore[no-any-return]  # checked to be callable; what it takes shows when it runs


def _load_file(source: str, setting: Setting) -> Any:
    path = Path(source).expanduser()
    config = setting.place.partition(":")[0]
    if not path.is_absolute() and os.path.isfile(config):
        path = Path(config).parent / path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # so that its classes pickle and its annotations resolve
    spec.loader.exec_module(module)
    return module

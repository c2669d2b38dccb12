"""What seals, in a process of its own: ``python -m sipdump_parquet.worker PARENT``.

So the daemon neither imports pyarrow nor shares its interpreter's lock and its memory with it. Messages are lines of
JSON. The first one on stdin has the backend's options and site, each later one a request::

    {"do": "take", "path": ..., "size": ...}        take what an open write-ahead file has, up to that size
    {"do": "seal", "segment": [...], "own": true}   make a Parquet file of a closed one

On stdout there are ``{"ready": true}``, then for each request any number of ``{"log": ...}`` and one ``{"done": ...}``
or ``{"error": ...}``. It may be killed at any moment: see :mod:`sipdump_parquet.conversion`.
"""

import contextlib
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, BinaryIO

import attrs

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Recovered
from sipdump_core.errors import StorageError
from sipdump_core.log import Event, log
from sipdump_core.segment import Segment
from sipdump_parquet.conversion import Conversion, seal
from sipdump_parquet.errors import BusyError, ContentError
from sipdump_parquet.files import translated
from sipdump_parquet.options import ParquetOptions
from sipdump_parquet.wal import wal_path

__all__ = ["Worker", "main"]

_NICE = 5
_EXPENDABLE = "500"
"""Of 1000, for the kernel's choice when memory runs out: this process has nothing that is not on the disk, too."""
_RARELY = 100_000
"""Objects until the garbage collector looks for circles, of which hardly any are made here."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Worker:
    """Seals write-ahead files; of the one that is still written, it takes what is there.

    Args:
        options: of the backend.
        site: of the backend.
    """

    def __init__(self, options: ParquetOptions, site: Site) -> None:
        self._options = options
        self._site = site
        self._early: Conversion | None = None

    def take(self, path: str, size: int) -> int:
        """Sort what is already in an open write-ahead file, so that less is left to do after its close.

        Args:
            path: the file.
            size: how many bytes of it are final.

        Returns:
            How many bytes were taken; if that is less, all are, once it is closed.

        Raises:
            StorageError: the file cannot be read, or there is no room for a temporary one.
        """
        early, self._early = self._early, None
        try:
            with _known_faults("sort", path):
                if early is None or early.path != path:
                    if early:
                        early.close()  # it was given up
                    early = Conversion(path, self._options, self._site.folder)
                early.take(size)
                taken = early.at
                if taken == size:
                    self._early = early
        finally:
            if early and not self._early:
                early.close()
        return taken

    def seal(self, segment: Segment, *, own: bool) -> Recovered | None:
        """Make a Parquet file of a closed write-ahead file; see :func:`sipdump_parquet.conversion.seal`."""
        early, self._early = self._early, None
        path = wal_path(segment, self._site)
        if early and early.path != path:
            early.close()  # it was given up
            early = None
        with _known_faults("seal", path):
            return seal(segment, self._options, self._site, early, own=own)

    def close(self) -> None:
        """Forget what was taken."""
        if self._early:
            self._early.close()
            self._early = None


@contextlib.contextmanager
def _known_faults(operation: str, path: str) -> Iterator[None]:
    """Have every failure as a ``StorageError``; what no system or file is to blame for comes again each time."""
    try:
        with translated(operation, path):
            yield
    except StorageError:
        raise
    except Exception as error:
        raise ContentError(operation, path, f"{type(error).__name__}: {error}") from error


def main() -> None:
    """Do what stdin asks for, until it ends or the parent does."""
    _outlive_nobody(int(sys.argv[1]))
    requests, answer = _requests(), _answerer()
    _log_to(answer)
    given = requests()
    options = ParquetOptions(**{**given["options"], **{name: tuple(given["options"][name]) for name in _TUPLES}})
    worker = Worker(options, Site(given["folder"], given["prefix"], given["file_mode"]))
    gc.freeze()
    gc.set_threshold(_RARELY)
    answer({"ready": True})
    while True:
        request = requests()
        try:
            answer({"done": _done(worker, request)})
        except StorageError as error:
            answer({"error": _described(error)})


_TUPLES = [field.name for field in attrs.fields(ParquetOptions) if isinstance(field.default, tuple)]


def _done(worker: Worker, request: Mapping[str, Any]) -> Any:
    if request["do"] == "take":
        return worker.take(request["path"], request["size"])
    recovered = worker.seal(Segment(*request["segment"]), own=request["own"])
    return recovered and attrs.asdict(recovered, filter=attrs.filters.exclude("error"))


def _described(error: StorageError) -> dict[str, str]:
    kind = next((each.__name__ for each in (BusyError, ContentError) if isinstance(error, each)), "")
    fields = {name: getattr(error, name) for name in ("operation", "target", "reason", "hint")}
    return {"kind": kind, **fields}


def _outlive_nobody(parent: int) -> None:
    """Take the rank of a helper: it waits for its betters, ends with its parent, and hears its parent alone."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a service manager sends them to all at once
        signal.signal(each, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_EXPENDABLE)
    with contextlib.suppress(ImportError, OSError, AttributeError):  # without it, the end of stdin is the end
        import ctypes  # noqa: PLC0415 - some builds of Python lack it

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before it could be heard of
        os._exit(0)


def _requests() -> Callable[[], Any]:
    """Return what waits for the next request; a thread reads ahead, so that the end of stdin is the end at once."""
    waiting: SimpleQueue[Any] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            waiting.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, name="sipdump-parquet-requests", daemon=True).start()
    return waiting.get


def _answerer() -> Callable[[Mapping[str, Any]], None]:
    """Return what writes a message; whatever else prints, or dies loudly, does so through stderr."""
    file: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def answer(message: Mapping[str, Any]) -> None:
        # a line of its own even behind what somebody else has begun
        file.write(b"\n" + json.dumps(message).encode() + b"\n")

    return answer


def _log_to(answer: Callable[[Mapping[str, Any]], None]) -> None:
    class _Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event = record.msg if isinstance(record.msg, Event) else Event(record.getMessage())
            fields = {
                key: value if isinstance(value, int | float) else str(value) for key, value in event.fields.items()
            }
            answer({"log": event.what, "level": record.levelno, "fields": fields})

    log.handlers[:] = [_Handler()]
    log.setLevel(logging.INFO)
    log.propagate = False


if __name__ == "__main__":
    main()

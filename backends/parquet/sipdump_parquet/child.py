"""The process that seals, as its parent sees it: started when there is work, started again when it was killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from multiprocessing.spawn import get_executable
from typing import IO, Any

import attrs

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Recovered
from sipdump_core.errors import StorageError
from sipdump_core.log import Event, log
from sipdump_core.segment import Segment
from sipdump_parquet.errors import BusyError, ContentError
from sipdump_parquet.options import ParquetOptions
from sipdump_parquet.wal import wal_path

__all__ = ["Child"]

_MODULE = "sipdump_parquet.worker"
_TARGET = "the process that seals"
_ALLOCATION = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 24),
}
"""Has memory kept until the process ends: to give it back and take it again, page by page, costs as much as sorting.

For Arrow, and for glibc (mallopt(3)); another C library passes over it.
"""
_END_SECONDS = 5.0
_LINES = 20
_KINDS: dict[str, type[StorageError]] = {"BusyError": BusyError, "ContentError": ContentError}


class Child:
    """Has a :class:`~sipdump_parquet.worker.Worker` do the work in a process of its own.

    That is ``python -m sipdump_parquet.worker``, so it runs nothing of the program that this one belongs to.

    Args:
        options: of the backend.
        site: of the backend.
    """

    def __init__(self, options: ParquetOptions, site: Site) -> None:
        self._options = options
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None
        self._said: deque[str] = deque(maxlen=_LINES)

    @property
    def pid(self) -> int:
        """The process's id, 0 if there is none."""
        return self._process.pid if self._process else 0

    def take(self, path: str, size: int) -> int:
        """Sort what is already in an open write-ahead file; see ``Worker.take``."""
        return int(self._ask("sort", path, {"do": "take", "path": path, "size": size}))

    def seal(self, segment: Segment, *, own: bool) -> Recovered | None:
        """Make a Parquet file of a closed write-ahead file; see ``Worker.seal``."""
        request = {"do": "seal", "segment": attrs.astuple(segment), "own": own}
        done = self._ask("seal", wal_path(segment, self._site), request)
        return Recovered(**done) if done else None

    def close(self) -> None:
        """End the process; its memory is free again."""
        process, self._process = self._process, None
        if process:
            _reaped(process)

    def forget(self) -> None:
        """Let go of the process: it belongs to the one that this one was forked from."""
        process, self._process = self._process, None
        if process:
            process.returncode = 0  # not ours to wait for
            _close_pipes(process)

    def _ask(self, operation: str, path: str, request: Mapping[str, Any]) -> Any:
        """Send a request, and return what it comes to.

        Raises:
            BusyError: see ``Worker``.
            ContentError: see ``Worker``; also if the contents killed the process.
            StorageError: see ``Worker``; also if the process cannot be started, or was killed.
        """
        if self._process and self._process.poll() is not None:
            self._ended()  # somebody ended it while it had nothing to do
        process = self._process or self._start()
        killed = _kills()
        try:
            _send(process, request)
            answer = self._answer(process)
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise self._death(operation, path, killed)
        error = answer.get("error")
        if error:
            kind = _KINDS.get(error.pop("kind"), StorageError)
            raise kind(**error)
        return answer["done"]

    def _start(self) -> "subprocess.Popen[bytes]":
        # what this one can import, that one can: the path may have been changed since the start
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        self._said.clear()
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of ours
                [_python(), "-P", "-m", _MODULE, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ALLOCATION, "PYTHONPATH": path},
                process_group=0,  # Ctrl-C is for this process, which sees to that one's end
            )
        except OSError as error:
            raise StorageError.from_os("start", _TARGET, error) from error
        self._process = process
        site = {"folder": self._site.folder, "prefix": self._site.prefix, "file_mode": self._site.file_mode}
        try:
            _send(process, {"options": attrs.asdict(self._options), **site})
            ready = self._answer(process)
        except BrokenPipeError:
            ready = None
        if ready is None:
            code = self._ended()
            said = self._said[-1] if self._said else ""
            reason = f"{_python()} {_how(code)} at once" + (f": {said}" if said else "")
            raise StorageError("start", _TARGET, reason, "multiprocessing.set_executable() names another interpreter")
        return process

    def _answer(self, process: "subprocess.Popen[bytes]") -> dict[str, Any] | None:
        """Return the next answer, and log what comes before it; None if the process has ended."""
        for line in _pipe(process.stdout):
            message = _parsed(line)
            if message is None:
                if line.strip():
                    self._said.append(line.decode(errors="backslashreplace").rstrip())
            elif "log" in message:
                log.log(message["level"], Event(message["log"], **message["fields"]))
            else:
                self._said.clear()
                return message
        return None

    def _death(self, operation: str, path: str, kills: int) -> StorageError:
        """Note that the process has ended, and return what that means for the file that it was at."""
        code = self._ended()
        for line in self._said:
            log.warning(Event("the process that seals said", line=line))
        self._said.clear()
        reason = f"the process that does it {_how(code)}"
        if (code == -signal.SIGKILL and _kills() == kills) or code in (-signal.SIGTERM, 0):
            return StorageError(operation, path, reason)  # somebody did that: no fault of the contents
        return ContentError(operation, path, reason)

    def _ended(self) -> int:
        process, self._process = self._process, None
        return _reaped(process) if process else 0


def _send(process: "subprocess.Popen[bytes]", message: Mapping[str, Any]) -> None:
    requests = _pipe(process.stdin)
    requests.write(json.dumps(message).encode() + b"\n")
    requests.flush()


def _python() -> str:
    """Return the interpreter: this one's, or what the program named where this one is inside of another program."""
    return os.fsdecode(get_executable() or "")


def _pipe(given: IO[bytes] | None) -> IO[bytes]:
    if given is None:
        raise ValueError("the process was started without its pipes")  # it never is
    return given


def _reaped(process: "subprocess.Popen[bytes]") -> int:
    """Have a process end, and return how it did."""
    _close_pipes(process)  # at which it ends, if it has not yet
    try:
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _parsed(line: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return None


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):  # what it did not take
                pipe.close()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _kills() -> int:
    """Return how many processes the kernel has killed since its start because memory ran out; 0 if it does not say."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0

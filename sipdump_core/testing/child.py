"""A separate process for a backend, which can be killed, forked, and deprived of disk space.

It is a fresh interpreter, not a fork of pytest's, because a backend under test may have threads. It makes the same
backend from its class, options and site, so the class must be importable; everything else is pickled.
"""

import contextlib
import gc
import importlib
import importlib.util
import json
import locale
import logging
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import StorageError, StorageFullError
from sipdump_core.segment import Segment
from sipdump_core.testing.promise import not_checked
from sipdump_core.testing.samples import noise, numbered

__all__ = ["Child", "crash", "fork", "full", "live", "surroundings"]

LIMITS = (1 << 19, (1 << 20) + 20_000, 3 * (1 << 19) + 40_000)
"""File size limits for ``full``, one after the other: they cut batches at different places."""
BATCH = 200
_DEADLINE = 120.0


class Child:
    """A process that runs one of the functions below with a backend.

    Args:
        script: the function; what it yields can be read here as lines of text.
        backend: the process makes another one like this.
        args: arguments for the function, after the backend.
    """

    def __init__(self, script: Any, backend: Backend, *args: Any) -> None:
        cls = type(backend)
        try:
            job = pickle.dumps((script.__name__, cls, backend.opts, backend.site, args))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            not_checked(f"the backend cannot be made in a process of its own: {error}")
        module = sys.modules[cls.__module__]
        begin = {"path": sys.path, "module": cls.__module__, "file": getattr(module, "__file__", None)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sipdump_core.testing.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._timer = threading.Timer(_DEADLINE, self._process.kill)
        self._timer.start()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: its exit status says more
            self._process.stdin.write(json.dumps(begin).encode() + b"\n" + job)
            self._process.stdin.flush()

    def line(self) -> str:
        """Wait for the next line.

        Raises:
            AssertionError: the process ended without one.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if not line:
            _, said = self._process.communicate()
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise AssertionError(f"a process with the backend ended with status {self._process.returncode}: {last}")
        return line

    def kill(self) -> None:
        """Kill it, so that none of its code runs any more."""
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._timer.join()


def crash(backend: Backend, segment: Segment) -> Iterator[str]:
    """Write three batches, flushing each, and one more; then wait to be killed."""
    backend.start()
    backend.open(segment)
    for n in range(3):
        backend.write(Batch(numbered(BATCH, n * BATCH)))
        backend.flush()
    backend.write(Batch(numbered(BATCH, 3 * BATCH)))
    yield "flushed"
    sys.stdin.read()


def full(backend: Backend, segment: Segment) -> Iterator[str]:
    """Write until a write fails because of a file size limit, then go on without one; three times.

    It does what sipdump does with a storage error: the same batch again, in a fresh segment where the disk is not full.
    Yields the exceptions, and how many records were stored.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    errors: list[tuple[str, bool]] = []
    count = 0
    backend.start()
    for number, limit in enumerate(LIMITS):
        backend.open(attrs.evolve(segment, sequence=10 * number))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for _ in range(limit // 300 // BATCH + 2):
            batch = noise(BATCH, count)
            call: Callable[[], None] = partial(backend.write, Batch(batch))
            with Guard() as guard:
                call()
                call = backend.flush
                call()
            error = guard.error
            if error is not None:
                errors.append((f"{type(error).__name__}: {error}", isinstance(error, StorageError)))
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                if call != backend.flush and not isinstance(error, StorageFullError):
                    with contextlib.suppress(StorageError):
                        backend.close()
                    backend.open(attrs.evolve(segment, sequence=10 * number + 1))
                call()  # only a failed flush is retried: what was written is not written again
                backend.flush()
                count += BATCH
                break
            count += BATCH
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        backend.close()
    backend.stop()
    yield json.dumps({"errors": errors, "stored": count})


def fork(backend: Backend, segment: Segment) -> Iterator[str]:
    """Fork with a segment open, call forget() in the child, and go on. Yields the child's exit status."""
    backend.start()
    backend.open(segment)
    backend.write(Batch(numbered(BATCH)))
    backend.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            backend.forget()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    backend.write(Batch(numbered(BATCH, BATCH)))
    backend.close()
    backend.stop()
    yield str(status)


def live(backend: Backend, segment: Segment) -> Iterator[str]:
    """Store something. Yields what has changed in the surroundings."""
    before = surroundings()
    backend.start()
    backend.open(segment)
    backend.write(Batch(numbered(BATCH)))
    backend.flush()
    backend.close()
    backend.stop()
    yield json.dumps([what for what, value in surroundings().items() if value != before[what]])


def surroundings() -> dict[str, Any]:
    """Return the state that everything in a process shares."""
    umask = os.umask(0o022)
    os.umask(umask)
    root = logging.getLogger()
    return {
        "signal handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        + [signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM)],
        "the umask": umask,
        "the working directory": os.getcwd(),
        "the environment": dict(os.environ),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the default time-out of sockets": socket.getdefaulttimeout(),
        "limits": [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)],
        "the interpreter's settings": (
            sys.getrecursionlimit(),
            sys.getswitchinterval(),
            gc.isenabled(),
            sys.excepthook,
        ),
        "the root logger": (root.level, list(root.handlers)),
    }


def main() -> None:
    """Read a job from stdin and run it."""
    begin = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = begin["path"]
    try:
        importlib.import_module(begin["module"])
    except ImportError:
        if not begin["file"]:
            raise
        # pytest may have imported a test module by its path
        spec = importlib.util.spec_from_file_location(begin["module"], begin["file"])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[begin["module"]] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    script, cls, options, site, args = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent process
    for line in {"crash": crash, "full": full, "fork": fork, "live": live}[script](cls(options, site), *args):
        print(line, flush=True)


if __name__ == "__main__":
    main()

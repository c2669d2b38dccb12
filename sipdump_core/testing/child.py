"""A separate process for a backend, which can be killed, forked, and deprived of disk space.

It is a fresh interpreter, not a fork of pytest's, because a backend under test may have threads. It makes the same
backend from its class, options and site, so the class must be importable; everything else is pickled.
"""

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import pickle
import resource
import select
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.capabilities import Lists, Reads, can
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import StorageError, StorageFullError
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.testing.disk import ballast, mount_small_disk
from sipdump_core.testing.promises import not_checked
from sipdump_core.testing.samples import called, noise, numbered, record
from sipdump_core.testing.surroundings import changes, surroundings

__all__ = ["Child", "crash", "fork", "full", "full_disk", "grow", "live", "race"]

LIMITS = (1 << 19, (1 << 20) + 20_000, 3 * (1 << 19) + 40_000)
"""File size limits for ``full``, one after the other: they cut batches at different places."""
BATCH = 200
DISK, ROOM = 64 << 20, 1 << 20
"""Bytes of the disk for ``full_disk``, and of what is free there at first."""
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
        begin = {
            "script": script.__name__,
            "path": sys.path,
            "module": cls.__module__,
            "file": getattr(module, "__file__", None),
        }
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

    def waits(self, seconds: float) -> bool:
        """Wait for the next line no longer than this; return whether it does not come."""
        assert self._process.stdout is not None
        return not select.select([self._process.stdout], [], [], max(0.0, seconds))[0]

    def say(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: its exit status says more
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

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


def race(backend: Backend, segment: Segment) -> Iterator[str]:
    """Open a segment with the sequence number of each line that comes, and store a record there when the next comes.

    Yields "opened" or the error, and when it is closed "closed".
    """
    backend.start()
    yield "ready"
    for line in sys.stdin:
        with Guard() as guard:
            backend.open(attrs.evolve(segment, sequence=int(line)))
            backend.write(Batch([record(b"child %d" % int(line))]))
            backend.flush()
        yield guard.text or "opened"
        sys.stdin.readline()
        with Guard() as guard:
            backend.close()
        yield guard.text or "closed"


def full_disk(backend: Backend, segment: Segment, kept: str) -> Iterator[str]:
    """Fill a small disk, free space, and go on with the same batch in the same segment; twice.

    Args:
        backend: its folder becomes the disk, in this process alone.
        segment: the first one.
        kept: the disk's content is copied to this folder at the end.

    Yields the errors, with whether each is a StorageFullError, and how many records were stored; or nothing but why
    there is no such disk.
    """
    folder = backend.site.folder
    cannot = mount_small_disk(folder, DISK)
    if cannot:
        yield json.dumps({"cannot": cannot})
        return
    errors: list[tuple[str, bool]] = []
    count = 0
    backend.start()
    for sequence in (0, 10):
        backend.open(attrs.evolve(segment, sequence=sequence))
        with ballast(folder, ROOM):
            call, count, error = _fill(backend, count)
            if error:
                errors.append((f"{type(error).__name__}: {error}", isinstance(error, StorageFullError)))
                with Guard() as guard:
                    call()  # still full
                if guard.error is None:
                    call = backend.flush
        call()
        backend.flush()
        count += BATCH
        for _ in range(3):
            backend.write(Batch(noise(BATCH, count)))
            count += BATCH
        backend.close()
    backend.stop()
    shutil.copytree(folder, kept, symlinks=True)
    yield json.dumps({"errors": errors, "stored": count})


def _fill(backend: Backend, count: int) -> tuple[Callable[[], None], int, BaseException | None]:
    """Write until a call fails, or more than the disk has room for is written; return that call, the count before."""
    call: Callable[[], None] = backend.flush
    for _ in range(2 * ROOM // 300 // BATCH):
        with Guard() as guard:
            call = partial(backend.write, Batch(noise(BATCH, count)))
            call()
            call = backend.flush
            call()
        if guard.error is not None:
            return call, count, guard.error
        count += BATCH
    return backend.flush, count - BATCH, None


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
    """Store and read something. Yields what has changed in the surroundings since before the import of its module."""
    backend.start()
    backend.open(segment)
    backend.write(Batch(numbered(BATCH)))
    backend.flush()
    backend.close()
    if can(backend, Lists) and can(backend, Reads):
        for stored in backend.segments():
            list(backend.read(stored))
    backend.stop()
    yield json.dumps(changes(_at_start))


def grow(backend: Backend, segment: Segment) -> Iterator[str]:
    """Yield the bytes of memory that stay for each record of an open segment, and of segments that were closed."""
    tracemalloc.start()
    count = 0

    def store(batches: int) -> int:
        nonlocal count
        for _ in range(batches):
            backend.write(Batch(_large(BATCH, count)))
            backend.flush()
            count += BATCH
        return _traced()

    kept = []
    for _ in range(5):  # the first ones import modules and fill caches
        backend.start()
        backend.open(segment)
        store(3)
        backend.close()
        backend.stop()
        kept.append(_traced())
        segment = segment.next()
    backend.start()
    backend.open(segment)
    before = store(4)
    opened = (store(10) - before) / (10 * BATCH)
    backend.close()
    backend.stop()
    yield json.dumps([opened, (kept[-1] - kept[1]) / (3 * 3 * BATCH)])


_FLOWS = [record(src_port=1024 + n).flow for n in range(50)]


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _large(count: int, first: int) -> list[Record]:
    """Return records of 1,000 bytes, each with a Call-ID of its own."""
    messages = (called(b"%d@192.0.2.1" % n, n).ljust(1000, b"x") for n in range(first, first + count))
    return [Record(1_795_386_431_000_000 + first + n, _FLOWS[n % len(_FLOWS)], buf) for n, buf in enumerate(messages)]


_at_start: dict[str, Any] = {}
_SCRIPTS: dict[str, Callable[..., Iterator[str]]] = {
    script.__name__: script for script in (crash, full, full_disk, fork, race, live, grow)
}


def main() -> None:
    """Read a job from stdin and run it."""
    begin = json.loads(sys.stdin.buffer.readline())
    if begin["script"] == live.__name__:
        _at_start.update(surroundings())
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
    for line in _SCRIPTS[script](cls(options, site), *args):
        print(line, flush=True)


if __name__ == "__main__":
    main()

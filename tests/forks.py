"""Scripts in a process of their own, forked from one that has loaded what takes long to load.

That is a process without threads, and not the one of pytest.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TextIO

__all__ = ["script"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pyarrow.parquet", "pytest", "sipdump_core", "sipdump_parquet", "tests.support"])


@contextmanager
def script(code: str, *arguments: str) -> Iterator[tuple[BaseProcess, TextIO]]:
    """Run code as ``python -c`` does; yield its process, and what it prints. At the end it is killed."""
    reader, writer = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(writer, code, arguments))
    process.start()
    writer.close()
    try:
        with reader, open(reader.fileno(), closefd=False) as printed:
            yield process, printed
    finally:
        process.kill()
        process.join()
        process.close()


def _run(writer: Connection, code: str, arguments: tuple[str, ...]) -> None:
    os.dup2(writer.fileno(), 1)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})

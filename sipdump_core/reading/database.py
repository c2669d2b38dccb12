"""The DuckDB database that ``sipdump-read sql`` asks."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Self, TypeVar

import duckdb

from sipdump_core.errors import ConfigError, StorageError

__all__ = ["Database"]

_SETTINGS: dict[str, Any] = {
    # nothing is fetched from the network
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "memory_limit": "128MB",
    "preserve_insertion_order": "false",
}
T = TypeVar("T")


class Database:
    """An empty database in memory, which counts times in UTC, keeps to a bound of memory, and fetches no extension.

    DuckDB loses exceptions that signal handlers raise while it works. So it works in a thread of its own, and whatever
    is raised in the calling thread meanwhile ends the statement.

    Args:
        folder: for what does not fit into memory.
    """

    def __init__(self, folder: str) -> None:
        self._connection = duckdb.connect(config={**_SETTINGS, "temp_directory": folder})
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("SET enable_progress_bar = false")  # it would be printed into the answer
        self._worker = ThreadPoolExecutor(1, "sipdump-duckdb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._worker.submit(lambda: None))  # an exception may have left a statement running
        self._worker.shutdown()
        self._connection.close()

    def execute(self, statements: str) -> list[tuple[str, str]]:
        """Run statements, and return the names and types of the columns that the last one answers.

        Raises:
            ConfigError: a statement is wrong.
            StorageError: it cannot be answered.
        """
        answer = self._wait_for(lambda: self._connection.execute(statements))
        if answer is None:
            raise ConfigError("the statement is empty")
        return [(name, str(kind)) for name, kind, *_ in answer.description or ()]

    def fetch(self, count: int) -> list[tuple[Any, ...]]:
        """Return the next rows of the answer, at most ``count``; none at its end.

        Raises:
            ConfigError: a statement is wrong.
            StorageError: it cannot be answered.
        """
        return self._wait_for(lambda: self._connection.fetchmany(count))

    def _wait_for(self, call: Callable[[], T]) -> T:
        running = self._worker.submit(call)
        try:
            # a signal may be delivered to another thread, and then ends no wait of this one
            while not wait([running], timeout=0.2).done:
                pass
            return running.result()
        except duckdb.OperationalError as error:
            raise StorageError("run", "the statement", str(error)) from None
        except duckdb.Error as error:
            raise ConfigError(str(error)) from None
        finally:
            self._end(running)

    def _end(self, running: Future[Any]) -> None:
        while not running.done():
            self._connection.interrupt()
            wait([running], timeout=0.05)

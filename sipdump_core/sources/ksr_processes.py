"""The process tables of running Kamailios: who is behind a pid. A thread of its own asks their ctl sockets."""

import threading
from collections.abc import Callable, Sequence

from sipdump_core.control import binrpc
from sipdump_core.errors import FormatError, RpcError
from sipdump_core.log import Limit
from sipdump_core.net.address import Address
from sipdump_core.process_table import ProcessTable
from sipdump_core.threads import lasting

__all__ = ["KamailioProcesses", "parse_ps"]

_EVERY = 10.0
_PAUSE = 1.0
_TIMEOUT = 2.0
_MAX_PROCESSES = 4096
_MAX_DESCRIPTION = 200


class KamailioProcesses:
    """Keeps the rows of ``core.ps`` in a :class:`ProcessTable`.

    It asks when ``ask`` is called, at most once a second; and every 10 s while workers are connected, because a
    Kamailio that is starting does not list all its processes yet, and a restarted one has others.

    Args:
        addresses: the ctl sockets, as :func:`binrpc.call` takes them.
        table: where the rows go.
        busy: says whether workers are connected.
        answered: is called, in that thread, after each round of asking.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        table: ProcessTable,
        busy: Callable[[], bool],
        answered: Callable[[], None],
    ) -> None:
        self._addresses = addresses
        self._table = table
        self._busy = busy
        self._answered = answered
        self._rows: dict[Address, set[tuple[int, int, str]]] = {}
        self._indexes: dict[int, int] = {}
        self._asked = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._begun = 0
        self.finished = 0
        """How many rounds have ended."""
        self.failures = 0
        """How often a Kamailio did not answer."""
        self._log = Limit()
        self._thread = lasting(self._run, "sipdump-ksr-ps")
        if addresses:
            self._thread.start()

    def index(self, pid: int) -> int | None:
        """Return a process's index in its Kamailio's table; None if it is not known."""
        return self._indexes.get(pid)

    def ask(self) -> int:
        """Read the tables again; return what ``finished`` will be after the first round that begins from now on."""
        with self._lock:
            self._asked.set()
            return self._begun + 1

    def close(self) -> None:
        """End the thread; it may be waiting for an answer, up to 2 s for each Kamailio."""
        self._closing.set()
        self._asked.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            if not self._asked.wait(_EVERY) and not self._busy():
                continue
            with self._lock:
                self._asked.clear()
                self._begun += 1
            for address in self._addresses:
                if self._closing.is_set():
                    return
                self._read(address)
            self.finished += 1
            self._answered()
            self._closing.wait(_PAUSE)

    def _read(self, address: Address) -> None:
        try:
            found = parse_ps(binrpc.call(address, "core.ps", timeout=_TIMEOUT))
        except (RpcError, FormatError) as error:
            self.failures += 1
            self._log.warn(str(address), "no process table from Kamailio", ctl=address, error=error)
            return
        rows = {(index, pid, description) for index, (pid, description) in enumerate(found)}
        for row in sorted(rows):
            self._table.add(*row)
        alive = {row[:2] for row in rows}
        for row in self._rows.get(address, set()) - rows:
            if row[:2] in alive:  # only its description is another one: it was still starting
                self._table.remove(*row)
            else:
                self._table.retire(*row)
        self._rows[address] = rows
        self._indexes = {pid: index for known in self._rows.values() for index, pid, _ in known}


def parse_ps(values: Sequence[object]) -> list[tuple[int, str]]:
    """Read the answer of ``core.ps``: pid, description, pid, description ... in the order of the process numbers.

    Raises:
        FormatError: it is not such a list.
    """
    pids, names = values[::2], values[1::2]
    if len(pids) != len(names) or len(pids) > _MAX_PROCESSES:
        raise FormatError(f"core.ps returned {len(values)} values, not pairs of pid and description")
    rows = []
    for pid, name in zip(pids, names, strict=True):
        if not (isinstance(pid, int) and isinstance(name, str)):
            raise FormatError("core.ps returned something other than pairs of pid and description")
        rows.append((pid, "".join(c if c.isprintable() else "?" for c in name)[:_MAX_DESCRIPTION]))
    return rows

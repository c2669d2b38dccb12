"""Control commands: what kamcmd, kamctl and others may ask the daemon, whatever they speak.

``core.*``, ``system.*`` and ``sipdump.enable`` answer as Kamailio's commands of those names; the other ``sipdump.*``
are this daemon's own. Source: the answers of Kamailio 5.6.3.
"""

import math
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from sipdump_core.clock import local_iso
from sipdump_core.errors import RpcFault, SipDumpError
from sipdump_core.lifecycle.retention import listed, log_pruned, prune_all
from sipdump_core.log import Event, log
from sipdump_core.pipeline.filters import FilterStats
from sipdump_core.sipdump import SipDump
from sipdump_core.version import VERSION

__all__ = ["Method", "Rpc", "RpcFault"]

_ROTATE_TIMEOUT = 10.0
_PATIENCE = 5.0
"""Seconds without an answer after which a command goes on without a driver; clients wait some ten seconds."""
_LIST_DEFAULT = 100
_LIST_MAX = 1000
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")


@attrs.frozen
class Method:
    """A control command."""

    run: Callable[[Sequence[Any]], list[Any]]
    """Takes the arguments, returns the results, raises RpcFault."""
    help: str
    array: bool = False
    """Whether it returns a list of results, not one; that shows in JSON."""
    slow: bool = False
    """Whether it waits for a store, and so must not run where others wait for it."""


class Rpc:
    """The control commands of a daemon.

    Args:
        dump: what they look at and control.
        sources: for each source, as ``hep``, what returns its counters.
    """

    def __init__(self, dump: SipDump, sources: Mapping[str, Callable[[], Mapping[str, int]]] | None = None) -> None:
        self._dump = dump
        self._sources = sources or {}
        self._started = time.time()
        self._pruning = threading.Lock()
        self.methods: dict[str, Method] = {
            "core.echo": Method(self._echo, "Returns back its parameters.", array=True),
            "core.ps": Method(self._ps, "Returns the description of running processes.", array=True),
            "core.psx": Method(self._psx, "Returns the detailed description of running processes.", array=True),
            "core.uptime": Method(self._uptime, "Returns uptime of SIP server."),
            "core.version": Method(self._version, "Returns the version string of the server."),
            "sipdump.backends": Method(self._backends, "List the installed drivers and their state", array=True),
            "sipdump.enable": Method(self._enable, "Command to control sipdump enable value"),
            "sipdump.list": Method(
                self._list,
                f"List the newest segments, the oldest of them first; parameter: how many (default {_LIST_DEFAULT})",
                array=True,
                slow=True,
            ),
            "sipdump.prune": Method(self._prune, "Delete sealed segments older than fage, now", array=True, slow=True),
            "sipdump.rotate": Method(self._rotate, "Seal the open segment, and answer when that is done", slow=True),
            "sipdump.stats": Method(self._stats, "Counters of sources, queue and backends"),
            "system.listMethods": Method(
                self._list_methods, "Lists all RPC methods supported by the server.", array=True
            ),
            "system.methodHelp": Method(self._method_help, "Print the help string for given method."),
            "system.methodSignature": Method(self._method_signature, "Returns signature of given method."),
        }

    def call(self, name: str, args: Sequence[Any] = (), *, numeric_strings: bool = False) -> list[Any]:
        """Run a command.

        Args:
            name: as ``"sipdump.enable"``.
            args: ints, floats, strings and, from JSON, whatever it has; too many are ignored, as in Kamailio.
            numeric_strings: the arguments are JSON's. The first one may be a number in a string, or false and true;
                what is no number is refused. If not set, as with Kamailio's BINRPC, what is not an int is ignored.

        Returns:
            The results, of plain types that BINRPC and JSON can hold.

        Raises:
            RpcFault: there is no such command, its arguments are wrong, or it failed.
        """
        method = self.methods.get(name)
        if method is None:
            raise RpcFault(500, f"command {name} not found")
        if args and name in ("sipdump.enable", "sipdump.list"):
            number = _lenient(args[0]) if numeric_strings else args[0]
            args = [number] if isinstance(number, int) else []
        if name == "core.echo" and numeric_strings:
            args = _whole_scalars(args)
        try:
            return method.run(args)
        except RpcFault:
            raise
        except SipDumpError as error:
            raise RpcFault(500, str(error)) from error

    def _enable(self, args: Sequence[Any]) -> list[Any]:
        old = int(self._dump.enable)
        new = args[0] if args and args[0] in (0, 1) else old
        if new != old:
            self._dump.enable = bool(new)
            log.info(Event("enable was set by a control command", old=old, new=new))
        return [{"oldval": old, "newval": new}]

    def _echo(self, args: Sequence[Any]) -> list[Any]:
        echo: list[Any] = []
        for arg in args:
            if not isinstance(arg, int | str):
                if not echo:
                    raise RpcFault(400, f"error at parameter 0: expected {_expected(arg)}")
                break  # there Kamailio stops, too
            echo.append(str(arg))
        return echo

    def _ps(self, args: Sequence[Any]) -> list[Any]:
        del args
        return [cell for pid, description in self._processes() for cell in (pid, description)]

    def _psx(self, args: Sequence[Any]) -> list[Any]:
        del args
        return [
            {"IDX": index, "PID": pid, "DSC": description} for index, (pid, description) in enumerate(self._processes())
        ]

    def _processes(self) -> list[tuple[int, str]]:
        """Return the threads of this process, with the ids that ``ps -L`` shows; the main one has the process's."""
        threads = sorted(threading.enumerate(), key=lambda thread: thread.native_id or 0)
        return [
            (thread.native_id or 0, "main process" if thread.native_id == os.getpid() else f"thread {thread.name}")
            for thread in threads
        ]

    def _uptime(self, args: Sequence[Any]) -> list[Any]:
        del args
        now = time.time()
        since = time.asctime(time.localtime(self._started))
        return [{"now": time.asctime(time.localtime(now)), "up_since": since, "uptime": int(now - self._started)}]

    def _version(self, args: Sequence[Any]) -> list[Any]:
        del args
        return [f"sipdump {VERSION} ({platform.machine()}/{platform.system().lower()})"]

    def _list_methods(self, args: Sequence[Any]) -> list[Any]:
        del args  # kamcmd sends what it wants to complete; Kamailio lists all the same
        return sorted(self.methods)

    def _method_help(self, args: Sequence[Any]) -> list[Any]:
        if not args or not isinstance(args[0], str):
            raise RpcFault(400, "Method Name Expected")
        method = self.methods.get(args[0])
        if method is None:
            raise RpcFault(400, "command not found")
        return [method.help]

    def _method_signature(self, args: Sequence[Any]) -> list[Any]:
        del args
        raise RpcFault(500, "Not Implemented Yet")  # Kamailio's answer, to whatever method

    def _stats(self, args: Sequence[Any]) -> list[Any]:
        del args
        stats = self._dump.stats()
        result: dict[str, Any] = {
            "enable": int(self._dump.enable),
            "received": stats.received,
            "disabled": stats.disabled,
            "route_dropped": stats.route_dropped,
            "route_calls": stats.route_calls,
            "route_total_us": stats.route_total_us,
            "route_max_us": stats.route_max_us,
            "route_slow": stats.route_slow,
            "route_errors": stats.route_errors,
            "queue_dropped": stats.queue_dropped,
        }
        result["sources"] = {name: dict(counters()) for name, counters in self._sources.items()}
        result["filters"] = {name: _of_filter(filter_) for name, filter_ in stats.filters.items()}
        result["caps"] = attrs.asdict(stats.caps)
        result["backends"] = {}
        for backend in self._dump.backends:
            lane = stats.backends[backend.name]
            result["backends"][backend.name] = {
                "version": lane.distribution,
                "state": lane.state,
                "since": local_iso(lane.since),
                "error": lane.error,
                "stored": lane.stored,
                "backlog": lane.backlog,
                "refused": lane.refused,
                "dropped": sum(lane.dropped.values()),
                **{f"dropped ({reason})": count for reason, count in lane.dropped.items()},
                **lane.counters,
            }
        return [result]

    def _rotate(self, args: Sequence[Any]) -> list[Any]:
        del args
        log.info(Event("rotating now, by a control command"))
        self._dump.rotate()
        if not self._dump.flush(_ROTATE_TIMEOUT):
            raise RpcFault(500, f"not sealed within {_ROTATE_TIMEOUT:g} s: a backend is slow; it goes on")
        return [{"rotated": 1}]

    def _prune(self, args: Sequence[Any]) -> list[Any]:
        del args
        fage = self._dump.params.retention
        if not fage:
            raise RpcFault(400, 'fage is 0, so nothing is ever pruned: set modparam("sipdump", "fage", SECONDS)')
        if not self._pruning.acquire(blocking=False):
            raise RpcFault(500, "a prune is under way")
        try:
            backends, errors = self._dump.workshop.keepers()
            results: list[dict[str, Any]] = [
                {"backend": "-", "segments": 0, "bytes": 0, "error": str(error)} for error in errors
            ]
            for summary in prune_all(backends, fage, log_pruned, patience=_PATIENCE):
                result = {"backend": summary.backend, "segments": summary.segments, "bytes": summary.bytes}
                if summary.errors:
                    result["error"] = summary.errors[-1]
                elif not summary.lifecycle:
                    result["note"] = "no lifecycle: what it stores is not pruned"
                results.append(result)
        finally:
            self._pruning.release()
        return results

    def _list(self, args: Sequence[Any]) -> list[Any]:
        count = args[0] if args else _LIST_DEFAULT
        if not 1 <= count <= _LIST_MAX:
            raise RpcFault(400, f"how many must be 1 to {_LIST_MAX}; sipdump-admin list shows all")
        backends, _ = self._dump.workshop.keepers()
        stored = []
        for backend in backends:
            try:
                stored += [(segment, backend.name) for segment in listed(backend, _PATIENCE)]
            except SipDumpError as error:  # the others have theirs to show
                log.warning(Event("segments cannot be listed", backend=backend.name, error=error))
        stored.sort(key=lambda pair: (pair[0].segment.stamp, pair[0].segment.sequence, pair[0].segment.name))
        return [
            {
                "backend": name,
                "name": segment.segment.name,
                "start": local_iso(segment.segment.start),
                "size": segment.size,
                **({} if segment.records is None else {"records": segment.records}),
                "state": segment.state,
            }
            for segment, name in stored[-count:]
        ]

    def _backends(self, args: Sequence[Any]) -> list[Any]:
        del args
        stats = self._dump.stats()
        lanes = stats.backends
        rows = []
        workshop = self._dump.workshop
        for driver in workshop.drivers:
            row = {"name": driver.name, "kind": driver.kind, "flag": driver.flag, "version": driver.origin}
            lane = lanes.get(driver.name)
            if lane:
                dropped = sum(lane.dropped.values())
                row |= {"state": lane.state, "since": local_iso(lane.since), "error": lane.error, "dropped": dropped}
            elif driver.name in stats.filters:
                row |= {"state": "on", "dropped": sum(stats.filters[driver.name].dropped.values())}
            elif driver.error:
                row["state"] = f"not loaded: {driver.error}"
            else:
                row["state"] = "on" if driver in workshop.chosen else "off"
            rows.append(row)
        return rows


def _of_filter(stats: FilterStats) -> dict[str, int]:
    return {
        "taken": stats.taken,
        "changed": stats.changed,
        "dropped": sum(stats.dropped.values()),
        **{f"dropped ({reason})": count for reason, count in stats.dropped.items()},
        **stats.counters,
    }


def _whole_scalars(args: Sequence[Any]) -> list[Any]:
    """Return what Kamailio's core.echo takes of JSON's arguments: up to the first that is neither number nor string."""
    scalars: list[Any] = []
    for arg in args:
        if isinstance(arg, bool) or not isinstance(arg, int | float | str) or arg in (math.inf, -math.inf):
            break
        scalars.append(int(arg) if isinstance(arg, float) else arg)
    return scalars


def _expected(arg: Any) -> str:
    """Return the words of Kamailio's core.echo for a first argument that it does not take."""
    if isinstance(arg, float):
        return "float type but bug -- internal error"
    return f"{'bytes array' if isinstance(arg, bytes) else 'structure'} type but record doesn't match type"


def _lenient(value: Any) -> int:
    """Return the number that a value is meant as.

    Kamailio's JSON-RPC takes what is no number as 0, and so switches dumping off for ``["1"]`` and ``["abc"]``.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return int(value)
    if not isinstance(value, int):
        raise RpcFault(400, "error at parameter 1: expected integer type")
    return value

"""The in-process interface: a ``SipDump`` takes messages and stores them as its parameters say."""

import atexit
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import attrs

from sipdump_core.clock import Clock
from sipdump_core.drivers.base import Backend
from sipdump_core.errors import ClosedError, kind_and_text
from sipdump_core.lifecycle.meta_file import ProcessTable
from sipdump_core.lifecycle.retention import PRUNE_INTERVAL, Pruned, prune_all, tell_pruned
from sipdump_core.log import Event, Limit, log
from sipdump_core.net.address import canonical_ip
from sipdump_core.pipeline.delivery import LaneStats
from sipdump_core.pipeline.dispatcher import Dispatcher
from sipdump_core.pipeline.intake import Intake
from sipdump_core.plan import Plan, make_plan
from sipdump_core.record import Flow, Record
from sipdump_core.routes.event_route import Callback, EventRoute
from sipdump_core.settings.core import MODE_EVENT_ROUTE
from sipdump_core.settings.options import Setting
from sipdump_core.workshop import Workshop

__all__ = ["SipDump", "Stats"]

_CACHE_LIMIT = 10_000
_MIN_GATHER = 0.02
_TIME_LIMIT = 2**32 * 1_000_000
_UNSPECIFIED = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 - nothing is bound here
Address = tuple[Any, ...]
"""A socket address as Python has it: ``(host, port)`` or, for IPv6, ``(host, port, flowinfo, scope_id)``."""


@attrs.frozen
class Stats:
    """What became of the records so far."""

    received: int
    """Records that came in while enabled."""
    disabled: int
    """Records that came in while not enabled; they are not stored."""
    route_dropped: int
    """Records that the event route dropped."""
    route_errors: int
    """Times that the event route raised."""
    route_calls: int
    """Times that the event route ran."""
    route_total_us: int
    """Microseconds that it took in all; sources wait that long."""
    route_max_us: int
    """Microseconds that its longest run took."""
    route_slow: int
    """Runs that took longer than 10,000 microseconds."""
    queue_dropped: int
    """Records that found the queue full."""
    backends: dict[str, LaneStats]
    """By the backend's name."""


class SipDump:
    """Stores SIP messages: in text, in pcap, in whatever its parameters switch on.

    ::

        with SipDump(enable=1, mode=13, folder="/var/spool/sip") as dump:
            dump.received(b"OPTIONS sip:a@b SIP/2.0...", ("192.0.2.1", 5060), ("192.0.2.2", 5060), "udp")

    All methods may be called from any thread. It works from its creation on; ``close``, or leaving the ``with`` block,
    stores what still waits and seals the segments.

    Args:
        settings: modparams, as a configuration file gives them.
        backend_options: options of backends by name, as ``{"text": {...}}``.
        params: the parameters of ``modparam("sipdump", ...)`` by name; a repeatable one takes a sequence.
        plan: a plan that is ready; nothing else is looked at then.
        table: the process table for ``.meta`` files.
        clock: the time.
        default_queue_full: what a full queue means when ``queue_full`` is not set: ``block`` or ``drop``.
        start_pruning: prune from now on, at once and every 600 s; else when ``start_pruning`` is called.

    Raises:
        ConfigError: a parameter is wrong, see :class:`~sipdump_core.settings.core.Params`.
        DriverError: the installed drivers contradict each other.
    """

    def __init__(
        self,
        settings: Sequence[Setting] = (),
        *,
        backend_options: Mapping[str, Mapping[str, Any]] | None = None,
        plan: Plan | None = None,
        table: ProcessTable | None = None,
        clock: Clock | None = None,
        default_queue_full: str = "block",
        start_pruning: bool = True,
        **params: Any,
    ) -> None:
        if plan is None:
            more = [s for name, value in params.items() for s in _settings("sipdump", name, value)]
            for backend, options in (backend_options or {}).items():
                more += [s for name, value in options.items() for s in _settings(f"sipdump_{backend}", name, value)]
            plan = make_plan([*settings, *more])
        self.plan = plan
        self.workshop = Workshop(plan)
        self.params = plan.params
        self.enable = bool(plan.params.enable)
        self._clock = clock or Clock()
        self.table = table or ProcessTable(self._clock.time())
        self.block = (plan.params.queue_full or default_queue_full) == "block"
        self._route = EventRoute(plan.route(self.send) if plan.route else None)
        self._runs_route = bool(plan.params.mode & MODE_EVENT_ROUTE)
        self._flows: dict[tuple[Any, ...], Flow] = {}
        self._who = threading.local()
        self._counts = threading.Lock()
        self._received = self._disabled = self._queue_dropped = 0
        self._log = Limit()
        self._dispatcher = Dispatcher(
            plan.params,
            self.workshop.backends(self.workshop.site(meta=self.table.render)),
            self.table,
            block=self.block,
            clock=self._clock,
        )
        self._sinks = bool(self._dispatcher.lanes)
        gather = 0.0 if plan.params.wait_mode else max(plan.params.wait / 1e6, _MIN_GATHER)
        self._intake = Intake(self._dispatcher, plan.params.queue, plan.params.queue_bytes, gather)
        self._closing = threading.Event()
        self._closed = threading.Lock()
        self._forked = False
        for notice in plan.notices:
            log.warning(Event(notice.text, at=notice.place))
        if start_pruning:
            self.start_pruning()
        atexit.register(self.close)
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(this()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_pruning(self) -> None:
        """Prune from now on, at once and every 600 s, if the parameters ask for it."""
        if self.params.retention:
            threading.Thread(target=self._prune_for_ever, name="sipdump-prune", daemon=True).start()

    def event_route(self, callback: Callback) -> Callback:
        """Register the callable that sees each record first; usable as a decorator. It runs when mode has the flag 2.

        It gets the :class:`~sipdump_core.record.Record`, and drops it by returning ``False`` (or the name ``DROP``).
        """
        self._route.callback = callback
        return callback

    def received(
        self,
        buf: bytes | bytearray | memoryview,
        src: Address,
        dst: Address,
        proto: str = "udp",
        *,
        time_us: int | None = None,
        pid: int | None = None,
        procno: int | None = None,
        node: str = "",
    ) -> None:
        """Store a message that was received (tag ``rcv``), unless the event route drops it.

        Args:
            buf: the message as on the wire.
            src: where it came from.
            dst: where it arrived.
            proto: udp, tcp, tls, sctp, ws, wss or none.
            time_us: when, in microseconds since the epoch; now by default.
            pid: the process that handled it; this one by default.
            procno: its rank; by default a number of the calling thread, listed in ``.meta``.
            node: the capture node, empty for this process.

        Raises:
            ValueError: an address, port or proto is not of its form.
            ClosedError: after ``close``.
        """
        self._one("rcv", buf, src, dst, proto, time_us, pid, procno, node)

    def sent(
        self,
        buf: bytes | bytearray | memoryview,
        src: Address,
        dst: Address,
        proto: str = "udp",
        *,
        time_us: int | None = None,
        pid: int | None = None,
        procno: int | None = None,
        node: str = "",
    ) -> None:
        """Store a message that was sent (tag ``snd``), unless the event route drops it; see ``received``."""
        self._one("snd", buf, src, dst, proto, time_us, pid, procno, node)

    def send(self, record: Record, tag: str) -> None:
        """Store a record under a tag of its own, as Kamailio's ``sipdump_send(tag)``; the event route does not run.

        Raises:
            ValueError: the tag has control characters.
            ClosedError: after ``close``.
        """
        if self._enabled(1):
            self._put([Record(record.time_us, attrs.evolve(record.flow, tag=tag), record.buf)])

    def intercept(self, records: Sequence[Record]) -> None:
        """Store records, unless not enabled, or dropped by the event route.

        Raises:
            ClosedError: after ``close``.
        """
        if not self._enabled(len(records)):
            return
        if self._runs_route:
            records = self._route.filter(records)
        self._put(records)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all records so far are stored, or given up, in every backend.

        Args:
            timeout: seconds to wait at the most.

        Returns:
            False when the time ran out.
        """
        done: list[threading.Event] = []
        handed_on = threading.Event()

        def ask() -> None:
            done.extend(self._dispatcher.flush())
            handed_on.set()

        self._intake.order(ask)
        end = None if timeout is None else self._clock.monotonic() + timeout
        if not handed_on.wait(timeout):
            return False
        return all(event.wait(None if end is None else max(0.0, end - self._clock.monotonic())) for event in done)

    def rotate(self) -> None:
        """Seal the open segment now; the next record opens a new one."""
        self._intake.order(self._dispatcher.rotate)

    def stats(self) -> Stats:
        """Give the numbers so far."""
        with self._counts:
            counts = (self._received, self._disabled)
            dropped = self._queue_dropped
        route = self._route
        lanes = {lane.backend.name: lane.snapshot() for lane in self._dispatcher.lanes}
        times = (route.calls, route.total_ns // 1000, route.max_ns // 1000, route.slow)
        return Stats(*counts, route.dropped, route.errors, *times, dropped, lanes)

    @property
    def backends(self) -> list[Backend]:
        """The backends that are switched on."""
        return [lane.backend for lane in self._dispatcher.lanes]

    def close(self, timeout: float = 30.0) -> bool:
        """Store what waits, seal the segments, and end. Further calls do nothing.

        Args:
            timeout: seconds to wait for backends that do not return.

        Returns:
            True when all that waited is stored; else it is counted as dropped.
        """
        if not self._closed.acquire(blocking=False):
            return True
        atexit.unregister(self.close)
        self._closing.set()
        end = self._clock.monotonic() + timeout
        if not self._intake.close(timeout / 2):
            self._dispatcher.hurry()
            self._intake.close(timeout / 2)
        return self._dispatcher.close(max(0.0, end - self._clock.monotonic()))

    def _one(
        self, tag: str, buf: bytes | bytearray | memoryview, src: Address, dst: Address, proto: str,
        time_us: int | None, pid: int | None, procno: int | None, node: str,
    ) -> None:  # fmt: skip
        if pid is None or procno is None:
            own_pid, own_procno = self._whoami()
            pid = own_pid if pid is None else pid
            procno = own_procno if procno is None else procno
        if time_us is not None and not 0 <= time_us < _TIME_LIMIT:
            raise ValueError(f"time_us must be microseconds since the epoch, up to the year 2106, not {time_us}")
        key = (tag, src[0], src[1], dst[0], dst[1], proto, pid, procno, node)
        flow = self._flows.get(key) or self._make_flow(key)
        if time_us is None:
            time_us = int(self._clock.time() * 1e6)
        self.intercept([Record(time_us, flow, bytes(buf))])

    def _make_flow(self, key: tuple[Any, ...]) -> Flow:
        tag, src_host, src_port, dst_host, dst_port, proto, pid, procno, node = key
        (af, src_ip), (dst_af, dst_ip) = canonical_ip(src_host), canonical_ip(dst_host)
        # a socket that is bound to every address of one family may bring messages of the other
        if af != dst_af and dst_ip == _UNSPECIFIED[dst_af]:
            dst_af, dst_ip = af, _UNSPECIFIED[af]
        elif af != dst_af and src_ip == _UNSPECIFIED[af]:
            af, src_ip = dst_af, _UNSPECIFIED[dst_af]
        if af != dst_af:
            raise ValueError(f"source {src_host} and destination {dst_host} must be of one address family")
        flow = Flow(tag, pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port, node)
        if len(self._flows) >= _CACHE_LIMIT:
            self._flows.clear()
        if (pid, procno) != self._whoami():
            self.table.add(procno, pid, node or "process")
        self._flows[key] = flow
        return flow

    def _whoami(self) -> tuple[int, int]:
        """Give this process's id and this thread's rank; a new thread gets a row in ``.meta``."""
        pid = os.getpid()
        if getattr(self._who, "pid", None) != pid:
            self._who.procno = self.table.enter(pid, f"thread {threading.current_thread().name}")
            self._who.pid = pid
        return pid, self._who.procno

    def _enabled(self, count: int) -> bool:
        if self._forked:
            raise ClosedError(
                "this SipDump belongs to the process that made it: make one in each process, after the fork"
            )
        if self._closing.is_set():
            raise ClosedError("sipdump is closed: no more records are taken")
        with self._counts:
            if self.enable:
                self._received += count
            else:
                self._disabled += count
        return self.enable

    def _put(self, records: Sequence[Record]) -> None:
        if not records or not self._sinks:
            return
        dropped = self._intake.put(records, block=self.block)
        if dropped:
            with self._counts:
                self._queue_dropped += dropped
            self._log.warn("queue", "queue full, records dropped", count=dropped)

    def _prune_for_ever(self) -> None:
        """Prune at start and every 600 s, each backend in a thread of its own: a slow store holds up no other."""
        running: dict[str, threading.Thread] = {}
        while True:
            backends, _ = self.workshop.keepers()
            for backend in backends:
                if backend.name not in running or not running[backend.name].is_alive():
                    thread = threading.Thread(target=self._prune, args=(backend,), daemon=True)
                    running[backend.name] = thread
                    thread.start()
            if self._closing.wait(PRUNE_INTERVAL):
                return

    def _prune(self, backend: Backend) -> None:
        def each(pruned: Pruned) -> None:
            tell_pruned(pruned)
            if self._closing.is_set():
                raise ClosedError("sipdump is closed: the rest is pruned at the next start")

        for summary in prune_all([backend], self.params.retention, each, now=self._clock.time()):
            if summary.errors and not self._closing.is_set():
                self._log.warn("prune", "prune failed", backend=backend.name, error=summary.errors[-1])


def _forget(dump: SipDump | None) -> None:
    """In a forked child: it has none of the threads, and the open files are its parent's."""
    if dump is not None and not dump._forked:
        dump._forked = True
        atexit.unregister(dump.close)
        dump._closed.acquire(blocking=False)
        for backend in dump.backends:
            try:
                backend.forget()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a driver may fail in any way, and must fail alone
                log.warning(
                    Event("backend failed", backend=backend.name, operation="forget", error=kind_and_text(error))
                )


def _settings(module: str, name: str, value: Any) -> list[Setting]:
    values = value if isinstance(value, (list, tuple)) else (value,)
    plain = [os.fspath(v) if isinstance(v, os.PathLike) else int(v) if isinstance(v, bool) else v for v in values]
    return [Setting(module, name, v, f"SipDump({name}={value!r})") for v in plain]

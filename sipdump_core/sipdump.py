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
from sipdump_core.errors import ClosedError
from sipdump_core.flows import Address, Flows
from sipdump_core.lifecycle.caps import Caps, CapStats, Limits
from sipdump_core.lifecycle.pruner import Pruner
from sipdump_core.log import Event, Limit, log
from sipdump_core.pipeline.dispatcher import Dispatcher
from sipdump_core.pipeline.filters import Filters, FilterStats
from sipdump_core.pipeline.intake import Intake
from sipdump_core.pipeline.numbers import LaneStats
from sipdump_core.pipeline.spool import counted_folders
from sipdump_core.plan import Plan, make_plan
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Record, new_record
from sipdump_core.redaction import REDACTED
from sipdump_core.routes.event_route import Callback, EventRoute
from sipdump_core.settings.core import MODE_EVENT_ROUTE
from sipdump_core.settings.options import Setting, may_be_secret
from sipdump_core.workshop import Workshop

__all__ = ["SipDump", "Stats"]

_MIN_GATHER = 0.02
_TIME_LIMIT = 2**32 * 1_000_000


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
    """How often the event route raised."""
    route_calls: int
    """How often the event route ran."""
    route_total_us: int
    """Microseconds that it took in total; sources wait that long."""
    route_max_us: int
    """Microseconds that its longest run took."""
    route_slow: int
    """Runs that took longer than 10,000 microseconds."""
    queue_dropped: int
    """Records that found the queue full."""
    backends: dict[str, LaneStats]
    """By the backend's name."""
    filters: dict[str, FilterStats] = attrs.field(factory=dict)
    """By the filter's name, in the order in which records go through."""
    caps: CapStats = attrs.field(factory=CapStats)
    """What the caps ``max_bytes`` and ``min_free`` have done."""


class SipDump:
    """Stores SIP messages: in text, in pcap, in whatever its parameters switch on.

    ::

        with SipDump(enable=1, mode=13, folder="/var/spool/sip") as dump:
            dump.received(b"OPTIONS sip:a@b SIP/2.0...", ("192.0.2.1", 5060), ("192.0.2.2", 5060), "udp")

    All methods may be called from any thread. It works as soon as it is made; ``close``, or leaving the ``with`` block,
    stores what still waits and seals the segments.

    Args:
        settings: modparams, as read from a configuration file.
        backend_options: options of backends by name, as ``{"text": {...}}``.
        params: the parameters of ``modparam("sipdump", ...)`` by name; a repeatable one takes a sequence.
        plan: a plan that is ready; settings, backend options and parameters are ignored then.
        table: the process table for ``.meta`` files.
        clock: the time.
        default_queue_full: what a full queue means when ``queue_full`` is not set: ``block`` or ``drop``.
        start_pruning: prune from now on, at once and every 600 s; else when ``start_pruning`` is called.

    Raises:
        ConfigError: a parameter is wrong, see :class:`~sipdump_core.settings.core.Params`.
        DriverError: none of the backends can be used, or one of the filters cannot.
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
        self.workshop = workshop = Workshop(plan)
        self.params = plan.params
        self.enable = bool(plan.params.enable)
        self._clock = clock or Clock()
        self.table = table or ProcessTable(self._clock.time())
        self.block = (plan.params.queue_full or default_queue_full) == "block"
        self._route = EventRoute(plan.route(self.send) if plan.route else None)
        self._runs_route = bool(plan.params.mode & MODE_EVENT_ROUTE)
        self._filters = Filters(workshop.filters())
        self._flows = Flows(self.table)
        self._counts = threading.Lock()
        self._received = self._disabled = self._queue_dropped = 0
        self._log = Limit()
        site = workshop.site(meta=self.table.render)
        self._dispatcher = Dispatcher(
            plan.params, workshop.backends(site), site, self.table, block=self.block, clock=self._clock
        )
        self._sinks = bool(self._dispatcher.lanes)
        gather = 0.0 if plan.params.wait_mode else max(plan.params.wait / 1e6, _MIN_GATHER)
        self._intake = Intake(self._dispatcher, plan.params.queue, plan.params.queue_bytes, gather)
        self._pruner = Pruner(lambda: workshop.keepers()[0], plan.params.retention, self._clock, plan.params.rules)
        self._caps = Caps(
            lambda: workshop.keepers()[0],
            lambda: self.backends,
            counted_folders(site.folder, site.prefix, self.backends),
            Limits(plan.params.cap, *plan.params.free),
            site.rotate,
            self._clock.time,
        )
        self._dispatcher.sealed = self._caps.wake
        self._closing = False
        self._closed = threading.Lock()
        self._forked = False
        for notice in plan.notices:
            log.warning(notice.event())
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
        if self.params.retention or self.params.keep:
            self._pruner.start()
        self._caps.start()

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

        The filters do, also where the record has gone through them already.

        Raises:
            ValueError: the tag has control characters.
            ClosedError: after ``close``.
        """
        if self._enabled(1):
            self._put(self._filters.all([attrs.evolve(record, flow=attrs.evolve(record.flow, tag=tag))]))

    def intercept(self, records: Sequence[Record]) -> None:
        """Store records, unless not enabled, or dropped by a filter or the event route.

        Raises:
            ClosedError: after ``close``.
        """
        if not self._enabled(len(records)):
            return
        records = self._filters.before_route(records)
        if self._runs_route:
            records = self._route.filter(records)
        self._put(self._filters.after_route(records))

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all records so far are stored, or given up, in every backend.

        Args:
            timeout: seconds to wait at most.

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
        """Return the numbers so far."""
        route = self._route
        lanes = {lane.backend.name: lane.snapshot() for lane in self._dispatcher.lanes}
        filters = self._filters.stats()
        with self._counts:
            return Stats(
                received=self._received,
                disabled=self._disabled,
                route_dropped=route.dropped,
                route_errors=route.errors,
                route_calls=route.calls,
                route_total_us=route.total_ns // 1000,
                route_max_us=route.max_ns // 1000,
                route_slow=route.slow,
                queue_dropped=self._queue_dropped,
                backends=lanes,
                filters=filters,
                caps=attrs.evolve(self._caps.stats),
            )

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
        self._closing = True
        self._pruner.stop()
        self._caps.stop()
        lost = 0
        end = self._clock.monotonic() + timeout
        if not self._intake.close(timeout / 2):
            self._dispatcher.hurry()
            if not self._intake.close(timeout / 2):
                lost = self._intake.abandon()
        self._filters.close()
        ended = self._dispatcher.close(max(0.0, end - self._clock.monotonic()))
        if lost:
            with self._counts:
                self._queue_dropped += lost
            log.error(Event("records dropped: the writer did not end in time", count=lost))
        return ended and not lost

    def _one(
        self, tag: str, buf: bytes | bytearray | memoryview, src: Address, dst: Address, proto: str,
        time_us: int | None, pid: int | None, procno: int | None, node: str,
    ) -> None:  # fmt: skip
        if time_us is not None and not 0 <= time_us < _TIME_LIMIT:
            raise ValueError(f"time_us must be microseconds since the epoch, up to the year 2106, not {time_us}")
        flow = self._flows.flow(tag, src, dst, proto, pid, procno, node)
        if time_us is None:
            time_us = int(self._clock.time() * 1e6)
        self.intercept([new_record(time_us, flow, bytes(buf))])

    def _enabled(self, count: int) -> bool:
        if self._forked:
            raise ClosedError(
                "this SipDump belongs to the process that made it: make one in each process, after the fork"
            )
        if self._closing:
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


def _forget(dump: SipDump | None) -> None:
    """In a forked child: it has none of the threads, and the open files are its parent's."""
    if dump is not None and not dump._forked:
        dump._forked = True
        atexit.unregister(dump.close)
        dump._closed.acquire(blocking=False)
        dump._dispatcher.forget()


def _settings(module: str, name: str, value: Any) -> list[Setting]:
    values = value if isinstance(value, (list, tuple)) else (value,)
    plain = [os.fspath(v) if isinstance(v, os.PathLike) else int(v) if isinstance(v, bool) else v for v in values]
    shown = REDACTED if may_be_secret(module, name) else repr(value)
    return [Setting(module, name, v, f"SipDump({name}={shown})") for v in plain]
